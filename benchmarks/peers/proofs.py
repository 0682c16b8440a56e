"""What each level of one checkpoint loses by its proof, and what the proof takes: seconds and memory, phase by phase.

    conversion    `edgekit export --no-prove` of one level, wall time, with the hashes of source and files
    proof         `edgekit prove` of it, phase by phase, in a process of its own; memory is the peak of its own
                  (anonymous) memory, since mapped files can be dropped
    parts         what the manifest says of each part then

One run each. The files of a level are removed before the next is made, unless `--keep`.

    edgekit synthesize medgemma-4b ./stand-in
    python benchmarks/peers/proofs.py ./stand-in --recipe medgemma-4b --levels Q4_K_M q4
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import disturbed, run_job, table, where
from processes import measure, size_of, warm

from edgekit.artifacts.recipes import STAND_IN_KEY, recipe
from edgekit.bench.environment import environment
from edgekit.checkpoints.checkpoint import open_checkpoint

JOB = Path(__file__).with_name("proof_job.py")
RESULTS = Path("benchmarks/results")


def proven(source: Path, recipe_name: str, level: str, folder: Path) -> dict[str, Any]:
    """One level: made, then proven."""
    shards = open_checkpoint(source).shards
    warm(*shards)
    command = [sys.executable, "-m", "edgekit", "export", source, "--recipe", recipe_name, "--no-prove"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        cost = measure([*command, "--to", folder, "--level", level], Path(work), folder)
    job = {"folder": str(folder), "source": str(source), "level": level}
    found = run_job(JOB, job)
    return {"level": level, "bytes": size_of(folder), "conversion": asdict(cost), **found}


def markdown(result: Mapping[str, Any]) -> str:
    """The tables for people."""
    rows = result["levels"]
    head = ["level", "part", "bits/weight", "compared", "audit", "exactness", "wiring", "loss"]
    lines = [
        f"# Proofs of {result['title']}",
        "",
        *([f"**{result['stand_in']}**", ""] if result["stand_in"] else []),
        "How it was measured stands in benchmarks/peers/proofs.py, which writes this file:",
        "",
        f"    {result['command']}",
        "",
        *table(head, [line for row in rows for line in _parts(row)]),
        "",
        "One run each. Memory: the peak of the process's own; mapped files can be dropped.",
        "",
        *table(["level", "phase", "s", "CPU s", "own memory, GB"], [line for row in rows for line in _phases(row)]),
    ]
    others = disturbed([*rows, *(row["conversion"] for row in rows)])
    return "\n".join([*lines, "", where(result["environment"], others)]) + "\n"


def _parts(row: Mapping[str, Any]) -> Iterator[list[str]]:
    for part in row["parts"]:
        parity = part["parity"] or {}
        figures = [_figures(parity.get(name)) for name in ("audit", "exactness", "wiring", "loss")]
        compared = f"{parity['metric']}, {parity['positions']}" if parity else "not proven"
        yield [row["level"], f"{part['role']} {part['level']}", f"{part['bits_per_weight']:.2f}", compared, *figures]


def _figures(found: Mapping[str, float] | None) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in found.items()) if found else "-"


def _phases(row: Mapping[str, Any]) -> Iterator[list[str]]:
    conversion = row["conversion"]
    yield [row["level"], *_took("conversion", conversion)]
    for phase in row["phases"]:
        yield ["", *_took(phase["phase"], phase)]
    together = {name: sum(phase[name] for phase in row["phases"]) for name in ("seconds", "cpu_seconds")}
    yield ["", *_took("proof, together", {**together, "anonymous_bytes": row["anonymous_bytes"]})]


def _took(what: str, cost: Mapping[str, Any]) -> list[str]:
    return [what, f"{cost['seconds']:.1f}", f"{cost['cpu_seconds']:.1f}", f"{cost['anonymous_bytes'] / 1e9:.2f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make and prove each level, write after each, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a folder; `edgekit synthesize` makes one of the real shape")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--levels", nargs="+", required=True)
    parser.add_argument("--stand-in", help="what the weights are; as config.json says it for none")
    parser.add_argument("--work", type=Path, help="a folder on a disk with room (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="leave the files in --work")
    parser.add_argument("--out", type=Path, help="default: proofs-RECIPE.json among the results")
    options = parser.parse_args(arguments)
    name = Path(options.recipe).stem
    out = options.out or RESULTS / f"proofs-{name}.json"
    stand_in = options.stand_in or open_checkpoint(options.checkpoint).config.get(STAND_IN_KEY)
    kept = json.loads(out.read_text(encoding="utf-8"))["levels"] if out.exists() else []
    kept = [row for row in kept if row["level"] not in options.levels]
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        base = options.work.resolve() if options.work else Path(work)
        levels: list[dict[str, Any]] = []
        for level in options.levels:
            folder = base / f"{name}-{level}"
            shutil.rmtree(folder, ignore_errors=True)
            levels.append(proven(options.checkpoint.resolve(), options.recipe, level, folder))
            if not options.keep:
                shutil.rmtree(folder)
            result = {
                "what": __doc__,
                "title": recipe(options.recipe).title,
                "stand_in": stand_in,
                "command": f"python benchmarks/peers/proofs.py CHECKPOINT --recipe {name} --levels "
                + " ".join(row["level"] for row in (*kept, *levels)),
                "environment": asdict(environment()),
                "levels": [*kept, *levels],
            }
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
            print(f"{level}: {sum(p['seconds'] for p in levels[-1]['phases']):.1f} s", file=sys.stderr)
    print(markdown(result))


if __name__ == "__main__":
    main()
