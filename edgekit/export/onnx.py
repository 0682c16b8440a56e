"""Write one part as an ONNX file: the graph traced without weights, the weights streamed from the checkpoint.

transformers' own modules are traced under FakeTensorMode, so the graph costs no memory for weights, and its
initializers are then bound to lazy readers of the checkpoint: a float weight is in memory only while it is written, an
int8 one until the file is.
Quantized levels are plain QDQ, which ONNX Runtime and OpenVINO both run as integer arithmetic.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import codecs
from edgekit.checkpoint import Checkpoint
from edgekit.errors import CheckpointError, MissingDependencyError
from edgekit.export.plan import PartPlan, Planned, Progress
from edgekit.runtime.torch_reference import build, torch

OPSET = 20  # the first with Gelu as one operator
INLINE_BYTES = 1024  # shape inference cannot read constants from external data
INPUTS = {"image_encoder": "pixel_values", "text_encoder": "input_ids"}
OUTPUTS = ("last_hidden_state", "pooler_output")


def write(
    plan: PartPlan,
    path: Path,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    progress: Progress = lambda weights: None,
) -> None:
    """Write a part and its external data (`NAME.onnx_data`).

    Args:
        ranges: least and greatest value of each activation that enters a quantized matrix, from `calibrate.measure`.

    Raises:
        CheckpointError: a weight is missing or not finite.
    """
    ir = _ir()
    model = graph(plan)
    bind(model, plan, progress)
    if plan.level.calibrated:
        if ranges is None:
            raise ValueError(f"level {plan.level.name} needs calibration")
        _quantize(model, plan, ranges)
    ir.save(model, path, external_data=f"{path.name}_data", size_threshold_bytes=INLINE_BYTES)


def graph(plan: PartPlan) -> Any:
    """The traced graph of a part as an onnx-ir model, its weights not bound; traced once for all levels."""
    key = (plan.family.name, plan.role, plan.config.model_dump_json())
    if key not in _TRACED:
        _TRACED[key] = _trace(plan)
    return _TRACED[key].clone()


_TRACED: dict[tuple[str, str, str], Any] = {}


def _trace(plan: PartPlan) -> Any:
    th = torch()
    from torch._subclasses.fake_tensor import FakeTensorMode

    _ir()
    with _Quiet(), FakeTensorMode():
        module = _Encoder.of(build(plan.family, plan.config), plan.role, th)
        program = th.onnx.export(
            module,
            (_example(plan, th),),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUTS[plan.role]],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: th.export.Dim("batch")},),
        )
    return program.model


def bind(model: Any, plan: PartPlan, progress: Progress = lambda weights: None) -> None:
    """Bind every initializer to the checkpoint, fold constants, and turn stored transposes into stored weights."""
    import onnxscript.optimizer

    ir = _ir()
    planned = {entry.slot.name: entry for entry in plan.tensors}
    for name, value in list(model.graph.initializers.items()):
        if name in planned:
            value.const_value = _lazy(ir, plan.checkpoint, planned[name], name, progress)
        elif name.endswith("position_ids"):  # a buffer that transformers derives
            value.const_value = ir.tensor(np.arange(value.shape[-1], dtype=np.int64)[None], name=name)
        else:
            raise CheckpointError(f"{plan.role}: the graph needs {name}, which no tensor of the checkpoint gives")
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is not None and source.name in planned:
            entry = planned[source.name]
            name = f"{source.name}.transposed"
            turned = ir.Value(
                name=name,
                shape=ir.Shape(entry.slot.shape[::-1]),
                type=ir.TensorType(ir.DataType.FLOAT),
                const_value=_lazy(ir, plan.checkpoint, entry, name, progress, turn=True),
            )
            model.graph.register_initializer(turned)
            node.outputs[0].replace_all_uses_with(turned)
            model.graph.remove(node, safe=True)
    with _Quiet():
        onnxscript.optimizer.optimize_ir(model, input_size_limit=1024, output_size_limit=1024)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses():
            del model.graph.initializers[name]
    model.producer_name, model.producer_version, model.doc_string = "edgekit", None, None
    for node in model.graph:  # traces carry this machine's paths
        node.metadata_props.clear()
        node.doc_string = None
    for value in [*model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]:
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def quantized_inputs(model: Any, plan: PartPlan) -> list[tuple[Any, Planned, bool]]:
    """Nodes that multiply by a matrix of a quantized codec: (node, matrix, whether it is stored transposed)."""
    found = []
    for node in model.graph:
        if node.op_type in ("MatMul", "Gemm") and node.inputs[1] is not None:
            name = node.inputs[1].name or ""
            turned = name.endswith(".transposed")
            entry = {p.slot.name: p for p in plan.tensors}.get(name.removesuffix(".transposed"))
            if entry is not None and entry.codec == "int8":
                found.append((node, entry, turned))
    return found


def _quantize(model: Any, plan: PartPlan, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Put QuantizeLinear/DequantizeLinear around activations and DequantizeLinear behind int8 weights."""
    ir = _ir()
    activations: dict[str, Any] = {}
    for node, entry, turned in quantized_inputs(model, plan):
        activation = node.inputs[0]
        if activation.name not in activations:
            activations[activation.name] = _fake_quantize(ir, model, node, activation, ranges[activation.name])
        node.replace_input_with(0, activations[activation.name])
        weights = plan.checkpoint.read(entry.tensor)
        scale = codecs.int8_scales(weights)
        values = codecs.int8_values(weights, scale)
        name, matrix = entry.slot.name, node.inputs[1]
        stored = [
            _constant(ir, model, f"{name}.int8", np.ascontiguousarray(values.T) if turned else values),
            _constant(ir, model, f"{name}.scale", scale.ravel()),
        ]
        dequantize = ir.node("DequantizeLinear", stored, {"axis": 1 if turned else 0})
        dequantize.outputs[0].name = f"{name}.dequantized"
        model.graph.insert_before(node, [dequantize])
        node.replace_input_with(1, dequantize.outputs[0])
        if not matrix.uses():
            del model.graph.initializers[matrix.name]


