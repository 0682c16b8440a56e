"""transformers' own reading of a checkpoint, and whether edgekit's is the same.

A reference that is built from edgekit's own parsing repeats its mistakes. So configuration, choice of files, tensor
names, preprocessing, vocabulary and all that a manifest's settings say are read by transformers too, without a weight,
and compared before anything is written. Weights are read by safetensors' own library where files are audited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensors import Tensor
from edgekit.errors import CheckpointError
from edgekit.families.full_precision import hub_eos, hub_image_processor, hub_processor, hub_tokenizer
from edgekit.families.source import Source
from edgekit.full_precision.model import Skeleton, skeleton
from edgekit.full_precision.tokenization import tokenization
from edgekit.runtime.base import Float

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's codes
_RESCALE = 1 / 255
_TOGETHER = 1 << 22  # numbers of two tensors at a time
_ROUNDING = 1e-9  # relative, between decimal spellings of one number


@dataclass(frozen=True)
class OriginalTensor:
    """A parameter of transformers' model.

    Attributes:
        shape: of the parameter.
        dtype: "F32", "BF16"..., as the checkpoint stores it.
        stored: the stored tensor that `from_pretrained` fills it from.
    """

    shape: tuple[int, ...]
    dtype: str
    stored: str


@dataclass(frozen=True, eq=False)
class Original:
    """What transformers itself makes of a checkpoint folder.

    Attributes:
        config: its configuration object.
        tensors: name of a parameter -> what `from_pretrained` fills it from; tied parameters have one stored tensor.
        faults: see `Skeleton`.
        tokenizer: its own; None for a model that reads no text.
        processor: its own, of images and texts; None for a model of one of them alone.
        image_processor: its own, the one that Pillow is behind; None for a model of text alone.
        eos_token_ids: tokens at which its `generate` stops.
        rows: of a stored tensor by the name in its file, the rows from one number to another, float32, by safetensors.
    """

    config: Any
    tensors: Mapping[str, OriginalTensor]
    faults: Mapping[str, tuple[str, ...]]
    tokenizer: Any
    processor: Any
    image_processor: Any
    eos_token_ids: tuple[int, ...]
    rows: Callable[[str, int, int], Float]

    @property
    def chats(self) -> bool:
        """Whether it has a chat template."""
        return any(getattr(one, "chat_template", None) for one in (self.tokenizer, self.processor))


def read_original(source: Source) -> Original:
    """Let transformers read a checkpoint folder, all but its weights.

    Raises:
        CheckpointError: it refuses the folder.
    """
    checkpoint = source.checkpoint
    made: Skeleton = skeleton(source)
    reads, sees = source.family.reads_text, source.preprocessing is not None
    processor = hub_processor(checkpoint) if reads and sees else None
    alone = hub_image_processor(checkpoint) if sees and not reads else None
    parameters = dict(made.model.named_parameters(remove_duplicate=False))
    tensors = {
        name: OriginalTensor(tuple(parameters[name].shape), checkpoint.tensors[stored].dtype, stored)
        for name, stored in made.origins.items()
    }
    return Original(
        made.model.config,
        tensors,
        made.faults,
        processor.tokenizer if processor else hub_tokenizer(checkpoint) if reads else None,
        processor,
        processor.image_processor if processor else alone,
        hub_eos(checkpoint, made.model.config),
        _rows(checkpoint),
    )


def _rows(checkpoint: Checkpoint) -> Callable[[str, int, int], Float]:
    from safetensors import safe_open

    shards = {}
    for shard in checkpoint.shards:
        with safe_open(shard, framework="pt") as file:
            shards.update(dict.fromkeys(file.keys(), shard))

    def rows(name: str, first: int, last: int) -> Float:
        with safe_open(shards[name], framework="pt") as file:  # anew, so that no page stays mapped
            return np.asarray(file.get_slice(name)[first:last].float().numpy(), np.float32)

    return rows


def check_reading(source: Source, original: Original) -> None:
    """Compare edgekit's reading of a checkpoint with transformers'.

    Raises:
        CheckpointError: they differ in something that changes the model; the message names it and both values.
    """
    _check_files(source)
    _check_tensors(source, original)
    for file, key, ours, theirs in _values(source, original):
        if not _same(ours, theirs):
            raise CheckpointError(
                f"{source.checkpoint.root}/{file}: reading: {key} is {ours!r:.200} to edgekit, {theirs!r:.200} to "
                "transformers",
                remedy="state it once, as transformers writes it",
            )


def _check_files(source: Source) -> None:
    """transformers reads a single file before an index, whatever else lies there."""
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

    checkpoint = source.checkpoint
    read = [shard.name for shard in checkpoint.shards]
    first = next(name for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME) if (checkpoint.root / name).is_file())
    if first == SAFE_WEIGHTS_NAME and read != [SAFE_WEIGHTS_NAME]:
        raise CheckpointError(
            f"{checkpoint.root}: reading: edgekit reads {', '.join(read[:3])}, transformers {SAFE_WEIGHTS_NAME}",
            allowed="weights in one file, or in shards with an index",
            remedy="remove those that are left over",
        )


def _check_tensors(source: Source, original: Original) -> None:
    """Each parameter is filled from the stored tensor that edgekit takes for it, and none is left over."""
    root, family = source.checkpoint.root, source.family

    def meant(name: str) -> str | None:
        return family.canonical(name) or family.copies.get(name)

    for fault, found in original.faults.items():
        names = [name for name in found if fault != "unexpected" or meant(name) in source.stored]
        if names:
            raise CheckpointError(
                f"{root}: reading: to transformers, {len(names)} tensors are {fault}: {', '.join(names[:3])}",
                allowed="the names and shapes that transformers writes",
            )

    for name, tensor in original.tensors.items():
        canonical, stored = meant(name), source.checkpoint.tensors[tensor.stored]
        if canonical is None or canonical != meant(tensor.stored):
            raise CheckpointError(
                f"{root}: reading: transformers loads {tensor.stored} as {name}, edgekit as {meant(tensor.stored)}"
            )
        if not _repeats(original, stored, source.stored[canonical]):
            raise CheckpointError(
                f"{root}: reading: transformers loads {stored.name} as {name}, edgekit {source.stored[canonical].name}"
            )
    loaded = {meant(tensor.stored) for tensor in original.tensors.values()}
    if unread := sorted(set(source.stored) - loaded):
        raise CheckpointError(f"{root}: reading: edgekit reads {unread[0]}, transformers does not")


def _repeats(original: Original, one: Tensor, other: Tensor) -> bool:
    """Whether a stored tensor is another, or says the same: a tied head may be stored twice."""
    if one is other or one.shape != other.shape:
        return one is other
    step = max(1, _TOGETHER * one.shape[0] // one.size)

    def rows(tensor: Tensor, first: int) -> Float:
        return original.rows(tensor.name, first, min(first + step, tensor.shape[0]))

    return all(np.array_equal(rows(one, first), rows(other, first)) for first in range(0, one.shape[0], step))


def _values(source: Source, original: Original) -> Iterator[tuple[str, str, Any, Any]]:
    """File, key, edgekit's value and transformers'."""
    full_precision, settings = source.family.full_precision, source.settings
    theirs = original.config.to_dict()
    for dotted, ours in full_precision.stated(source.config).items():
        yield "config.json", dotted, ours, _at(theirs, dotted)
    if original.image_processor:
        yield from _pixels(source, original)
    yield from _settings(source, original, theirs)
    if "image_tokens" in settings:
        yield "processor_config.json", "image_seq_length", settings["image_tokens"], original.processor.image_seq_length
    for attribute, dotted in full_precision.token_ids.items():
        yield "tokenizer.json", attribute, _at(theirs, dotted), getattr(original.tokenizer, attribute, None)
    if "pad_token_id" in settings:
        yield "tokenizer_config.json", "pad_token_id", settings["pad_token_id"], original.tokenizer.pad_token_id
    if "stop_token_ids" in settings:
        yield from _stops(source, original, theirs)
    if original.tokenizer:  # last, since it takes longest
        yield from tokenization(source, original.tokenizer)


def _settings(source: Source, original: Original, theirs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """What a manifest will say of the model. Tokens, which tokenizers know, are compared by themselves."""
    full_precision, settings = source.family.full_precision, source.settings
    for name, dotted in full_precision.settings.items():
        yield "config.json", f"settings.{name}", settings.get(name), _at(theirs, dotted)
    for name in full_precision.scalars:
        stored = source.stored[name].name
        yield "model.safetensors", f"settings.{name}", settings.get(name), float(original.rows(stored, 0, 1).ravel()[0])
    if length := settings.get("text_length"):  # at which transformers' processor cuts and fills up, where it is less
        most = min(length, original.tokenizer.model_max_length)
        yield "tokenizer_config.json", "model_max_length", length, most
    if "chat" in settings:
        yield "chat_template.jinja", "settings.chat", settings["chat"], original.chats


def _stops(source: Source, original: Original, theirs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Answers end where transformers ends them and at the family's own tokens, and at no other that nobody states."""
    settings, tokenizer, ends = source.settings, original.tokenizer, source.family.full_precision.ends
    ours, added = set(settings["stop_token_ids"]), tokenizer.added_tokens_decoder
    left = sorted({*original.eos_token_ids} - ours)
    yield "generation_config.json", "eos_token_id that edgekit does not stop at", [], left
    named = {index for index, token in added.items() if token.content in ends and token.special}
    yield "tokenizer.json", "tokens that end answers, and edgekit does not stop at", [], sorted(named - ours)
    stated = {index for key in ("eos_token_id", "text_config.eos_token_id") for index in _listed(_at(theirs, key))}
    named |= {index for index, token in added.items() if token.content in ends}
    more = sorted(ours - named - stated - {*original.eos_token_ids})
    yield "generation_config.json", "eos_token_id that only edgekit stops at", more, []
    texts = tokenizer.convert_ids_to_tokens(settings["stop_token_ids"])
    yield "tokenizer.json", "the texts of tokens that end answers", settings["stop_tokens"], texts


