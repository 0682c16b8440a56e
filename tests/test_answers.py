"""How answers end: by the model, by a budget, at the context's limit, or because they only repeat themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from material import photo
from PIL import Image as Pillow
from small_models import END, ScriptedDecoder, chat_model, tokenizer
from tokenizers import Tokenizer

from edgekit.cli import main
from edgekit.errors import InputError, UsageError
from edgekit.families.gemma3.chat import GemmaChat
from edgekit.inputs.message import Image, Message
from edgekit.machine.memory import Memory
from edgekit.runtime import open_model
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.answer import Piece
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.repetition import ENOUGH, LONGEST, Repetition
from edgekit.runtime.grammar.constraints import Choice
from edgekit.runtime.model import Generation


def said(source: Path, script: list[int], budget: int = 4000, **options: Any) -> Generation:
    """The answer of a decoder that says this."""
    with chat_model(source, ScriptedDecoder(script, **options)) as model:
        *pieces, answer = model.generate([Message("user", "?")], max_tokens=budget)
    assert isinstance(answer, Generation)
    assert "".join(map(str, pieces)) == answer.text
    return answer


# ---------------------------------------------------------------- repetition


def naive(tokens: list[int]) -> int | None:
    """After how many tokens an answer is a loop, looked up anew at each."""
    for count in range(ENOUGH, len(tokens) + 1):
        for cycle in range(1, LONGEST + 1):
            start = count - ENOUGH
            if start >= cycle and tokens[start:count] == tokens[start - cycle : count - cycle]:
                return count
    return None


def found(tokens: list[int]) -> int | None:
    repetition = Repetition()
    return next((count for count, token in enumerate(tokens, 1) if repetition.add(token)), None)


@settings(max_examples=150)
@given(
    st.lists(st.integers(0, 3), max_size=80),
    st.lists(st.integers(0, 3), min_size=1, max_size=70),
    st.integers(0, ENOUGH + 80),
    st.lists(st.integers(0, 3), max_size=30),
)
@example([], [7], ENOUGH, [])
@example([], [7], ENOUGH + 1, [])
@example([1, 2], list(range(64)), ENOUGH + 64, [])
@example([1, 2], list(range(65)), ENOUGH + 80, [])
@example([], [1, 2, 3], ENOUGH + 2, [1])
def test_loops_are_found_where_a_plain_search_finds_them(
    before: list[int], cycle: list[int], length: int, after: list[int]
) -> None:
    tokens = before + (cycle * (length // len(cycle) + 1))[:length] + after + cycle * 8
    assert found(tokens) == naive(tokens)


@pytest.mark.parametrize("cycle", [1, 2, 7, 64])
def test_an_answer_that_goes_round_for_ever_is_stopped_and_says_so(medgemma_source: Path, cycle: int) -> None:
    text, script = [300, 301, 302], [400 + i for i in range(cycle)] * 8000
    answer = said(medgemma_source, text + script[:7000])
    assert answer.stopped == "loop"
    assert answer.truncated
    assert answer.output_tokens == len(text) + cycle + ENOUGH
    assert any("it only repeated itself" in warning for warning in answer.warnings)


@pytest.mark.parametrize("row", ["| no | no | no |\n", "- none\n", "no ", "0.0, ", "yes yes no yes no no\n"])
def test_a_table_or_list_of_equal_words_is_never_cut(medgemma_source: Path, row: str) -> None:
    """As long as it repeats itself for no more than the stated number of tokens."""
    ids = tokenizer(medgemma_source).encode(row * ENOUGH, add_special_tokens=False).ids[:ENOUGH]
    answer = said(medgemma_source, [*ids, 300, *ids, 301])
    assert (answer.stopped, answer.truncated, answer.output_tokens) == ("end", False, 2 * ENOUGH + 2)


def test_what_ended_an_answer_is_said(medgemma_source: Path) -> None:
    words = [300 + i % 97 for i in range(2000)]
    whole = said(medgemma_source, words[:50])
    assert (whole.stopped, whole.truncated, whole.output_tokens) == ("end", False, 50)
    assert not any("cut off" in warning for warning in whole.warnings)
    cut = said(medgemma_source, words, 20)
    assert (cut.stopped, cut.truncated, cut.output_tokens) == ("budget", True, 20)
    full = said(medgemma_source, words, context=100)
    assert (full.stopped, full.truncated) == ("context", True)
    assert full.prompt_tokens + full.output_tokens == 100
    assert any("the context of 100 is full" in told and "--context" in told for told in full.warnings)
    at_the_end = said(medgemma_source, [*words[:30], END], 31)
    assert at_the_end.stopped == "end"


# ---------------------------------------------------------------- the context


def test_a_prompt_beyond_the_context_says_how_to_raise_it(medgemma_source: Path) -> None:
    prompt = [Message("user", "word " * 300)]
    with chat_model(medgemma_source, ScriptedDecoder([], context=128), limit=8192) as model:
        with pytest.raises(InputError, match=r"a prompt of (\d+) tokens") as caught:
            list(model.generate(prompt))
        count = int(caught.value.message.split()[3])
        assert "1 to 128" in str(caught.value.allowed)
        assert "8192" in str(caught.value.allowed)
        assert f"--context {count}" in str(caught.value.remedy)
    with chat_model(medgemma_source, ScriptedDecoder([], context=count), limit=8192) as model:
        *_, answer = model.generate(prompt)
        assert isinstance(answer, Generation)
        assert answer.prompt_tokens == count
    with (
        chat_model(medgemma_source, ScriptedDecoder([], context=128), limit=200) as model,
        pytest.raises(InputError, match="a shorter prompt"),
    ):
        model.score(prompt, ["yes"])


def test_a_prompt_that_does_not_fit_costs_no_image(medgemma_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_model(medgemma_source, ScriptedDecoder([], context=20)) as model:
        calls: list[Any] = []
        monkeypatch.setattr(model.vision, "encode", calls.append)
        with pytest.raises(InputError, match="tokens"):
            list(model.generate([Message("user", Image(photo(40, 40)), "word " * 30)]))
        assert not calls


@pytest.mark.parametrize("level", ["Q4_0", "q4"])
def test_a_context_is_had_up_to_what_the_model_was_made_for(request: pytest.FixtureRequest, level: str) -> None:
    folder = request.getfixturevalue("medgemma_onnx" if level == "q4" else "medgemma_artifact")
    with open_model(folder, level) as usual, open_model(folder, level, context=8192) as model:
        assert isinstance(usual, ChatModel)
        assert isinstance(model, ChatModel)
        assert (usual.decoder.context, model.decoder.context) == (4096, 8192)
        *_, answer = model.generate([Message("user", "word")], max_tokens=2)
        assert isinstance(answer, Generation)
    wrong: Any
    for wrong in (8193, 0, -1, "many", 1.5, True):
        with pytest.raises(UsageError, match=r"a context of .* tokens") as caught:
            open_model(folder, level, context=wrong)
        assert "1 to 8192, which this model was made for" in str(caught.value.allowed)


@pytest.mark.parametrize("level", ["Q4_0", "q4"])
def test_a_context_that_memory_cannot_hold_is_refused_before_it_is_taken(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    folder = request.getfixturevalue("medgemma_onnx" if level == "q4" else "medgemma_artifact")
    monkeypatch.setattr("edgekit.runtime.base.memory", lambda: Memory(10**9, 1_000_000))
    with pytest.raises(UsageError, match=r"a context of 8192 tokens takes .* GB, and 0\.001 GB") as caught:
        open_model(folder, level, context=8192)
    most = int(str(caught.value.allowed).split()[2])
    assert 0 < most < 8192
    open_model(folder, level, context=most).close()
    with pytest.raises(UsageError, match="memory are free"):
        open_model(folder, level, context=most + 1)


def test_the_option(
    medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["ask", str(medgemma_artifact), "word " * 100, "--level", "Q4_0", "--max-tokens", "3", "--json", "--context"]
    assert main([*ask, "64"]) == 1
    error = json.loads(capsys.readouterr().err)
    assert "--context" in error["try"]
    assert main([*ask, "300"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] in ("end", "budget")
    assert main([*ask, "9000"]) == 2
    capsys.readouterr()
    picture = tmp_path / "a.png"
    Pillow.fromarray(photo(60, 60)).save(picture)
    assert main(["classify", str(medsiglip_artifact), str(picture), "--label", "a", "--context", "9"]) == 2
    assert "a context of 9 tokens" in capsys.readouterr().err


# ---------------------------------------------------------------- what is no question


@pytest.mark.parametrize("wrong", ["hello", b"hello", None, 5, ["hello"], [None], [Message("user", "?"), "hello"]])
def test_what_is_no_conversation(medgemma_source: Path, wrong: Any) -> None:
    with chat_model(medgemma_source) as model:
        for use in (lambda: list(model.generate(wrong)), lambda: model.score(wrong, ["yes"])):
            with pytest.raises(InputError, match="messages: "):
                use()


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many"])
def test_what_is_no_budget(medgemma_source: Path, wrong: Any) -> None:
    with chat_model(medgemma_source) as model, pytest.raises(InputError, match="an output budget of"):
        list(model.generate([Message("user", "?")], max_tokens=wrong))


def test_options_are_a_list_of_texts(medgemma_source: Path) -> None:
    wrong: Any
    with chat_model(medgemma_source) as model:
        for wrong in ("yes", [None], [b"yes"]):
            with pytest.raises(UsageError, match="options: "):
                model.score([Message("user", "?")], wrong)


@pytest.mark.parametrize("part", [None, 5, b"text", Path("a.png"), photo(4, 4), ["text"]])
def test_what_is_no_part_of_a_message(part: Any) -> None:
    with pytest.raises(InputError, match=r"a \w+ in a message"):
        Message("user", "text", part)


@pytest.mark.parametrize("role", ["User", "model", "", None, 3, []])
def test_what_is_no_role(role: Any) -> None:
    with pytest.raises(InputError, match="a message of") as caught:
        Message(role, "text")
    assert caught.value.allowed == "system, user, assistant"


@pytest.mark.parametrize("source", [None, 5, ["a.png"]])
def test_what_is_no_image(source: Any) -> None:
    with pytest.raises(InputError, match=r"an image of \w+"):
        Image(source)


# ---------------------------------------------------------------- thoughts

BEGIN, ENDED = 2049, 2050  # the reference model's table has rows for them, its tokenizer no tokens


@contextmanager
def thinking_model(source: Path, script: list[int], **options: Any) -> Iterator[tuple[ChatModel, Any]]:
    """A model whose tokenizer has what MedGemma 1.5 frames its thoughts with, and what it was asked."""
    decoder = ScriptedDecoder(script, **options)
    with chat_model(source, decoder) as model:
        tokens = Tokenizer.from_str(model.tokenizer.to_str())
        tokens.add_tokens(["<unused94>", "<unused95>"])
        assert [tokens.token_to_id(f"<unused{n}>") for n in (94, 95)] == [BEGIN, ENDED]
        yield ChatModel(decoder, None, GemmaChat(tokens, model.settings), None), tokens


def thought(source: Path, said: str, answer: str, **options: Any) -> tuple[list[Piece], Generation]:
    ids = [tokenizer(source).encode(text, add_special_tokens=False).ids for text in (said, answer)]
    script = [BEGIN, *ids[0], ENDED, *ids[1]]
    with thinking_model(source, script) as (model, _):
        *pieces, last = model.generate([Message("user", "?")], GenerationOptions(thinking=True, **options))
    assert isinstance(last, Generation)
    return [piece for piece in pieces if isinstance(piece, Piece)], last


def test_thoughts_come_apart_from_the_answer(medgemma_source: Path) -> None:
    pieces, last = thought(medgemma_source, "thought\nThe lungs look clear.", "No finding.")
    assert (last.text, last.thoughts, last.stopped) == ("No finding.", "The lungs look clear.", "end")
    assert "".join(piece for piece in pieces if piece.thinking) == last.thoughts
    assert "".join(piece for piece in pieces if not piece.thinking) == last.text
    assert 0 < last.thinking_tokens < last.output_tokens


def test_thoughts_without_their_heading_are_thoughts_too(medgemma_source: Path) -> None:
    _, last = thought(medgemma_source, "tho the lungs", "No.")
    assert (last.thoughts, last.text) == ("tho the lungs", "No.")


def test_a_budget_for_thoughts_ends_them_and_leaves_the_answer_its_own(medgemma_source: Path) -> None:
    """The scripted decoder goes on with its script, which is then the answer."""
    _, last = thought(medgemma_source, "thought\nThe lungs look clear, I think.", "No.", thinking_tokens=6)
    assert last.thinking_tokens == 6
    assert last.text
    assert last.stopped == "end"


def test_an_answer_that_was_all_thoughts_says_so(medgemma_source: Path) -> None:
    _, last = thought(medgemma_source, "thought\n" + "The lungs look clear. " * 9, "No.", max_tokens=12)
    assert (last.text, last.stopped, last.truncated) == ("", "budget", True)
    assert any("all of it was thought" in warning for warning in last.warnings)


def test_a_stop_text_is_looked_for_in_the_answer_alone(medgemma_source: Path) -> None:
    _, last = thought(medgemma_source, "thought\nclear.", "All clear. Yes.", stop=("clear",))
    assert (last.thoughts, last.text, last.stopped) == ("clear.", "All ", "stop")


def test_a_constraint_holds_for_the_answer_and_not_for_thoughts(medgemma_source: Path) -> None:
    _, last = thought(medgemma_source, "thought\nIt is clear.", "yes", constraint=Choice("yes", "no"))
    assert (last.thoughts, last.text) == ("It is clear.", "yes")


def test_who_is_asked_to_think_is_told_by_the_system(medgemma_source: Path) -> None:
    with thinking_model(medgemma_source, []) as (model, tokens):
        asked = []
        right = model.decoder.prefill
        model.decoder.prefill = lambda segments, want=None: asked.extend(segments) or right(segments, want)  # type: ignore[method-assign,assignment]
        for turns in ([Message("user", "?")], [Message("system", "You are a radiologist."), Message("user", "?")]):
            list(model.generate(turns, GenerationOptions(thinking=True)))
        texts = [tokens.decode(segment.ids, skip_special_tokens=False) for segment in asked]
    assert "user\nSYSTEM INSTRUCTION: think silently if needed.\n\n?" in texts[0]
    assert "user\nSYSTEM INSTRUCTION: think silently if needed. You are a radiologist.\n\n?" in texts[1]


def test_a_model_without_tokens_for_thoughts_refuses_to_think(medgemma_source: Path) -> None:
    with chat_model(medgemma_source) as model, pytest.raises(InputError, match="cannot think"):
        list(model.generate([Message("user", "?")], GenerationOptions(thinking=True)))
