"""How much one client may send, and how long it may take: bounds that hold before anything is kept or parsed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of one server; tests take shorter times.

    Attributes:
        head_bytes: of the request line and all headers.
        headers: of one request.
        target_bytes: of the path and its query.
        body_bytes: of one request: some images in base64.
        bodies_bytes: of all requests together whose answers are not finished.
        overhead_bytes: of a chunked body's framing, beyond an eighth of what it carries.
        chunk_line_bytes: of one chunk's size and extensions.
        head_s: from a head's first byte to its last, and from a connection to its first byte.
        body_s: without any byte of a body that is waited for.
        body_rate: bytes a second that a body must come with, looked at after `body_s`.
        keep_alive_s: between two requests.
        write_s: that a client may leave its answer unread, once what the system keeps of it is full.
        linger_s: in which what a refused client still sends is thrown away, so that it can read the answer.
        tick_s: between two looks at a connection.
        connections: at once; beyond it the one that has waited longest without a request ends.
    """

    head_bytes: int = 64 << 10
    headers: int = 100
    target_bytes: int = 8 << 10
    body_bytes: int = 64 << 20
    bodies_bytes: int = 128 << 20
    overhead_bytes: int = 64 << 10
    chunk_line_bytes: int = 1 << 10
    head_s: float = 10.0
    body_s: float = 30.0
    body_rate: int = 4 << 10
    keep_alive_s: float = 75.0
    write_s: float = 30.0
    linger_s: float = 1.0
    tick_s: float = 1.0
    connections: int = 1000
