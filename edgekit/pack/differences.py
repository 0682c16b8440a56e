"""What a bundle brings that another has not: a file is the same wherever its SHA-256 is."""

from __future__ import annotations

from edgekit.pack.bundle import Bundle, BundleFile


def missing(new: Bundle, old: Bundle) -> tuple[BundleFile, ...]:
    """The files of a bundle whose content is nowhere in another, whatever their paths, in the order of the bundle."""
    known = {file.sha256 for file in old.files}
    return tuple(file for file in new.files if file.sha256 not in known)
