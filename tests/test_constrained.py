"""Answers kept to a schema, a choice, an expression or a grammar, by both decoders: never anything else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgekit.cli import main
from edgekit.errors import InputError
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.grammar.constraints import Choice, JsonSchema, Lark, Regex
from edgekit.runtime.model import Generation
from edgekit.runtime.use import Use

SCHEMA = {
    "type": "object",
    "properties": {
        "finding": {"enum": ["nodule", "pneumothorax", "no finding"]},
        "severe": {"type": "boolean"},
        "sides": {"type": "array", "items": {"enum": ["left", "right"]}, "maxItems": 2},
        "diameter_mm": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["finding", "severe", "sides", "diameter_mm"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["BF16", "fp32"])
def model(
    request: pytest.FixtureRequest, medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatModel]:
    folder = tmp_path_factory.mktemp("constrained") / "artifact"
    artifact.export(medgemma_source, folder, levels=[request.param], prove=False)
    opened = open_model(folder, use=Use(slots=3))
    assert isinstance(opened, ChatModel)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def question() -> list[Message]:
    return [Message("user", Image(next(iter(phantoms.generate(121, 1))).image), "What is the main finding?")]


def asked(model: ChatModel, messages: list[Message], **options: Any) -> Generation:
    *pieces, last = model.generate(messages, GenerationOptions(**options))
    assert isinstance(last, Generation)
    assert "".join(map(str, pieces)) == last.text
    return last


def test_json_is_what_its_schema_allows(model: ChatModel, question: list[Message]) -> None:
    for options in ({}, {"temperature": 2.0, "seed": 3}, {"temperature": 5.0, "seed": 4}):
        found = asked(model, question, max_tokens=300, constraint=JsonSchema(SCHEMA), **options)
        assert found.stopped == "end", found.text
        jsonschema.validate(json.loads(found.text), SCHEMA)


def test_what_can_be_nothing_else_is_decoded_at_once_and_changes_nothing(
    model: ChatModel, question: list[Message]
) -> None:
    """A decoder that verifies no drafts decodes every token by itself, and says the same."""
    drafted = asked(model, question, max_tokens=300, constraint=JsonSchema(SCHEMA))
    plain = asked(model, question, max_tokens=300, constraint=JsonSchema(SCHEMA), lookup=False)
    assert drafted.text == plain.text


def test_a_choice_is_one_of_them(model: ChatModel, question: list[Message]) -> None:
    choices = ("a nodule", "no finding at all", "größer als 5 µm")
    found = asked(model, question, constraint=Choice(*choices))
    assert found.text in choices
    drawn = {asked(model, question, constraint=Choice(*choices), temperature=50, seed=n).text for n in range(12)}
    assert drawn <= set(choices)
    assert len(drawn) > 1


def test_an_expression_and_a_grammar_match_as_a_whole(model: ChatModel, question: list[Message]) -> None:
    found = asked(model, question, constraint=Regex(r"[1-9][0-9]? mm(, (left|right))?"), temperature=3, seed=1)
    assert re.fullmatch(r"[1-9][0-9]? mm(, (left|right))?", found.text)
    written = asked(model, question, constraint=Lark('start: "(" /[a-c]{1,5}/ ")"'), temperature=3, seed=1)
    assert re.fullmatch(r"\([a-c]{1,5}\)", written.text)


def test_what_a_budget_cuts_off_is_said(model: ChatModel, question: list[Message]) -> None:
    cut = asked(model, question, max_tokens=3, constraint=JsonSchema(SCHEMA))
    assert (cut.stopped, cut.truncated) == ("budget", True)
    assert any("cut off" in warning for warning in cut.warnings)


def test_answers_of_several_kinds_at_once(model: ChatModel, question: list[Message]) -> None:
    """One that is kept to something and others that are not, in one batch."""
    kinds = [
        {"constraint": JsonSchema(SCHEMA), "max_tokens": 300},
        {"max_tokens": 12, "lookup": False},
        {"constraint": Choice("yes", "no")},
    ]
    alone = [asked(model, question, **options).text for options in kinds]
    with ThreadPoolExecutor(len(kinds)) as pool:
        together = list(pool.map(lambda options: asked(model, question, **options).text, kinds))
    assert together == alone


def test_one_that_leads_nowhere_ends_its_own_answer_alone(
    model: ChatModel, question: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.runtime.grammar.guidance import Matcher

    def apply(self: Any, logits: Any) -> None:
        raise InputError("the constraint leads no further")

    other = model.generate(question, GenerationOptions(max_tokens=8, lookup=False))
    text = str(next(other))
    monkeypatch.setattr(Matcher, "apply", apply)
    with pytest.raises(InputError, match="leads no further"):
        asked(model, question, constraint=Choice("yes", "no"))
    monkeypatch.undo()
    *pieces, whole = other
    assert text + "".join(map(str, pieces)) == whole.text  # type: ignore[union-attr]
    assert asked(model, question, constraint=Choice("yes", "no")).text in ("yes", "no")


def test_from_the_command_line(medgemma_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    ask = ["ask", str(medgemma_artifact), "What is a cough?"]
    assert main([*ask, "--json-schema", str(schema)]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMA)
    assert main([*ask, "--choice", "yes", "--choice", "no"]) == 0
    assert capsys.readouterr().out.strip() in ("yes", "no")
    schema.write_text('{"type": "object", "minProprties": 3}')
    assert main([*ask, "--json-schema", str(schema)]) == 1
    assert "minProprties" in capsys.readouterr().err
    assert main([*ask, "--grammar", str(tmp_path / "none.lark")]) == 1
    assert "none.lark" in capsys.readouterr().err
