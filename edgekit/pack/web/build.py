"""Gather a classifier, ONNX Runtime for browsers and a page into a folder; the same inputs give the same bytes.

index.html app.js ...    the page
service-worker.js        keeps all files on the device, each compared with the SHA-256 in files.js
NAME.onnx                the classifier; NAME.onnx_data where its weights lie outside
model.json test-*.png    what the page says of it, and a self-test with the logits that ONNX Runtime gives here
ort*                     ONNX Runtime, as its package on npm has it
NOTICE.txt TERMS.txt
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.artifacts.documents import is_file, read_json
from edgekit.artifacts.files import copy, sha256_file, sha256_json
from edgekit.artifacts.folders import MARKER, new_folder
from edgekit.classifier.card import Card, Proof
from edgekit.classifier.opened import Classifier, files, read
from edgekit.errors import ArtifactError, UsageError
from edgekit.formats.onnx.header import OnnxHeader
from edgekit.formats.onnx.requirements import first_release, spelled
from edgekit.inputs.pictures import pictures
from edgekit.pack.contents.papers import agreement_text
from edgekit.terminal import json_text

_PACKAGE = "onnxruntime-web"
# Its build for WebAssembly alone: the page, the threads' script, and the library with SIMD and threads.
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_WORKER, _LIST = "service-worker.js", "files.js"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_GET = f"npm pack {_PACKAGE} && tar -xzf {_PACKAGE}-*.tgz, which makes the folder `package`"
# Of the self-test: pictures, and by whether weights or activations are rounded what a cosine may differ by, since
# WebAssembly's kernels add up in another order, and round activations to 8 bits elsewhere.
_PICTURES, _TOLERANCE = 3, {False: 1e-3, True: 0.01}
_VISIBLE = 3  # how many times that a label's cosines must differ over the pictures


@dataclass(frozen=True)
class WebApp:
    """What was written.

    Attributes:
        files: path -> SHA-256, of all that is in the folder.
        bytes: of these together.
    """

    folder: Path
    files: Mapping[str, str]
    bytes: int


def build(model: Path, runtime: Path, target: Path, terms: Path | None = None) -> WebApp:
    """Make the app.

    Args:
        model: a classifier, as `edgekit compile-classifier` writes it.
        runtime: the folder of onnxruntime-web's package.
        target: a new folder.
        terms: the text of the licence's terms, which recipients must get.

    Raises:
        ArtifactError: the model is no classifier, or answers alike whatever it sees, or the package is another one, or
            too old for it.
        UsageError: as `agreement_text`, or the folder is there, or the model's name is none for an address.
    """
    header, card, proof = read(model)
    for path in files(model):
        if not _NAME.fullmatch(path.name):
            raise UsageError(
                f"{path.name!r:.80}: is no name for a file of a web app, which addresses and scripts name",
                allowed="letters of ASCII, digits, and . _ -",
                remedy="compile it again under another name: its weights' file is named by it, too",
            )
    version = _check_runtime(runtime, header)
    agreement = agreement_text(card, terms)
    with new_folder(target) as staging:
        for page in resources(__package__).joinpath("static").iterdir():
            (staging / page.name).write_bytes(page.read_bytes())
        for name in _RUNTIME:
            copy(runtime / "dist" / name, staging / name)
        for path in files(model):
            copy(path, staging / path.name)
        if agreement:
            (staging / "TERMS.txt").write_text(agreement, encoding="utf-8")
        (staging / "NOTICE.txt").write_text(_notice(card, version), encoding="utf-8")
        test = _self_test(staging, staging / model.name)
        described = _described(card, proof, staging / model.name, test)
        (staging / "model.json").write_text(json_text(described, 1) + "\n", encoding="utf-8")
        every = _listed(staging)
        sizes = sum((staging / name).stat().st_size for name in every)
    return WebApp(target, every, sizes)


def _check_runtime(folder: Path, header: OnnxHeader) -> str:
    """Its version. Raises ArtifactError where it is another package, lacks a file, or cannot run the model."""
    if not is_file(folder / "package.json"):
        raise ArtifactError(f"{folder}: no package.json: is no package of npm's", remedy=_GET)
    stated = read_json(folder / "package.json", ArtifactError)
    name, version = (stated.get(key) if isinstance(stated, dict) else None for key in ("name", "version"))
    if name != _PACKAGE or not isinstance(version, str):
        raise ArtifactError(f"{folder}: is the package {name!r:.80}", allowed=_PACKAGE, remedy=_GET)
    if missing := next((name for name in _RUNTIME if not is_file(folder / "dist" / name)), None):
        raise ArtifactError(f"{folder}: no dist/{missing}", remedy=_GET)
    needed = first_release(header)
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if needed is None or numbers < needed:
        wanted = spelled(needed) if needed else "a newer release than edgekit knows"
        raise ArtifactError(f"{_PACKAGE} {version} is too old for the model", allowed=f"{wanted} or newer", remedy=_GET)
    return version


def _self_test(staging: Path, model: Path) -> dict[str, Any]:
    """Pictures that no lossy format touched, and their logits by ONNX Runtime here: scores near 0 or 1 hide much.

    Raises:
        ArtifactError: the logits hardly differ, so that the test could see nothing.
    """
    shown, names = pictures()[:_PICTURES], []
    for number, picture in enumerate(shown, 1):
        names.append(f"test-{number}.png")
        Image.fromarray(picture).save(staging / names[-1])
    with Classifier(model) as classifier:
        _, logits = classifier.ask(shown)
        tolerance = _TOLERANCE[classifier.card.rounded] * classifier.card.scale
    spread = float(np.ptp(logits, axis=0).max())
    if not spread > _VISIBLE * tolerance:
        raise ArtifactError(
            f"{model.name}: its logits differ by {spread:.3g} over the self-test's pictures, so that it sees nothing",
            allowed=f"more than {_VISIBLE * tolerance:.3g}",
            remedy="edgekit classify shows whether its labels tell images apart",
        )
    rounded = [[round(float(logit), 6) for logit in row] for row in logits]
    return {"images": names, "logits": rounded, "tolerance": tolerance}


def _described(card: Card, proof: Proof | None, model: Path, test: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows, and what it loads."""
    parity = "not measured"
    if proof:
        parity = (
            f"scores of {proof.images} images differ by at most {proof.worst_resized:.2g} from the artifact's, and by "
            f"{proof.loss_worst:.2g} from its level {proof.against}"
        )
    return {
        "title": card.title,
        "labels": card.labels.names,
        "level": card.level,
        "stand_in": card.stand_in,
        "license": card.license,
        "modified": card.modified,
        "parity": parity,
        "terms": model.with_name("TERMS.txt").exists(),
        "files": [path.name for path in files(model)],
        "test": test,
    }


def _notice(card: Card, version: str) -> str:
    parts = (
        f"{card.title}: an image classifier of {len(card.labels.labels)} labels, compiled by edgekit {card.edgekit}.",
        card.stand_in or "",
        card.license,
        f"Modifications: {card.modified}",
        f"ONNX Runtime Web {version}: Copyright (c) Microsoft Corporation, MIT License, "
        "https://github.com/microsoft/onnxruntime",
        "Not a medical device, and not cleared for clinical use.",
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def _listed(staging: Path) -> dict[str, str]:
    """Write the list of all files but the two that a service worker is made of; the hashes of these, too."""
    paths = sorted(path for path in staging.iterdir() if path.name not in (MARKER, _WORKER))
    listed = {path.name: sha256_file(path) for path in paths}
    worker = sha256_file(staging / _WORKER)
    version = json.dumps(sha256_json([listed, worker])[:16])
    script = f"const FILES = {json.dumps(listed, indent=1)};\nconst VERSION = {version};\n"
    (staging / _LIST).write_text(script, encoding="utf-8")
    return {**listed, _WORKER: worker, _LIST: sha256_file(staging / _LIST)}
