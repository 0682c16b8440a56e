"""What a bundle is filled with: one file for each kind of content, each module of this folder that has a CONTENT."""

from __future__ import annotations

import importlib
import pkgutil

from edgekit.pack.contents.base import Content, Gathering

__all__ = ["Content", "Gathering", "contents"]


def contents() -> tuple[Content, ...]:
    """All kinds of content, in the order in which they are written: found in this folder, written down nowhere."""
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    found = [content for module in modules if isinstance(content := getattr(module, "CONTENT", None), Content)]
    return tuple(sorted(found, key=lambda content: content.order))
