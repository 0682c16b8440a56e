"""Full precision whose weights come and go: the same model, in as little memory as there is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bench.datasets import Dataset, Sample, source
from edgekit.bench.kinds.base import RunContext
from edgekit.bench.tasks import parse
from edgekit.errors import InputError
from edgekit.families.source import open_source
from edgekit.full_precision import bounded
from edgekit.full_precision.bounded import open_full_precision
from edgekit.full_precision.model import TorchDecoder
from edgekit.inputs import phantoms
from edgekit.inputs.message import Image, Message
from edgekit.machine.memory import Memory
from edgekit.runtime.base import Prompt, SupportsPasses, Tokens
from edgekit.runtime.chat_model import ChatModel

ASKED = [Message("user", Image(next(iter(phantoms.generate(7, 1))).image), "What is the main finding?")]


@pytest.fixture(scope="module")
def whole(medgemma_source: Path) -> Iterator[ChatModel]:
    with open_full_precision(medgemma_source) as model:
        assert isinstance(model, ChatModel)
        assert not isinstance(model.decoder, SupportsPasses)
        yield model


def _prompts(model: ChatModel) -> list[Prompt]:
    """A text of more than the window, and a question about an image with its answer: of unequal lengths."""
    text, shown = model.format.continued("The heart is not enlarged. " * 20), model.segments(ASKED, answer="nodule")
    return [([Tokens(text)], range(3, len(text), 11)), (shown, range(12, sum(map(len, shown)), 5))]


def _rows(model: ChatModel, prompts: list[Prompt]) -> NDArray[np.float32]:
    decoded = (row.copy() for segments, want in prompts for row in model.decoder.prefill(segments, want))
    return np.stack(list(decoded))


def test_what_else_runs_does_not_decide_how_full_precision_is_computed(
    medgemma_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(medgemma_source)
    for free in (1_000, 4_000_000_000):
        monkeypatch.setattr(bounded, "memory", lambda free=free: Memory(4_000_000_000, free))
        assert bounded.fits(source)


def test_where_memory_is_short_the_model_is_the_same(
    whole: ChatModel, medgemma_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "memory", lambda: Memory(1_000_000_000, 1_000_000_000))
    assert not bounded.fits(open_source(medgemma_source))
    with open_full_precision(medgemma_source) as model:
        assert isinstance(model, ChatModel)
        assert isinstance(model.decoder, TorchDecoder)
        assert isinstance(model.decoder, SupportsPasses)
        assert all(parameter.is_meta for parameter in model.decoder.model.parameters())
        prompts = _prompts(model)
        expected = _rows(whole, _prompts(whole))
        np.testing.assert_allclose(_rows(model, prompts), expected, atol=1e-4)
        np.testing.assert_allclose(list(model.decoder.passes(prompts)), expected, atol=1e-4)
        assert all(parameter.is_meta for parameter in model.decoder.model.parameters())
        answers = [[*one.generate(ASKED, max_tokens=4)][-1] for one in (model, whole)]
        assert answers[0].text == answers[1].text  # type: ignore[union-attr]
        with pytest.raises(InputError):
            model.decoder.passes([([Tokens((2,) * (model.decoder.context + 1))], [0])])


def test_in_bfloat16_it_is_near(whole: ChatModel, medgemma_source: Path) -> None:
    """As near as 8 bits of mantissa are, in every layer, and no nearer."""
    with open_full_precision(medgemma_source, bfloat16=True) as model:
        assert isinstance(model, ChatModel)
        assert isinstance(model.decoder, SupportsPasses)
        rows = np.stack(list(model.decoder.passes(_prompts(model))))
    expected = _rows(whole, _prompts(whole))
    error = np.abs(rows - expected).max() / np.abs(expected).max()
    assert 2**-11 < error < 2**-5
    assert np.array_equal(rows.view(np.uint32) & 0xFFFF, np.zeros_like(rows, np.uint32))  # logits, too, are bfloat16


def test_prompts_of_several_passes_are_built_between_them(
    whole: ChatModel, medgemma_source: Path, tmp_path: Path
) -> None:
    """As the noise floor's are: more tokens than one pass takes."""
    asked = parse(
        {
            "name": "answers", "kind": "decoder-fidelity", "title": "Answers", "dataset": "passage", "limit": 40,
            "prompt": "{question}", "max_tokens": 1,
        }
    )  # fmt: skip
    long = "The lungs are clear. " * 60
    data = Dataset(source("passage"), tuple(Sample("", str(i), question=f"Is {i} clear? {long}") for i in range(40)))
    assert 40 * len(whole.tokenize(long)) > 8192
    context = RunContext(0, tmp_path / "key", True, lambda: open_full_precision(medgemma_source, bfloat16=True))
    own = asked.run(whole, data, context)
    assert len(own["answers"]) == 40
    floor = asked.noise_floor(own)
    assert floor is not None
    assert 0 < floor.value < 0.1
