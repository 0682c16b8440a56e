# PYTHON_ARGCOMPLETE_OK
"""The program: `edgekit` and `python -m edgekit`."""

import os
import signal
import sys


def main() -> int:
    """Run one command, in a process that does nothing else, and return its exit code."""
    # Until the command can say something about Ctrl-C, and when it is done, there is nothing to be told.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from edgekit.cli import main as command

    code = command()
    if code > 128:  # interrupted: the command tidied up, and libraries may take seconds to do so at Python's own end
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
