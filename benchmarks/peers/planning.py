"""What a plan predicts beside what was measured: sizes, memory, times.

    edgekit bench ./made --task latency --no-controls --to ./measured
    python benchmarks/peers/planning.py ./measured benchmarks/results/medgemma-27b.json --artifact ./made \\
        --held-out medgemma-27b:decode_tokens_per_s --json FILE --markdown FILE

Each level that results have latencies of is planned for a device with the limits that the same run measured
(`edgekit.machine.roofline`), 4,096 tokens of context and the proven runtimes: from the artifact whose parts were
measured, else from the recipe alone, whose sizes are compared, too. What was measured beside other work is shown and
not counted. Held out are figures that nothing in `edgekit.planning` was fitted to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs import table, where

from edgekit import bench
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.recipes import recipe
from edgekit.bench.records import Measurement, Record
from edgekit.machine.device import Device
from edgekit.machine.roofline import Roofline
from edgekit.planning import PlannedPart, Row, figure, of_artifact, of_recipe, row

_TIME = 0.25  # how far a prediction may lie from what was measured; other figures than times:
_ALLOWED = {"bytes": 0.001, "own_memory_bytes": 0.15, "peak_memory_bytes": 0.15}
_SAME_MODEL = 0.05  # of a variant's bytes: further off, it is of another shape than its recipe's
_MARK = "<!-- compared -->"  # in a text; what stands before it is kept
_COLD, _WARM = "first_token_cold_ms", "first_token_ms"


@dataclass(frozen=True)
class Pair:
    """One figure of one level."""

    results: str
    level: str
    figure: str
    predicted: float
    measured: float
    held_out: bool
    disturbed: bool

    @property
    def ratio(self) -> float:
        """Of the prediction to what was measured."""
        return self.predicted / self.measured

    @property
    def holds(self) -> bool:
        """Whether it lies as near as was promised."""
        return abs(self.ratio - 1) <= _ALLOWED.get(self.figure, _TIME)


@dataclass(frozen=True)
class Measured:
    """One level that results have latencies of."""

    results: str
    level: str
    record: Record
    timed: Measurement

    @property
    def disturbed(self) -> bool:
        """Whether other work ran beside it."""
        return bool(self.timed.details.get("disturbed"))


def main() -> None:
    """Read, plan, compare, write."""
    parser = argparse.ArgumentParser(prog="python benchmarks/peers/planning.py", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="what edgekit bench wrote: files, or folders")
    parser.add_argument("--artifact", action="append", default=[], type=Path, metavar="DIR", help="of these parts")
    parser.add_argument("--held-out", action="append", default=[], metavar="RESULTS:FIGURE", help="by its file's name")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = [one for path in options.results for one in levels(path)]
    pairs = [pair for one in found for pair in compared(one, options.artifact, options.held_out)]
    text = "\n".join(lines(found, pairs))
    print(text)
    if options.markdown:
        before = options.markdown.read_text(encoding="utf-8") if options.markdown.is_file() else ""
        options.markdown.write_text(f"{before.partition(_MARK)[0]}{_MARK}\n\n{text}\n", encoding="utf-8")
    if options.json:
        rows = [{**asdict(pair), "ratio": pair.ratio, "holds": pair.holds} for pair in pairs]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def levels(path: Path) -> Iterator[Measured]:
    """The levels in results that were timed as they are opened unless tuned."""
    for record in bench.read(path).records:
        timed = next((one for one in record.measurements if one.kind == "latency" and not one.error), None)
        if record.kind == "variant" and not record.tuned and record.level and timed:
            yield Measured(path.stem, record.level, record, timed)


def compared(one: Measured, artifacts: Sequence[Path], held_out: Collection[str]) -> Iterator[Pair]:
    """Every figure of a level that was both predicted and measured."""
    metrics = {name: metric.value for name, metric in one.timed.metrics.items()}
    parts = written(one.record, artifacts)
    if parts is None:
        parts = from_recipe(one.record)
        metrics["bytes"] = float(one.record.bytes or 0)
    device = here(one)
    for name, predicted in predictions(row(one.level, parts, device), 1e9 * device.memory_gb).items():
        measured = metrics.get(name)
        if measured and predicted is not None and not (name == _COLD and _WARM in metrics):
            held = f"{one.results}:{name}" in held_out
            yield Pair(one.results, one.level, name, predicted, measured, held, one.disturbed)


def written(record: Record, artifacts: Sequence[Path]) -> tuple[PlannedPart, ...] | None:
    """The parts that were measured, of the artifact that has them; None where none has."""
    for folder in artifacts:
        manifest = manifests.read(folder)
        if dict(manifest.variants.get(str(record.level), {})) == dict(record.part_ids or {}):
            return of_artifact(folder, manifest).variants[str(record.level)]
    return None


def from_recipe(record: Record) -> tuple[PlannedPart, ...]:
    """The same parts by the recipe alone; `Q4_0+vision-int8_dynamic` is its `Q4_0` with another vision part."""
    known, name = recipe(record.recipe), str(record.level)
    base = max((one for one in known.variant if name == one or name.startswith(f"{one}+")), key=len)
    others = (word.partition("-") for word in name[len(base) :].split("+") if word)
    roles = {**known.variant[base], **{role: level for role, _, level in others}}
    alone = known.model_copy(update={"variant": {name: roles}, "default": name, "on_request": ()})
    parts = of_recipe(alone).variants[name]
    if record.bytes is None or abs(sum(part.bytes for part in parts) / record.bytes - 1) > _SAME_MODEL:
        raise SystemExit(f"{record.model} {name}: of another shape than its recipe; name its folder with --artifact")
    return parts


def here(one: Measured) -> Device:
    """The machine that it was measured on, with the limits that were measured beside the times."""
    limits, environment = Roofline.of(one.timed.details["limits"]), one.record.environment
    memory = (environment.memory_bytes or 0) / 1e9
    return Device(
        name="here",
        title="this machine",
        memory_gb=memory,
        model_memory_gb=memory,
        cores=environment.cores,
        instruction_sets=tuple(environment.features),
        bandwidth_gb_s=limits.bytes_per_s / 1e9,
        gflops={name: rate.per_s / 1e9 for name, rate in limits.rates.items()},  # type: ignore[misc]
    )


def predictions(planned: Row, memory_bytes: float) -> Mapping[str, float | None]:
    """What a plan says, by the names of the task's figures."""
    times, used = planned.times, planned.memory
    in_ms = {_WARM: times.first_token_s, _COLD: times.first_token_s, "image_encode_ms": times.image_s}
    return {
        "bytes": planned.bytes,
        "own_memory_bytes": used.own,
        "peak_memory_bytes": min(used.peak, memory_bytes),  # pages of files give way where there is no more
        "load_s": times.load_s,
        **{name: value and 1000 * value for name, value in {**in_ms, "text_encode_ms": times.text_s}.items()},
        "prefill_tokens_per_s": times.prefill_tokens_per_s,
        "decode_tokens_per_s": times.decode_tokens_per_s,
    }


