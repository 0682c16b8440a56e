"""The server's front door over real sockets: what is refused, how it is said, and that good clients go on meanwhile."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import h11
import pytest
from doors import MUCH, QUICK, Door, Engines, answer, door
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from edgekit.errors import ArtifactError, EdgekitError, InputError, SnapshotError, UsageError
from edgekit.serve.api.reading import ParameterError
from edgekit.serve.engines import errors as engines
from edgekit.serve.http import answers, errors, guard, logs
from edgekit.serve.http.errors import BadJson
from edgekit.serve.http.json_body import parsed
from edgekit.serve.http.keys import read_keys
from edgekit.serve.http.limits import Limits
from edgekit.serve.http.server import is_loopback, listen
from edgekit.serve.http.wire import Wire

KEY = "k3y-of-a-clinic-0123456789"
CANARY = "Zacharias-Quillfeather"


@pytest.fixture(scope="module")
def server() -> Iterator[Door]:
    with door() as made:
        yield made


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# a clinic's\n{KEY}\nan0ther-key-0123456789\n")
    path.chmod(0o600)
    with door(keys=read_keys(path)) as made:
        yield made


def post(*headers: str, body: bytes = b"{}", length: int | None = None, line: str = "POST /v1/echo HTTP/1.1") -> bytes:
    """A request whose headers stand as they are; `HOST` in them is the server's own."""
    size = len(body) if length is None else length
    every = [
        "Host: HOST",
        "Content-Type: application/json",
        *([f"Content-Length: {size}"] if size >= 0 else []),
        *headers,
    ]
    return "\r\n".join([line, *every, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes) -> bytes:
    return post("Transfer-Encoding: chunked", length=-1, body=b"".join(chunks))


def get(*headers: str, line: str = "GET /health HTTP/1.1") -> bytes:
    return "\r\n".join([line, *headers, "", ""]).encode("latin-1")


MANY = [f"X-{number}: y" for number in range(20_000)]

# What is sent -> the one status that comes back.
RAW: dict[str, tuple[int, bytes]] = {
    "good": (200, post()),
    "good, in chunks": (200, chunked(b"2\r\n{}\r\n", b"0\r\n\r\n")),
    "good, chunk sizes in either case": (
        200,
        chunked(b"a;x=1\r\n[1,2,3,44]\r\n", b"A\r\n          \r\n", b"0\r\n\r\n"),
    ),
    "good, of HTTP/1.0": (200, get("Host: HOST", line="GET /health HTTP/1.0")),
    "good, 100 headers": (200, get("Host: HOST", *MANY[:99])),
    "good, expects 100": (100, post("Expect: 100-continue")),
    "good, offers another protocol": (200, get("Host: HOST", "Connection: Upgrade", "Upgrade: h2c")),
    "good, asks for a WebSocket": (200, get("Host: HOST", "Connection: Upgrade", "Upgrade: websocket")),
    "no line": (400, b"\r\n\r\n"),
    "no HTTP": (400, b"hello there\r\n\r\n"),
    "no version": (400, b"GET /\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)),
    "binary": (400, bytes(range(256))),
    "NUL first": (400, b"\0" + get("Host: HOST")),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/3.0": (505, get("Host: HOST", line="GET /health HTTP/3.0")),
    "HTTP/1.2": (505, get("Host: HOST", line="GET /health HTTP/1.2")),
    "HTTP/11": (400, get("Host: HOST", line="GET /health HTTP/11")),
    "two spaces": (400, get("Host: HOST", line="GET  /health HTTP/1.1")),
    "tab in the line": (400, get("Host: HOST", line="GET\t/health HTTP/1.1")),
    "space in the path": (400, get("Host: HOST", line="GET /a b HTTP/1.1")),
    "a method of 40 letters": (400, get("Host: HOST", line=f"{'A' * 40} /health HTTP/1.1")),
    "an unknown method": (405, get("Host: HOST", line="BREW /health HTTP/1.1")),
    "a proxy's path": (400, get("Host: HOST", line="GET http://elsewhere/ HTTP/1.1")),
    "CONNECT": (400, get("Host: HOST", line="CONNECT elsewhere:443 HTTP/1.1")),
    "OPTIONS *": (400, get("Host: HOST", line="OPTIONS * HTTP/1.1")),
    "NUL in the path": (400, get("Host: HOST", line="GET /he\0alth HTTP/1.1")),
    "escaped NUL in the path": (400, get("Host: HOST", line="GET /%00 HTTP/1.1")),
    "half a character in the path": (400, get("Host: HOST", line="GET /%ff HTTP/1.1")),
    "letters beyond ASCII in the path": (400, get("Host: HOST", line="GET /h\xe9 HTTP/1.1")),
    "a path of 9 KB": (414, get("Host: HOST", line=f"GET /{'a' * 9000} HTTP/1.1")),
    "a path of 1 MB": (414, get("Host: HOST", line=f"GET /{'a' * (1 << 20)} HTTP/1.1")),
    "a path out of the root": (404, get("Host: HOST", line="GET /../../etc/passwd HTTP/1.1")),
    "bare LF": (400, get("Host: HOST").replace(b"\r\n", b"\n")),
    "bare LF in one header": (400, get("X: a\nY: b", "Host: HOST")),
    "bare CR": (400, get("X: a\rY: b", "Host: HOST")),
    "folded header": (400, get("Host: HOST", "X: a\r\n b")),
    "folded first header": (400, get(" X: a", "Host: HOST")),
    "NUL in a header": (400, get("Host: HOST", "X: a\0b")),
    "a control character in a header": (400, get("Host: HOST", "X: a\x01b")),
    "space before the colon": (400, get("Host: HOST", "X : a")),
    "a header without a name": (400, get("Host: HOST", ": a")),
    "a header without a colon": (400, get("Host: HOST", "X")),
    "a name beyond ASCII": (400, get("Host: HOST", "\xe9: a")),
    "101 headers": (431, get("Host: HOST", *MANY[:100])),
    "20,000 headers": (431, get("Host: HOST", *MANY)),
    "1 MB header": (431, get("Host: HOST", f"X: {'a' * (1 << 20)}")),
    "a name of 1 MB": (431, get("Host: HOST", f"{'a' * (1 << 20)}: a")),
    "no host": (400, get()),
    "no host, of HTTP/1.0": (400, get(line="GET /health HTTP/1.0")),
    "two hosts": (400, get("Host: HOST", "Host: HOST")),
    "two hosts, one foreign": (400, get("Host: HOST", "host: evil.example")),
    "empty host": (403, get("Host:")),
    "foreign host": (403, get("Host: evil.example")),
    "foreign host with our port": (403, get("Host: evil.example:PORT")),
    "our host with another port": (403, get("Host: 127.0.0.1:1")),
    "our host without its port": (403, get("Host: localhost")),
    "two hosts in one": (403, get("Host: HOST, evil.example")),
    "two lengths": (400, post("Content-Length: 3")),
    "two equal lengths": (400, post("Content-Length: 2")),
    "two lengths in one": (400, post("Content-Length: 2, 2", length=-1)),
    "length and chunks": (400, post("Transfer-Encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n")),
    "negative length": (400, post("Content-Length: -2", length=-1)),
    "signed length": (400, post("Content-Length: +2", length=-1)),
    "hexadecimal length": (400, post("Content-Length: 0x2", length=-1)),
    "length of other digits": (400, post("Content-Length: \xb2", length=-1)),
    "empty length": (400, post("Content-Length:", length=-1)),
    "no length": (400, post(length=-1, body=b"")),
    "length of 1 TB": (413, post(length=1 << 40, body=b"")),
    "length of 40 digits": (413, post(f"Content-Length: {'9' * 40}", length=-1)),
    "length above the limit, expects 100": (413, post("Expect: 100-continue", length=65 << 20, body=b"")),
    "another expectation": (417, post("Expect: miracles")),
    "gzip, chunked": (501, post("Transfer-Encoding: gzip, chunked", length=-1)),
    "identity": (501, post("Transfer-Encoding: identity", length=-1)),
    "chunked twice": (400, post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", length=-1)),
    "chunks in HTTP/1.0": (400, post("Transfer-Encoding: chunked", length=-1, line="POST /v1/echo HTTP/1.0")),
    "space behind a chunk size": (200, chunked(b"2 \t\r\n{}\r\n0\r\n\r\n")),
    "space before a chunk extension": (400, chunked(b"2 ;x=1\r\n{}\r\n0\r\n\r\n")),
    "no chunk size": (400, chunked(b"\r\n{}\r\n0\r\n\r\n")),
    "chunk size of no digits": (400, chunked(b"xyz\r\n{}\r\n0\r\n\r\n")),
    "negative chunk size": (400, chunked(b"-2\r\n{}\r\n0\r\n\r\n")),
    "chunk size with 0x": (400, chunked(b"0x2\r\n{}\r\n0\r\n\r\n")),
    "chunk size of 30 digits": (400, chunked(b"f" * 30 + b"\r\n")),
    "chunk of 1 TB": (413, chunked(b"10000000000\r\n")),
    "chunk longer than it says": (400, chunked(b"1\r\n{}\r\n0\r\n\r\n")),
    "chunk line with bare LF": (400, chunked(b"2\n{}\r\n0\r\n\r\n")),
    "chunk end with bare LF": (400, chunked(b"2\r\n{}\n0\r\n\r\n")),
    "NUL in a chunk extension": (400, chunked(b"2;\0\r\n{}\r\n0\r\n\r\n")),
    "chunk extension of 2 KB": (400, chunked(b"2;" + b"a" * 2048 + b"\r\n{}\r\n0\r\n\r\n")),
    "chunk extension without end": (400, chunked(b"2;" + b"a" * (1 << 20))),
    "flood of chunk extensions": (400, chunked(*[b"1;" + b"a" * 900 + b"\r\n \r\n"] * 5000)),
    "3 MB of one-byte chunks": (400, chunked(*[b"1\r\n \r\n"] * (3 << 20))),
    "trailers": (400, chunked(b"2\r\n{}\r\n0\r\nX: y\r\n\r\n")),
    "no content type": (415, b"POST /v1/echo HTTP/1.1\r\nHost: HOST\r\nContent-Length: 2\r\n\r\n{}"),
    "no body, and no type of one": (400, b"POST /v1/echo HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    "an empty body, and no type of one": (400, b"POST /v1/echo HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"),
    "an empty body of text": (
        415,
        b"POST /v1/echo HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n",
    ),
    "chunks of no type": (
        415,
        b"POST /v1/echo HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ),
    "another method without a body": (405, b"PUT /health HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    "a form": (415, post().replace(b"application/json", b"application/x-www-form-urlencoded")),
    "plain text": (415, post().replace(b"application/json", b"text/plain")),
    "two content types": (415, post("Content-Type: application/json")),
    "another charset": (415, post().replace(b"application/json", b"application/json; charset=utf-16")),
    "compressed": (415, post("Content-Encoding: gzip")),
    "from another site": (403, post("Sec-Fetch-Site: cross-site")),
    "from a neighbour": (403, post("Sec-Fetch-Site: same-site")),
    "read by another site": (403, get("Host: HOST", "Sec-Fetch-Site: cross-site")),
    "from another origin": (403, post("Origin: http://evil.example")),
    "from no origin": (403, post("Origin: null")),
    "a browser's question for another site": (
        405,
        get("Host: HOST", "Origin: http://HOST", line="OPTIONS /v1/echo HTTP/1.1"),
    ),
    "from our page": (200, post("Origin: http://HOST", "Sec-Fetch-Site: same-origin")),
    "typed into a browser": (200, get("Host: HOST", "Sec-Fetch-Site: none")),
    "unknown route": (404, get("Host: HOST", line="GET /nothing HTTP/1.1")),
    "a slash too many": (404, get("Host: HOST", line="GET /health/ HTTP/1.1")),
    "wrong method": (405, get("Host: HOST", line="GET /v1/echo HTTP/1.1")),
    "PUT": (405, post(line="PUT /v1/echo HTTP/1.1")),
    "TRACE": (405, get("Host: HOST", line="TRACE /v1/echo HTTP/1.1")),
    "no JSON": (400, post(body=b"{")),
    "empty body": (400, post(body=b"")),
}


def sent(server: Door, raw: bytes) -> bytes:
    return raw.replace(b"HOST", server.host.encode()).replace(b"PORT", str(server.port).encode())


@pytest.mark.parametrize("name", RAW)
def test_each_request_has_its_one_status(server: Door, name: str) -> None:
    status, raw = RAW[name]
    got, headers, body = server.send(sent(server, raw))
    assert got == status, body
    if status >= 400:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"]
        assert "Traceback" not in error["message"]
    if status != 100:
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control-")]
    assert server.request("GET /health")[0] == 200


def test_there_are_as_many_cases_as_were_asked_for() -> None:
    assert len(RAW) >= 60


def test_what_is_refused_costs_little(server: Door) -> None:
    before = time.process_time()
    server.send(sent(server, RAW["3 MB of one-byte chunks"][1]))
    assert time.process_time() - before < 2


def test_requests_one_behind_the_other_are_answered_in_turn(server: Door) -> None:
    with server.connect() as client:
        client.sendall(server.raw("POST /v1/echo", b"[1]") + server.raw("POST /v1/echo", b"[2]") + b"rubbish\r\n\r\n")
        received = b""
        while block := client.recv(65536):
            received += block
    assert [part for part in (b"[1]", b"[2]", b"bad_request") if part in received] == [b"[1]", b"[2]", b"bad_request"]
    assert received.index(b"[1]") < received.index(b"[2]") < received.index(b"bad_request")


@pytest.mark.parametrize("more", [{}, {"connection": "close"}])
def test_who_is_refused_in_the_midst_of_an_upload_reads_why(server: Door, more: dict[str, str]) -> None:
    """Bytes that are not read when a socket is closed would reset it, and the answer would be lost."""
    for _ in range(5):
        with server.connect() as client:
            client.sendall(server.raw("POST /v1/echo", bytes(12 << 20), content_type="text/plain", **more))
            status, _, body = answer(client)
        assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")


def test_a_connection_serves_many_requests(server: Door) -> None:
    with server.connect() as client:
        for number in range(50):
            client.sendall(server.raw("POST /v1/echo", str(number).encode()))
            assert answer(client)[2] == str(number).encode()


# ---------------------------------------------------------------- bytes, in whatever pieces


def fed(raw: bytes, cuts: list[int]) -> tuple[bytes, str]:
    wire, passed = Wire(Limits()), b""
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        more, refusal = wire.feed(raw[begin:end])
        passed += more
        if refusal:
            return passed, type(refusal).__name__
    return passed, wire.phase


@given(st.sampled_from([name for name, (_, raw) in RAW.items() if len(raw) < 3000]), st.lists(st.integers(0, 10**6)))
def test_how_bytes_are_cut_decides_nothing(name: str, cuts: list[int]) -> None:
    raw = RAW[name][1]
    whole, end = fed(raw, [])
    passed, other_end = fed(raw, cuts)
    assert end == other_end
    assert passed == whole if end in ("idle", "head", "body") else whole.startswith(passed) or passed.startswith(whole)


@given(
    st.sampled_from([name for name, (status, raw) in RAW.items() if len(raw) < 3000]),
    st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=3)), max_size=3),
)
def test_what_is_passed_on_is_what_h11_reads(name: str, changes: list[tuple[int, bytes]]) -> None:
    """Two readers of the same bytes agree where a request ends: nobody hides one in another's body."""
    raw = bytearray(RAW[name][1] + post(body=b"[0]"))
    for place, new in changes:
        place %= len(raw)
        raw[place : place + len(new)] = new
    wire = Wire(Limits())
    passed, _ = wire.feed(bytes(raw))
    if passed and (read := h11_reads(passed)):
        assert read == (wire.requests, wire.phase == "body")


def h11_reads(raw: bytes) -> tuple[int, bool] | None:
    """How many requests, and whether the last one's body is incomplete; None where one is a connection's last."""
    reader, requests = h11.Connection(h11.SERVER), 0
    reader.receive_data(raw)
    while (event := reader.next_event()) is not h11.NEED_DATA:
        if event is h11.PAUSED:
            reader.start_next_cycle()
        elif isinstance(event, h11.Request):
            requests += 1
            reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            reader.send(h11.EndOfMessage())
            if reader.our_state is not h11.DONE:
                return None
    return requests, reader.their_state is h11.SEND_BODY


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_a_refusal_or_no_request_yet(raw: bytes, cuts: list[int]) -> None:
    passed, end = fed(raw, cuts)
    assert passed == b""
    assert end in ("idle", "head") or issubclass(getattr(errors, end), errors.Refusal)


# ---------------------------------------------------------------- slow clients


def ends(client: socket.socket, within_s: float = 30.0) -> bytes:
    """All that comes until the server ends the connection."""
    client.settimeout(within_s)
    received = b""
    try:
        while block := client.recv(65536):
            received += block
    except ConnectionResetError:
        pass
    return received


def drip(client: socket.socket, block: bytes, pause_s: float, seconds: float) -> None:
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            client.sendall(block)
            time.sleep(pause_s)
    except OSError:
        pass


def test_who_says_nothing_is_let_go(server: Door) -> None:
    with server.connect() as client:
        assert ends(client) == b""


@pytest.mark.parametrize("pause_s", [0.05, 2.0])
def test_a_slow_head_ends(server: Door, pause_s: float) -> None:
    with server.connect() as client:
        client.sendall(b"GET /health HTTP/1.1\r\nX: ")
        thread = threading.Thread(target=drip, args=(client, b"a", pause_s, 3))
        thread.start()
        received = ends(client)
        thread.join()
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("pause_s", [0.05, 2.0])
def test_a_slow_body_ends(server: Door, pause_s: float) -> None:
    """One that stands still, and one that comes a byte at a time."""
    with server.connect() as client:
        client.sendall(post(length=100_000, body=b"").replace(b"HOST", server.host.encode()))
        thread = threading.Thread(target=drip, args=(client, b" ", pause_s, 3))
        thread.start()
        received = ends(client)
        thread.join()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert server.app.running == 0


def test_a_slow_body_that_is_fast_enough_arrives(server: Door) -> None:
    body = b" " * 6000 + b"[1]"
    with server.connect() as client:
        client.sendall(server.raw("POST /v1/echo", body)[: -len(body)])
        for begin in range(0, len(body), 300):
            client.sendall(body[begin : begin + 300])
            time.sleep(0.05)
        assert answer(client)[0] == 200


def test_a_connection_that_idles_ends(server: Door) -> None:
    with server.connect() as client:
        client.sendall(server.raw("GET /health"))
        assert answer(client)[0] == 200
        assert ends(client) == b""


def test_who_never_reads_holds_little(server: Door) -> None:
    """640 MB are asked for: what was made when the server gave up is what the sockets' buffers hold."""
    MUCH.clear()
    with server.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.sendall(server.raw("GET /v1/much/blocks"))
        until = time.monotonic() + 15
        while not server.app.running and time.monotonic() < until:
            time.sleep(0.01)
        while server.app.running and time.monotonic() < until:
            time.sleep(0.05)
        assert server.app.running == 0
        assert len(MUCH) * (64 << 10) < 16 << 20


def test_who_asks_on_and_on_and_never_reads_holds_little(server: Door) -> None:
    """A million requests one behind the other, none of whose answers is read."""
    import psutil

    process, raw = psutil.Process(), server.raw("GET /terms") * 1000
    before = process.memory_info().rss
    with server.connect(timeout=1) as client, contextlib.suppress(TimeoutError, ConnectionError):
        for _ in range(1000):
            client.sendall(raw)
    assert process.memory_info().rss - before < 64 << 20
    wait_until(lambda: server.app.running == 0)
    assert server.request("GET /health")[0] == 200


def test_an_answer_outlives_the_times_for_requests() -> None:
    with door(engines=Engines(pause_s=0.2)) as slow:
        status, _, body = slow.request("POST /v1/stream", b"{}")
        assert (status, body.count(b"piece")) == (200, 20 // 2)


def test_who_leaves_frees_its_place() -> None:
    with door(engines=Engines(pause_s=0.5)) as slow:
        with slow.connect() as client:
            client.sendall(slow.raw("POST /v1/stream", b"{}"))
            client.recv(100)
        until = time.monotonic() + 5
        while not slow.engines.left and time.monotonic() < until:
            time.sleep(0.01)
        assert slow.engines.left == 1


@pytest.mark.parametrize("count", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_slow_sockets_do_not_hinder_good_clients(count: int) -> None:
    beginnings = [b"", b"G", b"POST /v1/echo HTTP/1.1\r\nHost: ", post(length=1 << 20, body=b"[")]
    with door(Limits()) as server:
        held = [server.connect() for _ in range(count)]
        for number, client in enumerate(held):
            client.sendall(beginnings[number % len(beginnings)].replace(b"HOST", server.host.encode()))
        with ThreadPoolExecutor(8) as pool:
            statuses = [*pool.map(lambda _: server.request("POST /v1/echo", b"[1]")[0], range(200))]
        assert statuses == [200] * 200
        assert all(not select.select([client], [], [], 0)[0] for client in held)  # none was turned away
        for client in held:
            client.close()


def test_beyond_the_most_connections_the_one_that_waited_longest_ends() -> None:
    with door(Limits(connections=20, tick_s=0.05)) as server:
        held = []
        for _ in range(20):
            held.append(server.connect())
            time.sleep(0.02)
        time.sleep(0.2)
        assert server.request("POST /v1/echo", b"[1]")[0] == 200
        assert answer(held[0])[0] == 503
        assert not select.select(held[5:], [], [], 0.1)[0]
        for client in held:
            client.close()


def test_all_bodies_together_are_bounded() -> None:
    with door(Limits(bodies_bytes=1 << 20)) as server:
        status, headers, _ = server.request("POST /v1/echo", b" " * (4 << 20) + b"[1]")
        assert (status, headers["retry-after"]) == (503, "5")
        assert server.request("POST /v1/echo", b" " * (1 << 19) + b"[1]")[0] == 200
        assert server.request("POST /v1/echo", b" " * (1 << 19) + b"[1]")[0] == 200


# ---------------------------------------------------------------- hosts, keys


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("clinic.local", 200),
        ("clinic.local:{port}", 200),
        ("clinic.local:1", 403),
        ("localhost.:{port}", 403),
        ("clinic.local.evil.example:{port}", 403),
        ("127.0.0.1.evil.example:{port}", 403),
        ("evil.example#127.0.0.1:{port}", 403),
        ("user@127.0.0.1:{port}", 403),
        ("0.0.0.0:{port}", 403),
        ("2130706433:{port}", 403),
        ("[::ffff:127.0.0.1]:{port}", 403),
    ],
)
def test_only_its_own_names_reach_it(server: Door, host: str, status: int) -> None:
    assert server.request("GET /props", host=host.format(port=server.port))[0] == status


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.2", 200), ("127.0.0.3", 403), ("127.0.0.1", 200), ("0.0.0.0", 403), ("evil.example", 403)],
)
def test_a_server_of_all_addresses_answers_to_the_one_that_was_reached(host: str, status: int) -> None:
    with door(host="0.0.0.0") as server, socket.create_connection(("127.0.0.2", server.port), timeout=20) as client:
        client.sendall(server.raw("GET /props", host=f"{host}:{server.port}"))
        assert answer(client)[0] == status


def test_the_port_of_the_web_may_be_left_out() -> None:
    assert guard.allowed_hosts("10.0.0.1", 80) >= {"localhost", "localhost:80", "10.0.0.1", "10.0.0.1:80"}
    assert not guard.allowed_hosts("10.0.0.1", 8080) & {"localhost", "10.0.0.1"}


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_server_on_ipv6() -> None:
    try:
        listen("::1", 0).close()
    except UsageError:
        pytest.skip("no IPv6 here")
    with door(host="::1") as server, socket.create_connection(("::1", server.port), timeout=20) as client:
        client.sendall(server.raw("GET /health", host=f"[::1]:{server.port}"))
        assert answer(client)[0] == 200


def test_every_route_but_health_needs_the_key(keyed: Door) -> None:
    seen = []
    for route in walk(keyed):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = route.path.replace("{what}", "blocks")
            status = keyed.request(f"{method} {path}", b"{}" if method == "POST" else b"")[0]
            seen.append((route.path, status))
            assert status == (200 if path in ("/health", "/") else 401), path
    assert len(seen) >= 8


def walk(server: Door) -> list[Route]:
    return [route for route in server.routes if isinstance(route, Route)]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        ("Bearer an0ther-key-0123456789", 200),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Basic {KEY}", 401),
        (KEY, 401),
        ("Bearer", 401),
        ("Bearer # a clinic's", 401),
        ("", 401),
        (f"Bearer {KEY}\xe9", 401),
    ],
)
def test_only_a_key_of_the_file_opens(keyed: Door, given: str, status: int) -> None:
    got, headers, body = keyed.request("GET /props", authorization=given)
    assert got == status
    assert ("www-authenticate" in headers) == (status == 401)
    assert (b"does not begin with Bearer" in body) == (status == 401 and given.partition(" ")[0].lower() != "bearer")
    assert KEY.encode() not in body


