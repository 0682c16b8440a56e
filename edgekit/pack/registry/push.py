"""Bring a bundle to where images lie: what is there already stays, the manifest comes last."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.disk_errors import file_errors
from edgekit.pack import document as documents
from edgekit.pack.bundle import DOCUMENT, SIGNATURE, Bundle
from edgekit.pack.registry.image import MOST_SIGNATURE_BYTES, digest_of, manifest_of
from edgekit.pack.registry.place import Blob, Place
from edgekit.progress import Progress


@dataclass(frozen=True)
class Pushed:
    """What one push did.

    Attributes:
        bundle: what was pushed.
        digest: of its manifest: with it in place of the tag, nobody can be given anything else.
        moved_bytes: what was sent, without the manifest.
        bytes: what the image has altogether, each content once.
    """

    bundle: Bundle
    digest: str
    moved_bytes: int
    bytes: int


def push(bundle: Path, place: Place, progress: Progress | None = None) -> Pushed:
    """Store a bundle as an image; of a difference to another bundle, where that one's files are there already.

    What is sent is hashed first, and again by who stores it. Whoever gets the image verifies its signature.

    Raises:
        BundleError: it is no bundle, is not signed, or a file that is needed is missing or is not what was signed.
        RegistryError: the registry refused something, or the connection failed too often.
        ArtifactError: the file system refused something.
    """
    progress = progress or Progress()
    with file_errors(bundle):
        document, data = documents.read(bundle)
        signature = documents.read_small(
            bundle / SIGNATURE, MOST_SIGNATURE_BYTES, "is missing: nobody signed this bundle"
        )
        manifest = manifest_of(document, data, signature)
        sources = {
            Blob(hashlib.sha256(data).hexdigest(), len(data)): DOCUMENT,
            Blob(hashlib.sha256(signature).hexdigest(), len(signature)): SIGNATURE,
            **{Blob(file.sha256, file.bytes): file.path for file in document.files},
        }
        missing = {blob: path for blob, path in sources.items() if not place.has(blob)}
        named = set(missing.values())
        documents.hash_files(bundle, [file for file in document.files if file.path in named], progress)
        moved = sum(blob.bytes for blob in missing)
        progress.start("pushing", moved)
        try:
            for blob, path in missing.items():
                place.put(blob, bundle / path, progress)
            place.publish(manifest)
        finally:
            progress.finish()
    return Pushed(document, digest_of(manifest), moved, sum(blob.bytes for blob in sources))
