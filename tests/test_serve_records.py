"""A patient's record over HTTP: its digest before the question, the answer held against it, no patient named."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import Server, api_server
from test_fhir import allergy, bundle, medication, result
from test_serve_api import asked, chat, picture, refused, streamed, text_of, user
from test_serve_api import url as image_url

import edgekit
from edgekit.inputs.fhir import cite
from edgekit.inputs.message import Message
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.records import digest_of, kept_to, read_record, told_json

RECORD = bundle(*(medication(n) for n in range(3)), allergy(1), *(result(n, 5 + n, f"202{n}-01-01") for n in range(5)))
QUESTION = "Which medications are active?"


@pytest.fixture(scope="module")
def server(medgemma_artifact: Path) -> Iterator[Server]:
    with api_server([medgemma_artifact]) as running:
        yield running


def url(data: bytes) -> str:
    return f"data:application/fhir+json;base64,{base64.b64encode(data).decode()}"


def test_an_answer_about_a_record_is_the_one_that_python_gives(server: Server, medgemma_artifact: Path) -> None:
    answer = chat(server, user(QUESTION), record=url(RECORD), max_tokens=40)
    (choice,) = answer["choices"]
    with edgekit.open(medgemma_artifact, context=4096) as model:
        decoding = GenerationOptions(max_tokens=40)
        about = read_record(RECORD, QUESTION, "the record")
        digest = digest_of(about, model, [], decoding)
        *_, own = model.generate([Message("user", cite.prompt(digest, QUESTION))], kept_to(digest, decoding))
    assert choice["message"]["content"] == own.text
    assert choice["record"] == json.loads(json.dumps(told_json(digest, own.text, about.notes)))
    assert {*choice["record"]["resources"].values()} >= {f"MedicationRequest/m{n}" for n in range(3)}
    assert "anary" not in json.dumps(answer)


def test_a_stream_says_it_at_its_end(server: Server) -> None:
    whole = chat(server, user(QUESTION), record=url(RECORD), max_tokens=10)
    chunks = streamed(server, messages=user(QUESTION), record=url(RECORD), max_tokens=10)
    last = [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["finish_reason"]]
    assert [one["record"] for one in last] == [whole["choices"][0]["record"]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == text_of(whole)


def test_earlier_turns_count_and_stay(server: Server) -> None:
    """What was said before takes room from the record, and is not said twice."""
    messages = [*user("Hello. " * 30), {"role": "assistant", "content": "Hello."}, *user(QUESTION)]
    alone, later = (chat(server, one, record=url(RECORD), max_tokens=4) for one in (user(QUESTION), messages))
    assert later["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]
    assert later["choices"][0]["record"]["lines"] <= alone["choices"][0]["record"]["lines"]


def test_who_names_no_budget_gets_an_answer(server: Server) -> None:
    answer = chat(server, user(QUESTION), record=url(RECORD), stop=["."])
    assert answer["choices"][0]["record"]["lines"] > 3


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ("data:application/fhir+json;base64,!", "no base64"),
        ("https://clinic/Patient/1", "fetches nothing"),
        (url(b"\x89PNG"), "a record of"),
        (url(b"{"), "record"),
        (url(b'{"resourceType": "Patient"}'), "a Patient"),
        (url(bundle(*(medication(n) for n in range(3000)))), "active medications and allergies alone"),
        (7, "record"),
    ],
)
def test_what_is_no_record_is_refused(server: Server, record: Any, match: str) -> None:
    error = refused(server, "/v1/chat/completions", messages=user(QUESTION), record=record, max_tokens=4)
    assert match in json.dumps(error)
    assert "anary" not in json.dumps(error)


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
)
def test_an_answer_has_one_form(server: Server, more: dict[str, Any]) -> None:
    error = refused(server, "/v1/chat/completions", messages=user(QUESTION), record=url(RECORD), **more)
    assert error["param"] == "record"


def test_other_routes_take_no_record(server: Server) -> None:
    """In silence it would be left out, and the answer be about nobody."""
    for path, given in (("/v1/responses", {"input": QUESTION}), ("/v1/completions", {"prompt": QUESTION})):
        assert refused(server, path, **given, record=url(RECORD))["param"] == "record"


def test_an_image_and_a_record(server: Server) -> None:
    part = {"type": "image_url", "image_url": {"url": image_url(picture())}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]
    answer = asked(server, "/v1/chat/completions", messages=messages, record=url(RECORD), max_tokens=4)
    assert answer["choices"][0]["record"]["lines"] > 3
