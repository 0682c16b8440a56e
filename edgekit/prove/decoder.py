"""Prove a decoder: its prompts token by token, then its logits, in prompts and step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit import metrics
from edgekit.artifacts.differences import refusal
from edgekit.artifacts.gates import Gates, Limits
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import Parity, Preprocessing
from edgekit.errors import InputError
from edgekit.families.composition import ChatFormat
from edgekit.families.source import Source
from edgekit.full_precision import processors as hf_inputs
from edgekit.inputs import image as images_
from edgekit.inputs.message import Image, Message
from edgekit.inputs.samples import IMAGES_IN_PROMPTS, Inputs
from edgekit.prove.encoder import encoded, expected_batch
from edgekit.prove.full_precision_runs import FullPrecisionRuns, rounded
from edgekit.prove.known import KnownEncoder
from edgekit.prove.loss import check_loss
from edgekit.prove.written import WrittenPart
from edgekit.runtime.base import (
    MOST_ROWS,
    Decoder,
    Embeddings,
    Encoder,
    EncoderSpec,
    Float,
    Segment,
    SupportsChunkSize,
    Tokens,
)
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.opening import Opening

CONTEXT = 8192  # tokens that a decoder is opened with for its proof
BEYOND = 256  # tokens that the long text goes beyond the window
_POSITIONS = 96  # compared per prompt
_ROWS = 32
_STEPS = 8  # of these positions, the last of a prompt, that are decoded one by one from the cache
# Few rows vary more than many: the mean of right parts' steps measured up to 1.3 times the limit. Of steps that write
# their token twice it measured eleven times the limit, in random weights of MedGemma's width, where that shows least.
_FEW = 3.0


@dataclass(frozen=True)
class Prompt:
    """One prompt, what Hugging Face's processor makes of it, and the positions compared."""

    messages: tuple[Message, ...]
    processed: Mapping[str, Any]
    want: tuple[int, ...]

    @property
    def images(self) -> int:
        """How many it shows."""
        return sum(len(message.images) for message in self.messages)

    @property
    def undivided(self) -> tuple[int, ...]:
        """A third of a prompt with several images, decoded in one call: only there could two images see each other."""
        if self.images < 2:
            return ()
        before = self.want[:-_STEPS]
        return before[:: -(-len(before) // MOST_ROWS)]


@dataclass(frozen=True)
class DecoderProof:
    """One decoder and its prompts. Images come as transformers' embeddings, so that only the decoder is judged.

    Attributes:
        embedded: the embeddings of the first images, for both sides.
        asked: tells these prompts apart from others of the same decoder.
    """

    written: WrittenPart
    runs: FullPrecisionRuns
    inputs: Inputs
    gates: Gates
    prompts: tuple[Prompt, ...]
    embedded: Float | None
    asked: str = ""

    @property
    def where(self) -> str:
        """How messages name the part."""
        return self.written.where

    def ask(self, opening: Opening) -> Float:
        """The artifact's logits [positions, vocabulary], after checking that its prompts are Hugging Face's."""
        with opening.part(self.written.role) as decoder:
            return self.logits(decoder, opening.chat_format(), opening.manifest.preprocessing)

    def logits(self, decoder: Decoder, chat_format: ChatFormat, preprocessing: Preprocessing | None) -> Float:
        """As `ask`, of a decoder that is open."""
        vision: Encoder | None = None
        if self.embedded is not None and preprocessing is not None:
            pixels = images_.to_pixels(self.inputs.images[: len(self.embedded)], preprocessing)
            vision = KnownEncoder(EncoderSpec("pixels", "image_tokens", pixels.shape[1:]), pixels, self.embedded)
        chat = ChatModel(decoder, vision, chat_format, preprocessing)
        rows = self.runs.array(sum(len(prompt.want) for prompt in self.prompts), decoder.vocabulary)
        self.runs.progress.start(f"{self.where}: artifact", len(rows))
        for i, row in enumerate(row for prompt in self.prompts for row in _our_logits(chat, prompt, self.where)):
            rows[i] = row
            self.runs.progress.advance()
        return rows

    def judge(self, actual: Float) -> Parity:
        """Compare them with transformers'."""
        role, level = self.written.role, self.written.level
        wiring = self.wiring(actual)
        original = self.expected(None)[:, : actual.shape[1]]
        lost = divergence(original, actual)
        same = np.concatenate([metrics.top1_agreement(o, a) for o, a in _together(original, actual)])
        loss = {
            "mean": rounded(lost.mean()),
            "worst": rounded(lost.max()),
            "top1": rounded(same.mean()),
        }
        check_loss(role, level, "kl", loss, self.gates)
        return Parity(metric="kl", wiring=wiring, loss=loss, positions=len(actual), inputs=self.inputs.name)

    def wiring(self, actual: Float) -> dict[str, float]:
        """The divergence from transformers with the same weights: `mean`, `worst`, and the greatest `prompt`'s mean.

        Raises:
            GateError: that is too large, or clear top tokens changed.
        """
        gates, exact, limit = self.gates, self.written.exact, self.limits.wiring_kl
        expected = self.expected(self.written)[:, : actual.shape[1]]  # rows of no token may be cut off
        kl = divergence(expected, actual)
        margin = gates.clear_margin if exact else gates.clear_margin_quantized
        tolerated = 0 if exact else int(gates.changed_share_quantized * len(actual))
        changed = sum(metrics.clear_top1_changes(e, a, margin) for e, a in _together(expected, actual))
        greatest = float(np.max([kl[rows].mean() / allowance for rows, allowance in self._groups()]))
        if changed > tolerated or not greatest <= limit:  # NaN must fail too
            raise refusal(
                "wiring",
                self.where,
                f"mean KL {greatest:.2g} nats of a prompt, or a third of its steps', to transformers with the same "
                f"weights, {changed} of {len(actual)} clear top tokens changed",
                allowed=f"at most {limit:g} nats and {tolerated}",
                remedy="mask, positions, scales or prompt differ from the original's; nothing was published",
            )
        figures = {"mean": kl.mean(), "worst": kl.max(), "prompt": greatest, "changed": changed}
        return {name: rounded(value) for name, value in figures.items()}

    @property
    def limits(self) -> Limits:
        """What the level and the recipe allow."""
        return self.gates.limits(self.written.level, limits_of(self.written.level))

    def _groups(self) -> Iterator[tuple[NDArray[np.int64], float]]:
        """Rows that are judged together, and how many times the limit their mean may be: a mistake that shows in one
        prompt, or in single steps alone, must not vanish among the others.
        """
        start = 0
        for prompt in self.prompts:
            rows = np.arange(start, start := start + len(prompt.want))
            yield rows, 1
            yield rows[-_STEPS:], _FEW
            if prompt.undivided:
                yield rows[np.isin(prompt.want, prompt.undivided)], 1

    def expected(self, written: WrittenPart | None) -> Float:
        """transformers' logits, with the weights of the part's files or, for None, the original ones."""
        processed, want = [p.processed for p in self.prompts], [p.want for p in self.prompts]
        hidden = self.runs.run(
            self.written.role,
            written,
            lambda model: hf_inputs.hidden_states(model, processed, want, self.embedded),
            self.asked,
        )
        return self.runs.logits(self.written.role, written, hidden)


def decoder_proof(
    written: WrittenPart, runs: FullPrecisionRuns, inputs: Inputs, gates: Gates, *, sees: bool = True
) -> DecoderProof:
    """The prompts of a decoder's proof, and full precision's embeddings of their images.

    Args:
        sees: whether it stands behind an encoder of images; one that others made may be there alone.

    Raises:
        InputError: the text is shorter than the attention window and some more, or a prompt too long for any proof.
    """
    embedded, encoder = None, runs.source.family.role_giving("image_tokens") if sees else None
    if encoder:
        embedded = encoded(runs, encoder, None, expected_batch(runs, encoder, inputs))
    asked = tuple(prompts(runs.source, inputs, sees=encoder is not None))
    return DecoderProof(written, runs, inputs, gates, asked, embedded)


def prompts(source: Source, inputs: Inputs, *, sees: bool) -> Iterator[Prompt]:
    """A text longer than the window, a question about one image, two images in a conversation; or their texts alone.

    Raises:
        InputError: the text is shorter than the attention window and some more, or a prompt too long for any proof.
    """
    window = source.settings["window"]
    tokenizer = source.tokenizer().tokenizer
    for messages in _conversations(source, inputs, beginning(inputs.text, window + BEYOND, tokenizer), sees=sees):
        processed = hf_inputs.processed(source, messages)
        length = len(processed["input_ids"])
        is_image = np.asarray(processed["token_type_ids"]) == 1
        # Where mask and positions matter: from the first image token on, or beyond the window.
        start = int(is_image.argmax()) if is_image.any() else window if length > window else 0
        if length > CONTEXT:
            raise InputError(f"a proof prompt of {length} tokens", allowed=f"at most {CONTEXT}", remedy="another text")
        spread = np.linspace(start, length - 1 - _STEPS, _POSITIONS - _STEPS).astype(int)
        want = np.unique(np.append(spread, np.arange(length - _STEPS, length)))
        yield Prompt(messages, processed, tuple(int(position) for position in want))


def _conversations(source: Source, inputs: Inputs, long: str, *, sees: bool) -> tuple[tuple[Message, ...], ...]:
    question, answer, next_question = inputs.text[:600], inputs.text[600:800], inputs.text[800:1400]
    first, second, third = [(Image(image),) if sees else () for image in inputs.images[:IMAGES_IN_PROMPTS]]
    alone = (Message("user", long),)
    if source.checkpoint.chat_template() is None:
        return alone, (Message("user", *first, question),), (Message("user", *second, *third, next_question),)
    own = source.settings.get("template")
    system = () if own and not own["system"] else (Message("system", "You look at phantoms."),)
    return (
        alone,
        (Message("user", *first, question),),
        (
            *system,
            Message("user", *second, "What is this?"),
            Message("assistant", answer),
            Message("user", *third, f"And this?\n\n{next_question}"),
        ),
    )


def beginning(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """As much of a text as has this many tokens."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding.ids) < tokens:
        raise InputError(
            f"a proof text of {len(encoding.ids)} tokens",
            allowed=f"at least {tokens}: this model's attention window and {BEYOND} beyond it",
            remedy="--text with a longer one",
        )
    return text[: encoding.offsets[tokens - 1][1]]


def _our_logits(chat: ChatModel, prompt: Prompt, where: str) -> Iterator[Float]:
    """The artifact's logits, after checking that its prompt is Hugging Face's, token by token."""
    segments = chat.segments(prompt.messages)
    image = chat.settings.image_token_id
    ids = [token for s in segments for token in ([image] * len(s) if isinstance(s, Embeddings) else s.ids)]
    expected = list(prompt.processed["input_ids"])
    if ids != expected:
        at = next(
            (i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
        )
        raise refusal(
            "prompt",
            where,
            f"it differs from Hugging Face's processor at token {at}: {ids[at : at + 8]}",
            allowed=f"{expected[at : at + 8]}",
            remedy="the checkpoint's chat template or tokenizer is not Gemma 3's; nothing was published",
        )
    return _decoded(chat.decoder, segments, prompt)


def _decoded(decoder: Decoder, segments: Sequence[Segment], prompt: Prompt) -> Iterator[Float]:
    """Logits of the wanted positions; of a prompt's last tokens, one step at a time, as an answer is decoded."""
    *before, last = segments
    steps = last.ids[-_STEPS:] if isinstance(last, Tokens) and len(last) > _STEPS else ()
    start = sum(map(len, segments)) - len(steps)
    if isinstance(last, Tokens):
        last = Tokens(last.ids[: len(last) - len(steps)])
    earlier = [position for position in prompt.want if position < start]
    whole = _undivided(decoder, [*before, last], prompt.undivided)
    divided = decoder.prefill([*before, last], [position for position in earlier if position not in whole])
    for position in earlier:
        yield whole[position] if position in whole else next(divided)
    for _ in divided:
        pass  # what follows the last wanted position is decoded too
    for position, token in enumerate(steps, start):
        row = decoder.step([token])
        if position in prompt.want:
            yield row


def _undivided(decoder: Decoder, segments: Sequence[Segment], want: Sequence[int]) -> dict[int, Float]:
    """Position -> logits, where a decoder divides prompts and is told not to."""
    if not want or not isinstance(decoder, SupportsChunkSize):
        return {}
    decoder.set_chunk_size(sum(map(len, segments)))
    try:
        return dict(zip(want, decoder.prefill(segments, want), strict=True))
    finally:
        decoder.set_chunk_size(None)


def _together(expected: Float, actual: Float) -> Iterator[tuple[Float, Float]]:
    """A few rows of both at a time: in float64 a row of Gemma's vocabulary takes 2 MB, several times over."""
    for start in range(0, len(expected), _ROWS):
        yield expected[start : start + _ROWS], actual[start : start + _ROWS]


def divergence(expected: Float, actual: Float) -> NDArray[np.float64]:
    """KL divergence in nats of each row of logits, a few rows at a time."""
    return np.concatenate([metrics.kl_divergence(e, a) for e, a in _together(expected, actual)])
