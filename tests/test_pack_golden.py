"""The self-test of a bundle: it passes where the model is the same, fails where it is another, and near ties decide
nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import Copy, edit_json, read_json
from small_models import END, VOCABULARY, ScriptedDecoder, chat_model

from edgekit.errors import BundleError
from edgekit.pack import golden
from edgekit.runtime.base import Float
from edgekit.runtime.model import Model

LEVEL = "Q4_0"


@pytest.fixture(scope="module")
def chat_test(medgemma_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the MedGemma-like model."""
    folder = tmp_path_factory.mktemp("golden") / "chat"
    golden.make(medgemma_artifact, LEVEL, folder)
    return folder


@pytest.fixture(scope="module")
def vector_test(medsiglip_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the MedSigLIP-like model."""
    folder = tmp_path_factory.mktemp("golden") / "vectors"
    golden.make(medsiglip_artifact, "fp32", folder)
    return folder


def test_the_same_model_passes(chat_test: Path, medgemma_artifact: Path) -> None:
    said = golden.read(chat_test)
    assert said.clear >= 3
    assert [answer.image for answer in said.answers] == ["pneumothorax.png", "pneumothorax.png", None, None]
    golden.check(chat_test, medgemma_artifact, LEVEL)


def test_vectors_pass(vector_test: Path, medsiglip_artifact: Path) -> None:
    said = golden.read(vector_test)
    assert {vector.image for vector in said.vectors} == {"pneumothorax.png", "no-finding.png", None}
    for vector in said.vectors:
        assert np.linalg.norm(vector.values) == pytest.approx(1, abs=1e-3)
    golden.check(vector_test, medsiglip_artifact, "fp32")


def test_it_is_made_the_same_twice(chat_test: Path, medgemma_artifact: Path, tmp_path: Path) -> None:
    golden.make(medgemma_artifact, LEVEL, tmp_path / "again")
    for path in chat_test.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_another_answer_is_named_by_its_question(chat_test: Path, medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(chat_test)
    first = read_json(folder / "golden.json")["answers"][0]
    wrong = (first["tokens"][0][0] + 1) % VOCABULARY
    edit_json(folder / "golden.json", {"answers.0.tokens": [[wrong], *first["tokens"][1:]]})
    with pytest.raises(BundleError, match=re.escape(repr(first["prompt"]))):
        golden.check(folder, medgemma_artifact, LEVEL)


def test_another_image_is_seen(chat_test: Path, medgemma_artifact: Path, copied: Copy, vector_test: Path) -> None:
    """The model looks at the picture: another one has another finding."""
    folder = copied(chat_test)
    (folder / "pneumothorax.png").write_bytes((vector_test / "no-finding.png").read_bytes())
    with pytest.raises(BundleError, match="main finding"):
        golden.check(folder, medgemma_artifact, LEVEL)


def test_a_vector_may_differ_a_little_and_no_more(vector_test: Path, medsiglip_artifact: Path, copied: Copy) -> None:
    folder = copied(vector_test)
    said = read_json(folder / "golden.json")
    values, most = np.array(said["vectors"][0]["values"]), said["most_error"]
    noise = np.random.default_rng(0).normal(size=len(values))
    noise *= np.linalg.norm(values) / np.linalg.norm(noise)
    for share, passes in ((0.5, True), (1.5, False)):
        moved = [round(float(number), 5) for number in values + share * most * noise]
        edit_json(folder / "golden.json", {"vectors.0.values": moved})
        if passes:
            golden.check(folder, medsiglip_artifact, "fp32")
        else:
            with pytest.raises(BundleError, match=re.escape("the vector of pneumothorax.png differs")):
                golden.check(folder, medsiglip_artifact, "fp32")


def test_a_test_of_another_level_is_none(chat_test: Path, medgemma_artifact: Path) -> None:
    with pytest.raises(BundleError, match="is of Q4_0, not of Q8_0"):
        golden.check(chat_test, medgemma_artifact, "Q8_0")


def test_a_model_that_does_not_open_fails(chat_test: Path, medgemma_artifact: Path, copied: Copy) -> None:
    folder = copied(medgemma_artifact)
    next(folder.glob("medgemma-*-Q4_0.gguf")).write_bytes(b"GGUF")
    with pytest.raises(BundleError, match="the self-test cannot run"):
        golden.check(chat_test, folder, LEVEL)


HOSTILE: dict[str, dict[str, Any]] = {
    "a path": {"answers.0.image": "../secret.png"},
    "no tokens at a place": {"answers.0.tokens": [[]]},
    "a negative token": {"answers.0.tokens": [[-1]]},
    "a text": {"answers.0.tokens": "1"},
    "any error": {"most_error": 5.0},
    "no error": {"most_error": 0.0},
    "another schema": {"schema_version": 2},
    "more": {"run": "rm"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_self_test_is_refused(case: str, chat_test: Path, copied: Copy) -> None:
    folder = copied(chat_test)
    edit_json(folder / "golden.json", HOSTILE[case])
    with pytest.raises(BundleError, match=re.escape("golden.json")):
        golden.read(folder)


# ---------------------------------------------------------------- near ties, by known logits


class Rows(ScriptedDecoder):
    """A decoder whose likeliest tokens, and their lead, a test chooses: (token, logit) at each place."""

    def __init__(self, places: Sequence[dict[int, float]]) -> None:
        super().__init__([])
        self.places = places

    def _next(self) -> Float:
        row = np.full(VOCABULARY, -20, np.float32)
        for token, logit in (self.places[self._said] if self._said < len(self.places) else {END: 10.0}).items():
            row[token] = logit
        self._said += 1
        return row


@pytest.fixture
def answering(medgemma_source: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has any artifact answer by these rows."""

    def patch(places: Sequence[dict[int, float]]) -> None:
        def opened(*arguments: Any, **options: Any) -> Model:
            return chat_model(medgemma_source, Rows(places))

        monkeypatch.setattr(golden, "open_model", opened)

    return patch


CLEAR = {300: 10.0, 301: 5.0}
TIE = {400: 10.0, 401: 9.8}
BY_A_HAIR = {500: 10.0, 501: 9.4}  # 0.6 nats, more than the margin
OTHER_WAY = {400: 9.8, 401: 10.0}


def test_a_near_tie_has_both_tokens(medgemma_artifact: Path, answering: Any, tmp_path: Path) -> None:
    answering([CLEAR, TIE, BY_A_HAIR])
    said = golden.make(medgemma_artifact, LEVEL, tmp_path)
    assert said.answers[0].tokens == ((300,), (400, 401), (500,))
    assert said.answers[0].clear == 1
    golden.check(tmp_path, medgemma_artifact, LEVEL)


@pytest.mark.parametrize(
    ("places", "passes"),
    [
        ([CLEAR, OTHER_WAY, {600: 10.0}], True),  # behind the other way nothing is compared
        ([CLEAR, TIE, {600: 10.0}], False),
        ([CLEAR, {402: 10.0}, BY_A_HAIR], False),
        ([OTHER_WAY], False),
        ([CLEAR], True),  # it may as well have ended there
        ([CLEAR, TIE], False),
        ([], False),
    ],
)
def test_what_may_come_instead(
    places: Sequence[dict[int, float]], passes: bool, medgemma_artifact: Path, answering: Any, tmp_path: Path
) -> None:
    answering([CLEAR, TIE, BY_A_HAIR])
    golden.make(medgemma_artifact, LEVEL, tmp_path)
    answering(places)
    if passes:
        golden.check(tmp_path, medgemma_artifact, LEVEL)
    else:
        with pytest.raises(BundleError, match="another token at place"):
            golden.check(tmp_path, medgemma_artifact, LEVEL)


def test_a_place_without_an_order_ends_the_test(medgemma_artifact: Path, answering: Any, tmp_path: Path) -> None:
    answering([CLEAR, dict.fromkeys(range(300, 340), 10.0), CLEAR])
    said = golden.make(medgemma_artifact, LEVEL, tmp_path)
    assert said.answers[0].tokens == ((300,),)
