"""What a bundle is: a folder whose `bundle.json` names every file in it, and what it is for.

    bundle.json      this document, as canonical JSON (RFC 8785)
    bundle.sig.json  its signature (`edgekit.pack.signature`)
    model/           an artifact folder of one level: edgekit.json, its parts, tokenizer, what it was made from
    device/          the profile of the device that it is for, whose plan what is installed obeys
    golden/          the self-test: golden.json and its images (`edgekit.pack.golden`)
    wheels/          edgekit and what it needs, for the bundle's platform (`edgekit.pack.wheelhouse`)
    papers/          NOTICE, terms, SBOM, ML-BOM, record of modifications
    README.md        the model card
    install.sh install.ps1

No file but these, each exactly once; the two documents at the top name all others and not themselves. A file is the
same wherever its SHA-256 is: an update brings only those that the installed bundle lacks.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from edgekit.artifacts.validation import Count, Listed, Name, Sha256, StrictModel, Text

DOCUMENT, SIGNATURE = "bundle.json", "bundle.sig.json"
SCHEMA = 1
CHUNK_BYTES = 1 << 26  # hashed by itself, so that all cores hash one large file
MOST_BYTES = 8 << 20  # of the document
MODEL, DEVICE, GOLDEN, WHEELS, PAPERS = "model", "device", "golden", "wheels", "papers"

_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Version = Annotated[int, Field(ge=1, lt=1 << 31)]


class BundleFile(StrictModel):
    """One file of a bundle.

    Attributes:
        path: relative to the bundle, with `/`; one that every system takes.
        bytes: its size.
        sha256: of the whole file, by which others know it.
        chunks: SHA-256 of each `CHUNK_BYTES` of it, in order; what is verified.
        executable: whether it is run.
    """

    path: str = Field(min_length=1, max_length=240)
    bytes: Count
    sha256: _Digest
    chunks: Listed[_Digest] = Field(max_length=100_000)
    executable: bool = False

    @field_validator("path")
    @classmethod
    def _is_taken_everywhere(cls, path: str) -> str:
        if not path.isascii() or not path.isprintable() or set(path) & set('\\:*?"<>| '):
            raise ValueError("holds a character that not every system takes")
        for name in path.split("/"):
            if name in ("", ".", "..") or name.startswith(".") or name.endswith("."):
                raise ValueError("is no plain path below the bundle")
            if name.split(".")[0].casefold() in _RESERVED:
                raise ValueError("is a device on Windows")
        if path.split("/")[0].casefold() in (DOCUMENT, SIGNATURE):
            raise ValueError("is the document itself, or its signature")
        return path

    @model_validator(mode="after")
    def _has_its_chunks(self) -> Self:
        if len(self.chunks) != -(-self.bytes // CHUNK_BYTES):
            raise ValueError(f"{len(self.chunks)} chunks for {self.bytes} bytes")
        return self


class Bundle(StrictModel):
    """What `bundle.json` says.

    Attributes:
        name: the model, the level and the device.
        version: counts up from 1; a later one replaces an earlier one, of the same name or another.
        minimum_version: what is older must not be installed any more, where this one ever was.
        edgekit: the version of edgekit that made it, and that it brings.
        stand_in: what its weights are, where they are no real model's.
        level: the variant's name in `model/edgekit.json`.
        device: the profile that it was made for; the levels of the processor, where that was of the machine at hand.
        platform: system and processor of its wheels: `linux-x86_64`, `linux-aarch64`, ...
        cpu: the level of the processor that its llama.cpp was built for: `x86-64-v3`, `armv8.2-a+dotprod+fp16`, ...;
            each of several, where it brings several builds.
        python: versions of Python that its wheels are for: `3.11`.
        files: all of them, in the order of their paths.
    """

    schema_version: int = SCHEMA
    name: Annotated[str, Field(max_length=200, pattern=r"^[a-z0-9][a-z0-9._+-]*$")]
    version: _Version
    minimum_version: _Version = 1
    edgekit: Name
    title: Name
    license: Text
    stand_in: Text | None = None
    level: Name
    device: Name
    platform: Annotated[str, Field(pattern=r"^(linux|macos|windows)-(x86_64|aarch64|arm64)$")]
    cpu: Listed[Name] = Field(min_length=1, max_length=10)
    python: Listed[Annotated[str, Field(pattern=r"^3\.[0-9]{1,2}$")]] = Field(min_length=1, max_length=10)
    source_sha256: Sha256
    files: Listed[BundleFile] = Field(min_length=1, max_length=20_000)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.minimum_version > self.version:
            raise ValueError("minimum_version: beyond its own version")
        paths = [file.path for file in self.files]
        if paths != sorted(paths):
            raise ValueError("files: not in the order of their paths")
        folders = {str(above) for path in paths for above in PurePosixPath(path).parents}
        if len({name.casefold() for name in (*paths, *folders)}) != len(paths) + len(folders):
            raise ValueError("files: two files or folders of one name, where a system takes no notice of case")
        return self

    @property
    def bytes(self) -> int:
        """What its files take together, without the two documents."""
        return sum(file.bytes for file in self.files)
