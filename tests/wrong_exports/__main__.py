"""Which comparison refuses which known wrong export, at which level: `python tests/wrong_exports`.

Every mistake is made in the reference models, which are small stand-ins for MedGemma and MedSigLIP, at every level of
its format. At some levels every comparison is asked by itself; at the others, until one refuses. Prints a table, and
ends with 1 where a wrong export was published or a right one refused. With --json, what was found before is kept, and
a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[0] = str(TESTS)  # in place of this package, whose modules have names of their own

from proofs import Unproven, at_every_level  # noqa: E402
from tqdm import tqdm  # noqa: E402

from edgekit.artifacts.levels import LEVELS  # noqa: E402
from edgekit.bench.environment import environment  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402
from wrong_exports import WRONG_EXPORTS, WrongExport  # noqa: E402
from wrong_exports.entry import FORMATS  # noqa: E402
from wrong_exports.verdicts import COMPARISONS, OPENING, exact, verdict  # noqa: E402

WHOLE = ("Q4_K_M", "q4")  # levels at which all comparisons are asked
_LONGEST = 160  # characters of a message in the record
_ROLES = {"decoder": "decoder", "vision": "vision", "image_encoder": "image", "text_encoder": "text"}
_NOT_ASKED = "not asked"


def main() -> int:
    """Make every mistake, and say who refuses it."""
    parser = argparse.ArgumentParser(prog="python tests/wrong_exports", description=__doc__)
    parser.add_argument("--level", action="append", choices=LEVELS, metavar="LEVEL", help="only these; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT", help="mistakes whose name, format or kind contain it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="record everything, and go on from what is there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args()
    levels = options.level or list(LEVELS)
    record = _begun(options.json)
    wrongs = [wrong for wrong in WRONG_EXPORTS if options.only in str(wrong)]
    with tempfile.TemporaryDirectory(prefix="wrong-exports-") as scratch:
        made = (at_every_level(name, Path(scratch), levels) for name in ("medgemma", "medsiglip"))
        models = {role: model for model in made if model for role in model.runs.source.family.roles}
        _ask(models, wrongs, levels, record, lambda: _write(options.json, record))
    _write(options.json, record)
    text = report(record)
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return int(bool(_published(record) or _refused_though_right(record)))


# ---------------------------------------------------------------- asking


def _begun(path: Path | None) -> dict[str, Any]:
    if path and path.is_file():
        return dict(json.loads(path.read_text()))
    return {"command": "python tests/wrong_exports", "environment": {}, "right": {}, "wrong": {}, "exact": {}}


def _write(path: Path | None, record: dict[str, Any]) -> None:
    here = asdict(environment())
    record["environment"] = {key: here[key] for key in ("cpu", "architecture", "cores", "versions", "commit")}
    if path:
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _ask(
    models: Mapping[str, Unproven],
    wrongs: Sequence[WrongExport],
    levels: Sequence[str],
    record: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Fill the record: right parts first, without which a refusal says nothing."""
    jobs = [*_rights(models, levels, record["right"]), *_wrongs(models, wrongs, levels, record)]
    for number, (place, key, answer) in enumerate(tqdm(jobs, unit=" proofs", disable=None)):
        if key not in place:
            place[key] = answer()
        if number % 50 == 49:
            save()


Job = tuple[dict[str, Any], str, Callable[[], Any]]


def _rights(models: Mapping[str, Unproven], levels: Sequence[str], place: dict[str, Any]) -> Iterator[Job]:
    for role, model in models.items():
        for part in model.parts(role):
            if part.level in levels:
                yield place, f"{role} {part.level}", functools.partial(_right, model, part.role, part.level)


def _right(model: Unproven, role: str, level: str) -> str | None:
    try:
        model.prove(role, level)
    except EdgekitError as error:
        return error.message
    return None


