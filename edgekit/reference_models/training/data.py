"""Readers of the training data: radiology images, VQA-RAD, MedQuAD. All take the folder given as `--data`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.errors import InputError

MEDQUAD_HELD_OUT = 10  # every tenth question/answer pair is never trained on


@dataclass(frozen=True)
class Radiograph:
    """One labelled image: greyscale uint8 of shape (160, 160), with `patient` naming who or what it shows."""

    pixels: np.ndarray
    modality: str
    label: str
    patient: str


@dataclass(frozen=True)
class ImageQuestion:
    """One VQA-RAD question; `image` is a file name inside the data folder's `vqa_rad`."""

    image: str
    question: str
    answer: str
    closed: bool


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy="give the folder that holds the training data as --data")
    return path


def radiographs(data: Path, split: str) -> list[Radiograph]:
    """The images of one split (`train`, `val` or `test`) in the order of index.csv."""
    with zipfile.ZipFile(_existing(data / "radiology-160.zip")) as archive:
        rows = csv.DictReader(io.TextIOWrapper(archive.open("index.csv"), encoding="utf-8"))
        return [
            Radiograph(
                np.asarray(Image.open(io.BytesIO(archive.read(row["file"]))).convert("L")),
                row["modality"],
                row["label"],
                row["patient"],
            )
            for row in rows
            if row["split"] == split
        ]


def vqa_rad(data: Path, split: str) -> list[ImageQuestion]:
    """VQA-RAD questions of one of Google's balanced splits (`train`, `validation` or `test`)."""
    with _existing(data / "vqa_rad" / "vqa_rad_google_split.tsv").open(encoding="utf-8") as handle:
        rows = csv.DictReader(handle, delimiter="\t")
        ids = {int(row["QID_unique"]) for row in rows if row["SPLIT_BALANCED"] == split}
    questions = json.loads(_existing(data / "vqa_rad" / "vqa_rad.json").read_text(encoding="utf-8"))
    return [
        ImageQuestion(
            q["image_name"], q["question"].strip(), str(q["answer"]).strip(), q["answer_type"].strip() == "CLOSED"
        )
        for q in questions
        if int(q["qid"]) in ids
    ]


def medquad(data: Path, split: str) -> list[tuple[str, str]]:
    """MedQuAD as (question, answer); `test` is every tenth pair, `train` the rest."""
    pairs: list[tuple[str, str]] = []
    question = ""
    with gzip.open(_existing(data / "text" / "medquad.txt.gz"), "rt", encoding="utf-8") as handle:
        for line in handle:
            if line.startswith("Q: "):
                question = line[3:].strip()
            elif line.startswith("A: ") and question:
                pairs.append((question, line[3:].strip()))
    held_out = [i % MEDQUAD_HELD_OUT == MEDQUAD_HELD_OUT - 1 for i in range(len(pairs))]
    return [pair for pair, test in zip(pairs, held_out, strict=True) if test == (split == "test")]
