"""Placeholders in a task's prompts, checked when its file is read and not after a minute's work."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from edgekit.artifacts.validation import Text


def _checked(allowed: tuple[str, ...], needed: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            fields = [name for _, name, _, _ in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise PydanticCustomError(
                "prompt", "{error}", {"error": f"not a text with placeholders: {error}"}
            ) from error
        unknown = [name for name in fields if name not in allowed]
        missing = [name for name in needed if name not in fields]
        if unknown or missing:
            problem = f"unknown {{{unknown[0]}}}" if unknown else f"no {{{missing[0]}}} in it"
            said = f"{problem}, allowed: {', '.join(f'{{{name}}}' for name in allowed)}"
            raise PydanticCustomError("prompt", "{said}", {"said": said})
        return text

    return check


# Stands for each label; see `edgekit.inputs.labels.class_prompts`.
LabelPrompt = Annotated[Text, AfterValidator(_checked(("name", "phrase", "modality"), ()))]
# Asks a label's yes/no question.
QuestionPrompt = Annotated[Text, AfterValidator(_checked(("question",), ("question",)))]
