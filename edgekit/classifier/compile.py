"""From an artifact and labels to one file: scores of fixed labels, without a text encoder and without a tokenizer."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifacts import files as disk
from edgekit.artifacts.folders import claimed, empty, remove, staging_of
from edgekit.artifacts.manifest import Manifest
from edgekit.artifacts.version import __version__
from edgekit.classifier import files, opened, proof
from edgekit.classifier.card import CARD, PROOF, Card, Proof
from edgekit.classifier.graph import Head, classifier
from edgekit.classifier.labels import Labels
from edgekit.errors import UsageError
from edgekit.families.composition import Contrastive, ContrastiveSettings
from edgekit.formats.onnx.graph import onnx
from edgekit.formats.onnx.operators import read_checked
from edgekit.inputs.samples import Inputs
from edgekit.progress import Progress
from edgekit.runtime.embedding_model import ContrastiveModel
from edgekit.runtime.manifest_checks import composition_of
from edgekit.runtime.opening import Opening, prepare
from edgekit.runtime.opening import opened as open_parts
from edgekit.runtime.tuning_results import DEFAULT
from edgekit.runtime.use import Use

_HALF = 15.9  # bits of a weight: the least that are no integers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,190}\.onnx", re.ASCII)
_MODIFIED = (
    "This file holds the image encoder alone, with its preparation of images and the vectors of {count} labels from "
    "the text encoder ({level}) built in."
)


@dataclass(frozen=True)
class Compiled:
    """What was written.

    Attributes:
        files: the model, and its weights where they lie beside it.
        proof: None where none was asked for.
        warnings: what the user must know.
    """

    files: tuple[Path, ...]
    card: Card
    proof: Proof | None
    warnings: tuple[str, ...]


def compile_classifier(
    folder: Path,
    labels: Labels,
    target: Path,
    level: str | None = None,
    *,
    inputs: Inputs | None = None,
    progress: Progress | None = None,
) -> Compiled:
    """Compile the image encoder of an artifact for fixed labels, and prove what was written.

    The labels' vectors are those of the artifact's most faithful text encoder, whatever the image encoder's level:
    they cost nothing there.

    Args:
        target: the file, `.onnx`, that is not there yet; it appears when it is proven.
        level: a variant; the artifact's default for None.
        inputs: what is compared; None to prove nothing.

    Raises:
        UsageError: the artifact scores no labels or is in another format, the labels cannot be told apart, or the
            file is there.
        ArtifactError: a file of the artifact is broken.
        DifferencesError: the file does not score as the artifact's parts do.
    """
    _check_target(target)
    opening = prepare(folder, level, runtime=DEFAULT, progress=progress)
    composition, settings = _contrastive(opening)
    image = opening.parts[composition.image]
    if image.format != "onnx":
        raise UsageError(f"{folder}: {opening.level} encodes images in {image.format}", allowed="a level in onnx")
    best = _most_faithful(opening.manifest, folder)
    with closing(_model(prepare(folder, best, runtime=DEFAULT, progress=progress))) as model:
        other = proof.faithful(model, best, labels, inputs)
    head = Head(other.vectors, float(np.exp(settings.logit_scale)), settings.logit_bias, labels.scores)
    card = _card(opening, composition, labels, best, head.scale)
    staging = staging_of(target)
    made = [place for place in staging.parents if not place.exists()]
    with claimed(staging):
        try:
            empty(staging)
            path = staging / target.name
            written = _write(opening, composition.image, head, card, path)
            found = None
            if inputs:
                with closing(_model(opening)) as model:
                    found = proof.prove(path, model, head, other, inputs, progress or Progress())
                files.add_metadata(path, {PROOF: found.model_dump_json()})
            opened.read(path)
            _check_target(target)
            for file in reversed(written):  # the model last: it is nothing without its weights
                disk.sync(file)
                disk.rename(file, target.with_name(file.name))
        except BaseException:
            remove(staging, made)
            raise
        remove(staging)
    places = tuple(target.with_name(file.name) for file in written)
    return Compiled(places, card, found, tuple(opening.warnings))


def _check_target(target: Path) -> None:
    if not _NAME.fullmatch(target.name):
        raise UsageError(
            f"--to {target}: no name for a file that stands in addresses, too",
            allowed="letters of ASCII, digits, . _ and -, with .onnx at the end",
        )
    if there := next((path for path in (target, target.with_name(target.name + files.DATA)) if path.exists()), None):
        raise UsageError(f"{there}: is there already", remedy="name another file, or remove this one")


def _contrastive(opening: Opening) -> tuple[Contrastive, ContrastiveSettings]:
    if not isinstance(opening.composition, Contrastive) or not isinstance(opening.settings, ContrastiveSettings):
        raise UsageError(
            f"{opening.manifest.title} has no encoder of texts, whose labels a classifier is made of",
            allowed="a model of images and texts, as MedSigLIP",
        )
    return opening.composition, opening.settings


def _model(opening: Opening) -> ContrastiveModel:
    model = open_parts(opening, Use())
    assert isinstance(model, ContrastiveModel), "checked by its composition"
    return model


def _most_faithful(manifest: Manifest, folder: Path) -> str:
    """The variant whose text encoder keeps the most bits of a weight; the first of several."""

    def bits(name: str) -> float:
        parts = manifest.variant(name)[1]
        _, composition = composition_of(manifest, parts, folder)
        return parts[composition.text].bits_per_weight if isinstance(composition, Contrastive) else 0

    return max(manifest.variants, key=bits)


def _write(opening: Opening, role: str, head: Head, card: Card, path: Path) -> tuple[Path, ...]:
    """The encoder between what prepares images and what scores them."""
    file = opening.encoder_file(role)
    places = {tensor.name: tensor for tensor in read_checked(file.path, file.listed).external}
    encoder = onnx().load(file.path, load_external_data=False)
    model = classifier(encoder, file.output, opening.preprocessing(), head)
    onnx().helper.set_model_props(model, {CARD: card.model_dump_json()})
    return files.write(model, places, path)


def _card(opening: Opening, composition: Contrastive, labels: Labels, best: str, scale: float) -> Card:
    manifest, image = opening.manifest, opening.parts[composition.image]
    text = manifest.variant(best)[1][composition.text]
    modified = _MODIFIED.format(count=len(labels.labels), level=text.level)
    return Card(
        title=manifest.title,
        labels=labels,
        preprocessing=opening.preprocessing(),
        level=image.level,
        text_level=text.level,
        scale=scale,
        rounded=image.bits_per_weight < _HALF,
        parts={composition.image: image.id, composition.text: text.id},
        source_sha256=manifest.source.sha256,
        license=manifest.license,
        modified=f"{manifest.modified} {modified}",
        stand_in=manifest.stand_in,
        image_loss={name: image.parity.loss[name] for name in ("mean", "worst")} if image.parity else None,
        edgekit=__version__,
    )
