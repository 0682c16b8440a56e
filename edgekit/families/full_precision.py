"""What a family says of transformers' model of it, and of Hugging Face's processors: what exports are compared with.

transformers and torch are imported by the functions that need them, never by these modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edgekit.artifacts.files import copy
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Message
from edgekit.inputs.tokenizer_trial import ensure_tried
from edgekit.machine.temporary import temporary_folder


@dataclass(frozen=True)
class EncoderModules:
    """One encoder.

    Attributes:
        inputs: checkpoint, configuration, images (uint8 arrays) and texts -> what Hugging Face's processors make of
            those that it reads: pixels float32 [n, 3, size, size] or ids int64 [n, length].
        outputs: transformers' model and a tensor of such inputs -> all that it gives, tensors by transformers' names.
        output: the name of the one that models are composed of.
    """

    inputs: Callable[[Checkpoint, Any, Sequence[ImageLike], Sequence[str]], NDArray[Any]]
    outputs: Callable[[Any, Any], Mapping[str, Any]]
    output: str

    def forward(self, model: Any, batch: Any) -> Any:
        """The one output that models are composed of, as a tensor."""
        return self.outputs(model, batch)[self.output]


@dataclass(frozen=True)
class FullPrecision:
    """A family's model in transformers.

    Attributes:
        build: configuration -> the model; its weights need not be initialized.
        encoders: role -> encoder.
        processed: checkpoint, configuration and messages -> `input_ids` and `token_type_ids` (1 for an image's tokens)
            as lists, `pixel_values` float32 [n, 3, size, size] or None; None for a family that does not chat.
    """

    build: Callable[[Any], Any]
    encoders: Mapping[str, EncoderModules] = field(default_factory=dict)
    processed: Callable[[Checkpoint, Any, Sequence[Message]], dict[str, Any]] | None = None


def hub_tokenizer(checkpoint: Checkpoint) -> Any:
    """transformers' tokenizer from the tokenizer's files alone: it must not get to read config.json.

    Raises:
        CheckpointError: its tokenizer.json is not what it must be.
    """
    from transformers import AutoTokenizer

    if path := checkpoint.path("tokenizer.json"):
        ensure_tried(path, path.read_bytes())
    with temporary_folder("tokenizer") as folder:
        for name in checkpoint.files:
            if "token" in name or name == "spiece.model":
                copy(checkpoint.root / name, folder / name)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def rgb(image: ImageLike) -> PIL.Image.Image:
    """For processors, which convert to RGB only where their configuration says so; models take RGB."""
    assert isinstance(image, np.ndarray), "what is compared comes as arrays"
    return PIL.Image.fromarray(image).convert("RGB")
