"""Damage: to bytes, to texts, to values in JSON and TOML. Each is a function of a random generator and a good input."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

# Where readers break: limits of integers, floats that are no numbers, text that controls terminals, names of machinery.
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400,
    0.0, -0.0, 1e-320, 1e-45, 0.1, 1e38, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
TEXTS: tuple[str, ...] = (
    "", " ", "0", "-1", "true", "null", "\x00", "a\x00b", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202egnp.exe",
    "\ud800", "\udfff", "\ufeff", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "C:\\x", "a/../b", "~root",
    "%s%n", "{0}", "{{7*7}}", "a" * 300, "ａ／ｓ", "é" * 5000, "\n\nedgekit: all is well", "<end_of_turn>", "</s>",
    "＜／s＞", "<bos>", "\u2028", "9" * 5000, "🫁" * 100, "__class__", "os.system",
)  # fmt: skip
_JSON = '{}[]",:\\ntruefalseNaNInfinity-+.eE0123456789 \t\r\u0000'


def bytes_(rng: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, replaced, removed, repeated or put elsewhere; cut; integers of limits written over."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not out:
            return bytes(out)
        at = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 256))
        kind = rng.randrange(8)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.choice((1, 4, 16, 256))]
        elif kind == 3:
            out[at:at] = out[at : at + rng.choice((1, 8, 64))] * rng.choice((1, 2, 50))
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
        elif kind == 5:
            del out[at:]
        else:
            number = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1, 2**40))
            packed = struct.pack("<Q", number)[: rng.choice((1, 2, 4, 8))]
            out[at : at + len(packed)] = packed[::-1] if rng.random() < 0.3 else packed
    return bytes(out)


def text(rng: random.Random, data: bytes) -> bytes:
    """A text with pieces changed, as text: lines swapped, tokens inserted, quotes lost."""
    lines = data.decode("utf-8", "replace").splitlines(keepends=True) or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(6)
        if kind == 0:
            lines[at] = lines[rng.randrange(len(lines))]
        elif kind == 1:
            lines.insert(at, lines[at])
        elif kind == 2:
            del lines[at]
            lines = lines or [""]
        elif kind == 3:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(TEXTS) + lines[at][place:]
        elif kind == 4:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + "".join(rng.choices(_JSON, k=rng.choice((1, 3, 20)))) + lines[at][place:]
        else:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
    return "".join(lines).encode("utf-8", "surrogatepass")


def value(rng: random.Random) -> Any:
    """Something that was not expected."""
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    return rng.choice(([], {}, None, True, False, [[]], {"": None}, [1] * 1000, [[[[[[[[]]]]]]]], {"a": {"a": 1}}))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree of objects and lists."""
    found: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            stack.append(node[key])
    return found


def tree(rng: random.Random, root: Any) -> Any:
    """A few values of a tree replaced, removed, renamed, moved, nested or repeated; changes it."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = places(root)
        if not spots:
            return value(rng)
        node, key = rng.choice(spots)
        kind = rng.randrange(8)
        if kind < 3:
            node[key] = value(rng)
        elif kind == 3:
            del node[key]
        elif kind == 4 and isinstance(node, dict):
            node[rng.choice(TEXTS)] = node.pop(key)
        elif kind == 5:
            other, where = rng.choice(spots)
            node[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else value(rng)
        elif kind == 6 and isinstance(node, list):
            node.extend([node[0]] * rng.choice((1, 2, 500)))
        elif isinstance(node[key], int | float) and not isinstance(node[key], bool):
            node[key] = node[key] * rng.choice((-1, 2, 0.5, 1000, 1.0))
        else:
            node[key] = [node[key]]
    return root


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def json_(rng: random.Random, data: bytes) -> bytes:
    """JSON with other values, two entries of one name, too deep, too long; or damaged as text or as bytes."""
    kind = rng.randrange(10)
    if kind == 0:
        return bytes_(rng, data)
    if kind == 1:
        return text(rng, data)
    written = json.dumps(tree(rng, json.loads(data)), ensure_ascii=rng.random() < 0.7)
    if kind == 2:
        at = written.find("{", rng.randrange(max(1, len(written) // 2)))
        pair = written[at + 1 :].split(",", 1)[0]
        written = written[: at + 1] + pair.split("}", 1)[0] + "," + written[at + 1 :]
    elif kind == 3:
        depth = rng.choice((50, 1000, 100_000))
        written = '{"a":' * depth + written + "}" * depth if rng.random() < 0.5 else "[" * depth + "]" * depth
    elif kind == 4:
        written = written.replace(str(rng.randrange(10)), "9" * rng.choice((20, 400, 5000)), 1)
    return written.encode("utf-8", "surrogatepass")


def toml(to_text: Callable[[Any], str]) -> Callable[[random.Random, bytes], bytes]:
    """TOML with other values, written by `to_text`, or damaged as text or bytes."""
    import tomllib

    def mutate(rng: random.Random, data: bytes) -> bytes:
        kind = rng.randrange(6)
        if kind == 0:
            return bytes_(rng, data)
        if kind == 1:
            return text(rng, data)
        return to_text(tree(rng, tomllib.loads(data.decode()))).encode("utf-8", "surrogatepass")

    return mutate


def toml_text(root: Any) -> str:
    """A tree as TOML: inline tables, which need no order. What TOML cannot say becomes something that it rejects."""
    if not isinstance(root, dict):
        return _inline(root)
    return "\n".join(f"{json.dumps(str(key))} = {_inline(entry)}" for key, entry in root.items()) + "\n"


def _inline(entry: Any) -> str:
    if isinstance(entry, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {_inline(inner)}" for key, inner in entry.items()) + "}"
    if isinstance(entry, list):
        return "[" + ", ".join(map(_inline, entry)) + "]"
    if isinstance(entry, float):
        return repr(entry)
    return json.dumps(entry, ensure_ascii=False) if isinstance(entry, str) else json.dumps(entry)
