"""Known wrong exports, the one list of them. Most have shipped in somebody's converter.

Each is made where the format can express it, and for everyone who has such a file: its tensors, its header or its
graph are others; what opens it hands it other segments, texts or pixels; its manifest says something else; or it is
the export of another checkpoint.
"""

from __future__ import annotations

from wrong_exports.checkpoint import CHECKPOINT
from wrong_exports.entry import Kind, WrongExport
from wrong_exports.graph import GRAPH
from wrong_exports.header import HEADER
from wrong_exports.inputs import INPUTS
from wrong_exports.manifest import MANIFEST
from wrong_exports.runtime import RUNTIME, seen_causally
from wrong_exports.tensors import TENSORS

__all__ = ["WRONG_EXPORTS", "Kind", "WrongExport", "of", "seen_causally"]

WRONG_EXPORTS: tuple[WrongExport, ...] = (*TENSORS, *HEADER, *GRAPH, *RUNTIME, *INPUTS, *MANIFEST, *CHECKPOINT)


def of(*roles: str, file_format: str | None = None, full_width: bool = False) -> list[WrongExport]:
    """Those that a part of these roles can have, in this format, that show at full width."""
    return [
        wrong
        for wrong in WRONG_EXPORTS
        if set(roles) & set(wrong.roles) and file_format in (None, wrong.format) and full_width <= wrong.at_full_width
    ]
