"""Tasks for models that answer: what they ask, how answers become figures, and scores that stand beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from edgekit.artifacts import find
from edgekit.artifacts.recipes import recipe
from edgekit.bench import published as published_scores
from edgekit.bench.datasets import Dataset, DatasetSource, Sample, load
from edgekit.bench.kinds import Task
from edgekit.bench.kinds.base import Figures, RunContext
from edgekit.bench.kinds.boxes import to_square
from edgekit.bench.plan import choose
from edgekit.bench.published import published, scores
from edgekit.bench.records import Measurement
from edgekit.bench.tasks import parse, task
from edgekit.errors import UsageError
from edgekit.inputs.message import Image, Message
from edgekit.metrics.answers import Detections, box_overlap, word_overlap
from edgekit.runtime import open_model
from edgekit.runtime.base import Generation, Model, Tokens
from edgekit.runtime.generation.options import GenerationOptions

SOURCE = DatasetSource(name="own", title="Own", citation="c", license="l", note="n", reader="phantoms")
CONTEXT = RunContext(0.0)
IMAGE = np.zeros((4, 4), np.uint8)


def data(*samples: Sample) -> Dataset:
    return Dataset(SOURCE, samples)


class Answers(Model):
    """Says what it is told to, by what it is asked."""

    abilities = frozenset({"generate", "score"})

    def __init__(self, answer: Callable[[str], str], cut: str = "") -> None:
        self.answer, self.cut = answer, cut
        self.asked: list[Message] = []
        self.options: list[GenerationOptions | None] = []

    def generate(
        self, messages: Sequence[Message], options: GenerationOptions | None = None, *, max_tokens: int | None = None
    ) -> Iterator[Generation]:
        (message,) = messages
        self.asked.append(message)
        self.options.append(options)
        text = self.answer(message.text)
        yield Generation(text, 1, 1, bool(self.cut) and self.cut in message.text, 0.0, 0.0)

    def score(self, messages: Sequence[Message], options: Sequence[str]) -> Any:
        return self.score_text(messages[0].text, options)

    def score_text(self, text: str, options: Sequence[str]) -> Any:
        """The longer, the less likely; the right one is twice as likely as its length lets it be."""
        right = self.answer(text)
        return np.asarray([-len(option) * (0.5 if option == right else 1) for option in options], np.float32)


def measured(task_: Task, model: Model, dataset: Dataset, against: Model | None = None) -> Figures:
    """Through JSON, as results come from a worker."""

    def run(one: Model) -> Any:
        return json.loads(json.dumps(task_.run(one, dataset, CONTEXT)))

    return task_.summarize([run(model)], run(against) if against else None)


def own(kind: str, **fields: Any) -> Task:
    return parse({"name": "own", "title": "Own", "kind": kind, "dataset": "own", "limit": 100, **fields})


# ---------------------------------------------------------------- multiple choice

EXAM = (
    Sample("aspirin", "1", question="What helps?", options=("rest", "aspirin", "ice"), id="q1", topic="pharmacology"),
    Sample("ulna", "2", question="Which bone?", options=("radius", "tibia", "ulna"), id="q2", topic="anatomy"),
    Sample("rest", "3", question="What is {this}?", options=("rest", "work"), id="q3", topic="pharmacology"),
)


def test_the_prompt_of_the_technical_report() -> None:
    (first, *_) = task("medqa").items(data(*EXAM))
    assert first.messages[0].text == (
        "Instructions: The following are multiple choice questions about medical knowledge. Solve them in a "
        "step-by-step fashion, starting by summarizing the available information. Output a single option from the four "
        "options as the final answer. Question: What helps? (A) rest (B) aspirin (C) ice Response (think step by step "
        'and then end with "Final Answer:" followed by *only* the letter corresponding to the correct answer enclosed '
        "in parentheses)"
    )
    assert (first.answers, first.truth, first.id, first.topic) == (("A", "B", "C"), "B", "q1", "pharmacology")


def test_the_prompt_of_the_notebook() -> None:
    notebook = task("medqa-notebook")
    (first, *_) = notebook.items(data(*EXAM))
    assert first.messages[0].text == (
        "Answer the given question. Think step by step.\n"
        'You can directly provide the answer (A single letter), without further additions. E.g. "Final Answer: (A)".\n'
        "Question: What helps?\n(A) rest (B) aspirin (C) ice\n"
    )
    model = Answers(lambda text: "Final Answer: (B)")
    measured(notebook, model, data(*EXAM))
    assert model.options == [GenerationOptions(max_tokens=10_000, thinking=True)] * 3


def test_a_context_stands_where_the_prompt_has_it() -> None:
    sample = Sample("no", "1", question="Does it?", options=("yes", "no", "maybe"), context="It does not.")
    (item,) = task("pubmedqa").items(data(sample))
    assert (
        "Question: Answer the following question given the context (reply with one of the options): Context: It does"
        in (item.messages[0].text)
    )
    assert "Context: It does not. Question: Does it? (A) yes (B) no (C) maybe Response" in item.messages[0].text
    assert item.truth == "B"


def test_choices_are_parsed_and_compared() -> None:
    said = {"helps": "Final Answer: (B)", "bone": "Final Answer: (A)", "this": "I cannot tell."}
    model = Answers(lambda text: next(answer for word, answer in said.items() if word in text), cut="bone")
    right = Answers(lambda text: {"helps": "B", "bone": "C", "this": "A"}[next(w for w in said if w in text)])
    figures = measured(task("medqa"), model, data(*EXAM), right)
    assert figures.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert figures.details["truncated_share"] == pytest.approx(1 / 3)
    assert figures.details["unparsed_share"] == pytest.approx(1 / 3)
    assert figures.details["by_topic"]["anatomy"]["value"] == 0
    assert figures.details["by_topic"]["pharmacology"]["value"] == 0.5
    assert figures.paired is not None
    assert (figures.paired.gained, figures.paired.lost) == (0, 2)


@pytest.mark.parametrize("options", [(), ("one",), tuple(map(str, range(11)))])
@pytest.mark.parametrize("name", ["medqa", "medqa-likelihood"])
def test_a_question_without_options_is_no_choice(name: str, options: tuple[str, ...]) -> None:
    sample = Sample("one", "1", question="?", options=options, id="q7")
    with pytest.raises(UsageError, match=rf"the sample 'q7' has {len(options)} options\nallowed: 2 to 10"):
        task(name).items(data(sample))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "{options}"}, r"prompt: no \{question\} in it"),
        ({"prompt": "{question} {answer}"}, r"prompt: unknown \{answer\}"),
        ({"prompt": "{question.text}"}, r"prompt: unknown \{question.text\}"),
        ({"option": "{letter}"}, r"option: no \{text\} in it"),
        ({"parser": "magic"}, "parser: 'magic'\nallowed: 'first-label' or"),
        ({"thinking": 1}, "thinking: 1"),
    ],
)
def test_a_wrong_choice_task_names_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        own("choice", **{"prompt": "{question} {options}", "parser": "final-letter", "max_tokens": 9, **change})


# ---------------------------------------------------------------- the likeliest option


def test_the_likeliest_option_with_and_without_its_length() -> None:
    samples = (
        Sample("yes", "1", question="Is it?", options=("yes", "no", "maybe"), context="It is."),
        Sample("maybe", "2", question="Could it?", options=("yes", "no", "maybe"), context="It could."),
    )
    model = Answers(lambda text: " yes" if "Is it?" in text else " maybe")
    figures = measured(task("pubmedqa-likelihood-text"), model, data(*samples))
    # " yes" scores -2 and wins. " maybe" scores -3, as " no" does, which comes first; per byte it wins.
    assert figures.metrics["accuracy"].value == 0.5
    assert figures.metrics["accuracy_by_byte"].value == 1
    assert figures.metrics["log_likelihood"].value == pytest.approx(-2.5)
    first, second = (math.exp(-2) / sum(map(math.exp, row)) for row in ((-2, -3, -6), (-1, 0, 0)))
    expected = (first + math.exp(-3) / (math.exp(-4) + 2 * math.exp(-3))) / 2
    assert figures.metrics["right_share"].value == pytest.approx(expected, rel=1e-5)
    assert second < first
    assert figures.details["unparsed_share"] == figures.details["truncated_share"] == 0


def test_scores_that_are_not_finite_choose_nothing() -> None:
    class Broken(Answers):
        def score_text(self, text: str, options: Sequence[str]) -> Any:
            scores = super().score_text(text, options)
            scores[-1] = np.nan if "Is it?" in text else scores[-1]
            return scores

    samples = [Sample("yes", str(i), question=q, options=("yes", "no")) for i, q in enumerate(("Is it?", "Was it?"))]
    model = Broken(lambda text: " yes")
    figures = measured(task("pubmedqa-likelihood-text"), model, data(*samples))
    assert figures.metrics["accuracy"].value == figures.metrics["accuracy_by_byte"].value == 0.5
    assert (figures.details["nonfinite"], figures.details["unparsed_share"]) == (1, 0.5)
    assert figures.metrics["right_share"].value == pytest.approx(1 / (1 + math.exp(-1)) / 2)


def test_letters_are_scored_behind_the_options() -> None:
    (item, *_) = task("medqa-likelihood-text").items(data(*EXAM))
    assert item.messages[0].text == "Question: What helps?\nA. rest\nB. aspirin\nC. ice\nAnswer:"
    figures = measured(task("medqa-likelihood-text"), Answers(lambda text: " A"), data(*EXAM))
    assert figures.metrics["accuracy"].value == pytest.approx(1 / 3)
    assert "accuracy_by_byte" not in figures.metrics


def test_scores_of_a_text_equal_those_computed_by_hand(medgemma_artifact: Path) -> None:
    """Each option appended by itself, its tokens' log probabilities added up; a prompt is decoded once for all."""
    with open_model(medgemma_artifact, "Q4_0") as model:
        text, options = "The image shows", [" a nodule", " no finding", " a", " consolidation"]
        prompt = list(model.format.continued(text))  # type: ignore[attr-defined]
        expected = []
        for option in options:
            ids = model.tokenize(option)  # type: ignore[attr-defined]
            whole = Tokens((*prompt, *ids))
            want = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
            rows = [np.array(row, np.float64) for row in model.decoder.prefill([whole], want)]  # type: ignore[attr-defined]
            expected.append(sum(row[i] - np.logaddexp.reduce(row) for row, i in zip(rows, ids, strict=True)))
        assert model.score_text(text, options) == pytest.approx(expected, abs=2e-2)
        model.close()
        with pytest.raises(UsageError, match="is closed"):
            model.score_text(text, options)


