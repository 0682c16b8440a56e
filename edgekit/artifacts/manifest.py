"""The manifest: one `edgekit.json` beside the files of an artifact, the contract that describes it completely.

A manifest never names a backend: whether a runtime can open a part follows from the part's format and what it
requires. Times and paths of the exporting machine do not enter it, so the same export twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Strict, field_validator, model_validator, with_config
from typing_extensions import TypedDict

from edgekit.artifacts.documents import MOST_BYTES, is_file, is_folder, read_json
from edgekit.artifacts.files import sha256_file, write_atomically
from edgekit.artifacts.folders import updating
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.validation import ANEW, Count, Listed, Name, Sha256, StrictModel, Text, validated
from edgekit.errors import ArtifactError, UsageError
from edgekit.terminal import printable

FILE_NAME = "edgekit.json"
SCHEMA = 2
FOREIGN = "made by others and unproven: no comparison with an original is on record"


Output = Literal["logits", "image_tokens", "pooled"]  # what one item becomes
# It stands in file names, command lines and tables: `Q4_0+vision-int8`.
VariantName = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]


_Few = Field(max_length=1000)  # entries: an artifact of the largest model has a tenth


class FileEntry(StrictModel):
    """One file of the artifact: its path relative to the folder, SHA-256 and size in bytes."""

    path: str = Field(min_length=1, max_length=1000)
    sha256: Sha256
    bytes: Count


# Pixels of a hundred times the largest that any model was trained on are no picture any more.
_Mean = Annotated[float, Field(ge=-100, le=100)]
_Deviation = Annotated[float, Field(ge=1e-3, le=100)]


class Preprocessing(StrictModel):
    """How an image becomes the encoder's pixels: resize to a square, rescale to [0, 1], normalize."""

    size: int = Field(gt=0, le=8192)
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    mean: Annotated[tuple[_Mean, _Mean, _Mean], Strict(False)]
    std: Annotated[tuple[_Deviation, _Deviation, _Deviation], Strict(False)]


_Figure = Annotated[float, Field(ge=-1e12, le=1e12)]  # counts of tensors and texts among them


class Parity(StrictModel):
    """What a proof found for one part.

    Attributes:
        wiring: against float32 transformers holding the files' own dequantized weights: `mean` and `worst` of the
            metric; of a decoder the greatest mean of a `prompt` and the clear top tokens `changed`; of an encoder the
            relative `error` and `worst_error` of its vectors.
        loss: against float32 transformers holding the original weights: `mean` and `worst`; of a decoder the share
            `top1` of equal top tokens; of an encoder as in wiring.
        positions: positions (decoder) or inputs (encoder) compared.
        inputs: what they were.
        audit: how much of the file itself was compared with the checkpoint: `tensors`, `constants`, `texts`, and the
            `worst` relative error of a tensor. None where that was not done.
        exactness: against float32 transformers, of the same graph with exact weights. None where that was not done.
        end_to_end: of a decoder, `mean` and `worst` divergence of a question about an image, by the id of each vision
            part that it was answered behind.
    """

    metric: Literal["kl", "cosine"]
    wiring: Annotated[Mapping[Name, float], _Few]
    loss: Annotated[Mapping[Name, float], _Few]
    positions: Count
    inputs: Text
    audit: Annotated[Mapping[Name, _Figure], _Few] | None = None
    exactness: Annotated[Mapping[Name, _Figure], _Few] | None = None
    end_to_end: Annotated[Mapping[Sha256, Annotated[Mapping[Name, _Figure], _Few]], _Few] = Field(default_factory=dict)

    @field_validator("wiring", "loss")
    @classmethod
    def _has_mean_and_worst(cls, figures: Mapping[str, float]) -> Mapping[str, float]:
        if not {"mean", "worst"} <= set(figures):
            raise ValueError("no mean or no worst")
        return figures

    @field_validator("end_to_end")
    @classmethod
    def _have_means(cls, pairs: Mapping[str, Mapping[str, float]]) -> Mapping[str, Mapping[str, float]]:
        if not all("mean" in figures for figures in pairs.values()):
            raise ValueError("no mean")
        return pairs

    @model_validator(mode="after")
    def _are_possible(self) -> Self:
        for figures in (self.wiring, self.loss):
            mean, worst = figures["mean"], figures["worst"]
            low, high = (mean, worst) if self.metric == "kl" else (worst, mean)
            least, most = (-1e-3, 1e4) if self.metric == "kl" else (-1.001, 1.001)
            if not least <= low <= high <= most:
                raise ValueError(f"a {self.metric} of {mean:g}, at worst {worst:g}, cannot be")
        return self


