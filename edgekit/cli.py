"""The command line: finds the verbs of `edgekit.commands`, parses, and maps errors to exit codes.

Exit codes: 0 success, 1 an error or a failed gate, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgekit.artifacts.disk_errors import typed
from edgekit.artifacts.version import __version__
from edgekit.commands import verbs
from edgekit.commands.support.printing import own_warnings_printed
from edgekit.commands.support.streams import escape_what_cannot_be_shown
from edgekit.errors import EdgekitError, MissingDependencyError, UsageError
from edgekit.machine import privacy
from edgekit.pack import occupied
from edgekit.terminal import say, say_json

INTERRUPTED = 130
_DEBUG = "print the traceback of an error, too"


class _Once(argparse.Action):
    """Stores a value; an option's second one contradicts the first, which argparse would forget."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = vars(namespace).setdefault("given", set())
        if option and self.dest in given:
            raise argparse.ArgumentError(self, "stands twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are edgekit's, and that takes one value for one option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print itself, and never as JSON."""
        command = self.prog.removeprefix("edgekit").strip()
        raise UsageError(f"{command}: {message}" if command else message, remedy=f"{self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The whole command line; what was parsed holds the verb's `run` and `go_on`."""
    top = Parser(
        prog="edgekit",
        description="Convert MedGemma and MedSigLIP for the edge, prove them against the originals, measure the loss.",
        epilog="edgekit COMMAND --help shows each command's options and examples.",
    )
    top.add_argument("--version", action="version", version=f"edgekit {__version__}")
    top.add_argument("--debug", action="store_true", help=_DEBUG)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, verb in verbs().items():
        command = commands.add_parser(
            name,
            help=verb.summary,
            description=verb.summary[0].upper() + verb.summary[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  edgekit {example}" for example in verb.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        # Without a default of its own, which would undo what stands before the command.
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
        command.set_defaults(run=verb.run, go_on=verb.go_on)
        verb.add_options(command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command_line = parser()
    if "_ARGCOMPLETE" in os.environ:
        complete(command_line)
    escape_what_cannot_be_shown()
    try:
        options = command_line.parse_args(arguments)
    except UsageError as error:
        report_error(error, "--json" in (sys.argv[1:] if arguments is None else arguments))
        raise SystemExit(error.exit_code) from None
    options.words = list(sys.argv[1:] if arguments is None else arguments)
    from edgekit.machine.cpu import limit_openmp_spin
    from edgekit.machine.interrupts import ending_promptly

    limit_openmp_spin()
    privacy.keep_command(downloads=getattr(options, "download", False))
    try:
        with own_warnings_printed(), ending_promptly(lambda: f"edgekit: {interrupted(options)}"):
            return guarded(options.run, options)
    except KeyboardInterrupt as interrupt:
        say(interrupted(options))
        return getattr(interrupt, "exit_code", INTERRUPTED)


def complete(command_line: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what may be typed next, where argcomplete is installed, and end."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(command_line)


def guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a verb; what it raises becomes a message on standard error and an exit code."""
    try:
        with occupied.held():
            return run(options)
    except (SystemExit, GeneratorExit, KeyboardInterrupt):
        raise
    except BrokenPipeError:  # the reader of our output is gone: nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # The one place where everything is caught: behind it is only the interpreter, which would show a user a traceback.
    # A panic of a library in Rust is no Exception.
    except BaseException as error:  # noqa: BLE001
        if options.debug:
            say(traceback.format_exc(), lines=True)
        known = expected(error)
        report_error(known or unexpected(error), options.json, kind=type(known or error).__name__)
        return known.exit_code if known else EdgekitError.exit_code


def interrupted(options: argparse.Namespace) -> str:
    """What is said after Ctrl-C: that, and how to go on."""
    return f"interrupted; {options.go_on}" if options.go_on else "interrupted"


def expected(error: BaseException) -> EdgekitError | None:
    """An error as a user should read it; None for one that says that edgekit itself is wrong."""
    if isinstance(error, EdgekitError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("edgekit"):
        return MissingDependencyError(f"{error.name} is not installed", remedy="pip install 'edgekit[export]'")
    if isinstance(error, OSError):  # a file that may not be read, a full disk
        return typed(error)
    # The second is what threading says where memory, or the number of processes, is limited.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't start new thread" in str(error)):
        return EdgekitError("there is not enough memory", remedy="end other programs, or choose a smaller level")
    if isinstance(error, RecursionError):
        return EdgekitError("something in these files is nested too deeply")
    return None


def unexpected(error: BaseException) -> EdgekitError:
    """One line for an error that nobody foresaw: what, where in the code, and how to see more."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    what = f"{type(error).__name__}: {error}"
    return EdgekitError(f"an error that edgekit did not expect{where}: {what:.300}; --debug shows the traceback")


def report_error(error: EdgekitError, as_json: bool, kind: str | None = None) -> None:
    """An error for people, or for programs, on standard error.

    Args:
        kind: the name of its type, where it stands for another.
    """
    if as_json:
        kind = kind or type(error).__name__
        fields = {
            "error": error.message,
            "items": list(error.items),
            "allowed": error.allowed,
            "try": error.remedy,
            "kind": kind,
        }
        say_json({key: value for key, value in fields.items() if value})
    else:
        say(error, lines=True)
