"""Whether a data set is here, and what to do where it is not: what to get, from where, under which licence."""

from __future__ import annotations

from pathlib import Path

from edgekit.bench.datasets import hub
from edgekit.bench.datasets.schema import DatasetSource
from edgekit.errors import EdgekitError, InputError, UsageError


def is_here(source: DatasetSource, data: Path | None) -> bool:
    """Whether a data set needs nothing, or what it needs is in the user's folder or in the hub's cache."""
    if source.file is None and source.hub is None:
        return True
    return source.located(data) is not None or (source.hub is not None and hub.cached(source.hub) is not None)


def missing(source: DatasetSource, data: Path | None) -> EdgekitError:
    """The error for a data set that is not here."""
    download = f"--download, which fetches {source.hub.id} from the hub" if source.hub else ""
    if source.file is None:
        return UsageError(f"the dataset {source.name} is not in the hub's cache", remedy=f"{download}: {source.to_get}")
    if data is None:
        ways = " or ".join(filter(None, (f"--data DIR, with {source.file} in it", download)))
        return UsageError(f"the dataset {source.name} needs a data folder", remedy=f"{ways}: {source.to_get}")
    ways = ", or ".join(filter(None, (f"give the folder that holds {source.file} as --data", download)))
    return InputError(f"{data / source.file} does not exist", remedy=f"{ways}: {source.to_get}")
