"""What `onnx_encoders.py` measures: one function a section, which gives a JSON object."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from encoder_job import LLAMA_PATHS
from jobs import disturbed, ratios, run_job, spread, versions
from numpy.typing import NDArray
from PIL import Image
from processes import measure, size_of, warm

from edgekit.artifacts.levels import LEVELS
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.families.gemma3.chat import encode_chat
from edgekit.families.source import open_source
from edgekit.full_precision import processors as hf_inputs
from edgekit.full_precision import streamed
from edgekit.inputs.image import normalize, to_pixels
from edgekit.inputs.passage import passage
from edgekit.inputs.text import load_tokenizer
from edgekit.metrics import cosine

JOB = Path(__file__).with_name("encoder_job.py")
ONNX_LEVELS = tuple(row.name for row in LEVELS.values() if row.format == "onnx")
LLAMA = "F16"  # of the projector file: what llama.cpp's users take; 8 bits are no faster there
DECODER = "Q4_0"
QUESTION_TOKENS = 40
TASK = "zero-shot-image-classification"  # optimum's name for both towers in one graph
MATRIX = (4096, 1152, 4304)  # an image's patches through the wide matrix of so400m
ATTENTION = (4096, 16, 72)
FAST_ENOUGH = 0.998  # mean cosine: what counts as the same picture

# A vision part needs a decoder beside it in llama.cpp, which compares widths; this one has next to no weights.
_NARROW = """extends = "medgemma-4b"
default = "{default}"
[match]
"text_config.hidden_size" = 2560
"vision_config.image_size" = 896
[config]
boi_token_index = 6
eoi_token_index = 7
image_token_index = 2048
eos_token_id = [1, 5]
[config.text_config]
vocab_size = 2112
num_hidden_layers = 1
intermediate_size = 256
"""
_FULL = 'extends = "medgemma-4b"\ndefault = "{default}"\n'


@dataclass(frozen=True)
class Bench:
    """What is measured, and where its files lie.

    Attributes:
        work: stand-ins and artifacts; kept where the user named it, so that another section finds them.
        layers: of towers and decoder, None for all.
        images: of any size; the first is the warm-up.
    """

    work: Path
    layers: int | None
    levels: tuple[str, ...]
    runtimes: tuple[str, ...]
    rounds: int
    images: tuple[NDArray[np.uint8], ...]
    peer: Path | None

    def checkpoint(self, name: str, recipe: str) -> Path:
        """A stand-in of a recipe's shape."""
        folder = self.work / name
        if not folder.exists():
            few = [] if self.layers is None else ["--layers", self.layers, "--vision-layers", self.layers]
            if name == "vision":
                few = few[2:]
            _edgekit("synthesize", recipe, folder, *few)
        return folder

    def recipe(self, name: str, text: str, decoder: str = DECODER) -> str:
        """A recipe file with one variant for each vision level, called like it."""
        variants = (
            f'[variant.{level}]\ndecoder = "{decoder}"\nvision = "{level}"\n' for level in (LLAMA, *ONNX_LEVELS)
        )
        path = self.work / f"{name}-recipe.toml"
        path.write_text(text.format(default=LLAMA) + "".join(variants), encoding="utf-8")
        return str(path)

    def artifact(self, name: str, recipe: str, levels: Sequence[str]) -> Path:
        """The stand-in's artifact with these variants; what an older edgekit left there is made anew."""
        folder = self.work / f"{name}-artifact"
        shutil.rmtree(folder, ignore_errors=True)
        source = self.checkpoint(name, recipe)
        _edgekit("export", source, "--to", folder, "--recipe", recipe, "--no-prove", *_each("--level", levels))
        return folder


