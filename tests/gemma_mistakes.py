"""Known mistakes of decoders in ONNX: what each replaces, and by what. Most have shipped in a converter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.families.gemma3 import family as medgemma
from edgekit.families.gemma3 import graph as gemma_graph
from edgekit.runtime.onnx.decoder import OrtDecoder

_same_image, _frequencies, _norm = gemma_graph.same_image, gemma_graph.frequencies, medgemma._norm
_step = OrtDecoder.step


def _text(text: Any, **changes: Any) -> Any:
    return text.model_copy(update=changes)


def _local_scaled(text: Any, kind: str) -> Any:
    return _frequencies(text, kind) / (text.rope_factor if kind == gemma_graph.LOCAL else 1)


def _swapped(text: Any, kind: str) -> Any:
    return _frequencies(_text(text, rope_theta=1e4, rope_local_base_freq=1e6), kind)


def _without_one(*args: Any, **options: Any) -> Any:
    return dataclasses.replace(_norm(*args, **options), add_one=False)


def _forgetful_step(decoder: Any, ids: Sequence[int]) -> Any:
    """Positions start over after the prompt."""
    decoder._position = 0
    return _step(decoder, ids)


def _joined(graph: Any, images: str, offsets: str) -> Any:
    return _same_image(graph, graph.op("Min", images, graph.constant(1, np.int64)), offsets)


# Only where two images come in one call can they see each other: a call usually ends before, so the proof asks for a
# longer one.
MISTAKES: Mapping[str, tuple[Any, str, Callable[..., Any]]] = {
    "images see each other": (gemma_graph, "same_image", _joined),
    "images are seen causally": (
        gemma_graph, "same_image", lambda graph, *given: graph.op(
            "And", _same_image(graph, *given), graph.constant(False, bool))),
    "norms lack their one": (medgemma, "_norm", _without_one),
    "global layers are not stretched": (
        gemma_graph, "frequencies", lambda text, kind: _frequencies(_text(text, rope_factor=1.0), kind)),
    "local layers are stretched": (gemma_graph, "frequencies", _local_scaled),
    "bases of rotation are exchanged": (gemma_graph, "frequencies", _swapped),
    "token embeddings are not scaled": (gemma_graph, "embedding_scale", lambda text: 1.0),
    "local layers see everything": (gemma_graph, "window_of", lambda text, kind: None),
    "global layers see a window": (gemma_graph, "window_of", lambda text, kind: text.sliding_window),
    "the window is one too long": (
        gemma_graph, "window_of", lambda text, kind: text.sliding_window + 1 if kind == gemma_graph.LOCAL else None),
    "the window is one too short": (
        gemma_graph, "window_of", lambda text, kind: text.sliding_window - 1 if kind == gemma_graph.LOCAL else None),
    "steps start over": (OrtDecoder, "step", _forgetful_step),
}  # fmt: skip
