"""Audit a part's own files: what they hold is what the checkpoint has, tensor by tensor and constant by constant.

Cheap, and before anything is opened: each tensor is read once, in slices, beside the source's. A mistake that quantized
logits hide shows here, for rounding moves a tensor by a known amount (`edgekit.formats.rounding`) and in no direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.differences import Difference, DifferencesError, shown
from edgekit.families.source import Source
from edgekit.formats import FORMATS, FileLabel
from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.codec import Float
from edgekit.formats.rounding import EXACT, Rounding
from edgekit.formats.stored import StoredTensor
from edgekit.full_precision.streamed import SLICE
from edgekit.machine.cpu import cpu
from edgekit.progress import Progress
from edgekit.prove.written import WrittenPart

Vector = NDArray[np.float64]
Rows = Callable[[int, int], Float]
# Of a bound for a tensor: a row's largest weights may be larger beside its others than a whole tensor's.
_ROW_ERROR, _ROW_GAIN, _MEAN = 2.0, 1.0, 0.06
# Beyond rounding: sums of float32, and the gain of tensors whose rounding is no noise.
_GAIN, _SHIFT = 1e-3, 5e-4
# Of the relative error, where a checkpoint lies on a grid already: rounding it to another is no noise then.
# Normal, Laplace and Student numbers of each type of ggml, rounded to each other one, measured 0.43 and 0.03.
_AGAIN, _SHIFT_AGAIN = 0.5, 0.1
_GROUP = 16  # weights that share a scale in every type of few bits
_APART = 1 / 250, 1 / 40  # of a group's range: what BF16 moves, and less than a step of five bits
_FEW = 0.5  # of a tensor's rows: where more are wrong, the tensor is
_SHOWN = 80  # characters of a text that are shown from its beginning
_LARGE = 0.1  # of the columns' mean, and of the source's
_COARSE = 0.4  # bound of types that make another of a column beside larger ones
_PICKED, _RUNS = 1 << 17, 8  # weights of a matrix that are compared with their neighbours, in so many places
_TIE, _STRAY = 1e-3, 1e-4  # of a distance, and of the weights: what scales of 16 bits and other sums make
_ALIKE, _ROWS = 0.4, 64  # least correlation of a column with the source's; of so many rows, chance makes none of 0.4


@dataclass(frozen=True)
class Audit:
    """What was compared.

    Attributes:
        differences: all that is not what it must be.
        notes: what the model does not depend on.
        worst: the largest relative L2 error of a tensor.
    """

    tensors: int
    constants: int
    texts: int
    worst: float
    differences: tuple[Compared, ...]
    notes: tuple[Compared, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """For the manifest."""
        return {"tensors": self.tensors, "constants": self.constants, "texts": self.texts, "worst": self.worst}

    def check(self, where: str) -> None:
        """Raise DifferencesError where the model is not the checkpoint's, its first difference in the message."""
        if self.differences:
            first = self.differences[0]
            raise DifferencesError(
                f"{where}: audit: {first}",
                [_difference(where, one) for one in (*self.differences, *self.notes)],
                said=1,
                allowed=first.allowed or f"{first.wanted}, by the checkpoint",
                remedy="the file is not what was made from this checkpoint; nothing was published",
            )


def _difference(where: str, one: Compared) -> Difference:
    found, expected = _from_where_they_differ(one.found, one.expected)
    return Difference(one.kind, where, one.name, shown(found), one.allowed or shown(expected), one.meaning, one.is_note)


def _from_where_they_differ(found: Any, expected: Any) -> tuple[Any, Any]:
    """Of two long texts, as templates are, what follows what they share."""
    if not (isinstance(found, str) and isinstance(expected, str) and len(found) > _SHOWN):
        return found, expected
    pairs = zip(found, expected, strict=False)
    same = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(found), len(expected)))
    shared = max(0, same - 20)
    return f"...{found[shared:]}", f"...{expected[shared:]}"


def audit(
    source: Source, written: WrittenPart, original: Any, progress: Progress, label: FileLabel | None = None
) -> Audit:
    """Compare a part's files with the checkpoint.

    Args:
        original: what transformers makes of the checkpoint.
        label: what files of edgekit's own must say of themselves.

    Raises:
        ArtifactError: a file ends early, what fills a tensor up is not zero, or a graph is another than the model's.
    """
    progress.start(f"{written.where}: audit", len(written.tensors))
    differences: list[Compared] = []
    worst = 0.0
    for tensor in written.tensors.values():
        error, difference = compared_tensor(source, tensor, partial(original.rows, source.stored[tensor.name].name))
        differences += [difference] if difference else []
        worst = max(worst, error)
        progress.advance()
    part = written.part
    form = source.family.roles[part.role].forms.get(part.format)
    audited = AuditedPart(
        role=part.role,
        level=part.level,
        form=form,
        files=written.files,
        requires=part.requires,
        root=source.checkpoint.root,
        tensors=written.tensors,
        plan=lambda level: source.plan(part.role, level),
        progress=progress,
        label=label,
    )
    compared = list(FORMATS[part.format].audit(audited, original))
    stated = [one for one in compared if not one.is_note]
    differences += [one for one in stated if not one.same]
    texts, notes = sum(one.texts for one in stated), tuple(one for one in compared if one.is_note)
    return Audit(len(written.tensors), len(stated), texts, float(f"{worst:.6g}"), tuple(differences), notes)


