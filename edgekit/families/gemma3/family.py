"""MedGemma: Gemma 3's decoder behind a SigLIP vision tower and a pooling projector, and the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgekit.artifacts.recipes import PartOf
from edgekit.checkpoints.chat_template import same_text
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.families.base import Family, Role
from edgekit.families.composition import Chat, ChatSettings, ImageChatSettings, OwnTemplate
from edgekit.families.gemma3 import (
    full_precision,
    gguf_form,
    graph,
    onnx_constants,
    onnx_interfaces,
    onnx_positions,
    vision_graph,
)
from edgekit.families.gemma3.chat import IMAGE, NAMED_TOKENS
from edgekit.families.gemma3.config import UNUSED_WITHOUT_VISION, MedGemmaConfig, numbers, parse, parse_text_only
from edgekit.families.gemma3.preprocessing import preprocessing_of
from edgekit.families.gemma3.shapes import decoder_shape, vision_part_shape
from edgekit.families.gemma3.stops import control_of, generation_config, stop_tokens
from edgekit.families.gemma3.synthesis import SYNTHESIS, TEXT_ONLY_SYNTHESIS
from edgekit.families.gemma3.template_chat import chat_format, notes, own_template, renders_gemmas_turns
from edgekit.families.gemma3.tensors import (
    EMBEDDING,
    HEADS,
    canonical,
    canonical_text_only,
    decoder_tensors,
    vision_part_tensors,
)
from edgekit.families.siglip.onnx_constants import image_layers
from edgekit.families.tokenizer_config import template_variables
from edgekit.formats.onnx.form import OnnxForm


def settings(checkpoint: Checkpoint, config: MedGemmaConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Token ids, context and image length: what `edgekit.inputs.prompt` needs to build segments."""
    image = {
        "image_tokens": config.mm_tokens_per_image,
        "image_token_id": config.image_token_index,
        "boi_token_id": config.boi_token_index,
        "eoi_token_id": config.eoi_token_index,
    }
    stops = stop_tokens(checkpoint, control_of(tokenizer))
    templates = checkpoint.chat_templates()
    own = _own_template(checkpoint, templates, sees=config.vision_config is not None) if templates else None
    return {
        "context": config.text_config.max_position_embeddings,
        "window": config.text_config.sliding_window,
        "hidden": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        **(image if config.vision_config else {}),
        "chat": bool(templates),
        "stop_token_ids": list(stops.values()),
        "stop_tokens": list(stops),
        **({"template": own.model_dump()} if own else {}),
    }


def _own_template(checkpoint: Checkpoint, templates: Mapping[Path, str], sees: bool) -> OwnTemplate | None:
    """A template that must be rendered by itself; None for Gemma's.

    Raises:
        CheckpointError: two files hold others, it cannot be rendered, or places no images where the model sees them.
    """
    variables, where = template_variables(checkpoint, NAMED_TOKENS), f"{checkpoint.root}: its chat template"
    (path, text), *others = templates.items()
    for other, differing in others:
        gemmas = (renders_gemmas_turns(one, variables, sees, where) for one in (text, differing))
        if not same_text(text, differing) and not all(gemmas):
            raise CheckpointError(
                f"{checkpoint.root}: two chat templates that differ: {path.name} and {other.name}",
                allowed="one",
                remedy="remove the one that the model was not trained with",
            )
    own = own_template(text, variables, sees, where)
    if own and sees and not own.parts:
        raise CheckpointError(
            f"{where}: places no {IMAGE} for an image, or takes no messages with images",
            remedy="take the template of the original model, or export the decoder alone as a model of text",
        )
    return own


# No system role, so its text stands before the first user's. Ollama puts <bos> and images in front; unlike Google's
# template, it does not trim messages.
_OLLAMA = (
    files("edgekit.families.gemma3").joinpath("chat_template.gotmpl").read_text(encoding="utf-8").removesuffix("\n")
)

_DECODER = Role(
    decoder_tensors,
    "logits",
    {
        "gguf": gguf_form.DECODER,
        "onnx": OnnxForm(
            graph.DECODER_GRAPHS,
            onnx_interfaces.decoder,
            onnx_constants.decoder,
            onnx_constants.decoder_layers,
            onnx_positions.DECODER,
        ),
    },
    shape=decoder_shape,
)
_TEXT_CHAT = Chat("decoder", None, ChatSettings, chat_format)

MEDGEMMA = Family(
    name="medgemma",
    architecture="Gemma3ForConditionalGeneration",
    model_type="gemma3",
    bases=("Gemma3Model",),
    roles={
        "decoder": _DECODER,
        "vision": Role(
            vision_part_tensors,
            "image_tokens",
            {
                "gguf": gguf_form.VISION,
                "onnx": OnnxForm(
                    vision_graph.GRAPHS,
                    onnx_interfaces.vision,
                    onnx_constants.vision,
                    image_layers,
                    output=vision_graph.OUTPUT,
                ),
            },
            input="pixels",
            shape=vision_part_shape,
        ),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing_of,
    settings=settings,
    numbers=numbers,
    made_files=generation_config,
    notes=notes,
    compositions=(Chat("decoder", "vision", ImageChatSettings, chat_format), _TEXT_CHAT),
    full_precision=full_precision.FULL_PRECISION,
    synthesis=SYNTHESIS,
    copies=dict.fromkeys(HEADS, EMBEDDING),
    tied=lambda config: config.tie_word_embeddings,
    ollama=_OLLAMA,
)

TEXT_ONLY = Family(
    name="medgemma-text",
    architecture="Gemma3ForCausalLM",
    model_type="gemma3_text",
    bases=("Gemma3TextModel",),
    roles={"decoder": _DECODER},
    parse=parse_text_only,
    canonical=canonical_text_only,
    preprocessing=preprocessing_of,
    settings=settings,
    numbers=numbers,
    made_files=generation_config,
    notes=notes,
    compositions=(_TEXT_CHAT,),
    full_precision=full_precision.TEXT_ONLY_FULL_PRECISION,
    synthesis=TEXT_ONLY_SYNTHESIS,
    copies={"lm_head.weight": EMBEDDING},
    tied=lambda config: config.tie_word_embeddings,
    elsewhere=("vision_tower.", "multi_modal_projector."),
    part_of=PartOf("medgemma", "text_config", frozenset({"decoder"})),
    ollama=_OLLAMA,
    unused_tokens=UNUSED_WITHOUT_VISION,
)
