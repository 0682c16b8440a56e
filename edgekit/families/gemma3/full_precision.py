"""Gemma 3 in transformers, and its processor.

Image processors are the Pillow-backed ones: edgekit leaves torchvision out, whose antialiased resize differs from
Pillow's by one grey level here and there, and by two at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.full_precision import EncoderModules, FullPrecision, at_most, hub_processor, hub_tokenizer, rgb
from edgekit.families.gemma3.chat import chat_template
from edgekit.families.gemma3.config import GemmaTextConfig, MedGemmaConfig
from edgekit.families.gemma3.layers import layer_types
from edgekit.families.gemma3.rope import GLOBAL, LOCAL
from edgekit.families.gemma3.stops import NAMES
from edgekit.inputs.chat_templates import render_in_a_worker
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Image, Message


def stated(config: MedGemmaConfig) -> dict[str, Any]:
    """A configuration with a vision tower, by transformers' names."""
    assert config.vision_config is not None, "this architecture has a vision tower"
    return {
        "model_type": "gemma3",
        **{f"text_config.{name}": value for name, value in _text(config.text_config).items()},
        **{f"vision_config.{name}": value for name, value in config.vision_config.model_dump().items()},
        "mm_tokens_per_image": config.mm_tokens_per_image,
        "image_token_index": config.image_token_index,
        "boi_token_index": config.boi_token_index,
        "eoi_token_index": config.eoi_token_index,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def stated_text_only(config: MedGemmaConfig) -> dict[str, Any]:
    """A configuration of a text model alone, by transformers' names."""
    return {**_text(config.text_config), "tie_word_embeddings": config.tie_word_embeddings}


def _text(text: GemmaTextConfig) -> dict[str, Any]:
    fields = text.model_dump(exclude={"rope_type", "rope_theta", "rope_local_base_freq", "rope_factor"})
    full, local = f"rope_parameters.{GLOBAL}", f"rope_parameters.{LOCAL}"
    return {
        "model_type": "gemma3_text",
        **fields,
        "layer_types": layer_types(text.num_hidden_layers),
        f"{full}.rope_type": text.rope_type,
        f"{full}.rope_theta": text.rope_theta,
        **({f"{full}.factor": text.rope_factor} if text.rope_type == "linear" else {}),
        f"{full}.partial_rotary_factor": None,
        f"{local}.rope_type": "default",
        f"{local}.rope_theta": text.rope_local_base_freq,
        f"{local}.partial_rotary_factor": None,
    }


def processed(checkpoint: Checkpoint, config: MedGemmaConfig, messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation through the checkpoint's chat template, then through Gemma 3's processor or, for text alone,
    through its tokenizer. A base model has no template: it reads <bos>, the images and one text as it is.

    Returns:
        As `edgekit.families.full_precision.FullPrecision.processed`.

    Raises:
        CheckpointError: the template cannot be rendered within its limits, or the processor refuses what it gives.
    """
    sees = config.vision_config is not None
    processor = hub_processor(checkpoint) if sees else None
    template, tokenizer = checkpoint.chat_template(), processor.tokenizer if processor else hub_tokenizer(checkpoint)
    images = [rgb(image) for message in messages for image in message.images]
    if template is None:
        rendered = "".join("<start_of_image>" if isinstance(p, Image) else p for m in messages for p in m.parts)
    else:
        rendered = _rendered(checkpoint, template, tokenizer, [_turn(message, sees) for message in messages])
    # As transformers has it: a tokenizer leaves <bos> to the template, a processor adds it where that has none.
    added = template is None or (processor is not None and not rendered.startswith(tokenizer.bos_token))
    if processor is None:
        ids = list(tokenizer(rendered, add_special_tokens=added)["input_ids"])
        return {"input_ids": ids, "token_type_ids": [0] * len(ids), "pixel_values": None}
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


def _pixels(
    checkpoint: Checkpoint, config: MedGemmaConfig, images: Sequence[ImageLike], texts: Sequence[str]
) -> NDArray[Any]:
    processor = hub_processor(checkpoint).image_processor
    made = processor(images=[[rgb(image)] for image in images], return_tensors="np")
    return np.asarray(made["pixel_values"], np.float32)


def _image_features(model: Any, pixels: Any) -> dict[str, Any]:
    """Under the name that transformers' output classes give them."""
    return {"image_features": model.get_image_features(pixel_values=pixels).pooler_output}


_TEXT = {"num_hidden_layers": 7, "intermediate_size": 1024}  # five local layers, a global one, and a local one again
_WINDOW = 64  # positions: a long text, beside which the whole window of 1024 would make it sixteen times as long
_WHOLE = {"vision_config.num_hidden_layers": 4, **{f"text_config.{key}": most for key, most in _TEXT.items()}}


def sliced(config: Mapping[str, Any]) -> dict[str, Any]:
    """A few layers and a narrow MLP, which is most of a layer's weights; all that differs between layers is there.

    Local layers see less far, but no less than an image: so a text of some 2,000 tokens goes far beyond what they see.
    """
    made = at_most(config, _TEXT if "text_config" not in config else _WHOLE)
    text = made.get("text_config", made)
    fields, text_fields = MedGemmaConfig.model_fields, GemmaTextConfig.model_fields
    tokens = config.get("mm_tokens_per_image", fields["mm_tokens_per_image"].default) if text is not made else 0
    whole = text.get("sliding_window", text_fields["sliding_window"].default)
    text["sliding_window"] = min(whole, max(_WINDOW, tokens))
    if text.get("layer_types"):
        text["layer_types"] = text["layer_types"][: _TEXT["num_hidden_layers"]]
    return made


_SETTINGS = {
    "context": "max_position_embeddings",
    "window": "sliding_window",
    "hidden": "hidden_size",
    "vocabulary": "vocab_size",
}
_IMAGE_SETTINGS = {
    "image_tokens": "mm_tokens_per_image",
    "image_token_id": "image_token_index",
    "boi_token_id": "boi_token_index",
    "eoi_token_id": "eoi_token_index",
}

FULL_PRECISION = FullPrecision(
    "Gemma3ForConditionalGeneration",
    stated,
    # SigLIP's pooling head, which Gemma 3 neither has weights for nor asks.
    fixed={"vision_config.vision_use_head": False},
    encoders={"vision": EncoderModules(_pixels, _image_features, "image_features")},
    processed=processed,
    token_ids={
        "image_token_id": "image_token_index",
        "boi_token_id": "boi_token_index",
        "eoi_token_id": "eoi_token_index",
    },
    settings={**{name: f"text_config.{key}" for name, key in _SETTINGS.items()}, **_IMAGE_SETTINGS},
    ends=NAMES,
    sliced=sliced,
)
TEXT_ONLY_FULL_PRECISION = FullPrecision(
    "Gemma3ForCausalLM", stated_text_only, processed=processed, settings=_SETTINGS, ends=NAMES, sliced=sliced
)
