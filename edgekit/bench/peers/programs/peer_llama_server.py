"""llama.cpp's own server, asked over HTTP on this machine; what it takes includes that."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from http.client import HTTPConnection, HTTPResponse
from itertools import pairwise
from pathlib import Path
from typing import Any

_START_S = 600
_TIMEOUT_S = 3600
_OK = 200


class Peer:
    """The server as a process of its own, which ends with `close`."""

    def __init__(self, job: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        given = {"-m": job["decoder"], "-c": job["context"], "-np": 1, "-t": job["threads"], "--port": self.port}
        if job["vision"]:
            given["--mmproj"] = job["vision"]
        words = [str(word) for pair in given.items() for word in pair]
        self.process = subprocess.Popen([job["binary"], *words, "--offline", *job["options"].get("arguments", [])])
        self._wait()

    def first_token(self, text: str, image: str | None) -> float:
        """A question to its chat endpoint."""
        content: Any = text
        if image:
            url = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
        turns = [{"role": "user", "content": content}]
        return self._seconds("/v1/chat/completions", {"messages": turns, "max_tokens": 1, "temperature": 0})

    def prompt(self, ids: list[int]) -> float:
        """Ids as they are, nothing of an earlier prompt used."""
        return self._seconds("/completion", {"prompt": ids, "n_predict": 1, "cache_prompt": False, "temperature": 0})

    def steps(self, ids: list[int], count: int) -> list[float]:
        """From one streamed piece to the next.

        A token that ends within a character comes with the next one. Where that happens only the mean is known, twice,
        which is too few to be taken for percentiles.
        """
        asked = {"prompt": ids, "n_predict": count + 1, "ignore_eos": True, "stream": True, "temperature": 0}
        times, mean = [], 0.0
        with self._asked("/completion", {**asked, "cache_prompt": False}) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    piece = json.loads(line[6:])
                    times.append(time.perf_counter())
                    mean = piece.get("timings", {}).get("predicted_per_token_ms", mean)
        between = [1000 * (later - earlier) for earlier, later in pairwise(times[:-1])]
        return between if len(between) == count else [mean] * 3

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()

    def _seconds(self, path: str, body: dict[str, Any]) -> float:
        started = time.perf_counter()
        with self._asked(path, body) as answer:
            answer.read()
        return time.perf_counter() - started

    def _asked(self, path: str, body: dict[str, Any]) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT_S)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != _OK:
            raise SystemExit(f"llama-server answers {answer.status}: {answer.read()[:300]!r}")
        return answer

    def _wait(self) -> None:
        last = time.perf_counter() + _START_S
        while time.perf_counter() < last and self.process.poll() is None:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == _OK:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise SystemExit(f"llama-server does not start: exit code {self.process.poll()}")


def start(job: dict[str, Any]) -> Peer:
    """See `edgekit.bench.peers.programs`."""
    return Peer(job)
