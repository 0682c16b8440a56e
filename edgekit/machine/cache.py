"""The folder of what can be made again: builds of llama.cpp, what was tried and measured on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """$EDGEKIT_CACHE, else edgekit's folder where this system keeps caches; it may not be there yet."""
    if named := os.environ.get("EDGEKIT_CACHE"):
        return Path(named).expanduser().absolute()
    return platformdirs.user_cache_path("edgekit", appauthor=False)
