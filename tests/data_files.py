"""Files that tests of data sets write: pictures, tables, and data sets that name them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.bench.datasets import DatasetSource

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def picture(path: Path, value: int = 0, colour: bool = False) -> Path:
    """A picture of its own for each value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (40, 50, 3) if colour else (40, 50), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def table(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def stated(path: Path, **keys: Any) -> DatasetSource:
    """A data set of a table."""
    said = {"name": "mine", "title": "t", "citation": "c", "license": "l", "note": "n", "reader": "table"}
    return DatasetSource.model_validate({**said, "file": str(path), **keys})
