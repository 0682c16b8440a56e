"""The servers that are compared, started and ended, and what they hold of the machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil

START_S, LONGEST_S = 900, 180.0
_STEP_S = 0.005
KINDS = ("edgekit", "llama-server", "llama-cpp-python")


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        model: the name that it has for its model.
        extra: fields of a request that keep an answer from ending before its budget.
        wrote: the folder that is its home, its place for temporary files and its working folder, its log among it.
        started_s: from its start to its first answer.
    """

    kind: str
    port: int
    process: psutil.Process
    model: str
    extra: dict[str, Any]
    wrote: Path
    started_s: float

    def chat(self, text: str, tokens: int, **more: Any) -> dict[str, Any]:
        """A question of so many tokens of answer."""
        turns = [{"role": "user", "content": text}]
        asked = {"model": self.model, "messages": turns, "max_tokens": tokens, "temperature": 0, **self.extra}
        return {**asked, **more}

    def held(self) -> dict[str, int]:
        """Memory, threads, processes and open files of all its processes."""
        tree = [self.process, *self.process.children(recursive=True)]
        return {
            "rss": sum(one.memory_info().rss for one in tree),
            "threads": sum(one.num_threads() for one in tree),
            "processes": len(tree),
            "files": sum(one.num_fds() for one in tree),
        }

    def get(self, path: str) -> Any:
        """A document."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def engine(self) -> tuple[str, int, int]:
        """State of edgekit's first model, and how many requests run and wait."""
        (first, *_) = self.get("/props")["models"]
        return first["state"], first["running"], first["queued"]


@contextmanager
def serving(job: dict[str, Any], **options: Any) -> Iterator[Running]:
    """Start a server in a folder of its own, and end it.

    Args:
        job: `server`, one of `KINDS`; `folder` and `level` for edgekit, `decoder` for the others, `threads`,
            `llama_server`, `llama_cpp_python`.
        options: `slots`, `queue`, `context`.
    """
    with tempfile.TemporaryDirectory(prefix="served-") as folder, _started(job, Path(folder), options) as running:
        yield running


def sent_to(server: Running, data: bytes) -> socket.socket:
    """A connection on which something was sent."""
    made = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    made.sendall(data.replace(b"HOST", b"127.0.0.1:%d" % server.port, 1))
    return made


def settled(server: Running) -> None:
    """Wait until nothing runs or waits."""
    if server.kind == "edgekit":
        until(lambda: server.engine()[1:] == (0, 0))


def until(happened: Callable[[], bool]) -> None:
    """Wait for something.

    Raises:
        SystemExit: it does not happen.
    """
    last = time.perf_counter() + LONGEST_S
    while not happened():
        if time.perf_counter() > last:
            raise SystemExit(f"nothing happened in {LONGEST_S:.0f} s")
        time.sleep(_STEP_S)


@contextmanager
def _started(job: dict[str, Any], folder: Path, options: dict[str, Any]) -> Iterator[Running]:
    kind = job["server"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = {"HOME": str(folder), "TMPDIR": str(folder), "EDGEKIT_CACHE": str(folder / "cache")}
    environment = {**os.environ, **home, "XDG_CACHE_HOME": str(folder / "xdg")}
    if kind != "edgekit":
        environment.pop("PYTHONPATH", None)
    began = time.perf_counter()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            _command(kind, job, port, options), stdout=log, stderr=log, env=environment, cwd=folder
        )
    try:
        model = f"{Path(job['folder']).resolve().name}:{job['level']}"
        _wait(port, process, "/health" if kind != "llama-cpp-python" else "/v1/models", folder / "server.log")
        started = time.perf_counter() - began
        yield Running(kind, port, psutil.Process(process.pid), model, _extra(kind, job), folder, started)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def _command(kind: str, job: dict[str, Any], port: int, options: dict[str, Any]) -> Sequence[str]:
    slots, context = options.get("slots", 1), options.get("context", 2048)
    if kind == "edgekit":
        given = {"--level": job["level"], "--slots": slots, "--queue": options.get("queue", 64), "--context": context}
        command = [sys.executable, "-m", "edgekit", "serve", job["folder"], "--port", port]
        return [str(word) for word in (*command, *(word for pair in given.items() for word in pair))]
    if kind == "llama-server":
        given = {"-m": job["decoder"], "-c": context * slots, "-np": slots, "-t": job["threads"], "--port": port}
        return [str(word) for word in (job["llama_server"], "--offline", *(w for pair in given.items() for w in pair))]
    given = {"--model": job["decoder"], "--n_ctx": context, "--n_threads": job["threads"], "--port": port}
    command = [job["llama_cpp_python"], "-m", "llama_cpp.server", "--host", "127.0.0.1"]
    return [str(word) for word in (*command, *(word for pair in given.items() for word in pair))]


def _extra(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    if kind == "llama-server":
        return {"ignore_eos": True}
    ends = json.loads((Path(job["folder"]) / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return {"logit_bias": dict.fromkeys(map(str, ends if isinstance(ends, list) else [ends]), -100)}


def _wait(port: int, process: subprocess.Popen[bytes], path: str, log: Path) -> None:
    for _ in range(20 * START_S):
        if process.poll() is not None:
            break
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        with suppress(OSError):
            connection.request("GET", path)
            if connection.getresponse().status == HTTPStatus.OK:
                return
        time.sleep(0.05)
    raise SystemExit(f"a server does not start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
