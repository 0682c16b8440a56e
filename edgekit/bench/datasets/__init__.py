"""Data sets by name: one row of `SOURCES` in a file of this folder each; a file that is added is found."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from edgekit.bench.datasets.base import Dataset, DatasetSource, Sample
from edgekit.errors import UsageError

__all__ = ["Dataset", "DatasetSource", "Sample", "load", "source", "sources"]


@cache
def sources() -> Mapping[str, DatasetSource]:
    """Every data set, in the files' alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}."))
    rows = [row for name in names for row in getattr(importlib.import_module(name), "SOURCES", ())]
    return MappingProxyType({row.name: row for row in rows})


def source(name: str) -> DatasetSource:
    """The source of this name.

    Raises:
        UsageError: there is none; the message lists those that exist.
    """
    if name not in sources():
        raise UsageError(f"unknown dataset {name!r}", allowed=", ".join(sources()))
    return sources()[name]


def load(name: str, limit: int, seed: int, data: Path | None) -> Dataset:
    """Up to `limit` samples of a data set, the same ones for the same seed.

    Args:
        data: the user's folder of real data.

    Raises:
        UsageError: there is no such data set, or it needs a data folder and none was given.
        InputError: its file is missing or damaged.
    """
    origin = source(name)
    if origin.file is not None and data is None:
        raise UsageError(f"the dataset {name} needs a data folder", remedy=f"--data DIR, with {origin.file} in it")
    return Dataset(origin, origin.load(origin, limit, seed, data))
