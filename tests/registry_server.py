"""Registries of containers on this machine: a small one that fails and lies as it is told, and Debian's own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

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
        sends_on: start of a path -> the address that it is sent on to.
        pages: starts of paths at which a web page answers.
        uploads_at: what is before the path of the place that an upload is given.
        asks: what it asks who somebody is by, in place of the usual.
        password: what Basic authentication must say, as `user:password`.
        token_answer: what is given in place of a token.
        token_uses: how often a token is taken; None where none is asked for.
        log: method, path and range of each request.
        told: what each request said of who asks.
        got: how many bytes of blobs were sent.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.statuses: deque[int] = deque()
        self.ranges = True
        self.sends_on: dict[str, str] = {}
        self.pages: list[str] = []
        self.uploads_at = ""
        self.asks: str | None = None
        self.told: list[str | None] = []
        self.closed = False
        self.password: str | None = None
        self.token_answer: bytes | None = None
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
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.closed = True
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
        if self.closed:  # connections that there were are answered no more, either
            request.close_connection = True
            return None
        path = urlsplit(request.path).path
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        if target := next((to for start, to in self.sends_on.items() if path.startswith(start)), None):
            return self.send(request, 307, b"", {"Location": target + path})
        if any(path.startswith(start) for start in self.pages):
            return self.send(request, 200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"})
        if path == "/token":
            return self.give_token(request)
        self.log.append((request.command, path, request.headers.get("Range")))
        self.told.append(request.headers.get("Authorization"))
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
        self.send(request, 202, b"", {"Location": f"{self.uploads_at}{urlsplit(request.path).path}1?state=of=it"})

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
        asks = self.asks or ("Basic realm=small" if self.token_uses is None else f"Bearer {asked}")
        self.send(request, 401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": asks})

    def give_token(self, request: BaseHTTPRequestHandler) -> None:
        if self.password and request.headers.get("Authorization") != (
            f"Basic {base64.b64encode(self.password.encode()).decode()}"
        ):
            return self.send(request, 401, b"{}")
        token = f"t{len(self.tokens)}"
        scope = parse_qs(urlsplit(request.path).query).get("scope", [":"])[0]
        self.tokens[token] = (set(scope.rsplit(":", 1)[1].split(",")), 0)
        return self.send(request, 200, self.token_answer or json.dumps({"token": token}).encode())


def certificate(folder: Path, name: str, ends: datetime) -> tuple[Path, ssl.SSLContext]:
    """A server's certificate for a name, signed by itself, and what serves with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    said = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(said)
        .issuer_name(said)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=400))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, secret = folder / f"{name}.crt", folder / f"{name}.key"
    path.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, secret)
    return path, context


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
