"""Clients as their packages have them, unpatched: OpenAI's here, others in environments of their own (slow)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
from api_server import Server, api_server
from pydantic import BaseModel
from test_serve_api import LONG, picture, url

import edgekit
from edgekit import Image, Message
from edgekit.inputs.phantoms import draw


class City(StrEnum):
    """Of a small world."""

    PARIS = "Paris"
    ROME = "Rome"


class Trip(BaseModel):
    """What is to be found in an answer."""

    city: City
    by_train: bool


class get_weather(BaseModel):
    """The weather of a city."""

    city: City


@pytest.fixture(scope="module")
def server(medgemma_artifact: Path, medsiglip_artifact: Path) -> Iterator[Server]:
    with api_server([medgemma_artifact, medsiglip_artifact]) as started:
        yield started


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none is needed", max_retries=0) as made:
        yield made


def about(data: bytes) -> list[Any]:
    shown = {"type": "image_url", "image_url": {"url": url(data)}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}]


def test_models_are_found(client: openai.OpenAI) -> None:
    assert {"medgemma:Q4_0", "medsiglip:fp32"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("medgemma").id.startswith("medgemma:")


def test_an_image_chat_is_streamed(client: openai.OpenAI, medgemma_artifact: Path) -> None:
    data = picture(3)
    with edgekit.open(medgemma_artifact) as model:
        *_, expected = model.generate([Message("user", Image(data), "What is it?")], max_tokens=12)
    with client.chat.completions.create(model="medgemma", messages=about(data), max_tokens=12, stream=True) as stream:
        said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert said == expected.text  # type: ignore[union-attr]
    with client.chat.completions.stream(model="medgemma", messages=about(data), max_tokens=12) as helped:
        assert helped.get_final_completion().choices[0].message.content == said


README = Path(__file__).resolve().parent.parent / "README.md"


def pasted(begin: str, end: str, server: Server) -> str:
    """A piece of the README, with this server in place of the one at the usual port."""
    text = README.read_text(encoding="utf-8")
    found = text[text.index(begin) :]
    return found[: found.index(end)].replace("http://127.0.0.1:8080", server.url)


def test_the_readmes_python_works_when_pasted(server: Server, tmp_path: Path) -> None:
    PIL.Image.fromarray(draw(30260, 3).image).save(tmp_path / "chest.png")
    code = pasted("import base64\n", "```", server)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("pneumothorax", "")


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
@pytest.mark.parametrize("route", ["chat/completions", "classify"])
def test_the_readmes_curl_works_when_pasted(server: Server, tmp_path: Path, route: str) -> None:
    PIL.Image.fromarray(draw(30260, 3).image).save(tmp_path / "chest.png")
    command = pasted(f"curl http://127.0.0.1:8080/v1/{route} ", "\n{", server)
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    answer = json.loads(done.stdout)
    assert "error" not in answer
    assert "stand-in" in answer["warnings"][0]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_function_is_called_and_answered(client: openai.OpenAI, choice: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Rome?"}]
    tools: Any = [openai.pydantic_function_tool(get_weather)]
    first = client.chat.completions.parse(model="medgemma", messages=messages, tools=tools, tool_choice=choice)
    message = first.choices[0].message
    assert message.tool_calls
    for call in message.tool_calls:
        assert isinstance(call.function.parsed_arguments, get_weather)
        messages += [message] if call is message.tool_calls[0] else []
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    second = client.chat.completions.create(model="medgemma", messages=messages, tools=tools, max_tokens=20)
    assert second.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_call_is_streamed(client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(get_weather)]
    question: Any = [{"role": "user", "content": "How is the weather?"}]
    with client.chat.completions.stream(
        model="medgemma", messages=question, tools=tools, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        deltas = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or ()
    assert "".join(deltas) == call.function.arguments
    assert isinstance(call.function.parsed_arguments, get_weather)


def test_a_function_that_may_be_called(client: openai.OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(get_weather)]
    question: Any = [{"role": "user", "content": "Hello"}]
    answer = client.chat.completions.create(model="medgemma", messages=question, tools=tools, max_tokens=20)
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_an_answer_is_parsed(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Where to?"}]
    parsed = client.chat.completions.parse(model="medgemma", messages=question, response_format=Trip)
    assert isinstance(parsed.choices[0].message.parsed, Trip)
    responded = client.responses.parse(model="medgemma", input="Where to?", text_format=Trip)
    assert responded.output_parsed == parsed.choices[0].message.parsed


def test_responses_are_streamed_and_raw(client: openai.OpenAI) -> None:
    data = picture(4)
    shown: Any = {"type": "input_image", "image_url": url(data), "detail": "auto"}
    asked: Any = [{"role": "user", "content": [shown, {"type": "input_text", "text": "What is it?"}]}]
    chat = client.chat.completions.create(model="medgemma", messages=about(data), max_tokens=12)
    whole = client.responses.create(model="medgemma", input=asked, max_output_tokens=12)
    assert whole.output_text == chat.choices[0].message.content
    with client.responses.stream(model="medgemma", input=asked, max_output_tokens=16) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == said
    assert said.startswith(whole.output_text)
    raw = client.responses.with_raw_response.create(model="medgemma", input="Hi", max_output_tokens=16)
    assert raw.status_code == 200
    assert json.loads(raw.content)["object"] == "response"


def test_a_response_calls_a_function(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "get_weather",
        "parameters": get_weather.model_json_schema(),
        "strict": True,
    }
    items: list[Any] = [{"role": "user", "content": "How is the weather?"}]
    settings: Any = {"model": "medgemma", "tools": [tool], "max_output_tokens": 400}
    with client.responses.stream(input=items, tool_choice="required", parallel_tool_calls=False, **settings) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.arguments == "".join(deltas)
    get_weather.model_validate_json(call.arguments)
    items += [call.model_dump(), {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    assert client.responses.create(input=items, tool_choice="none", **settings).status in ("completed", "incomplete")


def test_vectors_come_in_both_encodings(client: openai.OpenAI, medsiglip_artifact: Path) -> None:
    texts = ["nodule", "effusion"]
    by_default = client.embeddings.create(model="medsiglip", input=texts)
    as_numbers = client.embeddings.create(model="medsiglip", input=texts, encoding_format="float")
    with edgekit.open(medsiglip_artifact) as model:
        expected = model.embed_text(texts)
    for answer in (by_default, as_numbers):
        assert np.asarray([row.embedding for row in answer.data]) == pytest.approx(expected, abs=1e-6)


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Hi"}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="medgemma", messages=question, prediction={"type": "content", "content": ""}
        )
    assert caught.value.param == "prediction"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=question)


def test_an_answer_that_a_client_does_not_wait_for_is_not_computed_again(server: Server) -> None:
    question: Any = [{"role": "user", "content": "Tell me a story."}]
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2)
    client.chat.completions.create(model="medgemma", messages=question, max_tokens=1)  # it is loaded
    with pytest.raises(openai.BadRequestError, match="time-out"):
        client.chat.completions.create(model="medgemma", messages=question, extra_body=LONG, timeout=0.7)
    assert server.running() == 0
    client.chat.completions.create(model="medgemma", messages=question, max_tokens=2)


def test_a_legacy_completion(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="medgemma", prompt="What is", max_tokens=6)
    chunks = client.completions.create(model="medgemma", prompt="What is", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_several_at_once(server: Server) -> None:
    async def texts() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="a", max_retries=0) as client:
            question: Any = [{"role": "user", "content": "Describe a cough."}]
            asked = (
                client.chat.completions.create(model="medgemma", messages=question, max_tokens=12) for _ in range(6)
            )
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert len(set(asyncio.run(texts()))) == 1


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where clients' environments are: kept in a folder that a variable names, else made for this run."""
    named = os.environ.get("EDGEKIT_CLIENT_ENVIRONMENTS")
    return Path(named) if named else tmp_path_factory.mktemp("environments")


