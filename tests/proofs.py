"""An artifact whose parts are proven one by one, right or wrong, against full precision, whose results are kept.

So a wrong export costs its own side of the comparison alone, at the reference models' size and at full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.manifest import Manifest, Parity, Part
from edgekit.families.source import open_source
from edgekit.inputs.samples import Inputs, shipped_inputs
from edgekit.progress import Progress
from edgekit.prove import CONTEXT, FullPrecisionRuns, WrittenPart, prove_parts, written_part
from edgekit.prove import publish as artifact
from edgekit.runtime.opening import prepare


@dataclass(frozen=True)
class Trial:
    """One part before its proof, all right; what makes a wrong export of it gives back another.

    Attributes:
        files: of the part, in the manifest's order.
        opening: what opens the part; already prepared, so nobody will look at the files' hashes again.
    """

    files: tuple[Path, ...]
    runs: FullPrecisionRuns
    opening: Any

    @property
    def text(self) -> Any:
        """What config.json says of the language model."""
        return self.runs.source.config.text_config

    def graph(self, stem: str) -> Path:
        """The part's ONNX graph whose name begins so."""
        return next(path for path in self.files if path.name.startswith(stem) and path.suffix == ".onnx")


Change = Callable[[Trial], AbstractContextManager[Trial]]


class Instead:
    """Another value with some attributes of its own."""

    def __init__(self, right: Any, **attributes: Any) -> None:
        self.right = right
        self.__dict__.update(attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.right, name)


@dataclass(frozen=True)
class Unproven:
    """An artifact that is not proven yet."""

    folder: Path
    manifest: Manifest
    runs: FullPrecisionRuns
    inputs: Inputs = field(default_factory=shipped_inputs)

    def parts(self, role: str) -> list[Part]:
        """All parts of a role, in the order of the levels."""
        order = list(LEVELS)
        return sorted((p for p in self.manifest.parts if p.role == role), key=lambda part: order.index(part.level))

    def proven(self, role: str, level: str) -> Parity:
        """The right part, proven once."""
        if (role, level) not in self._proven:
            self._proven[role, level] = self.prove(role, level)
        return self._proven[role, level]

    def prove(self, role: str, level: str, change: Change | None = None) -> Parity:
        """Prove one part, right or changed, opened as for a user.

        Raises:
            GateError: it is refused.
        """
        (part,) = (part for part in self.parts(role) if part.level == level)
        variant = next(name for name, parts in self.manifest.variants.items() if parts.get(role) == part.id)
        files = tuple(self.folder / file.path for file in part.files)
        right = Trial(files, self.runs, self.prepared(variant))
        with change(right) if change else nullcontext(right) as trial:
            (parity,) = prove_parts([part], trial.opening, trial.runs, self.inputs, self.manifest.gates)
        return parity

    def prepared(self, variant: str) -> Any:
        """A variant before its parts are loaded; its files are compared with the manifest once."""
        if variant not in self._prepared:
            self._prepared[variant] = prepare(self.folder, variant, context=CONTEXT, runtime="default")
        return self._prepared[variant]

    def written(self, role: str, level: str) -> WrittenPart:
        """A part and the tensors of its files."""
        (part,) = (part for part in self.parts(role) if part.level == level)
        return written_part(self.runs.source, self.folder, part)

    _prepared: dict[str, Any] = field(default_factory=dict)
    _proven: dict[tuple[str, str], Parity] = field(default_factory=dict)


def unproven(
    source: Path,
    folder: Path,
    *,
    recipe_name: str | None = None,
    levels: Sequence[str] = (),
    parts: Sequence[Mapping[str, str]] = ({},),
    progress: Progress | None = None,
) -> Unproven:
    """Export without a proof, once for each choice of parts, into one folder."""
    runs = FullPrecisionRuns(open_source(source), progress or Progress())
    for choice in parts:
        done = artifact.export(
            source, folder, recipe_name=recipe_name, levels=levels, parts=choice, prove=False, progress=progress
        )
    return Unproven(done.folder, done.manifest, runs)


@contextmanager
def loaded_as(trial: Trial, change: Callable[[Any], None]) -> Iterator[Trial]:
    """The part behaves otherwise once it is loaded."""

    @contextmanager
    def part(role: str) -> Iterator[Any]:
        with trial.opening.part(role) as loaded:
            change(loaded)
            yield loaded

    yield replace(trial, opening=Instead(trial.opening, part=part))
