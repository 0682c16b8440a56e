"""One measurement of encoders in a process of its own: python encoder_job.py JOB ANSWER.

    encode        a vision part or image encoder of an artifact's variant in one runtime: load, seconds of each image
    first_token   one question about one image, by edgekit or by llama-cpp-python's own path
    rate          one large matrix, or one attention, in one runtime: the limits that the machine sets

A job never imports torch: its memory would count.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.inputs.message import Image, Message
from edgekit.machine.cpu import cpu
from edgekit.runtime.base import Encoder, Generation
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.opening import open_model, prepare

Job = Mapping[str, Any]
# What its users have, and the best that they can ask for: the image's encoder takes the option over.
LLAMA_PATHS: Mapping[str, Mapping[str, Any]] = {
    "llama-cpp-python": {},
    "llama-cpp-python, flash attention": {"flash_attn": True},
}


def encode(job: Job) -> dict[str, Any]:
    """`folder`, `level`, `role`, `runtime`; `pixels`: uint8 [n, size, size, 3], a file; the vectors go into `vectors`.

    The first image is a warm-up: its seconds are given apart.
    """
    pixels = np.load(job["pixels"])
    started = time.perf_counter()
    encoder = _encoder(job)
    load_s = time.perf_counter() - started
    vectors, seconds = [], []
    for image in pixels:
        started = time.perf_counter()
        vectors.append(encoder.encode(image[None])[0])
        seconds.append(time.perf_counter() - started)
    np.save(job["vectors"], np.stack(vectors))
    return {"load_s": load_s, "first_s": seconds[0], "seconds": median(seconds[1:] or seconds)}


def _encoder(job: Job) -> Encoder:
    """The part alone; a GGUF one leans on a decoder, of which this benchmark's stand-in has next to nothing."""
    opening = prepare(Path(job["folder"]), job["level"], runtime=job["runtime"])
    if opening.parts[job["role"]].format == "onnx":
        return opening.encoder(job["role"])
    model = open_model(Path(job["folder"]), job["level"], runtime=job["runtime"])
    assert isinstance(model, ChatModel), "a decoder makes a chat model"
    assert model.vision, "and one with a vision part sees"
    return model.vision


def first_token(job: Job) -> dict[str, Any]:
    """`folder`, `level`, `question`, `image` (a file), `path`: `edgekit`, or one of `LLAMA_PATHS`."""
    if job["path"] == "edgekit":
        return _edgekit(job)
    return _llama_cpp_python(job, LLAMA_PATHS[job["path"]])


def _edgekit(job: Job) -> dict[str, Any]:
    model = open_model(Path(job["folder"]), job["level"], context=2048, runtime=job["runtime"])
    *_, done = model.generate([Message("user", Image(Path(job["image"])), job["question"])], max_tokens=1)
    assert isinstance(done, Generation), "the last item of a stream is the finished answer"
    return {"seconds": done.first_token_s, "prompt_tokens": done.prompt_tokens}


def _llama_cpp_python(job: Job, options: Mapping[str, Any]) -> dict[str, Any]:
    """Its high-level class and its generic image handler, with their defaults but for these options."""
    from llama_cpp import Llama
    from llama_cpp.llama_chat_format import MTMDChatHandler
    from PIL import Image

    opening = prepare(Path(job["folder"]), job["level"])
    vision, decoder = opening.encoder_file("vision").path, opening.decoder_file("decoder").files[0]
    handler = MTMDChatHandler(clip_model_path=str(vision), verbose=False)
    threads = cpu().usable_cores
    model = Llama(str(decoder), chat_handler=handler, n_ctx=2048, n_threads=threads, verbose=False, **options)
    buffer = io.BytesIO()
    Image.open(job["image"]).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": job["question"]}]
    started = time.perf_counter()
    answer: Any = model.create_chat_completion([{"role": "user", "content": content}], max_tokens=1, temperature=0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "prompt_tokens": answer["usage"]["prompt_tokens"]}


def rate(job: Job) -> dict[str, Any]:
    """`operation`: `fp32`, `int8` or `attention`; `runtime`; `shape`: rows, inputs, outputs, or tokens, heads, width.

    Seconds of one run, the best of several: a limit is the best that can be had.
    """
    graph, inputs = _OPERATIONS[job["operation"]](*job["shape"])
    call = _compiled(graph.SerializeToString(), inputs, job["runtime"])
    call()
    return {"seconds": min(_seconds(call) for _ in range(job["runs"]))}


def _compiled(model: bytes, inputs: Mapping[str, NDArray[Any]], runtime: str) -> Callable[[], Any]:
    threads = cpu().usable_cores
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, dict(inputs))
    import openvino

    precision = "bf16" if runtime == "openvino-bf16" else "f32"
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU", settings).create_infer_request()
    return lambda: request.infer(dict(inputs), share_inputs=True)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _matrix(rows: int, inputs: int, outputs: int) -> tuple[Any, dict[str, NDArray[Any]]]:
    from onnx import helper, numpy_helper

    weights = _normal((inputs, outputs))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return _graph([node], [numpy_helper.from_array(weights, "w")], [[rows, inputs]]), {"x": _normal((rows, inputs))}


def _int8_matrix(rows: int, inputs: int, outputs: int) -> tuple[Any, dict[str, NDArray[Any]]]:
    """QDQ, as in edgekit's files: unsigned activations, signed weights with a scale for each output."""
    from onnx import helper, numpy_helper

    weights = np.random.default_rng(1).integers(-127, 128, (inputs, outputs)).astype(np.int8)
    stored = {
        "w8": weights,
        "ws": np.full(outputs, 0.001, np.float32),
        "s": np.float32(8 / 255),
        "z": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "ws"], ["w"], axis=1),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    return _graph(nodes, initializers, [[rows, inputs]]), {"x": _normal((rows, inputs))}


def _attention(tokens: int, heads: int, width: int) -> tuple[Any, dict[str, NDArray[Any]]]:
    from onnx import helper

    names, shape = ["x", "k", "v"], (1, tokens, heads * width)
    node = helper.make_node("MultiHeadAttention", names, ["y"], domain="com.microsoft", num_heads=heads)
    return _graph([node], [], [list(shape)] * 3), {name: _normal(shape) for name in names}


def _graph(nodes: list[Any], initializers: list[Any], shapes: list[list[int]]) -> Any:
    from onnx import TensorProto, helper

    named = zip(("x", "k", "v"), shapes, strict=False)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in named]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "limit", inputs, [output], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _normal(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


_OPERATIONS = {"fp32": _matrix, "int8": _int8_matrix, "attention": _attention}
_JOBS = {"encode": encode, "first_token": first_token, "rate": rate}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(_JOBS[asked["job"]](asked)), encoding="utf-8")
