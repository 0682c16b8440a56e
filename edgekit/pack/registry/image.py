"""A bundle as an OCI image: its manifest written and read, and what an image is called.

The manifest is that of the OCI image specification 1.1. Its configuration is `bundle.json`; of its layers one is
`bundle.json` again (stored once, but there for clients that take layers alone), one the signature, the others the
files. Each layer's title is its path, so `oras pull` writes the same folder. The same bundle gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from edgekit.artifacts.documents import json_value
from edgekit.artifacts.validation import Count, Listed, StrictModel, validated
from edgekit.errors import RegistryError, UsageError
from edgekit.pack.bundle import DOCUMENT, SIGNATURE, Bundle
from edgekit.pack.document import canonical

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
MOST_BYTES = 4 << 20  # of a manifest, which is what registries take
MOST_SIGNATURE_BYTES = 1 << 16

_ARTIFACT = "application/vnd.edgekit.bundle"
_DOCUMENT = "application/vnd.edgekit.bundle.v1+json"
_SIGNATURE = "application/vnd.edgekit.bundle.signature.v1+json"
_FILE = "application/octet-stream"
_ALGORITHM = "sha256:"
_MOST_ENTRIES = 500_000  # of a manifest's lists and objects, which its size bounds already

# As the OCI distribution specification 1.1 has them.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = re.compile(r"localhost|[A-Za-z0-9.-]+(?=[.:])[A-Za-z0-9.-]*(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?")
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_CHARACTERS = 255  # of host and repository together


@dataclass(frozen=True)
class Reference:
    """What an image is called in a registry.

    Attributes:
        registry: its host, and port where it has one of its own.
        repository: the path there.
        tag: a name that may be given to another image later; empty beside a digest.
        digest: the SHA-256 of one manifest, as `sha256:...`; None for whatever has the tag.
    """

    registry: str
    repository: str
    tag: str
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{f'@{self.digest}' if self.digest else f':{self.tag}'}"

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where nobody needs TLS."""
        return _LOOPBACK.fullmatch(self.registry) is not None


def reference(text: str) -> Reference:
    """`REGISTRY/NAME:TAG` or `REGISTRY/NAME@sha256:DIGEST`. Raises UsageError for anything else."""
    name, _, digest = text.partition("@")
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.partition(":")
    wrong = (
        not _HOST.fullmatch(registry)
        or not _REPOSITORY.fullmatch(repository)
        or len(registry) + len(repository) > _MOST_CHARACTERS
        or not (_DIGEST.fullmatch(digest) if digest or not tag else is_tag(tag))
    )
    if wrong:
        raise UsageError(
            f"{text!r:.200}: names no image of a registry",
            allowed="REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST, as in registry.example.org/models/medgemma:7",
        )
    return Reference(registry, repository, "" if digest else tag, digest or None)


def is_tag(text: str) -> bool:
    """Whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


def checked_tag(text: str) -> str:
    """A tag by itself, as layouts have them. Raises UsageError for what is none."""
    if not is_tag(text):
        raise UsageError(f"{text!r:.200}: is no tag", allowed="up to 128 letters, digits, `_`, `.` and `-`")
    return text


def digest_of(data: bytes) -> str:
    """What bytes are known by in an image: `sha256:` and their SHA-256."""
    return f"{_ALGORITHM}{hashlib.sha256(data).hexdigest()}"


class _Foreign(StrictModel):
    """What registries and their tools write: they may add fields that nobody here knows."""

    model_config = ConfigDict(extra="ignore")


class Descriptor(_Foreign):
    """One blob of an image.

    Attributes:
        media_type: what it is.
        digest: `sha256:` and its SHA-256.
        size: in bytes.
    """

    media_type: Annotated[str, Field(alias="mediaType", max_length=255)]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    size: Count

    @property
    def sha256(self) -> str:
        """The digest without its algorithm's name."""
        return self.digest.removeprefix(_ALGORITHM)


class _Manifest(_Foreign):
    config: Descriptor
    layers: Listed[Descriptor] = Field(max_length=25_000)


@dataclass(frozen=True)
class Image:
    """Where an image keeps what says all the rest.

    Attributes:
        document: the blob of `bundle.json`.
        signature: that of `bundle.sig.json`.
    """

    document: Descriptor
    signature: Descriptor


def manifest_of(bundle: Bundle, document: bytes, signature: bytes) -> bytes:
    """The manifest of a bundle, as canonical JSON.

    Args:
        document: the bytes of its `bundle.json`.
        signature: those of its `bundle.sig.json`.

    Raises:
        RegistryError: it names more files than registries take.
    """
    about = _descriptor(_DOCUMENT, hashlib.sha256(document).hexdigest(), len(document))
    signed = _descriptor(_SIGNATURE, hashlib.sha256(signature).hexdigest(), len(signature), SIGNATURE)
    layers = [{**about, "annotations": {TITLE: DOCUMENT}}, signed]
    layers += [_descriptor(_FILE, file.sha256, file.bytes, file.path) for file in bundle.files]
    data = canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": _ARTIFACT,
            "config": about,
            "layers": layers,
            "annotations": {
                TITLE: bundle.title,
                "org.opencontainers.image.version": str(bundle.version),
                "org.opencontainers.image.ref.name": bundle.name,
            },
        }
    )
    if len(data) > MOST_BYTES:
        raise RegistryError(
            f"{bundle.name}: a manifest of {len(bundle.files)} files takes {len(data)} bytes",
            allowed=f"at most {MOST_BYTES}, for registries take no more",
        )
    return data


def _descriptor(media_type: str, sha256: str, size: int, path: str | None = None) -> dict[str, object]:
    found: dict[str, object] = {"mediaType": media_type, "digest": f"{_ALGORITHM}{sha256}", "size": size}
    return {**found, "annotations": {TITLE: path}} if path else found


def read_manifest(data: bytes, where: str) -> Image:
    """What an image's manifest says of the two documents; of its files, `bundle.json` will say more.

    Args:
        where: what errors begin with.

    Raises:
        RegistryError: it is no manifest, or none of a bundle.
    """
    value = json_value(data, where, RegistryError, most_entries=_MOST_ENTRIES)
    said = value.get("mediaType") if isinstance(value, dict) else None
    if said not in (None, MANIFEST):
        raise RegistryError(f"{where}: holds no bundle but {said!r:.100}", allowed=MANIFEST)
    found = validated(_Manifest, value, where, RegistryError)
    if found.config.media_type != _DOCUMENT:
        raise RegistryError(
            f"{where}: holds no bundle of edgekit: its configuration is {found.config.media_type!r:.100}",
            allowed=_DOCUMENT,
        )
    return Image(found.config, _signature(found.layers, where))


def _signature(layers: Iterable[Descriptor], where: str) -> Descriptor:
    signatures = [layer for layer in layers if layer.media_type == _SIGNATURE]
    if len(signatures) != 1:
        raise RegistryError(f"{where}: {len(signatures)} layers of signatures", allowed=f"one, {_SIGNATURE}")
    return signatures[0]