def _each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _edgekit(*arguments: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure([sys.executable, "-m", "edgekit", *arguments], Path(folder), Path(folder))


# ---------------------------------------------------------------- encoders


def vision(bench: Bench) -> dict[str, Any]:
    """See `onnx_encoders`."""
    recipe = bench.recipe("vision", _NARROW)
    folder = bench.artifact("vision", recipe, (LLAMA, *bench.levels))
    contenders = [(LLAMA, "default"), *((level, runtime) for level in bench.levels for runtime in bench.runtimes)]
    return _encoders(bench, folder, "vision", contenders)


def siglip(bench: Bench) -> dict[str, Any]:
    """See `onnx_encoders`."""
    levels = ("fp32", *(level for level in bench.levels if level != "fp32"))
    folder = bench.artifact("medsiglip", "medsiglip", levels)
    contenders = [(level, runtime) for level in levels for runtime in bench.runtimes]
    return _encoders(bench, folder, "image_encoder", contenders)


def _encoders(bench: Bench, folder: Path, role: str, contenders: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Every contender in every round; the first is what the others are compared with."""
    source = open_source(folder.with_name(folder.name.removesuffix("-artifact")))
    preprocessing = source.preprocessing
    assert preprocessing is not None, "an encoder of images has a preprocessing"
    pixels = to_pixels(bench.images, preprocessing)
    np.save(bench.work / "pixels.npy", pixels)
    model = streamed.model(streamed.Weights(source))
    expected = hf_inputs.encode(source.family, model, role, normalize(pixels, preprocessing))
    job = {"job": "encode", "folder": str(folder), "role": role, "pixels": str(bench.work / "pixels.npy")}
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {one: [] for one in contenders}
    for number in range(bench.rounds):
        for level, runtime in contenders:
            vectors = bench.work / "vectors.npy"
            found = run_job(JOB, {**job, "level": level, "runtime": runtime, "vectors": str(vectors)})
            width = expected.shape[-1]
            agree = cosine(np.load(vectors).reshape(-1, width), expected.reshape(-1, width))
            samples[level, runtime].append(found | {"mean": float(agree.mean()), "worst": float(agree.min())})
            _say(f"{role} round {number + 1}, {level} {runtime}: {found['seconds']:.3f} s")
    baseline = [sample["seconds"] for sample in samples[contenders[0]]]
    return {
        "images": len(pixels),
        "embeddings": int(np.prod(expected.shape[:-1])),
        "layers": source.config.vision_config.num_hidden_layers,
        "flop": flop(source.config.vision_config),
        "others_share": disturbed(one for found in samples.values() for one in found),
        "rows": [
            {
                "level": level,
                "runtime": "llama.cpp" if level == LLAMA else runtime,
                "seconds": spread([one["seconds"] for one in found]),
                "times_as_fast": ratios(baseline, [one["seconds"] for one in found]),
                "load_s": spread([one["load_s"] for one in found]),
                "cosine": {"mean": round(found[0]["mean"], 6), "worst": round(found[0]["worst"], 6)},
                **{name: max(one[name] for one in found) for name in ("anonymous_bytes", "file_bytes")},
            }
            for (level, runtime), found in samples.items()
        ],
    }


def flop(tower: Any) -> dict[str, int]:
    """Multiplications and additions for one image: matrices, and attention's two products."""
    patches, hidden, mlp = tower.patches, tower.hidden_size, tower.intermediate_size
    layers = tower.num_hidden_layers
    return {
        "matrices": 2
        * patches
        * (layers * (4 * hidden * hidden + 2 * hidden * mlp) + 3 * tower.patch_size**2 * hidden),
        "attention": layers * 4 * patches * patches * hidden,
    }


# ---------------------------------------------------------------- conversion


def conversion(bench: Bench) -> dict[str, Any]:
    """See `onnx_encoders`."""
    recipe = bench.recipe("vision", _NARROW)
    sources = {
        "medgemma vision": bench.checkpoint("vision", recipe),
        "medsiglip": bench.checkpoint("medsiglip", "medsiglip"),
    }
    recipes = {"medgemma vision": recipe, "medsiglip": "medsiglip"}
    costs: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for number in range(bench.rounds):
        for model, source in sources.items():
            for level in bench.levels:
                command = [sys.executable, "-m", "edgekit", "export", source, "--no-prove", "--recipe", recipes[model]]
                costs.setdefault((model, "edgekit", level), []).append(
                    _conversion(bench, source, [*command, "--level", level, "--to"])
                )
        if bench.peer:
            command = [bench.peer, "-m", "optimum.exporters.onnx", "--model", sources["medsiglip"], "--task", TASK]
            costs.setdefault(("medsiglip", "optimum-onnx", "fp32"), []).append(
                _conversion(bench, sources["medsiglip"], command)
            )
        _say(f"conversion round {number + 1}")
    return {
        "peer": versions(bench.peer, ("optimum-onnx", "optimum", "torch", "transformers")) if bench.peer else None,
        "rows": [
            {
                "model": model,
                "tool": tool,
                "level": level,
                "seconds": spread([one["seconds"] for one in found], 1),
                **{
                    name: max(one[name] for one in found)
                    for name in ("anonymous_bytes", "file_bytes", "disk_bytes", "bytes")
                },
            }
            for (model, tool, level), found in costs.items()
        ],
    }


def _conversion(bench: Bench, source: Path, command: Sequence[str | Path]) -> dict[str, Any]:
    """Run a command that takes the folder to write as its last argument."""
    warm(*open_checkpoint(source).shards)
    with tempfile.TemporaryDirectory(dir=bench.work) as work:
        out = Path(work) / "out"
        cost = measure([*command, out], Path(work), out)
        return asdict(cost) | {"bytes": size_of(out)}


# ---------------------------------------------------------------- limits


def limits(bench: Bench) -> dict[str, Any]:
    """See `onnx_encoders`."""
    rows = []
    for operation, shape in (("fp32", MATRIX), ("int8", MATRIX), ("attention", ATTENTION)):
        for runtime in bench.runtimes:
            job = {"job": "rate", "operation": operation, "runtime": runtime, "shape": shape, "runs": 10}
            seconds = [run_job(JOB, job)["seconds"] for _ in range(bench.rounds)]
            flop = 4 * shape[0] ** 2 * shape[1] * shape[2] if operation == "attention" else 2 * int(np.prod(shape))
            rates = spread([flop / 1e9 / one for one in seconds], 1)
            rows.append({"operation": operation, "runtime": runtime, "seconds": spread(seconds, 5), "gflops": rates})
            _say(f"{operation} {runtime}: {rates['median']:.0f} GFLOP/s")
    return {"matrix": MATRIX, "attention": ATTENTION, "rows": rows}


# ---------------------------------------------------------------- first token


def first_token(bench: Bench, fastest: tuple[str, str]) -> dict[str, Any]:
    """See `onnx_encoders`."""
    level, runtime = fastest
    folder = bench.artifact("medgemma", bench.recipe("medgemma", _FULL), (LLAMA, level))
    question = _question(folder)
    samples: dict[str, list[dict[str, Any]]] = {path: [] for path in ("edgekit", *LLAMA_PATHS)}
    for number in range(bench.rounds):
        image = bench.work / "image.png"
        Image.fromarray(bench.images[number % len(bench.images)]).convert("RGB").save(image)
        for path, found in samples.items():
            job = {"job": "first_token", "folder": str(folder), "image": str(image), "question": question, "path": path}
            job |= {"level": level if path == "edgekit" else LLAMA, "runtime": runtime}
            found.append(run_job(JOB, job))
            _say(f"first token round {number + 1}, {path}: {found[-1]['seconds']:.2f} s")
    seconds = {path: [one["seconds"] for one in found] for path, found in samples.items()}
    return {
        "vision": f"{level} in {runtime}",
        "decoder": DECODER,
        "question_tokens": QUESTION_TOKENS,
        "others_share": disturbed(one for found in samples.values() for one in found),
        "rows": [
            {
                "path": path,
                "seconds": spread(seconds[path]),
                "sooner": ratios(seconds[path], seconds["edgekit"]),
                "prompt_tokens": found[0]["prompt_tokens"],
                **{name: max(one[name] for one in found) for name in ("anonymous_bytes", "file_bytes")},
            }
            for path, found in samples.items()
        ],
    }


def _question(folder: Path) -> str:
    """So many words of a text that they make `QUESTION_TOKENS`."""
    tokenizer, words = load_tokenizer(folder / "tokenizer.json"), passage().split()
    fitting = (n for n in range(len(words)) if len(encode_chat(tokenizer, " ".join(words[:n]))) >= QUESTION_TOKENS)
    return " ".join(words[: next(fitting)])


def fastest(measured: Mapping[str, Any] | None) -> tuple[str, str]:
    """Level and runtime of the fastest ONNX vision part whose embeddings are right.

    Raises:
        SystemExit: nothing was measured, or nothing was right.
    """
    rows = [row for row in (measured or {"rows": []})["rows"] if row["runtime"] != "llama.cpp"]
    right = [row for row in rows if row["cosine"]["mean"] >= FAST_ENOUGH]
    if not right:
        raise SystemExit(f"first_token needs a vision part with a cosine of {FAST_ENOUGH}: measure `vision` first")
    best = min(right, key=lambda row: row["seconds"]["median"])
    return best["level"], best["runtime"]


def _say(text: str) -> None:
    print(text, file=sys.stderr)