def test_two_keys_are_none(keyed: Door) -> None:
    raw = get("Host: HOST", *[f"Authorization: Bearer {KEY}"] * 2, line="GET /props HTTP/1.1")
    assert keyed.send(sent(keyed, raw))[0] == 401


def test_unknown_routes_need_the_key_too(keyed: Door) -> None:
    assert keyed.request("GET /nothing")[0] == 401
    assert keyed.request("GET /nothing", authorization=f"Bearer {KEY}")[0] == 404


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (f"{KEY}\n", 0o644, "others may use"),
        (f"{KEY}\n", 0o620, "others may use"),
        ("", 0o600, "no keys"),
        ("# nothing\n\n", 0o600, "no keys"),
        ("short\n", 0o600, "line 1"),
        (f"{KEY}\nwith a space in it 0123456789\n", 0o600, "line 2"),
        (f"{KEY * 20}\n", 0o600, "line 1"),
        (f"{KEY}é\n", 0o600, "line 1"),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_a_bad_key_file_is_refused_and_never_quoted(tmp_path: Path, content: str, mode: int, said: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(UsageError, match=said) as caught:
        read_keys(path)
    assert not any(line.strip() and line in str(caught.value) for line in content.splitlines())


@pytest.mark.skipif(shutil.which("openssl") is None or os.name != "posix", reason="needs openssl and a shell")
def test_who_has_no_key_file_is_told_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "the keys"
    with pytest.raises(UsageError) as caught:
        read_keys(path)
    assert caught.value.remedy
    subprocess.run(caught.value.remedy, shell=True, check=True)  # as its user would paste it
    assert read_keys(path).digests


@pytest.mark.parametrize("type_", ["image/png", "multipart/form-data; boundary=a", "application/octet-stream"])
def test_who_sends_a_file_is_told_how_images_are_sent(server: Door, type_: str) -> None:
    status, _, body = server.request("POST /v1/images", b"\x89PNG", content_type=type_)
    assert status == 415
    assert '{"image": "data:image/png;base64,..."}' in json.loads(body)["error"]["message"]


def test_a_wrong_method_is_said_before_a_wrong_type(server: Door) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        status, headers, _ = server.request(f"{method} /v1/echo", content_type="text/plain")
        assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_key_file_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="key file"):
        read_keys(tmp_path if kind == "folder" else tmp_path / "none")


