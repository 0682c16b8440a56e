"""A folder of images, the OCI image layout: on a stick, or served by whatever serves files.

    oci-layout          which version of the specification it follows
    index.json          the images, by tag
    blobs/sha256/HASH   manifests and what they name, each content once

`skopeo copy oci:FOLDER:TAG docker://REGISTRY/NAME:TAG` and `oras cp --from-oci-layout` take it to a registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from edgekit.artifacts.disk_errors import named
from edgekit.artifacts.documents import MOST_BYTES, is_file, is_folder, json_value, read_bounded
from edgekit.artifacts.files import make_folder, replacing, write_atomically
from edgekit.artifacts.folders import updating
from edgekit.artifacts.validation import Listed, StrictModel, validated
from edgekit.errors import RegistryError, UsageError, unknown
from edgekit.pack.registry import image
from edgekit.pack.registry.image import INDEX, MANIFEST, Descriptor, digest_of
from edgekit.pack.registry.place import Blob
from edgekit.progress import Progress

_REF = "org.opencontainers.image.ref.name"
_MARK, _VERSION = "oci-layout", {"imageLayoutVersion": "1.0.0"}
_INDEX = "index.json"
_BLOCK_BYTES = 1 << 20


class _Entry(Descriptor):
    annotations: dict[str, str] = Field(default_factory=dict)


class _Index(StrictModel):
    model_config = ConfigDict(extra="ignore")

    manifests: Listed[_Entry] = Field(max_length=1000)


class Layout:
    """A layout, and one tag in it."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.folder, self.tag = folder, image.checked_tag(tag)

    @property
    def name(self) -> str:
        """Folder and tag, as other tools write them."""
        return f"{self.folder}:{self.tag}"

    def manifest(self) -> bytes:
        """The manifest that has the tag.

        Raises:
            RegistryError: there is no layout, or its manifest is missing or not what its digest says.
            UsageError: nothing there has the tag.
        """
        if not is_file(self.folder / _MARK):
            raise RegistryError(f"{self.folder}: is no OCI image layout", allowed=f"a folder with {_MARK} in it")
        tags = {_tag(entry): entry["digest"] for entry in self._index()}
        if self.tag not in tags:
            raise unknown(f"tag in {self.folder}", self.tag, filter(None, tags))
        data = read_bounded(self._path(tags[self.tag].removeprefix("sha256:")), RegistryError, image.MOST_BYTES)
        if digest_of(data) != tags[self.tag]:
            raise RegistryError(f"{self.name}: its manifest is not the one that {_INDEX} names")
        return data

    def has(self, blob: Blob) -> bool:
        """Whether there is a file of its name and size; who reads it hashes it."""
        path = self._path(blob.sha256)
        return is_file(path) and path.stat().st_size == blob.bytes

    def blocks(self, blob: Blob, begun: int) -> Iterator[bytes]:
        """As `Place.blocks`."""
        path = self._path(blob.sha256)
        if not self.has(blob):
            raise RegistryError(f"{path}: is missing, or is not of {blob.bytes} bytes", remedy="push the bundle again")
        with named(path), path.open("rb") as stream:
            stream.seek(begun)
            while begun < blob.bytes and (block := stream.read(min(_BLOCK_BYTES, blob.bytes - begun))):
                begun += len(block)
                yield block

    def put(self, blob: Blob, path: Path, progress: Progress) -> None:
        """Copy a file, hashing it on the way; a link to it would make what is changed there change here."""
        self._begin()
        digest = hashlib.sha256()
        target = self._path(blob.sha256)
        make_folder(target.parent)
        with replacing(target) as temporary, path.open("rb") as source, temporary.open("wb") as made:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                made.write(block)
                progress.advance(len(block))
            if digest.hexdigest() != blob.sha256:
                raise RegistryError(f"{path}: was changed while it was copied", remedy="push the bundle again")

    def publish(self, manifest: bytes) -> None:
        """Store the manifest, and let the tag name it from now on; the other tags stay."""
        self._begin()
        digest = digest_of(manifest)
        write_atomically(self._path(digest.removeprefix("sha256:")), manifest)
        with updating(self.folder):
            entries = [entry for entry in self._index() if _tag(entry) != self.tag]
            new = {"mediaType": MANIFEST, "digest": digest, "size": len(manifest), "annotations": {_REF: self.tag}}
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, new]}
            write_atomically(self.folder / _INDEX, json.dumps(index, indent=1))

    def _begin(self) -> None:
        """Make the layout where there is none. Raises UsageError for a folder that holds something else."""
        if is_file(self.folder / _MARK):
            return
        if self.folder.exists() and (not is_folder(self.folder) or any(self.folder.iterdir())):
            raise UsageError(
                f"{self.folder}: holds something, and no OCI image layout", allowed="a layout, or a new or empty folder"
            )
        make_folder(self.folder)
        write_atomically(self.folder / _MARK, json.dumps(_VERSION))

    def _index(self) -> list[dict[str, Any]]:
        """The images, as whoever put them there described them; none before the first is published."""
        path = self.folder / _INDEX
        if not is_file(path):
            return []
        value = json_value(read_bounded(path, RegistryError, MOST_BYTES), str(path), RegistryError)
        validated(_Index, value, str(path), RegistryError)
        return list(value["manifests"])

    def _path(self, sha256: str) -> Path:
        return self.folder / "blobs" / "sha256" / sha256


def _tag(entry: dict[str, Any]) -> str:
    return str(entry.get("annotations", {}).get(_REF, ""))
