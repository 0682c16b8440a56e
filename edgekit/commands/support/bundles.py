"""What the verbs about installed bundles share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import ArtifactError

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from edgekit.pack.bundle import Bundle


_MODEL = ":model"  # what `edgekit.pack.launchers` replaces
_RUN = f"ROOT/run edgekit COMMAND runs what is installed, and {_MODEL} in it is the folder of its model"


def add_root(parser: ArgumentParser, summary: str = "where `edgekit install` put a bundle") -> None:
    """Where bundles are installed."""
    parser.add_argument("--to", type=Path, required=True, dest="root", metavar="ROOT", help=f"{summary}. {_RUN}")


def add_since(parser: ArgumentParser | _ArgumentGroup, summary: str) -> None:
    """The bundle that a difference is to."""
    parser.add_argument("--since", type=Path, metavar="FOLDER", help=f"{summary}: its folder, or where it is installed")


def described(bundle: Bundle) -> str:
    """A bundle in a line."""
    return f"{bundle.name} version {bundle.version}: {bundle.title}, {bundle.level}"


def fields(bundle: Bundle) -> dict[str, Any]:
    """A bundle without its list of files."""
    return {**bundle.model_dump(mode="json", exclude={"files"}), "bytes": bundle.bytes}


def print_bundle(what: str, bundle: Bundle, options: Namespace) -> None:
    """What was done, and how to use it."""
    if options.json:
        print_json(fields(bundle))
        return
    lines = [f"{what:<9} {described(bundle)}"]
    if bundle.stand_in:
        lines.append(f"stand-in  {bundle.stand_in}")
    root = options.root.resolve()
    print_lines([*lines, f"run       {root / 'run'} {example(root)}", f"          {_MODEL} is the folder of its model"])


def example(root: Path) -> str:
    """What the model that is in use in a root can be asked, as a command line of `ROOT/run`."""
    from edgekit.artifacts import manifest as manifests
    from edgekit.commands.support import uses
    from edgekit.pack import roots
    from edgekit.pack.bundle import MODEL

    usual = f"edgekit inspect {_MODEL}"
    try:
        manifest = manifests.read(roots.installed(root)[1] / MODEL)
    except ArtifactError:  # `inspect` says what is wrong
        return usual
    return uses.command(Path(_MODEL), manifest, manifest.default) or usual
