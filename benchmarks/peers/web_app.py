"""How long a classifier takes for a picture in a browser, at MedSigLIP's full shape and at the reference model's.

In each round, in turn, the same file sees the same pictures: in headless Chromium, as the web app that
`edgekit pack --target web` makes (onnxruntime-web: WebAssembly with SIMD and threads); in onnxruntime-node, which
stands for ONNX Runtime's packages for phones; and in ONNX Runtime for Python. A time is from pixels to scores, with the
preparation that is in the graph and without decoding; one picture or more comes before those that count. Loading is, in
the browser, from the first request to the page that has tested itself: fetched, hashed, kept, fetched from there,
opened, three pictures scored. A browser begins with nothing kept.

    npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz      # makes ./package
    npm install --prefix ./node onnxruntime-node
    python benchmarks/peers/web_app.py --work ./web --onnxruntime-web package --onnxruntime-node node --terms FILE

Random weights of MedSigLIP's exact shape, of whose text tower, which no classifier has, one layer is made: only times
and sizes mean anything. `--work` takes 5 GB; what lies there is used again. `--terms` is the text of the licence.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jobs import cell, disturbed, run_job, spread, table, where
from PIL import Image

from edgekit.bench.environment import environment
from edgekit.inputs.pictures import pictures
from edgekit.machine.cpu import cpu

_LABELS = ("normal lungs", "pneumonia", "a glioma", "a healthy brain", "no finding")
_SHAPES = ("reference", "full")
_RUNTIMES = ("browser", "node", "python")
_JOB = Path(__file__).with_name("web_app_job.py")


@dataclass(frozen=True)
class Made:
    """A classifier, and the app around it."""

    shape: str
    level: str
    model: Path
    app: Path

    @property
    def bytes(self) -> int:
        """Of the model with its weights."""
        return sum(path.stat().st_size for path in self.model.parent.glob(f"{self.model.name}*"))


def made(options: argparse.Namespace, shape: str) -> list[Made]:
    """A classifier and an app of each level, each step unless its result is there already."""
    work: Path = options.work.resolve()
    artifact, labels = work / f"{shape}-artifact", work / "labels.txt"
    labels.write_text("\n".join(_LABELS), encoding="utf-8")
    found = []
    for level in options.level:
        model, app = work / f"{shape}-{level}" / "findings.onnx", work / f"{shape}-{level}-app"
        if not model.exists():
            recipe = ("--recipe", "medsiglip") if shape == "full" else ()
            edgekit("export", checkpoint(work, shape), *recipe, "--to", artifact, "--no-prove", "--level", level)
            model.parent.mkdir(exist_ok=True)
            edgekit("compile-classifier", artifact, "--labels", labels, "--level", level, "--no-prove", "--to", model)
        if not app.exists():
            terms = ("--terms", options.terms) if options.terms and shape == "full" else ()
            runtime = ("--onnxruntime-web", options.onnxruntime_web)
            edgekit("pack", model, "--target", "web", *runtime, *terms, "--to", app)
        found.append(Made(shape, level, model, app))
    return found


def checkpoint(work: Path, shape: str) -> Path | str:
    """What is exported: a name, or a folder with random weights."""
    if shape == "reference":
        return "medsiglip-reference"
    source = work / "full-checkpoint"
    if not (source / "config.json").exists():
        edgekit("synthesize", "medsiglip", source, "--layers", 1)
    return source


def edgekit(*arguments: object) -> None:
    """One of edgekit's commands."""
    subprocess.run([sys.executable, "-m", "edgekit", *map(str, arguments)], check=True)


def shown(folder: Path, count: int) -> list[str]:
    """Pictures as PNG, which every decoder reads alike."""
    paths = []
    for number, picture in enumerate(pictures()[:count]):
        paths.append(str(folder / f"shown-{number}.png"))
        Image.fromarray(picture).convert("RGB").save(paths[-1])
    return paths


def measured(options: argparse.Namespace, files: Sequence[Made]) -> list[dict[str, Any]]:
    """Every round of every file in every runtime."""
    samples = []
    given = {"pictures": shown(options.work.resolve(), options.pictures), "threads": cpu().usable_cores}
    for number in range(options.rounds):
        for file in files:
            for runtime in options.runtime:
                job = {**given, "job": runtime, "model": str(file.model), "app": str(file.app)}
                if options.onnxruntime_node:
                    job["node"] = str(options.onnxruntime_node.resolve())
                sample = {"shape": file.shape, "level": file.level, "job": runtime, **run_job(_JOB, job)}
                said = sample.get("failed") or f"{median(sample['seconds']):.3f} s a picture"
                print(f"round {number + 1}: {file.shape} {file.level} {runtime}: {said}", file=sys.stderr, flush=True)
                samples.append(sample)
    return samples


