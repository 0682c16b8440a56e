"""Full precision in bounded memory: transformers' model whose weights come and go, as a `Model` like any other.

A pass reads every weight once, so prompts go through it together (`SupportsPasses`); an answer takes one pass a token.
The output head is computed in blocks of the vocabulary's rows. In bfloat16 it is what others run as full precision:
how far that is from float32 is the noise floor of every comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.families.source import Source, open_source
from edgekit.full_precision import streamed
from edgekit.full_precision.model import TorchDecoder, TorchParts, compose_full_precision, load, torch
from edgekit.machine.memory import memory
from edgekit.runtime.base import Decoder, Embeddings, Float, Model, Prompt, Rows, check_prompt

_ROWS = 256  # of logits at a time: 268 MB at Gemma's vocabulary
_BESIDE = 2_000_000_000  # torch, activations, and a matrix on its way


class StreamedDecoder(TorchDecoder):
    """A language model whose weights come and go: `edgekit.runtime.base.SupportsPasses`."""

    def __init__(self, model: Any, weights: streamed.Weights) -> None:
        settings = weights.source.settings
        super().__init__(model, settings["context"], settings["vocabulary"])
        self._weights = weights
        specs = [spec for role in weights.source.family.roles.values() for spec in role.tensors(weights.source.config)]
        self._table = next(spec.name for spec in specs if spec.kind == "token_embedding")

    def passes(self, prompts: Sequence[Prompt]) -> Rows:
        """See `edgekit.runtime.base.SupportsPasses.passes`."""
        self.check_usable()
        for segments, _ in prompts:
            check_prompt(segments, self.context, self.hidden, self.vocabulary)
        return self._streaming("prompts", lambda: self._together(prompts), inside=True)

    def _together(self, prompts: Sequence[Prompt]) -> Iterator[Float]:
        self._empty(0)
        hidden = self._hidden_states(prompts)
        for start in range(0, len(hidden), _ROWS):
            yield from self._logits(hidden[start : start + _ROWS])

    def _hidden_states(self, prompts: Sequence[Prompt]) -> Any:
        """Final hidden states [wanted, width] in one pass. Prompts are filled up on the right, which a mask hides."""
        th = self._torch
        length = max(sum(map(len, segments)) for segments, _ in prompts)
        ids, kinds = (th.zeros((len(prompts), length), dtype=th.long) for _ in range(2))
        shown: list[tuple[int, int, Embeddings]] = []
        for row, (segments, _) in enumerate(prompts):
            place = 0
            for segment in segments:
                if isinstance(segment, Embeddings):
                    shown.append((row, place, segment))
                    kinds[row, place : place + len(segment)] = int(segment.bidirectional)
                else:
                    ids[row, place : place + len(segment)] = th.tensor(segment.ids)
                place += len(segment)
        with th.inference_mode():
            inputs = self.model.get_input_embeddings()(ids)
            for row, place, segment in shown:
                inputs[row, place : place + len(segment)] = th.from_numpy(segment.array).to(inputs.dtype)
            images = {"token_type_ids": kinds} if bool(kinds.any()) else {}  # unknown to a model of text alone
            hidden = self.model.model(inputs_embeds=inputs, use_cache=False, **images).last_hidden_state
            return th.cat([hidden[row, list(want)] for row, (_, want) in enumerate(prompts)])

    def _logits(self, hidden: Any) -> Float:
        """Rows [n, vocabulary] of final hidden states [n, width], the table read once."""
        th, rows, start = self._torch, np.empty((len(hidden), self.vocabulary), np.float32), 0
        with th.inference_mode():
            for block in self._weights.blocks(self._table):
                columns = min(len(block), self.vocabulary - start)
                values = hidden @ th.from_numpy(block[:columns]).to(hidden.dtype).T
                rows[:, start : start + columns] = values.float().numpy()
                start += columns
        return rows

    def _head(self, hidden: Any) -> Float:
        row: Float = self._logits(hidden[None])[0]
        return row


@dataclass(frozen=True)
class StreamedParts(TorchParts):
    """The parts of a model whose weights come and go."""

    weights: streamed.Weights

    def decoder(self, role: str) -> Decoder:
        """See `edgekit.runtime.compose.Parts.decoder`."""
        return StreamedDecoder(self.model, self.weights)


def open_full_precision(folder: Path, *, bfloat16: bool = False) -> Model:
    """The full-precision model of a checkpoint folder, float32: in memory, or streamed where it finds no room there.

    Args:
        bfloat16: instead in bfloat16, always streamed, so that it takes no room beside the other.

    Raises:
        CheckpointError: the folder is no checkpoint of a known family.
    """
    source = open_source(folder)
    source.check_tensors()
    if not bfloat16 and fits(source):
        return compose_full_precision(TorchParts(load(source), source), f"{folder.name}, float32 reference")
    return open_streamed(source, bfloat16=bfloat16)


def open_streamed(source: Source, *, bfloat16: bool = False) -> Model:
    """The full-precision model of a checkpoint with weights that come and go."""
    weights = streamed.Weights(source)
    model = streamed.model(weights, dtype=torch().bfloat16 if bfloat16 else None)
    kind = "bfloat16" if bfloat16 else "float32 reference"
    return compose_full_precision(StreamedParts(model, source, weights), f"{source.checkpoint.root.name}, {kind}")


def fits(source: Source) -> bool:
    """Whether the model in float32 finds room in this machine's memory.

    Of all memory, not of what is free: sums of floating point numbers differ a little where weights come and go, and a
    figure must not depend on what else runs.
    """
    weights = sum(tensor.size for tensor in source.stored.values())
    return 4 * weights + _BESIDE < memory().total_bytes
