"""What a bundle brings that another has not: a file is the same wherever its SHA-256 is."""

from __future__ import annotations

from edgekit.pack.bundle import Bundle, BundleFile


def missing(new: Bundle, old: Bundle) -> tuple[BundleFile, ...]:
    """The files of a bundle that are nowhere in another, whatever their paths, in the order of the bundle.

    Of two files of the same content the first is enough.
    """
    known = {file.sha256 for file in old.files}
    wanted = {file.sha256: file for file in reversed(new.files) if file.sha256 not in known}
    return tuple(file for file in new.files if wanted.get(file.sha256) is file)
