"""Write parts as GGUF files: each header first, then all their tensors in one pass over the checkpoint.

Keys and names are those of llama.cpp's own converter, so that any program built on llama.cpp loads the files. Tensors
stand in the order of the checkpoint's files, so that one pass can read and write everything from front to back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.recipes import Recipe
from edgekit.checkpoints.tensors import Slice
from edgekit.errors import CheckpointError
from edgekit.export import stream
from edgekit.export.plan import PartPlan, Planned
from edgekit.families.gemma3.family import MedGemmaConfig
from edgekit.families.gemma3.gguf_vocabulary import add_tokenizer, notes, vocabulary
from edgekit.formats import codecs
from edgekit.progress import Progress

_ALIGNMENT = 32  # GGUF's default


def write(plans: Mapping[Path, PartPlan], recipe: Recipe, progress: Progress) -> dict[Path, tuple[str, int]]:
    """Write parts of one checkpoint.

    Args:
        plans: file, inside a staging folder, -> the part that it holds. A file that an interrupted call left is
            continued.

    Returns:
        SHA-256 and length of each file.

    Raises:
        CheckpointError: the tokenizer or a tensor is not what it must be.
    """
    checkpoint = next(iter(plans.values())).checkpoint
    if any(plan.role == "decoder" for plan in plans.values()):
        for note in notes(checkpoint):
            progress.note(note)
    with ExitStack() as stack:
        outputs = [stack.enter_context(_output(path, plan, recipe)) for path, plan in plans.items()]
        stream.write(checkpoint, outputs, progress)
    return {output.path: output.finish() for output in outputs}


def _output(path: Path, plan: PartPlan, recipe: Recipe) -> stream.Output:
    by_source = {planned.tensor.name: planned for planned in plan.tensors}
    ordered = [by_source[tensor.name] for tensor in plan.checkpoint.in_order() if tensor.name in by_source]
    return stream.Output(path, _head(plan, recipe, ordered), [_section(planned) for planned in ordered])


def _section(planned: Planned) -> stream.Section:
    slot, codec = planned.slot, planned.codec
    form, size = (codec, planned.shape), codecs.stored_bytes(codec, planned.shape)
    as_stored = planned.tensor.dtype == codec and planned.shape == slot.shape and not slot.add_one and slot.scale == 1

    def encode(piece: Slice) -> stream.Encoded:
        if as_stored:
            return piece.data
        rows = piece.float32()
        if slot.add_one or slot.scale != 1:
            rows = (rows + np.float32(slot.add_one)) * np.float32(slot.scale)
        rows = _fill(rows, planned, piece.last).reshape(-1, planned.shape[-1])
        try:
            return codecs.encode(rows, codec)
        except CheckpointError as error:
            raise CheckpointError(
                f"{planned.tensor.path}: {piece.name}: {error.message}", allowed=error.allowed, remedy=error.remedy
            ) from error

    return stream.Section(planned.tensor.name, planned.tensor.size, form, encode, size, -size % _ALIGNMENT)


def _fill(rows: Any, planned: Planned, last: bool) -> Any:
    """Zeros where the stored shape goes beyond the source's: in every row, and below the last."""
    missing = [want - have for want, have in zip(planned.shape, planned.slot.shape, strict=True)]
    missing[0] = missing[0] if last else 0
    return np.pad(rows, [(0, count) for count in missing]) if any(missing) else rows


def _head(plan: PartPlan, recipe: Recipe, ordered: list[Planned]) -> bytes:
    """Everything before the first tensor's data."""
    import gguf

    architecture = plan.family.roles[plan.role].gguf_architecture
    if architecture is None or plan.level.file_type is None:
        raise ValueError(f"{plan.role} has no GGUF form")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_type(gguf.GGUFType.MODEL if architecture != "clip" else gguf.GGUFType.MMPROJ)
        writer.add_name(recipe.title)
        writer.add_size_label(gguf.size_label(plan.weights, 0, 0, 0))
        writer.add_license(recipe.license.splitlines()[0])
        writer.add_file_type(plan.level.file_type)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _HEADERS[architecture](writer, plan)
        for planned in ordered:
            writer.add_tensor_info(
                planned.slot.gguf,
                planned.shape,
                np.dtype(np.float32),
                codecs.stored_bytes(planned.codec, planned.shape),
                raw_dtype=codecs.ggml_type(planned.codec),
            )
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        head = path.read_bytes()
    return head + bytes(-len(head) % _ALIGNMENT)


def _decoder_header(writer: Any, plan: PartPlan) -> None:
    config: MedGemmaConfig = plan.config
    text = config.text_config
    import gguf

    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_sliding_window(text.sliding_window)
    writer.add_rope_freq_base(text.rope_theta)
    writer.add_rope_freq_base_swa(text.rope_local_base_freq)
    if text.rope_factor != 1.0:  # llama.cpp applies it to the global layers only, as Gemma 3 does
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(text.rope_factor)
    _tokenizer_header(writer, plan)


def _tokenizer_header(writer: Any, plan: PartPlan) -> None:
    checkpoint = plan.checkpoint
    add_tokenizer(writer, vocabulary(plan), checkpoint.root)
    if text := checkpoint.chat_template():
        writer.add_chat_template(text)


def _vision_header(writer: Any, plan: PartPlan) -> None:
    config: MedGemmaConfig = plan.config
    vision = config.vision_config
    preprocessing = plan.family.preprocessing(plan.checkpoint, config)
    assert vision is not None
    assert preprocessing is not None
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(_stored_width(plan))
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_image_mean(list(preprocessing.mean))
    writer.add_vision_image_std(list(preprocessing.std))
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_use_gelu(True)
    side = vision.image_size // vision.patch_size
    pooled = round(config.mm_tokens_per_image**0.5)
    if pooled**2 != config.mm_tokens_per_image or side % pooled:
        raise CheckpointError(
            f"config.json: {side} x {side} patches cannot be pooled to {config.mm_tokens_per_image} tokens"
        )
    if side // pooled != 4:  # llama.cpp's default
        writer.add_vision_projector_scale_factor(side // pooled)


def _stored_width(plan: PartPlan) -> int:
    """The MLP's width in this file, zeros included."""
    return next(planned.shape[0] for planned in plan.tensors if planned.slot.kind == "ffn_up")


_HEADERS: dict[str, Callable[[Any, PartPlan], None]] = {"gemma3": _decoder_header, "clip": _vision_header}
