"""The seams: what a backend must offer for each kind of part, and the model that stands above them.

An encoder turns items into float32 vectors; a decoder turns segments into logits. Backends are leaf modules that
implement these protocols; nothing above asks which one it is talking to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.tensors import Float
from edgekit.errors import InputError, UsageError
from edgekit.machine.memory import memory
from edgekit.runtime.model import Generation, Model

__all__ = [
    "MOST_ROWS",
    "Decoder",
    "Embeddings",
    "Encoder",
    "EncoderSpec",
    "Float",
    "Generation",
    "Model",
    "Prompt",
    "Segment",
    "SupportsChunkSize",
    "SupportsOutputs",
    "SupportsPasses",
    "SupportsSequences",
    "SupportsSnapshot",
    "SupportsThreads",
    "SupportsTruncate",
    "Tokens",
    "check_batch",
    "check_cache",
    "check_open",
    "check_prompt",
    "check_step",
]


# Wanted logits rows of one call of a library, which gives all of them at once: one is 1 MB at Gemma's vocabulary.
MOST_ROWS = 32


@dataclass(frozen=True)
class Tokens:
    """A run of token ids, attended causally."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Embeddings:
    """A run of embeddings in place of tokens: one image.

    Attributes:
        array: [n, hidden] float32.
        content_hash: of the pixels that were encoded. Two images are one where theirs are equal, which a decoder
            that keeps positions of an earlier prompt must ask; none of edgekit's backends does.
        bidirectional: whether the run attends to all of itself, as the tokens of one image do in Gemma 3.
    """

    array: Float
    content_hash: str
    bidirectional: bool = True

    def __len__(self) -> int:
        return len(self.array)


