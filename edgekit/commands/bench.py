"""`edgekit bench`: measure artifacts against full precision."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_levels
from edgekit.commands.support.questions import add_output, add_question, answered, asked
from edgekit.progress import on_stderr
from edgekit.terminal import say, show

if TYPE_CHECKING:
    from argparse import _ArgumentGroup
    from collections.abc import Iterator

    from edgekit.bench.results import Results


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
    group.add_argument(
        "--no-controls",
        action="store_true",
        help="no damaged rows, which show that the table could show damage; where they are run and show none, the exit "
        "code is 1",
    )


def _add_data(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="only this task (edgekit list tasks; own-images and own-questions are on your data); may be repeated; "
        "all that fit without any",
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
    group.add_argument(
        "--threads", type=_counts, default=(), metavar="N,N", help="time each variant with so many threads, too"
    )
    group.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME[=PROGRAM]",
        help="time another program beside it: llama-cpp-python, llama-server, onnxruntime-genai, optimum-onnx, "
        "openvino-genai or transformers, in its own environment or that of the Python which is named; may be repeated",
    )
    group.add_argument("--install-peers", action="store_true", help="make missing environments of peers, with pip")


def _add_place(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on the machines of a Ray cluster: HOST:PORT, or auto for the one that this machine belongs to",
    )
    group.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="NAME",
        help="with --ray: measure levels on machines that have the resource device:NAME; may be repeated",
    )


def _add_results(group: _ArgumentGroup) -> None:
    group.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="write results.json, the reports and the figures here; an interrupted run goes on from it",
    )
    add_output(group)
    add_question(group, "measure the levels that fit this device, as a plan for it has them run")


def _counts(text: str) -> tuple[int, ...]:
    """Numbers with commas between them; whether so many threads can be had is checked where they are used."""
    if not re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*", text):
        raise ArgumentTypeError(f"{text!r} are no numbers of threads; allowed: 1,2,4 for instance")
    return tuple(map(int, text.split(",")))


def run(options: Namespace) -> int:
    """Measure; 1 where something was not measured, the control rows show no damage, or no level keeps the gates."""
    from edgekit import bench
    from edgekit.bench.controls import LADDER
    from edgekit.checkpoints.sources import source_folder

    question = asked(options)
    if options.to:
        bench.check_place(options.to)
    sweep = bench.Sweep(
        options.folders,
        levels=options.level,
        checkpoints=[source_folder(name) for name in options.reference],
        tasks=options.task,
        data=options.data,
        rounds=options.rounds,
        tuned=options.tuned,
        controls=() if options.no_controls else LADDER,
        ray=options.ray,
        devices=options.on,
        images=options.images,
        questions=options.questions,
        download=options.download,
        limit=options.limit,
        threads=options.threads,
        peers=options.peer,
        install_peers=options.install_peers,
        gates=question.gates,
        device=options.device,
    )
    results = bench.bench(sweep, work=options.to and options.to / "work", progress=on_stderr())
    results = bench.typed(results, options.words)
    if options.to:
        bench.write(results, options.to, question)
    show(bench.printed(results, "json" if options.json else options.output, question), end="")
    kept = answered(results, question)  # last: a gate on what nobody measured must not cost the figures
    if problems := [*_problems(results), *([] if kept else ["no level of a model keeps every gate"])]:
        say(f"exit code 1: {'; '.join(problems)}")
    return 1 if problems else 0


def _problems(results: Results) -> Iterator[str]:
    """What a script must not take for figures that can be relied on."""
    if results.errors:
        yield f"of what was asked, {len(results.errors)} could not be measured"
    if results.shows_damage is False:
        yield "a row that was damaged on purpose shows no damage, so these tasks would show none in a level"


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
