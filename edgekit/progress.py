"""How long work reports its progress: phases of counted units."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from edgekit.terminal import printable, say

LINE_EVERY_S = 30.0  # where standard error is no terminal


class Progress:
    """What long work reports to; this one ignores it."""

    def start(self, label: str, total: int) -> None:
        """A phase of `total` units begins, 0 where nobody knows how many; the one before is done."""

    def advance(self, units: int = 1) -> None:
        """Units of the current phase are done."""

    def finish(self) -> None:
        """No phase is under way."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Bars(Progress):
    """Progress bars on a terminal, which standard error is."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, label: str, total: int) -> None:
        """Show a new bar."""
        from tqdm import tqdm

        self.finish()
        form = None if total else "{desc} ..."
        self._bar = tqdm(
            total=total, desc=printable(label), unit_scale=total > 1000, leave=False, file=sys.stderr, bar_format=form
        )

    def advance(self, units: int = 1) -> None:
        """Move the bar; what is still to do after the last unit has no share that a bar could show."""
        if self._bar is None:
            return
        if finishing := self._bar.total and self._bar.n + units >= self._bar.total:
            self._bar.bar_format = "{desc}: finishing"
        self._bar.update(units)
        if finishing:  # tqdm itself draws ten times a second at most
            self._bar.refresh()

    def finish(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def note(self, text: str) -> None:
        """Say it above the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(text)
        if self._bar is not None:
            self._bar.refresh()


class Lines(Progress):
    """A line on standard error every `every_s` seconds, for a file or a pipe: phase, share, an estimate of the rest.

    A thread writes them, since one unit may take minutes.
    """

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._label, self._total, self._done, self._began = "", 0, 0, 0.0
        self._ended: threading.Event | None = None

    def start(self, label: str, total: int) -> None:
        """Begin a phase, silently: a short one says nothing."""
        self.finish()
        self._label, self._total, self._done, self._began = label, total, 0, time.monotonic()
        ended = self._ended = threading.Event()
        threading.Thread(target=self._speak, args=(ended,), daemon=True).start()

    def advance(self, units: int = 1) -> None:
        """The share grows."""
        self._done += units

    def finish(self) -> None:
        """Say no more of this phase."""
        if self._ended is not None:
            self._ended.set()
        self._ended = None

    def note(self, text: str) -> None:
        """Say it at once."""
        say(text)

    def _speak(self, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            say(line(self._label, self._done, self._total, time.monotonic() - self._began))


class Steps(Progress):
    """Says every phase as it begins, also a short one, and has another show how far it is.

    For work whose steps a user should know: what is done to a machine, and what is being waited for.
    """

    def __init__(self, shown: Progress) -> None:
        self._shown, self._said = shown, ""

    def start(self, label: str, total: int) -> None:
        """Say it, and show it; a step that goes on under its name was said."""
        self._shown.finish()
        if label != self._said:
            self._shown.note(label)
        self._said = label
        self._shown.start(label, total)

    def advance(self, units: int = 1) -> None:
        """Show it."""
        self._shown.advance(units)

    def finish(self) -> None:
        """Show no more of this phase."""
        self._shown.finish()

    def note(self, text: str) -> None:
        """Say it."""
        self._shown.note(text)


def line(label: str, done: int, total: int, seconds: float) -> str:
    """A phase in words. What remains is estimated from what was done, once a hundredth was.

    Work may go on behind the last unit, of which nobody knows how much there is.
    """
    if not total:
        return f"{label}: {duration(seconds)} so far"
    if done >= total:
        return f"{label}: finishing, {duration(seconds)}"
    share = done / total
    rest = f", about {duration(seconds / share * (1 - share))} left" if share >= 0.01 else ""
    return f"{label}: {share:.0%} after {duration(seconds)}{rest}"


def duration(seconds: float) -> str:
    """A time in words, not more exact than an estimate is."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def amount(count: int) -> str:
    """So many bytes in words, not more exact than a person asks."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def on_stderr() -> Progress:
    """Progress on standard error as suits it: bars on a terminal, elsewhere lines."""
    return Bars() if sys.stderr.isatty() else Lines()


def steps_on_stderr(*, silent: bool) -> Progress:
    """The same with every step said.

    Args:
        silent: for a program, which waits for the result alone.
    """
    return Progress() if silent else Steps(on_stderr())
