"""What a plan predicts beside what is then measured on this machine: sizes, memory, times.

    edgekit export medgemma-reference --to ./made --no-prove
    python benchmarks/peers/planning.py ./made --recipe reference-medgemma --to ./work --json FILE --markdown FILE

Sizes are planned from the recipe alone. Times and memory are planned for a device with the limits that the same run
measured (`edgekit.machine.roofline`), 4,096 tokens of context, and the proven runtimes; measured by the task `latency`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import table, where

from edgekit import bench
from edgekit.artifacts import manifest as manifests
from edgekit.bench.records import Measurement, Record
from edgekit.machine.cpu import cpu
from edgekit.machine.devices import Device
from edgekit.machine.memory import memory
from edgekit.machine.roofline import Roofline
from edgekit.planning import PlannedModel, Row, of_artifact, planned_model, row

_ALLOWED = {"bytes": 0.001, "own_memory_bytes": 0.15, "peak_memory_bytes": 0.15}  # of times a fourth
_TIME = 0.25


@dataclass(frozen=True)
class Pair:
    """One figure of one level."""

    level: str
    figure: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Of the prediction to what was measured."""
        return self.predicted / self.measured

    @property
    def holds(self) -> bool:
        """Whether it lies as near as was promised."""
        return abs(self.ratio - 1) <= _ALLOWED.get(self.figure, _TIME)


def main() -> None:
    """Measure, plan, compare, write."""
    parser = argparse.ArgumentParser(prog="python benchmarks/peers/planning.py", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="an artifact")
    parser.add_argument("--recipe", metavar="NAME", help="what its sizes are planned from, too")
    parser.add_argument("--level", action="append", default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="where the measurements are kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    measured(options.folder, options.level, options.rounds, options.to)
    records = [record for record in bench.read(options.to).records if record.kind == "variant"]
    recipe = planned_model(options.recipe) if options.recipe else None
    pairs = list(compared(options.folder, records, recipe))
    text = "\n".join(lines(records, pairs))
    print(text)
    if options.markdown:
        options.markdown.write_text(f"{text}\n", encoding="utf-8")
    if options.json:
        found = [{**vars(pair), "ratio": pair.ratio, "holds": pair.holds} for pair in pairs]
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measured(folder: Path, levels: Sequence[str], rounds: int, work: Path) -> None:
    """Time every level, or go on from what is there."""
    words = ["bench", folder, "--task", "latency", "--no-controls", "--rounds", rounds, "--to", work]
    words += [word for level in levels for word in ("--level", level)]
    subprocess.run([sys.executable, "-m", "edgekit", *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def compared(folder: Path, records: Sequence[Record], recipe: PlannedModel | None) -> Iterator[Pair]:
    """Every figure that was both predicted and measured."""
    manifest = manifests.read(folder)
    model = of_artifact(folder, manifest)
    for record in records:
        timed = next(one for one in record.measurements if one.kind == "latency")
        assert record.level is not None
        if recipe and record.level in recipe.variants:
            size = sum(part.bytes for part in recipe.variants[record.level])
            yield Pair(record.level, "bytes", size, manifest.bytes_of(record.level))
        planned = row(record.level, model.variants[record.level], here(timed))
        for figure, predicted in predictions(planned).items():
            if figure in timed.metrics and predicted is not None:
                yield Pair(record.level, figure, predicted, timed.metrics[figure].value)


def here(timed: Measurement) -> Device:
    """This machine, with the limits that were measured beside the times."""
    limits = Roofline.of(timed.details["limits"])
    return Device(
        name="here",
        title="this machine",
        memory_gb=memory().total_bytes / 1e9,
        model_memory_gb=memory().total_bytes / 1e9,
        cores=cpu().usable_cores,
        bandwidth_gb_s=limits.bytes_per_s / 1e9,
        gflops={name: rate.per_s / 1e9 for name, rate in limits.rates.items()},  # type: ignore[misc]
    )


def predictions(planned: Row) -> Mapping[str, float | None]:
    """What a plan says, by the names of the task's figures."""
    times, used = planned.times, planned.memory
    ms = {"first_token_ms": times.first_token_s, "image_encode_ms": times.image_s, "text_encode_ms": times.text_s}
    return {
        "own_memory_bytes": used.own,
        "peak_memory_bytes": used.peak,
        "load_s": times.load_s,
        **{name: value and 1000 * value for name, value in ms.items()},
        "prefill_tokens_per_s": times.prefill_tokens_per_s,
        "decode_tokens_per_s": times.decode_tokens_per_s,
    }


def lines(records: Sequence[Record], pairs: Sequence[Pair]) -> Iterator[str]:
    """A report in Markdown."""
    yield f"## {records[0].model}"
    yield ""
    if records[0].stand_in:
        yield f"**{records[0].stand_in}**"
        yield ""
    figures = list(dict.fromkeys(pair.figure for pair in pairs))
    by_level: dict[str, dict[str, Pair]] = {}
    for pair in pairs:
        by_level.setdefault(pair.level, {})[pair.figure] = pair
    rows = [[level, *(_cell(found.get(name)) for name in figures)] for level, found in by_level.items()]
    yield from table(["level", *figures], rows)
    yield ""
    missed = [pair for pair in pairs if not pair.holds]
    yield f"{len(pairs) - len(missed)} of {len(pairs)} figures hold: sizes within 0.1 %, memory 15 %, times 25 %."
    yield ""
    yield where(_environment(records[0]))


def _cell(pair: Pair | None) -> str:
    """`predicted / measured (ratio)`."""
    if pair is None:
        return ""
    factor = 1e6 if pair.figure.endswith("bytes") else 1
    bold = "" if pair.holds else "**"
    return f"{pair.predicted / factor:.4g} / {pair.measured / factor:.4g} ({bold}{pair.ratio:.3f}{bold})"


def _environment(record: Record) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(record.environment)


if __name__ == "__main__":
    main()
