"""`edgekit verify`: whether a bundle is, to the byte, the one that was signed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
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
    parser.add_argument("--minimum", type=int, default=1, metavar="N", help="refuse a version below this one")


def run(options: Namespace) -> int:
    """Check it whole, and say what it is."""
    from edgekit.pack.keys import key_id, public_key
    from edgekit.pack.verify import verify

    found = verify(options.bundle, options.key, minimum=options.minimum, progress=on_stderr())
    key = key_id(public_key(options.key))
    if options.json:
        counted = {"files": len(found.files), "bytes": found.bytes, "key": key}
        print_json(found.model_dump(mode="json", exclude={"files"}) | counted)
    else:
        lines = [
            f"verified  {found.name}, version {found.version}: {len(found.files)} files, {found.bytes / 1e9:.2f} GB",
            f"key       {key}",
            f"model     {found.title}, {found.level}",
            f"for       {found.device}: {found.platform}, {', '.join(found.cpu)}, Python {', '.join(found.python)}",
        ]
        print_lines([*lines, f"note      {found.stand_in}"] if found.stand_in else lines)
    return 0


VERB = Verb(
    "check that a bundle is the one that was signed",
    ("verify ./bundle --key ./clinic.key.pub", "verify ./bundle --key ./clinic.key.pub --minimum 3 --json"),
    run,
    add_options,
    go_on="nothing was changed: the same command begins again",
    order=108,
)
