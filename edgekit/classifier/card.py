"""What a classifier's file says of itself, in its metadata: whoever has the file alone has all of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgekit.artifacts.documents import json_value
from edgekit.artifacts.manifest import Preprocessing, VariantName
from edgekit.artifacts.validation import Name, Sha256, StrictModel, Text, validated
from edgekit.classifier.labels import Labels
from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import OnnxHeader
from edgekit.formats.onnx.names import METADATA

SCHEMA = 1
CARD, PROOF = f"{METADATA}classifier", f"{METADATA}proof"  # keys of the metadata
IMAGE, SCORES, LOGITS = "image", "scores", "logits"  # its input and its outputs

_Figure = Annotated[float, Field(ge=0, le=1e6)]


class Card(StrictModel):
    """What it is, and what it was made of.

    Attributes:
        labels: in the order of the scores.
        preprocessing: what the graph does with an image of any size.
        level: of the image encoder, and of its weights here.
        text_level: of the text encoder that the labels' vectors are from.
        scale: that a cosine is multiplied by in a logit.
        rounded: whether the encoder's weights or activations are, to 8 bits or fewer.
        parts: role -> id of the parts that were compiled.
        source_sha256: of the checkpoint, as the artifact's manifest has it.
        image_loss: cosine of the image encoder's vectors with the original's, `mean` and `worst`, where that part was
            proven.
    """

    schema_version: int = SCHEMA
    title: Name
    labels: Labels
    preprocessing: Preprocessing
    level: VariantName
    text_level: VariantName
    scale: float = Field(gt=0, le=1e6)
    rounded: bool
    parts: dict[Name, Sha256]
    source_sha256: Sha256
    license: Text = Field(min_length=1)
    modified: Text
    stand_in: Text | None = None
    image_loss: dict[Name, float] | None = None
    edgekit: Name


class Proof(StrictModel):
    """How far the file's scores are from those of the artifact's parts, prepared and scored without its graph.

    Attributes:
        images: how many were compared.
        pixels: share of the values that it prepares that are another than Pillow's, by 1 of 255.
        worst: greatest difference of a score where images have the encoder's size already.
        worst_cosine: there, of a logit, in units of the cosine that it is made of.
        spread: of these cosines over the images: what a comparison could see.
        worst_resized: greatest difference of a score of images as they are.
        against: the most faithful level of the artifact.
        loss_worst, loss_mean: differences of scores from that level's.
        inputs: what the images were.
    """

    images: int
    pixels: _Figure
    worst: _Figure
    worst_cosine: _Figure
    spread: _Figure
    worst_resized: _Figure
    against: VariantName
    loss_worst: _Figure
    loss_mean: _Figure
    inputs: Text


def card_of(header: OnnxHeader) -> tuple[Card, Proof | None]:
    """What a file says of itself, and its proof where it has one.

    Raises:
        ArtifactError: it is no classifier of edgekit's, or of a schema that is unknown.
    """
    if CARD not in header.metadata:
        raise ArtifactError(f"{header.path}: is no classifier: its metadata has no {CARD}", remedy=_MAKE)
    data = json_value(header.metadata[CARD].encode(), f"{header.path}: {CARD}", ArtifactError)
    if not isinstance(data, dict) or data.get("schema_version") != SCHEMA:
        raise ArtifactError(f"{header.path}: a classifier of another schema", allowed=str(SCHEMA), remedy=_MAKE)
    card = validated(Card, data, f"{header.path}: {CARD}", ArtifactError, remedy=_MAKE)
    if PROOF not in header.metadata:
        return card, None
    proof = json_value(header.metadata[PROOF].encode(), f"{header.path}: {PROOF}", ArtifactError)
    return card, validated(Proof, proof, f"{header.path}: {PROOF}", ArtifactError, remedy=_MAKE)


_MAKE = "edgekit compile-classifier DIR --labels FILE --to MODEL.onnx"
