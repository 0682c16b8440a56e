"""The README.md of an artifact: what it is, its levels, and how it is run, for people who have only the folder.

It states what the manifest does, follows from it, and is written behind it: no manifest lists it, or a moment between
the two would leave a folder that contradicts itself. A checkpoint's own model card is no part of an artifact and never
copied.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import write_atomically
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.errors import ArtifactError
from edgekit.export import llama_programs
from edgekit.terminal import stripped_line

FILE_NAME = "README.md"
_MARK = "<!-- Written by edgekit with edgekit.json, and anew when levels are added, proven or removed. -->"
_HERE = Path()


@dataclass(frozen=True)
class _Row:
    """One level in the table."""

    name: str
    parts: str
    files: str
    megabytes: str
    parity: str


def check(folder: Path) -> None:
    """Raise ArtifactError where a README.md lies in a folder that edgekit did not write: it would be lost."""
    path = folder / FILE_NAME
    with file_errors(path):
        if os.path.lexists(path) and not _is_ours(path):
            raise ArtifactError(
                f"{path}: is not edgekit's, which writes one of that name", remedy="give it another name"
            )


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MARK)) == _MARK.encode()


def publish(folder: Path, manifest: Manifest) -> None:
    """Write an artifact's manifest and then its README, which states what that does and is no part of the contract."""
    manifests.write(folder, manifest)
    write_atomically(folder / FILE_NAME, text(manifest))


def contradicts(folder: Path, manifest: Manifest) -> bool:
    """Whether the README of a folder, if it has one, says something else than its manifest does."""
    path = folder / FILE_NAME
    with file_errors(path):
        return path.is_file() and path.read_bytes() != text(manifest).encode()


def text(manifest: Manifest) -> str:
    """What the README says; the same for the same manifest."""
    return _template().render(
        mark=_MARK,
        manifest=manifest,
        notice=any(entry.path == "NOTICE" for entry in manifest.support_files),
        rows=[_row(manifest, name) for name in manifest.variants],
        commands=[line for words in _commands(manifest) if (line := shlex.join(words)).isprintable()],
    )


def _row(manifest: Manifest, name: str) -> _Row:
    parts = manifest.variant(name)[1]
    return _Row(
        name,
        quoted(", ".join(f"{role} {part.level}" for role, part in parts.items())),
        quoted(", ".join(entry.path for part in parts.values() for entry in part.files)),
        f"{manifest.bytes_of(name) / 1e6:.1f}",
        quoted(", ".join(f"{role} {_parity(part)}" for role, part in parts.items())),
    )


def _parity(part: Part) -> str:
    if part.parity is None:
        return "not measured"
    mean = part.parity.loss["mean"]
    return f"KL {mean:.2g}" if part.parity.metric == "kl" else f"cosine {mean:.5f}"


def _commands(manifest: Manifest) -> Iterator[list[str]]:
    outputs = {part.output for part in manifest.variant(None)[1].values()}
    if "logits" in outputs:
        asked = ["Describe this image", "--image", "chest.png"] if manifest.preprocessing else ["What is pneumonia?"]
        yield ["edgekit", "ask", ".", *asked]
    if "pooled" in outputs and manifest.tokenizer:  # labels are texts
        yield ["edgekit", "classify", ".", "chest.png", "--label", "normal lungs", "--label", "pneumonia"]
    listed = {entry.path for entry in manifest.support_files}
    name = llama_programs.runnable(manifest)
    if name and (served := llama_programs.server_command(_HERE, manifest, name)):
        yield served
        if llama_programs.file_name(name) in listed:
            yield ["ollama", "create", "NAME", "-f", llama_programs.file_name(name)]


def quoted(text: Any, most: int = 200) -> str:
    """What others wrote, as Markdown shows it: in one line, with no link, picture, markup or column of their own.

    Args:
        most: characters that are kept.
    """
    return re.sub(r"([\\`*<>\[\]|#!&~])", r"\\\1", stripped_line(text, most))


@cache
def _template() -> Template:
    environment = Environment(  # noqa: S701 (Markdown: `quoted` escapes)
        loader=PackageLoader("edgekit.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    return environment.get_template("README.md.jinja")
