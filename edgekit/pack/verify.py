"""Whether a bundle is the one that was signed: its document, its version, exactly its files, every byte of them.

The order matters: the signature first, over bytes that nobody has read yet; what the document says then; what is in the
folder, by names alone, before a byte of it is read; the files at last.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgekit.artifacts.disk_errors import named
from edgekit.errors import BundleError
from edgekit.pack import document, signature
from edgekit.pack.bundle import DOCUMENT, SIGNATURE, Bundle
from edgekit.pack.document import ANEW
from edgekit.progress import Progress

_DIFFERENCE = (
    "a difference, as `edgekit pack --since` and `edgekit pull --since` write it, is verified with --since the bundle "
    f"that it was made from, and installed where that one is by `edgekit update`; if it is none, {ANEW}"
)
_LINK_ON_WINDOWS = getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)


def verify(
    bundle: Path,
    key: Path,
    *,
    minimum: int = 1,
    present: frozenset[str] | None = None,
    progress: Progress,
) -> Bundle:
    """Check a bundle against its signature.

    Args:
        key: the public key of who is trusted.
        minimum: the earliest version that may be; a bundle below it was signed once, and must not come back.
        present: of a difference bundle, the paths that must be in the folder: what it brings. The others are found
            elsewhere by their SHA-256, and are for the caller to hash. All of them for None.

    Returns:
        what its document says.

    Raises:
        BundleError: the signature is missing, by another key or of another document, the version is below the minimum,
            or the folder holds anything more, less or else than was signed; the first of all that is wrong.
        UsageError: the key is no public key.
        MissingDependencyError: a library is not installed.
    """
    raw = document.raw(bundle)
    signature.verify(raw, bundle / SIGNATURE, key)
    found = document.parsed(raw, str(bundle / DOCUMENT))
    check_version(found, minimum)
    files = [file for file in found.files if present is None or file.path in present]
    check_names(bundle, {file.path for file in files})
    document.hash_files(bundle, files, progress)
    return found


def check_version(bundle: Bundle, minimum: int) -> None:
    """Raise BundleError for a version that must not be installed any more."""
    if bundle.version < minimum:
        raise BundleError(
            f"{bundle.name}: version {bundle.version} was withdrawn",
            allowed=f"{minimum} or later",
            remedy="get a later version from whoever made it",
        )


def check_names(bundle: Path, paths: set[str]) -> None:
    """Check that a folder holds these files and the two documents, each a file of its own, and nothing else.

    A hard link is refused as well: under its other name the file could be changed after it was verified.

    Raises:
        BundleError: something is missing, there is more, or it is a link, a pipe, an empty folder, ...
    """
    wanted = {*paths, DOCUMENT, SIGNATURE}
    folders = {str(above) for path in wanted for above in PurePosixPath(path).parents}
    seen = set()
    for path in _walked(bundle, "", folders):
        if path not in wanted:
            like = next((known for known in sorted(wanted) if known.casefold() == path.casefold()), None)
            signed = f"{like} was signed, in other letters" if like else "nobody signed it"
            raise _wrong(bundle / path, f"does not belong to the bundle: {signed}", f"remove it, or {ANEW}")
        seen.add(path)
    if missing := sorted(wanted - seen):
        more, all_ = len(missing) - 1, f"{len(wanted)} files, its two documents counted"
        others = f", as are {more} others of {all_}" if more else ""
        raise _wrong(bundle / missing[0], f"is missing{others}", _DIFFERENCE)


def _walked(bundle: Path, folder: str, folders: set[str]) -> Iterator[str]:
    """The files below a folder of a bundle, after a look at all that is in it; no folder but these is entered."""
    with named(bundle / folder):
        names = sorted(path.name for path in (bundle / folder).iterdir())
    if not names:
        raise _wrong(bundle / folder, "is an empty folder, which nobody signed", f"remove it, or {ANEW}")
    for name in names:
        path = f"{folder}/{name}" if folder else name
        status = (bundle / path).lstat()
        if stat.S_ISLNK(status.st_mode) or getattr(status, "st_file_attributes", 0) & _LINK_ON_WINDOWS:
            raise _wrong(bundle / path, "is a link")
        if stat.S_ISDIR(status.st_mode):
            if path not in folders:
                raise _wrong(bundle / path, "is a folder that nobody signed", f"remove it, or {ANEW}")
            yield from _walked(bundle, path, folders)
        elif not stat.S_ISREG(status.st_mode):
            raise _wrong(bundle / path, "is no file")
        elif status.st_nlink > 1:
            raise _wrong(
                bundle / path,
                "is a hard link: its other name, wherever that is, could change it",
                "copy the bundle (cp -r), and verify the copy",
            )
        else:
            yield path


def _wrong(path: Path, what: str, remedy: str = ANEW) -> BundleError:
    return BundleError(f"{path}: {what}", remedy=remedy)
