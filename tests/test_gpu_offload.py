"""A model divided between a GPU and the CPU: as much as a budget holds, and it computes what the CPU does."""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit import GenerationOptions, Image, Message
from edgekit.artifacts import manifest
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.formats.gguf.library import libraries_in, library
from edgekit.inputs.phantoms import draw
from edgekit.machine import worker
from edgekit.planning.offload import Plan, Sizes, plan
from edgekit.runtime import open_model
from edgekit.runtime.base import Tokens
from edgekit.runtime.llama.cache_form import CacheForm
from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision
from edgekit.runtime.llama.gpu_build import GpuBuild
from edgekit.runtime.llama.offload import decoder_sizes, vision_bytes

# ---------------------------------------------------------------- the plan

BYTES = st.integers(1, 10**10)
SIZES = st.builds(Sizes, BYTES, st.lists(BYTES, max_size=40).map(tuple), st.just(0) | BYTES)
BUDGET = st.integers(-(10**9), 10**12)


def taken(sizes: Sizes, planned: Plan) -> int:
    """What a plan takes, counted apart from it."""
    layers = sizes.layers[len(sizes.layers) - max(planned.layers - 1, 0) :]
    return sizes.vision * planned.vision + sizes.output * (planned.layers > 0) + sum(layers)


@given(BUDGET, SIZES)
def test_a_plan_is_never_over_its_budget(budget: int, sizes: Sizes) -> None:
    planned = plan(budget, sizes)
    assert planned.bytes == taken(sizes, planned) <= max(budget, 0)
    assert planned.layers <= len(sizes.layers) + 1
    assert sizes.vision or not planned.vision


@given(BUDGET, BUDGET, SIZES)
def test_a_larger_budget_never_holds_less(one: int, other: int, sizes: Sizes) -> None:
    less, more = (plan(budget, sizes) for budget in sorted((one, other)))
    assert less.bytes <= more.bytes
    assert (less.vision, less.layers) <= (more.vision, more.layers)


@given(BUDGET, SIZES)
def test_nothing_that_would_fit_is_left_out(budget: int, sizes: Sizes) -> None:
    planned = plan(budget, sizes)
    if planned.layers <= len(sizes.layers):
        assert taken(sizes, dataclasses.replace(planned, layers=planned.layers + 1)) > budget
    if sizes.vision and not planned.vision:
        assert sizes.vision > budget


@given(SIZES)
def test_all_of_it_fits_where_all_of_it_has_room(sizes: Sizes) -> None:
    whole = Plan(len(sizes.layers) + 1, sizes.vision > 0, sizes.all)
    assert plan(sizes.all, sizes) == whole
    assert plan(sizes.all - 1, sizes) != whole


def test_sizes_are_those_of_the_files(decoder: Path, projector: Path) -> None:
    header, form = read_header(decoder), CacheForm()
    output, layers = decoder_sizes(header, 512, 1024, form)
    assert len(layers) == header.integer("gemma3.block_count")
    weights = sum(tensor.bytes for tensor in header.tensors.values())
    assert sum(layers) < weights + sum(cache_of(header, 1024))
    longer = decoder_sizes(header, 512, 8192, form)[1]
    twice = decoder_sizes(header, 512, 1024, dataclasses.replace(form, sequences=2))[1]
    assert [b - a for a, b in zip(layers, twice, strict=True)] == cache_of(header, 1024)
    assert all(b >= a for a, b in zip(layers, longer, strict=True))
    assert output > header.tensors["token_embd.weight"].bytes, "a tied matrix lies on the GPU a second time"
    assert vision_bytes(read_header(projector)) > projector.stat().st_size * 0.9


