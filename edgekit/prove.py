"""Compare an artifact with its original before anybody uses it.

Two comparisons, on prompts with and without images and longer than the attention window:

- *Wiring*: the artifact against float32 transformers that hold this level's own dequantized weights. It asks whether
  graph, mask, positions, scales, prompt and preprocessing are right; it is strict at every level and refuses.
- *Loss*: the artifact against the original weights. It asks what quantization cost; it is reported, and refuses only
  where a recipe names a limit.

The artifact is opened as a user opens it. The other side is Hugging Face's own processors, masks and modules, from
pixels and text on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import codecs, metrics
from edgekit.checkpoint import Checkpoint
from edgekit.errors import GateError
from edgekit.export.plan import PartPlan
from edgekit.families import Family
from edgekit.inputs import image as images_
from edgekit.inputs import prompt as prompts_
from edgekit.inputs.passage import passage, sentences
from edgekit.inputs.prompt import Message
from edgekit.manifest import Parity
from edgekit.recipes import Gates
from edgekit.reference import phantoms
from edgekit.runtime import hf_inputs, torch_reference
from edgekit.runtime.base import Embeddings, Encoder, EncoderSpec, Float, Model
from edgekit.runtime.compose import ChatModel, ContrastiveModel

SEED = 20_260  # of the phantoms; training and benchmarks use others
CONTEXT = 8192  # tokens that a decoder is opened with for its proof
_POSITIONS = 128  # compared per prompt
_ROWS = 32
_BEYOND = 256  # tokens that the long text goes beyond the window
_PIXEL_TOLERANCE = 1e-3  # of the normalized range -1 .. 1; one grey level is 8e-3


@dataclass(frozen=True)
class Inputs:
    """What a proof compares on.

    Attributes:
        images: uint8 arrays [h, w] of different sizes.
        text: longer than the attention window.
        captions: short texts for a text encoder.
        name: what the manifest says was used.
    """

    images: tuple[NDArray[np.uint8], ...]
    text: str
    captions: tuple[str, ...]
    name: str


def shipped_inputs() -> Inputs:
    """Phantoms and a passage that come with edgekit."""
    drawn = [phantom.image for phantom in phantoms.generate(SEED, 8)]
    # Different sizes and shapes, so that a wrong resize or a transposed image cannot pass.
    images = [image[: image.shape[0] - 17 * i, : image.shape[1] - 5 * i] for i, image in enumerate(drawn)]
    return Inputs(tuple(images), passage(), sentences()[:24], "phantoms and text shipped with edgekit")


@dataclass
class References:
    """The one place that loads transformers models; a later one may run layer by layer behind the same call.

    Levels share results (the original weights serve all of them), so results are kept and models are not.
    """

    checkpoint: Checkpoint
    family: Family
    config: Any
    _kept: dict[Any, Any] = field(default_factory=dict)

    def run(self, codec_by_name: Mapping[str, str] | None, key: str, compute: Callable[[Any], Any]) -> Any:
        """`compute(model)`, where the model's weights went through these codecs (None: the original weights)."""
        identity = (key, tuple(sorted(codec_by_name.items())) if codec_by_name else None)
        if identity not in self._kept:
            self._kept[identity] = compute(self._model(codec_by_name or {}))
        return self._kept[identity]

    def _model(self, codec_by_name: Mapping[str, str]) -> Any:
        def transform(name: str, weights: NDArray[np.float32]) -> NDArray[np.float32]:
            return codecs.roundtrip(weights, codec_by_name.get(name, "F32"))

        return torch_reference.load(self.checkpoint, self.family, self.config, transform)


def prove_part(plan: PartPlan, model: Model, references: References, inputs: Inputs, gates: Gates) -> Parity:
    """Compare one part of an opened artifact with the original.

    Raises:
        GateError: preprocessing, prompt or wiring is wrong, or the loss exceeds a limit of the recipe.
    """
    if isinstance(model, ContrastiveModel):
        encoder = model.image_encoder if plan.role == "image_encoder" else model.text_encoder
        return _prove_encoder(plan, model, encoder, references, inputs, gates)
    if isinstance(model, ChatModel):
        if plan.role == "vision":
            return _prove_encoder(plan, model, model.vision, references, inputs, gates)
        return _prove_decoder(plan, model, references, inputs, gates)
    raise TypeError(f"no proof for {type(model).__name__}")


