"""What an architecture states about its random-weight checkpoints: how they are filled, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.checkpoints.random_weights import FillingOf, GeneratorFor


@dataclass(frozen=True)
class Synthesis:
    """How a checkpoint of random weights is made; `config` below is the architecture's validated configuration.

    Attributes:
        fillings: (config, generators by name) -> what fills each tensor.
        write_files: (folder, config, what the recipe adds to generation_config.json) writes the small files beside
            config.json, the tokenizer's excepted.
        write_tokenizer: (folder, config) writes a generated tokenizer of the model's size.
        layers: the dotted key of config.json that counts the layers of the decoder, or of the text tower.
        vision_layers: the same of the vision tower, None where there is none.
        stored_name: from the hub's layout to the name that files of this architecture have; the same by default.
    """

    fillings: Callable[[Any, GeneratorFor], FillingOf]
    write_files: Callable[[Path, Any, Mapping[str, Any]], None]
    write_tokenizer: Callable[[Path, Any], None]
    layers: str = "text_config.num_hidden_layers"
    vision_layers: str | None = "vision_config.num_hidden_layers"
    stored_name: Callable[[str], str] = str