def cache_of(header: GgufHeader, context: int) -> list[int]:
    """Keys and values in half precision, of a context that no window or batch is longer than."""
    heads = header.integer("gemma3.attention.head_count_kv")
    widths = header.integer("gemma3.attention.key_length") + header.integer("gemma3.attention.value_length")
    layers, window = header.integer("gemma3.block_count"), header.integer("gemma3.attention.sliding_window")
    held = [context if (layer + 1) % 6 == 0 else min(context, window + 512) for layer in range(layers)]
    return [2 * heads * widths * positions for positions in held]


# ---------------------------------------------------------------- on a GPU, or Mesa's software device

TOKENS, STEPS, CONTEXT = 48, 4, 256

# Relative errors (L2) against the CPU. A GPU's kernels sum in another order, and round factors to half precision.
MOST_OFF = 0.02


def computed(job: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Logits of a prompt and some steps, an image's vectors, and the library's lines about memory of a GPU."""
    lib, said = library(), []

    def keep(level: int, text: bytes, user_data: Any) -> None:
        said.append(text.decode("utf-8", "replace"))

    callback = lib.llama_log_callback(keep)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    form = {"image_tokens": job["image_tokens"], "threads": 2}
    with closing(LlamaDecoder(Path(job["decoder"]), context=CONTEXT, gpu_layers=job["layers"], **form)) as decoder:
        ids = [int(token) for token in np.random.default_rng(3).integers(3, 200, TOKENS + STEPS)]
        rows = [*decoder.prefill([Tokens(tuple(ids[:TOKENS]))], range(TOKENS))]
        rows += [decoder.step((token,)) for token in ids[TOKENS:]]
        yield "logits", base64.b64encode(np.stack(rows).tobytes()).decode()
        size, tokens = job["size"], job["image_tokens"]
        with closing(LlamaVision(Path(job["vision"]), decoder, size=size, image_tokens=tokens, gpu=job["eye"])) as eye:
            image = np.random.default_rng(4).integers(0, 256, (1, size, size, 3), np.uint8)
            yield "vectors", base64.b64encode(eye.encode(image).tobytes()).decode()
    yield "said", "".join(line for line in said if "buffer size" in line)


def answered(job: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What an artifact answers here, where it ran, and what was said."""
    with open_model(Path(job["folder"]), "Q4_0", context=CONTEXT) as model:
        question = [Message("user", Image(draw(30260, 3).image), "What is the main finding in this image?")]
        texts = list(model.generate(question, GenerationOptions(max_tokens=8)))
        yield {
            "text": "".join(piece for piece in texts if isinstance(piece, str)),
            "runtimes": dict(model.runtimes),
            "warnings": model.warnings,
        }


Results = dict[str, Any]
Run = Callable[[int, bool], Results]


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions above


@pytest.fixture(scope="module")
def run(gpu_build: GpuBuild, medgemma_artifact: Path, decoder: Path, projector: Path) -> Run:
    """Some layers, and the vision part or not, on the GPU; on the CPU in the installed build for less than none."""
    read = manifest.read(medgemma_artifact)
    assert read.preprocessing
    fixed = {"size": read.preprocessing.size, "image_tokens": read.settings["image_tokens"]}
    files = {"decoder": str(decoder), "vision": str(projector)}

    @cache
    def results(layers: int, eye: bool) -> Results:
        job = {**fixed, **files, "layers": max(layers, 0), "eye": eye}
        environment = libraries_in(gpu_build.libraries) if layers >= 0 else {}
        found, end = worker.run(computed, job, limit_s=1800, environment=environment)
        assert not end.problem, end.problem
        named = dict(map(tuple, found))
        arrays = {name: np.frombuffer(base64.b64decode(named[name]), np.float32) for name in ("logits", "vectors")}
        return {**arrays, "said": named["said"]}

    return results


def on_gpu(said: str) -> dict[str, float]:
    """Bytes of the library's buffers on a GPU, by what they are for: model, KV, compute."""
    sizes: dict[str, float] = {}
    for device, use, mebibytes in re.findall(r"(\S+) +(model|KV|compute|RS) buffer size = +([\d.]+) MiB", said):
        if not device.startswith(("CPU", "Vulkan_Host", "CUDA_Host")):
            sizes[use] = sizes.get(use, 0) + float(mebibytes) * 2**20
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_gpu_computes_what_the_cpu_does(run: Run, decoder: Path, share: float) -> None:
    most = read_header(decoder).integer("gemma3.block_count") + 1
    layers = round(share * most)
    right, found = run(-1, False), run(layers, False)
    off = relative(found["logits"], right["logits"])
    print(f"{layers} of {most} layers: logits off by {off:.2g}")
    assert off <= (MOST_OFF if layers else 1e-6)
    assert relative(found["vectors"], right["vectors"]) <= 1e-6, "the vision part stays on the CPU"
    assert set(on_gpu(found["said"])) == ({"model", "KV", "compute"} if layers > 1 else set())


@pytest.mark.slow
def test_the_vision_part_on_a_gpu(run: Run) -> None:
    right, found = run(-1, False), run(0, True)
    cosine = float(right["vectors"] @ found["vectors"]) / float(
        np.linalg.norm(right["vectors"]) * np.linalg.norm(found["vectors"])
    )
    print(f"vision: off by {relative(found['vectors'], right['vectors']):.2g}, cosine {cosine:.7f}")
    assert 0 < relative(found["vectors"], right["vectors"]) <= MOST_OFF
    assert relative(found["logits"], right["logits"]) <= 1e-6, "the decoder stays on the CPU"


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 1])
def test_no_more_memory_is_taken_than_was_planned(run: Run, decoder: Path, share: float) -> None:
    header = read_header(decoder)
    layers = round(share * (header.integer("gemma3.block_count") + 1))
    output, each = decoder_sizes(header, 512, CONTEXT, CacheForm())
    taken_there = on_gpu(run(layers, False)["said"])
    planned = output + sum(each[len(each) + 1 - layers :])
    print(f"{layers} layers: {taken_there}, planned {planned}")
    assert 0 < sum(taken_there.values()) <= planned * 1.02 + 2**20


