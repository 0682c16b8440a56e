"""One token from a row of logits, as transformers chooses it; and the text of tokens as they come."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_models import tokenizer
from transformers.generation import logits_process as theirs

from edgekit.checkpoints import reference_models
from edgekit.errors import InputError
from edgekit.runtime.generation.lookup import DRAFT, Lookup
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.sampling import Sampler, candidates
from edgekit.runtime.generation.streaming import TextStream

ROWS = st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=60, unique=True)


def row(values: list[float]) -> Any:
    return np.asarray(values, np.float32)


# ---------------------------------------------------------------- sampling


@settings(max_examples=300, deadline=None)
@given(ROWS, st.floats(0.1, 4), st.integers(0, 70), st.floats(0.05, 1), st.floats(0, 0.9))
@example([1.0, 2.0, 3.0], 1.0, 1, 0.5, 0.0)
def test_what_is_drawn_from_is_what_transformers_leaves(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = row(values)
    options = GenerationOptions(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    warpers: list[Any] = [theirs.TemperatureLogitsWarper(temperature)]
    warpers += [theirs.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [theirs.TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [theirs.MinPLogitsWarper(min_p)] if min_p else []
    scores = torch.from_numpy(logits)[None].double()
    for warper in warpers:
        scores = warper(torch.zeros((1, 1), dtype=torch.long), scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    tokens, probabilities = candidates(logits, options)
    found = np.zeros(len(logits))
    found[tokens] = probabilities / probabilities.sum()
    differing = np.abs(found - expected) > 1e-6
    # A token at the very edge of a nucleus may be in or out by rounding.
    assert not differing.any() or _at_the_edge(expected, found, top_p, min_p, logits, temperature)


def _at_the_edge(expected: Any, found: Any, top_p: float, min_p: float, logits: Any, temperature: float) -> bool:
    full = np.sort(torch.softmax(torch.from_numpy(logits).double() / temperature, -1).numpy())[::-1]
    edges = [*np.abs(np.cumsum(full) - top_p), *np.abs(full / full[0] - min_p)]
    return abs(int((expected > 0).sum()) - int((found > 0).sum())) == 1 and min(edges) < 1e-4


@settings(max_examples=100, deadline=None)
@given(ROWS, st.lists(st.integers(0, 2), max_size=4), st.floats(0.5, 2))
def test_a_repetition_penalty_is_transformers_own(values: list[float], prompt: list[int], penalty: float) -> None:
    logits = row(values)
    processor = theirs.RepetitionPenaltyLogitsProcessor(penalty)
    ids = torch.tensor([prompt], dtype=torch.long)
    expected = processor(ids, torch.from_numpy(logits.copy())[None])[0].numpy() if prompt else logits
    sampler = Sampler(GenerationOptions(repetition_penalty=penalty), prompt, len(logits), 0)
    assert sampler.choose(logits).token == int(expected.argmax())


def test_presence_and_frequency_count_what_the_answer_has() -> None:
    logits = row([1.0, 0.9, 0.0])
    present = Sampler(GenerationOptions(presence_penalty=0.2), [0, 0], 3, 0)
    assert present.choose(logits).token == 0  # the prompt does not count
    present.took(0)
    present.took(0)
    assert present.choose(logits).token == 1
    often = Sampler(GenerationOptions(frequency_penalty=0.06), [], 3, 0)
    often.took(0)
    assert often.choose(logits).token == 0
    often.took(0)
    assert often.choose(logits).token == 1


def test_a_bias_and_a_grammar_decide_and_the_row_stays_as_it_is() -> None:
    logits = row([3.0, 2.0, 1.0])
    before = logits.copy()
    assert Sampler(GenerationOptions(logit_bias={2: 5.0}), [], 3, 0).choose(logits).token == 2

    def allow(changed: Any) -> None:
        changed[0] = -np.inf

    assert Sampler(GenerationOptions(), [], 3, 0).choose(logits, allow).token == 1
    drawn = Sampler(GenerationOptions(temperature=50), [], 3, 0)
    assert {drawn.choose(logits, allow).token for _ in range(60)} == {1, 2}
    assert Sampler(GenerationOptions(), [], 3, 0).choose(logits, forced=2).token == 2
    assert (logits == before).all()
    with pytest.raises(InputError, match="logit_bias of token 3"):
        Sampler(GenerationOptions(logit_bias={3: 1.0}), [], 3, 0)


def test_draws_follow_their_probabilities_and_their_seed() -> None:
    logits = np.log(row([0.5, 0.3, 0.2]))
    options = GenerationOptions(temperature=1.0)
    counts = np.bincount([Sampler(options, [], 3, seed).choose(logits).token for seed in range(4000)], minlength=3)
    assert np.abs(counts / 4000 - [0.5, 0.3, 0.2]).max() < 0.04  # five standard deviations
    one, same = (Sampler(options, [], 3, 7) for _ in range(2))
    assert [one.choose(logits).token for _ in range(50)] == [same.choose(logits).token for _ in range(50)]


def test_log_probabilities_are_the_models_own_whatever_was_asked() -> None:
    logits = row([1.0, 3.0, 2.0, -1.0])
    expected = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    sampler = Sampler(GenerationOptions(top_logprobs=2, logit_bias={3: 100.0}), [], 4, 0)
    chosen = sampler.choose(logits)
    assert chosen.token == 3
    assert chosen.logprob == pytest.approx(expected[3])
    assert [one.token for one in chosen.top] == [1, 2]
    assert [one.logprob for one in chosen.top] == pytest.approx([expected[1], expected[2]])
    alone = Sampler(GenerationOptions(top_logprobs=0), [], 4, 0).choose(logits)
    assert (alone.top, alone.logprob) == ((), pytest.approx(expected[1]))


@pytest.mark.parametrize("temperature", [1e-300, 1e-310, 5e-324])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("size", [5, 20_000])
def test_a_temperature_near_nothing_is_greedy(temperature: float, top_p: float, size: int) -> None:
    logits = np.linspace(-3, 30, size, dtype=np.float32)
    options = GenerationOptions(temperature=temperature, top_p=top_p)
    assert candidates(logits, options)[0].tolist() == [size - 1]
    assert Sampler(options, [], size, 0).choose(logits).token == size - 1


def test_a_large_vocabulary_draws_from_the_same_nucleus_as_a_whole_sort() -> None:
    random = np.random.default_rng(0)
    for scale in (0.2, 3.0):  # flat, where the nucleus is larger than what is looked at first, and steep
        logits = random.normal(0, scale, 20_000).astype(np.float32)
        tokens, probabilities = candidates(logits, GenerationOptions(temperature=1.0, top_p=0.8))
        scores = theirs.TopPLogitsWarper(0.8)(torch.zeros((1, 1)), torch.from_numpy(logits)[None].double())[0]
        kept = int(torch.isfinite(scores).sum())
        assert abs(len(tokens) - kept) <= 1
        assert (np.diff(probabilities) <= 0).all()


# ---------------------------------------------------------------- options

WRONG = {
    "max_tokens": (0, -1, True, 1.5, "3"),
    "temperature": (-0.1, float("nan"), float("inf"), "1", True),
    "top_k": (-1, 1.5),
    "top_p": (0, 1.01, float("nan")),
    "min_p": (-0.1, 1.1),
    "presence_penalty": (-2.1, 3),
    "frequency_penalty": (2.1,),
    "repetition_penalty": (0, -1, 11, 1e-320),
    "logit_bias": ({-1: 1.0}, {1: 101.0}, {"a": 1.0}, {1: float("nan")}, dict.fromkeys(range(2000), 1.0)),
    "seed": (-1, 1.5, 1 << 64),
    "stop": ("text", ("",), (1,), ("x" * 2000,), tuple(map(str, range(20)))),
    "n": (0, 65, 1.5),
    "top_logprobs": (-1, 21),
    "deadline_s": (-1, float("nan")),
    "thinking_tokens": (0, 1),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_an_option_that_is_none_is_refused_and_says_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        GenerationOptions(**{name: value})
    assert caught.value.allowed
    assert name in caught.value.message or "output budget" in caught.value.message


def test_several_greedy_answers_are_refused() -> None:
    with pytest.raises(InputError, match="all the same"):
        GenerationOptions(n=2)
    assert GenerationOptions(n=2, temperature=0.1, cancelled=Event()).n == 2


# ---------------------------------------------------------------- text


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.lists(st.text("ab c\n", min_size=1, max_size=4), max_size=3))
@example("größer 😀 \n\n", [])
@example("aab aab", ["ab a"])
@example("aaab", ["aab"])
def test_pieces_are_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    read = tokenizer(_source())
    ids = read.encode(text, add_special_tokens=False).ids
    whole = read.decode(ids, skip_special_tokens=True)
    ends = [(end, end - len(stop)) for end in range(len(whole) + 1) for stop in stops if whole[:end].endswith(stop)]
    stream = TextStream(read, stops)
    shown = ""
    for token in ids:
        shown += stream.add(token)
        assert not any(stop in shown for stop in stops)
        if stream.stopped is not None:
            break
    shown += stream.finish()
    assert shown == stream.text
    assert shown == (whole[: min(ends)[1]] if ends else whole)
    assert (stream.stopped is not None) == bool(ends)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2047), max_size=12), st.lists(st.integers(0, 255), max_size=6))
@example([], [0x3A, 0x84])
@example([1000], [0xC3, 0xA9, 0xE2])
def test_whatever_tokens_come_their_text_does(ids: list[int], tail: list[int]) -> None:
    """Broken bytes, which a model may write, are what Python shows of them; what was shown stays."""
    read = tokenizer(_source())
    byte_of = {read.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    tokens = [*ids, *(read.token_to_id(f"<0x{byte:02X}>") for byte in tail), *ids[:2]]
    expected, run = "", bytearray()
    for token in [*tokens, None]:
        if token in byte_of:
            run.append(byte_of[token])
            continue
        expected += run.decode(errors="replace") + (read.decode([token]) if token is not None else "")
        run.clear()
    stream = TextStream(read)
    shown = "".join(stream.add(token) for token in tokens)
    assert shown + stream.finish() == stream.text == expected


def test_a_character_whose_bytes_are_missing_is_shown_at_the_end_alone() -> None:
    read = tokenizer(_source())
    ids = read.encode("😀", add_special_tokens=False).ids
    assert len(ids) > 1
    stream = TextStream(read)
    assert [stream.add(token) for token in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    whole = TextStream(read)
    assert "".join(whole.add(token) for token in ids) == "😀"
    assert whole.finish() == ""


def _source() -> Path:
    source = reference_models.path("medgemma-reference")
    assert source is not None
    return source


# ---------------------------------------------------------------- lookup


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-1, 3), max_size=40))
def test_a_draft_is_what_followed_the_same_tokens_the_last_time(ids: list[int]) -> None:
    lookup = Lookup(ids)
    expected: list[int] = []
    for length in (3, 2):
        end = ids[-length:]
        places = [i + length for i in range(len(ids) - length) if ids[i : i + length] == end]
        if len(end) == length and places:
            expected = ids[places[-1] : places[-1] + DRAFT]
            break
    expected = expected[: expected.index(-1)] if -1 in expected else expected
    assert lookup.draft(DRAFT) == expected
    assert lookup.draft(1) == expected[:1]
    assert lookup.draft(0) == []


def test_drafts_stop_where_they_do_not_pay_and_are_tried_again() -> None:
    lookup = Lookup([1, 2, 3, 4, 1, 2, 3])
    lookup.told(0, 0, 1.0)
    for _ in range(8):
        assert lookup.draft(3)
        lookup.told(3, 0, 1.5)
    assert not lookup.draft(3)
    for token in [4, 1, 2, 3] * 16:
        lookup.add(token)
    assert lookup.draft(3) == [4, 1, 2]
    for _ in range(30):
        lookup.told(3, 3, 1.5)
    assert lookup.draft(3)
    assert (lookup.drafted, lookup.taken) == (3 * 38, 3 * 30)
