"""What this machine can do at most: bytes a second out of memory, and multiply-adds a second of large matrices.

A decoder's step reads all of its weights once, so memory's bandwidth bounds it; prompts and images are products of
large matrices, so the rate of those bounds them (the roofline model: Williams, Waterman and Patterson, 2009). A limit
is the best of several tries by whatever library is here: it says what was reached, not what the data sheet promises.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.machine.cpu import cpu

_READ_BYTES = 1 << 29  # well beyond any cache
_TRIES_S = 0.4  # of each limit, but three tries at least
_SHAPE = (1024, 2048, 2048)  # rows, inputs, outputs: large enough that more is no faster
_OPSET, _IR_VERSION = 21, 10
_FLOAT, _UINT8, _INT8 = 1, 2, 3  # TensorProto.DataType


@dataclass(frozen=True)
class Rate:
    """How fast one kind of number is multiplied: operations a second, two for each multiply-add, and by what."""

    per_s: float
    library: str


@dataclass(frozen=True)
class Roofline:
    """The limits of a machine.

    Attributes:
        bandwidth: threads -> bytes a second that they read from memory together.
        rates: `fp32`, `bf16`, `int8` -> the fastest product; what no library here computes in is absent.
    """

    bandwidth: Mapping[int, float]
    rates: Mapping[str, Rate]

    @property
    def bytes_per_s(self) -> float:
        """The largest bandwidth."""
        return max(self.bandwidth.values())

    @property
    def fastest(self) -> str:
        """The kind of number that is multiplied fastest."""
        return max(self.rates, key=lambda name: self.rates[name].per_s)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Roofline:
        """What `to_json` gave, before or after JSON."""
        bandwidth = {int(threads): float(value) for threads, value in data["bandwidth"].items()}
        return cls(bandwidth, {name: Rate(**rate) for name, rate in data["rates"].items()})


def measure(job: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """A worker's work (`edgekit.machine.worker`): the `Roofline` as JSON; it takes some seconds and 0.6 GB.

    Args:
        job: `threads`, numbers of them to measure the bandwidth with; powers of two up to all cores without.
    """
    counts = (job or {}).get("threads") or _counts(cpu().usable_cores)
    yield Roofline({count: bandwidth(count) for count in counts}, rates(cpu().usable_cores)).to_json()


def measure_bandwidth(job: object = None) -> Iterator[dict[str, float]]:
    """A worker's work: number of threads -> bytes a second; again with each number, so that a crash loses the last."""
    found: dict[str, float] = {}
    for count in _counts(cpu().usable_cores):
        found[str(count)] = bandwidth(count)
        yield found


def measure_rates(job: object = None) -> Iterator[dict[str, Any]]:
    """A worker's work: the fields of a `Rate` by kind of number; again with each library that is tried."""
    found: dict[str, Rate] = {}
    for _ in _tried(found, cpu().usable_cores, _SHAPE):
        yield {kind: asdict(rate) for kind, rate in found.items()}


def _counts(cores: int) -> list[int]:
    return sorted({*(1 << power for power in range(cores.bit_length()) if 1 << power <= cores), cores})


