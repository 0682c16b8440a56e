"""What llama-index does with the server, by its packages for such: an image chat, a call, a structured answer, vectors.

python llama_index_client.py URL IMAGE
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal

import openai
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class Trip(BaseModel):
    """Where to, and how."""

    city: Literal["Paris", "Rome"]
    by_train: bool


def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def main(url: str, image: Path) -> dict[str, Any]:
    server: Any = {"api_base": f"{url}/v1", "api_key": "none", "max_retries": 0}
    kind: Any = {"is_chat_model": True, "is_function_calling_model": True, "context_window": 4096}
    model = OpenAILike(model="medgemma", max_tokens=12, **kind, **server)
    about = ChatMessage(role="user", blocks=[ImageBlock(path=image), TextBlock(text="What is it?")])
    caller = OpenAILike(model="medgemma", **kind, **server)
    tools = [FunctionTool.from_defaults(get_weather)]
    first = caller.chat_with_tools(tools, "Hello", tool_required=True, allow_parallel_tool_calls=False)
    (call,) = caller.get_tool_calls_from_response(first)
    messages = [ChatMessage(role="user", content="Hello"), first.message]
    messages.append(
        ChatMessage(
            role="tool", content=str(get_weather(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}
        )
    )
    assert caller.chat_with_tools(tools, chat_history=messages).message
    found = caller.structured_predict(Trip, PromptTemplate("Where to?"))
    assert isinstance(found, Trip)
    embeddings = OpenAILikeEmbedding(model_name="medsiglip", **server)
    return {
        "models": [one.id for one in openai.OpenAI(base_url=f"{url}/v1", api_key="none").models.list()],
        "text": "".join(chunk.delta or "" for chunk in model.stream_chat([about])),
        "arguments": call.tool_kwargs,
        "parsed": found.model_dump(),
        "vectors": embeddings.get_text_embedding_batch(["a", "b"]),
    }


print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
