"""The API's routes on a real socket: answers are the model's own, in every form that clients ask in; else one error."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from api_server import Server, api_server
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from starlette.requests import Request as HttpRequest

import edgekit
from edgekit import Image, Message
from edgekit.errors import InputError, UsageError
from edgekit.runtime.model import Model
from edgekit.serve.api import streaming
from edgekit.serve.api.handed_over import HandedOver, UnknownImage
from edgekit.serve.api.reading import UNSUPPORTED, ParameterError
from edgekit.serve.api.sampling import Sampling
from edgekit.serve.api.serving import Serving
from edgekit.serve.api.tools import CallReader
from edgekit.serve.engines.pool import Engines
from edgekit.serve.engines.served import served

CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "of a city", "parameters": CITY}}]
# Random words without an end, which no rule against repetition stops.
LONG = {"temperature": 3.0, "seed": 1, "logit_bias": {"1": -100, "5": -100}, "max_tokens": 3500}


@pytest.fixture(scope="module")
def server(medgemma_artifact: Path, medsiglip_artifact: Path) -> Iterator[Server]:
    with api_server([medgemma_artifact, medsiglip_artifact]) as started:
        yield started


@pytest.fixture(scope="module")
def model(medgemma_artifact: Path) -> Iterator[Model]:
    with edgekit.open(medgemma_artifact, context=4096) as opened:
        yield opened


def picture(seed: int = 0, format_: str = "PNG", size: int = 96) -> bytes:
    written = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Pillow.fromarray(values).save(written, format_)
    return written.getvalue()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def call(server: Server, method: str, path: str, document: Any = None) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    body = None if document is None else json.dumps(document)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    said = answer.status, answer.headers["content-type"] or "", answer.read()
    connection.close()
    return said


def asked(server: Server, path: str, **document: Any) -> Any:
    status, _, body = call(server, "POST", path, {"model": "medgemma", **document})
    assert status == 200, body
    return json.loads(body)


def refused(server: Server, path: str, **document: Any) -> dict[str, Any]:
    """The error of a request that must be refused as the client's mistake."""
    status, _, body = call(server, "POST", path, {"model": "medgemma", **document})
    error = json.loads(body)["error"]
    assert 400 <= status < 500, body
    assert error.keys() == {"message", "type", "param", "code"}
    return {**error, "status": status}


def events(body: bytes) -> list[Any]:
    """The documents of a stream, which must end as streams end."""
    *said, done, nothing = body.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(one.removeprefix("data: ")) for one in said if one != ": ping"]


def streamed(server: Server, path: str = "/v1/chat/completions", **document: Any) -> list[Any]:
    status, kind, body = call(server, "POST", path, {"model": "medgemma", "stream": True, **document})
    assert status == 200, body
    assert kind.startswith("text/event-stream")
    return events(body)


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": parts[0] if parts == (parts[0],) and isinstance(parts[0], str) else [*parts]}]


def chat(server: Server, messages: Any, **more: Any) -> Any:
    return asked(server, "/v1/chat/completions", messages=messages, **{"max_tokens": 12, **more})


