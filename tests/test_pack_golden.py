"""The self-test of a bundle: it passes where the model is the same, fails where it is another, and near ties decide
nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from material import Copy, edit_json, read_json
from small_models import END, VOCABULARY, ScriptedDecoder, chat_model

from edgekit.errors import BundleError
from edgekit.inputs.message import Message
from edgekit.pack import golden
from edgekit.runtime import open_model
from edgekit.runtime.base import Float, Segment
from edgekit.runtime.chat_model import ChatModel
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
    assert said.unseen == ()
    assert [answer.image for answer in said.answers] == ["pneumothorax.png", "pneumothorax.png", None, None]
    assert [(vector.image, len(vector.values)) for vector in said.vectors] == [("pneumothorax.png", 2048)]
    for answer in said.answers:
        for place in answer.places:
            assert place.likeliest[0] == place.token
            assert sum(np.exp(place.logprobs)) <= 1.001
    golden.check(chat_test, medgemma_artifact, LEVEL)


def test_a_decoder_in_onnx_passes(medgemma_onnx: Path, tmp_path: Path) -> None:
    assert golden.make(medgemma_onnx, "q4", tmp_path).unseen == ()
    golden.check(tmp_path, medgemma_onnx, "q4")


def test_its_likelihoods_are_those_of_the_answer_word_for_word(chat_test: Path, medgemma_artifact: Path) -> None:
    """By another way: a decoder that is told each token, one after the other."""
    answer = golden.read(chat_test).answers[2]
    with open_model(medgemma_artifact, LEVEL) as model:
        assert isinstance(model, ChatModel)
        rows = [*model.decoder.prefill(model.segments([Message("user", answer.prompt)]))]
        rows += [model.decoder.step([token]) for token in answer.tokens[:-1]]
    for row, place in zip(rows, answer.places, strict=True):
        wide = row.astype(np.float64)
        expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
        assert expected[list(place.likeliest)] == pytest.approx(place.logprobs, abs=0.01)
        assert set(np.argsort(-row)[:10]) <= set(place.likeliest)


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
    wrong = (first["places"][0]["token"] + 1) % VOCABULARY
    edit_json(folder / "golden.json", {"answers.0.places.0": {"token": wrong, "likeliest": [wrong], "logprobs": [0.0]}})
    with pytest.raises(BundleError, match=re.escape(repr(first["prompt"]))):
        golden.check(folder, medgemma_artifact, LEVEL)


@pytest.mark.parametrize(("share", "passes"), [(0.5, True), (1.5, False)])
def test_log_probabilities_may_differ_a_little_and_no_more(
    share: float, passes: bool, chat_test: Path, medgemma_artifact: Path, copied: Copy
) -> None:
    folder = copied(chat_test)
    said = read_json(folder / "golden.json")
    for place in said["answers"][3]["places"]:
        for at in range(len(place["logprobs"])):
            place["logprobs"][at] -= share * said["most_logprob_error"] * (-1) ** at
        place["logprobs"][0] = min(0, place["logprobs"][0])
    edit_json(folder / "golden.json", {"answers": said["answers"]})
    if passes:
        golden.check(folder, medgemma_artifact, LEVEL)
    else:
        with pytest.raises(BundleError, match=r"log probabilities of the answer to 'Name the four .* differ by"):
            golden.check(folder, medgemma_artifact, LEVEL)


def test_another_image_is_seen(chat_test: Path, medgemma_artifact: Path, copied: Copy, vector_test: Path) -> None:
    """The model looks at the picture: another one has another finding."""
    folder = copied(chat_test)
    (folder / "pneumothorax.png").write_bytes((vector_test / "no-finding.png").read_bytes())
    with pytest.raises(BundleError, match=re.escape("the vector of pneumothorax.png differs")):
        golden.check(folder, medgemma_artifact, LEVEL)
    edit_json(folder / "golden.json", {"vectors": []})
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
    "no places": {"answers.0.places": []},
    "a negative token": {"answers.0.places.0.token": -1},
    "a text": {"answers.0.places": "1"},
    "no tokens at a place": {"answers.0.places.0.likeliest": []},
    "a token without its likelihood": {"answers.0.places.0.logprobs": [0.0]},
    "a probability above 1": {"answers.0.places.0.logprobs.0": 0.1},
    "any likelihood": {"most_logprob_error": 100.0},
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
    """A decoder whose likeliest tokens, and their lead, a test chooses: (token, logit) at each place.

    Where it is told its answer, and is asked for all places of it at once, they are those of `told`.
    """

    def __init__(self, places: Sequence[dict[int, float]], told: Sequence[dict[int, float]]) -> None:
        super().__init__([])
        self.places, self.told = places, told

    def _rows(self, segments: Sequence[Segment], wanted: Sequence[int], sequence: int) -> Iterator[Float]:
        self._lengths[sequence] = sum(map(len, segments))
        for at in range(len(wanted)):
            yield self._next() if len(wanted) == 1 else row_of(self.told[at])

    def _next(self) -> Float:
        self._said += 1
        return row_of(self.places[self._said - 1] if self._said <= len(self.places) else {END: 10.0})


def row_of(logits: dict[int, float]) -> Float:
    row = np.full(VOCABULARY, -20, np.float32)
    row[[*logits]] = [*logits.values()]
    return row


@pytest.fixture
def answering(medgemma_source: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has any artifact answer by these rows."""

    def patch(places: Sequence[dict[int, float]], told: Sequence[dict[int, float]] | None = None) -> None:
        def opened(*arguments: Any, **options: Any) -> Model:
            return chat_model(medgemma_source, Rows(places, told or places))

        monkeypatch.setattr(golden, "open_model", opened)

    return patch