Segment = Tokens | Embeddings
Prompt = tuple[Sequence[Segment], Sequence[int]]  # and the positions whose logits are wanted, ascending


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder takes and gives.

    Attributes:
        input: `pixels`: uint8 [n, height, width, 3], already resized; `ids`: int64 [n, length].
        output: `image_tokens`: [n, tokens, hidden]; `pooled`: [n, hidden], not normalized.
        shape: the shape of one input item.
    """

    input: Literal["pixels", "ids"]
    output: Literal["image_tokens", "pooled"]
    shape: tuple[int, ...]


class Encoder(Protocol):
    """Images or texts to vectors, for one user at a time: see `edgekit.runtime.ownership`."""

    spec: EncoderSpec

    def encode(self, batch: NDArray[Any]) -> Float:
        """Encode a batch of items as `spec` describes.

        Raises:
            InputError: the batch is of another kind or shape.
            UsageError: it was closed, or another use is under way.
        """
        ...

    def close(self) -> None:
        """Free what the library holds; safe to call twice."""
        ...


class Decoder(Protocol):
    """Segments to logits, with a key/value cache, for one user at a time: see `edgekit.runtime.ownership`.

    Attributes:
        context: positions that the cache holds.
        vocabulary: length of a row of logits.
        warnings: what the user must know of how it runs.
    """

    context: int
    vocabulary: int
    warnings: tuple[str, ...]

    def prefill(self, segments: Sequence[Segment], want: Sequence[int] | None = None) -> Iterator[Float]:
        """Empty the cache, decode these segments, and yield logits rows [vocabulary] float32, once they are asked for.

        Args:
            segments: the prompt; its total length must fit `context`.
            want: positions whose logits are wanted, ascending; None for the last position only.

        Raises:
            InputError: the segments do not fit the context, or the decoder.
            UsageError: it was closed, or another use is under way.
        """
        ...

    def step(self, ids: Sequence[int]) -> Float:
        """Append these tokens and return the logits [vocabulary] after the last one.

        Raises:
            InputError: the context is full, or a token is unknown.
            UsageError: it was closed, another use is under way, or the cache holds another's prompt.
        """
        ...

    def close(self) -> None:
        """Free what the library holds; safe to call twice."""
        ...


@runtime_checkable
class SupportsSequences(Decoder, Protocol):
    """The ability of a decoder to hold several sequences, each with positions of its own, up to `context`.

    Attributes:
        sequences: how many; they are named by numbers from 0.
        batched: whether `decode` computes them together, which costs little more than one of them alone.
    """

    sequences: int
    batched: bool

    def length(self, sequence: int = 0) -> int:
        """How many positions it holds."""
        ...

    def changes(self, sequence: int = 0) -> int:
        """How often anybody changed what it holds: who remembers that sees by it whether it still does."""
        ...

    def prefill(
        self, segments: Sequence[Segment], want: Sequence[int] | None = None, *, sequence: int = 0
    ) -> Iterator[Float]:
        """See `Decoder.prefill`; other sequences stay as they are."""
        ...

    def extend(
        self, segments: Sequence[Segment], want: Sequence[int] | None = None, *, sequence: int = 0
    ) -> Iterator[Float]:
        """As `prefill`, but behind what the sequence holds, whoever's that is.

        Args:
            want: positions in the whole sequence, of these segments; None for the last only.
        """
        ...

    def decode(self, tokens: Mapping[int, Sequence[int]]) -> dict[int, Float]:
        """Append tokens to sequences, whoever's they are; logits [n, vocabulary] after each of a sequence's n tokens.

        Raises:
            InputError: they are none or more than `MOST_ROWS` in all, a token is unknown, or a context is full.
            UsageError: there is no such sequence, it was closed, or another use is under way.
        """
        ...

    def step(self, ids: Sequence[int], *, sequence: int = 0) -> Float:
        """See `Decoder.step`."""
        ...


@runtime_checkable
class SupportsTruncate(Protocol):
    """The ability of a decoder to forget the end of a sequence, so that another can follow.

    Layers that see a window forget what lies further back, and a shorter sequence would want it again: so there is a
    shortest. The caller must keep or cut an image as a whole, for its first positions have seen its last.
    """

    def shortest(self, sequence: int = 0) -> int:
        """The least length beside 0 to which it can be cut now; 0 of an empty one."""
        ...

    def truncate(self, length: int, *, sequence: int = 0) -> None:
        """Forget the positions from this one on: what follows is as if they had never been.

        Raises:
            UsageError: it cannot be cut to that length, or there is no such sequence; nothing changes.
        """
        ...


@runtime_checkable
class SupportsSnapshot(Protocol):
    """The ability of a decoder to give what a sequence holds as bytes, for a decoder of the same files, opened alike.

    A checksum finds accidents, not malice: restore only what came from here.
    """

    def snapshot(self, *, sequence: int = 0) -> bytes:
        """What a sequence holds."""
        ...

    def restore(self, data: bytes, *, sequence: int = 0) -> None:
        """Have a sequence hold what `snapshot` gave.

        Raises:
            SnapshotError: the bytes are damaged, another decoder's or too long for this one; the sequence is empty.
            UsageError: there is no such sequence, it was closed, or another use is under way.
        """
        ...


@runtime_checkable
class SupportsChunkSize(Protocol):
    """The ability of a decoder that decodes a prompt in several calls, to do it in fewer: a proof asks for one."""

    def set_chunk_size(self, positions: int | None) -> None:
        """From now on divide prompts only where they have more positions, or `MOST_ROWS` wanted; None: as usual.

        All sequences are emptied.
        """
        ...


class Rows(Protocol):
    """Logits rows as they are computed. Closed, or behind the last one, the decoder is free."""

    def __iter__(self) -> Iterator[Float]: ...

    def __next__(self) -> Float: ...

    def close(self) -> None:
        """Give up the rest."""
        ...


@runtime_checkable
class SupportsPasses(Protocol):
    """The ability of a decoder that reads its weights anew for each pass, to take several prompts through one."""

    def passes(self, prompts: Sequence[Prompt]) -> Rows:
        """Logits rows [vocabulary] float32 at the wanted positions of prompts that do not see each other, in order.

        Raises:
            InputError: a prompt does not fit the context, or the decoder.
            UsageError: it was closed, or another use is under way.
        """
        ...


@runtime_checkable
class SupportsOffload(Protocol):
    """The ability of a decoder to run on a GPU, as a whole or in part.

    Attributes:
        gpu_layers: so many of its layers do, the output among them.
    """

    gpu_layers: int


@runtime_checkable
class SupportsThreads(Protocol):
    """The ability of a decoder to change its numbers of threads while it is open: tuning tries several, and an engine
    follows the load.
    """

    @property
    def threads_in_use(self) -> tuple[int, int]:
        """Threads for prompts, and for single steps."""
        ...

    def set_threads(self, threads: int, step_threads: int) -> None:
        """Use this many threads from now on, for prompts and for single steps."""
        ...


@runtime_checkable
class SupportsOutputs(Protocol):
    """The ability of an encoder whose file may have several outputs, for others' programs, to give them: a proof looks.

    Attributes:
        output_names: as the file gives them.
    """

    output_names: tuple[str, ...]

    def outputs(self, batch: NDArray[Any]) -> Mapping[str, Float]:
        """All outputs of a batch as `Encoder.encode` takes it, by `output_names`."""
        ...


HandleT = TypeVar("HandleT")


def check_open(handle: HandleT | None, what: str) -> HandleT:
    """What an open part holds; raises UsageError where it was closed."""
    if handle is None:
        raise UsageError(f"this {what} is closed", remedy="open the model again")
    return handle


def check_batch(batch: NDArray[Any], spec: EncoderSpec) -> None:
    """Raise InputError where a batch is not of an encoder's kind and shape."""
    kind = np.uint8 if spec.input == "pixels" else np.int64
    if batch.dtype != kind or batch.shape[1:] != spec.shape:
        raise InputError(
            f"a batch of {batch.dtype} {list(batch.shape)}",
            allowed=f"{np.dtype(kind)} [any, {', '.join(map(str, spec.shape))}]",
        )


