"""`edgekit rollback`: go back to what an update replaced."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_root, print_bundle
from edgekit.progress import steps_on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which root."""
    add_root(parser)


def run(options: Namespace) -> int:
    """Verify and try the other slot, switch."""
    from edgekit.pack.install import rollback

    bundle = rollback(options.root, steps_on_stderr(silent=options.json))
    print_bundle("in use", bundle, options)
    return 0


VERB = Verb(
    "go back to the bundle that the last update replaced",
    ("rollback --to /opt/medgemma",),
    run,
    add_options,
    order=115,
)
