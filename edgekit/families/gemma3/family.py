"""MedGemma: Gemma 3's decoder behind a SigLIP vision tower and a pooling projector, and the decoder alone."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from edgekit.artifacts.recipes import PartOf
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.families.base import Config, Family, OllamaDialect, Role, TokenId, validate
from edgekit.families.composition import Chat, ChatSettings, ImageChatSettings
from edgekit.families.gemma3 import full_precision, gguf_form, graph, vision_graph
from edgekit.families.gemma3.chat import GemmaChat
from edgekit.families.gemma3.config import UNUSED_WITHOUT_VISION, MedGemmaConfig, parse, parse_text_only
from edgekit.families.gemma3.preprocessing import preprocessing_of
from edgekit.families.gemma3.synthesis import SYNTHESIS, TEXT_ONLY_SYNTHESIS
from edgekit.families.gemma3.tensors import (
    EMBEDDING,
    HEADS,
    canonical,
    canonical_text_only,
    decoder_tensors,
    vision_part_tensors,
)
from edgekit.formats.onnx.form import OnnxForm


class _Generation(Config):
    """generation_config.json."""

    eos_token_id: TokenId | list[TokenId] | None = None


def settings(checkpoint: Checkpoint, config: MedGemmaConfig) -> dict[str, Any]:
    """Token ids, context and image length: what `edgekit.inputs.prompt` needs to build segments."""
    generation = validate(_Generation, checkpoint.json("generation_config.json"), "generation_config.json")
    chat = checkpoint.chat_template() is not None
    eos = config.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
    if eos is None:  # <eos>, and where turns have an end, that
        eos = [1, 106] if chat else [1]
    image = {
        "image_tokens": config.mm_tokens_per_image,
        "image_token_id": config.image_token_index,
        "boi_token_id": config.boi_token_index,
        "eoi_token_id": config.eoi_token_index,
    }
    return {
        "context": config.text_config.max_position_embeddings,
        "window": config.text_config.sliding_window,
        "hidden": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        **(image if config.vision_config else {}),
        "chat": chat,
        "stop_token_ids": sorted([eos] if isinstance(eos, int) else eos),
    }


# No system role, so its text stands before the first user's. Ollama puts <bos> and images in front; unlike Google's
# template, it does not trim messages.
_OLLAMA = OllamaDialect(
    files("edgekit.families.gemma3").joinpath("chat_template.gotmpl").read_text(encoding="utf-8").removesuffix("\n"),
    stop="<end_of_turn>",
)

_DECODER = Role(decoder_tensors, "logits", {"gguf": gguf_form.DECODER, "onnx": OnnxForm(graph.DECODER_GRAPHS)})
_TEXT_CHAT = Chat("decoder", None, ChatSettings, GemmaChat)

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
            {"gguf": gguf_form.VISION, "onnx": OnnxForm(vision_graph.GRAPHS, vision_graph.OUTPUT)},
            input="pixels",
        ),
    },
    parse=parse,
    canonical=canonical,
    preprocessing=preprocessing_of,
    settings=settings,
    compositions=(Chat("decoder", "vision", ImageChatSettings, GemmaChat), _TEXT_CHAT),
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
