"""HTTP/1.1 requests as bytes, checked before anything keeps or parses them.

h11 stands behind this and parses once more. It alone would fold lines, accept bare line feeds and equal lengths twice,
and read a chunked body's framing without bound; two readers that differ in such things are how requests are smuggled.
So whatever has two readings is refused here, where it costs little: a head is looked at as it comes, and a body's bytes
are counted, never kept.
"""

from __future__ import annotations

import re
from typing import Literal

from edgekit.serve.http.errors import (
    BadRequest,
    BodyTooLarge,
    HeadTooLarge,
    Refusal,
    TargetTooLong,
    UnknownCoding,
    WrongExpectation,
    WrongVersion,
)
from edgekit.serve.http.limits import Limits

Phase = Literal["idle", "head", "body"]
# What comes next in a chunked body: a chunk's size, its data, the line end behind that, or behind the last chunk, which
# is empty; nothing of it in any other body.
Next = Literal["", "size", "data", "end", "last"]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_BEGINNING = re.compile(_TOKEN + rb"{1,32}(?: |\Z)")
_REQUEST_LINE = re.compile(rb"(%b{1,32}) ([\x21-\x7e]+) HTTP/(\d\.\d)" % _TOKEN)
_HEADER = re.compile(rb"(%b+):[ \t]*([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_LENGTH = re.compile(rb"[0-9]{1,15}")
# As h11 reads it, which takes no space before an extension.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*|[ \t]*)")
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_END = b"\r\n\r\n"


class Wire:
    """The requests of one connection, one behind the other.

    Attributes:
        phase: what the next byte belongs to: nothing yet, a head that has begun, or a body.
        body_received: bytes of the current body, its framing not counted.
        requests: whose heads were passed on.
    """

    def __init__(self, limits: Limits) -> None:
        self.phase: Phase = "idle"
        self.body_received = 0
        self.requests = 0
        self._limits = limits
        self._kept = bytearray()  # of a head, or of a chunk's line
        self._seen = 0  # bytes of it that were searched for its end
        self._left = 0  # bytes of a body whose length is known, or of a chunk's data
        self._next: Next = ""
        self._overhead = 0

    def feed(self, data: bytes) -> tuple[bytes, Refusal | None]:
        """What may be passed on, and why the rest is not."""
        passed = bytearray()
        rest = memoryview(data)
        try:
            while rest:
                rest = self._head(rest, passed) if self.phase != "body" else self._body(rest, passed)
        except Refusal as refusal:
            return bytes(passed), refusal
        return bytes(passed), None

    def _head(self, rest: memoryview, passed: bytearray) -> memoryview:
        """Take bytes of a head; pass it on where it is whole."""
        kept, limits = self._kept, self._limits
        self.phase = "head"
        before = len(kept)
        kept += rest[: limits.head_bytes + len(_END) - before]
        end = kept.find(_END, self._seen)
        head = kept if end < 0 else kept[: end + len(_END)]
        _check_beginning(head, limits)
        if _BARE_LINE_FEED.search(head, max(0, self._seen - 1)):
            raise BadRequest("a line that ends with a bare line feed", allowed="CR LF behind every line")
        if end < 0:
            self._seen = max(0, len(kept) - len(_END) + 1)
            if len(kept) > limits.head_bytes:
                raise HeadTooLarge("the request's headers are too large", allowed=f"at most {limits.head_bytes} bytes")
            return rest[len(kept) - before :]
        self._left, self._next = _framing(bytes(head[:end]), limits)
        passed += head
        self._kept, self._seen = bytearray(), 0
        self.requests += 1
        self.body_received = self._overhead = 0
        self.phase = "body" if self._left or self._next else "idle"
        return rest[len(head) - before :]

    def _body(self, rest: memoryview, passed: bytearray) -> memoryview:
        if self._next in ("size", "end", "last"):
            return self._chunk_line(rest, passed)
        taken = rest[: self._left]
        passed += taken
        self._left -= len(taken)
        self.body_received += len(taken)
        if not self._left:
            if self._next:
                self._next = "end"
            else:
                self.phase = "idle"
        return rest[len(taken) :]

    def _chunk_line(self, rest: memoryview, passed: bytearray) -> memoryview:
        """Take bytes of a line of a chunked body: a chunk's size, the line end behind its data, or the last line."""
        kept = self._kept
        before = len(kept)
        kept += rest[: self._limits.chunk_line_bytes + 2 - before]
        end = kept.find(b"\n")
        line = kept if end < 0 else kept[: end + 1]
        if self._next != "size" and not b"\r\n".startswith(line):
            raise BadRequest("a chunk longer than it says" if self._next == "end" else "headers behind the body")
        if end < 0:
            if len(kept) > self._limits.chunk_line_bytes:
                raise BadRequest(
                    "a chunk's size line is too long", allowed=f"at most {self._limits.chunk_line_bytes} bytes"
                )
            return rest[len(kept) - before :]
        if not line.endswith(b"\r\n"):
            raise BadRequest("a line that ends with a bare line feed", allowed="CR LF behind every line")
        self._count_overhead(len(line))
        self._take_line(bytes(line[:-2]))
        passed += line
        self._kept = bytearray()
        return rest[len(line) - before :]

    def _take_line(self, line: bytes) -> None:
        if self._next == "last":
            self._next, self.phase = "", "idle"
        elif self._next == "end":
            self._next = "size"
        else:
            sized = _CHUNK.fullmatch(line)
            if not sized:
                raise BadRequest("a chunk of the body that does not begin with its size")
            self._left = int(sized[1], 16)
            if self.body_received + self._left > self._limits.body_bytes:
                raise _too_large(self._limits)
            self._next = "data" if self._left else "last"

    def _count_overhead(self, size: int) -> None:
        self._overhead += size
        if self._overhead > self._limits.overhead_bytes + self.body_received // 8:
            raise BadRequest("the body's chunks are too small for their framing", remedy="send a Content-Length")


def _check_beginning(head: bytearray, limits: Limits) -> None:
    """Refuse at the first bytes what is no HTTP at all, and at its limit a request line that does not end."""
    if not _BEGINNING.match(head[:33]):
        tls = head[:1] == b"\x16"
        raise BadRequest(
            "this is TLS, and the server speaks plain HTTP" if tls else "this is no HTTP request",
            remedy="begin the URL with http://" if tls else None,
        )
    line_end = head.find(b"\r\n", 0, limits.target_bytes + 64)
    if line_end < 0 and len(head) > limits.target_bytes + 64:
        raise TargetTooLong("the request's path is too long", allowed=f"at most {limits.target_bytes} bytes")


def _framing(head: bytes, limits: Limits) -> tuple[int, Next]:
    """The length of the body that a whole head announces, and whether it comes in chunks."""
    first, *lines = head.split(b"\r\n")
    version = _check_request_line(first, limits)
    if len(lines) > limits.headers:
        raise HeadTooLarge("the request has too many headers", allowed=f"at most {limits.headers}")
    headers = [_header(line) for line in lines]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise BadRequest(f"the request has {'two Host headers' if hosts else 'no Host header'}", allowed="exactly one")
    if any(value.lower() != b"100-continue" for name, value in headers if name == b"expect"):
        raise WrongExpectation("an Expect header that cannot be met", allowed="100-continue")
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise BadRequest(
            "the length of the request's body is said twice", allowed="one Content-Length or one Transfer-Encoding"
        )
    if codings:
        _check_coding(codings[0], version)
        return 0, "size"
    return _length(lengths[0], limits) if lengths else 0, ""


def _check_request_line(line: bytes, limits: Limits) -> bytes:
    """The version of a good one."""
    parts = _REQUEST_LINE.fullmatch(line)
    if not parts:
        raise BadRequest("the request line is no METHOD PATH HTTP/1.1")
    if parts[3] not in (b"1.1", b"1.0"):
        raise WrongVersion("another version of HTTP", allowed="HTTP/1.1")
    if len(parts[2]) > limits.target_bytes:
        raise TargetTooLong("the request's path is too long", allowed=f"at most {limits.target_bytes} bytes")
    if not parts[2].startswith(b"/"):
        raise BadRequest("the request's path does not begin with /", remedy="do not use this server as a proxy")
    return parts[3]


def _header(line: bytes) -> tuple[bytes, bytes]:
    """A header's name in lower case and its value."""
    if line[:1] in (b" ", b"\t"):
        raise BadRequest("a header that goes on in a second line", allowed="each header in one line")
    parts = _HEADER.fullmatch(line)
    if not parts:
        raise BadRequest("a header that is no NAME: VALUE, or holds a control character")
    return parts[1].lower(), parts[2].strip(b" \t")


def _check_coding(coding: bytes, version: bytes) -> None:
    if version == b"1.0":
        raise BadRequest("a Transfer-Encoding in HTTP/1.0, which has none")
    if coding.lower() != b"chunked":
        raise UnknownCoding("a Transfer-Encoding that is not read", allowed="chunked")


def _length(value: bytes, limits: Limits) -> int:
    if not _LENGTH.fullmatch(value):
        if value.isdigit():
            raise _too_large(limits)
        raise BadRequest("a Content-Length that is no number of bytes")
    if int(value) > limits.body_bytes:
        raise _too_large(limits)
    return int(value)


def _too_large(limits: Limits) -> BodyTooLarge:
    return BodyTooLarge("the request's body is too large", allowed=f"at most {limits.body_bytes} bytes")
