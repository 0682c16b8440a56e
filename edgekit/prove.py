"""Compare an artifact with its original before anybody uses it.

Two comparisons, on prompts with and without images and longer than the attention window:

- *Wiring*: the artifact against float32 transformers that hold this level's own dequantized weights. It asks whether
  graph, mask, positions, scales, prompt and preprocessing are right; it is strict at every level and refuses.
- *Loss*: the artifact against the original weights. It asks what quantization cost; it is reported, and refuses only
  where a recipe names a limit.

The artifact is opened as a user opens it, asked, and closed; then the other side answers: Hugging Face's own
processors, masks and modules, from pixels and text on, with one matrix in memory at a time. Neither holds more than
a few logits: a row is 1 MB at Gemma's vocabulary, and all rows lie in temporary files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgekit import metrics
from edgekit.checkpoint import Checkpoint
from edgekit.errors import GateError, InputError
from edgekit.export.plan import PartPlan
from edgekit.families import Family
from edgekit.inputs import image as images_
from edgekit.inputs import prompt as prompts_
from edgekit.inputs.prompt import Message
from edgekit.manifest import Parity
from edgekit.progress import Progress
from edgekit.proof_inputs import IMAGES_IN_PROMPTS, Inputs
from edgekit.recipes import Gates
from edgekit.runtime import hf_inputs, streamed
from edgekit.runtime.base import (
    MOST_ROWS,
    Decoder,
    Divides,
    Embeddings,
    Encoder,
    EncoderSpec,
    Float,
    Model,
    Segment,
    Tokens,
)
from edgekit.runtime.compose import ChatModel, ContrastiveModel

CONTEXT = 8192  # tokens that a decoder is opened with for its proof
_POSITIONS = 96  # compared per prompt
_ROWS = 32
_BEYOND = 256  # tokens that the long text goes beyond the window
_TOGETHER = 4  # items that an encoder of small images or texts gets at a time
_STEPS = 8  # of these positions, the last of a prompt, that are decoded one by one from the cache
_EXACT = {"F32", "F16", "BF16", "float32", "float16"}  # codecs whose matrices take activations as they are
_PIXEL_TOLERANCE = 1e-3  # of the normalized range -1 .. 1; one grey level is 8e-3


@dataclass
class References:
    """The one place that runs transformers' models.

    Levels share results (the original weights serve all of them), so results are kept; weights never are.
    """

    checkpoint: Checkpoint
    family: Family
    config: Any
    progress: Progress = field(default_factory=Progress)
    _kept: dict[Any, Float] = field(default_factory=dict)

    def run(self, role: str, plan: PartPlan | None, compute: Callable[[Any], Float]) -> Float:
        """`compute(model)`, where the model's weights are as a planned part preserves them, or the original ones."""
        weights = self._weights(plan)
        smoothed = plan.level.name if plan and plan.factors else ""
        identity = (role, tuple(sorted(weights.codec_by_name.items())), smoothed)
        if identity not in self._kept:
            name = plan.level.name if plan else "original"
            self.progress.start(f"{role} {name}: transformers", len(self.family.roles[role].slots(self.config)))
            self._kept[identity] = compute(streamed.model(self.config, weights, self.progress.advance))
        return self._kept[identity]

    def logits(self, plan: PartPlan | None, hidden: Float) -> Float:
        """Logits [n, vocabulary] of a decoder's final hidden states [n, hidden], in a temporary file."""
        slots = self.family.roles["decoder"].slots(self.config)
        table = next(slot for slot in slots if slot.kind == "token_embedding")
        rows = _in_a_file(len(hidden), table.shape[0])
        for columns, values in streamed.logits(self._weights(plan), table.name, hidden):
            rows[:, columns] = values
        return rows

    def _weights(self, plan: PartPlan | None) -> streamed.Weights:
        """Tensors that a level preserves exactly count as original, so that BF16 of BF16 is not computed again."""
        changed = {
            planned.slot.name: planned.codec
            for planned in (plan.tensors if plan else ())
            if planned.codec not in ("F32", "float32", planned.tensor.dtype)
        }
        if plan and plan.factors:
            return streamed.Weights(self.checkpoint, self.family, changed, plan.prepared)
        return streamed.Weights(self.checkpoint, self.family, changed)


