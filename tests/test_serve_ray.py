"""The server as a deployment of Ray Serve on two nodes, of which one is killed under load.

Needs a Python that has edgekit's extra [ray], named by a variable, and is skipped without it; this one's packages will
do beside it:

    python3.11 -m venv /tmp/ray && /tmp/ray/bin/pip install --editable '.[ray]'
    EDGEKIT_RAY=/tmp/ray/bin/python
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from material import photo
from pictures import png

PYTHON = os.environ.get("EDGEKIT_RAY", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="EDGEKIT_RAY names no Python that has ray"),
    pytest.mark.skipif(sys.platform != "linux", reason="several addresses of the loopback"),
]
HERE = Path(__file__).parent
KEY = "k3y-of-a-hospital-0123456789"
CANARY = "Zacharias-Quillfeather"
ENDS = {"1": -100, "5": -100}  # tokens at which the reference model stops
SESSION = {"x-session-id": "one"}
LOAD_S, CLIENTS = 20, 8


@dataclass
class Cluster:
    """One that serves.

    Attributes:
        folder: of Ray's files, its logs among them.
    """

    port: int
    folder: Path
    process: subprocess.Popen[str]

    def say(self, word: str) -> dict[str, Any]:
        """Give it a word, and wait for what it says."""
        assert self.process.stdin
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, (self.folder / "cluster.log").read_text(encoding="utf-8")[-4000:]
        return dict(json.loads(line))

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One request, with a key unless other headers are given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = headers if headers is not None else {"Authorization": f"Bearer {KEY}"}
        if isinstance(body, dict):
            body, given = json.dumps(body).encode(), {"Content-Type": "application/json", **given}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def chat(self, **more: Any) -> tuple[int, bytes]:
        turns = [{"role": "user", "content": f"What does {CANARY} have?"}]
        return self.request("POST", "/v1/chat/completions", {"model": "medgemma", "messages": turns, **more})


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def eventually(happened: Callable[[], bool], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.2)
    return happened()


@pytest.fixture(scope="module")
def cluster(medgemma_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with a replica each; their sockets' names are long, and so the folder's is short."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    artifact = keys.parent / "medgemma"
    artifact.symlink_to(medgemma_artifact)
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    given = {"artifacts": str(artifact), "api_key_file": str(keys), "port": port, "levels": "Q4_0", "slots": 2}
    settings = keys.parent / "settings.json"
    settings.write_text(json.dumps(given))
    with (folder / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            [PYTHON, str(HERE / "ray_cluster.py"), str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(folder)},
        )
    made = Cluster(port, folder, process)
    try:
        made.heard()
        yield made
    finally:
        process.communicate(timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def events(body: bytes) -> list[dict[str, Any]]:
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_the_same_api(cluster: Cluster) -> None:
    status, body = cluster.request("GET", "/v1/models")
    assert (status, [one["id"] for one in json.loads(body)["data"]]) == (200, ["medgemma:Q4_0"])
    status, body = cluster.chat(temperature=0, max_tokens=8)
    whole = json.loads(body)["choices"][0]["message"]["content"]
    assert status == 200
    status, body = cluster.chat(temperature=0, max_tokens=8, stream=True)
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in events(body) if event["choices"]]
    assert (status, body.endswith(b"data: [DONE]\n\n"), "".join(pieces)) == (200, True, whole)


def test_a_stream_comes_as_it_is_made(cluster: Cluster) -> None:
    turns = [{"role": "user", "content": "What is a cough?"}]
    asked = {"model": "medgemma", "messages": turns, "stream": True, "max_tokens": 200, "logit_bias": ENDS}
    connection = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked), _headers())
    answer = connection.getresponse()
    times = []
    while answer.readline():
        times.append(time.perf_counter())
    connection.close()
    assert times[-1] - times[0] > 5 * max(after - before for before, after in itertools.pairwise(times))


def _headers(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **more}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        (_headers(Authorization="Bearer an0ther-key-0123456789"), 401),
        (_headers(Host="rebound.example"), 403),
        (_headers(**{"Sec-Fetch-Site": "cross-site"}), 403),
        (_headers(**{"Content-Type": "text/plain"}), 415),
    ],
    ids=["no key", "a wrong key", "another host", "another site", "no json"],
)
def test_the_guard_holds(cluster: Cluster, headers: dict[str, str], status: int) -> None:
    found, body = cluster.request("POST", "/v1/chat/completions", b"{}", headers)
    assert (found, "message" in json.loads(body)["error"]) == (status, True)


def test_two_hosts_and_a_body_without_end(cluster: Cluster) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\n{1}\r\n"
    two = head.format(cluster.port, "Host: other\r\n" + "".join(f"{n}: {v}\r\n" for n, v in _headers().items()))
    assert b" 400 " in _raw(cluster.port, [two.encode()])
    chunks = [b"100000\r\n" + b" " * (1 << 20) + b"\r\n"] * 80
    lines = "".join(f"{name}: {value}\r\n" for name, value in _headers(**{"Transfer-Encoding": "chunked"}).items())
    assert b" 413 " in _raw(cluster.port, [head.format(cluster.port, lines).encode(), *chunks])


def _raw(port: int, parts: list[bytes]) -> bytes:
    """The first line of an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as made:
        sender = threading.Thread(target=_send, args=(made, parts))
        sender.start()
        first = made.recv(4096)
        made.shutdown(socket.SHUT_RDWR)
        sender.join()
    return first.split(b"\r\n")[0]


