"""A checkpoint with its family and its validated configuration, as one value that is made in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import Level
from edgekit.artifacts.manifest import Preprocessing
from edgekit.checkpoints.checkpoint import Checkpoint, Tensor, check_copy, open_checkpoint
from edgekit.checkpoints.tensor_spec import TensorSpec
from edgekit.checkpoints.tensors import Float
from edgekit.errors import CheckpointError, UsageError
from edgekit.families.base import Family
from edgekit.formats import FORMATS
from edgekit.formats.plan import PartPlan, PlannedTensor
from edgekit.formats.stored import StoredTensor
from edgekit.inputs.text import LoadedTokenizer, read_tokenizer
from edgekit.machine.temporary import temporary_folder

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, eq=False)
class Source:
    """What a model is made from.

    Attributes:
        config: validated by the family, which alone looks into it.
    """

    checkpoint: Checkpoint
    family: Family
    config: Any

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """How images become pixels; None for a model that sees none."""
        return self.family.preprocessing(self.checkpoint, self.config)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What runtimes must know beside the parts."""
        return self.family.settings(self.checkpoint, self.config, self.tokenizer().tokenizer)

    @cached_property
    def made_tokenizer(self) -> bytes | None:
        """A tokenizer.json for a checkpoint without one, from what it has instead; None where it has one.

        Raises:
            CheckpointError: it has neither.
        """
        if self.checkpoint.path(TOKENIZER):
            return None
        if (made := self.family.tokenizer_json(self.checkpoint)) is None:
            root = self.checkpoint.root
            raise CheckpointError(f"{root}: no {TOKENIZER}", remedy="download the checkpoint's tokenizer files too")
        return made

    def tokenizer(self) -> LoadedTokenizer:
        """The tokenizer, loaded anew by each call, since Gemma's takes much memory.

        Raises:
            CheckpointError: there is none, or it is none of these families.
        """
        if self.made_tokenizer is None:
            return read_tokenizer(self.checkpoint.root / TOKENIZER)
        with temporary_folder("tokenizer") as folder:
            (folder / TOKENIZER).write_bytes(self.made_tokenizer)
            return read_tokenizer(folder / TOKENIZER)

    def check_inputs(self) -> None:
        """Raise CheckpointError where a file that says how texts and images become inputs is missing or wrong."""
        _ = self.settings, self.preprocessing

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """The stored tensors by canonical name."""
        tensors = self.checkpoint.tensors.items()
        return {canonical: tensor for name, tensor in tensors if (canonical := self.family.canonical(name))}

    def rows(self, name: str, first: int, last: int) -> Float:
        """Rows `first` to `last` of a tensor by its canonical name, float32. Raises CheckpointError as reading does."""
        tensor = self.stored[name]
        row, shape = tensor.bytes // tensor.shape[0], (last - first, *tensor.shape[1:])
        part = replace(tensor, shape=shape, offset=tensor.offset + first * row, bytes=(last - first) * row)
        return self.checkpoint.read(part)

    def tensors_of(self, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
        """The stored tensor of each spec, by canonical name, shapes checked.

        Raises:
            CheckpointError: a tensor is missing or has another shape than config.json says.
        """
        for spec in specs:
            tensor = self.stored.get(spec.name)
            if tensor is None:
                raise CheckpointError(f"{self.checkpoint.root}: tensor {spec.name} is missing")
            if tensor.shape != spec.shape:
                raise CheckpointError(
                    f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}",
                    allowed=f"{list(spec.shape)}, by config.json",
                )
        return {spec.name: self.stored[spec.name] for spec in specs}

    def check_tensors(self) -> None:
        """Check that the checkpoint has all tensors of all parts, and no others.

        Raises:
            CheckpointError: a tensor is missing, unexpected, there twice, or has the wrong shape.
        """
        checkpoint, family = self.checkpoint, self.family
        spellings: dict[str, str] = {}
        for name in checkpoint.tensors:
            canonical = family.canonical(name)
            if canonical is not None and spellings.setdefault(canonical, name) != name:
                raise CheckpointError(f"{checkpoint.root}: {name} and {spellings[canonical]} are the same tensor")
        tensors = self.tensors_of(family.tensors(self.config))
        unexpected = [name for canonical, name in spellings.items() if canonical not in tensors]
        if unexpected:
            adapter = any("lora_" in name for name in unexpected)
            raise CheckpointError(
                f"{checkpoint.root}: {len(unexpected)} unexpected tensors: {', '.join(sorted(unexpected)[:3])}",
                remedy="merge the adapter into the model and save that" if adapter else None,
            )
        for name, original in family.copies.items():
            if name in checkpoint.tensors:
                check_copy(checkpoint, checkpoint.tensors[name], tensors[original])

    def tensors_in(self, role: str, file_format: str, files: Sequence[Path]) -> Mapping[str, StoredTensor]:
        """The tensors of one part as an artifact's files of this format hold them, by canonical name.

        Raises:
            ArtifactError: the files are broken, or hold tensors too many, too few, or of another shape.
        """
        stated = self.family.roles[role]
        form = stated.forms.get(file_format)
        return FORMATS[file_format].stored(stated.tensors(self.config), form, self.config, files)

    def plan(self, role: str, level: Level) -> PartPlan:
        """What an export writes of one part at one level.

        Raises:
            UsageError: the family has no such part, or not in the level's format.
            CheckpointError: a tensor is missing or has the wrong shape.
        """
        roles = self.family.roles
        if role not in roles or level.format not in roles[role].formats:
            able = ", ".join(f"{name} in {' or '.join(known.formats)}" for name, known in roles.items())
            raise UsageError(f"no part {role!r:.80} of {self.family.name} at {level.name}", allowed=able)
        specs, form = self.family.roles[role].tensors(self.config), FORMATS[level.format]
        stored = self.tensors_of(specs)
        planned = (
            PlannedTensor(spec, stored[spec.name], form.codecs[form.codec_of(spec, level)], form.shape_of(spec, level))
            for spec in specs
        )
        role_form = self.family.roles[role].forms.get(level.format)
        return PartPlan(role, level, self.checkpoint, self.config, role_form, tuple(planned))


def open_source(folder: Path) -> Source:
    """Open a checkpoint folder.

    Raises:
        CheckpointError: it is no checkpoint, of no known family, or its configuration is not what the family allows.
    """
    from edgekit.families import family_of

    checkpoint = open_checkpoint(folder)
    family = family_of(checkpoint.config)
    return Source(checkpoint, family, family.parse(checkpoint.config))