def check_inputs(checkpoint: Checkpoint, config: Any, inputs: Inputs) -> None:
    """Check what can be checked before anything is written.

    Raises:
        InputError: the text is too short for this model's attention window.
    """
    if window := getattr(config.text_config, "sliding_window", None):
        _beginning(inputs.text, window + _BEYOND, prompts_.load_tokenizer(checkpoint.root / "tokenizer.json"))


def prove_parts(
    plans: Sequence[PartPlan], open_artifact: Callable[[], Model], references: References, inputs: Inputs, gates: Gates
) -> list[Parity]:
    """Compare parts of one variant of an artifact with the original.

    Args:
        open_artifact: opens the variant; it is closed before a reference of the same size runs.

    Raises:
        GateError: preprocessing, prompt or wiring is wrong, or the loss exceeds a limit of the recipe.
    """
    proofs = [
        (_decoder_proof if plan.family.roles[plan.role].output == "logits" else _encoder_proof)(
            plan, references, inputs, gates
        )
        for plan in plans
    ]
    model = open_artifact()
    try:
        answers = [proof.ask(model) for proof in proofs]
    finally:
        model.close()
    return [proof.judge(answer) for proof, answer in zip(proofs, answers, strict=True)]


# ---------------------------------------------------------------- encoders


@dataclass(frozen=True)
class _EncoderProof:
    """One encoder, and what Hugging Face's processor makes of its inputs."""

    plan: PartPlan
    references: References
    inputs: Inputs
    gates: Gates
    expected_batch: NDArray[Any]

    def ask(self, model: Model) -> Float:
        """The artifact's output, after checking that its preprocessing is Hugging Face's."""
        encoder = _encoder_of(model, self.plan.role)
        batch = self._our_batch(model)
        step = 1 if encoder.spec.output == "image_tokens" else _TOGETHER
        progress, outputs = self.references.progress, []
        progress.start(f"{self.plan.role} {self.plan.level.name}: artifact", len(batch))
        for start in range(0, len(batch), step):
            outputs.append(encoder.encode(batch[start : start + step]))
            progress.advance(len(batch[start : start + step]))
        return np.concatenate(outputs)

    def judge(self, actual: Float) -> Parity:
        """Compare it with transformers."""
        plan, gates = self.plan, self.gates
        where = f"{plan.role} {plan.level.name}"
        expected = _encoded(self.references, plan.role, plan, self.expected_batch)
        if actual.shape != expected.shape:
            raise GateError(f"{where}: wiring: an output of shape {actual.shape}", allowed=f"{expected.shape}")
        wiring = _cosines(actual, expected)
        least = gates.encoder_cosine_at.get(plan.level.name, gates.encoder_cosine)
        if not wiring["worst"] >= least:  # NaN must fail too
            raise GateError(
                f"{where}: wiring: cosine {wiring['worst']:.6f} to transformers with the same weights",
                allowed=f"at least {least}",
                remedy="the exported graph computes something else; nothing was published",
            )
        loss = _cosines(actual, _encoded(self.references, plan.role, None, self.expected_batch))
        limit = gates.loss_cosine_at.get(plan.level.name)
        if limit is not None and not loss["mean"] >= limit:
            raise GateError(
                f"{where}: loss: mean cosine {loss['mean']:.6f}", allowed=f"at least {limit}, by the recipe"
            )
        return Parity(metric="cosine", wiring=wiring, loss=loss, positions=len(actual), inputs=self.inputs.name)

    def _our_batch(self, model: Any) -> NDArray[Any]:
        where, inputs = f"{self.plan.role} {self.plan.level.name}: preprocessing", self.inputs
        if self.plan.role == "text_encoder":
            length, pad = model.settings["text_length"], model.settings["pad_token_id"]
            ids = prompts_.encode_siglip(model.tokenizer, inputs.captions, length, pad)
            wrong = np.flatnonzero((ids != self.expected_batch).any(axis=1))
            if len(wrong):
                raise GateError(f"{where}: ids of {inputs.captions[wrong[0]]!r} differ from Hugging Face's tokenizer")
            return ids
        pixels = images_.to_pixels(inputs.images[: len(self.expected_batch)], model.preprocessing)
        difference = float(np.abs(images_.normalize(pixels, model.preprocessing) - self.expected_batch).max())
        if not difference <= _PIXEL_TOLERANCE:
            raise GateError(
                f"{where}: pixels differ from Hugging Face's processor by up to {difference:.3f}",
                allowed=f"at most {_PIXEL_TOLERANCE}",
                remedy="size, resize filter or normalization is wrong; nothing was published",
            )
        return pixels