def lines(found: Sequence[Measured], pairs: Sequence[Pair]) -> Iterator[str]:
    """A report in Markdown."""
    counted = [[name, str(sum(pair.holds for pair in some)), str(len(some))] for name, some in sums(pairs)]
    yield from table(["", "hold", "of"], counted)
    for results in dict.fromkeys(one.results for one in found):
        own = [pair for pair in pairs if pair.results == results]
        first = next(one for one in found if one.results == results)
        yield from ["", f"## {results}: {first.record.model}", ""]
        if first.record.stand_in:
            yield from [f"**{first.record.stand_in}**", ""]
        figures = list(dict.fromkeys(pair.figure for pair in own))
        by_level: dict[str, dict[str, Pair]] = {}
        for pair in own:
            by_level.setdefault(pair.level, {})[pair.figure] = pair
        yield from table(
            ["level", *figures],
            [[_named(of), *(_cell(of.get(name)) for name in figures)] for of in by_level.values()],
        )
        yield ""
        quiet = [one for one in found if one.results == results and not one.disturbed]
        shares = [one.timed.details.get("others_share") for one in quiet]
        yield where(asdict(first.record.environment), None if None in shares else max(shares, default=0.0))


def sums(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[Pair]]]:
    """Those that count, by what they are."""
    quiet = [pair for pair in pairs if not pair.disturbed]
    kinds = {"sizes, within 0.1 %": ("bytes",), "memory, within 15 %": ("own_memory_bytes", "peak_memory_bytes")}
    for held, said in ((False, "fitted"), (True, "held out")):
        own = [pair for pair in quiet if pair.held_out == held]
        for name, figures in kinds.items():
            yield f"{said}: {name}", [pair for pair in own if pair.figure in figures]
        yield f"{said}: times, within 25 %", [pair for pair in own if pair.figure not in _ALLOWED]


def _named(figures: Mapping[str, Pair]) -> str:
    pair = next(iter(figures.values()))
    return f"{pair.level} (disturbed)" if pair.disturbed else pair.level


def _cell(pair: Pair | None) -> str:
    """`predicted / measured (ratio)`; bold where it does not hold, with a star where it was held out."""
    if pair is None:
        return ""
    factor, star = 1e6 if pair.figure.endswith("bytes") else 1, "\\*" if pair.held_out else ""
    bold = "" if pair.holds or pair.disturbed else "**"
    predicted, measured = figure(pair.predicted / factor), figure(pair.measured / factor)
    return f"{predicted} / {measured} ({bold}{pair.ratio:.3f}{bold}){star}"


if __name__ == "__main__":
    main()