def text_of(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def calls(*ids: str) -> list[dict[str, Any]]:
    """Of one function, with an argument that tells them apart."""
    return [
        {"id": id_, "type": "function", "function": {"name": "dose", "arguments": json.dumps({"number": place})}}
        for place, id_ in enumerate(ids)
    ]


def called(id_: str, arguments: str = "{}", *, answered: bool = True) -> list[dict[str, Any]]:
    call_ = {"id": id_, "type": "function", "function": {"name": "dose", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": id_, "content": "5 mg"}
    return [{"role": "assistant", "content": None, "tool_calls": [call_]}, *([result] if answered else [])]


NO_ARGUMENTS = ('{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": 1, "a": 2}', "[]", "{")


def own(model: Model, *messages: Message, max_tokens: int = 12) -> Any:
    *_, answer = model.generate(messages, max_tokens=max_tokens)
    return answer


def test_an_answer_about_an_image_is_the_models_own(server: Server, model: Model) -> None:
    data = picture()
    expected = own(model, Message("user", "What is it?", Image(data)))
    for shown in ({"url": url(data), "detail": "high"}, url(data)):
        answer = chat(server, user({"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": shown}))
        assert text_of(answer) == expected.text
        assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
        assert answer["choices"][0]["finish_reason"] == ("length" if expected.truncated else "stop")
        assert answer["timings"]["predicted_n"] == expected.output_tokens
        assert any("stand-in" in text for text in answer["warnings"])


def test_a_stream_says_the_same_piece_by_piece(server: Server) -> None:
    asked_ = {"messages": user("Describe a cough."), "max_tokens": 20, "logprobs": True, "top_logprobs": 2}
    whole = asked(server, "/v1/chat/completions", **asked_)
    chunks = streamed(server, **asked_)
    assert all(len(chunk["choices"]) == 1 and "usage" not in chunk for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == text_of(whole)
    last = chunks[-1]
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["timings"]["predicted_n"] == whole["usage"]["completion_tokens"]
    likely = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert [one["token"] for one in likely] == [one["token"] for one in whole["choices"][0]["logprobs"]["content"]]
    assert all(len(one["top_logprobs"]) == 2 for one in likely)
    assert b"".join(bytes(one["bytes"]) for one in likely).decode().strip() == text.strip()


def test_a_speed_that_nobody_measured_is_none(server: Server) -> None:
    one = chat(server, user("Hi"), max_tokens=1)["timings"]
    assert one["predicted_n"] == 1
    assert one["predicted_per_second"] is None, "of no token behind the first"
    assert chat(server, user("Describe a cough."), max_tokens=5)["timings"]["predicted_per_second"] > 0


def test_usage_comes_once_and_only_when_asked(server: Server) -> None:
    chunks = streamed(server, messages=user("Hi"), max_tokens=3, stream_options={"include_usage": True})
    *said, last = chunks
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]
    assert not any("usage" in chunk for chunk in said)


def test_system_texts_become_one_and_turns_of_one_speaker_too(server: Server, model: Model) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "developer", "content": "In English."},
        {"role": "user", "content": "d"},
    ]
    turns = [Message("user", "a\n\nb"), Message("assistant", "c"), Message("user", "d")]
    expected = own(model, Message("system", "Be brief.\n\nIn English."), *turns)
    answer = chat(server, messages)
    assert (text_of(answer), answer["usage"]["prompt_tokens"]) == (expected.text, expected.prompt_tokens)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("Hi", "messages"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "messages"),
        ([{"role": "narrator", "content": "a"}], "messages.0.role"),
        ([{"content": "a"}], "messages.0.role"),
        ([{"role": "user", "content": 3}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "messages.0.content.0"),
        (user({"type": "image_url", "image_url": "https://a.example/b.png"}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": "file:///etc/passwd"}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": {"url": 3}}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": "data:image/png;base64,?"}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": "data:image/png,a"}), "messages.0.content.0.image_url"),
        ([{"role": "tool", "tool_call_id": "a", "content": "b"}], "messages.0.tool_call_id"),
        # An image, a question or a turn that is passed over in silence is answered about all the same.
        ([{"role": "user", "content": "Well?", "images": ["iVBORw0KGgo="]}], "messages.0.images"),
        (user({"type": "text", "text": "Well", "image_url": url(picture())}), "messages.0.content.0.image_url"),
        (user({"type": "image_url", "image_url": url(picture()), "text": "Well?"}), "messages.0.content.0.text"),
        (
            [{"role": "assistant", "content": None, "function_call": {"name": "a", "arguments": "{}"}}],
            "messages.0.function_call",
        ),
        ([{"role": "assistant", "content": None, "refusal": "No."}], "messages.0.refusal"),
        ([{"role": "user", "content": "a", "tool_calls": calls("a")}], "messages.0.tool_calls"),
        ([{"role": "assistant", "content": None, "tool_calls": calls("a", "a")}], "messages.0.tool_calls"),
        ([{"role": "assistant", "content": None, "tool_calls": calls("a")}, *user("So?")], "messages.0.tool_calls"),
        ([*called("a"), *called("b", answered=False), *user("So?")], "messages.2.tool_calls"),
        ([*called("a", answered=False), *called("a")], "messages.1.tool_calls"),
        ([*called("a"), {"role": "tool", "tool_call_id": "a", "content": "5 mg"}], "messages.2.tool_call_id"),
        *[(called("a", arguments=wrong), "messages.0.tool_calls") for wrong in NO_ARGUMENTS],
        (
            user({"type": "image_url", "image_url": {"url": url(picture()), "detail": "original"}}),
            "messages.0.content.0.image_url.detail",
        ),
    ],
)
def test_messages_that_are_none_are_refused_by_their_place(server: Server, messages: Any, param: str) -> None:
    assert refused(server, "/v1/chat/completions", messages=messages)["param"] == param


@pytest.mark.parametrize(("detail", "said"), [(None, 0), ("auto", 0), ("low", 1), ("high", 1)])
def test_a_detail_that_has_no_effect_is_said(server: Server, detail: str | None, said: int) -> None:
    image = {"url": url(picture()), **({"detail": detail} if detail else {})}
    messages = user({"type": "image_url", "image_url": image}, {"type": "text", "text": "Well?"})
    last = streamed(server, messages=messages, max_tokens=1)[-1]
    flat = {"type": "input_image", "image_url": image["url"], "detail": detail}
    answers = [
        chat(server, messages, max_tokens=1),
        last,
        asked(server, "/v1/responses", input=user(flat, {"type": "input_text", "text": "?"}), max_output_tokens=1),
        asked(server, "/v1/classify", model="medsiglip", image=image, labels=["a", "b"]),
        asked(server, "/v1/embeddings", model="medsiglip", input=[{"image": image}]),
    ]
    for answer in answers:
        assert sum("the detail of an image has no effect" in text for text in answer["warnings"]) == said


def test_one_id_may_name_two_calls_one_after_the_other(server: Server) -> None:
    chat(server, [*user("Which dose?"), *called("a"), *called("a")])


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_would_change_the_answer_and_does_not_is_refused(server: Server, name: str) -> None:
    error = refused(server, "/v1/chat/completions", messages=user("Hi"), max_tokens=1, **{name: {"a": 1}})
    assert error["param"] == name
    assert "would change the answer" in error["message"]
    for neutral in (None, *UNSUPPORTED[name]):
        chat(server, user("Hi"), max_tokens=1, **{name: neutral})


def test_what_changes_nothing_is_ignored(server: Server) -> None:
    ignored = {"user": "a", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "x": None}
    said = chat(server, user("Hi"), max_tokens=1, chat_template_kwargs={"enable_thinking": False}, **ignored)
    assert not any("ignored" in text for text in said["warnings"])


def test_a_misspelled_parameter_is_named_beside_the_answer(server: Server) -> None:
    misspelled = {"temprature": 1, "max_token": 5, "x" * 5000: 1, "\n\x1b[2J": 1, "a": 1, "b": 1, "c": 1}
    question = {"messages": user("Hi"), "max_tokens": 1}
    pixel = url(picture())
    whole = [
        asked(server, "/v1/chat/completions", **question, **misspelled),
        streamed(server, **question, **misspelled)[-1],
        asked(server, "/v1/completions", prompt="Hi", max_tokens=1, **misspelled),
        asked(server, "/v1/responses", input="Hi", max_output_tokens=16, **misspelled),
        asked(server, "/v1/embeddings", model="medsiglip", input="Hi", **misspelled),
        asked(server, "/v1/classify", model="medsiglip", image=pixel, labels=["a"], **misspelled),
        asked(server, "/v1/images", image=pixel, **misspelled),
    ]
    for answer in whole:
        (said,) = [text for text in answer["warnings"] if "ignored" in text]
        assert said.isprintable()
        assert len(said) < 300
        assert said.endswith("and 2 more")
    said = chat(server, user("Hi"), max_tokens=1, temprature=1)["warnings"]
    assert "ignored, as parameters that are not known here: temprature" in said


@pytest.mark.parametrize("name", ["choice", "guided_choice"])
def test_a_choice_is_refused_with_what_to_use_instead(server: Server, name: str) -> None:
    error = refused(server, "/v1/chat/completions", messages=user("Hi"), **{name: ["yes", "no"]})
    assert error["param"] == name
    assert '"enum"' in error["message"]
    form = {"type": "json_schema", "json_schema": {"name": "choice", "schema": {"enum": ["yes", "no"]}}}
    assert json.loads(text_of(chat(server, user("Hi"), response_format=form))) in ("yes", "no")


def test_what_to_use_instead_is_of_the_route_that_was_asked(server: Server) -> None:
    for name, instead in (("max_tokens", "max_output_tokens"), ("response_format", "text: {"), ("choice", "text: {")):
        error = refused(server, "/v1/responses", input="Hi", **{name: 5})
        assert (error["param"], f"try: {instead}" in error["message"]) == (name, True)
    error = refused(server, "/v1/embeddings", model="medsiglip", input="Hi", image="data:")
    assert 'try: input: [{"image"' in error["message"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"messages": []}, "messages: empty; allowed: one or more"),
        ({"max_tokens": "5"}, "max_tokens: no whole number; allowed: a whole number"),
        ({"stop": 5}, "stop: of another type; allowed: a text, or a list"),
        ({"n": 65}, "n: too large; allowed: 64 or less"),
        ({"stream": "yes"}, "stream: no truth value; allowed: true or false"),
        ({"messages": [{"content": "a"}]}, "messages.0.role: missing; allowed: a value, which is needed here"),
    ],
)
def test_a_value_of_another_type_is_said_in_our_words(server: Server, wrong: Any, said: str) -> None:
    assert refused(server, "/v1/chat/completions", **{"messages": user("Hi"), **wrong})["message"] == said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "1"),
        ("temperature", -1),
        ("top_p", 0),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("n", 0),
        ("n", 100000000),
        ("stop", [1]),
        ("stop", ["a"] * 20),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 1000}),
        ("top_logprobs", 2),
        ("seed", -1),
        ("stream", "yes"),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "a"}}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "text"}}}),
        ("tools", [{"type": "code"}]),
        ("tools", [{"type": "function", "function": {"name": "no name", "parameters": CITY}}]),
        ("tools", [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "a"}}),
        ("reasoning_effort", "extreme"),
        ("tools", [*TOOLS, *TOOLS]),
    ],
)
def test_wrong_values_are_refused(server: Server, name: str, value: Any) -> None:
    said = refused(server, "/v1/chat/completions", messages=user("Hi"), **{"max_tokens": 2, name: value})
    assert said["status"] == 400