# ---------------------------------------------------------------- JSON

BAD_JSON: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no body"),
    "spaces": (b" \r\n", "no body"),
    "a comma too many": (b"[1,]", "not valid JSON"),
    "two values": (b"1 2", "not valid JSON"),
    "single quotes": (b"{'a': 1}", "not valid JSON"),
    "NaN": (b"[NaN]", "no finite number"),
    "Infinity": (b"[-Infinity]", "no finite number"),
    "a number beyond all": (b"[1e999]", "no finite number"),
    "a number of 5,000 digits": (b"[" + b"9" * 5000 + b"]", "a number of 5000 digits"),
    "a name twice": (b'{"a": 1, "a": 2}', "two entries of one name"),
    "a name twice, escaped": (b'{"a": 1, "\\u0061": 2}', "two entries of one name"),
    "no UTF-8": (b'["\xff"]', "not valid JSON"),
    "UTF-16": ("[1]".encode("utf-16"), "not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf[1]", "not valid JSON"),
    "half a character": (b'["\\ud800"]', "half a character"),
    "half a character in a name": (b'{"\\udc00": 1}', "half a character"),
    "70 deep": (b"[" * 70 + b"]" * 70, "nested more than 64 deep"),
    "100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "not valid JSON"),
    "100,000 objects deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not valid JSON"),
    "a million empty lists": (b"[" + b"[]," * 1_000_000 + b"[]]", "more than 500000 entries"),
    "a control character": (b'["a\nb"]', "not valid JSON"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_has_one_meaning_or_none(name: str) -> None:
    raw, said = BAD_JSON[name]
    with pytest.raises(BadJson, match=said):
        parsed(raw)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**39), 10**39)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_was_written_is_read(value: object) -> None:
    assert parsed(json.dumps(value).encode()) == value
    assert json.loads(answers.encoded(value)) == value


