"""Measure the range of every activation that a static int8 level quantizes, on the float32 graph.

Ranges are the least and greatest values over the calibration inputs, one item at a time, so that memory stays at one
item's activations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.export import onnx
from edgekit.export.plan import PartPlan
from edgekit.inputs.image import normalize, to_pixels
from edgekit.inputs.passage import sentences
from edgekit.reference import phantoms
from edgekit.reference.vocabulary import ALL_LABELS, class_prompts

SEED = 40_260  # of the phantoms; training, proof and benchmarks use others
IMAGES = 64


def measure(plan: PartPlan, batches: Iterable[NDArray[Any]], step: Callable[[], None] = lambda: None) -> onnx.Ranges:
    """Least and greatest value of each quantized matrix's input, by value name.

    Args:
        batches: inputs as the graph takes them: float32 pixels [n, 3, size, size] or int64 ids [n, length].
        step: called after each batch.
    """
    import onnx_ir
    import onnxruntime

    model = onnx.graph(plan)
    onnx.bind(model, plan)
    watched = {node.inputs[0].name: node.inputs[0] for node, _, _ in onnx.quantized_inputs(model, plan)}
    for value in watched.values():
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
    ranges: onnx.Ranges = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibrate.onnx"
        onnx_ir.save(model, path, external_data="calibrate.onnx_data", size_threshold_bytes=onnx.INLINE_BYTES)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for batch in batches:
            for name, found in zip(watched, session.run(list(watched), {onnx.INPUTS[plan.role]: batch}), strict=True):
                low, high = ranges.get(name, (0.0, 0.0))
                ranges[name] = (min(low, float(found.min())), max(high, float(found.max())))
            step()
        del session
    return ranges


def shipped(plan: PartPlan) -> Iterator[NDArray[Any]]:
    """Calibration inputs that come with edgekit: phantoms of a seed of their own, or sentences and label prompts."""
    if plan.role == "text_encoder":
        from edgekit.inputs.prompt import encode_siglip, load_tokenizer

        tokenizer = load_tokenizer(plan.checkpoint.root / "tokenizer.json")
        text = plan.config.text_config
        for caption in (*sentences(), *(p for label in ALL_LABELS for p in class_prompts(label))):
            yield encode_siglip(tokenizer, [caption], text.max_position_embeddings, text.pad_id)
        return
    preprocessing = plan.family.preprocessing(plan.checkpoint, plan.config)
    assert preprocessing is not None, "only encoders of images and texts are calibrated"
    for phantom in phantoms.generate(SEED, IMAGES):
        yield normalize(to_pixels([phantom.image], preprocessing), preprocessing)
