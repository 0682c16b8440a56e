"""Gemma 3 in transformers, and its processor.

Image processors are the Pillow-backed ones: edgekit leaves torchvision out, whose antialiased resize differs from
Pillow's by one grey level here and there, and by two at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.full_precision import EncoderModules, FullPrecision, hub_tokenizer, rgb
from edgekit.families.gemma3.chat import chat_template
from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.inputs.chat_templates import render_in_a_worker
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Image, Message


def build(config: MedGemmaConfig) -> Any:
    """Gemma3ForConditionalGeneration."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    assert config.vision_config is not None, "this architecture has a vision tower"
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=_text_fields(config.text_config),
            vision_config={**config.vision_config.model_dump(), "vision_use_head": False},
            mm_tokens_per_image=config.mm_tokens_per_image,
            image_token_index=config.image_token_index,
            boi_token_index=config.boi_token_index,
            eoi_token_index=config.eoi_token_index,
        )
    )


def build_text_only(config: MedGemmaConfig) -> Any:
    """Gemma3ForCausalLM."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**_text_fields(config.text_config)))


def _text_fields(text: GemmaTextConfig) -> dict[str, Any]:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": text.rope_factor, "rope_theta": text.rope_theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": text.rope_local_base_freq},
    }
    if text.rope_factor == 1.0:
        rope["full_attention"] = {"rope_type": "default", "rope_theta": text.rope_theta}
    fields = text.model_dump(exclude={"rope_theta", "rope_local_base_freq", "rope_factor"})
    return {**fields, "rope_parameters": rope}


def processed(checkpoint: Checkpoint, config: MedGemmaConfig, messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation through the checkpoint's chat template, then through Gemma 3's processor or, for text alone,
    through its tokenizer. A base model has no template: it reads <bos>, the images and one text as it is.

    Returns:
        As `edgekit.families.full_precision.FullPrecision.processed`.

    Raises:
        CheckpointError: the template cannot be rendered within its limits, or the processor refuses what it gives.
    """
    template, tokenizer = checkpoint.chat_template(), hub_tokenizer(checkpoint)
    sees = config.vision_config is not None
    images = [rgb(image) for message in messages for image in message.images]
    if template is None:
        rendered = "".join("<start_of_image>" if isinstance(p, Image) else p for m in messages for p in m.parts)
    else:
        rendered = _rendered(checkpoint, template, tokenizer, [_turn(message, sees) for message in messages])
    # As transformers has it: a tokenizer leaves <bos> to the template, a processor adds it where that has none.
    added = template is None or (sees and not rendered.startswith(tokenizer.bos_token))
    if not sees:
        ids = list(tokenizer(rendered, add_special_tokens=added)["input_ids"])
        return {"input_ids": ids, "token_type_ids": [0] * len(ids), "pixel_values": None}
    processor = _processor(checkpoint, tokenizer, config)
    try:
        made = processor(
            text=rendered, images=[images] if images else None, return_tensors="np", add_special_tokens=added
        )
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.root}: its processor refuses what its chat template gives: {error}"
        ) from error
    return {
        "input_ids": made["input_ids"][0].tolist(),
        "token_type_ids": made["token_type_ids"][0].tolist(),
        "pixel_values": np.asarray(made["pixel_values"], np.float32) if images else None,
    }


def _rendered(checkpoint: Checkpoint, template: str, tokenizer: Any, turns: list[dict[str, Any]]) -> str:
    """Gemma 3's own template is rendered here, one of others in a worker."""
    if template.rstrip("\n") != chat_template():
        return render_in_a_worker(
            template, turns, tokenizer.special_tokens_map, f"{checkpoint.root}: its chat template"
        )
    text = tokenizer.apply_chat_template(turns, chat_template=template, add_generation_prompt=True, tokenize=False)
    return str(text)


def _turn(message: Message, sees: bool) -> dict[str, Any]:
    """A message as templates take it: a list of items, or a plain text for those that may know nothing else."""
    if not sees and len(message.parts) == 1:
        return {"role": message.role, "content": message.text}
    content = [{"type": "image"} if isinstance(p, Image) else {"type": "text", "text": p} for p in message.parts]
    return {"role": message.role, "content": content}


def _image_processor(checkpoint: Checkpoint) -> Any:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    return Gemma3ImageProcessorPil.from_pretrained(checkpoint.root, local_files_only=True)


def _processor(checkpoint: Checkpoint, tokenizer: Any, config: MedGemmaConfig) -> Any:
    from transformers import Gemma3Processor

    image_processor = _image_processor(checkpoint)
    return Gemma3Processor(image_processor, tokenizer, image_seq_length=config.mm_tokens_per_image)


def _pixels(
    checkpoint: Checkpoint, config: MedGemmaConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    made = _image_processor(checkpoint)(images=[[rgb(image)] for image in images], return_tensors="np")
    return np.asarray(made["pixel_values"], np.float32)


def _image_features(model: Any, pixels: Any) -> Any:
    return model.get_image_features(pixel_values=pixels).pooler_output


FULL_PRECISION = FullPrecision(build, {"vision": EncoderModules(_pixels, _image_features)}, processed)
TEXT_ONLY_FULL_PRECISION = FullPrecision(build_text_only, processed=processed)
