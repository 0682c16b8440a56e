"""Where an image lies, as options of commands."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.pack.registry.place import Place


def add_place(parser: ArgumentParser) -> None:
    """The image, and where other than in a registry it is."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="REGISTRY/NAME:TAG, or REGISTRY/NAME@sha256:DIGEST to pull; with --layout, a tag",
    )
    parser.add_argument(
        "--layout", type=Path, metavar="FOLDER", help="in place of a registry, an OCI image layout; no network"
    )
    parser.add_argument(
        "--plain-http", action="store_true", help="the registry speaks no TLS; one on this machine never does"
    )


def place_of(options: Namespace) -> Place:
    """The place that the options name.

    Raises:
        UsageError: they name none, or one twice.
        RegistryError: the registry cannot be reached.
        MissingDependencyError: a library for registries is not installed.
    """
    from edgekit.pack.registry.image import reference
    from edgekit.pack.registry.layout import Layout
    from edgekit.pack.registry.remote import Remote

    if not options.layout:
        return Remote(reference(options.image), plain_http=options.plain_http)
    if options.plain_http:
        raise UsageError("--plain-http beside --layout", allowed="one of them: a layout is no registry")
    return Layout(options.layout, options.image)
