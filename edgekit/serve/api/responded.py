"""An answer as the responses API has it: items one after the other, each begun, added to and done by events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.serve.api import report
from edgekit.serve.api.serving import told
from edgekit.serve.api.streaming import frame
from edgekit.serve.api.tools import CallReader, Said
from edgekit.serve.engines.served import Served
from edgekit.serve.jobs import Event

Document = dict[str, Any]

# Of an item with content: the type of its part, and the name of that part's events.
_PARTS = {
    "message": ("output_text", "response.output_text"),
    "reasoning": ("reasoning_text", "response.reasoning_text"),
}


class Responded:
    """One response, as its answer comes."""

    def __init__(self, served: Served, echoed: Mapping[str, Any], notes: Sequence[str], *, calls: bool) -> None:
        """Args:
        echoed: what it repeats of its request.
        notes: what its client must know of that.
        calls: whether the answer may be calls of functions.
        """
        self._served, self._notes = served, notes
        self._head = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": served.id,
            "error": None,
            "previous_response_id": None,
            "store": False,
            **echoed,
        }
        self._reader = CallReader() if calls else None
        self._items: list[Document] = []
        self._is_open = False
        self._answer: Mapping[str, Any] | None = None
        self._number = 0

    def begin(self) -> list[Document]:
        """The events before anything is said."""
        return [self._event(f"response.{name}", response=self.document()) for name in ("created", "in_progress")]

    def take(self, event: Event) -> list[Document]:
        """The events of what an engine says."""
        if event.kind == "answer":
            self._answer = event.body
        if event.kind != "piece":
            return []
        if event.body["thinking"]:
            return self._add_text("reasoning", event.body["text"], [])
        if self._reader is None:
            return self._add_text("message", event.body["text"], event.body.get("tokens", []))
        return [document for said in self._reader.add(event.body["text"]) for document in self._add_said(said)]

    def end(self) -> list[Document]:
        """The events behind all that was said."""
        done = self._close()
        return [*done, self._event(f"response.{self._status}", response=self.document())]

    def failed(self, error: Document) -> bytes:
        """The event of an error's body, in a stream that has begun."""
        said = error["error"]
        document = self._event("error", code=said["code"], message=said["message"], param=said["param"])
        return frame({**document, "error": said}, "error")

    def document(self) -> Document:
        """The response as it is now."""
        said = {**self._head, "status": self._status, "output": self._items, "incomplete_details": None, "usage": None}
        if self._answer is None:
            return said
        if self._status == "incomplete":
            said["incomplete_details"] = {"reason": "max_output_tokens"}
        counted = report.usage([self._answer])
        usage = {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": {**counted["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": counted["completion_tokens_details"],
            "total_tokens": counted["total_tokens"],
        }
        more = {
            "timings": report.timings([self._answer]),
            "warnings": told(self._served, [*self._notes, *report.warnings([self._answer])]),
        }
        return {**said, "usage": usage, **more}

    @property
    def _status(self) -> str:
        if self._answer is None:
            return "in_progress"
        return "completed" if report.finish_reason(self._answer, self._reader) != "length" else "incomplete"

    def _event(self, type_: str, **fields: Any) -> Document:
        self._number += 1
        return {"type": type_, "sequence_number": self._number - 1, **fields}

    def _in_item(self, type_: str, **fields: Any) -> Document:
        place = len(self._items) - 1
        return self._event(type_, item_id=self._items[place]["id"], output_index=place, **fields)

    def _add_said(self, said: Said) -> list[Document]:
        if said.call is None:
            return self._add_text("message", said.text, [])
        if said.name:
            call = {"type": "function_call", "id": f"fc_{secrets.token_hex(12)}", "call_id": said.id}
            return self._open({**call, "name": said.name, "arguments": "", "status": "in_progress"})
        self._items[-1]["arguments"] += said.arguments
        return [self._in_item("response.function_call_arguments.delta", delta=said.arguments)]

    def _add_text(self, kind: str, text: str, tokens: list[Mapping[str, Any]]) -> list[Document]:
        events = []
        if not self._is_open or self._items[-1]["type"] != kind:
            item = {"type": kind, "id": f"{kind[:3]}_{secrets.token_hex(12)}", "status": "in_progress", "content": []}
            events += self._open({**item, **({"role": "assistant"} if kind == "message" else {"summary": []})})
            part: Document = {"type": _PARTS[kind][0], "text": ""}
            part |= {"annotations": [], "logprobs": []} if kind == "message" else {}
            events.append(self._in_item("response.content_part.added", content_index=0, part=dict(part)))
            self._items[-1]["content"].append(part)
        part = self._items[-1]["content"][0]
        part["text"] += text
        logprobs = report.logprobs(tokens)
        fields = {"logprobs": logprobs} if kind == "message" else {}
        if kind == "message":
            part["logprobs"] = [*part["logprobs"], *logprobs]
        return [*events, self._in_item(f"{_PARTS[kind][1]}.delta", content_index=0, delta=text, **fields)]

    def _open(self, item: Document) -> list[Document]:
        done = self._close()
        self._items.append(item)
        self._is_open = True
        return [*done, self._event("response.output_item.added", output_index=len(self._items) - 1, item=_copy(item))]

    def _close(self) -> list[Document]:
        """The events of an item's end."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self._items[-1]
        item["status"] = "incomplete" if self._status == "incomplete" else "completed"
        events = []
        if item["type"] == "function_call":
            given = {"name": item["name"], "arguments": item["arguments"]}
            events.append(self._in_item("response.function_call_arguments.done", **given))
        else:
            part = item["content"][0]
            fields = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            name = f"{_PARTS[item['type']][1]}.done"
            events.append(self._in_item(name, content_index=0, text=part["text"], **fields))
            events.append(self._in_item("response.content_part.done", content_index=0, part=part))
        return [*events, self._event("response.output_item.done", output_index=len(self._items) - 1, item=_copy(item))]


def _copy(item: Document) -> Document:
    """As it is now: events are written later."""
    return {**item, "content": list(item["content"])} if "content" in item else dict(item)
