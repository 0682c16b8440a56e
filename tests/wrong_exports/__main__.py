"""Which comparison refuses which known wrong export, at which level: `python tests/wrong_exports`.

Every mistake is made in the reference models, which are small stand-ins for MedGemma and MedSigLIP, at every level of
its format, or with --checkpoint in any other model. At some levels of the reference models every comparison is asked by
itself; elsewhere, until one refuses. Prints a table, and ends with 1 where a wrong export was published or a right one
refused. With --json, what was found before is kept, and a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[0] = str(TESTS)  # in place of this package, whose modules have names of their own

from proofs import Unproven, at_every_level, at_levels  # noqa: E402
from tqdm import tqdm  # noqa: E402

from edgekit.artifacts.gates import judged  # noqa: E402
from edgekit.artifacts.levels import LEVELS, limits_of  # noqa: E402
from edgekit.artifacts.recipes import STAND_IN_KEY  # noqa: E402
from edgekit.bench.environment import environment  # noqa: E402
from edgekit.checkpoints.checkpoint import open_checkpoint  # noqa: E402
from edgekit.errors import EdgekitError  # noqa: E402
from edgekit.formats import FORMATS  # noqa: E402
from wrong_exports import InapplicableError, WrongExport, every  # noqa: E402
from wrong_exports.report import WHOLE, published, refused_though_right, report  # noqa: E402
from wrong_exports.verdicts import Remembered, exact, verdict  # noqa: E402

_SCRATCH = re.compile(r"\S*/edgekit-exactness-\w+/")
_LONGEST = 160  # characters of a message in the record


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every mistake, and say who refuses it."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.checkpoint is None) != (options.recipe is None):
        parser.error("--checkpoint and --recipe belong together")
    levels = options.level or list(LEVELS)
    wrongs = [(wrong, role) for wrong, role in every(options.every) if options.only in str(wrong)]
    record = _begun(options)
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory(prefix="wrong-exports-") as work:
        models = _models(options, Path(work), levels)
        _ask(models, wrongs, levels, record, lambda: _write(options.json, record))
    _write(options.json, record)  # what said how it was made may be another run
    text = report(record)
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return int(bool(published(record) or refused_though_right(record)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/wrong_exports", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="in this model, not in the reference models")
    parser.add_argument("--recipe", metavar="NAME", help="the checkpoint's, with its limits")
    parser.add_argument("--work", type=Path, metavar="DIR", help="an existing folder that keeps the right exports")
    parser.add_argument("--level", action="append", choices=LEVELS, metavar="LEVEL", help="only these; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT", help="mistakes whose name, format or kind contain it")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="the first of N mistakes of a kind and part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="record everything, and go on from what is there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser


# ---------------------------------------------------------------- asking


def _begun(options: argparse.Namespace) -> dict[str, Any]:
    record: dict[str, Any] = {"right": {}, "figures": {}, "wrong": {}, "exact": {}, "inapplicable": {}}
    if options.json and options.json.is_file():
        record |= json.loads(options.json.read_text())
    here = asdict(environment())
    record["environment"] = {key: here[key] for key in ("cpu", "architecture", "cores", "versions")}
    commits = record.setdefault("commits", [])  # of all runs: what was found before is kept
    commits += [here["commit"]] if here["commit"] and here["commit"] not in commits else []
    said = open_checkpoint(options.checkpoint).config.get(STAND_IN_KEY) if options.checkpoint else None
    record |= {"command": _command(options), "model": options.recipe, "stand_in": said, "every": options.every}
    return record


def _command(options: argparse.Namespace) -> str:
    """What makes the whole record, in however many runs."""
    said = [f"--checkpoint DIR --recipe {options.recipe}"] if options.checkpoint else []
    said += [f"--level {level}" for level in options.level or ()]
    said += [f"--every {options.every}"] if options.every > 1 else []
    said += [f"--json {options.json}"] if options.json else []
    said += [f"--markdown {options.markdown}"] if options.markdown else []
    return " ".join(["python tests/wrong_exports", *said])


def _models(options: argparse.Namespace, work: Path, levels: Sequence[str]) -> dict[str, Unproven]:
    """Role -> the right exports of the model that has it."""
    if options.checkpoint:
        made = [at_levels(options.checkpoint, options.recipe, work, levels)]
    else:
        made = [at_every_level(name, work, levels) for name in ("medgemma", "medsiglip")]
    return {role: model for model in made if model for role in model.runs.source.family.roles}


def _write(path: Path | None, record: Mapping[str, Any]) -> None:
    if path:
        unfinished = path.with_name(f".{path.name}.partial")
        unfinished.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        unfinished.replace(path)


def _ask(
    models: Mapping[str, Unproven],
    wrongs: Sequence[tuple[WrongExport, str]],
    levels: Sequence[str],
    record: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Fill the record: right parts first, without which a refusal says nothing."""
    jobs = [*_rights(models, levels, record), *_wrongs(models, wrongs, levels, record)]
    record["left"] = sum(key not in place for place, key, _ in jobs)
    for place, key, answer in tqdm(jobs, unit=" proofs", disable=None):
        if key not in place:
            place[key] = answer()
            record["left"] -= 1
            save()


