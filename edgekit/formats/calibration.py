"""What calibration found for one part: all that its file, and whoever compares that with the checkpoint, must know.

It lies beside the part's file, so that a run that was interrupted need not measure again, and a proof of later can undo
what smoothing did to the tensors.

Smoothing (SmoothQuant, Xiao et al. 2023) divides an activation's channels by powers of two, inside the norm or the
matrix that makes them, and multiplies the same columns of the matrices that read them. Powers of two round nothing, so
the part computes the same function to the last bit; only what 8 bits lose of it becomes less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.validation import ANEW, validated
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.errors import ArtifactError
from edgekit.formats.codec import Float

SUFFIX = ".calibration.json"
_MAX_BYTES = 16 * 1024 * 1024
_Exponent = Annotated[int, Field(ge=-24, le=24)]


@dataclass(frozen=True)
class Range:
    """Least and greatest value of the activation that enters a matrix."""

    low: FiniteFloat
    high: FiniteFloat

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"a range from {self.low} to {self.high}")


@dataclass(frozen=True)
class Factor:
    """What a tensor is multiplied by before it is stored, None for ones.

    Attributes:
        rows: one factor for each index of the first axis.
        columns: one for each of the last.
    """

    rows: Float | None = None
    columns: Float | None = None

    def apply(self, weights: Float, start: int = 0) -> Float:
        """Rows of a tensor, of which the first is row `start`, multiplied."""
        if self.columns is not None:
            weights = weights * self.columns
        if self.rows is not None:
            here = self.rows[start : start + len(weights)]
            weights = weights * here.reshape(-1, *[1] * (weights.ndim - 1))
        return weights

    @property
    def inverse(self) -> Factor:
        """What undoes it; exactly so, since factors are powers of two."""
        return Factor(*(None if one is None else np.float32(1) / one for one in (self.rows, self.columns)))


class Calibration(BaseModel):
    """What was measured for one part, and what follows from it.

    Attributes:
        inputs: what it was measured on.
        ranges: matrix -> what enters it, after smoothing.
        smoothing: what makes the channels of an activation (a norm's or a matrix's weight) -> for each of them the
            exponent of two by which it is divided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: str
    ranges: Mapping[str, Range]
    smoothing: Mapping[str, tuple[_Exponent, ...]]

    def write(self, path: Path) -> None:
        """Write it in one atomic replacement."""
        write_atomically(path, self.model_dump_json() + "\n")


def read(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        ArtifactError: the file is missing, or is none.
    """
    if not is_file(path) or path.stat().st_size > _MAX_BYTES:
        raise ArtifactError(f"{path}: no calibration", remedy=ANEW)
    data = read_json(path, ArtifactError, most_bytes=_MAX_BYTES, most_entries=_MAX_BYTES)
    return validated(Calibration, data, str(path), ArtifactError)


def factors(specs: Iterable[TensorSpec], smoothing: Mapping[str, Sequence[int]]) -> dict[str, Factor]:
    """Canonical tensor name -> what this smoothing multiplies it by."""
    rows: dict[str, Float] = {}
    columns: dict[str, Float] = {}
    for spec in specs:
        if spec.follows and spec.follows[0] in smoothing:
            exponents = np.asarray(smoothing[spec.follows[0]])
            columns[spec.name] = exponents_to_factors(exponents)
            rows |= dict.fromkeys(spec.follows, exponents_to_factors(-exponents))
    return {name: Factor(rows.get(name), columns.get(name)) for name in rows | columns}


def exponents_to_factors(exponents: Any) -> Float:
    """2 to these powers, exactly."""
    return np.exp2(np.asarray(exponents, np.float32)).astype(np.float32)
