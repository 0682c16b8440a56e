"""The reference: transformers' own modules in float32, holding the checkpoint's weights or a level's version of them.

Nothing of a checkpoint but its tensors and validated numbers reaches transformers: models are built from edgekit's
parsed configuration, never from config.json, which could name code (CVE-2026-4372).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import CheckpointError, InputError, MissingDependencyError
from edgekit.families import Family
from edgekit.families.source import Source, open_source
from edgekit.inputs import image as images_
from edgekit.inputs.prompt import load_tokenizer
from edgekit.runtime.base import Embeddings, EncoderSpec, Float, Model, Segment
from edgekit.runtime.compose import ChatModel, ChatSettings, ContrastiveModel

Transform = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


def torch() -> Any:
    """torch, or how to install it."""
    try:
        import torch as module
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"the reference needs {error.name}", remedy="pip install 'edgekit[export]'"
        ) from error
    transformers.logging.set_verbosity_error()  # it warns of defaults that nothing here uses
    return module


def load(source: Source, transform: Transform | None = None) -> Any:
    """transformers' model in float32.

    Args:
        transform: canonical tensor name and weights -> the weights to use; None for the original ones.

    Raises:
        CheckpointError: a tensor of the model is not in the checkpoint.
    """
    th = torch()
    model, checkpoint, stored = build(source.family, source.config), source.checkpoint, source.stored
    seen = set()
    with th.no_grad():
        for name, parameter in model.named_parameters():
            canonical = source.family.canonical(name)
            if canonical is None:
                continue
            if canonical not in stored:
                raise CheckpointError(f"{checkpoint.root}: tensor {canonical} is missing")
            weights = checkpoint.read(stored[canonical])
            if transform:
                weights = transform(canonical, weights)
            parameter.copy_(th.from_numpy(np.ascontiguousarray(weights)).reshape(parameter.shape))
            seen.add(canonical)
    if missing := set(stored) - seen:
        raise CheckpointError(f"{checkpoint.root}: transformers has no place for {sorted(missing)[0]}")
    return model.eval()


def build(family: Family, config: Any) -> Any:
    """transformers' model of this configuration, its weights not initialized."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = _BUILDERS[family.name](config)
    model.tie_weights()  # what initialization would have done
    return model


def _gemma_text_fields(text: Any) -> dict[str, Any]:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": text.rope_factor, "rope_theta": text.rope_theta},
        "sliding_attention": {"rope_type": "default", "rope_theta": text.rope_local_base_freq},
    }
    if text.rope_factor == 1.0:
        rope["full_attention"] = {"rope_type": "default", "rope_theta": text.rope_theta}
    fields = text.model_dump(exclude={"rope_theta", "rope_local_base_freq", "rope_factor"})
    return {**fields, "rope_parameters": rope}


def _build_medgemma(config: Any) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=_gemma_text_fields(config.text_config),
            vision_config={**config.vision_config.model_dump(), "vision_use_head": False},
            mm_tokens_per_image=config.mm_tokens_per_image,
            image_token_index=config.image_token_index,
            boi_token_index=config.boi_token_index,
            eoi_token_index=config.eoi_token_index,
        )
    )


def _build_medgemma_text(config: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**_gemma_text_fields(config.text_config)))


def _build_medsiglip(config: Any) -> Any:
    from transformers import SiglipConfig, SiglipModel

    # SigLIP's own defaults for these ids lie beyond a small vocabulary, and nothing uses them.
    text = {**config.text_config.model_dump(exclude={"pad_id"}), "bos_token_id": None, "eos_token_id": None}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=config.vision_config.model_dump()))


_BUILDERS = {"medgemma": _build_medgemma, "medgemma-text": _build_medgemma_text, "medsiglip": _build_medsiglip}


