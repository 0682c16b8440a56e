"""The record of known wrong exports as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.artifacts.levels import LEVELS
from wrong_exports.entry import FORMATS
from wrong_exports.verdicts import COMPARISONS, OPENING

WHOLE = ("Q4_K_M", "q4")  # levels of the reference models at which all comparisons are asked
_ROLES = {"decoder": "decoder", "vision": "vision", "image_encoder": "image", "text_encoder": "text"}
_NOT_ASKED = "not asked"


def published(record: Mapping[str, Any]) -> list[str]:
    """Mistake, part, format, and level."""
    rows = _made(record).items()
    return [f"{key} | {level}" for key, row in rows for level, said in row.items() if not any(said.values())]


def refused_though_right(record: Mapping[str, Any]) -> list[str]:
    """Part, level, and why."""
    return [f"{key}: {message}" for key, message in record["right"].items() if message]


def report(record: Mapping[str, Any]) -> str:
    """The whole page."""
    rows = _made(record)
    tried = sum(len(row) for row in rows.values())
    names = {tuple(key.split(" | ")[:2]) for key in rows}
    levels = {level: None for row in rows.values() for level in row}
    listed = [level for level in LEVELS if level in levels]
    wrong, refused = published(record), refused_though_right(record)
    every = "\n".join(
        f"| {name} | {_ROLES[role]} | {' | '.join(_cells(record, kind, name, role))} |"
        for kind, name, role in dict.fromkeys(tuple(key.split(" | ")[:3]) for key in rows)
    )
    return f"""# Known wrong exports{_of(record)}, and what refuses each

    {record["command"]}

{_where(record)}

**{len(names)} mistakes, {tried} wrong parts at {len(listed)} levels: {len(wrong) or "none"} published.**
{len(record["right"])} right parts: {len(refused) or "none"} refused.

{_how(record, listed)}

| mistake | part | GGUF: audit | exactness | wiring | loss | ONNX: audit | exactness | wiring | loss |
|---|---|---|---|---|---|---|---|---|---|
{every}

## Published

{_lines(wrong)}

## Right parts refused

{_lines(refused)}

## Right parts and their limits

{_figures(record["figures"])}

## Mistakes that {"this model" if record["model"] else "these models"} cannot have

{_lines([f"{key}: {why}" for key, why in record["inapplicable"].items()])}
"""


def _made(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of mistakes that the model can have, level by level."""
    rows = record["wrong"].items()
    return {key: row for key, row in rows if row and key not in record["inapplicable"]}


def _of(record: Mapping[str, Any]) -> str:
    if record.get("stand_in"):
        return f" of a stand-in for {record['model']}"
    return f" of {record['model']}" if record["model"] else ""


def _where(record: Mapping[str, Any]) -> str:
    here = record["environment"]
    model = (
        f"a checkpoint by the recipe {record['model']} ({record.get('stand_in') or 'no stand-in'})"
        if record["model"]
        else "the reference models, which are small stand-ins for MedGemma and MedSigLIP"
    )
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    return _wrapped(
        f"Measured on {model}, on {here['cpu']}, {here['cores']} cores, at "
        f"{', '.join(f'commit {one[:12]}' for one in record['commits']) or 'an unknown commit'}; {versions}. "
        "No figure here is a time."
    )


def _how(record: Mapping[str, Any], listed: Sequence[str]) -> str:
    levels, whole = ", ".join(listed), [level for level in WHOLE if level in listed]
    others = ", ".join(level for level in listed if level not in WHOLE) or "none"
    cells = (
        "A cell says at how many of the levels where it was asked a comparison refuses the mistake by itself: all, "
        "none, or how many of how many. Under *wiring* count prompts, pixels and a runtime that refuses to open the "
        "part."
    )
    asked = (
        f"At these levels ({levels}) one comparison is asked after another, until one refuses; tensors that a mistake "
        "leaves as they are were compared once."
    )
    if whole and record["model"] is None:
        asked = (
            f"All comparisons are asked at {', '.join(whole)}; at the other levels ({others}) one after another, "
            "until one refuses. *Exactness* is asked where the mistake is one of an exporter, which then writes its "
            "files, too."
        )
    few = f"Of the mistakes of each kind, part and format at least the first of every {record['every']} was made."
    left = f"**Unfinished: {record['left']} of these parts were not asked yet.**" if record.get("left") else ""
    return _wrapped(" ".join([cells, asked, *([few] if record["every"] > 1 else []), *([left] if left else [])]))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _lines(found: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in found) or "None."


def _figures(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Each right part's figures, and in brackets what its level, or the recipe, allows."""
    rows = [
        f"| {part} | " + ", ".join(f"{name} {found:.3g} ({limit:g})" for name, (found, limit) in row.items()) + " |"
        for part, row in sorted(figures.items(), key=lambda item: (item[0].split()[0], _order(item[0].split()[1])))
    ]
    return "\n".join(["| part | figures (limits) |", "|---|---|", *rows])


def _order(level: str) -> int:
    return list(LEVELS).index(level)


def _cells(record: Mapping[str, Any], kind: str, name: str, role: str) -> Iterator[str]:
    for file_format in FORMATS:
        key = " | ".join((kind, name, role, file_format))
        row = record["wrong"].get(key, {})
        for comparison in COMPARISONS:
            if comparison == "exactness" and key in record["exact"]:
                yield "all" if record["exact"][key] else "none"
            else:
                yield _counted([_said(said, comparison) for said in row.values()])


def _said(said: Mapping[str, str | None], comparison: str) -> str | None:
    """A message, None, or that it was not asked."""
    if comparison == "wiring" and said.get(OPENING):
        return said[OPENING]
    return said.get(comparison, _NOT_ASKED)


def _counted(messages: Sequence[str | None]) -> str:
    asked = [message for message in messages if message != _NOT_ASKED]
    refused = sum(message is not None for message in asked)
    if refused in (0, len(asked)):
        return "" if not asked else "all" if refused else "none"
    return f"{refused} of {len(asked)}"