def _encoder_proof(plan: PartPlan, references: References, inputs: Inputs, gates: Gates) -> _EncoderProof:
    return _EncoderProof(plan, references, inputs, gates, _expected_batch(references, plan.role, inputs))


def _expected_batch(references: References, role: str, inputs: Inputs) -> NDArray[Any]:
    # An image of 896 pixels takes a minute on either side.
    count = IMAGES_IN_PROMPTS if references.family.roles[role].output == "image_tokens" else len(inputs.images)
    return hf_inputs.encoder_inputs(
        references.checkpoint, references.config, role, inputs.images[:count], inputs.captions
    )


def _encoded(references: References, role: str, plan: PartPlan | None, batch: NDArray[Any]) -> Float:
    return references.run(role, plan, lambda model: hf_inputs.encode(model, role, batch))


def _encoder_of(model: Model, role: str) -> Encoder:
    if isinstance(model, ContrastiveModel):
        return model.image_encoder if role == "image_encoder" else model.text_encoder
    if isinstance(model, ChatModel) and model.vision is not None:
        return model.vision
    raise TypeError(f"{type(model).__name__} has no {role}")


def _cosines(actual: Float, expected: Float) -> dict[str, float]:
    width = expected.shape[-1]
    values = metrics.cosine(actual.reshape(-1, width), expected.reshape(-1, width))
    return {"mean": _rounded(values.mean()), "worst": _rounded(values.min())}


# ---------------------------------------------------------------- decoder


@dataclass(frozen=True)
class _Prompt:
    """One prompt, what Hugging Face's processor makes of it, and the positions compared."""

    messages: tuple[Message, ...]
    processed: Mapping[str, Any]
    want: tuple[int, ...]


@dataclass(frozen=True)
class _DecoderProof:
    """One decoder and its prompts. Images come as the reference's embeddings, so that only the decoder is judged."""

    plan: PartPlan
    references: References
    inputs: Inputs
    gates: Gates
    prompts: tuple[_Prompt, ...]
    embedded: Float | None

    @property
    def where(self) -> str:
        """How messages name the part."""
        return f"{self.plan.role} {self.plan.level.name}"

    def ask(self, model: Model) -> Float:
        """The artifact's logits [positions, vocabulary], after checking that its prompts are Hugging Face's."""
        assert isinstance(model, ChatModel)
        vision: Encoder | None = None
        if self.embedded is not None and model.preprocessing is not None:
            pixels = images_.to_pixels(self.inputs.images[: len(self.embedded)], model.preprocessing)
            vision = _Known(self.embedded, pixels)
        chat = ChatModel(model.decoder, vision, model.tokenizer, model.preprocessing, model.settings)
        rows = _in_a_file(sum(len(prompt.want) for prompt in self.prompts), model.decoder.vocabulary)
        self.references.progress.start(f"{self.where}: artifact", len(rows))
        for i, row in enumerate(row for prompt in self.prompts for row in _our_logits(chat, prompt, self.where)):
            rows[i] = row
            self.references.progress.advance()
        return rows

    def judge(self, actual: Float) -> Parity:
        """Compare them with transformers'."""
        plan, gates = self.plan, self.gates
        expected = self._reference(plan)
        kl = _divergence(expected, actual)
        exact = {planned.codec for planned in plan.tensors} <= _EXACT
        margin = gates.clear_margin if exact else gates.clear_margin_quantized
        tolerated = 0 if exact else int(gates.changed_share_quantized * len(actual))
        changed = sum(metrics.clear_top1_changes(e, a, margin) for e, a in _together(expected, actual))
        if changed > tolerated or not kl.mean() <= gates.decoder_kl:
            raise GateError(
                f"{self.where}: wiring: mean KL {kl.mean():.2g} nats to transformers with the same weights, "
                f"{changed} of {len(actual)} clear top tokens changed",
                allowed=f"at most {gates.decoder_kl} nats and {tolerated}",
                remedy="mask, positions, scales or prompt differ from the original's; nothing was published",
            )
        del expected  # its file goes with it
        original = self._reference(None)
        loss = _divergence(original, actual)
        limit = gates.loss_kl_at.get(plan.level.name)
        if limit is not None and not loss.mean() <= limit:
            raise GateError(
                f"{self.where}: loss: mean KL {loss.mean():.3g} nats", allowed=f"at most {limit}, by the recipe"
            )
        same = np.concatenate([metrics.top1_agreement(o, a) for o, a in _together(original, actual)])
        return Parity(
            metric="kl",
            wiring={"mean": _rounded(kl.mean()), "worst": _rounded(kl.max())},
            loss={"mean": _rounded(loss.mean()), "worst": _rounded(loss.max()), "top1": _rounded(same.mean())},
            positions=len(actual),
            inputs=self.inputs.name,
        )

    def _reference(self, plan: PartPlan | None) -> Float:
        processed, want = [p.processed for p in self.prompts], [p.want for p in self.prompts]
        hidden = self.references.run(
            "decoder", plan, lambda model: hf_inputs.hidden_states(model, processed, want, self.embedded)
        )
        return self.references.logits(plan, hidden)


