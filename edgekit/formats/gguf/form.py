"""What a family states of one part for GGUF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.errors import ArtifactError
from edgekit.formats.audit import Compared
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.formats.gguf.schema import GENERAL, check_fields
from edgekit.formats.plan import PartPlan


@dataclass(frozen=True)
class GgufTensorForm:
    """One tensor in the file.

    Attributes:
        name: llama.cpp's.
        scale: what it is multiplied by (after its one is added), where llama.cpp assumes another constant.
    """

    name: str
    scale: float = 1.0


@dataclass(frozen=True)
class GgufForm:
    """One part.

    Attributes:
        architecture: `general.architecture`.
        header: adds the part's own keys to a `gguf.GGUFWriter`.
        described: what the file is, for people.
        argument: by which llama.cpp's programs are given the file.
        tensors: the validated configuration -> canonical tensor name -> its form.
        check: refuses a header whose numbers disagree with its tensors, where llama.cpp would end the process.
        stated: what a checked header says of the model's settings, by the manifest's names, and of `preprocessing`.
        settings: of the model's file: what runtimes must know, and how images become pixels, read from its header and
            from its companion's, where others made them; None for a companion.
        hub_name: canonical tensor name, and the header -> the file's name by llama.cpp's own table, not the family's.
        constants: what the header says, value by value with what transformers makes of the checkpoint.
        meaning: a key, its value and the right one -> what that does to answers, empty where nobody knows.
        renamed: a header, and a tensor's form -> the form that it has in this file, where others wrote other names.
        copies: tensors that a file may hold although they only repeat another, and that one.
        prefix: of the file's name, as llama.cpp's users know it.
        notes: what users should know before it is written.
        same_turns: whether two chat templates, by the variables that they may use, can render nothing but the same.
        markers: tokens of a model's vocabulary that are control tokens, whatever type a file gives them.
        needs: the markers that a vocabulary must have, by what the file states of the model's settings.
        vocabulary_bytes: what the vocabulary and the chat template take in the header, as near as a plan tells.
        shape: what times and memory follow from (`edgekit.families.shapes`), from a checked header and the manifest's
            settings; None where nobody says.
    """

    architecture: str
    described: str
    argument: str
    header: Callable[[Any, PartPlan], None]
    tensors: Callable[[Any], Mapping[str, GgufTensorForm]]
    check: Callable[[GgufHeader], None]
    stated: Callable[[GgufHeader], Mapping[str, Any]]
    hub_name: Callable[[str, GgufHeader], str | None]
    constants: Callable[[GgufHeader, Any], Iterable[Compared]]
    settings: Callable[[GgufHeader, GgufHeader | None], tuple[dict[str, Any], Preprocessing | None]] | None = None
    meaning: Callable[[str, Any, Any], str] = lambda key, found, expected: ""
    renamed: Callable[[GgufHeader, GgufTensorForm], GgufTensorForm] | None = None
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    notes: Callable[[Checkpoint], tuple[str, ...]] = lambda checkpoint: ()
    same_turns: Callable[[str, str, Mapping[str, str]], bool] = lambda one, other, variables: False
    markers: tuple[str, ...] = ()
    needs: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda settings: ()
    vocabulary_bytes: Callable[[PartPlan], int] = lambda plan: 0
    shape: Callable[[GgufHeader, Mapping[str, Any]], Any] = lambda header, settings: None


def read_checked(form: GgufForm, path: Path) -> GgufHeader:
    """The header of a file that llama.cpp can be trusted with.

    Raises:
        ArtifactError: it is damaged, of another architecture, one piece of several, or contradicts itself.
    """
    header = read_header(path)
    stated = header.text("general.architecture")
    if stated != form.architecture:
        raise ArtifactError(
            f"{path}: its architecture is {stated!r}", allowed=f"{form.architecture!r}, {form.described}"
        )
    if (pieces := header.integer("split.count", 1)) > 1:
        raise ArtifactError(
            f"{path}: is one piece of a model, of {pieces}",
            remedy=f"join them, naming the first: llama-gguf-split --merge NAME-00001-of-{pieces:05}.gguf WHOLE.gguf",
        )
    check_fields(header, GENERAL)
    form.check(header)
    return header


def stated(form: GgufForm, files: Sequence[Path]) -> Mapping[str, Any]:
    """What a part's file says of the model's settings; see `edgekit.formats.base.Format.stated`."""
    return form.stated(read_checked(form, files[0]))
