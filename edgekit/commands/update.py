"""`edgekit update`: replace what is installed by another bundle."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_root, print_bundle
from edgekit.progress import steps_on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which bundle, which root."""
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        help="a bundle's folder, whole or as `edgekit pack --since` writes it, without the files that are here already",
    )
    add_root(parser)
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="the maker's public key; the first install's without it, and no other"
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait for programs that still run from the slot that is emptied"
    )


def run(options: Namespace) -> int:
    """Verify, fill the other slot, try it, switch."""
    from edgekit.pack.install import update

    progress = steps_on_stderr(silent=options.json)
    bundle = update(options.bundle, options.root, options.key, progress, wait=options.wait)
    print_bundle("in use", bundle, options)
    return 0


VERB = Verb(
    "replace an installed bundle by another, in one step and with a way back",
    ("update ./update --to /opt/medgemma", "update ./update --to /opt/medgemma --wait"),
    run,
    add_options,
    go_on="what was in use still is: the same command begins again",
    order=114,
)