def _decoder_proof(plan: PartPlan, references: References, inputs: Inputs, gates: Gates) -> _DecoderProof:
    embedded = None
    if "vision" in plan.family.roles:
        embedded = _encoded(references, "vision", None, _expected_batch(references, "vision", inputs))
    return _DecoderProof(plan, references, inputs, gates, tuple(_prompts(plan, inputs)), embedded)


def _prompts(plan: PartPlan, inputs: Inputs) -> Iterator[_Prompt]:
    """A text longer than the window, a question about one image, two images in a conversation; or their texts alone."""
    window = plan.config.text_config.sliding_window
    tokenizer = prompts_.load_tokenizer(plan.checkpoint.root / "tokenizer.json")
    for messages in _conversations(plan, inputs, _beginning(inputs.text, window + _BEYOND, tokenizer)):
        processed = hf_inputs.processed(plan.checkpoint, plan.config, messages)
        length = len(processed["input_ids"])
        is_image = np.asarray(processed["token_type_ids"]) == 1
        # Where mask and positions matter: from the first image token on, or beyond the window.
        start = int(is_image.argmax()) if is_image.any() else window if length > window else 0
        if length > CONTEXT:
            raise GateError(f"a proof prompt of {length} tokens", allowed=f"at most {CONTEXT}", remedy="another text")
        spread = np.linspace(start, length - 1 - _STEPS, _POSITIONS - _STEPS).astype(int)
        want = np.unique(np.append(spread, np.arange(length - _STEPS, length)))
        yield _Prompt(messages, processed, tuple(int(position) for position in want))


def _conversations(plan: PartPlan, inputs: Inputs, long: str) -> tuple[tuple[Message, ...], ...]:
    question, answer, next_question = inputs.text[:600], inputs.text[600:800], inputs.text[800:1400]
    sees = "vision" in plan.family.roles
    first, second, third = [(image,) if sees else () for image in inputs.images[:IMAGES_IN_PROMPTS]]
    alone = (Message("user", long),)
    if plan.checkpoint.chat_template() is None:
        return alone, (Message("user", question, first),), (Message("user", next_question, second + third),)
    return (
        alone,
        (Message("user", question, first),),
        (
            Message("system", "You look at phantoms."),
            Message("user", "What is this?", second),
            Message("assistant", answer),
            Message("user", f"And this?\n\n{next_question}", third),
        ),
    )


