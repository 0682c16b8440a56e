"""Fuzz every reader: `python tests/fuzz --inputs 1000000`.

Prints a table, writes it as Markdown or JSON where asked, and ends with 1 where anything was found. A finding is
repeated by `--reader NAME --from NUMBER --inputs 1`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from engine import Finding, Outcome, fuzz, input_of
from readers import READERS, shares
from tqdm import tqdm


def main() -> int:
    """Fuzz, and say what was found."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="of all readers together")
    parser.add_argument("--reader", action="append", choices=READERS, metavar="NAME", help="only this; may be repeated")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="NUMBER", help="of the first input")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="readers at a time")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write the inputs that were findings here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    options = parser.parse_args()
    if options.reader:
        counts = dict.fromkeys(options.reader, max(1, options.inputs // len(options.reader)))
    else:
        counts = shares(options.inputs)
    for name in counts:
        READERS[name].seeds()  # made once, before the workers
    began = time.monotonic()
    bar, pool = tqdm(total=sum(counts.values()), unit=" inputs", disable=None), ThreadPoolExecutor(options.jobs)
    with bar, pool:

        def run(name: str) -> Outcome:
            return fuzz(READERS[name], range(options.first, options.first + counts[name]), bar.update)

        outcomes = list(pool.map(run, counts))
    if options.save:
        save(outcomes, options.save)
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    lines = table(outcomes)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:  # many inputs find the same: one line each kind, without the figures in it
        kinds.setdefault((finding.reader, finding.fault, re.sub(r"\d+|'.*", "", finding.what)[:60]), []).append(finding)
    for alike in kinds.values():
        first = alike[0]
        print(f"{first.reader} {first.number} (of {len(alike)}): {first.fault}: {first.what}")
    total = sum(outcome.inputs for outcome in outcomes)
    print(f"{total} inputs in {time.monotonic() - began:.0f} s, {len(findings)} findings")
    return 1 if findings else 0


def save(outcomes: list[Outcome], folder: Path) -> None:
    """The inputs of all findings, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for finding in (finding for outcome in outcomes for finding in outcome.findings):
        name = f"{finding.reader}-{finding.number}".replace("/", "-").replace(" ", "-")
        (folder / name).write_bytes(input_of(READERS[finding.reader], finding.number))


def table(outcomes: list[Outcome]) -> list[str]:
    """One row a reader, in Markdown."""
    lines = [
        "| reader | inputs | accepted | refused | slowest, s | most memory, MB | findings |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for outcome in outcomes:
        figures = (
            outcome.inputs,
            outcome.accepted,
            sum(outcome.refused.values()),
            f"{outcome.slowest_s:.2f}",
            f"{outcome.most_bytes / 1e6:.0f}",
            len(outcome.findings),
        )
        lines.append(f"| {outcome.reader} | {' | '.join(map(str, figures))} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
