"""Full precision: transformers' own modules in float32, holding the checkpoint's weights or a level's version of them.

Nothing of a checkpoint but its tensors and validated numbers reaches transformers: models are built from edgekit's
parsed configuration, never from config.json, which could name code (CVE-2026-4372).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import CheckpointError, MissingDependencyError
from edgekit.families.composition import checked_settings, reads_text
from edgekit.families.source import Source, open_source
from edgekit.inputs import image as images_
from edgekit.inputs.text import load_tokenizer
from edgekit.runtime.base import (
    Decoder,
    Embeddings,
    Encoder,
    EncoderSpec,
    Float,
    Model,
    Segment,
)
from edgekit.runtime.compose import compose
from edgekit.runtime.owned_parts import OwnedDecoder, OwnedEncoder

Transform = Callable[[str, NDArray[np.float32]], NDArray[np.float32]]


def torch() -> Any:
    """torch, or how to install it."""
    try:
        import torch as module
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            f"full precision needs {error.name}", remedy="pip install 'edgekit[export]'"
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
    model, checkpoint, stored = build(source), source.checkpoint, source.stored
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


def build(source: Source) -> Any:
    """transformers' model of a checkpoint's configuration, its weights not initialized."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        model = source.family.full_precision.build(source.config)
    model.tie_weights()  # what initialization would have done
    return model


class TorchDecoder(OwnedDecoder):
    """A language model of transformers' with its own masks and cache: `edgekit.runtime.base.Decoder`.

    Attributes:
        model: transformers' own.
    """

    def __init__(self, model: Any, context: int, vocabulary: int) -> None:
        self._torch, self.model = torch(), model
        self.context, self.vocabulary = context, vocabulary
        self.hidden = int(model.get_input_embeddings().weight.shape[1])
        self._cache: Any = None

    def _clear(self) -> None:
        self._cache = None

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int]) -> Iterator[Float]:
        th, embed = self._torch, self.model.get_input_embeddings()
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
            output = self.model.model(inputs_embeds=th.cat(parts)[None], use_cache=True, **images)
        self._cache, self.position = output.past_key_values, sum(map(len, segments))
        hidden = output.last_hidden_state[0]
        return (self._head(hidden[i]) for i in wanted)

    def _step(self, ids: Sequence[int]) -> Float:
        th = self._torch
        with th.inference_mode():
            output = self.model.model(input_ids=th.tensor([list(ids)]), past_key_values=self._cache, use_cache=True)
        self.position += len(ids)
        return self._head(output.last_hidden_state[0, -1])

    def _head(self, hidden: Any) -> Float:
        with self._torch.inference_mode():
            return np.asarray(self.model.lm_head(hidden).numpy(), np.float32)

    def _free(self) -> None:
        self.model = self._cache = None


class TorchEncoder(OwnedEncoder):
    """One encoder of a transformers model: `edgekit.runtime.base.Encoder`."""

    def __init__(self, spec: EncoderSpec, forward: Callable[[Any], Any], preprocessing: Preprocessing | None) -> None:
        self._torch, self.spec = torch(), spec
        self._forward: Callable[[Any], Any] | None = forward
        self._preprocessing = preprocessing

    def _encode(self, batch: NDArray[Any]) -> Float:
        assert self._forward is not None, "checked before"
        data = images_.normalize(batch, self._preprocessing) if self._preprocessing else batch
        with self._torch.inference_mode():
            return np.asarray(self._forward(self._torch.from_numpy(data)).numpy(), np.float32)

    def _free(self) -> None:
        self._forward = None


@dataclass(frozen=True)
class TorchParts:
    """The parts of a loaded transformers model: `edgekit.runtime.compose.Parts`."""

    model: Any
    source: Source

    def decoder(self, role: str) -> Decoder:
        """See `edgekit.runtime.compose.Parts.decoder`."""
        return TorchDecoder(self.model, self.source.settings["context"], self.source.settings["vocabulary"])

    def encoder(self, role: str, beside: Decoder | None = None) -> Encoder:
        """See `edgekit.runtime.compose.Parts.encoder`."""
        stated = self.source.family.roles[role]
        assert stated.output != "logits", "only encoders are asked for as such"
        if stated.input == "ids":
            spec, preprocessing = EncoderSpec("ids", stated.output, (self.source.settings["text_length"],)), None
        else:
            preprocessing = self.source.preprocessing
            assert preprocessing is not None, "an encoder of images has a preprocessing"
            spec = EncoderSpec("pixels", stated.output, (preprocessing.size, preprocessing.size, 3))
        forward = self.source.family.full_precision.encoders[role].forward
        return TorchEncoder(spec, partial(forward, self.model), preprocessing)


def compose_full_precision(model: Any, source: Source, title: str) -> Model:
    """A `Model` over a loaded transformers model, of all parts of its family."""
    whole = max(source.family.compositions, key=lambda composition: len(composition.roles))
    tokenizer = load_tokenizer(source.checkpoint.root / "tokenizer.json") if reads_text(whole) else None
    settings = checked_settings(whole.settings, source.settings, str(source.checkpoint.root), CheckpointError)
    composed = compose(whole, settings, tokenizer, source.preprocessing, TorchParts(model, source))
    composed.title = title
    return composed


def open_full_precision(folder: Path) -> Model:
    """The full-precision model of a checkpoint folder.

    Raises:
        CheckpointError: the folder is no checkpoint of a known family.
    """
    source = open_source(folder)
    source.check_tensors()
    return compose_full_precision(load(source), source, f"{folder.name}, float32 reference")
