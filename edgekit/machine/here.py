"""The machine at hand as a device: as it was measured lately and kept, else measured now."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from edgekit.artifacts.documents import is_file, read_toml
from edgekit.artifacts.files import sha256_json, write_atomically
from edgekit.artifacts.validation import validated
from edgekit.errors import EdgekitError, UsageError
from edgekit.machine import profile
from edgekit.machine.cache import cache_folder, private_folder
from edgekit.machine.device import HERE, Device, text
from edgekit.machine.profile import Measured
from edgekit.machine.temporary import system_folder
from edgekit.progress import Progress
from edgekit.terminal import say

LATELY_S = 30 * 24 * 3600.0
BUSY_S = 3600.0  # so long holds what was measured while other work disturbed it
_METHOD = 1  # a change of how things are measured makes what was kept worthless
_FOLDER, _QUIET, _BUSY = "machine", ".toml", "-busy.toml"
_HOLDS = {_QUIET: LATELY_S, _BUSY: BUSY_S}


def device() -> Device:
    """This machine; what was measured now is kept, and said, for it takes some seconds.

    Raises:
        WorkerError: it cannot be measured.
    """
    if found := known():
        return found
    say("measuring this machine, once: half a minute at most")
    return measured().device


def measured(folder: Path | None = None, progress: Progress | None = None) -> Measured:
    """Measure this machine and keep the profile for `device`.

    Args:
        folder: on the disk that is measured; the cache's without one.
    """
    found = profile.measure(folder or _usual_folder(), progress)
    _keep(found)
    return found


def _usual_folder() -> Path:
    """Where edgekit keeps things, which is on the disk of the user's own; else where temporary files are."""
    try:
        return private_folder(cache_folder())
    except (OSError, EdgekitError):
        return system_folder()


def known() -> Device | None:
    """What was kept lately of this machine as it is now, with these libraries, on mains or on battery."""
    key = _key()
    for suffix, holds_s in _HOLDS.items():
        try:
            path = cache_folder() / _FOLDER / f"{key}{suffix}"
            if is_file(path) and time.time() - path.stat().st_mtime <= holds_s:
                return validated(Device, {"name": HERE, **read_toml(path, UsageError)}, str(path), UsageError)
        except (OSError, EdgekitError):  # there is no cache, or what it holds is damaged
            continue
    return None


def _keep(found: Measured) -> None:
    """Keep a profile of this machine; where the cache cannot be written, it is measured again the next time."""
    with suppress(OSError, EdgekitError):
        folder = private_folder(cache_folder() / _FOLDER)
        write_atomically(folder / f"{_key()}{_BUSY if found.doubt else _QUIET}", text(found.device))


def _key() -> str:
    """A hash of all that the figures depend on."""
    return sha256_json({"method": _METHOD, **profile.fingerprint()})
