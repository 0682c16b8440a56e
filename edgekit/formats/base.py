"""What every file format states: its codecs, the type and shape that a tensor gets, and how a part becomes files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import Level
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.formats.audit import AuditedPart, Compared
from edgekit.formats.codec import Codec
from edgekit.formats.label import FileLabel
from edgekit.formats.plan import PartPlan
from edgekit.formats.sections import FileContent
from edgekit.formats.stored import StoredTensor


@dataclass(frozen=True)
class Exactness:
    """How exactly files of a format, with exact weights, compute what transformers computes in single precision.

    Attributes:
        level: at which weights are stored as they are computed with.
        kl: the largest KL of a decoder's logits, nats.
        error: the largest relative L2 error of logits, and of an encoder's outputs.
    """

    level: Level
    kl: float
    error: float


@dataclass(frozen=True)
class Format:
    """One file format.

    What a family states for it (`Role.forms`) is the format's own type, and nobody else looks into it.

    Attributes:
        name: the folder's name, and what manifests and levels call it.
        codecs: by name.
        codec_of: the codec that a tensor gets at a level.
        shape_of: the shape that it gets there.
        file_names: a part's files relative to the artifact, by plan and stem; the one that a runtime opens stands
            first, and the order is that of the manifest.
        content: the one file with the weights, to be written in the pass over the checkpoint.
        beside: bytes of a part's files beside its tensors, before any is written, as near as they can be told.
        finish: writes a part's other files, once that one is complete.
        requires: what a runtime must offer to open the part, whose files are complete.
        activations: how activations enter matrices at a level, for people.
        notes: what users should know before parts are written.
        calibration_file: where what was measured for a part lies, relative to the artifact, by plan and stem.
        check: refuses a part's first file that its runtime would trust, and fail or crash on.
        stated: what a part's files, checked in the same way, say of the model's settings, by the manifest's names, and
            of `preprocessing`; and `numbers` of its config.json, see `edgekit.families.base.Family`.
        output_of: what a file calls the output that models are composed of, in formats that name outputs.
        stored: a part's tensors as its files hold them, by canonical name, from the part's tensors, what its family
            states of it, the configuration and the files. ArtifactError where these hold tensors too many, too few, or
            of another shape.
        exactness: see there.
        audit: what a part's file says beside its tensors, value by value with what transformers makes of the
            checkpoint (`edgekit.full_precision.original.Original`). ArtifactError where a whole graph is another.
        check_piece: compares what is written of a model with what is written of a piece of it, each at the level of
            `exactness` and with transformers' configuration. ArtifactError where more than numbers differ.
        libraries: the distributions that writing it takes.
        needs_form: whether a part can be written only where its family states something for this format.
    """

    name: str
    codecs: Mapping[str, Codec]
    codec_of: Callable[[TensorSpec, Level], str]
    shape_of: Callable[[TensorSpec, Level], tuple[int, ...]]
    file_names: Callable[[PartPlan, str], tuple[str, ...]]
    content: Callable[[PartPlan, Path, FileLabel], FileContent]
    requires: Callable[[PartPlan, Path, str], dict[str, Any]]
    stored: Callable[[Sequence[TensorSpec], Any, Any, Sequence[Path]], Mapping[str, StoredTensor]]
    exactness: Exactness
    beside: Callable[[PartPlan, str], int] = lambda plan, stem: 0
    finish: Callable[[PartPlan, Path, FileLabel], None] = lambda plan, folder, label: None
    activations: Callable[[Level], str] = lambda level: level.activations
    notes: Callable[[Sequence[PartPlan]], tuple[str, ...]] = lambda plans: ()
    calibration_file: Callable[[PartPlan, str], str] | None = None
    check: Callable[[Any, Path], object] = lambda form, path: None
    stated: Callable[[Any, Sequence[Path]], Mapping[str, Any]] = lambda form, files: {}
    audit: Callable[[AuditedPart, Any], Iterable[Compared]] = lambda part, original: ()
    check_piece: Callable[[tuple[PartPlan, Any], tuple[PartPlan, Any]], None] = lambda whole, piece: None
    output_of: Callable[[Any], str] = lambda form: ""
    libraries: tuple[str, ...] = ()
    needs_form: bool = True
