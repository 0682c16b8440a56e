"""The password of a key: from a file descriptor or the environment for scripts, else asked on the terminal.

It never stands in a command line, which every user of a machine can read.
"""

from __future__ import annotations

import getpass
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from edgekit.errors import UsageError

VARIABLE = "EDGEKIT_KEY_PASSWORD"
_MOST_BYTES = 4096


def add_password(parser: ArgumentParser, *, new: bool) -> None:
    """`--password-fd`, and of a new key `--password`."""
    if new:
        parser.add_argument(
            "--password",
            action="store_true",
            help="ask for a password that the private key is encrypted with; pack asks for it again",
        )
    parser.add_argument(
        "--password-fd",
        type=_descriptor,
        metavar="N",
        help=f"read the key's password from this file descriptor (else ${VARIABLE}, else the terminal)",
    )


def new_password(options: Namespace) -> bytes | None:
    """The password of a new key, asked twice on a terminal; None where none is wanted.

    Raises:
        UsageError: it cannot be read, or the second one is another.
    """
    from edgekit.pack import keys

    given = _given(options)
    if given is None and options.password:
        given = _asked("password of the new key: ")
        keys.check_password(given)
        if _asked("the same again: ") != given:
            raise UsageError("the two passwords are not the same", remedy="the same command again")
    return given


def password_of(key: Path, options: Namespace) -> bytes | None:
    """The password of a key; None where it has none.

    Raises:
        UsageError: it cannot be read, or nobody is there to be asked.
    """
    from edgekit.pack import keys

    given = _given(options)
    if not keys.is_encrypted(key):
        return None
    return _asked(f"password of {key}: ") if given is None else given


def _given(options: Namespace) -> bytes | None:
    """What a script gave. The environment is rid of it, for processes that are started from here inherit that."""
    named = os.environ.pop(VARIABLE, None)
    if options.password_fd is None:
        return None if named is None else os.fsencode(named)
    try:
        with os.fdopen(options.password_fd, "rb", closefd=False) as stream:
            text = stream.read(_MOST_BYTES)
    except OSError as error:
        raise UsageError(f"--password-fd {options.password_fd}: cannot be read: {error.strerror}") from error
    return text.removesuffix(b"\n").removesuffix(b"\r")


def _descriptor(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:12]) < 1 << 31):
        raise ArgumentTypeError(f"{text!r:.80} is no file descriptor")
    return int(text)


def _asked(prompt: str) -> bytes:
    if not sys.stdin.isatty():  # getpass would show what is typed
        raise UsageError(
            "the key's password is wanted, and there is no terminal to ask on",
            remedy=f"--password-fd N, or ${VARIABLE}",
        )
    try:
        return os.fsencode(getpass.getpass(prompt))
    except EOFError as error:
        raise UsageError("no password was given") from error
