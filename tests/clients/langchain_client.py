"""What langchain-openai does with the server: a streamed image chat, a call, a structured answer, vectors.

python langchain_client.py URL IMAGE
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Trip(BaseModel):
    """Where to, and how."""

    city: Literal["Paris", "Rome"]
    by_train: bool


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def main(url: str, image: Path) -> dict[str, Any]:
    server: Any = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    model = ChatOpenAI(model="medgemma", max_tokens=12, **server)
    shown = {"url": f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"}
    about = HumanMessage([{"type": "image_url", "image_url": shown}, {"type": "text", "text": "What is it?"}])
    caller = ChatOpenAI(model="medgemma", **server)
    first = caller.bind_tools([get_weather], tool_choice="any").invoke([HumanMessage("Hello")])
    results = [get_weather.invoke(call) for call in first.tool_calls]
    last = caller.bind_tools([get_weather]).invoke([HumanMessage("Hello"), first, *results])
    assert last.content or last.tool_calls
    found = caller.with_structured_output(Trip).invoke("Where to?")
    by_call = caller.with_structured_output(Trip, method="function_calling").invoke("Where to?")
    assert isinstance(found, Trip)
    assert isinstance(by_call, Trip)
    embeddings = OpenAIEmbeddings(model="medsiglip", check_embedding_ctx_length=False, **server)
    return {
        "models": [one.id for one in model.root_client.models.list()],
        "text": "".join(str(chunk.content) for chunk in model.stream([about])),
        "arguments": first.tool_calls[0]["args"],
        "parsed": found.model_dump(),
        "vectors": embeddings.embed_documents(["a", "b"]),
    }


print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
