"""What `bench` and `report` are asked: what a level must keep, where it must run, how the answer is written."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _ActionsContainer

    from edgekit.bench.decision import Question
    from edgekit.bench.results import Results


def add_question(group: _ActionsContainer, device: str = "say which levels fit this device") -> None:
    """`--gate`, any number of times, and `--device`.

    Args:
        device: what that does.
    """
    group.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="TEXT",
        help='what a level must keep: "accuracy_drop <= 1, kl_p99 <= 0.2, first_token_s <= 20", tested at the bound of '
        "the 95 %% interval; FIGURE or TASK:FIGURE; exit code 1 where no level of a model keeps all; may be repeated",
    )
    group.add_argument("--device", metavar="NAME", help=f"{device} (edgekit list devices)")


def add_output(group: _ActionsContainer) -> None:
    """`--output`."""
    group.add_argument(
        "--output",
        choices=("md", "csv", "jsonl", "html", "json"),
        default="md",
        help="what is printed: the report (md), a line for each figure with the names of llama-bench (csv, jsonl), "
        "the page (html), or all of it as one document (json; default: md)",
    )


def asked(options: Namespace) -> Question:
    """What the options ask. Raises UsageError for a gate that cannot be read or a device that is none."""
    from edgekit.bench.decision import Question, gates
    from edgekit.machine.devices import device

    return Question(gates(options.gate), device(options.device) if options.device else None)


def answered(results: Results, question: Question) -> bool:
    """Whether some level of every model keeps what was asked.

    Raises:
        UsageError: a gate names a figure or a task that nothing was measured of.
    """
    from edgekit.bench.decision import check_known, decide

    check_known(question.gates, results.records)
    return not question or all(any(c.allowed for c in made.candidates) for made in decide(results.records, question))
