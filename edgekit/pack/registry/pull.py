"""Fetch a bundle from where images lie: only what is not at hand, going on where an earlier run stopped.

Nothing that is fetched is trusted: the two documents come first, each file is held against `bundle.json` by its hash,
and the folder appears whole. What is not finished lies in `.NAME.partial` beside it, by hash, so that the next run
finds it even where the tag has moved on meanwhile.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors, named
from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import copy, sha256_file
from edgekit.artifacts.folders import MARKER, appear, check_free, check_place, claimed, remove, staging_of, take_back
from edgekit.errors import NoSpaceError, RegistryError
from edgekit.pack import bundle as bundles
from edgekit.pack import document as documents
from edgekit.pack import roots
from edgekit.pack import signature as signatures
from edgekit.pack.bundle import DOCUMENT, SIGNATURE, Bundle, BundleFile
from edgekit.pack.registry.image import MOST_SIGNATURE_BYTES, Descriptor, digest_of, read_manifest
from edgekit.pack.registry.place import Blob, Place
from edgekit.progress import Progress

_STORE = ".blobs"  # in the unfinished folder: what is complete, by its hash
_PART = ".part"  # and what is not
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Pulled:
    """What one pull did.

    Attributes:
        bundle: what was pulled.
        digest: of its manifest.
        moved_bytes: what was fetched by this run, without the manifest.
        bytes: what the bundle has altogether.
    """

    bundle: Bundle
    digest: str
    moved_bytes: int
    bytes: int


def pull(
    place: Place,
    bundle: Path,
    *,
    key: Path | None = None,
    have: Sequence[Path] = (),
    since: Path | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch a bundle into a new folder.

    Args:
        key: the public key that it must be signed by, which is looked at before any file is fetched; for None
            `edgekit verify` and `edgekit install` will.
        have: bundles, and roots that some are installed in, whose files are copied and not fetched.
        since: an earlier bundle, or a root that it is installed in: only the files that it lacks come, as
            `edgekit pack --since` writes them and `edgekit update` takes them.

    Raises:
        RegistryError: there is no such image, it is no bundle, its blobs are not what it names, or the connection
            failed too often.
        BundleError: its document or its signature is not what it must be.
        UsageError: the folder holds something, or one of the others is no bundle and no root.
        ArtifactError: the file system refused something, or has no room.
    """
    progress = progress or Progress()
    check_place(bundle)
    bundle = bundle.resolve()
    check_free(bundle)
    manifest = place.manifest()
    found = read_manifest(manifest, place.name)
    data = _small(place, found.document, bundles.MOST_BYTES)
    signature = _small(place, found.signature, MOST_SIGNATURE_BYTES)
    document = documents.parsed(data, f"{place.name}, {DOCUMENT}")
    if key:
        signatures.check(data, signature, f"{place.name}, {SIGNATURE}", key)
    again = "make room there and run the same command again: it goes on where it stopped"
    staging = staging_of(bundle)
    with file_errors(staging, again):
        at_hand, earlier = _at_hand(have), _at_hand([since] if since else [])
        left_out = {file.sha256 for file in document.files if _is_there(file, earlier)}
        with claimed(staging):
            check_free(bundle)
            wanted = tuple(file for file in document.files if file.sha256 not in left_out)
            try:
                moved = _gather(place, staging, wanted, at_hand, progress)
                (staging / DOCUMENT).write_bytes(data)
                (staging / SIGNATURE).write_bytes(signature)
                _lay_out(staging, wanted)
                appear(staging, [DOCUMENT, SIGNATURE, *(file.path for file in wanted)], bundle)
            except BaseException:
                if not _files(staging):  # else the next run goes on with them
                    remove(staging)
                raise
            remove(staging)
    documents_bytes = len(data) + len(signature)
    return Pulled(document, digest_of(manifest), moved + documents_bytes, document.bytes + documents_bytes)


# ---------------------------------------------------------------- documents


def _small(place: Place, blob: Descriptor, most_bytes: int) -> bytes:
    """A blob that is held in memory. Raises RegistryError where it is too large, or not what its digest says."""
    if blob.size > most_bytes:
        raise RegistryError(f"{place.name}: {blob.size} bytes of {blob.media_type}", allowed=f"at most {most_bytes}")
    data = b"".join(place.blocks(Blob(blob.sha256, blob.size), 0))
    if digest_of(data) != blob.digest:
        raise _lie(place, blob.sha256, hashlib.sha256(data).hexdigest())
    return data


def _lie(place: Place, said: str, found: str) -> RegistryError:
    return RegistryError(
        f"{place.name}: of the blob sha256:{said[:16]}... other bytes came, with the digest {found[:16]}...; "
        "they were removed",
        remedy="run the same command again; if that ends like this too, the registry's storage is damaged, or it lies",
    )


# ---------------------------------------------------------------- what need not be fetched


