"""What medical inputs cost: a CT series, a record, a search, a folder.

    python benchmarks/peers/medical_inputs.py --work DIR --record patient.json --model medsiglip

Everything is made here: a series of 300 slices of 512 by 512 pixels, unit vectors of MedSigLIP's width, drawn
radiographs; records are read where `--record` names them. Times are medians of `--rounds` on the wall clock.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from edgekit.inputs.dicom import study
from edgekit.inputs.fhir.digest import digest
from edgekit.inputs.fhir.facts import facts
from edgekit.inputs.fhir.reader import read
from edgekit.inputs.phantoms import generate
from edgekit.retrieval.entries import Entry
from edgekit.retrieval.index import Index, writing

_WIDTH = 1152  # of MedSigLIP


def main() -> None:
    """Measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="takes 1 GB")
    parser.add_argument("--record", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a MedSigLIP artifact, for folders")
    parser.add_argument("--vectors", type=int, default=100_000, metavar="N")
    parser.add_argument("--cached", type=int, default=0, metavar="N", help="so many vectors, with a cache beside them")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    series = _series(options.work / "ct")
    _say("a series of 300 slices read, sorted, 85 of them decoded and windowed", options, lambda: study.read(series))
    for path in options.record:
        _say(f"the digest of a record of {path.stat().st_size / 1e6:.1f} MB", options, lambda path=path: _digest(path))
    if options.vectors:
        _search(options)
    if options.cached:
        _cached(options)
    if options.model:
        _folder(options)


def _say(what: str, options: argparse.Namespace, act: Callable[[], Any]) -> float:
    act()  # warms up: the worker process starts
    took = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        act()
        took.append(time.perf_counter() - began)
    print(f"{what}: {median(took):.3f} s ({min(took):.3f} to {max(took):.3f})", flush=True)
    return median(took)


def _series(folder: Path) -> Path:
    if folder.exists():
        return folder
    folder.mkdir()
    rng, series, patient = np.random.default_rng(0), generate_uid(), "1"
    for number in range(300):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        made = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        made.Modality, made.PatientID, made.SeriesInstanceUID, made.StudyInstanceUID = "CT", patient, series, series
        made.Rows = made.Columns = 512
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
        made.RescaleSlope, made.RescaleIntercept, made.PixelSpacing = "1", "-1024", [0.7, 0.7]
        made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 1.5 * (number * 7 % 300)]
        made.InstanceNumber, made.ImageType = number + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.PixelData = rng.integers(0, 4096, (512, 512), dtype=np.uint16).tobytes()
        made.save_as(folder / f"{number:03}.dcm", enforce_file_format=True)
    return folder


def _digest(path: Path) -> None:
    record = read(path)
    digest(record, facts(record), "What was the last blood pressure?", lambda text: len(text) // 4, 8000)


def _search(options: argparse.Namespace) -> None:
    folder, rng = options.work / f"index-{options.vectors}", np.random.default_rng(0)
    shutil.rmtree(folder, ignore_errors=True)
    kept = []
    with writing(folder, "model", _WIDTH) as index:
        for start in range(0, options.vectors, 50_000):
            rows = rng.standard_normal((min(50_000, options.vectors - start), _WIDTH)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            index.add([Entry(f"{start + n}", f"{start + n}", "0", "", row) for n, row in enumerate(rows)])
            kept.append(rows)
    every = np.concatenate(kept)
    query = rng.standard_normal(_WIDTH).astype(np.float32)
    query /= np.linalg.norm(query)
    with Index(folder, "model", _WIDTH) as index:
        _say(f"an exact search in {options.vectors:,} vectors of {_WIDTH}", options, lambda: index.search(query, 10))
        found, wanted = [int(hit.name) for hit in index.search(query, 10)], np.argsort(-(every @ query))[:10]
        print(f"recall@10 against numpy: {len(set(found) & set(map(int, wanted))) / 10:.2f}", flush=True)


def _cached(options: argparse.Namespace) -> None:
    """Vectors as encoders give them: near one another in 2,000 groups, of few dimensions; texts lie aside of images."""
    from edgekit.retrieval import cache

    folder, rng = options.work / f"cached-{options.cached}", np.random.default_rng(1)
    latent, centres = rng.standard_normal((64, _WIDTH)) / 34, rng.standard_normal((2000, 64))
    gap = rng.standard_normal(_WIDTH) / 34

    def drawn(count: int, aside: float = 0.0) -> Any:
        near = centres[rng.integers(0, len(centres), count)] + 0.6 * rng.standard_normal((count, 64))
        rows = near @ latent + 0.3 / 34 * 8 * rng.standard_normal((count, _WIDTH)) + aside * 8 * gap
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    questions, asked = ({"image": drawn(100), "text": drawn(100, 1.0)} for _ in range(2))
    if not folder.exists():
        with writing(folder, "model", _WIDTH) as index:
            for start in range(0, options.cached, 50_000):
                rows = drawn(min(50_000, options.cached - start))
                index.add([Entry(f"{start + n}", f"{start + n}", "0", "", row) for n, row in enumerate(rows)])
    with Index(folder, "model", _WIDTH) as index:
        began = time.perf_counter()
        about = cache.build(index, questions)
        took = time.perf_counter() - began
        print(f"a cache of {options.cached:,} vectors: {took:.0f} s, {about.probes} probes", flush=True)
    with Index(folder, "model", _WIDTH) as index:
        cached, query = cache.Cache(folder), asked["image"][0]
        _say(f"an exact search in {options.cached:,} vectors", options, lambda: index.search(query, 10))
        _say(f"a search in {options.cached:,} vectors by the cache", options, lambda: index.search(query, 10, cached))
        for kind, rows in asked.items():
            found, exact = (
                [{hit.name for hit in hits} for hits in index.search_all(rows, 10, by)] for by in (cached, None)
            )
            shares = [len(one & other) / 10 for one, other in zip(found, exact, strict=True)]
            print(f"recall@10 of 100 other questions, as {kind}s are: {np.mean(shares):.3f}", flush=True)


def _folder(options: argparse.Namespace) -> None:
    """500 pictures by the command, beside the model alone on pictures that are decoded already."""
    import edgekit

    pictures = options.work / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for number, phantom in enumerate(generate(9, 500)):
            Image.fromarray(phantom.image).save(pictures / f"{number:03}.png")
    decoded = [Image.open(path).convert("RGB") for path in sorted(pictures.iterdir())]
    with edgekit.open(options.model) as model:
        model.classify(decoded[:1], ["a", "b"])
        began = time.perf_counter()
        for image in decoded:
            model.classify([image], ["a", "b"])
        alone = time.perf_counter() - began
    target = options.work / "out.csv"
    target.unlink(missing_ok=True)
    words = ["classify", options.model, pictures, "--label", "a", "--label", "b", "--csv", target]
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "edgekit", *map(str, words)], capture_output=True, check=True)
    whole = time.perf_counter() - began
    count = sum(1 for _ in csv.reader(io.StringIO(target.read_text()))) - 1
    said = json.dumps({"pictures": count, "encoder_s": round(alone, 2), "command_s": round(whole, 2)})
    print(f"classify of a folder: {said} {done.stdout.decode().strip()}", flush=True)


if __name__ == "__main__":
    main()
