"""`edgekit install`: make a bundle run here."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_root, print_bundle
from edgekit.progress import steps_on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which bundle, where to, signed by whom."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's folder, as `edgekit pack` writes it")
    add_root(parser, "a new or an empty folder")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="the public key of the bundle's maker; get it by another way than the bundle",
    )


def run(options: Namespace) -> int:
    """Verify, copy, try, switch."""
    from edgekit.pack.install import install

    bundle = install(options.bundle, options.root, options.key, steps_on_stderr(silent=options.json))
    print_bundle("installed", bundle, options)
    return 0


VERB = Verb(
    "install a bundle here: verified, tried by its self-test, without a network",
    ("install ./bundle --to /opt/medgemma --key ./clinic.key.pub",),
    run,
    add_options,
    go_on="the same command begins again",
    order=113,
)