Job = tuple[dict[str, Any], str, Callable[[], Any]]


def _rights(models: Mapping[str, Unproven], levels: Sequence[str], record: dict[str, Any]) -> Iterator[Job]:
    for role, model in models.items():
        for part in model.parts(role):
            if part.level in levels:
                key = f"{role} {part.level}"
                yield record["right"], key, functools.partial(_right, model, role, part.level, record["figures"])


def _right(model: Unproven, role: str, level: str, figures: dict[str, Any]) -> str | None:
    """Why it is refused; its figures, each with its limit."""
    limits = model.manifest.gates.limits(level, limits_of(level))
    try:
        parity = model.prove(role, level)
    except EdgekitError as error:
        return _told(error.message, model)
    measured = [*judged(parity.metric, "wiring", parity.wiring), *judged(parity.metric, "loss", parity.loss)]
    with_exact, bounds = parity.exactness or {}, FORMATS[LEVELS[level].format].exactness
    figures[f"{role} {level}"] = {
        **{f"exactness_{name}": [figure, getattr(bounds, name)] for name, figure in with_exact.items()},
        **{name: [figure, getattr(limits, name)] for name, figure in measured},
    }
    return None


def _wrongs(
    models: Mapping[str, Unproven],
    wrongs: Sequence[tuple[WrongExport, str]],
    levels: Sequence[str],
    record: dict[str, Any],
) -> Iterator[Job]:
    remembered = Remembered()
    for wrong, role in wrongs:
        if role not in models or (key := _key(wrong, role)) in record["inapplicable"]:
            continue
        row = record["wrong"].setdefault(key, {})
        here = {part.level for part in models[role].parts(role)} & set(levels)
        for level in (level for level in wrong.levels() if level in here):
            yield row, level, functools.partial(_asked, models[role], role, level, wrong, record, remembered)
        if wrong.exporter and record["model"] is None and here & set(wrong.levels()):
            yield record["exact"], key, functools.partial(_exactly, models[role], role, wrong)


def _asked(
    model: Unproven, role: str, level: str, wrong: WrongExport, record: dict[str, Any], remembered: Remembered
) -> dict[str, str | None]:
    """Comparison -> its message; nothing of a mistake that this model cannot have."""
    whole = record["model"] is None and level in WHOLE
    try:
        refused = verdict(model, role, level, wrong, whole=whole, remembered=remembered).refused
    except InapplicableError as error:
        record["inapplicable"][_key(wrong, role)] = str(error)
        return {}
    return {name: message and _told(message, model) for name, message in refused.items()}


def _exactly(model: Unproven, role: str, wrong: WrongExport) -> str | None:
    message = exact(model, role, wrong)
    return message and _told(message, model)


def _told(message: str, model: Unproven) -> str:
    """Without the folders, which are others in every run."""
    return _SCRATCH.sub("", message.replace(f"{model.folder}/", ""))[:_LONGEST]


def _key(wrong: WrongExport, role: str) -> str:
    return " | ".join((wrong.kind, wrong.name, role, wrong.format))


if __name__ == "__main__":
    sys.exit(main())