def _listed(stated: Any) -> list[Any]:
    """One, several or none, as configurations have it."""
    return stated if isinstance(stated, list) else [] if stated is None else [stated]


def _pixels(source: Source, original: Original) -> Iterator[tuple[str, str, Any, Any]]:
    """What happens to an image; transformers leaves out a step whose flag is None."""
    file, ours, theirs = "preprocessor_config.json", source.preprocessing, original.image_processor
    assert ours is not None, "a model with a processor sees images"
    size = theirs.size
    yield file, "size", [ours.size, ours.size], [size.height, size.width]
    yield file, "resample", _RESAMPLE[ours.resample], int(theirs.resample)
    yield file, "image_mean", list(ours.mean), list(theirs.image_mean)
    yield file, "image_std", list(ours.std), list(theirs.image_std)
    yield file, "rescale_factor", _RESCALE, theirs.rescale_factor
    for step in ("do_resize", "do_rescale", "do_normalize"):
        yield file, step, True, bool(getattr(theirs, step))
    for step in ("do_pan_and_scan", "do_center_crop", "do_pad"):
        yield file, step, False, bool(getattr(theirs, step, None))


def _at(stated: Any, dotted: str) -> Any:
    """A value by its dotted name; None where there is none."""
    for name in dotted.split("."):
        stated = stated.get(name) if isinstance(stated, Mapping) else None
    return stated


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values mean one thing; numbers may differ as decimal spellings do."""
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float | int):
        return abs(ours - theirs) <= _ROUNDING * abs(ours)
    return bool(ours == theirs)
