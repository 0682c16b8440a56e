"""`edgekit tune`: measure runtimes and options here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_levels
from edgekit.commands.support.printing import print_json, print_lines, print_warnings
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which levels, within which limits."""
    add_artifact(parser)
    add_levels(parser, "a variant; the recipe's default without any")
    parser.add_argument("--device", metavar="NAME", help="obey a device profile's cores")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")


def run(options: Namespace) -> int:
    """Measure, keep the results for every later open, print them."""
    from edgekit.machine.device import missing_here
    from edgekit.machine.devices import device
    from edgekit.tuning import tune

    warning = missing_here(device(options.device)) if options.device else None
    results = tune.tune(options.folder, options.level, options.device, fresh=options.fresh, progress=on_stderr())
    if options.json:
        print_json([{**result.to_dict(), "warnings": [warning] if warning else []} for result in results])
    else:
        print_lines(line for result in results for line in result.lines())
    print_warnings([warning] if warning else [])
    return 0


VERB = Verb(
    "measure which runtime and options are the fastest here, for every later open",
    ("tune ./medgemma", "tune ./medsiglip --level int8 --fresh --json"),
    run,
    add_options,
    go_on="what was measured is kept: the same command, without --fresh, measures the rest",
    order=90,
)
