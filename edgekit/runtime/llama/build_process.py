"""One build as a process: its output into a log, how far it is on standard error, what went wrong in a few lines."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from edgekit.errors import EdgekitError
from edgekit.runtime.llama.compiler import install_command
from edgekit.terminal import say

# ninja prints [12/131], make [ 9%].
_STEP = re.compile(r"\s*\[\s*(\d+)(?:/(\d+)|%)\]")

LINE_EVERY_S = 25.0  # where standard error is no terminal: minutes without a word look like a crash

Reached = Callable[[float], None]


def run_build(
    command: Sequence[str], log_file: Path, *, environment: Mapping[str, str], label: str, progress: bool
) -> None:
    """Run a build that prints ninja's or make's steps; everything it prints goes into `log_file`.

    Args:
        environment: all variables that it sees.
        label: what is built, for people.
        progress: show on standard error how far it is.

    Raises:
        EdgekitError: it failed; the message quotes the compiler and names the log.
    """
    with (
        log_file.open("w", encoding="utf-8") as log,
        shown_fraction(f"building {label}", show=progress) as reached,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                if step := _STEP.match(line):
                    reached(int(step[1]) / int(step[2] or 100))
            process.wait()
        finally:
            # After Ctrl-C nobody reads its output any more: end it instead of waiting for it.
            if process.poll() is None:
                process.terminate()
    if process.returncode:
        raise EdgekitError(
            f"building {label} failed: {complaint(log_file)}; the whole log: {log_file}",
            remedy=f"read the log; if a compiler is missing or too old: {install_command()}",
        )


def complaint(log_file: Path) -> str:
    """The lines of a build log that a person would look for: the first errors, else the end."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line.strip() for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return " | ".join(errors[:6] or [line.strip() for line in lines[-6:]])


@contextmanager
def shown_fraction(label: str, *, show: bool = True, every_s: float = LINE_EVERY_S) -> Iterator[Reached]:
    """Show how much of some work is done: a bar on a terminal, elsewhere a line every `every_s` seconds.

    Yields:
        A function to call with the fraction that is done, from 0 to 1.
    """
    if not show:
        yield lambda fraction: None
    elif sys.stderr.isatty():
        form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining}"
        with tqdm(desc=label, total=1.0, bar_format=form, mininterval=0.5) as bar:
            yield lambda fraction: _move(bar, fraction)
    else:
        with _lines(label, every_s) as reached:
            yield reached


def _move(bar: tqdm, fraction: float) -> None:
    bar.update(fraction - bar.n)


@contextmanager
def _lines(label: str, every_s: float) -> Iterator[Reached]:
    """A line at once, and one every `every_s` seconds by a thread, since a compiler may be silent for long."""
    started, state, ended = time.monotonic(), {"fraction": 0.0}, threading.Event()

    def speak() -> None:
        while True:
            seconds = time.monotonic() - started
            say(f"{label}: {state['fraction']:.0%} after {seconds:.0f} s")
            if ended.wait(every_s):
                return

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield lambda fraction: state.update(fraction=fraction)
    finally:
        ended.set()
        thread.join()