def relative(found: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def answer(folder: Path, **environment: str) -> Mapping[str, Any]:
    found, end = worker.run(answered, {"folder": str(folder)}, limit_s=1800, environment=environment)
    assert not end.problem, end.problem
    return dict(found[0])


@pytest.mark.slow
def test_an_artifact_answers_the_same_from_a_gpu(gpu_build: GpuBuild, medgemma_artifact: Path) -> None:
    usual = answer(medgemma_artifact)
    whole = answer(medgemma_artifact, EDGEKIT_GPU_MEMORY="auto")
    none = answer(medgemma_artifact, EDGEKIT_GPU_MEMORY="0.000001")
    assert whole["text"] == usual["text"] == none["text"]
    assert "layers on" in whole["runtimes"]["decoder"]
    assert " on " in whole["runtimes"]["vision"]
    assert not any("GPU" in warning or "on the CPU" in warning for warning in [*whole["warnings"], *usual["warnings"]])
    assert any("0 of" in warning and "the rest on the CPU" in warning for warning in none["warnings"])


@pytest.mark.slow
def test_a_gpu_that_vanished_is_said_and_the_cpu_answers(gpu_build: GpuBuild, medgemma_artifact: Path) -> None:
    gone = {"GGML_VK_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "", "VK_DRIVER_FILES": "/nowhere.json"}
    gone |= {"VK_ICD_FILENAMES": "/nowhere.json"}
    if gpu_build.kind.name == "metal":
        pytest.skip("an Apple GPU does not vanish")
    found = answer(medgemma_artifact, EDGEKIT_GPU_MEMORY="auto", **gone)
    assert found["text"] == answer(medgemma_artifact)["text"]
    assert any(warning.startswith("on the CPU and not on a GPU: ") for warning in found["warnings"])
    assert "layers on" not in found["runtimes"]["decoder"]
