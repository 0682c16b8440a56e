"""What a graph must take and give: right ones pass, and each way of being another is named when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import ArtifactError
from edgekit.formats.onnx.header import OnnxHeader, OnnxTensor, OnnxValue
from edgekit.runtime.base import EncoderSpec
from edgekit.runtime.onnx.interface import DecoderShape, decoder_shape, encoder_input

Shape = tuple[int | str | None, ...] | None
Values = dict[str, tuple[str, Shape]]

PIXELS = EncoderSpec("pixels", "image_tokens", (96, 96, 3))
IDS = EncoderSpec("ids", "pooled", (64,))


def header(inputs: Mapping[str, Any], outputs: Mapping[str, Any], weights: tuple[str, ...] = ()) -> OnnxHeader:
    ends = [tuple(OnnxValue(name, *said) for name, said in values.items()) for values in (inputs, outputs)]
    tensors = tuple(OnnxTensor(name, "FLOAT", (2,), 8) for name in weights)
    return OnnxHeader(Path("some.onnx"), 10, {"": 21}, frozenset(), ends[0], ends[1], tensors, {})


def image_encoder(pixels: Any = ("FLOAT", ("images", 3, 96, 96)), tokens: Any = ("FLOAT", (None, 16, 8))) -> OnnxHeader:
    return header({"pixel_values": pixels}, {"last_hidden_state": ("FLOAT", None), "image_features": tokens})


def test_encoders_as_they_must_be() -> None:
    assert encoder_input(image_encoder(), PIXELS, "image_features") == "pixel_values"
    text = header({"ids": ("INT64", ("n", 64))}, {"pooler_output": ("FLOAT", ("n", 8))})
    assert encoder_input(text, IDS, "pooler_output") == "ids"
    listed = replace(text, inputs=(OnnxValue("w", "FLOAT", (2,)), *text.inputs), tensors=header({}, {}, ("w",)).tensors)
    assert encoder_input(listed, IDS, "pooler_output") == "ids"


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (("FLOAT", ("images", 3, 112, 112)), r"input pixel_values is FLOAT \[images, 3, 112, 112\]"),
        (("FLOAT", (1, 3, 96, 96)), r"is FLOAT \[1, 3, 96, 96\]"),
        (("FLOAT", ("images", "colours", 96, 96)), r"is FLOAT \[images, colours, 96, 96\]"),
        (("FLOAT", ("images", 3, None, 96)), r"is FLOAT \[images, 3, any, 96\]"),
        (("FLOAT", (3, 96, 96)), r"is FLOAT \[3, 96, 96\]"),
        (("FLOAT", None), "is FLOAT any shape"),
        (("FLOAT16", ("images", 3, 96, 96)), "is FLOAT16"),
    ],
)
def test_pixels_of_another_shape(pixels: Any, said: str) -> None:
    with pytest.raises(ArtifactError, match=rf"some\.onnx: .*{said}") as caught:
        encoder_input(image_encoder(pixels), PIXELS, "image_features")
    assert caught.value.allowed == "FLOAT [any, 3, 96, 96]"


@pytest.mark.parametrize("tokens", [("FLOAT", ("images", 8)), ("FLOAT", ("n", "tokens", 8)), ("INT64", ("n", 16, 8))])
def test_an_output_of_another_shape(tokens: Any) -> None:
    with pytest.raises(ArtifactError, match=r"output image_features is ") as caught:
        encoder_input(image_encoder(tokens=tokens), PIXELS, "image_features")
    assert caught.value.allowed == "FLOAT [any, a number, a number]"


def test_what_is_missing_or_too_much() -> None:
    with pytest.raises(ArtifactError, match="no output 'image_embeds': outputs last_hidden_state, image_features"):
        encoder_input(image_encoder(), PIXELS, "image_embeds")
    with pytest.raises(ArtifactError, match="inputs none"):
        encoder_input(header({}, {"y": ("FLOAT", ("n", 8))}), IDS, "y")
    two = header({"a": ("INT64", ("n", 64)), "b": ("INT64", ("n", 64))}, {"y": ("FLOAT", ("n", 8))})
    with pytest.raises(ArtifactError, match="inputs a, b"):
        encoder_input(two, IDS, "y")


# ---------------------------------------------------------------- decoders

_INPUTS: Values = {
    "inputs_embeds": ("FLOAT", (1, "length", 8)),
    "image_index": ("INT64", (1, "length")),
    "position_ids": ("INT64", (1, "length")),
    "logits_positions": ("INT64", ("wanted",)),
    "past_key_values.0.key": ("FLOAT", (1, 2, "local_capacity", 4)),
    "past_key_values.5.key": ("FLOAT", (1, 2, "global_capacity", 4)),
}
_OUTPUTS: Values = {
    "logits": ("FLOAT", ("wanted", 99)),
    "present.0.key": ("FLOAT", (1, 2, "local_capacity", 4)),
    "present.5.key": ("FLOAT", (1, 2, "global_capacity", 4)),
}
_EMBEDDING = header({"input_ids": ("INT64", ("b", "l"))}, {"inputs_embeds": ("FLOAT", ("b", "l", 8))})


def test_a_decoder_as_it_must_be() -> None:
    assert decoder_shape(header(_INPUTS, _OUTPUTS), _EMBEDDING) == DecoderShape(
        hidden=8,
        vocabulary=99,
        caches={"past_key_values.0.key": (2, 4), "past_key_values.5.key": (2, 4)},
        growing=frozenset({"past_key_values.5.key"}),
    )


@pytest.mark.parametrize("name", [name for name in _INPUTS if not name.startswith("past")])
def test_a_decoder_without_an_input(name: str) -> None:
    inputs = {one: value for one, value in _INPUTS.items() if one != name}
    with pytest.raises(ArtifactError, match=f"no input '{name}'"):
        decoder_shape(header(inputs, _OUTPUTS), _EMBEDDING)


@pytest.mark.parametrize("name", _OUTPUTS)
def test_a_decoder_without_an_output(name: str) -> None:
    outputs = {one: value for one, value in _OUTPUTS.items() if one != name}
    with pytest.raises(ArtifactError, match=f"no output '{name}'"):
        decoder_shape(header(_INPUTS, outputs), _EMBEDDING)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"past_key_values.0.key": ("FLOAT", (1, "heads", "local_capacity", 4))}, r"\[1, heads, local_capacity, 4\]"),
        ({"past_key_values.0.key": ("FLOAT", (1, 2, "local_capacity", 6))}, r"output present\.0\.key is FLOAT"),
        ({"past_key_values.0.key": ("FLOAT16", (1, 2, "local_capacity", 4))}, "is FLOAT16"),
        ({"past_key_values.0.key": ("FLOAT", (1, 2, "past_length", 4))}, "a capacity named 'past_length'"),
        ({"inputs_embeds": ("FLOAT", (1, "length", "hidden"))}, r"inputs_embeds is FLOAT \[1, length, hidden\]"),
        ({"inputs_embeds": ("FLOAT", (1, "length", 9))}, r"output inputs_embeds is FLOAT \[b, l, 8\]"),
        ({"attention_mask": ("INT64", (1, "length"))}, "an unknown input 'attention_mask'"),
    ],
)
def test_a_decoder_of_another_shape(changes: Values, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        decoder_shape(header({**_INPUTS, **changes}, _OUTPUTS), _EMBEDDING)


def test_decoders_that_fix_no_vocabulary_or_have_no_caches() -> None:
    with pytest.raises(ArtifactError, match=r"logits is FLOAT \[wanted, vocabulary\]"):
        decoder_shape(header(_INPUTS, {**_OUTPUTS, "logits": ("FLOAT", ("wanted", "vocabulary"))}), _EMBEDDING)
    inputs = {name: value for name, value in _INPUTS.items() if not name.startswith("past")}
    with pytest.raises(ArtifactError, match="no key and value caches"):
        decoder_shape(header(inputs, _OUTPUTS), _EMBEDDING)
    with pytest.raises(ArtifactError, match="no input 'input_ids'"):
        decoder_shape(header(_INPUTS, _OUTPUTS), header({}, {}))
