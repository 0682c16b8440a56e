"""The chat template of a checkpoint folder, whichever of its files holds it: untrusted code that nobody renders here.

transformers reads five places, one before the other; other programs read other ones.
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


def read_chat_templates(root: Path) -> dict[Path, str]:
    """The templates that conversations are rendered with, by the file that holds each; none for a model without.

    They come in the order in which transformers prefers them. Whether they are one is for those who can render them.

    Raises:
        CheckpointError: a file holds something else where a template must stand, one that is too long or no text, or
            named templates, and there is no "default".
    """
    named = dict(_everywhere(root))
    found = {path: templates[_DEFAULT] for path, templates in named.items() if _DEFAULT in templates}
    if named and not any(path.parent == root for path in found):
        raise CheckpointError(
            f"{next(iter(named))}: named chat templates, and none of them is {_DEFAULT!r}",
            remedy=f"save the one that conversations are rendered with as {RAW}",
        )
    return found


def same_text(one: str, other: str) -> bool:
    """Whether two templates are one to jinja2, which knows one kind of line break and drops the last."""
    first, second = (text.replace("\r\n", "\n").removesuffix("\n") for text in (one, other))
    return first == second


def _everywhere(root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Each file that holds templates, and those by name."""
    if (root / RAW).is_file():
        yield root / RAW, {_DEFAULT: _text(root / RAW)}
    for name in _JSON:
        if (path := root / name).is_file():
            data = read_json(path)
            if data.get(_KEY) is not None or name == _JSON[0]:  # that file is there for nothing else
                yield path, _by_name(data.get(_KEY), path)
    for path in sorted(filter(Path.is_file, (root / ADDITIONAL).glob("*.jinja"))):
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
