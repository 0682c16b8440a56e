"""One measurement of llama.cpp's own server in a process of its own: python server_job.py JOB ANSWER.

`kind` is one of the functions below; `server` is the binary, `decoder` and `vision` are files in GGUF, `threads` are
for all; and what each of them takes. The prompts are those of `engine_job.py`.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_START_S = 300


def conversation(job: dict[str, Any]) -> dict[str, Any]:
    """See `engine_job.conversation`."""
    with _server(job, context=2 * job["tokens"], slots=2) as ask:
        turns = [_user(f"{_words(job['words'])}\n\nWhat is this about?")]
        first = ask(turns, 8)
        turns += [_model(first), _user("Why?")]
        second = ask(turns, 8)
        for foreign in ("A title for this conversation, in three words:", "Three tags for this conversation:"):
            ask([_user(foreign)], 8)
        turns += [_model(second), _user("And else?")]
        third = ask(turns, 8)
    return {
        name: {"first_token_s": _first_s(one), "prompt": _prompt(one), "cached": one["timings"]["cache_n"]}
        for name, one in (("cold", first), ("follow_up", second), ("after_others", third))
    }


def image(job: dict[str, Any]) -> dict[str, Any]:
    """See `engine_job.image`; nothing can be handed over before its question."""
    pixels = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is the main finding in this image?"},
    ]
    with _server(job) as ask:
        return {"cold_s": _first_s(ask([{"role": "user", "content": parts}], 2))}


def together(job: dict[str, Any]) -> dict[str, Any]:
    """See `engine_job.together`."""
    found: dict[str, Any] = {}
    questions = [[_user(f"Question {number}: {_words(job['words'])}")] for number in range(max(job["counts"]))]
    with _server(job, slots=max(job["counts"])) as ask:
        for count in job["counts"]:
            with ThreadPoolExecutor(count) as pool:
                answers = list(pool.map(lambda turns: ask(turns, job["tokens"]), questions[:count]))
            found[str(count)] = count * max(answer["timings"]["predicted_per_second"] for answer in answers)
    return found


Ask = Callable[[Sequence[Any], int], dict[str, Any]]


@contextmanager
def _server(job: dict[str, Any], context: int = 2048, slots: int = 1) -> Iterator[Ask]:
    """Start it, and give what asks it; `wall_s` is added to its answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = ["-m", job["decoder"], "--mmproj", job["vision"]] if job["kind"] == "image" else ["-m", job["decoder"]]
    size = ["-c", str(context * slots), "-np", str(slots), "-t", str(job["threads"]), "--port", str(port)]
    process = subprocess.Popen(
        [job["server"], *files, *size, "--offline", *job.get("options", [])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(turns: Sequence[Any], tokens: int) -> dict[str, Any]:
        wanted = {"messages": turns, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        connection = HTTPConnection("127.0.0.1", port, timeout=3600)
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(wanted).encode(), headers)
        answer = connection.getresponse()
        found: dict[str, Any] = json.load(answer)
        if answer.status != HTTPStatus.OK:
            raise SystemExit(f"llama-server: {answer.status}: {found}")
        return found | {"wall_s": time.perf_counter() - began}

    try:
        _wait(port, process)
        yield ask
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(10 * _START_S):
        if process.poll() is not None:
            raise SystemExit(f"llama-server ended with {process.returncode}")
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError):
            connection.request("GET", "/health")
            if connection.getresponse().status == HTTPStatus.OK:
                return
        time.sleep(0.1)
    raise SystemExit("llama-server does not start")


def _first_s(answer: dict[str, Any]) -> float:
    """From the request to the first token: all the time it took, without that of the tokens behind the first."""
    return float(answer["wall_s"] - answer["timings"]["predicted_ms"] / 1e3)


def _prompt(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens"])


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _model(answer: dict[str, Any]) -> dict[str, str]:
    return {"role": "assistant", "content": answer["choices"][0]["message"]["content"] or "."}


def _words(count: int) -> str:
    return " ".join(f"word{number}" for number in range(count))


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    one.__name__: one for one in (conversation, image, together)
}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(KINDS[asked["kind"]](asked)), encoding="utf-8")
