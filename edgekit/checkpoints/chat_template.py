"""The chat template of a checkpoint folder, whichever of its files holds it: untrusted code that nobody renders here.

transformers reads five places, one before the other. Where two of them differ, other programs use another one, so that
is refused instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from edgekit.artifacts.validation import validated
from edgekit.checkpoints.json_files import read_json
from edgekit.errors import CheckpointError

RAW, ADDITIONAL = "chat_template.jinja", "additional_chat_templates"
_JSON = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
_KEY = "chat_template"
_DEFAULT = "default"
_MAX_BYTES = 1 << 17  # Gemma 3's has 1,500, those of models with tools up to 20,000


class _Named(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    template: str


_FORMS: TypeAdapter[str | list[_Named] | dict[str, str]] = TypeAdapter(str | list[_Named] | dict[str, str])


def read_chat_template(root: Path) -> str | None:
    """The template that conversations are rendered with; None for a model that has none.

    Raises:
        CheckpointError: a file holds something else where a template must stand, named templates and no "default", one
            that is too long or no text, or two files hold templates that differ.
    """
    found: list[tuple[Path, str]] = []
    others: list[Path] = []
    for path, named in _everywhere(root):
        if _DEFAULT in named:
            found.append((path, named[_DEFAULT]))
        elif named:
            others.append(path)
    if others and not found:
        raise CheckpointError(
            f"{others[0]}: named chat templates, and none of them is {_DEFAULT!r}",
            remedy=f"name the one that conversations are rendered with {_DEFAULT!r}",
        )
    for path, template in found[1:]:
        if _plain(template) != _plain(found[0][1]):
            raise CheckpointError(
                f"{root}: two chat templates that differ: in {_within(root, found[0][0])} and in {_within(root, path)}",
                allowed="one",
                remedy="remove the one that the model was not trained with",
            )
    return found[0][1] if found else None


def _everywhere(root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each file that holds templates, and those by name."""
    if (root / RAW).is_file():
        yield root / RAW, {_DEFAULT: _text(root / RAW)}
    for name in _JSON:
        if (path := root / name).is_file():
            data = read_json(path)
            if data.get(_KEY) is not None or name == _JSON[0]:  # that file is there for nothing else
                yield path, _by_name(data.get(_KEY), path)
    for path in sorted((root / ADDITIONAL).glob("*.jinja")):
        yield path, {path.stem: _text(path)}


def _by_name(stated: Any, path: Path) -> dict[str, str]:
    form = validated(_FORMS, stated, f"{path}: {_KEY}", CheckpointError, whole="a text, or a list of named ones")
    if isinstance(form, str):
        templates = {_DEFAULT: form}
    elif isinstance(form, dict):
        templates = form
    else:
        templates = {one.name: one.template for one in form}
        if len(templates) < len(form):
            raise CheckpointError(f"{path}: {_KEY}: two templates of one name")
    for template in templates.values():
        _check(template, f"{path}: {_KEY}")
    return templates


def _text(path: Path) -> str:
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise _too_long(str(path), size)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8: {error}", remedy="download it again") from error


def _check(template: str, where: str) -> None:
    try:
        size = len(template.encode())
    except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
        raise CheckpointError(f"{where}: no Unicode: {error.reason}") from error
    if size > _MAX_BYTES:
        raise _too_long(where, size)


def _too_long(where: str, size: int) -> CheckpointError:
    return CheckpointError(f"{where}: {size} bytes", allowed=f"at most {_MAX_BYTES}")


def _plain(template: str) -> str:
    """As jinja2 reads it: one kind of line break, and no last one."""
    return template.replace("\r\n", "\n").removesuffix("\n")


def _within(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