def rows(files: Sequence[Made], samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each file in each runtime, and how far its scores are from Python's."""
    found = []
    for file in files:
        of_file = [sample for sample in samples if (sample["shape"], sample["level"]) == (file.shape, file.level)]
        expected = next((one["scores"] for one in of_file if one["job"] == "python" and "scores" in one), None)
        for job in _RUNTIMES:
            own = [sample for sample in of_file if sample["job"] == job]
            if own:
                found.append({"shape": file.shape, "level": file.level, "bytes": file.bytes, **row(own, expected)})
    return found


def row(own: Sequence[Mapping[str, Any]], expected: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    """What one runtime's rounds say together; `failed` where one of them failed."""
    if failed := next((sample["failed"] for sample in own if "failed" in sample), None):
        return {"job": own[0]["job"], "failed": failed}
    pairs = [
        abs(one - other)
        for sample in own
        for scores, others in zip(sample["scores"], expected or (), strict=False)
        for one, other in zip(scores, others, strict=True)
    ]
    return {
        "job": own[0]["job"],
        "runtime": own[0]["runtime"],
        "threads": own[0]["threads"],
        "seconds": spread([second for sample in own for second in sample["seconds"]], 4),
        "load_s": spread([sample["load_s"] for sample in own], 2),
        "memory_bytes": max(sample["anonymous_bytes"] for sample in own),
        "apart": max(pairs, default=None),
    }


def markdown(result: Mapping[str, Any]) -> str:
    """The table for people."""
    lines = []
    for one in result["rows"]:
        named = [one["shape"], one["level"], f"{one['bytes'] / 1e6:.1f}"]
        if "failed" in one:
            lines.append([*named, one["job"], one["failed"], "", "", "", ""])
            continue
        apart = "-" if one["apart"] is None else f"{one['apart']:.1g}"
        memory, times = f"{one['memory_bytes'] / 1e9:.2f}", cell(one["seconds"], 3)
        lines.append([*named, one["runtime"], str(one["threads"]), times, cell(one["load_s"]), memory, apart])
    head = ["shape", "level", "MB", "runtime", "threads", "s a picture", "loading, s", "memory, GB", "scores apart"]
    said = f"{result['rounds']} rounds of {result['pictures']} pictures; median (least to greatest)."
    memory = "Memory is the peak of what the process and its children have for themselves: all of the browser."
    return "\n".join([*table(head, lines), "", f"{said} {memory}", "", where(result["environment"], result["others"])])


def main() -> None:
    """Make what is not there, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--onnxruntime-web", type=Path, required=True, metavar="FOLDER", help="npm's package")
    parser.add_argument("--onnxruntime-node", type=Path, metavar="FOLDER", help="what has its node_modules")
    parser.add_argument("--terms", type=Path, metavar="FILE", help="the text of the full model's licence")
    parser.add_argument("--shape", action="append", choices=_SHAPES, help="one of them; both without it")
    parser.add_argument("--level", action="append", metavar="NAME", help="int8 and q4 without it")
    parser.add_argument("--runtime", action="append", choices=_RUNTIMES, help="one of them; all without it")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--pictures", type=int, default=3, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures here, as JSON")
    options = parser.parse_args()
    options.level = options.level or ["int8", "q4"]
    options.runtime = options.runtime or [one for one in _RUNTIMES if one != "node" or options.onnxruntime_node]
    if "node" in options.runtime and not options.onnxruntime_node:
        parser.error("--runtime node takes --onnxruntime-node FOLDER")
    options.work.mkdir(parents=True, exist_ok=True)
    files = [file for shape in options.shape or _SHAPES for file in made(options, shape)]
    samples = measured(options, files)
    result = {
        "what": __doc__,
        "environment": asdict(environment()),
        "others": disturbed(samples),
        "rounds": options.rounds,
        "pictures": options.pictures,
        "rows": rows(files, samples),
        "samples": samples,
    }
    print(markdown(result))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
