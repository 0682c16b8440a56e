"""The text model of a checkpoint that sees images, as a checkpoint of its own: some converters read nothing else."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

_PREFIXES = ("language_model.model.", "model.language_model.")  # older and newer files
_COPIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "chat_template*")


def text_checkpoint(source: Path, target: Path) -> Path:
    """`source` where it is a text model itself; else its text model, written to `target`."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "text_config" not in config:
        return source
    target.mkdir(parents=True, exist_ok=True)
    text: dict[str, Any] = {**config["text_config"], "architectures": ["Gemma3ForCausalLM"]}
    for name in ("eos_token_id", "bos_token_id", "pad_token_id", "torch_dtype", "dtype", "transformers_version"):
        if name in config:
            text.setdefault(name, config[name])
    (target / "config.json").write_text(json.dumps(text), encoding="utf-8")
    for pattern in _COPIED:
        for path in source.glob(pattern):
            shutil.copy(path, target)
    _rewrite(source, target)
    return target


def _rewrite(source: Path, target: Path) -> None:
    torch_files = importlib.import_module("safetensors.torch")
    places: dict[str, str] = {}
    for path in sorted(source.glob("*.safetensors")):
        kept = {}
        for name, tensor in torch_files.load_file(path).items():
            prefix = next((one for one in _PREFIXES if name.startswith(one)), None)
            if prefix:
                kept["model." + name.removeprefix(prefix)] = tensor
        if kept:
            torch_files.save_file(kept, target / path.name, metadata={"format": "pt"})
            places |= dict.fromkeys(kept, path.name)
    index = {"metadata": {}, "weight_map": places}
    if len(set(places.values())) > 1:
        (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