def _at_hand(folders: Iterable[Path]) -> dict[str, Path]:
    """SHA-256 -> a file of that size which a bundle at hand names; whoever reads it hashes it.

    Raises:
        UsageError: a folder is no bundle, and none is installed in it.
        BundleError: what says what is in it is damaged.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        place = roots.bundle_in(folder)
        for file in documents.read(place)[0].files:
            path = place / file.path
            if is_file(path) and path.stat().st_size == file.bytes:
                files.setdefault(file.sha256, path)
    return files


def _is_there(file: BundleFile, at_hand: Mapping[str, Path]) -> bool:
    return file.sha256 in at_hand and sha256_file(at_hand[file.sha256]) == file.sha256


def _files(staging: Path) -> list[Path]:
    """What is in an unfinished folder but its marker, an empty file, as there may be in a bundle."""
    paths = [path for path in staging.rglob("*") if path != staging / MARKER]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _kept(staging: Path, wanted: Mapping[str, int]) -> set[str]:
    """What earlier runs completed, found by its hash wherever it lies, and moved to the store; all else is removed.

    Args:
        wanted: SHA-256 -> size.
    """
    take_back(staging)
    store = staging / _STORE
    if store.is_symlink() or is_file(store):  # else files would be moved, and removed, wherever it leads
        store.unlink()
    store.mkdir(exist_ok=True)
    kept = set()
    for path in _files(staging):
        if path.stat().st_size in wanted.values() and (digest := sha256_file(path)) in wanted:
            path.replace(store / digest)
            kept.add(digest)
    parts = {f"{digest}{_PART}" for digest in set(wanted) - kept}
    for path in [*staging.iterdir(), *store.iterdir()]:
        if path in (store, staging / MARKER):
            continue
        if path.parent == store and path.name in kept | parts and path.is_file() and not path.is_symlink():
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return kept


# ---------------------------------------------------------------- fetched


def _gather(
    place: Place, staging: Path, files: Sequence[BundleFile], at_hand: Mapping[str, Path], progress: Progress
) -> int:
    """Have every content in the store: left there by an earlier run, copied from what is at hand, or fetched.

    Returns:
        how many bytes were fetched.
    """
    wanted = {file.sha256: file.bytes for file in files}
    kept = _kept(staging, wanted)
    missing = [Blob(*one) for one in wanted.items() if one[0] not in kept]
    twice = sum(file.bytes for file in files) - sum(wanted.values())
    begun = sum(path.stat().st_size for path in (staging / _STORE).glob(f"*{_PART}"))
    need, free = sum(blob.bytes for blob in missing) + twice - begun, shutil.disk_usage(staging).free
    if need > free:
        raise NoSpaceError(
            f"{staging}: {need / 1e9:.2f} GB are to be written, {free / 1e9:.2f} GB are free", remedy="make room there"
        )
    moved = 0
    progress.start("pulling", sum(blob.bytes for blob in missing))
    try:
        for blob in missing:
            target = staging / _STORE / blob.sha256
            if blob.sha256 in at_hand and _copied(at_hand[blob.sha256], target):
                progress.advance(blob.bytes)
            else:
                moved += _fetch(place, blob, target, progress)
    finally:
        progress.finish()
    return moved


def _copied(source: Path, target: Path) -> bool:
    """Whether a file that should have a content had it; then it is in the store."""
    part = target.with_name(f"{target.name}{_PART}")
    copy(source, part)
    if sha256_file(part) != target.name:
        part.unlink()
        return False
    part.replace(target)
    return True


def _fetch(place: Place, blob: Blob, target: Path, progress: Progress) -> int:
    """Fetch a blob, or what an earlier run lacks of it; how many bytes came.

    Raises:
        RegistryError: other bytes came; nothing of them is left.
    """
    part = target.with_name(f"{target.name}{_PART}")
    moved = 0
    while True:
        digest = hashlib.sha256()
        begun = _hash_begun(part, blob.bytes, digest.update)
        progress.advance(begun)
        with named(part), part.open("ab") as stream:
            for block in place.blocks(blob, begun):
                stream.write(block)
                digest.update(block)
                progress.advance(len(block))
                moved += len(block)
        if digest.hexdigest() == blob.sha256:
            part.replace(target)  # not durably: whoever finds it hashes it
            return moved
        part.unlink()
        if not begun:
            raise _lie(place, blob.sha256, digest.hexdigest())
        progress.advance(-blob.bytes)  # what an earlier run left was damaged: once more, from the beginning


def _hash_begun(part: Path, most_bytes: int, update: Callable[[bytes], None]) -> int:
    """Hash what there is of a blob; how many bytes, none where it is more than the whole."""
    if not part.is_file() or part.stat().st_size > most_bytes:
        part.unlink(missing_ok=True)
        return 0
    begun = 0
    with part.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            update(block)
            begun += len(block)
    return begun


def _lay_out(staging: Path, files: Sequence[BundleFile]) -> None:
    """Give each content in the store its path; one that several files have is copied for all but the last."""
    left = Counter(file.sha256 for file in files)
    for file in files:
        target = staging / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        left[file.sha256] -= 1
        content = staging / _STORE / file.sha256
        copy(content, target) if left[file.sha256] else content.replace(target)
        if file.executable:
            mode = target.stat().st_mode
            target.chmod(mode | (mode & 0o444) >> 2)  # by whoever may read it
