"""`edgekit profile`: measure this machine, as a device that models are packaged and planned for."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines, table
from edgekit.errors import UsageError
from edgekit.progress import on_stderr
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.machine.device import Device


def add_options(parser: ArgumentParser) -> None:
    """Where the profile is written, and which disk is measured."""
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the profile here, for --device FILE elsewhere")
    parser.add_argument("--force", action="store_true", help="write it in place of the profile that is there")
    parser.add_argument("--disk", type=Path, metavar="DIR", help="on the disk to measure (default: edgekit's cache)")


def run(options: Namespace) -> int:
    """Measure, keep, print."""
    from edgekit.machine import here
    from edgekit.machine.device import text
    from edgekit.machine.nearest import nearest

    if options.to:
        _check_place(options.to, force=options.force)
    if options.disk and not options.disk.is_dir():
        raise UsageError(f"--disk {options.disk}: is no folder", remedy="name a folder on the disk that models lie on")
    measured = here.measured(options.disk, on_stderr())
    found = measured.device
    if options.to:
        from edgekit.artifacts.files import write_atomically

        write_atomically(options.to, text(found))
    near = nearest(found)
    if options.json:
        plain = {"device": found.model_dump(mode="json"), "doubt": measured.doubt, "nearest": near and near.name}
        print_json(plain)
        return 0
    print_lines([f"{found.title}; on {found.power}", *table([*_rows(found)])])
    if measured.doubt:
        say(f"{measured.doubt} meanwhile: kept for an hour; measure again when this machine is quiet")
    if near:
        say(f"nearest of the profiles: {near}")
    say(f"kept for --device here{f', written to {options.to}' if options.to else ''}")
    return 0


def _rows(found: Device) -> Iterator[dict[str, str]]:
    """Each figure with how it was measured."""
    from edgekit.machine.profile import MEASURED

    if found.unified_memory:
        yield {"figure": "unified_memory", "value": "yes", "how": "the GPU's memory is a part of main memory"}
    for key, source in found.sources.items():
        how = source.partition(": ")[2] if source.startswith(MEASURED) else source
        for name, value in _values(found, key):
            yield {"figure": name, "value": value, "how": how}


def _values(found: Device, key: str) -> Iterator[tuple[str, str]]:
    if key == "gflops":
        yield from ((f"gflops.{kind}", f"{rate:g}") for kind, rate in found.gflops.items())
    elif key == "bandwidth_by_threads":
        rates = found.bandwidth_by_threads.items()
        yield from ((f"bandwidth_by_threads.{threads}", f"{rate:g}") for threads, rate in rates)
    else:
        value = getattr(found, key)
        yield key, "-" if value is None else f"{value:g}"


def _check_place(path: Path, *, force: bool) -> None:
    """Raise UsageError for a file that would be lost, which none but a device profile ever is, or that none could be
    read from.
    """
    from edgekit.machine.devices import device

    if path.suffix != ".toml" or path.stem == "here":
        raise UsageError(f"--to {path}", allowed="the name of a .toml file other than here.toml")
    if path.exists():
        try:
            device(str(path))
        except UsageError as error:
            raise UsageError(f"--to {path}: is there and no device profile: {error.message}") from error
        if not force:
            raise UsageError(f"--to {path}: is there", remedy="--force replaces that profile, or name another file")
    elif not path.absolute().parent.is_dir():
        raise UsageError(f"--to {path}: there is no folder {path.absolute().parent}")


VERB = Verb(
    "measure this machine: memory, matrix products, disk, GPU; a device profile",
    ("profile", "profile --to ./front-desk.toml", "profile --disk /mnt/models --json"),
    run,
    add_options,
    order=12,
)
