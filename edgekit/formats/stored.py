"""What a file holds: its tensors, whoever wrote it, as a checkpoint would have them.

A proof reads them from the finished file, so it needs neither the plan nor the codecs by which that was written, and
works for any mixture of types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import ArtifactError
from edgekit.formats.codec import Float
from edgekit.formats.rounding import Rounding


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of an artifact's file.

    Attributes:
        name: canonical, in the hub's key layout.
        file_name: what the file calls it.
        type: how its numbers are stored: `Q4_K`, `int4_32`, `F32`.
        shape: the checkpoint's; zeros that fill it up in the file are cut off. A table of tokens may end earlier, where
            its last rows belong to no token.
        exact: whether a matrix of this type multiplies activations as they are; of others, runtimes round those.
        preserves: the types of a checkpoint's tensors that lose nothing in it.
        rounding: how far the type may move others.
        read: rows `first` to `last` as float32 in the checkpoint's own meaning: what a format adds to a norm or
            multiplies a query by is undone, and a matrix that lies transposed is turned. ArtifactError where the file
            ends early, or what fills a tensor up is not zero.
    """

    name: str
    file_name: str
    type: str
    shape: tuple[int, ...]
    exact: bool
    preserves: frozenset[str]
    rounding: Rounding
    read: Callable[[int, int], Float]


def check_names(path: Path, held: Collection[str], expected: Mapping[str, TensorSpec]) -> None:
    """Check that a file holds these tensors and no others.

    Args:
        held: the file's names.
        expected: those names -> what each is in the checkpoint.

    Raises:
        ArtifactError: a tensor is missing, or is one too many.
    """
    if missing := sorted(set(expected) - set(held)):
        raise ArtifactError(
            f"{path}: {len(missing)} tensors are missing: {', '.join(missing[:3])}",
            allowed=f"the {len(expected)} that config.json makes of it",
        )
    if unknown := sorted(set(held) - set(expected)):
        raise ArtifactError(
            f"{path}: {len(unknown)} tensors are too many: {', '.join(unknown[:3]):.300}",
            allowed=f"the {len(expected)} that config.json makes of it",
        )


def wrong_shape(path: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> ArtifactError:
    """What to raise for a tensor of another shape than config.json says."""
    return ArtifactError(f"{path}: {name} has the shape {list(shape)}", allowed=f"{list(expected)}, by config.json")
