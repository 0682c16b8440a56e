"""The folder of what can be made again: builds of llama.cpp, what was tried and measured on this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import platformdirs

from edgekit.errors import EdgekitError, UsageError

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


def private_folder(folder: Path) -> Path:
    """A folder in the cache, made where it is not there, in which nobody but this user and root can put anything.

    Where permissions are not POSIX's, as on Windows, they are not looked at.

    Raises:
        EdgekitError: others own it, or may write to it or to a folder above it.
    """
    folder = folder.absolute()
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        cache = cache_folder()
        for path in dict.fromkeys((folder, *folder.parents, folder.resolve(), *folder.resolve().parents)):
            if problem := _open_to_others(path, within=path.is_relative_to(cache)):
                raise EdgekitError(
                    f"{path}: {problem}, so what {folder} holds may be anybody's",
                    allowed="a cache that only you can write to",
                    remedy=f"chmod go-w {path}; or choose another place: EDGEKIT_CACHE=DIR",
                )
    return folder


def _open_to_others(path: Path, *, within: bool) -> str | None:
    """Why others could put something there; None where they cannot.

    Args:
        within: whether it belongs to the cache. Above it, a folder like /tmp is no danger: all may add to it, but none
            may rename what is somebody else's, and what lies below it is looked at, too.
    """
    status = path.stat()
    if status.st_uid not in (0, os.getuid()):
        return f"belongs to the user {status.st_uid}"
    open_to_all = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    kept_apart = status.st_mode & stat.S_ISVTX and not within
    return "others may write to it" if open_to_all and not kept_apart else None