CLEAR = {300: 10.0, 301: 5.0}
TIE = {400: 10.0, 401: 9.8}
BY_A_HAIR = {500: 10.0, 501: 9.4}  # 0.6 nats, more than the margin
OTHER_WAY = {400: 9.8, 401: 10.0}


def test_a_near_tie_has_both_tokens(medgemma_artifact: Path, answering: Any, tmp_path: Path) -> None:
    answering([CLEAR, TIE, BY_A_HAIR])
    said = golden.make(medgemma_artifact, LEVEL, tmp_path)
    acceptable = [place.acceptable for place in said.answers[0].places]
    assert acceptable == [(300,), (400, 401), (500,)]
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
    answering(places, told=[CLEAR, TIE, BY_A_HAIR])
    if passes:
        golden.check(tmp_path, medgemma_artifact, LEVEL)
    else:
        with pytest.raises(BundleError, match="another token at place"):
            golden.check(tmp_path, medgemma_artifact, LEVEL)


def test_where_more_are_as_likely_than_are_written_down_any_may_come(
    medgemma_artifact: Path, answering: Any, tmp_path: Path
) -> None:
    flat = dict.fromkeys(range(300, 340), 10.0)
    answering([CLEAR, flat, CLEAR])
    said = golden.make(medgemma_artifact, LEVEL, tmp_path)
    assert [place.is_open for place in said.answers[0].places] == [False, True, False]
    answering([CLEAR, flat | {339: 10.01}, {600: 10.0}], told=[CLEAR, flat, CLEAR])
    golden.check(tmp_path, medgemma_artifact, LEVEL)


def test_the_same_tokens_with_other_likelihoods(medgemma_artifact: Path, answering: Any, tmp_path: Path) -> None:
    answering([CLEAR, TIE, BY_A_HAIR])
    golden.make(medgemma_artifact, LEVEL, tmp_path)
    answering([CLEAR, TIE, BY_A_HAIR], told=[CLEAR, TIE, {500: 10.0, 501: 7.0}])
    with pytest.raises(BundleError, match="log probabilities of the answer to"):
        golden.check(tmp_path, medgemma_artifact, LEVEL)


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_what_is_no_number_fails(logit: float, medgemma_artifact: Path, answering: Any, tmp_path: Path) -> None:
    answering([CLEAR, TIE, BY_A_HAIR])
    golden.make(medgemma_artifact, LEVEL, tmp_path)
    answering([CLEAR, TIE, BY_A_HAIR], told=[CLEAR, TIE, {500: logit}])
    with pytest.raises(BundleError, match=r"log probabilities of the answer to .* differ by nan"):
        golden.check(tmp_path, medgemma_artifact, LEVEL)


def test_a_model_that_says_all_alike_is_said_to_be_unseen(
    medgemma_artifact: Path, answering: Any, tmp_path: Path
) -> None:
    flat = {token: 10 + token * 1e-5 for token in range(VOCABULARY)}
    answering([flat, flat])
    assert golden.make(medgemma_artifact, LEVEL, tmp_path).unseen == ("answers about images", "answers")
