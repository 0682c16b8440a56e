"""Libraries that only packages need: imported where they are used, and named where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.errors import MissingDependencyError


@contextmanager
def needed(extra: str) -> Iterator[None]:
    """Around the imports of a function: what to install where one of them fails.

    Args:
        extra: of edgekit's distribution, as in `pip install 'edgekit[install]'`.

    Raises:
        MissingDependencyError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{error.name} is not installed", remedy=f"pip install 'edgekit[{extra}]'"
        ) from error
