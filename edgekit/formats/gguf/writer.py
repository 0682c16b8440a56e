"""A part as a GGUF file: its header, then its tensors in the checkpoint's order.

Keys and names are those of llama.cpp's own converter, so that any program built on llama.cpp loads the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.levels import Level
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import Slice
from edgekit.errors import CheckpointError
from edgekit.formats.gguf.codecs import CODECS, ggml_type
from edgekit.formats.gguf.form import GgufForm, GgufTensorForm
from edgekit.formats.gguf.header import FILE_TYPES
from edgekit.formats.label import FileLabel
from edgekit.formats.plan import PartPlan, PlannedTensor
from edgekit.formats.sections import EncodedBytes, FileContent, Section
from edgekit.machine.temporary import temporary_folder

ALIGNMENT = 32  # GGUF's default
_FILE_TYPES = {name: number for number, name in FILE_TYPES.items()}


def codec_of(spec: TensorSpec, level: Level) -> str:
    """The type that a tensor gets at a level, or the one that llama.cpp takes where rows do not divide into blocks."""
    if spec.keep:
        return spec.keep
    width, codec = shape_of(spec, level)[-1], CODECS[level.codec_of(spec.kind, spec.position)]
    if width % codec.block:
        codec = CODECS[codec.fallback or "F16"]
    return codec.name if width % codec.block == 0 else "F16"


def shape_of(spec: TensorSpec, level: Level) -> tuple[int, ...]:
    """The shape that a tensor gets at a level: where blocks demand it, its padded axis grows to whole blocks."""
    if spec.padded is None:
        return spec.shape
    block = CODECS[level.codec].block
    shape = list(spec.shape)
    shape[spec.padded] = -(-shape[spec.padded] // block) * block
    return tuple(shape)


def file_type(level: Level) -> int:
    """`general.file_type` (llama_ftype): the level's, or its codec's where llama.cpp has no such mixture."""
    return _FILE_TYPES[level.name if level.name in _FILE_TYPES else level.codec]


def file_names(plan: PartPlan, stem: str) -> tuple[str, ...]:
    """One file, upper-case levels, as llama.cpp's users know them."""
    form: GgufForm = plan.form
    return (f"{form.prefix}{stem}-{plan.level.name}.gguf",)


def requires(plan: PartPlan, folder: Path, stem: str) -> dict[str, Any]:
    """What a reader must know."""
    return file_requires(plan.form)


def file_requires(form: GgufForm) -> dict[str, Any]:
    """What a reader must know of a part's file, whoever wrote it."""
    return {"gguf_version": 3, "architecture": form.architecture}


def notes(plans: Sequence[PartPlan]) -> tuple[str, ...]:
    """What the families say of their parts, each once."""
    return tuple(dict.fromkeys(note for plan in plans for note in plan.form.notes(plan.checkpoint)))


def content(plan: PartPlan, folder: Path, label: FileLabel) -> FileContent:
    """The whole file.

    Raises:
        CheckpointError: the tokenizer is not what it must be.
    """
    tensors = plan.form.tensors(plan.config)
    sections = tuple(_section(planned, tensors[planned.name]) for planned in plan.in_order)
    return FileContent(folder / file_names(plan, label.stem)[0], _head(plan, tensors, label), sections)


def _section(planned: PlannedTensor, form: GgufTensorForm) -> Section:
    spec, codec = planned.spec, CODECS[planned.codec.name]
    unchanged = planned.shape == spec.shape and not spec.add_one and form.scale == 1
    as_stored = planned.tensor.dtype == codec.name and unchanged

    def encode(piece: Slice) -> EncodedBytes:
        if as_stored:
            return piece.data
        rows = piece.float32()
        if spec.add_one or form.scale != 1:
            rows = (rows + np.float32(spec.add_one)) * np.float32(form.scale)
        rows = _fill(rows, planned, piece.last).reshape(-1, planned.shape[-1])
        try:
            return codec.encode(rows)
        except CheckpointError as error:
            raise CheckpointError(
                f"{planned.tensor.path}: {piece.name}: {error.message}", allowed=error.allowed, remedy=error.remedy
            ) from error

    bytes_form = (codec.name, planned.shape)
    return Section(
        planned.tensor.name, planned.tensor.size, bytes_form, encode, planned.bytes, -planned.bytes % ALIGNMENT
    )


def _fill(rows: Any, planned: PlannedTensor, last: bool) -> Any:
    """Zeros where the stored shape goes beyond the source's: in every row, and below the last."""
    missing = [want - have for want, have in zip(planned.shape, planned.spec.shape, strict=True)]
    missing[0] = missing[0] if last else 0
    return np.pad(rows, [(0, count) for count in missing]) if any(missing) else rows


def _head(plan: PartPlan, tensors: Any, label: FileLabel) -> bytes:
    """Everything before the first tensor's data."""
    import gguf

    form: GgufForm = plan.form
    with temporary_folder("head") as folder:
        path = folder / "head.gguf"
        writer = gguf.GGUFWriter(path, form.architecture)
        writer.add_type(gguf.GGUFType.MODEL if form.architecture != "clip" else gguf.GGUFType.MMPROJ)
        writer.add_name(label.title)
        writer.add_size_label(gguf.size_label(plan.weights, 0, 0, 0))
        writer.add_license(label.license)
        writer.add_file_type(file_type(plan.level))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        form.header(writer, plan)
        for planned in plan.in_order:
            name, codec = tensors[planned.name].name, planned.codec.name
            writer.add_tensor_info(name, planned.shape, np.dtype(np.float32), planned.bytes, raw_dtype=ggml_type(codec))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        head = path.read_bytes()
    return head + bytes(-len(head) % ALIGNMENT)