def test_a_prompt_is_decoded_once_for_all_options(medgemma_artifact: Path) -> None:
    with open_model(medgemma_artifact, "Q4_0") as model:
        decoder = model.decoder  # type: ignore[attr-defined]
        decoded: list[int] = []
        extend = decoder.extend

        def counted(segments: Sequence[Any], *rest: Any, **named: Any) -> Any:
            decoded.append(sum(map(len, segments)))
            return extend(segments, *rest, **named)

        decoder.extend = counted
        question = [Message("user", "Which of these is an organ? " * 8)]
        model.score(question, ["nodule", "no finding", "pleural effusion"])
        assert decoded[0] > 40
        assert all(positions <= 8 for positions in decoded[1:])
        decoded.clear()
        letters = [letter for letter in "abcdefgh" if len(model.tokenize(letter)) == 1]  # type: ignore[attr-defined]
        assert len(letters) > 2
        model.score([Message("user", "Which letter? " * 8)], letters)
        assert len(decoded) == 1


def test_a_model_that_cannot_score_says_so() -> None:
    with pytest.raises(UsageError, match="cannot score"):
        Model().score_text("a", ["b"])


# ---------------------------------------------------------------- questions about images, in words


@pytest.mark.parametrize(
    ("answer", "truth", "f1", "precision", "recall"),
    [
        ("right lung", "right lung", 1, 1, 1),
        ("The right lung.", "Right lung", 1, 1, 1),
        ("the right upper lobe", "right lung", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2), 1 / 3, 1 / 2),
        ("lung lung", "lung", 2 / 3, 1 / 2, 1),
        ("yes", "no", 0, 0, 0),
        ("", "no", 0, 0, 0),
        ("the", "a", 1, 1, 1),
        ("x-ray", "xray", 1, 1, 1),
    ],
)
def test_words_in_common(answer: str, truth: str, f1: float, precision: float, recall: float) -> None:
    found = word_overlap(answer, truth)
    assert (found.f1, found.precision, found.recall) == pytest.approx((f1, precision, recall))


