"""Registries of containers on this machine: a small one that fails and lies as it is told, and Debian's own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>blobs|manifests)/(?P<rest>.*)")


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class SmallRegistry:
    """A registry in memory, as the distribution specification has it, for one repository.

    Attributes:
        blobs: digest -> content.
        manifests: tag or digest -> content.
        sent: digest, or tag of a manifest -> what is sent in place of its content.
        cut: digest -> how many bytes of an answer are sent before the connection breaks, once for each entry.
        statuses: answers to the next requests for blobs and manifests, in place of what they ask for.
        ranges: whether parts of blobs are sent.
        password: what Basic authentication must say, as `user:password`.
        token_uses: how often a token is taken; None where none is asked for.
        log: method, path and range of each request.
        got: how many bytes of blobs were sent.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.statuses: deque[int] = deque()
        self.ranges = True
        self.password: str | None = None
        self.token_uses: int | None = None
        self.tokens: dict[str, tuple[set[str], int]] = {}  # token -> what it is for, how often it was used
        self.log: list[tuple[str, str, str | None]] = []
        self.got = 0
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                registry.answer(self)

            do_GET = do_POST = do_PUT = do_HEAD

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """Nothing on the terminal where a client is gone."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def gets(self, content: bytes) -> list[str | None]:
        """The ranges that were asked of a blob, None for the whole."""
        return [span for method, path, span in self.log if method == "GET" and path.endswith(digest(content))]

    def puts(self) -> int:
        """How many blobs were uploaded."""
        return sum(method == "PUT" and "/uploads/" in path for method, path, _ in self.log)

    # ------------------------------------------------------------ answers

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        if path == "/token":
            return self.give_token(request)
        self.log.append((request.command, path, request.headers.get("Range")))
        if not self.is_known(request):
            return self.refuse(request)
        if path == "/v2/":
            return self.send(request, 200, b"{}")
        if self.statuses:
            return self.send(request, self.statuses.popleft(), b'{"errors": [{"code": "X", "message": "not now"}]}')
        found = _PATH.fullmatch(path)
        assert found, path
        handler = {"GET": self.get, "HEAD": self.get, "POST": self.post, "PUT": self.put}[request.command]
        return handler(request, found["kind"], found["rest"], body)

    def get(self, request: BaseHTTPRequestHandler, kind: str, name: str, _: bytes) -> None:
        stored = self.blobs if kind == "blobs" else self.manifests
        if name not in stored:
            return self.send(request, 404, b'{"errors": [{"code": "UNKNOWN"}]}')
        data = self.sent.get(name, stored[name])
        headers = {"Docker-Content-Digest": digest(stored[name])}
        if kind == "manifests":
            return self.send(request, 200, data, {**headers, "Content-Type": MANIFEST})
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start and self.ranges:
            if start >= len(data):
                return self.send(request, 416, b"")
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(request, 206, data[start:], headers, self.cut.get(name))
        return self.send(request, 200, data, headers, self.cut.get(name))

    def post(self, request: BaseHTTPRequestHandler, kind: str, name: str, _: bytes) -> None:
        assert (kind, name) == ("blobs", "uploads/")
        self.send(request, 202, b"", {"Location": f"{urlsplit(request.path).path}1?state=of=it"})

    def put(self, request: BaseHTTPRequestHandler, kind: str, name: str, body: bytes) -> None:
        if kind == "manifests":
            self.manifests[name] = self.manifests[digest(body)] = body
            return self.send(request, 201, b"", {"Docker-Content-Digest": digest(body)})
        asked = parse_qs(urlsplit(request.path).query)
        assert asked["state"] == ["of=it"]
        if asked["digest"] != [digest(body)]:
            return self.send(request, 400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "not that digest"}]}')
        self.blobs[digest(body)] = body
        return self.send(request, 201, b"")

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        cut: list[int] | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut:
            data = data[: cut.pop(0)]
            request.close_connection = True
        self.got += len(data)
        request.wfile.write(data)

    # ------------------------------------------------------------ who asks

    def is_known(self, request: BaseHTTPRequestHandler) -> bool:
        said = request.headers.get("Authorization", "")
        if self.password is not None and self.token_uses is None:
            return said == f"Basic {base64.b64encode(self.password.encode()).decode()}"
        if self.token_uses is None:
            return True
        token = said.removeprefix("Bearer ")
        rights, used = self.tokens.get(token, (set(), 0))
        self.tokens[token] = (rights, used + 1)
        return self.needed(request) <= rights and used < self.token_uses

    def needed(self, request: BaseHTTPRequestHandler) -> set[str]:
        if urlsplit(request.path).path == "/v2/":
            return {"somebody"}
        return {"pull"} if request.command in ("GET", "HEAD") else {"pull", "push"}

    def refuse(self, request: BaseHTTPRequestHandler) -> None:
        asked = f'realm="http://{self.host}/token",service="small",scope="repository:m:{",".join(self.needed(request))}"'
        asks = "Basic realm=small" if self.token_uses is None else f"Bearer {asked}"
        self.send(request, 401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": asks})

    def give_token(self, request: BaseHTTPRequestHandler) -> None:
        if self.password and request.headers.get("Authorization") != (
            f"Basic {base64.b64encode(self.password.encode()).decode()}"
        ):
            return self.send(request, 401, b"{}")
        token = f"t{len(self.tokens)}"
        scope = parse_qs(urlsplit(request.path).query).get("scope", [":"])[0]
        self.tokens[token] = (set(scope.rsplit(":", 1)[1].split(",")), 0)
        return self.send(request, 200, json.dumps({"token": token}).encode())


# ---------------------------------------------------------------- Debian's


def debians() -> str | None:
    """Debian's docker-registry, where it is installed or $DOCKER_REGISTRY names it."""
    return os.environ.get("DOCKER_REGISTRY") or shutil.which("docker-registry")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


CONFIGURATION = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def debians_registry(folder: Path) -> Iterator[str]:
    """It runs, with its storage in a folder; yields its host and port."""
    program, port = debians(), free_port()
    assert program
    (folder / "config.yml").write_text(CONFIGURATION.format(storage=folder / "storage", port=port))
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert running.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(10)


class BreakingWire:
    """A wire to a server that is cut after so many bytes of its answers, once for each entry of `after`."""

    def __init__(self, host: str, after: list[int]) -> None:
        self.after = after
        name, port = host.split(":")
        self.server = (name, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # it was closed
                return
            far = socket.create_connection(self.server)
            threading.Thread(target=self.carry, args=(near, far), daemon=True).start()
            threading.Thread(target=self.carry, args=(far, near, True), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, cut: bool = False) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(1 << 14):
                target.sendall(data)
                carried += len(data)
                if cut and self.after and carried > self.after[0]:
                    self.after.pop(0)
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
