"""Small signed bundles: real documents and signatures around files of a few bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekit.pack import document, keys, signature
from edgekit.pack.bundle import Bundle, BundleFile

SAID: Mapping[str, Any] = {
    "name": "medgemma-4b.q4_k_m.raspberry-pi-5",
    "version": 3,
    "minimum_version": 2,
    "edgekit": "0.1.0",
    "title": "MedGemma 4B",
    "license": "health-ai-developer-foundations",
    "level": "Q4_K_M",
    "device": "raspberry-pi-5",
    "platform": "linux-aarch64",
    "cpu": ["armv8.2-a+dotprod+fp16"],
    "python": ["3.11"],
    "source_sha256": "ab" * 32,
}


def described(folder: Path) -> list[BundleFile]:
    """All files of a folder but the two documents, in the order that a document has."""
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [document.describe(folder, path) for path in sorted(paths) if not path.startswith("bundle.")]


def stated(files: Iterable[BundleFile], **more: Any) -> Bundle:
    """What a document says of these files, with other values in some fields."""
    return Bundle(**{**SAID, **more, "files": tuple(files)})


def sign_folder(folder: Path, key: Path, **more: Any) -> Bundle:
    """Make a folder a bundle as it is."""
    found = stated(described(folder), **more)
    signature.write(folder, document.write(folder, found), keys.private_key(key))
    return found


def make(folder: Path, files: Mapping[str, bytes], key: Path, **more: Any) -> Bundle:
    """A new bundle of these files."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return sign_folder(folder, key, **more)