def test_open_and_closed_questions() -> None:
    samples = (
        Sample("yes", "a", IMAGE, "Is it large?", ("yes", "no"), id="1", topic="CLOSED"),
        Sample("no", "a", IMAGE, "Is it small?", ("yes", "no"), id="2", topic="CLOSED"),
        Sample("left upper lobe", "b", IMAGE, "Where is it?", id="3", topic="OPEN"),
        Sample("axial", "b", IMAGE, "Which plane?", ("axial", "coronal"), id="4", topic="OPEN"),
    )
    said = {"large": "Yes, it is", "small": "Unclear", "Where": "left lobe", "plane": "axial"}
    model = Answers(lambda text: next(answer for word, answer in said.items() if word in text))
    figures = measured(task("vqa-rad"), model, data(*samples), model)
    f1 = [2 * (1 / 3) / (1 / 3 + 1), 0, 2 * (2 / 3) / (2 / 3 + 1), 1]  # "yes it is": 1 of 3 words
    assert figures.metrics["tokenized_f1"].value == pytest.approx(np.mean(f1))
    assert figures.metrics["closed_accuracy"].value == 0.5
    assert figures.metrics["open_f1"].value == pytest.approx(np.mean(f1[2:]))
    assert figures.metrics["open_recall"].value == pytest.approx((2 / 3 + 1) / 2)
    assert figures.details["unparsed_share"] == 0.25
    assert figures.details["by_topic"]["CLOSED"]["value"] == pytest.approx(np.mean(f1[:2]))
    assert figures.paired is not None
    assert figures.paired.difference.value == 0
    assert model.asked[0].text == (
        "Given this radiology image, which can be a frontal chest X-ray, a single slice head or abdominal CT or MR "
        "image, provide a very short, definitive, and concise answer (if possible, a single word) to the following "
        "question: Is it large?"
    )
    assert isinstance(model.asked[0].parts[0], Image)


