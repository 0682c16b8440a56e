"""`edgekit bench`: measure artifacts against full precision."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_levels
from edgekit.progress import on_stderr
from edgekit.terminal import show

if TYPE_CHECKING:
    from argparse import _ArgumentGroup


def add_options(parser: ArgumentParser) -> None:
    """What to measure, against what, on which tasks, how, and where the results go."""
    add_artifact(parser, several=True)
    add_levels(parser, "a variant; all without any")
    _add_comparison(parser.add_argument_group("what it is compared with"))
    _add_data(parser.add_argument_group("tasks and their data"))
    _add_speed(parser.add_argument_group("times and memory"))
    _add_place(parser.add_argument_group("where it runs, and for how long"))
    _add_results(parser.add_argument_group("results"))


def _add_comparison(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="SOURCE",
        help="a checkpoint that an artifact was made from; may be repeated",
    )


def _add_data(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="a task (edgekit list tasks); all that fit without any",
    )
    group.add_argument("--data", type=Path, metavar="DIR", help="the folder of real test data")
    group.add_argument(
        "--images",
        metavar="FOLDER",
        help="your own images: one folder a label, a table of files and labels (CSV, JSON lines), or a hub's data set",
    )
    group.add_argument(
        "--questions",
        metavar="FILE",
        help="your own questions: a table of questions and answers, with options or images where there are any",
    )
    group.add_argument("--download", action="store_true", help="fetch data sets of the hub; without it, only its cache")
    group.add_argument("--limit", type=int, metavar="N", help="at most so many samples a task")


def _add_speed(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="latency rounds, interleaved over the rows (default: 5)"
    )
    group.add_argument(
        "--tuned", action="store_true", help="each variant once more as edgekit tune chose here, as users open it"
    )


def _add_place(group: _ArgumentGroup) -> None:
    """Nothing yet: cells run on this machine."""


def _add_results(group: _ArgumentGroup) -> None:
    group.add_argument(
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
        images=options.images,
        questions=options.questions,
        download=options.download,
        limit=options.limit,
    )
    results = bench.bench(sweep, work=options.to and options.to / "work", progress=on_stderr())
    if options.to:
        bench.write(results, options.to)
    show(bench.as_json(results) if options.json else bench.markdown(results))
    return 0 if results.shows_damage is not False and not results.errors else 1


VERB = Verb(
    "measure artifacts against the full-precision model",
    (
        "bench ./medgemma ./medsiglip --data ../data",
        "bench ./medgemma --level Q4_0 --task finding-phantom",
        "bench ./medsiglip --images ./my-images --limit 200",
    ),
    run,
    add_options,
    go_on="the same command goes on from what --to DIR holds; without --to nothing is kept",
    order=100,
)