class TorchDecoder:
    """Gemma 3's language model with transformers' own masks and cache: `edgekit.runtime.base.Decoder`."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self._torch, self._model = torch(), model
        self.context, self.vocabulary = settings["context"], settings["vocabulary"]
        self._cache: Any = None
        self._position = 0

    def prefill(self, segments: Sequence[Segment], want: Sequence[int] | None = None) -> Iterator[Float]:
        """See `edgekit.runtime.base.Decoder.prefill`."""
        th = self._torch
        total = sum(map(len, segments))
        if not 0 < total <= self.context:
            raise InputError(f"a prompt of {total} tokens", allowed=f"1 to {self.context}, this model's context")
        embed = self._model.get_input_embeddings()
        with th.inference_mode():
            parts, kinds = [], []
            for segment in segments:
                if isinstance(segment, Embeddings):
                    parts.append(th.from_numpy(segment.array))
                    kinds += [int(segment.bidirectional)] * len(segment)
                else:
                    parts.append(embed(th.tensor(segment.ids)))
                    kinds += [0] * len(segment)
            images = {"token_type_ids": th.tensor([kinds])} if any(kinds) else {}  # unknown to a model of text alone
            output = self._model.model(inputs_embeds=th.cat(parts)[None], use_cache=True, **images)
        self._cache, self._position = output.past_key_values, total
        hidden = output.last_hidden_state[0]
        return (self._head(hidden[i]) for i in ([total - 1] if want is None else want))

    def step(self, ids: Sequence[int]) -> Float:
        """See `edgekit.runtime.base.Decoder.step`."""
        th = self._torch
        if self._position + len(ids) > self.context:
            raise InputError(f"the context of {self.context} tokens is full")
        with th.inference_mode():
            output = self._model.model(input_ids=th.tensor([list(ids)]), past_key_values=self._cache, use_cache=True)
        self._position += len(ids)
        return self._head(output.last_hidden_state[0, -1])

    def _head(self, hidden: Any) -> Float:
        with self._torch.inference_mode():
            return np.asarray(self._model.lm_head(hidden).numpy(), np.float32)

    def close(self) -> None:
        """Drop the cache."""
        self._cache = None


class TorchEncoder:
    """One encoder of a transformers model: `edgekit.runtime.base.Encoder`."""

    def __init__(self, spec: EncoderSpec, forward: Callable[[Any], Any], preprocessing: Preprocessing | None) -> None:
        self._torch, self.spec = torch(), spec
        self._forward, self._preprocessing = forward, preprocessing

    def encode(self, batch: NDArray[Any]) -> Float:
        """See `edgekit.runtime.base.Encoder.encode`."""
        data = images_.normalize(batch, self._preprocessing) if self._preprocessing else batch
        with self._torch.inference_mode():
            return np.asarray(self._forward(self._torch.from_numpy(data)).numpy(), np.float32)

    def close(self) -> None:
        """Nothing to free."""


def compose(model: Any, source: Source, title: str) -> Model:
    """A `Model` over a loaded transformers model."""
    preprocessing, settings = source.preprocessing, source.settings
    tokenizer = load_tokenizer(source.checkpoint.root / "tokenizer.json")
    pixels = (preprocessing.size, preprocessing.size, 3) if preprocessing else ()
    if "decoder" in source.family.roles:
        vision = None
        if preprocessing:
            spec = EncoderSpec("pixels", "image_tokens", pixels)
            vision = TorchEncoder(spec, lambda x: model.model.get_image_features(x).pooler_output, preprocessing)
        return ChatModel(
            TorchDecoder(model, settings), vision, tokenizer, preprocessing, ChatSettings.of(settings), title=title
        )
    assert preprocessing is not None
    image, text = EncoderSpec("pixels", "pooled", pixels), EncoderSpec("ids", "pooled", (settings["text_length"],))
    return ContrastiveModel(
        TorchEncoder(image, lambda x: model.vision_model(pixel_values=x).pooler_output, preprocessing),
        TorchEncoder(text, lambda x: model.text_model(input_ids=x).pooler_output, None),
        tokenizer,
        preprocessing,
        settings,
        title=title,
    )


def open_reference(source: Path) -> Model:
    """The full-precision model of a checkpoint folder.

    Raises:
        CheckpointError: the folder is no checkpoint of a known family.
    """
    original = open_source(source)
    original.check_tensors()
    return compose(load(original), original, f"{source.name}, float32 reference")
