"""transformers' own model with weights that come and go, so that its size is not bounded by memory.

The model is built without memory for its parameters. Each module that owns some gets them when it runs, from the
checkpoint or from a file that an export made of it, and loses them after. So masks, positions, attention and whatever
else happens between the modules is transformers' code at every size, and one matrix is in memory at a time. A pass
reads every weight once, whatever its batch holds: all prompts, or all images, belong into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.tensors import Tensor
from edgekit.errors import CheckpointError
from edgekit.families.source import Source
from edgekit.formats.stored import StoredTensor
from edgekit.full_precision.model import build, torch
from edgekit.machine.cpu import cpu
from edgekit.runtime.base import Float

SLICE = 2 * 1024 * 1024  # weights that one thread takes at a time
_BLOCK = 8192  # rows of an output head at a time: 84 MB at a width of 2560


@dataclass(frozen=True)
class Weights:
    """A checkpoint's tensors by canonical name, read anew each time.

    Attributes:
        stored: those that come from an artifact's file instead.
    """

    source: Source
    stored: Mapping[str, StoredTensor] = field(default_factory=dict)

    def read(self, name: str) -> Float:
        """A whole tensor.

        Raises:
            CheckpointError: the checkpoint has none of this name, or its file is damaged.
            ArtifactError: the artifact's is.
        """
        tensor = self._tensor(name)
        return self._read(tensor, name, 0, tensor.shape[0])

    def rows(self, name: str, ids: NDArray[np.int64]) -> Float:
        """Some rows of a table, [len(ids), width]; the others need no reading.

        Args:
            ids: ascending.
        """
        runs = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
        tensor = self._tensor(name)
        return np.concatenate([self._read(tensor, name, int(run[0]), int(run[-1]) + 1) for run in runs])

    def blocks(self, name: str) -> Iterator[Float]:
        """A table in blocks of rows, as many as are stored."""
        tensor = self._tensor(name)
        rows = self.stored[name].shape[0] if name in self.stored else tensor.shape[0]
        for start in range(0, rows, _BLOCK):
            yield self._read(tensor, name, start, min(start + _BLOCK, rows))

    def _tensor(self, name: str) -> Tensor:
        if name not in self.source.stored:
            raise CheckpointError(f"{self.source.checkpoint.root}: tensor {name} is missing")
        return self.source.stored[name]

    def _read(self, tensor: Tensor, name: str, first: int, last: int) -> Float:
        """Rows `first` to `last`, on all cores: K-quants take longer than the layer that they are for."""
        stored = self.stored.get(name)
        step = max(1, SLICE * tensor.shape[0] // tensor.size)
        read = np.empty((last - first, *tensor.shape[1:]), np.float32)

        def fill(start: int) -> None:
            end = min(start + step, last)
            rows = stored.read(start, end) if stored else self.source.rows(name, start, end)
            read[start - first : end - first] = rows

        with ThreadPoolExecutor(cpu().usable_cores) as pool:
            list(pool.map(fill, range(first, last, step)))  # a list, so that errors come out
        return read


def model(weights: Weights, done: Callable[[], None] = lambda: None, dtype: Any = None) -> Any:
    """transformers' model whose modules hold weights only while they run.

    The output head is left out, for it is large and the embedding again: `logits` computes what it would.

    Args:
        done: called for each tensor that was read.
        dtype: torch's type of weights and activations; float32 for None.

    Raises:
        CheckpointError: the model lacks a place for a tensor of the checkpoint.
    """
    th = torch()
    family = weights.source.family
    built = build(weights.source)
    if dtype is not None:
        _retype(th, built, dtype)
    seen = set()
    for prefix, module in built.named_modules():
        # This one module uses its submodule's parameters without running the submodule.
        deep = isinstance(module, th.nn.MultiheadAttention)
        path = f"{prefix}." if prefix else ""
        canonicals = {name: family.canonical(path + name) for name, _ in module.named_parameters(recurse=deep)}
        names = {name: canonical for name, canonical in canonicals.items() if canonical}
        seen |= set(names.values())
        if isinstance(module, th.nn.Embedding):
            _look_up(th, module, names["weight"], weights, done)
        elif names:
            _fetch(th, module, names, weights, done)
    if missing := set(weights.source.stored) - seen:
        raise CheckpointError(f"{weights.source.checkpoint.root}: transformers has no place for {sorted(missing)[0]}")
    return built.eval()


def logits(weights: Weights, table: str, hidden: Float) -> Iterator[tuple[slice, Float]]:
    """What the tied embedding `table` makes of final hidden states [n, width]: columns, and logits [n, columns]."""
    start = 0
    for block in weights.blocks(table):
        yield slice(start, start + len(block)), hidden @ block.T
        start += len(block)


def _fetch(th: Any, module: Any, names: Mapping[str, str], weights: Weights, done: Callable[[], None]) -> None:
    """Give a module its parameters before it runs, and take them back after."""
    empty = {name: module.get_parameter(name) for name in names}

    def place(name: str, parameter: Any) -> None:
        path, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(path), leaf, parameter)

    def before(*_: Any) -> None:
        for name, canonical in names.items():
            array = weights.read(canonical).reshape(empty[name].shape)
            place(name, _parameter(th, array, empty[name].dtype))
            done()

    def after(*_: Any) -> None:
        for name, parameter in empty.items():
            place(name, parameter)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _look_up(th: Any, module: Any, canonical: str, weights: Weights, done: Callable[[], None]) -> None:
    """Give a table the rows that are asked for, and nothing else: Gemma's vocabulary would take 2.7 GB."""
    empty = module.weight

    def before(_: Any, arguments: tuple[Any, ...]) -> Any:
        ids, position = th.unique(arguments[0], return_inverse=True)
        module.weight = _parameter(th, weights.rows(canonical, ids.numpy()), empty.dtype)
        done()
        return (position,)

    def after(*_: Any) -> None:
        module.weight = empty

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _retype(th: Any, built: Any, dtype: Any) -> None:
    """Give empty parameters another type. Buffers keep theirs, as where `from_pretrained` is asked for that type."""
    for module in built.modules():
        for leaf, empty in list(module.named_parameters(recurse=False)):
            setattr(module, leaf, th.nn.Parameter(empty.to(dtype), requires_grad=False))


def _parameter(th: Any, array: Float, dtype: Any) -> Any:
    return th.nn.Parameter(th.from_numpy(array).to(dtype), requires_grad=False)
