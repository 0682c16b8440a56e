"""Texts on which two tokenizers must agree: the same in every run, made from the shipped passage and a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from edgekit.inputs.passage import passage, sentences

COUNT = 5000
_UNITS = ("mg/kg", "mL", "\u00b5g", "mmHg", "\u00b0C", "%", "HU", "mSv", "\u00d710\u2079/L", "kV", "cm\u00b2", "bpm")
# First and last code point of scripts and symbols that a tokenizer treats in different ways.
_RANGES = (
    (0x21, 0x7E),
    (0xA1, 0x24F),
    (0x300, 0x36F),  # combining marks
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x590, 0x5FF),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE00, 0xE7F),
    (0x2000, 0x206F),  # spaces and marks of direction
    (0x2190, 0x22FF),
    (0x3040, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0x1F300, 0x1FAFF),
)
_MARKUP = (
    "<b>",
    "</td>",
    "```python\n",
    "## ",
    "- [ ] ",
    "{'a': [1, 2]}",
    "https://example.org/?q=1&r=2",
    "\\frac{1}{2}",
)


def texts(pieces: Sequence[str], special: Sequence[str], count: int = COUNT) -> list[str]:
    """Texts for a comparison of tokenizers.

    Args:
        pieces: texts of the vocabulary's tokens.
        special: tokens that may stand in a text and mean something; each occurs.
        count: how many texts; their kinds take turns.
    """
    random = Random(20)  # noqa: S311 - the same texts every time are the point
    kinds: tuple[Callable[[Random], str], ...] = (
        _excerpt,
        _excerpt,
        _figures,
        _scripts,
        _spaces,
        _scalars,
        lambda r: "".join(r.choices(pieces, k=r.randint(1, 12))),
        lambda r: " ".join(r.choices(pieces, k=r.randint(1, 12))),
        lambda r: _between(r, special or _MARKUP),
        lambda r: _between(r, _MARKUP),
    )
    fixed = [*sentences(), *special, *(f"a{token} b" for token in special)]
    return [*fixed, *(kinds[i % len(kinds)](random) for i in range(len(fixed), count))][:count]


def _excerpt(random: Random) -> str:
    """Any part of the passage: it begins and ends within words."""
    text = passage()
    start = random.randrange(len(text))
    part = text[start : start + random.randint(1, 400)]
    return random.choice((part, part, part.upper(), part.title(), f" {part}"))


def _figures(random: Random) -> str:
    number = random.choice((f"{random.randrange(10**6)}", f"{random.uniform(0, 1000):.{random.randint(0, 4)}f}"))
    date = f"{random.randint(1900, 2030)}-{random.randint(1, 12):02}-{random.randint(1, 28):02}"
    return random.choice(
        (f"{number} {random.choice(_UNITS)}", f"{number}{random.choice(_UNITS)}, {date}", f"({number})")
    )


def _scripts(random: Random) -> str:
    """Words of one script after the other."""
    words = []
    for _ in range(random.randint(1, 8)):
        first, last = random.choice(_RANGES)
        words.append("".join(chr(random.randint(first, last)) for _ in range(random.randint(1, 8))))
    return " ".join(words)


def _spaces(random: Random) -> str:
    """Runs of white space between words, and at both ends."""
    words = passage().split()
    text = ""
    for _ in range(random.randint(1, 6)):
        text += random.choice((" ", "\n", "\t", "\r\n", "\u00a0", "\u3000")) * random.choice((1, 1, 2, 3, 5, 9, 40))
        text += random.choice((random.choice(words), ""))
    return text


def _scalars(random: Random) -> str:
    """Any Unicode at all, most of it unassigned, so that single bytes must stand for it."""
    points = (random.randrange(1, 0x110000) for _ in range(random.randint(1, 30)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _between(random: Random, marks: Sequence[str]) -> str:
    """Words of the passage with marks between them."""
    words = passage().split()
    parts = [random.choice((f"{random.choice(words)} ", random.choice(words), random.choice(marks))) for _ in range(12)]
    return "".join(parts)
