"""`edgekit installed`: what is installed in a root."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_root, described, fields
from edgekit.commands.support.printing import print_json, print_lines


def add_options(parser: ArgumentParser) -> None:
    """Which root."""
    add_root(parser)


def run(options: Namespace) -> int:
    """Print what both slots have."""
    from edgekit.pack.install import status

    found = status(options.root)
    if options.json:
        print_json(
            {
                "slot": found.slot,
                "in_use": fields(found.bundle),
                "before": fields(found.other) if found.other and found.back else None,
                "after": fields(found.other) if found.other and not found.back else None,
                "minimum_version": found.minimum,
                "minimum_by": found.minimum_by,
                "key": found.key,
            }
        )
        return 0
    print_lines(
        [
            f"in use    {described(found.bundle)} (slot {found.slot})",
            f"before    {described(found.other) if found.other and found.back else 'nothing to go back to'}",
            *([f"after     {described(found.other)}, gone back from"] if found.other and not found.back else []),
            f"minimum   version {found.minimum}, by {found.minimum_by}; earlier ones of every name were withdrawn"
            if found.minimum_by
            else "minimum   none; no version was withdrawn",
            f"key       {found.key}",
        ]
    )
    return 0


VERB = Verb(
    "show which bundle is in use in a root, and which one an update replaced",
    ("installed --to /opt/medgemma", "installed --to /opt/medgemma --json"),
    run,
    add_options,
    order=116,
)