# ---------------------------------------------------------------- tensors


def compared_tensor(source: Source, tensor: StoredTensor, right: Rows) -> tuple[float, Compared | None]:
    """A stored tensor's relative L2 error, and the first thing that is wrong with it: others follow from that.

    Args:
        right: the checkpoint's rows from one number to another, not read by who wrote the file.
    """
    sums = _sums(tensor, right)
    rounding = EXACT if source.stored[tensor.name].dtype in tensor.preserves else tensor.rounding
    faults = _faults(sums, rounding, lambda: _rounded_before(tensor, right))
    for what, found, allowed in chain(faults, _neighbours(tensor, right, rounding)):
        name = f"{tensor.name} ({tensor.file_name}, {tensor.type}): {what}"
        return sums.error, Compared("tensor", name, found, None, allowed)
    return sums.error, None


@dataclass
class _Sums:
    """Sums over a tensor, as rows [n, width]: of the source, of what is stored, and of their difference.

    Attributes:
        source2, product, error2: squares and products, one for each row.
        column_source2, column_product, column_error2: the same, one for each column.
        shift: the sum of the differences, source: of the source.
    """

    width: int
    source2: Vector
    product: Vector
    error2: Vector
    column_source2: Vector
    column_product: Vector
    column_error2: Vector
    source: float = 0.0
    shift: float = 0.0
    finite: bool = True

    @property
    def count(self) -> int:
        return self.width * len(self.source2)

    @property
    def error(self) -> float:
        """Relative L2 error; infinite where nothing became something."""
        error2, source2 = float(self.error2.sum()), float(self.source2.sum())
        return (error2 / source2) ** 0.5 if source2 else float("inf") if error2 else 0.0


