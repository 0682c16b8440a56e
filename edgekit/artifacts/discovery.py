"""Variants that are found by being there: one module or folder of a package each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any


def values(package: str, name: str, *, folders: bool = False) -> Iterator[Any]:
    """What the modules and folders of a package call `name`, in the modules' order; those without it are passed over.

    Args:
        package: dotted name; it may be under way of being imported.
        folders: look into folders only.
    """
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    for module in sorted(module.name for module in modules if module.ispkg or not folders):
        imported = importlib.import_module(f"{package}.{module}")
        if hasattr(imported, name):
            yield getattr(imported, name)
