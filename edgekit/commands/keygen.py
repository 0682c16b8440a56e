"""`edgekit keygen`: the key that signs bundles, and what recipients verify them with."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.passwords import add_password, new_password
from edgekit.commands.support.printing import print_json, print_lines


def add_options(parser: ArgumentParser) -> None:
    """Where to write it, and whether behind a password."""
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help="the private key, for you alone; FILE.pub and FILE.crt, for recipients, are written beside it",
    )
    add_password(parser, new=True)


def run(options: Namespace) -> int:
    """Make it, and say what each file is for."""
    from edgekit.pack import keys

    password = new_password(options)
    made = keys.generate(options.to, password)
    public, certificate = keys.public_path(options.to), keys.certificate_path(options.to)
    if options.json:
        files = {"private": str(options.to), "public": str(public), "certificate": str(certificate)}
        print_json({"key": made, "encrypted": password is not None, **files})
    else:
        with_it = "" if password is None else "and its password "
        print_lines(
            [
                f"private      {options.to}: signs; whoever has it {with_it}signs in your name",
                f"public       {public}: verifies; recipients get it by another way than bundles",
                f"certificate  {certificate}: the same for model_signing's verifier",
                f"key          {made}: what recipients can compare with you",
            ]
        )
    return 0


VERB = Verb(
    "make the key that signs bundles",
    ("keygen --to ./clinic.key", "keygen --to ./clinic.key --password"),
    run,
    add_options,
    order=106,
)