def _sums(tensor: StoredTensor, right: Rows) -> _Sums:
    """Read a tensor and its source once, on all cores."""
    rows, size = tensor.shape[0], int(np.prod(tensor.shape))
    whole = len(tensor.shape) == 1  # a vector is one row
    width, count = (size, 1) if whole else (size // rows, rows)
    zeros = np.zeros
    sums = _Sums(width, zeros(count), zeros(count), zeros(count), zeros(width), zeros(width), zeros(width))
    step = rows if whole else max(1, SLICE // width)

    def read(first: int) -> tuple[int, Any, Any]:
        last = min(first + step, rows)
        shape = (1, -1) if whole else (last - first, width)
        a = right(first, last).reshape(shape)
        b = tensor.read(first, last).reshape(shape)
        d = b - a
        of_rows = [np.einsum("rc,rc->r", *pair, dtype=np.float64) for pair in ((a, a), (a, b), (d, d))]
        of_columns = [np.einsum("rc,rc->c", *pair) for pair in ((a, a), (a, b), (d, d))]
        return first, of_rows, (of_columns, a.sum(dtype=np.float64), d.sum(dtype=np.float64), np.isfinite(b).all())

    with ThreadPoolExecutor(cpu().usable_cores) as pool:
        for first, of_rows, (of_columns, total, shift, finite) in pool.map(read, range(0, rows, step)):
            place = slice(0, 1) if whole else slice(first, first + len(of_rows[0]))
            sums.source2[place], sums.product[place], sums.error2[place] = of_rows
            sums.column_source2 += of_columns[0]
            sums.column_product += of_columns[1]
            sums.column_error2 += of_columns[2]
            sums.source, sums.shift, sums.finite = sums.source + total, sums.shift + shift, sums.finite and bool(finite)
    return sums


def _rounded_before(tensor: StoredTensor, right: Rows) -> bool:
    """Whether the checkpoint's own numbers have five bits or fewer, as those that were quantized or trained to be.

    Then hardly two weights of a group are less than a step apart, and yet not the same.
    """
    picked = np.unique(np.linspace(0, tensor.shape[0] - 1, _GROUP).astype(int))
    numbers = np.concatenate([right(row, row + 1).ravel() for row in picked])
    groups = np.sort(numbers[: len(numbers) // _GROUP * _GROUP].reshape(-1, _GROUP), axis=1)
    reach = groups[:, -1:] - groups[:, :1]
    least, most = _APART
    gaps = np.diff(groups, axis=1)
    return bool(((gaps > least * reach) & (gaps < most * reach)).mean() < 0.1)


def _faults(sums: _Sums, rounding: Rounding, rounded_before: Callable[[], bool]) -> Iterator[tuple[str, float, str]]:
    if not sums.finite:
        yield "a weight", float("nan"), "finite numbers"
        return
    source2 = float(sums.source2.sum())
    rms = (source2 / sums.count) ** 0.5
    noise = sums.count**0.5 * rounding.floor(1.0)  # of scales that F16 rounds
    most = float(np.hypot(rounding.error * source2**0.5, noise))
    rows = list(_row_faults(sums, rounding))  # nothing where most of them are wrong
    if not rows and float(sums.error2.sum()) ** 0.5 > most:
        yield "its relative error", _short(sums.error), f"at most {most / source2**0.5 if source2 else 0:.3g}"
        return
    yield from rows
    if not source2:
        return
    gain, error2 = float(sums.product.sum()) / source2, sums.error**2
    slack = _GAIN * (rounding is not EXACT) + rounding.floor(rms) / 10 + 2 * EXACT.error
    least, greatest = 1 - rounding.shrinks * error2 - slack, 1 + rounding.grows * error2 + slack
    if not least <= gain <= greatest and not (abs(gain - 1) <= _AGAIN * sums.error + slack and rounded_before()):
        yield "its scale", _short(gain), f"{least:.5f} to {greatest:.5f} times the checkpoint's"
    # A scale that shrinks moves the mean of numbers that have one.
    shift = abs(sums.shift - (gain - 1) * sums.source) / sums.count / rms
    # The mean of as many errors, by chance, and what a type is biased by.
    most = 5 * sums.error / sums.count**0.5 + _MEAN * rounding.error + rounding.floor(rms) / 10
    most += 0 if rounding is EXACT else _SHIFT
    if shift > most and not (shift <= most + _SHIFT_AGAIN * sums.error and rounded_before()):
        yield "a shift, in root mean squares,", _short(shift), f"at most {most:.2g}"
    if rounding.error < _COARSE:
        yield from _column_faults(sums)


def _row_faults(sums: _Sums, rounding: Rounding) -> Iterator[tuple[str, float, str]]:
    """The row that is furthest beyond its limit, where few are."""
    noise2 = sums.width * rounding.floor(1.0) ** 2
    most2 = min(_ROW_ERROR * rounding.error, 1.0) ** 2 * sums.source2 + noise2
    row, wrong = int(np.argmax(sums.error2 - most2)), sums.error2 > most2
    if wrong.mean() > _FEW or len(wrong) == 1:
        return
    if wrong[row]:
        relative = (sums.error2[row] / sums.source2[row]) ** 0.5 if sums.source2[row] else float("inf")
        allowed = (most2[row] / sums.source2[row]) ** 0.5 if sums.source2[row] else 0.0
        yield f"the relative error of row {row}", _short(relative), f"at most {allowed:.3g}"
        return
    there = sums.source2 > 100 * noise2
    gains = np.where(there, sums.product / np.where(there, sums.source2, 1), 1)
    slack = _ROW_GAIN * rounding.error + _GAIN + 2 * np.sqrt(noise2 / np.where(there, sums.source2, np.inf))
    row = int(np.argmax(np.abs(gains - 1) - slack))
    if abs(gains[row] - 1) > slack[row]:
        yield f"the scale of row {row}", _short(gains[row]), f"{1 - slack[row]:.4f} to {1 + slack[row]:.4f}"


def _column_faults(sums: _Sums) -> Iterator[tuple[str, float, str]]:
    """The column that has least to do with the source's, of those that are not rounded away beside larger ones."""
    source2, product = sums.column_source2, sums.column_product
    stored2 = np.maximum(sums.column_error2 - source2 + 2 * product, 0)
    there = (source2 > _LARGE * source2.mean()) & (stored2 > _LARGE * source2)
    alike = np.where(there, product / np.sqrt(np.where(there, source2 * stored2, 1)), 1)
    column = int(np.argmin(alike))
    if len(sums.source2) >= _ROWS and alike[column] < _ALIKE:
        yield f"the correlation of column {column}", _short(alike[column]), f"at least {_ALIKE}"


def _neighbours(tensor: StoredTensor, right: Rows, rounding: Rounding) -> Iterator[tuple[str, float, str]]:
    """Of weights that became another number than the nearest of their block, as many are too large as too small.

    Where a whole matrix was multiplied before it was rounded, all are the one or the other: a scale of 1 % moves one
    weight in 500 at two bits. What was rounded twice, by way of 16 bits, strays to both sides.
    """
    if not rounding.block or len(tensor.shape) != 2:
        return
    count, width = tensor.shape
    rows = max(_RUNS, _PICKED // width)
    # Runs of rows, not single ones: each read opens the file.
    long, runs = (count, 1) if count <= rows else (rows // _RUNS, _RUNS)
    starts = np.linspace(0, count - long, runs).astype(int)
    blocks = ((0, 0), (0, -width % rounding.block))
    exact, held = (
        np.pad(np.concatenate([read(row, row + long) for row in starts]), blocks, "edge").reshape(-1, rounding.block)
        for read in (right, tensor.read)
    )
    nearest = np.abs(exact[:, :, None] - held[:, None, :]).min(axis=2)
    strays = nearest < np.abs(exact - held) * (1 - _TIE)
    total, larger = int(strays.sum()), int((strays & (np.abs(held) > np.abs(exact))).sum())
    excess, most = abs(2 * larger - total) / held.size, 5 * total**0.5 / held.size + _STRAY
    if excess > most:
        yield "the excess of weights on one side of the nearest number", _short(excess), f"at most {most:.2g}"


def _short(number: float) -> float:
    return float(f"{float(number):.4g}")
