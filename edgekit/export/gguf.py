"""Write one part as a GGUF file in one streamed pass: header first, then every tensor in slices.

Keys and names are those of llama.cpp's own converter, so that any program built on llama.cpp loads the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import codecs
from edgekit.errors import CheckpointError
from edgekit.export.plan import PartPlan, Planned, Progress
from edgekit.export.vocabulary import vocabulary
from edgekit.families.medgemma import MedGemmaConfig
from edgekit.recipes import Recipe

_SLICE_WEIGHTS = 4 * 1024 * 1024  # 16 MiB of float32 at a time


def write(plan: PartPlan, recipe: Recipe, path: Path, progress: Progress = lambda weights: None) -> None:
    """Write a part.

    Args:
        path: the file, inside a staging folder.

    Raises:
        CheckpointError: the tokenizer or a tensor is not what it must be.
    """
    import gguf

    architecture = plan.family.roles[plan.role].gguf_architecture
    if architecture is None or plan.level.file_type is None:
        raise ValueError(f"{plan.role} has no GGUF form")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.MODEL if architecture != "clip" else gguf.GGUFType.MMPROJ)
    writer.add_name(recipe.title)
    writer.add_license(recipe.license.splitlines()[0])
    writer.add_file_type(plan.level.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _HEADERS[architecture](writer, plan)
    for planned in plan.tensors:
        writer.add_tensor_info(
            planned.slot.gguf,
            planned.slot.shape,
            np.dtype(np.float32),
            codecs.stored_bytes(planned.codec, planned.slot.shape),
            raw_dtype=codecs.ggml_type(planned.codec),
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for planned in plan.tensors:
            writer.write_tensor_data(_Stream(plan, planned, progress))
    finally:
        writer.close()


class _Stream:
    """What the gguf writer takes for an array: it asks for `nbytes` and calls `tofile`."""

    def __init__(self, plan: PartPlan, planned: Planned, progress: Progress) -> None:
        self._plan, self._planned, self._progress = plan, planned, progress
        self.nbytes = codecs.stored_bytes(planned.codec, planned.slot.shape)

    def tofile(self, stream: Any) -> None:
        tensor, slot = self._planned.tensor, self._planned.slot
        width = slot.shape[-1]
        rows = max(1, _SLICE_WEIGHTS * slot.shape[0] // tensor.size)
        for block in self._plan.checkpoint.slices(tensor, rows):
            if slot.add_one:
                block = block + np.float32(1)
            stream.write(codecs.encode(block.reshape(-1, width), self._planned.codec).data)
            self._progress(block.size)


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
    tokens, scores, types = vocabulary(plan)
    writer.add_tokenizer_model("llama")  # SentencePiece
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    missing = [name for name in ("<bos>", "<eos>", "<unk>", "<pad>") if name.encode() not in tokens]
    if missing:
        raise CheckpointError(f"{checkpoint.root}: the tokenizer has no {', '.join(missing)}")
    writer.add_bos_token_id(tokens.index(b"<bos>"))
    writer.add_eos_token_id(tokens.index(b"<eos>"))
    writer.add_unk_token_id(tokens.index(b"<unk>"))
    writer.add_pad_token_id(tokens.index(b"<pad>"))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if text := checkpoint.chat_template():
        writer.add_chat_template(text)


def _vision_header(writer: Any, plan: PartPlan) -> None:
    config: MedGemmaConfig = plan.config
    vision = config.vision_config
    preprocessing = plan.family.preprocessing(plan.checkpoint, config)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(vision.image_size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
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


_HEADERS: dict[str, Callable[[Any, PartPlan], None]] = {"gemma3": _decoder_header, "clip": _vision_header}