def test_a_large_body_arrives(server: Door) -> None:
    body = json.dumps({"image": "A" * (8 << 20)}).encode()
    status, _, echoed = server.request("POST /v1/echo", body)
    assert (status, json.loads(echoed)) == (200, json.loads(body))


# ---------------------------------------------------------------- errors, logs


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (engines.UnknownModel("none"), 404, "model_not_found"),
        (engines.Poisoned("twice"), 422, "request_ends_engines"),
        (engines.Busy("full", retry_after_s=1.2), 429, "queue_full"),
        (engines.EngineDied("it died", retry_after_s=0.1), 503, "engine_died"),
        (engines.TooLarge("no room"), 503, "model_too_large"),
        (engines.EngineFailed("no file"), 503, "engine_failed"),
        (engines.Draining("the end", retry_after_s=3), 503, "server_draining"),
        (SnapshotError("of another"), 400, "invalid_input"),
        (InputError("no image"), 400, "invalid_input"),
        (ParameterError("n", "too many"), 400, "invalid_input"),
        (UsageError("no such"), 400, "invalid_value"),
        (ArtifactError("damaged"), 503, "artifact_unusable"),
        (EdgekitError("something"), 500, "internal_error"),
    ],
)
def test_each_error_has_its_one_answer(error: EdgekitError, status: int, code: str) -> None:
    response = answers.response(error)
    said = json.loads(response.body)["error"]
    assert (response.status_code, said["code"]) == (status, code)
    assert said["param"] == getattr(error, "param", None)
    seconds = getattr(error, "retry_after_s", None)
    assert response.headers.get("retry-after") == (str(math.ceil(seconds)) if seconds else None)


