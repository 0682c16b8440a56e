"""Every error that edgekit raises on purpose.

    EdgekitError                exit code 1
    ├── UsageError              exit code 2: a wrong option, name or combination
    ├── CheckpointError         the source folder is not what it must be
    ├── HubError                a model cannot be had from the hub, or not as it should be
    ├── RegistryError           a bundle cannot be stored in a registry or a layout, or had from there as it should be
    ├── ArtifactError           an artifact folder or its manifest is not what it must be
    ├── BundleError             a bundle is not what its maker signed, or is none for this machine
    ├── InputError              an image or a prompt cannot be used
    ├── GateError               an artifact was compared with its original and refused
    ├── WorkerError             no process of our own can be started
    └── MissingDependencyError  a library or a compiler is not installed

A message says what is wrong and where; `allowed` says what would have been right and `remedy` what to do next. Each is
one line of bounded length, since they quote what others wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgekit.terminal import printable, shortened

MOST_CHARACTERS = 500
MOST_ITEMS = 100
_COMPARED, _NEAREST = 80, 8  # characters of a name that is unknown, names that are shown of many


class EdgekitError(Exception):
    """What is wrong and where, what is allowed, and what to do.

    Args:
        message: what is wrong, naming the file, tensor or option and the offending value, which stays short.
        allowed: what would have been accepted.
        remedy: what the user can do next, a command where there is one.
        items: what else the message is about, a line each.
        param: which option or input it is about, by its name in Python, where it is one.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        allowed: str | None = None,
        remedy: str | None = None,
        items: Sequence[str] = (),
        param: str | None = None,
    ) -> None:
        self.message, self.param = _line(message), param
        self.items = tuple(map(_line, items[:MOST_ITEMS]))
        self.allowed = allowed and _line(allowed)
        self.remedy = remedy and _line(remedy)
        super().__init__(self.message)

    def __str__(self) -> str:
        lines = [self.message, *(f"- {item}" for item in self.items)]
        if self.allowed:
            lines.append(f"allowed: {self.allowed}")
        if self.remedy:
            lines.append(f"try: {self.remedy}")
        return "\n".join(lines)


def _line(text: str) -> str:
    return shortened(printable(text), MOST_CHARACTERS)


class UsageError(EdgekitError):
    """A wrong option, name or combination of them."""

    exit_code = 2


class CheckpointError(EdgekitError):
    """The source checkpoint is not what it must be."""


class HubError(EdgekitError):
    """A model cannot be had from Hugging Face's hub or from its local cache, or its files are not the hub's."""


class RegistryError(EdgekitError):
    """A bundle cannot be stored in a registry of containers or a layout, or had from there as it was stored."""


def unknown(
    what: str, name: str, known: Iterable[str], *, allowed: str | None = None, remedy: str | None = None
) -> UsageError:
    """The error for a name that is none of those known; the nearest is offered, whatever the case of its letters.

    Args:
        what: what has such names: a level, a recipe.
        allowed: the known names in other words than their list.
    """
    from difflib import get_close_matches  # only here, and a start should be quick

    known = list(known)
    folded = get_close_matches(name.casefold(), dict.fromkeys(one.casefold() for one in known), n=1, cutoff=0.7)
    near = [one for fold in folded for one in known if one.casefold() == fold]
    meant = f": did you mean {' or '.join(near)}?" if near else ""
    return UsageError(f"unknown {what} {name!r:.80}{meant}", allowed=allowed or _listed(name, known), remedy=remedy)


def _listed(name: str, known: Sequence[str]) -> str:
    """All names, or the nearest where all would not fit into a message."""
    from difflib import get_close_matches

    if len(every := ", ".join(known)) <= MOST_CHARACTERS:
        return every
    near = get_close_matches(name[:_COMPARED], known, n=_NEAREST, cutoff=0)
    return f"{', '.join(near)}, or another of {len(known)}"


class ArtifactError(EdgekitError):
    """An artifact folder, its files or its manifest are not what they must be."""


class NoSpaceError(ArtifactError):
    """The disk is too small for what is to be written."""


class BundleError(EdgekitError):
    """A bundle is not what its maker signed, or is none for this machine."""


class InputError(EdgekitError):
    """An image or a prompt cannot be used."""


class TooLongError(InputError):
    """A prompt has more tokens than the context."""


class SnapshotError(InputError):
    """What a decoder's sequence held cannot be restored from these bytes, or not here."""


class GateError(EdgekitError):
    """An artifact was compared with its original, in full precision, and refused."""


class WorkerError(EdgekitError):
    """A process of edgekit's own cannot be started."""


class EdgekitWarning(UserWarning):
    """What a Python program is told by `warnings`, where there is no answer that could hold it."""


class MissingDependencyError(EdgekitError):
    """A library or a compiler that this step needs is not installed."""