def _send(made: socket.socket, parts: list[bytes]) -> None:
    try:
        for part in parts:
            made.sendall(part)
    except OSError:  # it was refused before all was sent
        pass


def test_whoever_leaves_frees_a_slot(cluster: Cluster) -> None:
    turns = [{"role": "user", "content": "What is a cough?"}]
    asked = {"model": "medgemma", "messages": turns, "max_tokens": 2000, "logit_bias": ENDS}
    for stream in (True, False):
        made = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)
        made.request("POST", "/v1/chat/completions", json.dumps({**asked, "stream": stream}), _headers(**SESSION))
        assert eventually(lambda: running(cluster) > 0, 10)
        made.close()
        assert eventually(lambda: running(cluster) == 0, 5)


def running(cluster: Cluster) -> int:
    """Of the replica that has the session; without one, the least busy would be asked."""
    _, body = cluster.request("GET", "/props", headers=_headers(**SESSION))
    return sum(model["running"] for model in json.loads(body)["models"])


def test_a_session_stays_with_its_replica(cluster: Cluster) -> None:
    """An image that was handed over is there for its session's questions, and a session may be anywhere."""
    url = f"data:image/png;base64,{base64.b64encode(png(photo(64, 64))).decode()}"
    for session in map(str, range(6)):
        headers = _headers(**{"x-session-id": session})
        status, body = cluster.request("POST", "/v1/images", {"image": url, "model": "medgemma"}, headers)
        assert status == 200, body
        parts = [{"type": "image_url", "image_url": json.loads(body)["url"]}, {"type": "text", "text": "What is it?"}]
        asked = {"model": "medgemma", "messages": [{"role": "user", "content": parts}], "max_tokens": 1}
        assert cluster.request("POST", "/v1/chat/completions", asked, headers)[0] == 200


# ---------------------------------------------------------------- the last one: it ends a node


def outcome(cluster: Cluster, stream: bool) -> str:
    """How a request ended; what has no name here is a request that was lost."""
    try:
        status, body = cluster.chat(stream=stream, max_tokens=60, logit_bias=ENDS)
    except http.client.IncompleteRead as cut:
        last = events(cut.partial)[-1]
        return f"stream: {last['error']['code']}" if "error" in last else "stream: cut without a word"
    except (OSError, http.client.HTTPException) as error:
        return f"lost: {type(error).__name__}"
    if status != 200:
        return f"{status}: {json.loads(body)['error']['code']}"
    finished = body.endswith(b"data: [DONE]\n\n") if stream else bool(json.loads(body)["choices"])
    return "answered" if finished else "half an answer"


def test_a_node_dies_under_load(cluster: Cluster) -> None:
    """Every request is answered or told why not; the rest of the cluster goes on, and grows again."""
    outcomes: Counter[str] = Counter()
    until, late = time.monotonic() + LOAD_S, time.monotonic() + LOAD_S / 2

    def load(number: int) -> None:
        while time.monotonic() < until:
            said = outcome(cluster, stream=number % 2 == 0)
            outcomes[said if time.monotonic() < late else f"late {said}"] += 1

    clients = [threading.Thread(target=load, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(LOAD_S / 5)
    left = cluster.say("kill")["left"]
    for client in clients:
        client.join()
    told = {"503: engine_died", "stream: engine_died"}
    assert set(outcomes) <= {"answered", "late answered"} | told, outcomes
    assert outcomes["answered"] > CLIENTS
    assert outcomes["late answered"] > CLIENTS
    assert set(outcomes) & told, "nothing ran on the node that died"
    assert left, "its engine"
    assert eventually(lambda: not any(map(psutil.pid_exists, left)), 10), "the engine outlived its replica"
    cluster.say("add")
    assert eventually(lambda: cluster.say("count")["running"] == 2, 90)


def test_no_log_knows_a_question(cluster: Cluster) -> None:
    """Nor does any other file of Ray's: last, when all has been asked."""
    cluster.chat(max_tokens=1)
    written = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if any(one in path.read_bytes() for one in (CANARY.encode(), KEY.encode()))] == []
