"""One part of an artifact before its proof: its files, and the tensors that they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.differences import refusal
from edgekit.artifacts.manifest import Part
from edgekit.errors import ArtifactError
from edgekit.families.source import Source
from edgekit.formats.stored import StoredTensor


@dataclass(frozen=True, eq=False)
class WrittenPart:
    """A part as it lies on the disk.

    Attributes:
        tensors: by canonical name.
    """

    part: Part
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def role(self) -> str:
        """The part's role."""
        return self.part.role

    @property
    def level(self) -> str:
        """The name of its level."""
        return self.part.level

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"{self.role} {self.level}"

    @property
    def exact(self) -> bool:
        """Whether runtimes multiply all of its matrices by activations as they are."""
        return all(tensor.exact for tensor in self.tensors.values())


def written_part(source: Source, folder: Path, part: Part) -> WrittenPart:
    """A part of the artifact in a folder.

    Raises:
        GateError: its files are broken, or hold tensors too many, too few, or of another shape than the checkpoint.
    """
    files = tuple(folder / file.path for file in part.files)
    with refusing(f"{part.role} {part.level}"):
        return WrittenPart(part, files, source.tensors_in(part.role, part.format, files))


@contextmanager
def refusing(where: str) -> Iterator[None]:
    """What is wrong with a part's file is a reason to refuse it."""
    try:
        yield
    except ArtifactError as error:
        raise refusal("tensor", where, error.message, allowed=error.allowed, remedy=error.remedy) from error
