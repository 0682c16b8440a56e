"""The model card, README.md: what Hugging Face's hub reads, then what a person must know before they use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from edgekit.artifacts.manifest import Manifest, Part
from edgekit.export import llama_programs
from edgekit.export.readme import quoted
from edgekit.pack.bundle import PAPERS
from edgekit.pack.contents.base import Content, Gathering
from edgekit.pack.contents.device import CPU_ALONE
from edgekit.pack.contents.papers import AGREEMENT, MODIFICATIONS, NOTICE, restrictions
from edgekit.pack.figures import figures
from edgekit.pack.limits import LIMITS, TRADEOFF, task_of, uses
from edgekit.terminal import stripped_line

FILE_NAME = "README.md"
_LONG = 2000  # characters of one thing that others may have named


def write(gathering: Gathering) -> None:
    """Write it at the top of the bundle or the repository."""
    gathering.write(gathering.staging / FILE_NAME, text(gathering))


def text(gathering: Gathering) -> str:
    """The card; the same for the same artifact, records and options."""
    manifest, target = gathering.manifest, gathering.target
    shown = figures(manifest, gathering.records)
    return _template().render(
        metadata=[f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata(gathering).items()],
        manifest=manifest,
        gpu=CPU_ALONE if target and target.device.gpu_memory_gb and _in_llama_cpp(gathering) else None,
        gathering=gathering,
        target=target,
        restrictions=restrictions(gathering.license) if gathering.license else None,
        notice=f"{PAPERS}/{NOTICE}",
        agreement=f"{PAPERS}/{AGREEMENT}" if gathering.agreement else None,
        modifications=f"{PAPERS}/{MODIFICATIONS}",
        files=list(_files(gathering)),
        parts=[(part, _parity(part)) for part in manifest.parts],
        figures=shown,
        machines=list(dict.fromkeys(figure.machine for figure in shown if figure.machine)),
        uses=uses(manifest),
        limits=(*LIMITS, TRADEOFF),
        commands=[shlex.join(words) for words in _commands(gathering)],
    )


def _in_llama_cpp(gathering: Gathering) -> bool:
    return any(part.format == "gguf" for part in gathering.parts.values())


def metadata(gathering: Gathering) -> dict[str, Any]:
    """What the hub reads at the top of a card (its documentation: "Model Cards"), each value as JSON, which YAML is.

    A base model is named where one is known, and then in which relation this one is to it.
    """
    manifest, agreement = gathering.manifest, gathering.license
    formats = sorted({part.format for part in manifest.parts})
    said: dict[str, Any] = {"license": "other", "license_name": "other"}
    if agreement:
        named = {"license": "gemma"} if agreement.id == "gemma" else {"license": "other", "license_name": agreement.id}
        said = {**named, "license_link": agreement.url}
    elif manifest.stand_in:
        said = {"license": "other", "license_name": "reference-model", "license_link": f"{PAPERS}/{NOTICE}"}
    if gathering.base_model:
        said |= {"base_model": [gathering.base_model], "base_model_relation": "quantized"}
    said["pipeline_tag"] = task_of(gathering.parts.values())
    said["library_name"] = "gguf" if "gguf" in formats else "transformers.js"
    said["tags"] = [*formats, "edgekit", "medical", "quantized"]
    return said


def _files(gathering: Gathering) -> Iterator[tuple[str, str, str, str]]:
    """Path as Markdown, what it is, bytes, SHA-256 of the model's files."""
    manifest = gathering.manifest
    roles = {file.path: f"{part.role}, {part.level}" for part in manifest.parts for file in part.files}
    roles |= {manifest.tokenizer.path: "tokenizer"} if manifest.tokenizer else {}
    top = gathering.model.relative_to(gathering.staging)
    for entry in {entry.path: entry for entry in manifest.files}.values():
        yield _code((top / entry.path).as_posix()), roles.get(entry.path, ""), f"{entry.bytes:,}", entry.sha256


def _code(path: str) -> str:
    """A path as code; one that would end it, or a column, as text."""
    return quoted(path, _LONG) if set(path) & set("`|") else f"`{stripped_line(path, _LONG)}`"


def _parity(part: Part) -> str:
    if part.parity is None:
        return "not compared with full precision"
    loss = part.parity.loss
    if part.parity.metric == "kl":
        return f"KL divergence {loss['mean']:.2g} nats on average, same first token at {loss.get('top1', 0):.1%}"
    return f"cosine {loss['mean']:.5f} on average, {loss['worst']:.5f} at worst"


def _commands(gathering: Gathering) -> Iterator[list[str]]:
    if gathering.target:
        yield ["sh", "install.sh", "--to", "ROOT", "--key", "KEY.pub"]
        yield ["ROOT/run", "edgekit", *_first_use(gathering, ":model")]
        yield ["ROOT/run", "edgekit", "serve", ":model"]
        return
    yield from _program_lines(gathering.manifest)
    yield ["edgekit", *_first_use(gathering, ".")]


def _first_use(gathering: Gathering, model: str) -> list[str]:
    """The command that asks it, or has it score labels."""
    if any(part.output == "logits" for part in gathering.parts.values()):
        return ["ask", model, "QUESTION"]
    return ["classify", model, "IMAGE", "--label", "A", "--label", "B"]


def _program_lines(manifest: Manifest) -> Iterator[list[str]]:
    name = llama_programs.runnable(manifest)
    if name and (served := llama_programs.server_command(Path(), manifest, name)):
        yield served
        modelfile = llama_programs.file_name(name)
        if modelfile in {entry.path for entry in manifest.support_files}:
            yield ["ollama", "create", "NAME", "-f", modelfile]


@cache
def _template() -> Template:
    environment = Environment(  # noqa: S701 (Markdown: `quoted` escapes)
        loader=PackageLoader("edgekit.pack.contents", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    environment.filters["line"] = lambda line: stripped_line(line, _LONG)  # half a command is none
    return environment.get_template("card.md.jinja")


CONTENT = Content("writing the card", 70, write)