# ---------------------------------------------------------------- encoders


def _prove_encoder(
    plan: PartPlan,
    model: ChatModel | ContrastiveModel,
    encoder: Encoder,
    references: References,
    inputs: Inputs,
    gates: Gates,
) -> Parity:
    where = f"{plan.role} {plan.level.name}"
    expected_batch = hf_inputs.encoder_inputs(plan.checkpoint, plan.config, plan.role, inputs.images, inputs.captions)
    batch = _our_batch(plan, model, inputs, expected_batch)
    actual = encoder.encode(batch)

    def compute(reference: Any) -> Float:
        return hf_inputs.encode(reference, plan.role, expected_batch)

    expected = references.run(plan.codec_by_name, plan.role, compute)
    if actual.shape != expected.shape:
        raise GateError(f"{where}: wiring: an output of shape {actual.shape}", allowed=f"{expected.shape}")
    wiring = _cosines(actual, expected)
    loss = _cosines(actual, references.run(None, plan.role, compute))
    least = gates.encoder_cosine_at.get(plan.level.name, gates.encoder_cosine)
    if not wiring["worst"] >= least:  # NaN must fail too
        raise GateError(
            f"{where}: wiring: cosine {wiring['worst']:.6f} to transformers with the same weights",
            allowed=f"at least {least}",
            remedy="the exported graph computes something else; nothing was published",
        )
    limit = gates.loss_cosine_at.get(plan.level.name)
    if limit is not None and not loss["mean"] >= limit:
        raise GateError(f"{where}: loss: mean cosine {loss['mean']:.6f}", allowed=f"at least {limit}, by the recipe")
    return Parity(metric="cosine", wiring=wiring, loss=loss, positions=len(batch), inputs=inputs.name)


def _our_batch(
    plan: PartPlan, model: ChatModel | ContrastiveModel, inputs: Inputs, expected: NDArray[Any]
) -> NDArray[Any]:
    """The batch as the artifact's own preprocessing makes it, checked against Hugging Face's."""
    where = f"{plan.role} {plan.level.name}: preprocessing"
    if isinstance(model, ContrastiveModel) and plan.role == "text_encoder":
        settings = model.settings
        ids = prompts_.encode_siglip(
            model.tokenizer, inputs.captions, settings["text_length"], settings["pad_token_id"]
        )
        wrong = np.flatnonzero((ids != expected).any(axis=1))
        if len(wrong):
            raise GateError(f"{where}: ids of {inputs.captions[wrong[0]]!r} differ from Hugging Face's tokenizer")
        return ids
    pixels = images_.to_pixels(inputs.images, model.preprocessing)
    difference = float(np.abs(images_.normalize(pixels, model.preprocessing) - expected).max())
    if not difference <= _PIXEL_TOLERANCE:
        raise GateError(
            f"{where}: pixels differ from Hugging Face's processor by up to {difference:.3f}",
            allowed=f"at most {_PIXEL_TOLERANCE}",
            remedy="size, resize filter or normalization is wrong; nothing was published",
        )
    return pixels


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


