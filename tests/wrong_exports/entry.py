"""What a wrong export is, and how a part becomes one: its file is changed for a while, or a wrong exporter writes it.

A change in place comes to the same as what a wrong converter would have written, and costs no export. What it changes
is right again after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from proofs import Change, Trial, described

from edgekit.artifacts.levels import LEVELS
from edgekit.errors import ArtifactError, EdgekitError, GateError
from edgekit.families.source import Source
from edgekit.formats.gguf import writer as gguf_writer
from edgekit.formats.gguf.header import read_header
from edgekit.formats.label import FileLabel
from edgekit.formats.onnx import writer as onnx_writer
from edgekit.formats.onnx.layout import layout_of

Kind = Literal["tensors", "header", "graph", "runtime", "inputs", "checkpoint", "manifest"]
FORMATS = ("gguf", "onnx")


class InapplicableError(Exception):
    """A model lacks what is to be wrong."""


@dataclass(frozen=True)
class WrongExport:
    """One mistake in one part.

    Attributes:
        name: of the mistake; the same in both formats.
        roles: the parts that can have it.
        format: of the files that it is made in.
        kind: where it is made.
        codecs: of a level's large matrices, where the mistake exists for these alone; empty for all.
        activations: how a level rounds them, likewise.
        exporter: the mistake in who writes the file, for comparisons that write one themselves.
        sees: whether only a model that sees images can have it.
    """

    name: str
    roles: tuple[str, ...]
    format: str
    kind: Kind
    change: Change
    codecs: tuple[str, ...] = ()
    activations: str = ""
    exporter: Exporter | None = None
    sees: bool = False

    def levels(self) -> list[str]:
        """Those of its format that can have it."""
        rows = (row for row in LEVELS.values() if row.format == self.format)
        return [
            row.name
            for row in rows
            if (not self.codecs or row.codec in self.codecs) and self.activations in ("", row.activations)
        ]

    def refusal(self, role: str) -> AbstractContextManager[pytest.ExceptionInfo[EdgekitError]]:
        """What a proof of a part that is so wrong must end in: a comparison, or already whoever opens it."""
        said = rf"^{role} \w+: |\.(gguf|onnx|json): |tokens an image"
        return pytest.raises((GateError, ArtifactError), match=said)

    def __str__(self) -> str:
        return f"{self.format}, {self.kind}: {self.name}"


@dataclass(frozen=True)
class Exporter:
    """An exporter with a mistake.

    Attributes:
        misread: the family's configuration -> another, as one who reads it wrongly would have it.
        patches: object, name of an attribute, and its wrong value.
        header: changes a GGUF header's values by key, `gguf.GGUFValue`s.
    """

    misread: Callable[[Any], Any] = lambda config: config
    patches: tuple[tuple[Any, str, Any], ...] = ()
    header: Callable[[dict[str, Any]], object] | None = None

    @contextmanager
    def active(self, wrong_role: str) -> Iterator[None]:
        """While it is at work, wherever a part of this role is planned, and graphs are built."""
        right = Source.plan

        def plan(source: Source, role: str, level: Any) -> Any:
            planned = right(source, role, level)
            return self.plan(planned) if role == wrong_role else planned

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Source, "plan", plan)
            for target, name, wrong in self.patches:
                patch.setattr(target, name, wrong)
            yield

    def plan(self, plan: Any) -> Any:
        """What it would write in place of a planned part."""
        planned = replace(plan, config=self.misread(plan.config))
        if self.header is None:
            return planned
        right, edit = plan.form.header, self.header

        def header(writer: Any, given: Any) -> None:
            right(writer, given)
            edit(writer.kv_data[0])

        return replace(planned, form=replace(plan.form, header=header))


def misreading(**sections: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A reader of config.json who gets these values wrong, by section: values, or functions of the section."""

    def misread(config: Any) -> Any:
        for section, values in sections.items():
            right = getattr(config, section)
            wrong = {key: value(right) if callable(value) else value for key, value in values.items()}
            config = config.model_copy(update={section: right.model_copy(update=wrong)})
        return config

    return misread


@contextmanager
def written_by(trial: Trial, exporter: Exporter) -> Iterator[Trial]:
    """What is no weight in a part's files, the header or the graphs, written by a wrong exporter for a while.

    A GGUF header may have another length: then the file is written anew around its weights.
    """
    plan = exporter.plan(trial.plan)
    label = FileLabel(trial.opening.manifest.title, trial.opening.manifest.license.splitlines()[0], "part")
    with exporter.active(trial.plan.role):
        made = _head(trial, plan, label) if plan.level.format == "gguf" else _graphs(trial, plan)
    if all(right == wrong for right, wrong in made.values()):
        raise InapplicableError("the files are the same")
    with replaced(made):
        yield trial


def _head(trial: Trial, plan: Any, label: FileLabel) -> dict[Path, tuple[bytes, bytes]]:
    (path,) = trial.files
    start = min(tensor.offset for tensor in read_header(path).tensors.values())
    with path.open("rb") as file:
        right = file.read(start)
    return {path: (right, gguf_writer.content(plan, path.parent, label).head)}


def _graphs(trial: Trial, plan: Any) -> dict[Path, tuple[bytes, bytes]]:
    data = next(path for path in trial.files if path.name.endswith(".onnx_data"))
    layout = layout_of(data.name, trial.plan)
    graphs = [path for path in trial.files if path.suffix == ".onnx"]
    return {
        path: (path.read_bytes(), onnx_writer.graph_of(build, path.stem, plan, layout))
        for path, build in zip(graphs, plan.form.graphs.values(), strict=True)
    }


@contextmanager
def replaced(beginnings: Mapping[Path, tuple[bytes, bytes]]) -> Iterator[None]:
    """Files whose beginnings are others for a while: path -> how it begins, and how it shall."""
    for path, (right, wrong) in beginnings.items():
        _begin(path, right, wrong)
    try:
        yield
    finally:
        for path, (right, wrong) in beginnings.items():
            _begin(path, wrong, right)


def _begin(path: Path, old: bytes, new: bytes) -> None:
    with path.open("r+b") as file:
        assert file.read(len(old)) == old, f"{path} begins otherwise"
        rest = file.read() if len(old) != len(new) else b""
        file.seek(0)
        file.write(new + rest)
        if len(old) != len(new):
            file.truncate()


def wrong_header(
    name: str, edit: Callable[[dict[str, Any]], object], role: str = "decoder", **options: Any
) -> WrongExport:
    """A GGUF header whose values one function changes."""
    exporter = Exporter(header=edit)
    return WrongExport(name, (role,), "gguf", "header", by(exporter), exporter=exporter, **options)


def by(exporter: Exporter, settings: Mapping[str, Any] | None = None) -> Change:
    """The change that a wrong exporter makes.

    Args:
        settings: what it writes into the manifest, too, from the same wrong reading.
    """

    @contextmanager
    def change(trial: Trial) -> Iterator[Trial]:
        with ExitStack() as stack:
            wrong = stack.enter_context(written_by(trial, exporter))
            yield described(wrong, settings) if settings else wrong

    return change
