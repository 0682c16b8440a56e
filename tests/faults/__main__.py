"""`python -m tests.faults`: every fault at every operation of every writer, and a table of what became of it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from faults.injector import FAULTS
from faults.trials import Range, Tally, tried, unsafe
from faults.writers import WRITERS


def main() -> int:
    """Print the table; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--writer", action="append", choices=list(WRITERS), help="may be repeated; all without any")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="may be repeated; all without any")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th operation")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="leave out the first N operations")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here too")
    options = parser.parse_args()
    counts: dict[str, dict[str, Tally]] = {}
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Range(Path(folder).resolve() / "range") as place:
        for name in options.writer or WRITERS:
            operations = place.clean(name)[0].operations
            order = unsafe(operations, place.root / WRITERS[name].place.split("/")[0])
            print(f"{name}: {len(operations)} operations", *order, sep="\n", file=sys.stderr, flush=True)
            counts[name] = {}
            for fault in options.fault or FAULTS:
                points = place.points(name, fault)[options.first :: options.every]
                tally = counts[name][fault] = tried(place, name, fault, points)
                print(f"  {fault}: {tally.points} points", *tally.wrong, sep="\n    ", file=sys.stderr, flush=True)
            counts[name]["order"] = Tally(points=len(operations), wrong=order)
            if options.json:
                plain = {writer: {fault: asdict(t) for fault, t in row.items()} for writer, row in counts.items()}
                options.json.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    print(table(counts))
    return any(tally.wrong for row in counts.values() for tally in row.values())


def table(counts: dict[str, dict[str, Tally]]) -> str:
    """Markdown: for each writer its operations, and for each fault at how many of them it struck and what was wrong."""
    faults = [fault for fault in FAULTS if any(fault in row for row in counts.values())]
    lines = [
        f"| writer | operations | {' | '.join(faults)} | typed errors | went on | killed | wrong |",
        "|---" + "|--:" * (len(faults) + 5) + "|",
    ]
    for name, row in counts.items():
        tallies = [row.get(fault, Tally()) for fault in faults]
        sums = [sum(getattr(tally, kind) for tally in tallies) for kind in ("refused", "endured", "killed")]
        cells = [row["order"].points, *(tally.points for tally in tallies), *sums]
        cells.append(sum(len(tally.wrong) for tally in row.values()))
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