_Version = Annotated[str, Field(pattern=r"^\d{1,6}(\.\d{1,6}){0,3}$")]


@with_config(ConfigDict(extra="allow", strict=True))
class Requires(TypedDict, total=False):
    """What a runtime must offer to open a part; a new format may have more to say."""

    opset: Count
    ir_version: Count
    domains: Listed[Annotated[str, Field(max_length=200)]]
    minimum_onnxruntime: _Version | None
    gguf_version: Count
    architecture: Name
    memory_bytes: Count


class Part(StrictModel):
    """One part of a model in one format at one level.

    Attributes:
        id: hash of everything that determines what the part computes; parts with equal ids are interchangeable.
        tensor_types: how many weights are stored as which type, so that a fallback cannot hide.
        output: what one item becomes: `logits`, `image_tokens`, or `pooled`.
        requires: what a runtime must offer (format version, opset, operator domains, memory in bytes).
        tools: versions of what wrote it.
        calibrated_on: what the ranges of its activations were measured on, None where it needs none.
        parity: None means that nobody measured it.
    """

    id: Sha256
    role: Name
    format: str = Field(max_length=100, pattern=r"^[a-z][a-z0-9_-]*$")
    level: VariantName
    files: Listed[FileEntry] = Field(min_length=1, max_length=100)
    weights: Count = Field(gt=0)
    bits_per_weight: float = Field(ge=0, le=1e6)
    tensor_types: Annotated[Mapping[Name, Count], _Few]
    output: Output
    requires: Requires
    tools: Annotated[Mapping[Name, Name], _Few]
    calibrated_on: Text | None = None
    parity: Parity | None = None


class SourceRecord(StrictModel):
    """The checkpoint: a hash over its files, never its place.

    Attributes:
        revision: `owner/name@commit` on the hub, None where the files came from a folder that does not say.
    """

    name: Text
    sha256: Sha256
    files: Annotated[Mapping[Text, Sha256], _Few]
    revision: Name | None = None


class Served(StrictModel):
    """What other programs are told to reserve for a model: as a plan for a device chose it.

    Attributes:
        context: tokens of prompt and answer together.
        cache_type: what keys and values are rounded to.
        threads: how many compute; None leaves it to the program.
        gpu_layers: of the decoder that a GPU runs, as llama.cpp counts them; None leaves it to the program.
    """

    context: int = Field(gt=0, lt=1 << 24)
    cache_type: Literal["f16", "q8_0"] = "f16"
    threads: int | None = Field(default=None, gt=0, le=100_000)
    gpu_layers: int | None = Field(default=None, ge=0, le=100_000)


