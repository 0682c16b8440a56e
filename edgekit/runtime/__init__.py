"""Open an artifact: `open_model` finds a backend for every part and composes them."""

from __future__ import annotations

from edgekit.runtime.opening import open_model

__all__ = ["open_model"]