def _wrongs(
    models: Mapping[str, Unproven], wrongs: Sequence[WrongExport], levels: Sequence[str], record: dict[str, Any]
) -> Iterator[Job]:
    for wrong in wrongs:
        for role in (role for role in wrong.roles if role in models):
            row = record["wrong"].setdefault(_key(wrong, role), {})
            here = {part.level for part in models[role].parts(role)} & set(levels)
            for level in (level for level in wrong.levels() if level in here):
                yield row, level, functools.partial(_asked, models[role], role, level, wrong)
            if wrong.exporter and here & set(wrong.levels()):
                yield record["exact"], _key(wrong, role), functools.partial(exact, models[role], role, wrong)


def _asked(model: Unproven, role: str, level: str, wrong: WrongExport) -> dict[str, str | None]:
    refused = verdict(model, role, level, wrong, whole=level in WHOLE).refused
    return {name: message and message[:_LONGEST] for name, message in refused.items()}


def _key(wrong: WrongExport, role: str) -> str:
    return " | ".join((wrong.kind, wrong.name, role, wrong.format))


# ---------------------------------------------------------------- the table


def _published(record: Mapping[str, Any]) -> list[str]:
    """Mistake, part, format, and level."""
    rows = record["wrong"].items()
    return [f"{key} | {level}" for key, row in rows for level, said in row.items() if not any(said.values())]


def _refused_though_right(record: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {message}" for key, message in record["right"].items() if message]


def report(record: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    here, rows = record["environment"], record["wrong"]
    tried = sum(len(row) for row in rows.values())
    names = {tuple(key.split(" | ")[:2]) for key, row in rows.items() if row}
    levels = {level: None for row in rows.values() for level in row}
    published, refused = _published(record), _refused_though_right(record)
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    every = "\n".join(
        f"| {name} | {_ROLES[role]} | {' | '.join(_cells(record, kind, name, role))} |"
        for kind, name, role in dict.fromkeys(tuple(key.split(" | ")[:3]) for key, row in rows.items() if row)
    )
    listed = [level for level in LEVELS if level in levels]
    whole = [level for level in WHOLE if level in levels]
    asked = f"All comparisons are asked at {', '.join(whole)}; at the other levels" if whole else "At these levels"
    where = _wrapped(
        "Measured on the reference models, which are small stand-ins for MedGemma and MedSigLIP, on "
        f"{here['cpu']}, {here['cores']} cores, at commit {(here['commit'] or 'unknown')[:12]}; {versions}. "
        "No figure here is a time."
    )
    how = _wrapped(
        "A cell says at how many of the levels where it was asked a comparison refuses the mistake by itself: all, "
        "none, or how many of how many. *Exactness* is asked where the mistake is one of an exporter, which then "
        "writes its files, too. Under *wiring* count prompts, pixels and a runtime that refuses to open the part. "
        f"{asked} ({', '.join(listed)}) one comparison after another, until one refuses."
    )
    return f"""# Known wrong exports, and what refuses each

    {record["command"]} --json benchmarks/results/proof.json --markdown benchmarks/results/proof.md

{where}

**{len(names)} mistakes, {tried} wrong parts at {len(listed)} levels: {len(published) or "none"} published.**
{len(record["right"])} right parts: {len(refused) or "none"} refused.

{how}

| mistake | part | GGUF: audit | exactness | wiring | loss | ONNX: audit | exactness | wiring | loss |
|---|---|---|---|---|---|---|---|---|---|
{every}

## Published

{_lines(published)}

## Right parts refused

{_lines(refused)}
"""


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _lines(found: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in found) or "None."


def _cells(record: Mapping[str, Any], kind: str, name: str, role: str) -> Iterator[str]:
    for file_format in FORMATS:
        key = " | ".join((kind, name, role, file_format))
        row = record["wrong"].get(key, {})
        for comparison in COMPARISONS:
            if comparison == "exactness":
                yield ("all" if record["exact"][key] else "none") if key in record["exact"] else ""
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


if __name__ == "__main__":
    sys.exit(main())
