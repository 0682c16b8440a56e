"""`edgekit bench`: measure artifacts against full precision."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_levels
from edgekit.progress import on_stderr
from edgekit.terminal import show


def add_options(parser: ArgumentParser) -> None:
    """What to measure, against what, on which tasks, and where the results go."""
    add_artifact(parser, several=True)
    add_levels(parser, "a variant; all without any")
    parser.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a checkpoint that an artifact was made from; may be repeated",
    )
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="a task (edgekit list tasks); all that fit without any",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of real test data")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="latency rounds, interleaved over the rows (default: 5)"
    )
    parser.add_argument(
        "--tuned", action="store_true", help="each variant once more as edgekit tune chose here, as users open it"
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="write results.json, report.md and report.html here; an interrupted run goes on from it",
    )


def run(options: Namespace) -> int:
    """Measure; 1 where something could not be measured or the control rows show no damage."""
    from edgekit import bench
    from edgekit.checkpoints.sources import source_folder

    sweep = bench.Sweep(
        options.folders,
        levels=options.level,
        checkpoints=[source_folder(name) for name in options.reference],
        tasks=options.task,
        data=options.data,
        rounds=options.rounds,
        tuned=options.tuned,
    )
    results = bench.bench(sweep, work=options.to and options.to / "work", progress=on_stderr())
    if options.to:
        bench.write(results, options.to)
    show(bench.as_json(results) if options.json else bench.markdown(results))
    return 0 if results.shows_damage is not False and not results.errors else 1


VERB = Verb(
    "measure artifacts against the full-precision model",
    ("bench ./medgemma ./medsiglip --data ../data", "bench ./medgemma --level Q4_0 --task finding-phantom"),
    run,
    add_options,
    go_on="the same command goes on from what --to DIR holds; without --to nothing is kept",
    order=100,
)
