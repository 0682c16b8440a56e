"""Trains both reference models: `python -m edgekit.reference_models.training.train --data DIR --work DIR`.

Stages run in order and each resumes where it was stopped. Everything between them lies in the work folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from edgekit.reference_models.training import (
    folder,
    loop,
    tokenizers,
    train_decoder,
    train_siglip,
    train_text,
    train_tower,
)

# Optimizer steps of each stage in the shipped weights.
STEPS = {"siglip": 2800, "text": 240, "tower": 640, "decoder": 600}
START = 1403  # the step of `siglip` at which MedGemma's tower starts from it


def _tokenizers(data: Path, work: Path) -> None:
    if (work / "tokenizer.model").is_file() and (work / "spiece.model").is_file():
        return
    texts = list(tokenizers.corpus(data))
    (work / "tokenizer.model").write_bytes(tokenizers.train_gemma(texts))
    (work / "spiece.model").write_bytes(tokenizers.train_siglip(texts))


def _siglip_start(data: Path, work: Path) -> None:
    """MedGemma's tower starts from this one, so that both can be trained at once."""
    if not (work / "siglip-start.pt").is_file():
        train_siglip.train(data, work, STEPS["siglip"], until=START)
        shutil.copy(work / "siglip.pt", work / "siglip-start.pt")


def _cache(data: Path, work: Path) -> None:
    if not (work / "cache-vqa.npy").is_file():
        train_tower.cache(data, work)


def _write(data: Path, work: Path) -> None:
    gemma, siglip = work / "medgemma-reference", work / "medsiglip-reference"
    folder.write_gemma(gemma, train_decoder.load(work), (work / "tokenizer.model").read_bytes())
    folder.write_siglip(siglip, train_siglip.load(work), (work / "spiece.model").read_bytes())
    print(f"wrote {gemma} and {siglip}")


STAGES: dict[str, Callable[[Path, Path], None]] = {
    "tokenizers": _tokenizers,
    "siglip-start": _siglip_start,
    "siglip": lambda data, work: train_siglip.train(data, work, STEPS["siglip"]),
    "text": lambda data, work: train_text.train(data, work, STEPS["text"]),
    "tower": lambda data, work: train_tower.train(data, work, STEPS["tower"]),
    "cache": _cache,
    "decoder": lambda data, work: train_decoder.train(data, work, STEPS["decoder"]),
    "write": _write,
}


def main() -> int:
    """The command line; 130 after it was told to stop."""
    parser = argparse.ArgumentParser(prog="python -m edgekit.reference_models.training.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="only this stage; may be repeated")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        for name in given.stage or STAGES:
            STAGES[name](given.data, given.work)
    except loop.StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
