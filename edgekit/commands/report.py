"""`edgekit report`: one report of several runs, the decision that they allow, and two runs side by side."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.questions import add_output, add_question, answered, asked
from edgekit.terminal import show


def add_options(parser: ArgumentParser) -> None:
    """Which runs, what is asked of them, how it is written."""
    parser.add_argument(
        "results",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="a results.json, or the folder that bench --to wrote; or several",
    )
    parser.add_argument("--against", type=Path, metavar="RESULTS", help="an earlier run that these are compared with")
    group = parser.add_argument_group("the decision")
    add_question(group)
    parser.add_argument("--to", type=Path, metavar="DIR", help="write results.json, the reports and the figures here")
    add_output(parser)


def run(options: Namespace) -> int:
    """Merge, decide, write; 1 where no level keeps the gates."""
    from edgekit import bench
    from edgekit.bench.decision import check_known
    from edgekit.bench.report.files import check_place
    from edgekit.bench.runs import Earlier, merge

    question = asked(options)
    if options.to:
        check_place(options.to)
    results = merge([bench.read(path) for path in options.results])
    earlier = Earlier(str(options.against), bench.read(options.against)) if options.against else None
    if options.to:
        check_known(question.gates, results.records)  # before anything is written
        bench.write(results, options.to, question, earlier)
    show(bench.printed(results, "json" if options.json else options.output, question, earlier), end="")
    return 0 if answered(results, question) else 1


VERB = Verb(
    "merge runs of edgekit bench, decide which level to take, compare two runs",
    (
        "report ./measured --device raspberry-pi-5",
        'report ./measured --gate "accuracy_drop <= 1, first_token_s <= 20"',
        "report ./laptop ./raspberry-pi --to ./both",
        "report ./after --against ./before",
    ),
    run,
    add_options,
    order=105,
)
