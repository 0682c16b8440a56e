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
from edgekit.families.stored_names import unwrapped
from edgekit.formats import FORMATS
from edgekit.formats.plan import PartPlan, PlannedTensor
from edgekit.formats.stored import StoredTensor
from edgekit.inputs.text import LoadedTokenizer, read_tokenizer
from edgekit.machine.temporary import temporary_folder

TOKENIZER = "tokenizer.json"
# What transformers' types hold of stored ones, as they are; one that it does not know it refuses itself.
_HELD = {"float16": {"F16"}, "bfloat16": {"BF16"}, "float32": {"F16", "BF16", "F32"}}


@dataclass(frozen=True, eq=False)
class Source:
    """What a model is made from.

    Attributes:
        checkpoint: its tensors by their names without what trainers put around them.
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
        tokenizer = self.tokenizer().tokenizer if self.family.reads_text else None
        return self.family.settings(self.checkpoint, self.config, tokenizer)

    @cached_property
    def made_tokenizer(self) -> bytes | None:
        """A tokenizer.json for a checkpoint without one, from what it has instead; None where it has one.

        Raises:
            CheckpointError: it has neither.
        """
        if not self.family.reads_text or self.checkpoint.path(TOKENIZER):
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
        """The stored tensors by canonical name; a tied copy counts as its original where that is not stored."""
        tensors = self.checkpoint.tensors.items()
        found = {canonical: tensor for name, tensor in tensors if (canonical := self.family.canonical(name))}
        kept = {name: tensor for name, tensor in found.items() if not self._elsewhere(name)}
        for name, tensor in self._copies.items():
            kept.setdefault(self.family.copies[name], tensor)
        return kept

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What of the checkpoint is left out, or read otherwise than it is named."""
        notes, tensors = list(self.checkpoint.notes), self.checkpoint.tensors.items()
        if renamed := [(name, tensor.name) for name, tensor in tensors if name != tensor.name]:
            notes.append(f"names that a trainer left are taken off: {renamed[0][1]:.120} is {renamed[0][0]:.120}")
        for name, tensor in self._copies.items():
            if self.stored[original := self.family.copies[name]] is tensor:
                notes.append(f"{tensor.name} stands for {original}, which is not stored: they are tied")
        stated = str(self.checkpoint.config.get("dtype") or self.checkpoint.config.get("torch_dtype"))
        held = _HELD.get(stated.removeprefix("torch."))
        if held and (rounded := [tensor for tensor in self.stored.values() if tensor.dtype not in held]):
            notes.append(
                f"config.json: dtype {stated}, to which transformers rounds weights unless it is told otherwise; "
                f"{len(rounded)} tensors are stored as another type, and read as they are stored: "
                f"{rounded[0].name:.120} is {rounded[0].dtype}"
            )
        if left := [tensor.name for name, tensor in tensors if self._elsewhere(self.family.canonical(name))]:
            notes.append(f"{len(left)} tensors are left out, for parts that config.json lacks: {left[0]:.120}")
        return tuple(notes)

    @cached_property
    def _copies(self) -> dict[str, Tensor]:
        """The stored tensors that must repeat another."""
        return {name: tensor for name, tensor in self.checkpoint.tensors.items() if name in self.family.copies}

    def _elsewhere(self, canonical: str | None) -> bool:
        return canonical is not None and canonical.startswith(self.family.elsewhere)

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
                raise self._missing(spec.name)
            if tensor.shape != spec.shape:
                raise CheckpointError(
                    f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}",
                    allowed=f"{list(spec.shape)}, by config.json",
                )
        return {spec.name: self.stored[spec.name] for spec in specs}

    def _missing(self, name: str) -> CheckpointError:
        known = {spec.name for spec in self.family.tensors(self.config)}
        unknown = sorted(tensor.name for canonical, tensor in self.stored.items() if canonical not in known)
        architecture, whole = self.family.architecture, self.family.part_of
        others = f"; {len(unknown)} are no tensors of {architecture}: {', '.join(unknown[:2])}" if unknown else ""
        return CheckpointError(
            f"{self.checkpoint.root}: tensor {name} is missing{others}",
            allowed=f"tensors by the names by which transformers' {architecture} loads them",
            remedy="if they are the whole model's, put its config.json beside them" if unknown and whole else None,
        )

    def check_tensors(self) -> None:
        """Check that the checkpoint has all tensors of all parts, and no others.

        Raises:
            CheckpointError: a tensor is missing, unexpected, there twice, or has the wrong shape.
        """
        family = self.family
        first: dict[str, Tensor] = {}
        for name, tensor in self.checkpoint.tensors.items():
            canonical = name if name in family.copies else family.canonical(name)
            if canonical is not None and first.setdefault(canonical, tensor) is not tensor:
                raise CheckpointError(
                    f"{self.checkpoint.root}: {tensor.name} and {first[canonical].name} are the same tensor"
                )
        tensors = self.tensors_of(family.tensors(self.config))
        unexpected = sorted(tensor.name for canonical, tensor in self.stored.items() if canonical not in tensors)
        if unexpected:
            adapter = any("lora_" in name for name in unexpected)
            raise CheckpointError(
                f"{self.checkpoint.root}: {len(unexpected)} unexpected tensors: {', '.join(unexpected[:3])}",
                remedy="merge the adapter into the model and save that" if adapter else None,
            )
        self._check_copies(tensors)

    def _check_copies(self, tensors: Mapping[str, Tensor]) -> None:
        """Check what is tied: transformers ties no weights that differ, whatever config.json says, and begins with
        random ones where it says that they are not tied and one of them is not stored."""
        copies, root = self.family.copies, self.checkpoint.root
        for name, tensor in self._copies.items():
            if tensor is not tensors[copies[name]]:
                check_copy(self.checkpoint, tensor, tensors[copies[name]])
        if copies and not self.family.tied(self.config):
            own = [tensor for name, tensor in self._copies.items() if tensor is not tensors[copies[name]]]
            if not own:
                lacking = next(iter(copies.items()))[bool(self._copies)]
                raise CheckpointError(
                    f"{root}/config.json: tie_word_embeddings is false and tensor {lacking} is missing",
                    allowed="both, with the same weights; or tie_word_embeddings true",
                )

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
    config = family.parse(checkpoint.config)
    return Source(_unwrapped(checkpoint, family, config), family, config)


def _unwrapped(checkpoint: Checkpoint, family: Family, config: Any) -> Checkpoint:
    """The checkpoint with its tensors by their names without what trainers put around them.

    Raises:
        CheckpointError: two tensors then have one name.
    """
    known = {spec.name for spec in family.tensors(config)}
    names = unwrapped(list(checkpoint.tensors), lambda name: family.canonical(name) in known)
    tensors: dict[str, Tensor] = {}
    for name, tensor in zip(names, checkpoint.tensors.values(), strict=True):
        if name in tensors:
            raise CheckpointError(f"{checkpoint.root}: {tensors[name].name} and {tensor.name} are the same tensor")
        tensors[name] = tensor
    return replace(checkpoint, tensors=tensors)
