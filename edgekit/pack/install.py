"""Install a bundle, update it, go back: no network, no compiler, and at every moment one slot that works.

The slot that is not in use is emptied and filled: a file that the slot in use has, by its SHA-256, is linked from there
and hashed again, the others are copied from the bundle and hashed as copies. An environment is made of the wheels, its
edgekit asks the model what it was asked where it was packed, all of it reaches the disk, and one rename switches.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.documents import is_file, read_bounded
from edgekit.artifacts.files import make_folder, write_atomically
from edgekit.errors import BundleError, UsageError
from edgekit.pack import document, launchers, occupied, roots, signature, slots
from edgekit.pack.bootstrap.environment import check_place
from edgekit.pack.bootstrap.here import RefusedError
from edgekit.pack.bundle import DOCUMENT, SIGNATURE, Bundle
from edgekit.pack.roots import KEY, Root
from edgekit.pack.slots import Supply
from edgekit.pack.verify import verify
from edgekit.progress import Progress

_MOST_BYTES = 1 << 16  # of a signature, or a key


@dataclass(frozen=True)
class Status:
    """What is installed in a root.

    Attributes:
        slot: the one in use.
        bundle: what it has.
        other: what the other slot has: before an update, or after a way back.
        minimum: the earliest version that may be installed here, of bundles of any name.
        minimum_by: the bundle that demanded it; None where none did.
        key: the id of the key that signs bundles for this root.
    """

    root: Path
    slot: str
    bundle: Bundle
    other: Bundle | None
    minimum: int
    minimum_by: str | None
    key: str

    @property
    def back(self) -> bool:
        """Whether `rollback` would go to the other slot: it has an earlier version."""
        return self.other is not None and self.other.version <= self.bundle.version


def install(source: Path, root: Path, key: Path, progress: Progress | None = None) -> Bundle:
    """Install a bundle where there is none.

    Args:
        source: a whole bundle.
        root: a new or an empty folder, or one whose first install was interrupted.
        key: the public key of the bundle's maker.

    Raises:
        UsageError: something is in the root, or the key is none.
        BundleError: the bundle is not what was signed, is for another machine, or fails its self-test here.
        ArtifactError: another process is at work in the root, or its disk is full or failed.
    """
    try:
        check_place(root.absolute())
    except RefusedError as error:
        raise UsageError(str(error), remedy="name another folder") from error
    with file_errors(root), roots.alone(root) as place:
        if place.used:
            raise UsageError(f"{root}: a bundle is installed here", remedy=f"edgekit update {source} --to {root}")
        try:
            return _deploy(source, place, key, progress or Progress())
        except BaseException:
            if roots.read(root).used is None:
                roots.forget(root)
            raise


def update(
    source: Path, root: Path, key: Path | None = None, progress: Progress | None = None, *, wait: bool = False
) -> Bundle:
    """Replace what is installed by another bundle; what is in use now stays, to go back to.

    The bundle in use is not installed again where it passes its self-test, and is otherwise, to repair it.

    Args:
        source: a bundle, whole or without the files that the one in use has.
        key: the public key that its maker has; the one of the first install for None, and no other.
        wait: until no process runs any more from the slot that is emptied.

    Raises:
        UsageError: nothing is installed in the root, or a process still runs from that slot.
        BundleError, ArtifactError: as `install`; or the bundle is older than the one in use.
    """
    roots.installed(root)  # a name that is none makes no folder
    with file_errors(root), roots.alone(root) as place:
        roots.installed(root)
        return _deploy(source, place, key or root / KEY, progress or Progress(), wait=wait)


def rollback(root: Path, progress: Progress | None = None) -> Bundle:
    """Go back to what was in use before the last update, after all that a bundle is checked for.

    Raises:
        UsageError: nothing is installed in the root, or there is nothing to go back to; a second time would lead
            forward again, to what somebody in doubt went away from.
        BundleError: the other slot was damaged or fails its self-test, or its version was withdrawn since.
    """
    roots.installed(root)
    with file_errors(root), roots.alone(root) as place:
        _, used = roots.installed(root)
        assert place.state, "installed"
        slot, now = place.other, roots.readable(used)
        if not is_file(slot / DOCUMENT):
            raise UsageError(f"{root}: there is nothing to go back to")
        bundle, raw = document.read(slot)
        if now and bundle.version > now.version:  # see `Status.back`
            raise UsageError(
                f"{root}: has gone back already, to version {now.version}",
                remedy=f"edgekit update BUNDLE --to {root} brings version {bundle.version} again",
            )
        signature.verify(raw, slot / SIGNATURE, root / KEY)
        place.check_version(bundle)
        progress = progress or Progress()
        document.hash_files(slot, bundle.files, progress)
        slots.try_out(slot, bundle, progress)
        progress.start("switching", 0)
        place.switch(place.state.key, slot)
        progress.finish()
        return bundle


def status(root: Path) -> Status:
    """What is installed in a root.

    Raises:
        UsageError: nothing is.
        BundleError: its state, or the document of the slot in use, is damaged; an update mends the latter.
    """
    place, used = roots.installed(root)
    assert place.state, "installed"
    bundle, _ = document.read(used)
    state, before = place.state, roots.readable(place.other)
    return Status(root, used.name, bundle, before, state.minimum, state.minimum_by, state.key)


def _deploy(source: Path, root: Root, key: Path, progress: Progress, *, wait: bool = False) -> Bundle:
    """Check a bundle, make the other slot of it, switch."""
    bundle, raw = document.read(source)
    key_id = signature.verify(raw, source / SIGNATURE, key)
    if root.used and root.state and key_id != root.state.key:
        raise BundleError(
            f"{key}: another key than the one that {root.folder} takes bundles of, {root.state.key[:16]}...",
            remedy="to trust another maker, install their bundle into another folder",
        )
    root.check_version(bundle)
    slots.fitting(bundle)  # before gigabytes are hashed
    present = frozenset(file.path for file in bundle.files if is_file(source / file.path)) if root.used else None
    verify(source, key, minimum=root.minimum, present=present, progress=progress)
    old = roots.readable(root.used) if root.used else None
    if old:
        if bundle == old and root.used and _works(root.used, bundle, progress):
            progress.note(f"version {bundle.version} is already in use, its self-test passed: nothing was changed")
            return bundle
        _check_later(bundle, old)
    supply = Supply(bundle, source, root.used, {file.sha256: file for file in old.files} if old else {})
    supply.check()
    with occupied.unused(root.other, progress.note if wait else None):
        slots.check_room(root.other, supply.bytes)
        if root.used is None:
            root.switch(key_id, None)  # from here on the folder is a root
        try:
            _make(root, supply, raw, key, progress)
            progress.start("switching", 0)
            root.switch(key_id, root.other, bundle)
        except BaseException:
            if roots.read(root.folder).used != root.other:
                with suppress(OSError):
                    roots.clear(root.other)
            raise
        finally:
            progress.finish()
    return bundle


def _make(root: Root, supply: Supply, raw: bytes, key: Path, progress: Progress) -> None:
    """Make the other slot, to the last step before it is used."""
    slot = root.other
    roots.clear(slot)
    make_folder(slot)
    slots.fill(slot, supply, progress)
    slots.try_out(slot, supply.bundle, progress)
    (slot / SIGNATURE).write_bytes(read_bounded(supply.source / SIGNATURE, BundleError, _MOST_BYTES))
    signature.verify(raw, slot / SIGNATURE, key)
    slots.settle(slot, progress)
    write_atomically(slot / DOCUMENT, raw)
    if root.used is None:
        write_atomically(root.folder / KEY, read_bounded(key, UsageError, _MOST_BYTES))
    launchers.write(root.folder)


def _works(slot: Path, bundle: Bundle, progress: Progress) -> bool:
    try:
        slots.try_out(slot, bundle, progress)
    except BundleError:
        return False
    return True


def _check_later(bundle: Bundle, old: Bundle) -> None:
    """In a root versions only go up, whatever bundles are called: else one of another name would lead back to an old
    one. `rollback` is the one way back.
    """
    if bundle.version < old.version or (bundle.version == old.version and bundle != old):
        raise BundleError(
            f"bundle {bundle.name} is version {bundle.version}, and {old.name} version {old.version} is in use: "
            "versions of a root count for bundles of every name",
            allowed=f"{old.version + 1} or later: edgekit pack --since, or --version",
            remedy="edgekit rollback goes back to what was in use before",
        )
