"""Makes training conversations: questions about a labelled image, VQA-RAD, and medical text without an image.

One sequence holds an image once and several questions about it. Each question sees the image and itself only and counts
its positions as if it were alone, so what is trained is exactly the single-question prompt that the processor builds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sentencepiece

from edgekit.inputs.labels import (
    DESCRIBE_QUESTION,
    FINDING_QUESTIONS,
    GROUP_QUESTIONS,
    MODALITY_QUESTION,
    SEVERITY_QUESTION,
    SIDE_QUESTION,
    Label,
    description,
    in_modality,
)
from edgekit.reference_models.training import architecture as arch

NEWLINE, TWO_NEWLINES, THREE_NEWLINES = 8, 9, 10  # ids of the newline runs, which follow the control symbols


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `passage` is text that stands between image and question."""

    question: str
    answer: str
    passage: str = ""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one training sequence, all int arrays of equal length.

    Attributes:
        positions: position ids. branch: 0 for the shared prefix, else the number of the question.
        target: the id to predict at each place, or -1.
    """

    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    target: np.ndarray


class Speaker:
    """Spells conversations as token ids in Gemma's chat format."""

    def __init__(self, spiece: bytes) -> None:
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=spiece)
        self._user = [arch.START_OF_TURN, *self._pieces.encode("user")]
        self._model = [arch.END_OF_TURN, NEWLINE, arch.START_OF_TURN, *self._pieces.encode("model"), NEWLINE]

    def _prompt(self, turn: Turn) -> list[int]:
        text = f"{turn.passage}\n\n{turn.question}" if turn.passage else turn.question
        return [*self._pieces.encode(text.strip()), *self._model]

    def about_image(self, turns: Sequence[Turn]) -> Encoded:
        """One image, then each question as a branch of its own; only answers are predicted."""
        image = [arch.START_OF_IMAGE, *[arch.IMAGE_TOKEN] * arch.IMAGE_TOKENS, arch.END_OF_IMAGE]
        ids = [arch.BOS, *self._user, THREE_NEWLINES, *image, TWO_NEWLINES]
        prefix = len(ids)
        positions, branch, target = list(range(prefix)), [0] * prefix, [-1] * prefix
        for number, turn in enumerate(turns, 1):
            prompt = self._prompt(turn)
            answer = [*self._pieces.encode(turn.answer.strip()), arch.END_OF_TURN]
            seen = prompt + answer[:-1]
            ids += seen
            positions += range(prefix, prefix + len(seen))
            branch += [number] * len(seen)
            target += [-1] * (len(prompt) - 1) + answer
        return Encoded(*(np.array(values) for values in (ids, positions, branch, target)))

    def text_only(self, question: str, answer: str, length: int) -> Encoded:
        """One question and answer without an image, cut to `length`; every token is predicted."""
        prompt = [arch.BOS, *self._user, NEWLINE, *self._prompt(Turn(question, answer))]
        ids = [*prompt, *self._pieces.encode(answer), arch.END_OF_TURN][: length + 1]
        n = len(ids) - 1
        return Encoded(np.array(ids[:-1]), np.arange(n), np.zeros(n, int), np.array(ids[1:]))


def yes_no(label: Label, rng: np.random.Generator) -> Turn:
    """A yes/no question; over balanced labels each question is answered yes as often as no."""
    if rng.random() < 0.5:
        return Turn(label.question, "yes")
    others = [other for other in in_modality(label.modality) if other != label]
    return Turn(others[rng.integers(len(others))].question, "no")


def _group(label: Label, rng: np.random.Generator) -> list[Turn]:
    turns = []
    for modality, question, members in GROUP_QUESTIONS:
        if label.modality == modality:
            # Members outnumber the one label that is none, so they are asked less often.
            if label.name not in members:
                turns.append(Turn(question, "no"))
            elif rng.random() < 1 / len(members):
                turns.append(Turn(question, "yes"))
    return turns


def _finding(label: Label, rng: np.random.Generator) -> Turn:
    questions = FINDING_QUESTIONS
    return Turn(questions[0] if rng.random() < 0.5 else questions[rng.integers(1, len(questions))], label.name)


def image_turns(
    label: Label, severity: str | None, side: str | None, rng: np.random.Generator, passage: str = ""
) -> list[Turn]:
    """Four questions about one image; `passage`, where given, stands before one of them."""
    turns = [yes_no(label, rng), *_group(label, rng)]
    if severity:
        turns.append(Turn(SEVERITY_QUESTION, severity))
    if side:
        turns.append(Turn(SIDE_QUESTION, side))
    if rng.random() < 0.2:
        turns.append(Turn(DESCRIBE_QUESTION, description(label, severity, side)))
    if rng.random() < 0.15:
        turns.append(Turn(MODALITY_QUESTION, label.modality))
    while len(turns) < 2:
        turns.append(yes_no(label, rng))
    asked = [_finding(label, rng), yes_no(label, rng), *(turns[i] for i in rng.permutation(len(turns))[:2])]
    if passage:
        place = int(rng.integers(len(asked)))
        asked[place] = Turn(asked[place].question, asked[place].answer, passage)
    return asked
