"""`edgekit push`: a bundle into a registry of containers, or a layout like one."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.images import add_place, place_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which bundle, and where to."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder that `edgekit pack` wrote")
    add_place(parser)


def run(options: Namespace) -> int:
    """Store what is not there yet, and say under which digest it can be had."""
    from edgekit.pack.registry.push import push

    place = place_of(options)
    pushed = push(options.bundle, place, on_stderr())
    if options.json:
        figures = {"bytes": pushed.bytes, "moved_bytes": pushed.moved_bytes, "digest": pushed.digest}
        print_json({"name": pushed.bundle.name, "version": pushed.bundle.version, "to": place.name, **figures})
    else:
        print_lines(
            [
                f"pushed  {pushed.bundle.name}, version {pushed.bundle.version}, to {place.name}",
                f"moved   {pushed.moved_bytes / 1e6:.1f} of {pushed.bytes / 1e6:.1f} MB; the rest was there",
                f"digest  {pushed.digest}",
            ]
        )
    return 0


VERB = Verb(
    "store a bundle in a registry of containers",
    (
        "push ./bundle registry.example.org/models/medgemma:7",
        "push ./bundle 7 --layout /media/stick/models",
    ),
    run,
    add_options,
    go_on="the same command goes on: files that are there completely are not sent again",
    order=111,
)
