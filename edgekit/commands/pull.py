"""`edgekit pull`: a bundle out of a registry of containers, or a layout like one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_since
from edgekit.commands.support.images import add_place, place_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Where from, where to, and what need not be fetched."""
    add_place(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="BUNDLE", help="the bundle's folder, a new one")
    parser.add_argument("--key", type=Path, metavar="FILE", help="fetch nothing that is not signed by this public key")
    parser.add_argument(
        "--have",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="a bundle, or the folder one is installed in: what it has is copied and not fetched; may be repeated",
    )
    add_since(parser, "bring only what an earlier bundle lacks, to update from it")


def run(options: Namespace) -> int:
    """Fetch what is not at hand, and say what to do with it."""
    from edgekit.pack.registry.pull import pull

    place = place_of(options)
    pulled = pull(
        place,
        options.to,
        key=options.key,
        have=options.have,
        since=options.since,
        progress=on_stderr(),
    )
    found = pulled.bundle
    if options.json:
        figures = {"bytes": pulled.bytes, "moved_bytes": pulled.moved_bytes, "digest": pulled.digest}
        print_json({"name": found.name, "version": found.version, "folder": str(options.to), **figures})
    else:
        checked = "signature checked" if options.key else "nobody has checked its signature yet"
        print_lines(
            [
                f"pulled  {found.name}, version {found.version}, to {options.to}: {checked}",
                f"moved   {pulled.moved_bytes / 1e6:.1f} of {pulled.bytes / 1e6:.1f} MB",
                f"digest  {pulled.digest}",
            ]
        )
    return 0


VERB = Verb(
    "fetch a bundle from a registry of containers",
    (
        "pull registry.example.org/models/medgemma:7 --key ./clinic.key.pub --to ./bundle",
        "pull registry.example.org/models/medgemma:8 --since /opt/medgemma --to ./update",
        "pull 7 --layout /media/stick/models --to ./bundle",
    ),
    run,
    add_options,
    go_on="the same command goes on where it stopped",
    order=112,
)