def test_a_prompt_that_is_too_long_says_by_how_much(server: Server) -> None:
    error = refused(server, "/v1/chat/completions", messages=user("word " * 5000))
    found = re.search(r"a prompt of (\d+) tokens, (\d+) too many", error["message"])
    assert found
    assert int(found[1]) - int(found[2]) == 4096
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    nearly = refused(server, "/v1/chat/completions", messages=user("word " * 3000))
    assert re.search(r"--context \d+ or more where it is opened or served", nearly["message"])
    assert refused(server, "/v1/completions", prompt="word " * 5000)["param"] == "prompt"
    assert refused(server, "/v1/responses", input="word " * 5000)["param"] == "input"


@pytest.mark.parametrize(
    ("path", "wrong", "param"),
    [
        ("/v1/chat/completions", {"temperature": -1}, "temperature"),
        ("/v1/chat/completions", {"max_completion_tokens": 0}, "max_completion_tokens"),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 30}, "top_logprobs"),
        ("/v1/chat/completions", {"n": 2}, "n"),
        ("/v1/chat/completions", {"logit_bias": {"1": 1000}}, "logit_bias"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_object", "schema": {"type": "x"}}},
            "response_format",
        ),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ("/v1/chat/completions", {"messages": user({"type": "image_url", "image_url": "data:;base64,R0lGODlh"})},
         "messages.0.content.0.image_url"),
        ("/v1/completions", {"logprobs": 30}, "logprobs"),
        ("/v1/responses", {"max_output_tokens": 0}, "max_output_tokens"),
    ],
)  # fmt: skip
def test_an_error_of_the_engine_names_the_routes_own_parameter(
    server: Server, path: str, wrong: dict[str, Any], param: str
) -> None:
    question = {"/v1/completions": {"prompt": "Hi"}, "/v1/responses": {"input": "Hi"}}
    said = refused(server, path, **{**question.get(path, {"messages": user("Hi")}), **wrong})
    assert said["param"] == param


def test_who_cannot_think_is_told_by_the_parameters_name(server: Server) -> None:
    error = refused(server, "/v1/chat/completions", messages=user("Hi"), reasoning_effort="high")
    assert error["param"] == "reasoning_effort"
    assert "cannot think" in error["message"]
    assert "leave it out" in error["message"]
    error = refused(server, "/v1/responses", input="Hi", reasoning={"effort": "high"})
    assert error["param"] == "reasoning.effort"


