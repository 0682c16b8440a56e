"""What OpenAI's package does with the server: start-up, a streamed image chat, a call, a parsed answer, vectors.

python openai_client.py URL IMAGE
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any, Literal

import openai
from pydantic import BaseModel


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    by_train: bool


class get_weather(BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]


def main(url: str, image: Path) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    shown = {"url": f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"}
    content = [{"type": "image_url", "image_url": shown}, {"type": "text", "text": "What is it?"}]
    about: Any = [{"role": "user", "content": content}]
    question: Any = [{"role": "user", "content": "Hello"}]
    tools: Any = [openai.pydantic_function_tool(get_weather)]
    chunks = client.chat.completions.create(model="medgemma", messages=about, max_tokens=12, stream=True)
    called = client.chat.completions.parse(model="medgemma", messages=question, tools=tools, tool_choice="required")
    parsed = client.chat.completions.parse(model="medgemma", messages=question, response_format=Trip)
    call = called.choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, get_weather)
    assert isinstance(parsed.choices[0].message.parsed, Trip)
    return {
        "models": [model.id for model in client.models.list()],
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
        "arguments": json.loads(call.function.arguments),
        "parsed": parsed.choices[0].message.parsed.model_dump(),
        "vectors": [row.embedding for row in client.embeddings.create(model="medsiglip", input=["a", "b"]).data],
    }


print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
