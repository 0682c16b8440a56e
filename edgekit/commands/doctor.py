"""`edgekit doctor`: show this machine, its libraries, and what can be done here."""

from __future__ import annotations

from argparse import Namespace

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json
from edgekit.terminal import show


def run(options: Namespace) -> int:
    """Print the report."""
    from edgekit.commands.support.diagnosis import diagnose

    report = diagnose()
    if options.json:
        print_json(report.to_dict())
    else:
        show(report)
    return 0


VERB = Verb("show this machine, its libraries and what each can do here", ("doctor", "doctor --json"), run, order=120)