def test_a_budget_of_minus_one_is_no_limit(server: Server) -> None:
    question = {"messages": user("Describe a cough."), "seed": 1}
    without = asked(server, "/v1/chat/completions", **question)
    for name in ("max_tokens", "max_completion_tokens"):
        assert text_of(asked(server, "/v1/chat/completions", **question, **{name: -1})) == text_of(without)
    asked(server, "/v1/completions", prompt="A cough is", max_tokens=-1)
    assert [Sampling(max_tokens=most).options(16, 4096)["max_tokens"] for most in (None, 5, -1)] == [16, 5, 4096]
    asked(server, "/v1/responses", input="Hi", max_output_tokens=-1)
    assert refused(server, "/v1/chat/completions", messages=user("Hi"), max_tokens=-2)["param"] == "max_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_satisfies_its_schema(server: Server, stream: bool) -> None:
    question = {"messages": user("How is the weather?"), "tools": TOOLS, "tool_choice": "required", "max_tokens": 400}
    if stream:
        calls: dict[int, dict[str, str]] = {}
        *chunks, last = streamed(server, **question)
        for chunk in chunks:
            for delta in chunk["choices"][0]["delta"].get("tool_calls", []):
                one = calls.setdefault(delta["index"], {"id": delta.get("id", ""), "name": "", "arguments": ""})
                one["name"] += delta["function"].get("name", "")
                one["arguments"] += delta["function"]["arguments"]
        assert last["choices"][0]["finish_reason"] == "tool_calls"
        found = [calls[place] for place in sorted(calls)]
    else:
        choice = asked(server, "/v1/chat/completions", **question)["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        found = [{"id": one["id"], **one["function"]} for one in choice["message"]["tool_calls"]]
    assert found
    for one in found:
        assert one["name"] == "get_weather"
        assert one["id"].startswith("call_")
        jsonschema.validate(json.loads(one["arguments"]), {**CITY, "additionalProperties": False})


def test_what_a_function_returned_goes_on_with_the_conversation(server: Server, model: Model) -> None:
    function = {"name": "get_weather", "arguments": '{"city":"Rome"}'}
    messages = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "user", "content": "So?"},
    ]
    expected = own(
        model,
        Message("user", "How is it?"),
        Message("assistant", '{"name": "get_weather", "parameters": {"city": "Rome"}}'),
        Message("user", "get_weather returned:\nsunny\n\nSo?"),
    )
    answer = chat(server, messages)
    assert (text_of(answer), answer["usage"]["prompt_tokens"]) == (expected.text, expected.prompt_tokens)


def test_results_of_one_function_are_told_apart_whatever_their_order(server: Server, model: Model) -> None:
    messages = [
        {"role": "user", "content": "Which doses?"},
        {"role": "assistant", "content": None, "tool_calls": calls("a", "b")},
        {"role": "tool", "tool_call_id": "b", "content": "10 mg"},
        {"role": "tool", "tool_call_id": "a", "content": "5 mg"},
    ]
    first, second = (f'{{"name": "dose", "parameters": {{"number": {number}}}}}' for number in range(2))
    expected = own(
        model,
        Message("user", "Which doses?"),
        Message("assistant", f"{first}\n{second}"),
        Message("user", f"{second} returned:\n10 mg\n\n{first} returned:\n5 mg"),
    )
    answer = chat(server, messages)
    assert (text_of(answer), answer["usage"]["prompt_tokens"]) == (expected.text, expected.prompt_tokens)


def test_functions_may_be_left_alone(server: Server) -> None:
    answer = chat(server, user("Hi"), tools=TOOLS, max_tokens=30)["choices"][0]
    assert answer["message"].get("tool_calls") or answer["message"]["content"][0] not in '{["`'
    without = chat(server, user("Hi"), tools=TOOLS, tool_choice="none")
    assert without["usage"]["prompt_tokens"] == chat(server, user("Hi"))["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        {"type": "json_schema", "schema": CITY},
        {"type": "json_object", "schema": CITY},
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(server: Server, form: dict[str, Any]) -> None:
    closed = json.loads(json.dumps(form).replace('"required"', '"additionalProperties": false, "required"'))
    answer = chat(server, user("Which city?"), response_format=closed, max_tokens=200)
    assert json.loads(text_of(answer))["city"] in ("Paris", "Rome")


def test_text_is_text(server: Server) -> None:
    form = {"type": "text"}
    assert text_of(chat(server, user("Hi"), response_format=form)) == text_of(chat(server, user("Hi")))


def test_several_answers_and_stops(server: Server) -> None:
    drawn = {"messages": user("Name a sign."), "n": 2, "temperature": 1.0, "seed": 5, "max_tokens": 8}
    whole = asked(server, "/v1/chat/completions", **drawn)
    chunks = streamed(server, **drawn)
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(one["delta"].get("content", "") for one in mine) == choice["message"]["content"]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    text = text_of(chat(server, user("Describe a cough."), max_tokens=20))
    stop = text.split()[1]
    answer = chat(server, user("Describe a cough."), max_tokens=20, stop=stop)
    assert text_of(answer) == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_text_is_completed(server: Server, model: Model) -> None:
    *_, expected = model.complete("The lungs are", edgekit.GenerationOptions(max_tokens=9, top_logprobs=1))
    asked_ = {"prompt": "The lungs are", "max_tokens": 9, "logprobs": 1}
    answer = asked(server, "/v1/completions", **asked_)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == expected.text  # type: ignore[union-attr]
    chunks = streamed(server, "/v1/completions", **asked_, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == expected.text  # type: ignore[union-attr]
    assert chunks[-1]["usage"] == {
        **answer["usage"],
        "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"],
    }
    for wrong in ([1, 2], [[1, 2]], ["a", "b"], None, 3):
        assert refused(server, "/v1/completions", prompt=wrong)["param"] == "prompt"
    for name, value in {"echo": True, "suffix": "a", "best_of": 2}.items():
        assert refused(server, "/v1/completions", prompt="a", **{name: value})["param"] == name


def test_responses_are_chats_without_a_state(server: Server) -> None:
    expected = chat(server, [{"role": "system", "content": "Be brief."}, *user("What is it?")])
    answer = asked(server, "/v1/responses", input="What is it?", instructions="Be brief.", max_output_tokens=12)
    assert answer["output"][0]["content"][0]["text"] == text_of(expected)
    assert answer["usage"]["input_tokens"] == expected["usage"]["prompt_tokens"]
    for name, value in {"previous_response_id": "resp_1", "background": True, "truncation": "auto"}.items():
        assert refused(server, "/v1/responses", input="a", **{name: value})["param"] == name
    items = [{"type": "item_reference", "id": "a"}]
    assert refused(server, "/v1/responses", input=items)["param"] == "input.0.type"


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/v1/responses", "stop", ["a"]),
        ("/v1/responses", "seed", 1),
        ("/v1/responses", "n", 2),
        ("/v1/responses", "top_k", 4),
        ("/v1/responses", "max_tokens", 3),
        ("/v1/responses", "max_output_tokens", 0),
        ("/v1/responses", "response_format", {"type": "json_object"}),
        ("/v1/completions", "max_completion_tokens", 3),
        ("/v1/completions", "images", [url(picture())]),
        ("/v1/classify", "multi_label", False),
        ("/v1/classify", "template", "an X-ray of {}"),
        ("/v1/embeddings", "image", url(picture())),
        ("/v1/embeddings", "input", {"text": "a", "image": url(picture())}),
    ],
)
def test_what_a_route_does_not_read_is_refused_there(server: Server, path: str, name: str, value: Any) -> None:
    asks: dict[str, dict[str, Any]] = {
        "/v1/responses": {"model": "medgemma", "input": "Hi", "max_output_tokens": 1},
        "/v1/completions": {"model": "medgemma", "prompt": "Hi", "max_tokens": 1},
        "/v1/classify": {"model": "medsiglip", "image": url(picture()), "labels": ["a", "b"]},
        "/v1/embeddings": {"model": "medsiglip", "input": "a"},
    }
    asked(server, path, **asks[path])
    assert refused(server, path, **{**asks[path], name: value})["status"] == 400


