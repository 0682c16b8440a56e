"""Placeholders in a task's prompts, checked when its file is read and not after a minute's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from edgekit.artifacts.validation import Text
from edgekit.bench.datasets import Sample
from edgekit.errors import UsageError

LETTERS = "ABCDEFGHIJ"  # options are called so; the published parsers know no more


def _checked(allowed: tuple[str, ...], needed: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            placed = [(name, bool(form or how)) for _, name, form, how in Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise PydanticCustomError(
                "prompt", "{error}", {"error": f"not a text with placeholders: {error}"}
            ) from error
        fields = [name for name, _ in placed]
        unknown = [f"unknown {{{name}}}" for name in fields if name not in allowed]
        formed = [f"{{{name}}} has a format" for name, form in placed if form]  # which may fail, or fill the memory
        missing = [f"no {{{name}}} in it" for name in needed if name not in fields]
        if problems := [*unknown, *formed, *missing]:
            problem = problems[0]
            said = f"{problem}, allowed: {', '.join(f'{{{name}}}' for name in allowed)}"
            raise PydanticCustomError("prompt", "{said}", {"said": said})
        return text

    return check


# Stands for each label; see `edgekit.inputs.labels.class_prompts`.
LabelPrompt = Annotated[Text, AfterValidator(_checked(("name", "phrase", "modality"), ()))]
# Asks a label's yes/no question, a condition's, or a sample's own.
QuestionPrompt = Annotated[Text, AfterValidator(_checked(("question",), ("question",)))]
# Asks a question with its options, about a text where there is one.
ChoicePrompt = Annotated[Text, AfterValidator(_checked(("question", "options", "context"), ("question",)))]
# One option as a `ChoicePrompt` lists it.
OptionPrompt = Annotated[Text, AfterValidator(_checked(("letter", "text"), ("letter", "text")))]
# Asks where a structure is.
StructurePrompt = Annotated[Text, AfterValidator(_checked(("structure",), ("structure",)))]


def choice_prompt(sample: Sample, prompt: str, option: str, between: str) -> str:
    """A sample's question, its options listed and its text in the prompt's places.

    Args:
        option: an `OptionPrompt`.
        between: what separates the options.

    Raises:
        UsageError: the sample has no options, or more than there are letters.
    """
    if not 2 <= len(sample.options) <= len(LETTERS):
        where = f"the sample {sample.id or sample.question!r:.60}"
        raise UsageError(f"{where} has {len(sample.options)} options", allowed=f"2 to {len(LETTERS)}")
    lettered: Sequence[tuple[str, str]] = list(zip(LETTERS, sample.options, strict=False))
    options = between.join(option.format(letter=letter, text=text) for letter, text in lettered)
    return prompt.format(question=sample.question, options=options, context=sample.context)