def test_only_closed_or_only_open_questions() -> None:
    model = Answers(lambda text: "no")
    closed = measured(task("vqa-rad"), model, data(Sample("no", "a", IMAGE, "?", ("yes", "no"))))
    assert set(closed.metrics) == {"tokenized_f1", "closed_accuracy"}
    opened = measured(task("slake"), model, data(Sample("liver", "a", IMAGE, "?")))
    assert set(opened.metrics) == {"tokenized_f1", "open_f1", "open_recall"}


# ---------------------------------------------------------------- conditions


def radiographs(n: int = 60) -> tuple[Dataset, dict[str, Any]]:
    """Images with three findings, of two a patient, and what is said of each."""
    generator = np.random.default_rng(3)
    samples, truth, said = [], [], []
    for i in range(n):
        there = {name: bool(generator.random() < share) for name, share in (("edema", 0.3), ("nodule", 0.5))}
        samples.append(Sample("", f"p{i // 2}", np.full((2, 2), i, np.uint8), id=str(i), findings={**there, "x": None}))
        truth += list(there.values())
        said += [value if generator.random() < 0.7 else not value for value in there.values()]
    return data(*samples), {"truth": np.asarray(truth), "said": np.asarray(said)}


CONDITIONS: dict[str, Any] = {
    "prompt": "{question}",
    "max_tokens": 5,
    "conditions": [
        {"finding": "edema", "question": "Is there edema in this image?"},
        {"finding": "nodule", "question": "Are there any nodules in the image?"},
    ],
}


def test_macro_f1_equals_scikit_learns() -> None:
    dataset, known = radiographs()
    answers = iter(known["said"])
    model = Answers(lambda text: "Yes." if next(answers) else "No, there is none.")
    figures = measured(own("conditions", **CONDITIONS), model, dataset)
    truth, said = known["truth"].reshape(-1, 2), known["said"].reshape(-1, 2)
    expected = f1_score(truth, said, average=None)
    assert figures.metrics["macro_f1"].value == pytest.approx(np.mean(expected))
    assert figures.metrics["macro_f1"].low < np.mean(expected) < figures.metrics["macro_f1"].high
    assert figures.metrics["macro_f1"].n == 120
    assert list(figures.details["f1_by_condition"].values()) == pytest.approx(expected)
    sensitivity = [one["value"] for one in figures.details["sensitivity_by_condition"].values()]
    assert sensitivity == pytest.approx(recall_score(truth, said, average=None))
    specificity = [one["value"] for one in figures.details["specificity_by_condition"].values()]
    assert specificity == pytest.approx(recall_score(~truth, ~said, average=None))
    assert figures.metrics["accuracy"].value == pytest.approx((truth == said).mean())
    assert [there for there, _ in figures.details["present"].values()] == truth.sum(axis=0).tolist()
    always = f1_score(truth, np.ones_like(truth), average="macro")
    assert figures.details["chance"] == pytest.approx(always)