def test_an_error_says_what_is_allowed_and_what_to_do() -> None:
    error = InputError("what", allowed="that", remedy="this", items=["one", "two"])
    assert answers.body(error)["error"]["message"] == "what; - one; - two; allowed: that; try: this"


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What the server logs, at the level at which it says most."""
    logs.begin("debug")

    def so_far() -> str:
        time.sleep(0.2)
        return capfd.readouterr().err

    yield so_far
    logging.getLogger("edgekit.serve").handlers.clear()


def test_the_table_knows_every_refusal() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)]
    assert {kind for kind in kinds if kind is not errors.Refusal} <= answers.ROWS.keys()


def test_an_error_that_nobody_foresaw_says_a_number_and_the_log_where(server: Door, logged: Callable[[], str]) -> None:
    status, _, body = server.request("POST /v1/broken", f'"{CANARY}"'.encode())
    error = json.loads(body)["error"]
    number = error["message"].split()[2].rstrip(";")
    said = logged()
    assert (status, error["code"]) == (500, "internal_error")
    assert f"internal error {number}: ValueError" in said
    assert "in broken" in said
    assert CANARY not in said + body.decode()


def test_who_leaves_in_the_midst_of_an_upload_is_no_error_of_the_server(
    server: Door, logged: Callable[[], str]
) -> None:
    with server.connect() as client:
        client.sendall(server.raw("POST /v1/echo", b"[1]", content_length="100"))
        wait_until(lambda: server.app.running == 1)
    wait_until(lambda: server.app.running == 0)
    said = logged()
    assert "POST /v1/echo 499" in said
    assert "internal error" not in said


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(0o600)
    os.chown(path, 12345, -1)
    with pytest.raises(UsageError, match="another user"):
        read_keys(path)


def test_the_log_has_routes_and_nothing_that_was_sent(keyed: Door, logged: Callable[[], str]) -> None:
    authorized = {"authorization": f"Bearer {KEY}"}
    keyed.request(f"GET /v1/much/{CANARY}", host=CANARY, **authorized)
    keyed.request(f"GET /{CANARY}?{CANARY}", **authorized)
    keyed.request("POST /v1/echo", f'["{CANARY}", \ud800'.encode("utf-8", "surrogatepass"), **authorized)
    keyed.request("POST /v1/echo", f'{{"{CANARY}": 1}}'.encode(), **authorized)
    keyed.request(f"{CANARY} /health", **authorized)
    keyed.request("GET /health", x=CANARY, authorization=f"Bearer {CANARY}")
    keyed.send(f"GET /{CANARY}\r\n\r\n".encode())
    said = logged()
    metrics = keyed.request("GET /metrics", **authorized)[2].decode()
    assert "POST /v1/echo 400 bad_json" in said
    assert "INFO - - 400 bad_request" in said
    assert "POST /v1/echo 200" in said
    assert CANARY not in said + metrics
    assert KEY not in said + metrics


def test_the_log_says_why_a_request_was_refused(keyed: Door, logged: Callable[[], str]) -> None:
    authorized = {"authorization": f"Bearer {KEY}"}
    keyed.request("GET /props")
    keyed.request("GET /v1/nothing", **authorized)
    keyed.request("GET /health", host=CANARY)
    keyed.request("POST /v1/broken", b"1", **authorized)
    keyed.request("GET /props", **authorized)
    said = logged()
    for line in (
        "GET - 401 invalid_api_key ",
        "GET - 404 not_found ",
        "GET - 403 host_not_allowed ",
        "POST /v1/broken 500 internal_error ",
    ):
        assert f"INFO {line}" in said
    assert re.search(r"INFO GET /props 200 [\d.]+ ms", said)


def test_what_programs_look_at_all_the_time_fills_no_log(keyed: Door, logged: Callable[[], str]) -> None:
    authorized = {"authorization": f"Bearer {KEY}"}
    for path in ("/health", "/metrics"):
        assert keyed.request(f"GET {path}", **authorized)[0] == 200
    keyed.request("GET /metrics")
    said = logged()
    assert "DEBUG GET /health 200 " in said
    assert "DEBUG GET /metrics 200 " in said
    assert "INFO GET - 401 invalid_api_key " in said
    assert "INFO GET /" not in said


# ---------------------------------------------------------------- the house


def test_metrics_tell_who_left_from_who_was_answered() -> None:
    with door(engines=Engines(pause_s=0.3)) as server:
        with server.connect() as client:
            client.sendall(server.raw("POST /v1/stream", b"{}"))
            wait_until(lambda: server.app.running == 1)
        wait_until(lambda: server.app.running == 0)
        text = server.request("GET /metrics")[2].decode()
        assert 'edgekit_answers_total{model="medgemma:Q4_0",outcome="cancelled"} 1.0' in text
        assert 'route="/v1/stream",status="499"' in text


def test_metrics_count_routes_and_answers(server: Door) -> None:
    server.request("POST /v1/stream", b"{}")
    server.request("GET /nowhere")
    server.send(b"rubbish\r\n\r\n")
    time.sleep(0.1)
    text = server.request("GET /metrics")[2].decode()
    for line in (
        'edgekit_requests_total{method="POST",route="/v1/stream",status="200"}',
        'edgekit_requests_total{method="GET",route="-",status="404"}',
        'edgekit_requests_total{method="-",route="-",status="400"}',
        'edgekit_answers_total{model="medgemma:Q4_0",outcome="answered"}',
        'edgekit_first_token_seconds_bucket{le="+Inf",model="medgemma:Q4_0"}',
        'edgekit_tokens_per_second_count{model="medgemma:Q4_0"}',
        'edgekit_queue_length{model="medgemma:Q4_0"} 1.0',
        'edgekit_slots{model="medgemma:Q4_0"} 2.0',
        'edgekit_engine_restarts_total{model="medgemma:Q4_0"} 3.0',
        'edgekit_engine_state{model="medgemma:Q4_0",state="ready"} 1.0',
        "edgekit_build_info{",
    ):
        assert line in text, line


def test_terms_and_restrictions_are_told(server: Door) -> None:
    told = json.loads(server.request("GET /terms")[2])
    assert told["agreement"] == "the agreement"
    assert "3.2" in told["models"][0]["restrictions"]
    assert "not cleared" in told["clinical_use"]


def test_props_say_how_much_may_be_sent(server: Door) -> None:
    props = json.loads(server.request("GET /props")[2])
    assert props["limits"]["body_bytes"] == QUICK.body_bytes
    assert props["models"][0]["slots"] == 2


@pytest.mark.parametrize(
    ("state", "status"),
    [("ready", 200), ("unloaded", 200), ("restarting", 200), ("failed", 503), ("hanging", 503)],
)
def test_health_says_when_nothing_can_answer(state: str, status: int) -> None:
    with door(engines=Engines(state=state)) as server:
        assert server.request("GET /health")[0] == status


# ---------------------------------------------------------------- the end


def test_an_upload_into_a_server_that_ends_is_told_to_come_again() -> None:
    with door(engines=Engines(pause_s=0.2)) as server, server.connect() as client:
        client.sendall(server.raw("POST /v1/stream", b"{}"))
        wait_until(lambda: server.app.running == 1)
        server.server.end()
        wait_until(lambda: server.house.life.is_draining)
        assert server.request("POST /v1/echo", b" " * (20 << 20) + b"[1]")[0] == 503


def test_a_request_that_had_begun_to_come_is_told_that_the_server_ends() -> None:
    with door() as server, server.connect() as client:
        client.sendall(b"POST /v1/echo HTTP/1.1\r\n")
        time.sleep(0.2)
        server.server.end()
        assert answer(client)[0] == 503


def test_a_server_that_ends_finishes_what_runs_and_takes_nothing_more() -> None:
    with door(engines=Engines(pause_s=0.15)) as server, ThreadPoolExecutor(2) as pool:
        running = pool.submit(server.request, "POST /v1/stream", b"{}")
        idle = server.connect()
        wait_until(lambda: server.app.running == 1)
        server.server.end()
        wait_until(lambda: server.house.life.is_draining)
        idle.sendall(server.raw("POST /v1/echo", b"[1]"))
        status, headers, body = answer(idle)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "10", "close")
        assert json.loads(body)["error"]["code"] == "server_draining"
        assert server.request("GET /health")[0] == 503
        assert running.result()[2].count(b"piece") == 10
        wait_until(lambda: refused(server.port))
        assert server.engines.drained
        idle.close()


def refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def wait_until(true: Callable[[], bool], within_s: float = 30.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_runs_for_longer_than_the_drain_is_cut() -> None:
    with door(engines=Engines(pause_s=2), drain_s=0.2) as server, server.connect() as client:
        client.sendall(server.raw("POST /v1/stream", b"{}"))
        wait_until(lambda: server.app.running == 1)
        began = time.monotonic()
        server.server.end()
        ends(client, 15)
        assert time.monotonic() - began < 10
        wait_until(lambda: refused(server.port))


def test_a_second_word_ends_at_once() -> None:
    with door(engines=Engines(pause_s=2), drain_s=60) as server, server.connect() as client:
        client.sendall(server.raw("POST /v1/stream", b"{}"))
        wait_until(lambda: server.app.running == 1)
        began = time.monotonic()
        server.server.end()
        server.server.end()
        ends(client)
        assert time.monotonic() - began < 20
        assert server.server.was_forced


# ---------------------------------------------------------------- where it listens


def test_small_answers_leave_at_once() -> None:
    """asyncio looks at the protocol that a socket names before it lets small packets go without waiting for more."""
    with listen("127.0.0.1", 0) as made:
        assert made.proto == socket.IPPROTO_TCP


def test_a_port_in_use_is_said() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("0.0.0.0", False), ("::", False)],
)
def test_what_leaves_this_machine_is_known(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize("host", ["clinic.local", "", "127.0.0", "1.2.3.4.5"])
def test_a_host_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        is_loopback(host)