def test_vectors_are_the_models_own(server: Server, medsiglip_artifact: Path) -> None:
    data = picture()
    inputs = ["nodule", {"text": "effusion"}, {"image": url(data)}, {"content": [{"type": "text", "text": "nodule"}]}]
    numbers = asked(server, "/v1/embeddings", model="medsiglip", input=inputs)
    coded = asked(server, "/v1/embeddings", model="medsiglip", input=inputs, encoding_format="base64")
    with edgekit.open(medsiglip_artifact) as model:
        texts, images = model.embed_text(["nodule", "effusion"]), model.embed_image([data])
    for place, row in enumerate([texts[0], texts[1], images[0], texts[0]]):
        assert numbers["data"][place]["embedding"] == pytest.approx(row, abs=1e-6)
        raw = base64.b64decode(coded["data"][place]["embedding"])
        assert struct.unpack(f"<{len(row)}f", raw) == pytest.approx(row, abs=1e-6)
    assert numbers["usage"]["prompt_tokens"] > 0
    assert any("stand-in" in text for text in numbers["warnings"])
    width = len(texts[0])
    asked(server, "/v1/embeddings", model="medsiglip", input="a", dimensions=width)
    assert refused(server, "/v1/embeddings", model="medsiglip", input="a", dimensions=7)["param"] == "dimensions"
    for wrong in ([1, 2], [[1, 2]], [], None, [None], [{"content": []}], [["a", "b"]], {"type": "video"}):
        assert refused(server, "/v1/embeddings", model="medsiglip", input=wrong)["param"].startswith("input")
    assert "check_embedding_ctx_length" in refused(server, "/v1/embeddings", model="medsiglip", input=[[1]])["message"]
    assert "cannot embed text" in refused(server, "/v1/embeddings", input="a")["message"]


