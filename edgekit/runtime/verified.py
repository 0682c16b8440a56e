"""Files that were hashed on this machine before and have not been touched since: gigabytes are not read twice.

A file is known by its folder's device, inode, size, and the times of its last change, of which nobody can set the last
one (`ctime`). What was written while it was hashed, or so shortly before that a further change could leave these times
as they are, is hashed again at the next opening.

A mapping is what makes that a minute. Linux sets a file's times at the first write to a page, and at later ones only
when it has written that page back in between, which it does within 35 s unless it was told otherwise or the disk falls
behind: then whoever keeps a mapping may still change, unseen, what was hashed. A file system in memory writes nothing
back, so its files are hashed at every opening.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from pathlib import Path

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import sha256_json
from edgekit.artifacts.manifest import FileEntry
from edgekit.errors import EdgekitError
from edgekit.machine import tried
from edgekit.machine.cache import private_folder
from edgekit.machine.mounts import in_memory

_SETTLED_NS = 60_000_000_000


def verify_once(folder: Path, entries: Iterable[FileEntry], hashed: Collection[FileEntry] = ()) -> None:
    """As `edgekit.artifacts.manifest.verify`, but for what it found to be right before.

    Raises:
        ArtifactError: a file is missing, or its size or hash disagrees with the manifest.
    """
    began = time.time_ns()
    entries = tuple(entries)
    believed = _is_ours()
    keys = {entry: _key(folder, entry, began) if believed else None for entry in entries}
    known = {entry for entry, key in keys.items() if key and tried.was_tried(key)}
    manifests.verify(folder, entries, {*hashed, *known})
    for entry, key in keys.items():
        if key and entry not in known and entry not in hashed and key == _key(folder, entry, began):
            tried.remember(key)


def _is_ours() -> bool:
    """Whether nobody else could have written down that a file is right."""
    try:
        private_folder(tried.folder())
    except (OSError, EdgekitError):
        return False
    return True


def _key(folder: Path, entry: FileEntry, now: int) -> str | None:
    """What a file is known by; None where it changed a moment ago, may change unseen, or is not there."""
    try:
        status = (folder / entry.path).stat()
    except (OSError, ValueError):  # what is wrong with it is said by who verifies it
        return None
    if not status.st_ino or now - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
        return None
    if in_memory(status.st_dev):
        return None
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return sha256_json(["a file as its manifest describes it", *facts, entry.sha256])