class Manifest(StrictModel):
    """Everything a runtime and a reader must know about one artifact folder."""

    schema_version: int = SCHEMA
    recipe: Name
    title: Name
    family: Name
    stand_in: Text | None
    license: Text = Field(min_length=1)
    modified: Text
    source: SourceRecord
    preprocessing: Preprocessing | None  # None for a model that sees no images
    tokenizer: FileEntry | None = None
    # What the family needs to build prompts and scores: token ids, image tokens, logit scale and bias, context length.
    settings: Annotated[Mapping[Name, Any], _Few]
    support_files: Listed[FileEntry] = Field(default=(), max_length=1000)
    # What Ollama and llama-server are to reserve, of an export for a device; None leaves them their usual context.
    served: Served | None = None
    parts: Listed[Part] = Field(max_length=1000)
    variants: Annotated[Mapping[VariantName, Annotated[Mapping[Name, Sha256], _Few]], _Few]
    default: Name
    # Whether others made the files: of the weights that they were made from, only a proof knows something.
    foreign: bool = False
    # The checkpoint that foreign files were compared with, None where nobody did.
    proven_against: SourceRecord | None = None
    # The checkpoint that unproven foreign files differ from, and in what: whoever uses them must know.
    differs_from: Text | None = None
    # What a proof must show, from the recipe: an artifact can be proven where its recipe is not installed.
    gates: Gates

    @model_validator(mode="after")
    def _names_what_it_has(self) -> Self:
        if self.default not in self.variants:
            raise ValueError(f"default {self.default!r:.80} is no variant")
        roles = {part.id: part.role for part in self.parts}
        if len(roles) != len(self.parts):
            raise ValueError("parts: two of one id")
        for parts in self.variants.values():
            for role, part_id in parts.items():
                if part_id not in roles:
                    raise ValueError(f"a variant of the unknown part {part_id[:12]!r}")
                if roles[part_id] != role:
                    raise ValueError(f"a variant whose {role!r:.80} is a part of the role {roles[part_id]!r:.80}")
        return self

    @model_validator(mode="after")
    def _describes_each_file_once(self) -> Self:
        if len({(file.path, file.sha256, file.bytes) for file in self.files}) > len({file.path for file in self.files}):
            raise ValueError("files: two descriptions of one path")
        if FILE_NAME in {file.path for file in self.files}:
            raise ValueError(f"files: {FILE_NAME}, which cannot describe itself")
        return self

    @property
    def provenance(self) -> str | None:
        """What is known of files that others made, for people; None for edgekit's own."""
        unproven = [part.role for part in self.parts if part.parity is None]
        if not self.foreign:
            return None
        if self.proven_against is None or len(unproven) == len(self.parts):
            return f"made by others; differs from {self.differs_from}" if self.differs_from else FOREIGN
        name, digest = self.proven_against.name[:100], self.proven_against.sha256[:16]
        left = f"; {' and '.join(unproven)} unproven" if unproven else ""
        return f"made by others; proven against {name}, SHA-256 {digest}...{left}"

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file of the artifact but the manifest itself."""
        of_parts = (file for part in self.parts for file in part.files)
        return (*of_parts, *([self.tokenizer] if self.tokenizer else []), *self.support_files)

    def part(self, part_id: str) -> Part:
        """The part with this id. Raises ArtifactError where there is none."""
        for part in self.parts:
            if part.id == part_id:
                return part
        raise ArtifactError(f"the manifest has no part {part_id[:12]}")

    def bytes_of(self, name: str) -> int:
        """What a variant's files take on the disk."""
        parts = self.variant(name)[1].values()
        return sum({entry.path: entry.bytes for part in parts for entry in part.files}.values())

    def variant(self, name: str | None) -> tuple[str, dict[str, Part]]:
        """The name and parts (by role) of a variant; the default variant for None.

        Raises:
            UsageError: there is no such variant here.
        """
        name = name or self.default
        if name not in self.variants:
            raise UsageError(f"this artifact has no level {name!r:.80}", allowed=", ".join(self.variants))
        return name, {role: self.part(part_id) for role, part_id in self.variants[name].items()}


def unproven_pair(parts: Collection[Part]) -> tuple[Part, Part] | None:
    """The decoder and the vision part of a variant, where no question about an image was answered by both together."""
    decoder = next((part for part in parts if part.output == "logits"), None)
    eye = next((part for part in parts if part.output == "image_tokens"), None)
    if not decoder or not eye or (decoder.parity and eye.id in decoder.parity.end_to_end):
        return None
    return decoder, eye