def test_what_is_said_of_an_image_says_of_which(server: Server) -> None:
    deep = [io.BytesIO(), io.BytesIO()]
    for number, file in enumerate(deep):
        Pillow.fromarray(np.arange(9216, dtype=np.uint16).reshape(96, 96) // (number + 1)).save(file, "PNG")
    plain, *dark = picture(), *(file.getvalue() for file in deep)
    parts = [{"type": "image_url", "image_url": url(one)} for one in (plain, *dark)]
    chatted = chat(server, user(*parts, {"type": "text", "text": "Well?"}), max_tokens=1)["warnings"]
    classify = {"images": [url(one) for one in (plain, *dark)], "labels": ["a", "b"]}
    by_chat = asked(server, "/v1/classify", **classify)["warnings"]
    embedded = asked(server, "/v1/classify", model="medsiglip", **classify)["warnings"]
    for said in (chatted, by_chat, embedded):
        found = [text[:12] for text in said if "WRONG CONTRAST" in text]
        assert found == ["image 2 of 3", "image 3 of 3"]


def deep_picture() -> bytes:
    """Of 16 bits a pixel, and dark in them: values from 0 to 9215."""
    file = io.BytesIO()
    Pillow.fromarray(np.arange(9216, dtype=np.uint16).reshape(96, 96)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("range_", [[0, 9215], "auto", [2000.5, 4000]])
def test_a_range_beside_an_image_is_the_models_own(server: Server, model: Model, range_: Any) -> None:
    data = deep_picture()
    shown = Image(data, range="auto" if range_ == "auto" else tuple(range_))
    expected = own(model, Message("user", shown, "Well?"))
    held = asked(server, "/v1/images", image=url(data), range=range_)
    assert not any("WRONG CONTRAST" in text for text in held["warnings"])
    for part in (
        {"type": "image_url", "image_url": {"url": url(data), "range": range_}},
        {"type": "image_url", "image_url": {"url": held["url"]}},
        {"type": "input_image", "image_url": url(data), "range": range_},
    ):
        answer = chat(server, user(part, {"type": "text", "text": "Well?"}))
        assert text_of(answer) == expected.text
        assert not any("WRONG CONTRAST" in text for text in answer["warnings"])


def test_a_range_is_taken_by_labels_and_vectors_as_well(server: Server, medsiglip_artifact: Path) -> None:
    data = deep_picture()
    shown = Image(data, range=(0, 5000))
    with edgekit.open(medsiglip_artifact) as siglip:
        scores, vector = siglip.classify([shown], ["a", "b"])[0], siglip.embed_image([shown])[0]
        assert not np.allclose(vector, siglip.embed_image([data])[0])
    for shown_by in ({"image": url(data), "range": [0, 5000]}, {"images": [{"url": url(data), "range": [0, 5000]}]}):
        found = asked(server, "/v1/classify", model="medsiglip", labels=["a", "b"], **shown_by)
        assert [one["score"] for one in found["data"][0]["scores"]] == pytest.approx(scores, abs=1e-6)
    one = {"image": url(data), "range": [0, 5000]}
    found = asked(server, "/v1/embeddings", model="medsiglip", input=one)
    assert found["data"][0]["embedding"] == pytest.approx(vector, abs=1e-6)


@pytest.mark.parametrize("wrong", [[1], [2, 1], [1, 1], ["1", "2"], [True, 2], "1:2", 3, {"1": 1, "2": 2}, []])
def test_a_range_that_is_none_is_refused_by_its_place(server: Server, wrong: Any) -> None:
    shown = {"url": url(deep_picture()), "range": wrong}
    error = refused(server, "/v1/chat/completions", messages=user({"type": "image_url", "image_url": shown}))
    assert error["param"] == "messages.0.content.0.image_url.range"
    assert "[LOW, HIGH]" in error["message"]
    assert refused(server, "/v1/images", image=url(deep_picture()), range=wrong)["param"] == "range"
    one = {"image": url(deep_picture()), "range": wrong}
    assert refused(server, "/v1/classify", labels=["a"], **one)["param"] == "image.0.range"
    assert refused(server, "/v1/embeddings", model="medsiglip", input=one)["param"] == "input.0.range"


def test_a_warning_of_contrast_says_what_a_client_can_do(server: Server) -> None:
    (said,) = [
        text for text in asked(server, "/v1/images", image=url(deep_picture()))["warnings"] if "CONTRAST" in text
    ]
    found = re.search(r'over HTTP: "range": (\[\d+, \d+\]) or "auto"', said)
    assert found
    again = asked(server, "/v1/images", image=url(deep_picture()), range=json.loads(found[1]))
    assert not any("CONTRAST" in text for text in again["warnings"])


def test_labels_are_scored_as_the_model_scores_them(server: Server, medsiglip_artifact: Path) -> None:
    data = [picture(1), picture(2, "WEBP")]
    labels = {"nodule": ["a nodule", "nodules"], "clear": "a clear chest"}
    asked_ = {"model": "medsiglip", "images": [url(one) for one in data], "labels": labels}
    found = asked(server, "/v1/classify", **asked_)
    with edgekit.open(medsiglip_artifact) as model:
        expected = model.classify(data, [["a nodule", "nodules"], "a clear chest"])
    assert found["scores"] == "sigmoid"
    assert any("stand-in" in text for text in found["warnings"])
    rows = [[one["score"] for one in row["scores"]] for row in found["data"]]
    assert np.asarray(rows) == pytest.approx(expected, abs=1e-6)
    assert [one["label"] for one in found["data"][0]["scores"]] == ["nodule", "clear"]
    shares = asked(server, "/v1/classify", **asked_, scores="softmax")
    assert sum(one["score"] for one in shares["data"][1]["scores"]) == pytest.approx(1)
    error = refused(server, "/v1/classify", **{**asked_, "model": "medgemma"})
    assert error["param"] == "labels"  # a model that chats averages nothing
    by_chat = asked(server, "/v1/classify", image=url(data[0]), labels=["a", "b"])
    for answer in (found, shares, by_chat):
        assert any("stand-in" in text for text in answer["warnings"])
    assert by_chat["scores"] == "softmax"
    for wrong in ({"labels": []}, {"labels": ["a", "a"]}, {"labels": {"a": []}}, {"images": []}, {"scores": "best"}):
        refused(server, "/v1/classify", **{**asked_, **wrong})


def test_a_model_that_is_not_named_has_to_be_clear(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    both = Serving(Engines(served([medgemma_artifact, medsiglip_artifact])))
    one = Serving(Engines(served([medsiglip_artifact])))
    assert both.model(None, "generate").id.startswith("medgemma:")
    assert one.model(None).id.startswith("medsiglip:")
    with pytest.raises(ParameterError, match="several could be meant") as raised:
        both.model(None, "classify")
    assert "medgemma:" in str(raised.value.allowed)
    assert "medsiglip:" in str(raised.value.allowed)
    with pytest.raises(UsageError, match="no model here can generate"):
        one.model(None, "generate")


def test_models_say_what_they_are(server: Server) -> None:
    _, _, body = call(server, "GET", "/v1/models")
    listed = {one["id"]: one for one in json.loads(body)["data"]}
    assert {"medgemma:Q4_0", "medsiglip:fp32"} <= listed.keys()
    _, _, body = call(server, "GET", "/v1/models/medsiglip")
    one = json.loads(body)
    assert one["id"] == "medsiglip:fp32"
    assert one["architecture"]["input_modalities"] == ["text", "image"]
    assert one["capabilities"] == ["classify", "embed_image", "embed_text"]
    assert one["stand_in"]
    assert str(Path.cwd().anchor) + "tmp" not in json.dumps(listed)
    status, _, _ = call(server, "GET", "/v1/models/nobody")
    assert status == 404
    assert refused(server, "/v1/chat/completions", model="nobody", messages=user("Hi"))["status"] == 404


def test_tokens_there_and_back(server: Server) -> None:
    made = asked(server, "/tokenize", content="No effusion.")
    assert made["count"] == len(made["tokens"]) == len(made["pieces"])
    assert made["tokens"] == asked(server, "/tokenize", prompt="No effusion.")["tokens"]
    assert asked(server, "/detokenize", tokens=made["tokens"])["content"] == "No effusion."
    assert refused(server, "/detokenize", tokens=["a"])["param"] == "tokens.0"
    assert refused(server, "/tokenize")["param"] == "content"


def test_an_image_is_handed_over_before_its_question(server: Server, model: Model) -> None:
    data = picture(9)
    held = asked(server, "/v1/images", image=url(data))
    assert held["tokens"] > 4
    assert held["expires_at"] > time.time()
    shown = {"type": "image_url", "image_url": {"url": held["url"]}}
    answer = chat(server, user(shown, {"type": "text", "text": "What is it?"}))
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= held["tokens"]
    assert text_of(answer) == own(model, Message("user", Image(data), "What is it?")).text
    again = asked(server, "/v1/images", image=base64.b64encode(data).decode())
    assert again["id"] != held["id"]
    assert call(server, "DELETE", f"/v1/images/{held['id']}")[0] == 200
    assert call(server, "DELETE", f"/v1/images/{held['id']}")[0] == 404
    assert "hand it over again" in refused(server, "/v1/chat/completions", messages=user(shown))["message"]
    for name in ("medgemma", "medsiglip"):
        assert any("stand-in" in text for text in asked(server, "/v1/images", image=url(data), model=name)["warnings"])
        assert "truncated" in refused(server, "/v1/images", image=url(data[:-500]), model=name)["message"]
    gif = picture(1, "GIF")
    assert "no format" in refused(server, "/v1/images", image=url(gif))["message"]


def test_what_is_held_is_bounded() -> None:
    now = [0.0]
    held = HandedOver(most_images=2, most_bytes=10, seconds=60, clock=lambda: now[0])
    first, second = held.put(b"1" * 4), held.put(b"2" * 4)
    assert first.id != second.id
    third = held.put(b"3" * 4)
    assert held.get(second.id).data + held.get(third.id).data == b"22223333"
    with pytest.raises(UnknownImage):
        held.get(first.id)
    large = held.put(b"4" * 8)
    with pytest.raises(UnknownImage):
        held.get(third.id)
    with pytest.raises(InputError, match="11 bytes"):
        held.put(b"5" * 11)
    now[0] = 60
    with pytest.raises(UnknownImage):
        held.get(large.id)


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def begun(server: Server, headers: Mapping[str, str] | None = None, **document: Any) -> socket.socket:
    """A request for a long answer, whose client can leave."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"model": "medgemma", "messages": user("Tell me a story."), **LONG, **document}).encode()
    client = socket.create_connection((host, int(port)), timeout=60)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(server: Server, stream: bool) -> None:
    chat(server, user("Hi"))  # it is loaded
    with begun(server, stream=stream) as client:
        until(lambda: server.running() == 1, 20)
        if stream:
            assert client.recv(1 << 16)
    until(lambda: server.running() == 0, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_the_queue_is_not_waited_for(server: Server, stream: bool) -> None:
    chat(server, user("Hi"))
    with begun(server), begun(server, seed=2):
        until(lambda: server.running() == 2, 20)
        with begun(server, stream=stream):
            until(lambda: server.running() == 3, 20)
        until(lambda: server.running() == 2, 0.9)  # before a stream would have begun
    until(lambda: server.running() == 0, 5)


def test_only_who_waits_no_longer_is_refused_what_was_given_up(server: Server) -> None:
    document = {"model": "medgemma", "messages": user("Hi"), "max_tokens": 1}

    def again(seconds: str | None, count: int = 1) -> int:
        limit = {} if seconds is None else {"x-stainless-read-timeout": seconds}
        headers = {"content-type": "application/json", "x-stainless-retry-count": str(count), **limit}
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(document), headers)
        status = connection.getresponse().status
        connection.close()
        return status

    given_up = server.serving.given_up

    async def left(seconds: float) -> None:
        body = json.dumps(document).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        headers = [(b"x-stainless-read-timeout", b"2")]
        scope = {"type": "http", "path": "/v1/chat/completions", "headers": headers, "query_string": b"",
                 "server": ("a", 80), "scheme": "http"}  # fmt: skip
        request = HttpRequest(scope, receive)
        request.state.began = time.monotonic() - seconds
        await given_up.note(request)

    asyncio.run(left(2))
    assert (again("2"), again("1"), again("600"), again(None)) == (400, 400, 200, 200)
    assert again("2") == 200  # it was answered meanwhile
    asyncio.run(left(1))  # for another reason than its time-out
    assert again("2") == 200


@pytest.mark.parametrize(("waits", "status"), [(True, 200), (False, 400)])
def test_what_went_by_in_the_queue_is_not_held_against_a_request(server: Server, waits: bool, status: int) -> None:
    document = {"max_tokens": 1} if waits else {"seed": 3}
    chat(server, user("Hi"))
    with begun(server), begun(server, seed=2) if waits else nullcontext():
        until(lambda: server.running() == 1 + waits, 20)
        with begun(server, {"x-stainless-read-timeout": "0.5"}, **document):
            until(lambda: server.running() == 2 + waits, 20)
            time.sleep(0.6)
        until(lambda: server.running() == 1 + waits, 5)
    until(lambda: server.running() == 0, 5)
    again = {"x-stainless-read-timeout": "0.5", "x-stainless-retry-count": "1"}
    with begun(server, again, **document) as client:
        assert client.recv(1 << 16).startswith(f"HTTP/1.1 {status}".encode())


def test_silence_is_filled_with_comments(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_S", 0.05)
    monkeypatch.setattr(streaming, "FIRST_S", 0.05)
    chat(server, user("Hi"))
    with begun(server), begun(server, seed=2):
        until(lambda: server.running() == 2, 20)
        with begun(server, stream=True, max_tokens=1) as waiting:
            said = b""
            while b": ping\n\n" not in said:
                said += waiting.recv(1 << 16)
            assert said.startswith(b"HTTP/1.1 200")
    until(lambda: server.running() == 0, 5)


def test_an_error_inside_a_stream_is_its_last_event(server: Server) -> None:
    chat(server, user("Hi"))
    with begun(server, stream=True) as client:
        said = client.recv(1 << 16)
        pid = server.serving.engines.status("medgemma").pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while more := client.recv(1 << 16):
            said += more
            if said.endswith(b"0\r\n\r\n"):
                break
    last = [line for line in said.decode().split("\n") if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
    assert text_of(chat(server, user("Hi")))


def test_thoughts_are_no_part_of_the_answer(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    with api_server([medgemma_artifact], perform="api_jobs:think") as server:
        message = chat(server, user("Hi"), reasoning_effort="low")["choices"][0]["message"]
        assert (message["content"], message["reasoning_content"]) == ("Yes.", "True 512")
        chunks = streamed(server, messages=user("Hi"), reasoning_effort="none")
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "None None"
        assert "".join(delta.get("content", "") for delta in deltas) == "Yes."
        answer = asked(server, "/v1/responses", input="Hi", reasoning={"effort": "high"})
        assert [item["type"] for item in answer["output"]] == ["reasoning", "message"]
        assert answer["output"][0]["content"][0]["text"] == "True 2048"
        assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}
        assert answer["warnings"] == ["a warning"]


def test_a_model_that_cannot_think_says_so(server: Server) -> None:
    error = refused(server, "/v1/chat/completions", messages=user("Hi"), reasoning_effort="high")
    assert "cannot think" in error["message"]


def test_a_call_that_is_cut_is_not_taken_for_a_whole_one(server: Server) -> None:
    question = {"messages": user("Hi"), "tools": TOOLS, "tool_choice": "required", "max_tokens": 400}
    for cut in ({"max_tokens": 14}, {"stop": "city"}, {"stop": "parameters"}):
        choice = asked(server, "/v1/chat/completions", **{**question, **cut})["choices"][0]
        assert choice["finish_reason"] == "length"
    items = [{"type": "function", **TOOLS[0]["function"]}]  # type: ignore[dict-item]
    most = asked(server, "/tokenize", content='{"name": "get_weather", "parameters": {"ci')["count"]
    answer = asked(server, "/v1/responses", input="Hi", tools=items, tool_choice="required", max_output_tokens=most)
    assert answer["status"] == "incomplete"
    assert answer["output"][-1]["status"] == "incomplete"


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}}]
)
def test_json_cannot_be_cut_by_a_stop(server: Server, route: str, form: Any) -> None:
    question: dict[str, Any] = {"messages": user("Hi")} if "chat" in route else {"prompt": "Hi"}
    assert refused(server, route, **question, response_format=form, stop="city")["param"] == "stop"
    asked(server, route, **question, response_format=form, stop=[], max_tokens=1)
    asked(server, route, **question, response_format={"type": "text"}, stop="city", max_tokens=1)


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_an_answer_is_a_call_or_json(server: Server, choice: Any) -> None:
    question = {"messages": user("Hi"), "tools": TOOLS, "response_format": {"type": "json_object"}, "max_tokens": 1}
    assert refused(server, "/v1/chat/completions", **question, tool_choice=choice)["param"] == "response_format"
    asked(server, "/v1/chat/completions", **question, tool_choice="none")


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=6), max_size=3), min_size=1, max_size=4), st.data()
)
def test_calls_are_found_however_their_text_is_cut(arguments: list[dict[str, str]], data: st.DataObject) -> None:
    lines = [f'{{"name": "f{n}", "parameters": {json.dumps(given)}}}' for n, given in enumerate(arguments)]
    text, reader, found = "\n".join(lines), CallReader(), dict[int, list[str]]()
    while text:
        cut = data.draw(st.integers(1, len(text)))
        for said in reader.add(text[:cut]):
            assert said.call is not None
            one = found.setdefault(said.call, ["", ""])
            one[0] += said.name
            one[1] += said.arguments
        text = text[cut:]
    assert reader.is_whole
    assert [(name, json.loads(given)) for name, given in found.values()] == [
        (f"f{n}", given) for n, given in enumerate(arguments)
    ]


def spots(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document."""
    yield path
    inside = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in inside:
        yield from spots(value, (*path, name))


def with_other(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A document with another value in a place."""
    if not path:
        return value
    changed = document.copy()
    changed[path[0]] = with_other(document[path[0]], path[1:], value)
    return changed


SHOWN = {"type": "image_url", "image_url": {"url": url(picture(size=8))}}
CALLED = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
FULL: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": "medgemma",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, SHOWN]},
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "b"}]},
        ],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "stop": ["a"],
        "logit_bias": {"3": 1.5},
        "max_tokens": 2,
        "max_completion_tokens": 2,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {
        "model": "medgemma",
        "prompt": ["a"],
        "max_tokens": 2,
        "logprobs": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": CITY}},
    },
    "/v1/responses": {
        "model": "medgemma",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "b"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": CITY}],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "none"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "max_output_tokens": 2,
    },
    "/v1/embeddings": {
        "model": "medsiglip",
        "input": ["a", {"text": "b"}, {"content": [{"type": "text", "text": "c"}]}],
        "encoding_format": "float",
        "dimensions": 160,
    },
    "/v1/classify": {"model": "medsiglip", "images": [SHOWN["image_url"]], "labels": {"a": ["b"]}, "scores": "sigmoid"},
    "/tokenize": {"model": "medgemma", "content": "a"},
    "/detokenize": {"model": "medgemma", "tokens": [3]},
    "/v1/images": {"model": "medgemma", "image": url(picture(size=8)), "system": "a"},
}
JUNK: tuple[Any, ...] = (  # in the place of anything
    *(
        None,
        True,
        0,
        -1,
        1 << 70,
        1.5,
        1e308,
        "",
        "a",
        "\x00",
        "<start_of_turn>",
        "data:",
        "edgekit-image:",
        [],
        {},
        [[]],
    ),
    *(
        [None],
        [{}],
        {"": None},
        {"type": []},
        {"type": "text"},
        {"type": "object"},
        "data:image/png;base64,",
        "a" * 70_000,
    ),
)


@settings(max_examples=200)
@given(st.data())
def test_no_document_is_the_servers_fault(server: Server, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FULL)))
    place = data.draw(st.sampled_from(list(spots(FULL[path]))))
    document = with_other(FULL[path], place, data.draw(st.sampled_from(JUNK)))
    status, _, body = call(server, "POST", path, document)
    assert status < 500, body
    if status != 200:
        assert json.loads(body)["error"]["message"]


def test_text_is_no_call() -> None:
    reader = CallReader()
    said = [one for piece in ("No", ' {"name": "f", "parameters": {}}') for one in reader.add(piece)]
    assert "".join(one.text for one in said) == 'No {"name": "f", "parameters": {}}'
    assert reader.calls == 0
