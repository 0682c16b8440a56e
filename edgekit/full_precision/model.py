"""Full precision: transformers' own modules in float32, holding the checkpoint's weights or a level's version of them.

transformers reads config.json itself, so that the model is what it would load, not what edgekit takes it for; a family
has accepted the file before, and what could name code is left out (CVE-2026-4372).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import CheckpointError, MissingDependencyError
from edgekit.families.composition import checked_settings
from edgekit.families.full_precision import hub_config, refused_by_transformers
from edgekit.families.source import Source
from edgekit.inputs import image as images_
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
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"full precision needs {error.name}", remedy="pip install 'edgekit[export]'"
        ) from error
    except ImportError as error:  # it is there; a library of it is damaged, or no memory is left to map it
        raise MissingDependencyError(
            f"full precision needs torch, which does not load: {error}",
            remedy="more memory (ulimit -v), or pip install --force-reinstall torch==2.13.0",
        ) from error
    transformers.logging.set_verbosity_error()  # it warns of defaults that nothing here uses
    transformers.logging.disable_progress_bar()
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
    loaded: dict[str, Any] = {}
    for path, module in model.named_modules():
        for leaf, empty in list(module.named_parameters(recurse=False)):
            name = f"{path}.{leaf}" if path else leaf
            canonical = source.family.canonical(name) or source.family.copies.get(name)
            if canonical is None:
                continue
            if canonical not in stored:
                raise CheckpointError(f"{checkpoint.root}: tensor {canonical} is missing")
            if canonical not in loaded:
                weights = checkpoint.read(stored[canonical])
                if transform:
                    weights = transform(canonical, weights)
                values = th.from_numpy(np.ascontiguousarray(weights, np.float32)).reshape(empty.shape)
                loaded[canonical] = th.nn.Parameter(values, requires_grad=False)
            setattr(module, leaf, loaded[canonical])
    if missing := set(stored) - set(loaded):
        raise CheckpointError(f"{checkpoint.root}: transformers has no place for {sorted(missing)[0]}")
    return model.eval()


@dataclass(frozen=True, eq=False)
class Skeleton:
    """transformers' model of a checkpoint without its weights, float32, as `from_pretrained` makes it.

    Attributes:
        model: its parameters have their shapes and take no memory; buffers that it computes are real.
        origins: parameter -> the stored tensor that transformers fills it from; tied ones have the same.
        faults: what transformers says of names and shapes: "missing", "unexpected" or "of another shape", and names.
    """

    model: Any
    origins: Mapping[str, str]
    faults: Mapping[str, tuple[str, ...]]


def skeleton(source: Source) -> Skeleton:
    """Let `from_pretrained` load stand-ins of the stored tensors: numbers that lie all in one place.

    Which tensor goes where is transformers' own doing: its renaming of old layouts, and its tying of weights.

    Raises:
        CheckpointError: transformers refuses the configuration.
    """
    th = torch()
    import transformers
    from transformers.initialization import no_init_weights

    full_precision, checkpoint = source.family.full_precision, source.checkpoint
    config = hub_config(checkpoint, full_precision)
    stand_ins = {name: th.zeros(()).expand(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    names = {stand_in.data_ptr(): name for name, stand_in in stand_ins.items()}
    with no_init_weights(), refused_by_transformers(checkpoint):
        model, said = getattr(transformers, full_precision.architecture).from_pretrained(
            None,
            config=config,
            state_dict=stand_ins,
            dtype=th.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    parameters = model.named_parameters(remove_duplicate=False)
    origins = {name: names[place] for name, held in parameters if (place := held.data_ptr()) in names}
    faults = {
        "missing": tuple(sorted(said["missing_keys"])),
        "unexpected": tuple(sorted(said["unexpected_keys"])),
        "of another shape": tuple(sorted(name for name, *_ in said["mismatched_keys"])),
    }
    return Skeleton(model, origins, faults)


def build(source: Source) -> Any:
    """transformers' model of a checkpoint, its parameters on the meta device: what is not filled cannot be used.

    Raises:
        CheckpointError: transformers refuses the configuration.
    """
    th = torch()
    model = skeleton(source).model
    held = [(module, leaf, p) for module in model.modules() for leaf, p in module.named_parameters(recurse=False)]
    empty = {id(p): th.nn.Parameter(th.empty_like(p, device="meta"), requires_grad=False) for *_, p in held}
    for module, leaf, parameter in held:
        setattr(module, leaf, empty[id(parameter)])
    return model


class TorchDecoder(OwnedDecoder):
    """A language model of transformers' with its own masks and cache: `edgekit.runtime.base.Decoder`.

    Attributes:
        model: transformers' own.
    """

    def __init__(self, model: Any, context: int, vocabulary: int) -> None:
        self._torch, self.model = torch(), model
        self.context, self.vocabulary = context, vocabulary
        table = model.get_input_embeddings().weight
        self.hidden, self._dtype = int(table.shape[1]), table.dtype
        self._cache: Any = None

    def _clear(self, sequence: int) -> None:
        self._cache = None

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        th, embed = self._torch, self.model.get_input_embeddings()
        with th.inference_mode():
            parts, kinds = [], []
            for segment in segments:
                if isinstance(segment, Embeddings):
                    parts.append(th.from_numpy(segment.array).to(self._dtype))
                    kinds += [int(segment.bidirectional)] * len(segment)
                else:
                    parts.append(embed(th.tensor(segment.ids)))
                    kinds += [0] * len(segment)
            images = {"token_type_ids": th.tensor([kinds])} if any(kinds) else {}  # unknown to a model of text alone
            output = self.model.model(inputs_embeds=th.cat(parts)[None], use_cache=True, **images)
        self._cache, self._lengths[sequence] = output.past_key_values, sum(map(len, segments))
        hidden = output.last_hidden_state[0]
        return (self._head(hidden[i]) for i in wanted)

    def _step(self, ids: Sequence[int], sequence: int) -> Float:
        th = self._torch
        with th.inference_mode():
            output = self.model.model(input_ids=th.tensor([list(ids)]), past_key_values=self._cache, use_cache=True)
        self._lengths[sequence] = self.length(sequence) + len(ids)
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
            return np.asarray(self._forward(self._torch.from_numpy(data)).float().numpy(), np.float32)

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


def compose_full_precision(parts: TorchParts, title: str) -> Model:
    """A `Model` over a transformers model, of all parts of its family."""
    source = parts.source
    whole = max(source.family.compositions, key=lambda composition: len(composition.roles))
    tokenizer = source.tokenizer().tokenizer if source.family.reads_text else None
    settings = checked_settings(whole.settings, source.settings, str(source.checkpoint.root), CheckpointError)
    composed = compose(whole, settings, tokenizer, source.preprocessing, parts)
    composed.title = title
    return composed
