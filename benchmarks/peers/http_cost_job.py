"""What a server adds to its engine, in a process of its own: python http_cost_job.py JOB ANSWER.

`server` is one of `http_servers.KINDS`; `folder` and `level` are an artifact's, `prompt` and `tokens` the lengths of
questions and answers, `count` how many. Each question is asked of the engine alone, in this process, and over HTTP, in
turns; neither has seen it before.

What the server takes for itself is seen in three ways: by the client, beyond what the answer says that the engine took
(`timings`, of the same request); beside the engine alone; and as the time that the server's own process, not its
engine's, kept a core busy.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from http_client import CHAT, Answered, ask, message
from http_servers import Running, serving

from edgekit.inputs.message import Message
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.model import Generation
from edgekit.runtime.opening import open_model


def cost(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds, one for each question; figures of the answer itself are left out where a server gives none."""
    model = open_model(Path(job["folder"]), job["level"], context=2048)
    assert isinstance(model, ChatModel), "a decoder makes a chat model"
    found: dict[str, list[float]] = {}
    with serving(job) as server:
        asyncio.run(ask(server.port, message(CHAT, server.chat("Warm up.", 8))))
        _alone(model, "Warm up.", 8)
        for number in range(job["count"]):
            text = " ".join(f"{number} word{place}" for place in range(job["prompt"] // 4))
            # The engine's threads of this process sleep while the server works, and the other way round.
            first, whole = _alone(model, text, job["tokens"])
            cpu = _busy(server)
            answer = asyncio.run(ask(server.port, message(CHAT, _streamed(server, text, job))))
            row = _row(answer, job["tokens"]) | {"engine_first": 1e3 * first, "engine_whole": 1e3 * whole}
            row["more_token"] = row["token"] - 1e3 * (whole - first) / max(job["tokens"] - 1, 1)
            if server.kind == "edgekit":
                row["cpu_token"] = 1e3 * (_busy(server) - cpu) / job["tokens"]
            for name, value in row.items():
                found.setdefault(name, []).append(round(value, 4))
    model.close()
    return found


def _streamed(server: Running, text: str, job: dict[str, Any]) -> dict[str, Any]:
    return server.chat(text, job["tokens"], stream=True, stream_options={"include_usage": True})


def _row(answer: Answered, tokens: int) -> dict[str, float]:
    """Of one streamed answer: when its first text and its end came, and what is left without its engine's time."""
    if answer.status != 200 or not answer.ended or answer.error or not answer.pieces_s:
        raise SystemExit(f"no answer: {answer.status} {answer.events[-1:]}")
    first, last = answer.pieces_s[0], answer.pieces_s[-1]
    row = {"first": 1e3 * first, "whole": 1e3 * answer.whole_s, "token": 1e3 * (last - first) / max(tokens - 1, 1)}
    if timings := answer.timings:
        row["own_request"] = 1e3 * answer.whole_s - timings["prompt_ms"] - timings["predicted_ms"]
    return row


def _busy(server: Running) -> float:
    """Seconds that the server's own process, without the engine's, has kept a core; Linux counts nanoseconds."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9


def _alone(model: ChatModel, text: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first text, and to the end of an answer that no end token ends."""
    ends = dict.fromkeys(model.settings.stop_token_ids, -100.0)
    began = time.perf_counter()
    items = model.generate([Message("user", text)], GenerationOptions(max_tokens=tokens, logit_bias=ends))
    times = [time.perf_counter() - began for item in items if isinstance(item, Generation) or str(item)]
    return times[0], times[-1]


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(cost(given)), encoding="utf-8")