def test_f1_of_a_condition_that_nobody_has_is_left_out() -> None:
    kinds, truth = np.asarray([0, 0, 1, 1]), np.asarray([True, False, False, False])
    found = Detections(kinds, truth, np.asarray([True, True, False, False]))
    assert found.macro_f1() == pytest.approx(2 / 3)
    theirs = f1_score([[1, 0], [0, 0]], [[1, 0], [1, 0]], average="macro", zero_division=math.nan)
    assert found.macro_f1() == pytest.approx(theirs)
    assert math.isnan(Detections(kinds, np.zeros(4, bool), np.zeros(4, bool)).macro_f1())
    weights = np.asarray([3.0, 1, 0, 0])
    repeated = f1_score([1, 1, 1, 0], [1, 1, 1, 1])
    assert found.macro_f1(weights) == pytest.approx(repeated)


def test_a_difference_in_macro_f1_is_paired() -> None:
    dataset, known = radiographs()
    answers, right = iter(known["said"]), iter(known["truth"])
    model, exact = (Answers(lambda text, it=it: "yes" if next(it) else "no") for it in (answers, right))  # type: ignore[misc]
    figures = measured(own("conditions", **CONDITIONS), model, dataset, exact)
    assert figures.paired is not None
    assert figures.paired.difference.value == pytest.approx(figures.metrics["macro_f1"].value - 1)
    assert figures.paired.difference.high < 0


def test_what_is_not_certain_is_left_out_or_counts_as_absent() -> None:
    samples = (
        Sample("", "1", IMAGE, id="1", findings={"edema": True, "nodule": None}),
        Sample("", "2", IMAGE, id="2", findings={"edema": False}),
        Sample("", "3", IMAGE, id="3", findings={"nodule": True, "edema": None}),
    )
    excluded = own("conditions", **CONDITIONS).items(data(*samples))
    assert [(item.id, item.truth) for item in excluded] == [
        ("1: edema", "yes"),
        ("2: edema", "no"),
        ("3: nodule", "yes"),
    ]
    counted = own("conditions", **CONDITIONS, uncertain="negative").items(data(*samples))
    assert [item.truth for item in counted] == ["yes", "no", "no", "no", "no", "yes"]
    with pytest.raises(UsageError, match="conditions: 'nodule' is no finding of the dataset own\nallowed: edema"):
        own("conditions", **CONDITIONS).items(data(samples[1]))


def test_the_questions_of_the_technical_report() -> None:
    named = {"lung opacity": True, "pneumothorax": True, "fracture": False}
    items = task("conditions-cxr14").items(data(Sample("", "1", IMAGE, findings=named)))
    suffix = (
        " You may write out your argument before stating your final very short, definitive, and concise answer (if "
        "possible, a single word or the letter corresponding to your answer choice) X in the format "
        '"Final Answer: X":'
    )
    begins = ["Is there lung opacity in this image?", "Is there pneumothorax in this image?",
              "Are there any fractures in the image?"]  # fmt: skip
    assert [item.messages[0].text for item in items] == [begin + suffix for begin in begins]


# ---------------------------------------------------------------- boxes


def _by_pixels(one: Sequence[float], other: Sequence[float]) -> float:
    masks = []
    for top, left, bottom, right in (one, other):
        mask = np.zeros((100, 100), bool)
        mask[int(top) : int(bottom), int(left) : int(right)] = True
        masks.append(mask)
    return float((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_overlap_of_boxes_equals_that_of_their_pixels() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        boxes = []
        for _ in range(2):
            (top, bottom), (left, right) = (np.sort(generator.choice(101, 2, replace=False)) for _ in range(2))
            boxes.append((top, left, bottom, right))
        assert box_overlap(*boxes) == pytest.approx(_by_pixels(*boxes))
    assert box_overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64), (41, 100, 3)])
