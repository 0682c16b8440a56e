"""The papers: notice, agreement, and what was done to the model, as its licence wants them to go with every copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekit.artifacts.documents import is_folder
from edgekit.artifacts.licenses import Agreement, agreement_of, read_agreement
from edgekit.artifacts.manifest import Manifest
from edgekit.classifier.card import Card
from edgekit.errors import UsageError
from edgekit.export.readme import quoted
from edgekit.pack.bundle import PAPERS
from edgekit.pack.contents.base import Content, Gathering

NOTICE, AGREEMENT, MODIFICATIONS = "NOTICE", "TERMS.txt", "MODIFICATIONS.md"
_NAMES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "TERMS", "TERMS.txt", "TERMS.md", "terms.txt")  # in a checkpoint
_LONG = 2000  # characters of one thing that a manifest says
_LEAST_CHARACTERS = 4000  # a page that only links to an agreement is no copy of it


def agreement_text(model: Manifest | Card, given: Path | None) -> str | None:
    """The text that must go with every copy of a model.

    Args:
        given: its file, or the checkpoint's folder that has it.

    Raises:
        UsageError: the model's licence wants such a text, or nobody here knows what it wants, and there is none, or
            another one.
    """
    wanted = agreement_of(model.license)
    if given is None:
        if wanted:
            raise UsageError(
                f"{model.title} is under the {wanted.title}, of which everybody who is given it must get a copy",
                remedy=f"save the text of {wanted.url} and name it: --terms FILE",
            )
        if not model.stand_in:
            raise UsageError(
                f"{model.title}: nobody here knows under which terms it may be passed on",
                remedy="name the text of its licence: --terms FILE",
            )
        return None
    path = _inside(given) if is_folder(given) else given
    text = read_agreement(path)
    if wanted and (wanted.named.casefold() not in _one_line(text) or len(text) < _LEAST_CHARACTERS):
        raise UsageError(
            f"{path}: is not the text of the {wanted.title}",
            allowed="the whole agreement, as text",
            remedy=f"save the text of {wanted.url}",
        )
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split()).casefold()


def _inside(folder: Path) -> Path:
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"{folder}: has no text of an agreement", allowed=", ".join(_NAMES), remedy="name the file itself")


def write(gathering: Gathering) -> None:
    """Write them beside each other."""
    folder = gathering.staging / PAPERS
    gathering.write(folder / NOTICE, _notice(gathering))
    gathering.write(folder / MODIFICATIONS, _modifications(gathering.manifest))
    if gathering.agreement is not None:
        gathering.write(folder / AGREEMENT, gathering.agreement)


def restrictions(agreement: Agreement) -> str:
    """What whoever gets a model under an agreement is told of its use restrictions."""
    return (
        f"Use of this model, and of whatever is made of it, is subject to section 3.2 of the {agreement.title}: "
        f"{agreement.forbids} Whoever passes it on must make this a condition and pass on these papers."
    )


def _notice(gathering: Gathering) -> str:
    """Its first lines are the notice that the licence prescribes, word for word."""
    manifest, agreement = gathering.manifest, gathering.license
    lines = [agreement.notice, ""] if agreement else []
    if not agreement or agreement.notice not in manifest.license or manifest.license != agreement.notice:
        lines += [manifest.license.strip(), ""]
    if agreement:
        lines += [restrictions(agreement), "", f"The whole agreement: {AGREEMENT}", ""]
    if manifest.stand_in:
        lines += [manifest.stand_in, ""]
    lines += [manifest.modified, f"What was changed in which file: {MODIFICATIONS}", ""]
    lines += ["edgekit is not cleared for any clinical use; what a model says may be wrong."]
    return "\n".join(lines) + "\n"


def _modifications(manifest: Manifest) -> str:
    return "\n".join(_modification_lines(manifest)) + "\n"


def _modification_lines(manifest: Manifest) -> Iterator[str]:
    """What the terms call prominent notices: of each file what it was made from, by what, and how it was changed."""
    source = manifest.source
    yield f"# Modifications: {quoted(manifest.title)}"
    yield ""
    yield quoted(manifest.modified, _LONG)
    yield ""
    yield f"- Made from: {quoted(source.revision or source.name)}"
    yield f"- SHA-256 over its files: {source.sha256}"
    yield ""
    yield "| file of the original | SHA-256 |"
    yield "|---|---|"
    yield from (f"| {quoted(name)} | {digest} |" for name, digest in source.files.items())
    for part in manifest.parts:
        tools = ", ".join(f"{name} {version}" for name, version in part.tools.items())
        types = ", ".join(f"{count} {name}" for name, count in part.tensor_types.items())
        yield ""
        yield f"## {quoted(part.role)}, {quoted(part.level)}"
        yield ""
        yield f"- Converted to {quoted(part.format)} by {quoted(tools, _LONG)}"
        yield f"- {part.weights} weights, stored as: {quoted(types, _LONG)} ({part.bits_per_weight:g} bits a weight)"
        if part.calibrated_on:
            yield f"- Ranges of activations measured on: {quoted(part.calibrated_on)}"
        yield from (f"- Modified: `{quoted(file.path)}`, SHA-256 {file.sha256}" for file in part.files)


CONTENT = Content("writing the papers", 30, write)