def _beginning(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """As much of a text as has this many tokens."""
    found = tokenizer.encode(text, add_special_tokens=False)
    if len(found.ids) < tokens:
        raise InputError(
            f"a proof text of {len(found.ids)} tokens",
            allowed=f"at least {tokens}: this model's attention window and {_BEYOND} beyond it",
            remedy="--text with a longer one",
        )
    return text[: found.offsets[tokens - 1][1]]


def _our_logits(chat: ChatModel, prompt: _Prompt, where: str) -> Iterator[Float]:
    """The artifact's logits, after checking that its prompt is Hugging Face's, token by token."""
    segments = chat.segments(prompt.messages)
    image = chat.settings.image_token_id
    ids = [token for s in segments for token in ([image] * len(s) if isinstance(s, Embeddings) else s.ids)]
    expected = list(prompt.processed["input_ids"])
    if ids != expected:
        at = next(
            (i for i, (a, b) in enumerate(zip(ids, expected, strict=False)) if a != b), min(len(ids), len(expected))
        )
        raise GateError(
            f"{where}: the prompt differs from Hugging Face's processor at token {at}: {ids[at : at + 8]}",
            allowed=f"{expected[at : at + 8]}",
            remedy="the checkpoint's chat template or tokenizer is not Gemma 3's; nothing was published",
        )
    return _decoded(chat.decoder, segments, prompt.want)


def _decoded(decoder: Decoder, segments: Sequence[Segment], want: Sequence[int]) -> Iterator[Float]:
    """Logits of the wanted positions; of a prompt's last tokens, one step at a time, as an answer is decoded.

    Some are of a pass in which nothing is divided: only there could two images see each other.
    """
    *before, last = segments
    steps = last.ids[-_STEPS:] if isinstance(last, Tokens) and len(last) > _STEPS else ()
    start = sum(map(len, segments)) - len(steps)
    if isinstance(last, Tokens):
        last = Tokens(last.ids[: len(last) - len(steps)])
    earlier = [position for position in want if position < start]
    whole = _undivided(decoder, [*before, last], earlier)
    divided = decoder.prefill([*before, last], [position for position in earlier if position not in whole])
    for position in earlier:
        yield whole[position] if position in whole else next(divided)
    for _ in divided:
        pass  # what follows the last wanted position is decoded too
    for position, token in enumerate(steps, start):
        row = decoder.step([token])
        if position in want:
            yield row


def _undivided(decoder: Decoder, segments: Sequence[Segment], want: Sequence[int]) -> dict[int, Float]:
    """Position -> logits, for a third of the wanted positions of a prompt with several images, decoded in one call."""
    if not isinstance(decoder, Divides) or sum(isinstance(one, Embeddings) for one in segments) < 2:
        return {}
    some = list(want)[:: -(-len(want) // MOST_ROWS)]
    decoder.use_chunk(sum(map(len, segments)))
    try:
        return dict(zip(some, decoder.prefill(segments, some), strict=True))
    finally:
        decoder.use_chunk(None)


def _in_a_file(rows: int, columns: int) -> Float:
    """An array in a temporary file that vanishes with it."""
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk must be an error here, not a signal at the first write
            os.posix_fallocate(file.fileno(), 0, rows * columns * 4)
        return np.memmap(file, np.float32, "w+", shape=(rows, columns))


def _together(expected: Float, actual: Float) -> Iterator[tuple[Float, Float]]:
    """A few rows of both at a time: in float64 a row of Gemma's vocabulary takes 2 MB, several times over."""
    for start in range(0, len(expected), _ROWS):
        yield expected[start : start + _ROWS], actual[start : start + _ROWS]


def _divergence(expected: Float, actual: Float) -> NDArray[np.float64]:
    return np.concatenate([metrics.kl_divergence(e, a) for e, a in _together(expected, actual)])


class _Known:
    """An encoder that looks its answers up."""

    def __init__(self, embedded: Float, pixels: NDArray[np.uint8]) -> None:
        self.spec = EncoderSpec("pixels", "image_tokens", pixels.shape[1:])
        self._by_hash = {images_.content_hash(one): row for one, row in zip(pixels, embedded, strict=True)}

    def encode(self, batch: NDArray[Any]) -> Float:
        return np.stack([self._by_hash[images_.content_hash(one)] for one in batch])

    def close(self) -> None:
        pass


def _rounded(value: Any) -> float:
    """Six significant digits: what was measured, without the noise of a summation order."""
    return float(f"{float(value):.6g}")
