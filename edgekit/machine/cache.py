"""The folder of what can be made again: builds of llama.cpp, what was tried and measured on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from edgekit.errors import UsageError

VARIABLE = "EDGEKIT_CACHE"


def cache_folder() -> Path:
    """$EDGEKIT_CACHE, else edgekit's folder where this system keeps caches; it may not be there yet.

    A relative name means the folder that was current at the first call, also in processes started elsewhere.

    Raises:
        UsageError: neither is known, as in a container whose user has no home folder.
    """
    folder, named = _named_or_usual(), bool(os.environ.get(VARIABLE))
    if folder is None or not (named or folder.is_absolute()):  # an older platformdirs gives `~/.cache` back
        raise UsageError(
            "this user has no home folder, so there is none for what edgekit keeps",
            remedy=f"set {VARIABLE} to a folder that may be written to",
        )
    if not folder.is_absolute():
        folder = folder.absolute()
        os.environ[VARIABLE] = str(folder)
    return folder


def _named_or_usual() -> Path | None:
    """As the user or the system has it; None where `~` is nobody's."""
    try:
        if named := os.environ.get(VARIABLE):
            return Path(named).expanduser()
        return platformdirs.user_cache_path("edgekit", appauthor=False)
    except RuntimeError:
        return None