def _fake_quantize(ir: Any, model: Any, node: Any, value: Any, limits: tuple[float, float]) -> Any:
    """Asymmetric uint8: x86's integer dot products take unsigned activations and signed weights."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = np.float32(max(high - low, 1e-12) / 255)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    constants = [
        _constant(ir, model, f"{value.name}.activation_scale", scale),
        _constant(ir, model, f"{value.name}.zero", zero),
    ]
    quantize = ir.node("QuantizeLinear", [value, *constants])
    quantize.outputs[0].name = f"{value.name}.quantized"
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *constants])
    dequantize.outputs[0].name = f"{value.name}.dequantized"
    model.graph.insert_before(node, [quantize, dequantize])
    return dequantize.outputs[0]


def _constant(ir: Any, model: Any, name: str, array: Any) -> Any:
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _lazy(ir: Any, checkpoint: Checkpoint, entry: Planned, name: str, progress: Progress, turn: bool = False) -> Any:
    shape = entry.slot.shape[::-1] if turn else entry.slot.shape

    def read() -> Any:
        weights = checkpoint.read(entry.tensor)
        progress(weights.size)
        return ir.tensor(np.ascontiguousarray(weights.T) if turn else weights, name=name)

    return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name, cache=False)


class _Encoder:
    """Wraps one tower so that initializers get the checkpoint's names and outputs come in a fixed order."""

    @staticmethod
    def of(model: Any, role: str, th: Any) -> Any:
        attribute = {"image_encoder": "vision_model", "text_encoder": "text_model"}[role]

        class Tower(th.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                setattr(self, attribute, getattr(model, attribute))

            def forward(self, batch: Any) -> Any:
                output = getattr(self, attribute)(batch)
                return output.last_hidden_state, output.pooler_output

        return Tower().eval()


def _example(plan: PartPlan, th: Any) -> Any:
    """Two items: a batch of one would be traced as a constant."""
    if plan.role == "text_encoder":
        return th.zeros((2, plan.config.text_config.max_position_embeddings), dtype=th.long)
    size = plan.config.vision_config.image_size
    return th.zeros((2, 3, size, size))


class _Quiet:
    """torch's exporter warns about libraries that edgekit leaves out on purpose and about its own internals."""

    def __enter__(self) -> None:
        self._filters = warnings.catch_warnings()
        self._filters.__enter__()
        warnings.simplefilter("ignore")
        self._loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *details: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        self._filters.__exit__(None, None, None)


def _ir() -> Any:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"ONNX export needs {error.name}", remedy="pip install 'edgekit[export]'"
        ) from error
    return onnx_ir


Ranges = dict[str, tuple[float, float]]
