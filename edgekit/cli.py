"""The command line: finds the verbs of `edgekit.commands`, parses, and maps errors to exit codes.

Exit codes: 0 success, 1 an error or a failed gate, 2 wrong usage, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from edgekit.artifacts.disk_errors import typed
from edgekit.artifacts.version import __version__
from edgekit.commands import verbs
from edgekit.commands.support.printing import own_warnings_printed
from edgekit.commands.support.streams import escape_what_cannot_be_shown
from edgekit.errors import EdgekitError, MissingDependencyError
from edgekit.machine import privacy

INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The whole command line; what was parsed holds the verb's `run` and `go_on`."""
    top = argparse.ArgumentParser(
        prog="edgekit",
        description="Convert MedGemma and MedSigLIP for the edge, prove them against the originals, measure the loss.",
        epilog="edgekit COMMAND --help shows each command's options and examples.",
    )
    top.add_argument("--version", action="version", version=f"edgekit {__version__}")
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
        command.set_defaults(run=verb.run, go_on=verb.go_on)
        verb.add_options(command)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command_line = parser()
    if "_ARGCOMPLETE" in os.environ:
        complete(command_line)
    escape_what_cannot_be_shown()
    options = command_line.parse_args(arguments)
    from edgekit.machine.cpu import limit_openmp_spin
    from edgekit.machine.interrupts import ending_promptly

    limit_openmp_spin()
    privacy.keep_command(downloads=getattr(options, "download", False))
    try:
        with own_warnings_printed(), ending_promptly(lambda: interrupted(options)):
            return guarded(options.run, options)
    except KeyboardInterrupt as interrupt:
        print(interrupted(options), file=sys.stderr)
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
        return run(options)
    except EdgekitError as error:
        report_error(error, options.json)
        return error.exit_code
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("edgekit"):
            raise
        missing = MissingDependencyError(f"{error.name} is not installed", remedy="pip install 'edgekit[export]'")
        report_error(missing, options.json)
        return missing.exit_code
    except BrokenPipeError:  # the reader of our output is gone: nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a file that may not be read, a full disk
        report_error(typed(error), options.json)
        return EdgekitError.exit_code


def interrupted(options: argparse.Namespace) -> str:
    """What is said after Ctrl-C: that, and how to go on."""
    return f"edgekit: interrupted; {options.go_on}" if options.go_on else "edgekit: interrupted"


def report_error(error: EdgekitError, as_json: bool) -> None:
    """An error for people, or for programs, on standard error."""
    if as_json:
        fields = {"error": error.message, "allowed": error.allowed, "try": error.remedy, "kind": type(error).__name__}
        print(json.dumps({key: value for key, value in fields.items() if value}), file=sys.stderr)
    else:
        print(f"edgekit: {error}", file=sys.stderr)
