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
import PIL.Image
from numpy.typing import NDArray

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.full_precision.model import torch
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Image, Message
from edgekit.runtime.base import Float

ImageArray = NDArray[np.uint8]


def processed(checkpoint: Checkpoint, config: Any, messages: Sequence[Message]) -> dict[str, Any]:
    """A conversation through the checkpoint's chat template, then through Gemma 3's processor or, for text alone,
    through its tokenizer. A base model has no template: it reads <bos>, the images and one text as it is.

    Returns:
        `input_ids` and `token_type_ids` (1 for an image's tokens) as lists, `pixel_values` float32
        [n, 3, size, size] or None.
    """
    template, tokenizer = checkpoint.chat_template(), _tokenizer(checkpoint)
    sees = config.vision_config is not None
    images = [_pil(image) for m in messages for image in m.images]
    if template is None:
        rendered = "".join("<start_of_image>" if isinstance(p, Image) else p for m in messages for p in m.parts)
    else:
        rendered = tokenizer.apply_chat_template(
            [_turn(message, sees) for message in messages],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
    added = template is None  # a template writes <bos> itself
    if not sees:
        ids = list(tokenizer(rendered, add_special_tokens=added)["input_ids"])
        return {"input_ids": ids, "token_type_ids": [0] * len(ids), "pixel_values": None}
    processor = _processor(checkpoint, tokenizer, config)
    made = processor(text=rendered, images=[images] if images else None, return_tensors="np", add_special_tokens=added)
    return {
        "input_ids": made["input_ids"][0].tolist(),
        "token_type_ids": made["token_type_ids"][0].tolist(),
        "pixel_values": np.asarray(made["pixel_values"], np.float32) if images else None,
    }


def _turn(message: Message, sees: bool) -> dict[str, Any]:
    """A message as templates take it: a list of items, or a plain text for those that may know nothing else."""
    if not sees and len(message.parts) == 1:
        return {"role": message.role, "content": message.text}
    content = [{"type": "image"} if isinstance(p, Image) else {"type": "text", "text": p} for p in message.parts]
    return {"role": message.role, "content": content}


def _processor(checkpoint: Checkpoint, tokenizer: Any, config: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    return Gemma3Processor(
        Gemma3ImageProcessorPil.from_pretrained(checkpoint.root, local_files_only=True),
        tokenizer,
        image_seq_length=config.mm_tokens_per_image,
    )


def hidden_states(
    model: Any, prompts: Sequence[Mapping[str, Any]], want: Sequence[Sequence[int]], embedded: Float | None
) -> Float:
    """transformers' final hidden states [sum of the wanted, hidden] of all prompts at these positions, in one pass.

    Prompts are filled up on the right: a causal mask hides what follows, and an image's tokens see only their own.

    Args:
        prompts: from `processed`.
        embedded: the prompts' images as token embeddings [n, tokens, hidden], in order; None where there are none.
    """
    th = torch()
    length = max(len(prompt["input_ids"]) for prompt in prompts)
    ids, kinds = th.zeros((len(prompts), length), dtype=th.long), th.zeros((len(prompts), length), dtype=th.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt["input_ids"])] = th.tensor(prompt["input_ids"])
        kinds[row, : len(prompt["input_ids"])] = th.tensor(prompt["token_type_ids"])
    with th.inference_mode():
        inputs = model.get_input_embeddings()(ids.where(kinds == 0, 0))  # an image's id may lie beyond the table
        if embedded is None:
            images = {}
        else:
            inputs[kinds == 1] = th.from_numpy(embedded).flatten(0, 1)
            images = {"token_type_ids": kinds}
        hidden = model.model(inputs_embeds=inputs, use_cache=False, **images).last_hidden_state
    return np.concatenate([hidden[row, list(positions)].numpy() for row, positions in enumerate(want)])


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
    """transformers' output of one encoder for a batch from `encoder_inputs`, in one pass.

    Attention is torch's fused one: 4,096 patches of several images never make a square matrix.
    """
    th = torch()
    with th.inference_mode():
        return np.asarray(_FORWARD[role](model, th.from_numpy(batch)).numpy(), np.float32)


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


def _pil(image: ImageLike) -> PIL.Image.Image:
    """Processors convert to RGB only where their configuration says so; models take RGB."""
    assert isinstance(image, np.ndarray), "what is compared comes as arrays"
    return PIL.Image.fromarray(image).convert("RGB")
