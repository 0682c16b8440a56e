"""Known wrong exports, the one list of them. Most have shipped in somebody's converter.

Each is made where the format can express it, and for everyone who has such a file: its tensors, its header or its
graph are others; what opens it hands it other segments, texts or pixels; its manifest says something else; or it is
the export of another checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from wrong_exports.checkpoint import CHECKPOINT
from wrong_exports.entry import InapplicableError, Kind, WrongExport
from wrong_exports.graph import GRAPH
from wrong_exports.header import HEADER
from wrong_exports.inputs import INPUTS
from wrong_exports.manifest import MANIFEST
from wrong_exports.runtime import RUNTIME, seen_causally
from wrong_exports.tensors import TENSORS

__all__ = ["WRONG_EXPORTS", "InapplicableError", "Kind", "WrongExport", "every", "seen_causally"]

WRONG_EXPORTS: tuple[WrongExport, ...] = (*TENSORS, *HEADER, *GRAPH, *RUNTIME, *INPUTS, *MANIFEST, *CHECKPOINT)


def every(number: int) -> Iterator[tuple[WrongExport, str]]:
    """Mistakes and the part that has them: the first of so many of a kind, a format and a part."""
    counts = Counter[tuple[str, ...]]()
    for wrong in WRONG_EXPORTS:
        for role in wrong.roles:
            if counts[wrong.kind, wrong.format, role] % number == 0:
                yield wrong, role
            counts[wrong.kind, wrong.format, role] += 1
