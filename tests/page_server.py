"""`edgekit serve` in a process of its own, as a user starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_END_S = 60


@contextmanager
def served(*arguments: str | Path) -> Iterator[str]:
    """Serve artifacts on a free port; where."""
    command = [sys.executable, "-m", "edgekit", "serve", *map(str, arguments), "--port", "0", "--json"]
    # A pipe that nobody reads fills with the log, and then the server waits.
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout
            if line := process.stdout.readline():
                yield json.loads(line)["url"] + "/"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_END_S)
        log.seek(0)
        assert process.returncode == 0, log.read()