def part_id(role: str, file_format: str, level: str, files: tuple[FileEntry, ...]) -> str:
    """The identity of a part: a SHA-256 over its role, format, level and its files' contents."""
    described = json.dumps([role, file_format, level, [[f.path, f.sha256] for f in files]], separators=(",", ":"))
    return hashlib.sha256(described.encode()).hexdigest()


def file_entry(folder: Path, path: Path) -> FileEntry:
    """Describe a file inside an artifact folder."""
    return FileEntry(path=path.relative_to(folder).as_posix(), sha256=sha256_file(path), bytes=path.stat().st_size)


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest in one atomic replacement."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / FILE_NAME, text)


def update(folder: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace an artifact's manifest by what `change` makes of the one that is there now; others wait meanwhile.

    Raises:
        ArtifactError: as `read`.
    """
    with updating(folder):
        changed = change(read(folder))
        write(folder, changed)
    return changed


def read(folder: Path) -> Manifest:
    """The manifest of an artifact folder, its shape checked, its files not yet.

    Raises:
        ArtifactError: the folder or its manifest is missing, broken, or of another schema.
    """
    path = folder / FILE_NAME
    if not is_folder(folder):
        raise ArtifactError(f"{folder}: no such folder", remedy="edgekit export SOURCE --to DIR makes one")
    if not is_file(path):
        raise ArtifactError(
            f"{folder}: is no edgekit artifact: it has no {FILE_NAME}", remedy="edgekit export SOURCE --to DIR"
        )
    if path.stat().st_size > MOST_BYTES:
        raise ArtifactError(f"{path}: larger than a manifest can be", allowed=f"at most {MOST_BYTES} bytes")
    data = read_json(path, ArtifactError)
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA:
        version = data.get("schema_version") if isinstance(data, dict) else None
        found = f"{path}: manifest schema_version {version!r:.80}"
        raise ArtifactError(found, allowed=str(SCHEMA), remedy=ANEW)
    manifest = validated(Manifest, data, str(path), ArtifactError)
    for entry in manifest.files:
        _inside(folder, entry.path)
    return manifest


def verify(folder: Path, entries: tuple[FileEntry, ...], hashed: Collection[FileEntry] = ()) -> None:
    """Check that these files are there and are the ones that the manifest describes.

    Args:
        hashed: those whose hash was just computed; only their size is compared.

    Raises:
        ArtifactError: a file is missing, or its size or hash disagrees with the manifest.
    """
    for entry in entries:
        path = _inside(folder, entry.path)
        if not is_file(path):
            raise ArtifactError(f"{path}: missing, though the manifest lists it", remedy=ANEW)
        size = path.stat().st_size
        if size != entry.bytes:
            raise ArtifactError(
                f"{path}: {size} bytes, the manifest says {entry.bytes}", remedy=ANEW
            )
        if entry not in hashed and (digest := sha256_file(path)) != entry.sha256:
            raise ArtifactError(
                f"{path}: its SHA-256 is {digest[:16]}..., the manifest says {entry.sha256[:16]}...",
                remedy=f"the file was damaged or changed after it was proven: {ANEW}",
            )


def _inside(folder: Path, relative: str) -> Path:
    """A manifest is untrusted: its paths must stay inside its folder, and so must the links that they name."""
    path = Path(relative)
    if path.is_absolute() or ".." in path.parts or set("\\\0") & set(relative):
        raise ArtifactError(f"{folder / FILE_NAME}: the path {relative!r} leaves the artifact folder")
    if path.as_posix() != relative:  # of two names for one file, one could go with a level while the other is needed
        raise ArtifactError(f"{folder / FILE_NAME}: the path {relative!r}", allowed=repr(path.as_posix()), remedy=ANEW)
    if printable(relative) != relative:
        raise ArtifactError(f"{folder / FILE_NAME}: the path {relative!r} holds control characters")
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise ArtifactError(f"{folder / path}: leads nowhere: {error}") from error
    if not inside:
        raise ArtifactError(
            f"{folder / path}: a link that leaves the artifact folder", remedy="copy the files themselves: cp -rL"
        )
    return folder / path
