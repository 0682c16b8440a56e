"""The proof's other side: what Hugging Face's own processors make of images and texts, and transformers of that.

Image processors are the Pillow-backed ones: edgekit leaves torchvision out, whose antialiased resize differs from
Pillow's by one grey level here and there, and by two at most.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.checkpoint import Checkpoint
from edgekit.errors import CheckpointError
from edgekit.inputs.prompt import Message
from edgekit.runtime.base import Float
from edgekit.runtime.torch_reference import torch

ImageArray = NDArray[np.uint8]


def processed(checkpoint: Checkpoint, config: Any, messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation through the checkpoint's chat template and Gemma3Processor.

    Returns:
        `input_ids` and `token_type_ids` as lists, `pixel_values` float32 [n, 3, size, size] or None.
    """
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    text = checkpoint.chat_template()
    if not text:
        raise CheckpointError(
            f"{checkpoint.root}: no chat template", allowed="chat_template.jinja, or one in tokenizer_config.json"
        )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil.from_pretrained(checkpoint.root, local_files_only=True),
        _tokenizer(checkpoint),
        image_seq_length=config.mm_tokens_per_image,
        chat_template=text,
    )
    conversation = [
        {"role": m.role, "content": [*({"type": "image"} for _ in m.images), {"type": "text", "text": m.text}]}
        for m in messages
    ]
    images = [_pil(image) for m in messages for image in m.images]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    made = processor(text=rendered, images=[images] if images else None, return_tensors="np", add_special_tokens=False)
    return {
        "input_ids": made["input_ids"][0].tolist(),
        "token_type_ids": made["token_type_ids"][0].tolist(),
        "pixel_values": np.asarray(made["pixel_values"], np.float32) if images else None,
    }


def logits(model: Any, inputs: Mapping[str, Any], want: Sequence[int]) -> Float:
    """transformers' logits [len(want), vocabulary] at these positions, from ids and pixels in one forward pass."""
    th = torch()
    pixels = inputs["pixel_values"]
    with th.inference_mode():
        output = model(
            input_ids=th.tensor([inputs["input_ids"]]),
            token_type_ids=th.tensor([inputs["token_type_ids"]]),
            pixel_values=None if pixels is None else th.from_numpy(pixels),
            logits_to_keep=th.tensor(list(want)),
            use_cache=False,
        )
    return np.asarray(output.logits[0].numpy(), np.float32)


def encoder_inputs(
    checkpoint: Checkpoint, config: Any, role: str, images: Sequence[ImageArray], texts: Sequence[str]
) -> NDArray[Any]:
    """Pixels float32 [n, 3, size, size] or ids int64 [n, length] as Hugging Face's processors make them."""
    if role == "text_encoder":
        tokenizer = _tokenizer(checkpoint)
        length = config.text_config.max_position_embeddings
        made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="np")
        return np.asarray(made["input_ids"], np.int64)
    if role == "vision":
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil as Processor
    else:
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil as Processor
    processor = Processor.from_pretrained(checkpoint.root, local_files_only=True)
    made = processor(
        images=[[_pil(image)] for image in images] if role == "vision" else [_pil(i) for i in images],
        return_tensors="np",
    )
    return np.asarray(made["pixel_values"], np.float32)


def encode(model: Any, role: str, batch: NDArray[Any]) -> Float:
    """transformers' output of one encoder for a batch from `encoder_inputs`, an item at a time."""
    th = torch()
    forward = _FORWARD[role]
    with th.inference_mode():
        rows = [forward(model, th.from_numpy(batch[i : i + 1]))[0].numpy() for i in range(len(batch))]
    return np.asarray(np.stack(rows), np.float32)


_FORWARD = {
    "vision": lambda model, x: model.get_image_features(pixel_values=x).pooler_output,
    "image_encoder": lambda model, x: model.get_image_features(pixel_values=x).pooler_output,
    "text_encoder": lambda model, x: model.get_text_features(input_ids=x).pooler_output,
}


def _tokenizer(checkpoint: Checkpoint) -> Any:
    """transformers' tokenizer from the tokenizer's files alone: it must not get to read config.json."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        for name in checkpoint.files:
            if "token" in name or name == "spiece.model":
                shutil.copyfile(checkpoint.root / name, Path(folder) / name)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _pil(image: ImageArray) -> Image.Image:
    """Processors convert to RGB only where their configuration says so; models take RGB."""
    return Image.fromarray(image).convert("RGB")