def interpreter(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages, made where there is none."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "packages"),
    [
        ("openai_client", ["openai>=2,<3"]),
        ("langchain_client", ["langchain-openai==1.7.*"]),
        ("llama_index_client", ["llama-index-llms-openai-like", "llama-index-embeddings-openai-like"]),
    ],
)
def test_other_clients_work_as_they_are(
    server: Server, environments: Path, tmp_path: Path, script: str, packages: list[str], client: openai.OpenAI
) -> None:
    python = interpreter(environments / script, packages)
    image = tmp_path / "image.png"
    image.write_bytes(picture(3))
    command = [python, Path(__file__).parent / "clients" / f"{script}.py", server.url, image]
    said = subprocess.run(command, check=True, capture_output=True, env={"HOME": str(tmp_path)}, cwd=tmp_path).stdout
    found = json.loads(said)
    assert found["models"] == [model.id for model in client.models.list()]
    answer = client.chat.completions.create(model="medgemma", messages=about(picture(3)), max_tokens=12)
    assert found["text"] == answer.choices[0].message.content
    get_weather.model_validate_json(json.dumps(found["arguments"]))
    Trip.model_validate_json(json.dumps(found["parsed"]))
    vectors = client.embeddings.create(model="medsiglip", input=["a", "b"]).data
    assert np.asarray(found["vectors"]) == pytest.approx(np.asarray([row.embedding for row in vectors]), abs=1e-6)