def test_boxes_are_of_the_padded_square(shape: tuple[int, ...]) -> None:
    """The truth's corners, drawn into the image before it is padded, lie where the task says they are."""
    image = np.full(shape, 7, np.uint8)
    top, left, bottom, right = 10, 20, 30, 38
    image[top:bottom, left:right] = 255
    square = to_square(image)
    assert square.shape[0] == square.shape[1] == max(shape[:2])
    sample = Sample("", "1", image, id="1", boxes={"heart": (top, left, bottom, right)})
    boxes = own("boxes", prompt="Where is the {structure}?", max_tokens=9)
    (item,) = boxes.items(data(sample))
    assert item.image is not None
    rows, columns = np.nonzero((item.image if item.image.ndim == 2 else item.image[..., 0]) == 255)
    corners = np.asarray([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
    answer = json.dumps([{"box_2d": (1000 * corners / len(square)).tolist(), "label": "Heart"}])
    figures = measured(boxes, Answers(lambda text: f"Final Answer: ```json{answer}```"), data(sample))
    assert figures.metrics["iou"].value == pytest.approx(1)


def test_answers_without_the_right_box() -> None:
    image = np.zeros((100, 100), np.uint8)
    structures = dict.fromkeys(("aorta", "carina", "heart", "spine"), (0.0, 0.0, 50.0, 50.0))
    said = {
        "aorta": '[{"box_2d": [0, 0, 500, 1000], "label": "the aorta"}]',  # the only one
        "carina": '[{"box_2d": [0, 0, 500, 500], "label": "a"}, {"box_2d": [0, 0, 9, 9], "label": "b"}]',
        "heart": '[{"box_2d": [0, 0, 9, 9], "label": "x"}, {"box_2d": [0, 0, 500, 500], "label": "heart"}]',
        "spine": "I cannot see it.",
    }
    model = Answers(lambda text: next(answer for name, answer in said.items() if f"the {name}?" in text))
    dataset = data(Sample("", "1", image, id="1", boxes=structures))
    boxes = own("boxes", prompt="Where is the {structure}?", max_tokens=9)
    figures = measured(boxes, model, dataset, model)
    assert figures.metrics["iou"].value == pytest.approx((0.5 + 0 + 1 + 0) / 4)
    assert figures.details["unparsed_share"] == 0.5
    assert figures.details["by_topic"]["heart"]["value"] == 1
    assert [item.topic for item in boxes.model_copy(update={"structures": ("spine",)}).items(dataset)] == ["spine"]
    with pytest.raises(UsageError, match="the dataset own has no box of these structures"):
        boxes.model_copy(update={"structures": ("liver",)}).items(dataset)
    with pytest.raises(UsageError, match="the dataset own has no images"):
        boxes.items(data(Sample("", "1", boxes=structures)))


def test_the_prompt_for_boxes_names_the_structure_and_keeps_its_braces() -> None:
    (item,) = task("anatomy-boxes").items(data(Sample("", "1", IMAGE, boxes={"carina": (0, 0, 2, 2)})))
    text = item.messages[0].text
    assert '```json[{"box_2d": [800, 3, 840, 471], "label": "car"}, {"box_2d": [400, 22, 600, 73], "label"' in text
    assert "Where is the carina? Don't give a final answer without reasoning." in text


# ---------------------------------------------------------------- on real questions

REAL = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
REAL_QUESTIONS = [
    ("medqa", "qa", 1273),
    ("medqa-notebook", "qa", 1273),
    ("pubmedqa", "qa", 500),
    ("medqa-likelihood-text", "qa", 1273),
    ("pubmedqa-likelihood-text", "qa", 500),
    ("vqa-rad", "", 735),
]


@pytest.mark.skipif(not (REAL / "qa").is_dir(), reason="the public sets are not here")
@pytest.mark.parametrize(("name", "folder", "n"), REAL_QUESTIONS)
def test_who_knows_all_answers_to_real_questions_is_right(name: str, folder: str, n: int) -> None:
    shipped = task(name)
    assert isinstance(shipped.dataset, str)
    dataset = load(shipped.dataset, shipped.limit, shipped.seed, REAL / folder)
    items = shipped.items(dataset)
    assert len(items) == n
    truth = iter(item.truth for item in items)
    before = getattr(shipped, "before", None)
    model = Answers(lambda text: f"{before}{next(truth)}" if before else f"So it is. Final Answer: {next(truth)}")
    figures = measured(shipped, model, dataset)
    if shipped.kind == "choice-likelihood":
        assert all(item.truth in item.answers for item in items)
        assert figures.metrics["log_likelihood"].value < 0
    else:
        assert {name: figure.value for name, figure in figures.metrics.items()} == dict.fromkeys(figures.metrics, 1)
        assert figures.details["unparsed_share"] == 0


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", ["medqa", "vqa-rad", "conditions-cxr14", "anatomy-boxes", "medqa-likelihood"])
def test_each_says_how_it_was_asked(name: str) -> None:
    named = {"lung opacity": True, "pneumothorax": True, "fracture": False}
    sample = Sample("A", "1", IMAGE, "?", ("A", "B"), findings=named, boxes={"carina": (0, 0, 2, 2)})
    shipped = task(name)
    figures = measured(shipped, Answers(lambda text: "A"), data(sample))
    assert 0 <= figures.details["truncated_share"] <= figures.details["unparsed_share"] <= 1
    known = {"key": "", "task_sha256": "", "dataset": {}, "n": 1, "details": figures.details}
    fields = {"task": name, "kind": shipped.kind, "title": shipped.title, "headline": shipped.headline}
    measurement = Measurement(**known, **fields, metrics=figures.metrics)
    said = type(shipped).explain(measurement, [measurement])
    assert shipped.title in said
    assert "n = 1" in said
    assert repr(shipped.prompt) in said  # type: ignore[attr-defined]
    assert shipped.headline in figures.metrics


def test_what_takes_hours_runs_only_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "benchmarks").mkdir()
    text = (find.folders("benchmarks")[0] / "finding-phantom.toml").read_text(encoding="utf-8")
    for name, line in (("quick", ""), ("slow", "on_request = true\n")):
        (tmp_path / "benchmarks" / f"{name}.toml").write_text(text + line)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    monkeypatch.setattr(find, "folders", lambda kind: [tmp_path / kind] if kind == "benchmarks" else _shipped(kind))
    assert [one.name for one in choose([], None, [])] == ["quick"]


_shipped = find.folders


# ---------------------------------------------------------------- published scores


def test_published_scores_are_of_known_models_tasks_and_figures() -> None:
    models, tasks = set(find.names("exports")), set(find.names("benchmarks"))
    assert len(scores()) > 100
    for score in scores():
        assert score.model in models
        assert recipe(score.model).title
        assert score.task in tasks
        assert 0 < score.value < 1
        kind = task(score.task)
        known = {"tokenized_f1", "closed_accuracy", "open_recall"} if kind.kind == "vqa" else {kind.headline}
        assert score.figure in known
    assert len({replace(score, note="", n=None) for score in scores()}) == len(scores())


@pytest.mark.parametrize(
    ("model", "name", "figure", "expected"),
    [
        ("medgemma-4b", "medqa", "accuracy", [0.644]),
        ("medgemma-1.5-4b", "medqa-notebook", "accuracy", [0.7015, 0.691]),
        ("medgemma-4b", "slake", "", [0.723, 0.876, 0.633]),
        ("medgemma-4b", "medqa-notebook", "", []),
        ("medgemma-1.5-4b", "anatomy-boxes", "iou", [0.38]),
    ],
)
def test_published_scores(model: str, name: str, figure: str, expected: list[float]) -> None:
    assert [score.value for score in published(model, name, figure)] == pytest.approx(expected)


def test_published_subjects_stand_apart() -> None:
    found = {score.topic: score.value for score in published("medgemma-4b", "mmlu-med")}
    assert len(found) == 7
    assert found["medical_genetics"] == pytest.approx(0.83)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ('source = "x"\npercent = { m = 5.0 }', r"scores\.0\.source: 'x'\nallowed: s"),
        ('source = "s"\nshare = 5', r"scores\.0\.share: is unknown"),
        ('source = "s"\npercent = { m = "5" }', r"scores\.0\.percent\.m: '5'"),
    ],
)
def test_a_wrong_file_of_scores_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str, said: str
) -> None:
    text = f'[sources]\ns = "S"\n[[scores]]\ntask = "t"\nfigure = "f"\n{rest}'
    (tmp_path / "benchmarks" / "published").mkdir(parents=True)
    (tmp_path / "benchmarks" / "published" / "own.toml").write_text(text)
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path))
    published_scores.scores.cache_clear()
    try:
        with pytest.raises(UsageError, match=f"published scores own: .*{said}"):
            scores()
    finally:
        published_scores.scores.cache_clear()
