"""`edgekit plan`: what each variant of a model would take on a device, and which one to take."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.plans import add_goal, plan_json, plan_lines, planned
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.terminal import say


def add_options(parser: ArgumentParser) -> None:
    """Which model, on what, for what, and what is known of its levels."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a recipe (edgekit list recipes), an artifact's or a checkpoint's folder, or a reference model",
    )
    parser.add_argument("--device", required=True, metavar="NAME", help="a device (edgekit list devices), or here")
    add_goal(parser)
    parser.add_argument("--recipe", metavar="NAME", help="of a checkpoint that several recipes fit")
    parser.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        metavar="RESULTS",
        help="what edgekit bench --to wrote, for what is lost; may be repeated",
    )


def run(options: Namespace) -> int:
    """Print the plan; 1 where nothing fits."""
    made = planned(options.model, options.device, options.goal, options.recipe, options.records)
    if options.json:
        print_json(plan_json(made))
    else:
        print_lines(plan_lines(made))
    if made.recommended is None:
        say(made.missing)
    return 0 if made.recommended else 1


VERB = Verb(
    "say what each level of a model would take on a device, and which one to take; needs no checkpoint",
    (
        "plan medgemma-4b --device raspberry-pi-5",
        "plan ./medgemma --device here --goal fastest",
        "plan medsiglip --device laptop-8gb-cpu --json",
    ),
    run,
    add_options,
    order=15,
)
