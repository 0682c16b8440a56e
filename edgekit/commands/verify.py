"""`edgekit verify`: whether a bundle is, to the byte, the one that was signed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.bundles import add_since
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which bundle, by whose key."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder that `edgekit pack` wrote")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="the public key of the one whom you trust to have made it",
    )
    add_since(parser, "of one that brings only what an earlier bundle lacks")
    parser.add_argument("--minimum-version", type=int, default=1, metavar="N", help="refuse a version below this one")


def run(options: Namespace) -> int:
    """Check it whole, and say what it is."""
    from edgekit.pack import document
    from edgekit.pack.differences import missing
    from edgekit.pack.keys import key_id, public_key
    from edgekit.pack.roots import bundle_in
    from edgekit.pack.verify import verify

    present = None
    if options.since:
        new, old = (document.read(bundle)[0] for bundle in (options.bundle, bundle_in(options.since)))
        present = frozenset(file.path for file in missing(new, old))
    found = verify(options.bundle, options.key, minimum=options.minimum_version, present=present, progress=on_stderr())
    verified = [file for file in found.files if present is None or file.path in present]
    key = key_id(public_key(options.key))
    if options.json:
        counted = {"files": len(found.files), "bytes": found.bytes, "verified": len(verified), "key": key}
        print_json(found.model_dump(mode="json", exclude={"files"}) | counted)
    else:
        size = sum(file.bytes for file in verified)
        of_all = f" of {len(found.files)}" if len(verified) < len(found.files) else ""
        lines = [
            f"verified  {found.name}, version {found.version}: {len(verified)}{of_all} files, {size / 1e6:.1f} MB",
            f"key       {key}",
            f"model     {found.title}, {found.level}",
            f"for       {found.device}: {found.platform}, {', '.join(found.cpu)}, Python {', '.join(found.python)}",
        ]
        print_lines([*lines, f"note      {found.stand_in}"] if found.stand_in else lines)
    return 0


VERB = Verb(
    "check that a bundle is the one that was signed",
    (
        "verify ./bundle --key ./clinic.key.pub",
        "verify ./update --key ./clinic.key.pub --since ./bundle",
        "verify ./bundle --key ./clinic.key.pub --minimum-version 3 --json",
    ),
    run,
    add_options,
    go_on="nothing was changed: the same command begins again",
    order=109,
)