def check_cache(context: int, bytes_of: Callable[[int], int], sequences: int = 1) -> None:
    """Raise UsageError where the keys and values of sequences find no room in this machine's memory.

    Args:
        context: tokens of each.
        bytes_of: such tokens -> what they take of all sequences, which grows with them.
    """
    free = memory().available_bytes
    if (needed := bytes_of(context)) > free:
        most = bisect_right(range(1, context + 1), free, key=bytes_of)
        raise UsageError(
            f"{contexts(sequences, context)} {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are free",
            allowed=f"at most {most} tokens{' each, or fewer slots' if sequences > 1 else ''}, here and now",
        )


def contexts(sequences: int, tokens: int) -> str:
    """So many contexts in words that a size may follow."""
    return f"{sequences} contexts of {tokens} tokens take" if sequences > 1 else f"a context of {tokens} tokens takes"


def check_step(ids: Sequence[int], position: int, context: int, vocabulary: int) -> None:
    """Raise InputError where there are no ids, or unknown ones, or no room for them in the cache."""
    if not ids:
        raise InputError("a step of no tokens", allowed="one or more")
    if position + len(ids) > context:
        raise InputError(f"the context of {context} tokens is full")
    _check_ids(ids, vocabulary)


def _check_ids(ids: Sequence[int], vocabulary: int) -> None:
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise InputError(f"a token id of {wrong}", allowed=f"0 to {vocabulary - 1}")


def check_prompt(segments: Sequence[Segment], context: int, hidden: int, vocabulary: int, held: int = 0) -> int:
    """The positions of a prompt.

    Args:
        held: positions of the context that are taken.

    Raises:
        InputError: they do not fit the context, embeddings are not of the decoder's width, or a token is unknown.
    """
    total = sum(map(len, segments))
    if not 0 < total <= context - held:
        room = f"the room left in a context of {context}" if held else "this model's context"
        raise InputError(f"a prompt of {total} tokens", allowed=f"1 to {context - held}, {room}")
    for segment in segments:
        if isinstance(segment, Tokens):
            _check_ids(segment.ids, vocabulary)
        elif segment.array.shape[1:] != (hidden,):
            raise InputError(f"embeddings of shape {list(segment.array.shape)}", allowed=f"[any, {hidden}]")
    return total