def _prove_decoder(plan: PartPlan, model: ChatModel, references: References, inputs: Inputs, gates: Gates) -> Parity:
    """Images come as the reference's embeddings, so that only the decoder is judged."""
    where = f"{plan.role} {plan.level.name}"
    pixels = hf_inputs.encoder_inputs(plan.checkpoint, plan.config, "vision", inputs.images, inputs.captions)
    embedded = references.run(None, "vision", lambda reference: hf_inputs.encode(reference, "vision", pixels))
    known = _Known(embedded, images_.to_pixels(inputs.images, model.preprocessing))
    chat = ChatModel(model.decoder, known, model.tokenizer, model.preprocessing, model.settings)
    prompts = _prompts(plan, inputs, model.tokenize)
    actual = np.concatenate([_our_logits(chat, prompt, where) for prompt in prompts])

    def compute(reference: Any) -> Float:
        return np.concatenate([hf_inputs.logits(reference, prompt.processed, prompt.want) for prompt in prompts])

    expected = references.run(plan.codec_by_name, "decoder", compute)
    original = references.run(None, "decoder", compute)
    kl, loss = _divergence(expected, actual), _divergence(original, actual)
    changed = metrics.clear_top1_changes(expected, actual, gates.clear_margin)
    if changed or not kl.mean() <= gates.decoder_kl:
        raise GateError(
            f"{where}: wiring: mean KL {kl.mean():.2g} nats to transformers with the same weights, "
            f"{changed} of {len(actual)} clear top tokens changed",
            allowed=f"at most {gates.decoder_kl} nats and none",
            remedy="mask, positions, scales or prompt differ from the original's; nothing was published",
        )
    limit = gates.loss_kl_at.get(plan.level.name)
    if limit is not None and not loss.mean() <= limit:
        raise GateError(f"{where}: loss: mean KL {loss.mean():.3g} nats", allowed=f"at most {limit}, by the recipe")
    return Parity(
        metric="kl",
        wiring={"mean": _rounded(kl.mean()), "worst": _rounded(kl.max())},
        loss={
            "mean": _rounded(loss.mean()),
            "worst": _rounded(loss.max()),
            "top1": _rounded(metrics.top1_agreement(original, actual).mean()),
        },
        positions=len(actual),
        inputs=inputs.name,
    )


def _prompts(plan: PartPlan, inputs: Inputs, tokenize: Callable[[str], list[int]]) -> list[_Prompt]:
    """A text longer than the window, an image before a text, and two images in a conversation."""
    paragraphs = inputs.text.split("\n\n")
    long = _longer_than(plan.config.text_config.sliding_window + _BEYOND, paragraphs, tokenize)
    first, second, third = inputs.images[:3]
    conversations = (
        (Message("user", long),),
        (Message("user", paragraphs[0], (first,)),),
        (
            Message("system", "You look at phantoms."),
            Message("user", "What is this?", (second,)),
            Message("assistant", paragraphs[1][:200]),
            Message("user", f"And this?\n\n{paragraphs[2]}", (third,)),
        ),
    )
    prompts = []
    for messages in conversations:
        processed = hf_inputs.processed(plan.checkpoint, plan.config, messages)
        length = len(processed["input_ids"])
        is_image = np.asarray(processed["token_type_ids"]) == 1
        # Where mask and positions matter: from the first image token on, or beyond the window.
        start = int(is_image.argmax()) if is_image.any() else plan.config.text_config.sliding_window
        if not start < length <= CONTEXT:
            raise GateError(
                f"a proof prompt of {length} tokens", allowed=f"{start + 1} to {CONTEXT}", remedy="another text"
            )
        want = np.unique(np.linspace(start, length - 1, _POSITIONS).astype(int))
        prompts.append(_Prompt(messages, processed, tuple(int(position) for position in want)))
    return prompts


def _divergence(expected: Float, actual: Float) -> NDArray[np.float64]:
    """KL of each row, a few rows at a time: in float64 a row of Gemma's vocabulary takes 2 MB, several times over."""
    rows = range(0, len(expected), _ROWS)
    return np.concatenate([metrics.kl_divergence(expected[i : i + _ROWS], actual[i : i + _ROWS]) for i in rows])


def _longer_than(tokens: int, paragraphs: Sequence[str], tokenize: Callable[[str], list[int]]) -> str:
    """As few paragraphs as have more than this many tokens; all where they have fewer."""
    for count in range(1, len(paragraphs)):
        text = "\n\n".join(paragraphs[:count])
        if len(tokenize(text)) > tokens:
            return text
    return "\n\n".join(paragraphs)


def _our_logits(chat: ChatModel, prompt: _Prompt, where: str) -> Float:
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
    return np.stack(list(chat.decoder.prefill(segments, prompt.want)))


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
