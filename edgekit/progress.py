"""How long work reports its progress: phases of counted units."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """What long work reports to; this one ignores it."""

    def start(self, label: str, total: int) -> None:
        """A phase of `total` units begins; the one before is done."""

    def advance(self, units: int = 1) -> None:
        """Units of the current phase are done."""

    def finish(self) -> None:
        """No phase is under way."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Bars(Progress):
    """Progress bars on standard error; none where that is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, label: str, total: int) -> None:
        """Show a new bar."""
        from tqdm import tqdm

        self.finish()
        self._bar = tqdm(total=total, desc=label, unit_scale=total > 1000, disable=None, leave=False, file=sys.stderr)

    def advance(self, units: int = 1) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(units)

    def finish(self) -> None:
        """Clear the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def note(self, text: str) -> None:
        """Say it on standard error, whether that is a terminal or not."""
        self.finish()
        print(f"edgekit: {text}", file=sys.stderr)
