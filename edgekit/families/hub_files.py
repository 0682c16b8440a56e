"""The small files of a stand-in, as the hub has them for its model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.artifacts.recipes import Recipe
from edgekit.families.gemma3.tokenizer_files import chat_template, write_json
from edgekit.reference_models.training.architecture import image_processor

_GENERATION = {
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "do_sample": True,
    "eos_token_id": [1, 106],
    "pad_token_id": 0,
    "top_k": 64,
    "top_p": 0.95,
    "transformers_version": "4.52.3",
}


def write(folder: Path, chosen: Recipe, raw: Mapping[str, Any]) -> None:
    """config.json, and what the model's kind has beside it."""
    write_json(folder / "config.json", raw)
    if chosen.family == "medsiglip":
        size = raw["vision_config"]["image_size"]
        processor = {**image_processor(size, 3, "SiglipImageProcessor"), "processor_class": "SiglipProcessor"}
        write_json(folder / "preprocessor_config.json", processor)
        return
    write_json(folder / "generation_config.json", {**_GENERATION, **chosen.generation})
    (folder / "chat_template.jinja").write_text(chat_template(), encoding="utf-8")
    if "vision_config" in raw:
        length = raw["mm_tokens_per_image"]
        write_json(folder / "preprocessor_config.json", _gemma_preprocessor(raw["vision_config"]["image_size"], length))
        processor = {"image_seq_length": length, "processor_class": "Gemma3Processor"}
        write_json(folder / "processor_config.json", processor)


def _gemma_preprocessor(size: int, length: int) -> dict[str, Any]:
    return {
        **image_processor(size, 2, "Gemma3ImageProcessor"),
        "do_convert_rgb": None,
        "do_pan_and_scan": None,
        "image_seq_length": length,
        "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None,
        "pan_and_scan_min_ratio_to_activate": None,
        "processor_class": "Gemma3Processor",
    }


def embedding_rows(raw: Mapping[str, Any]) -> int:
    """Rows of the token embedding."""
    return int(raw.get("text_config", raw)["vocab_size"])
