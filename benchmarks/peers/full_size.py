"""MedGemma and MedSigLIP at their full shapes: times, memory, shares of the machine's limits, and peers beside them.

    python benchmarks/peers/full_size.py --work ./full-size --to ./measured --install-peers \\
        --peer llama-cpp-python --peer llama-server=PROGRAM --peer onnxruntime-genai --peer optimum-onnx \\
        --peer openvino-genai --peer transformers
    python benchmarks/peers/full_size.py --work ./full-size --to ./measured --model medgemma-27b --level Q4_K_M \\
        --rounds 1 --limit 1

Random weights of the exact shapes: only times and sizes mean anything. What was made in `--work` is used again. Full
precision takes 17 GB of memory; it runs where a peer starts from the checkpoint, and so do that peer's own converters,
of which some take more: what does not fit has its reason in its row, and costs that row alone. MedGemma 27B is measured
where it is asked for: its checkpoint takes 55 GB of the disk, its levels 17 and 11 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_IN_ONNX = ("--part", "vision=int8_dynamic")
# Recipe -> what is exported: a level, and parts in place of its own.
EXPORTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "medgemma-4b": (("Q4_0",), ("Q4_0", *_IN_ONNX), ("Q8_0",)),
    "medsiglip": (("fp32",), ("int8_dynamic",)),
    "medgemma-27b": (("Q4_K_M", *_IN_ONNX), ("Q2_K", *_IN_ONNX)),
    "medgemma-27b-text": (("Q4_K_M",), ("Q2_K",)),
}
_USUAL = ("medgemma-4b", "medsiglip")
_FROM_THE_CHECKPOINT = ("onnxruntime-genai", "optimum-onnx", "openvino-genai", "transformers")


def main() -> None:
    """Make what is not there, measure, write the results."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/peers/full_size.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="checkpoints and artifacts: 30 GB")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="results.json and the reports")
    usual = f"one of them; may be repeated; {' and '.join(_USUAL)} without it"
    parser.add_argument("--model", action="append", choices=EXPORTS, help=usual)
    parser.add_argument("--level", action="append", metavar="NAME", help="export this alone of what a model has here")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[=PROGRAM]")
    parser.add_argument("--install-peers", action="store_true")
    parser.add_argument("--threads", metavar="N,N", help="numbers of threads that levels are timed with, too")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--limit", type=int, metavar="N", help="different images that are asked about")
    parser.add_argument("--layers", type=int, metavar="N", help="of every tower and the decoder, for a quick look")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    recipes = options.model or list(_USUAL)
    artifacts = [made(options.work.resolve(), recipe, options.layers, options.level) for recipe in recipes]
    command = ["bench", *artifacts, "--task", "latency", "--no-controls", "--to", options.to]
    command += ["--rounds", options.rounds]
    if any(peer.split("=")[0] in _FROM_THE_CHECKPOINT for peer in options.peer):
        command += [word for recipe in recipes for word in ("--reference", checkpoint(options.work.resolve(), recipe))]
    command += [word for peer in options.peer for word in ("--peer", peer)]
    command += ["--install-peers"] if options.install_peers else []
    command += ["--threads", options.threads] if options.threads else []
    command += ["--limit", options.limit] if options.limit else []
    sys.exit(edgekit(command, check=False))


def checkpoint(work: Path, recipe: str) -> Path:
    """Where a model's checkpoint lies."""
    return work / f"{recipe}-checkpoint"


def made(work: Path, recipe: str, layers: int | None, levels: Sequence[str] | None) -> Path:
    """A model's artifact; one that is there already is taken as it is.

    Raises:
        SystemExit: none of the levels is one that is exported here.
    """
    source, artifact = checkpoint(work, recipe), work / recipe
    if not (source / "config.json").exists():
        few = [] if layers is None else ["--layers", layers, "--vision-layers", layers]
        edgekit(["synthesize", recipe, source, *few])
    if not (artifact / "edgekit.json").exists():
        chosen = [one for one in EXPORTS[recipe] if not levels or one[0] in levels]
        if not chosen:
            raise SystemExit(f"{recipe}: levels here are {', '.join(sorted({one[0] for one in EXPORTS[recipe]}))}")
        for level, *parts in chosen:
            edgekit(["export", source, "--recipe", recipe, "--to", artifact, "--no-prove", "--level", level, *parts])
    return artifact


def edgekit(arguments: Sequence[object], *, check: bool = True) -> int:
    """One of edgekit's commands."""
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(command, check=check).returncode


if __name__ == "__main__":
    main()