def bandwidth(threads: int, size: int = _READ_BYTES) -> float:
    """Bytes a second that so many threads read from memory together, each its own share of `size` bytes."""
    values = np.ones(size // 8, np.int64)
    shares = np.array_split(values, threads)
    with ThreadPoolExecutor(threads) as pool:
        # Two ways of reading; which is the faster depends on the CPU. NumPy lets go of its lock in both.
        best = min(_best_s(lambda read=read: list(pool.map(read, shares))) for read in (np.max, np.bitwise_or.reduce))  # type: ignore[misc]
    return values.nbytes / best


def rates(threads: int, shape: tuple[int, int, int] = _SHAPE) -> dict[str, Rate]:
    """The fastest product of each kind of number, over all libraries that are here."""
    found: dict[str, Rate] = {}
    for _ in _tried(found, threads, shape):
        pass
    return found


def _tried(found: dict[str, Rate], threads: int, shape: tuple[int, int, int]) -> Iterator[None]:
    """Put the fastest rate of each kind into `found`, one try after the other."""
    rows, inputs, outputs = shape
    for kind, library, product in _products(threads, shape):
        rate = Rate(2.0 * rows * inputs * outputs / _best_s(product), library)
        if kind not in found or rate.per_s > found[kind].per_s:
            found[kind] = rate
        yield


def _best_s(call: Callable[[], Any]) -> float:
    call()  # maps pages, wakes threads
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < _TRIES_S:
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _products(threads: int, shape: tuple[int, int, int]) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Kind of number, library, and one product."""
    given = np.random.default_rng(0).standard_normal(shape[:2], np.float32)
    graphs = {"fp32": _float_graph(shape), "int8": _int8_graph(shape)}
    for kind, graph in graphs.items():
        yield kind, "onnxruntime", _in_onnxruntime(graph, given, threads)
    if importlib.util.find_spec("openvino") is None:
        return
    import openvino

    core = openvino.Core()
    for kind in ("fp32", "int8", "bf16"):
        if kind == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            continue  # it would compute in single precision, and not say so
        graph = graphs["fp32" if kind == "bf16" else kind]
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
        yield kind, "openvino", partial(request.infer, {"x": given}, share_inputs=True)


def _in_onnxruntime(graph: bytes, given: NDArray[np.float32], threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"x": given})


# ---------------------------------------------------------------- two small graphs, as onnx.proto writes them


def _float_graph(shape: tuple[int, int, int]) -> bytes:
    weights = np.random.default_rng(1).standard_normal(shape[1:], np.float32)
    return _model([_node("MatMul", ["x", "w"], "y")], {"w": (_FLOAT, weights)}, shape)


def _int8_graph(shape: tuple[int, int, int]) -> bytes:
    """QDQ, as both libraries turn into whole numbers: unsigned activations, signed weights."""
    weights = np.random.default_rng(1).integers(-64, 64, shape[1:]).astype(np.int8)
    stored = {
        "w8": (_INT8, weights),
        "ws": (_FLOAT, np.float32(0.01)),
        "wz": (_INT8, np.int8(0)),
        "s": (_FLOAT, np.float32(8 / 255)),
        "z": (_UINT8, np.uint8(128)),
    }
    nodes = [
        _node("QuantizeLinear", ["x", "s", "z"], "q"),
        _node("DequantizeLinear", ["q", "s", "z"], "d"),
        _node("DequantizeLinear", ["w8", "ws", "wz"], "w"),
        _node("MatMul", ["d", "w"], "y"),
    ]
    return _model(nodes, stored, shape)


def _model(nodes: Sequence[bytes], stored: Mapping[str, tuple[int, Any]], shape: tuple[int, int, int]) -> bytes:
    rows, inputs, outputs = shape
    tensors = (_field(5, _tensor(name, kind, np.asarray(array))) for name, (kind, array) in stored.items())
    given, result = _field(11, _value("x", (rows, inputs))), _field(12, _value("y", (rows, outputs)))
    graph = b"".join([*(_field(1, node) for node in nodes), _field(2, b"limit"), *tensors, given, result])
    return _field(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(2, _OPSET))


def _node(operator: str, inputs: Sequence[str], output: str) -> bytes:
    given = b"".join(_field(1, name.encode()) for name in inputs)
    return given + _field(2, output.encode()) + _field(4, operator.encode())


def _tensor(name: str, kind: int, array: NDArray[Any]) -> bytes:
    dims = b"".join(_field(1, size) for size in array.shape)
    return dims + _field(2, kind) + _field(8, name.encode()) + _field(9, array.tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, dims)))


def _field(number: int, value: int | bytes) -> bytes:
    """One field: a whole number, or bytes behind their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
