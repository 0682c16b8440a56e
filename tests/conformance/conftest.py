"""Everything that stands behind the seams, opened in one way: each row of the backends, the stub, full precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cases import DecoderCase, EncoderCase

from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.recipes import choose
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.families import FAMILIES, family_of
from edgekit.families.source import open_source
from edgekit.full_precision import model as full_precision
from edgekit.prove import publish
from edgekit.runtime.backends import BACKENDS
from edgekit.runtime.base import Decoder, EncoderSpec
from edgekit.runtime.opening import Opening, prepare
from edgekit.runtime.parts import RunOptions
from edgekit.runtime.stub import StubDecoder, StubEncoder

STUB, FULL = "stub", "full precision"
THREADS = 2


@pytest.fixture(scope="session")
def sources(medgemma_source: Path, medsiglip_source: Path) -> Mapping[str, Path]:
    """Family -> a checkpoint of it."""
    folders = (medgemma_source, medsiglip_source)
    return {family_of(open_checkpoint(folder).config).name: folder for folder in folders}


Open = Callable[[str, str], Opening]


@pytest.fixture(scope="session")
def opened(sources: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Open:
    """A family's first variant that is wholly in a format, ready to be opened."""

    @cache
    def prepared(family: str, file_format: str) -> Opening:
        variants = choose(open_checkpoint(sources[family]).config, None).variant
        name = next(
            name for name, parts in variants.items() if {LEVELS[v].format for v in parts.values()} == {file_format}
        )
        folder = tmp_path_factory.mktemp("conformance") / "artifact"
        return prepare(publish.export(sources[family], folder, levels=[name], prove=False).folder)

    return prepared


def loaded(folder: Path) -> full_precision.TorchParts:
    """transformers' model of a checkpoint, in parts."""
    source = open_source(folder)
    return full_precision.TorchParts(full_precision.load(source), source)


DECODERS = [
    *((row.name, text, name, role)
      for row in BACKENDS.values() for text in row.decoders
      for name, family in FAMILIES.items() for role, stated in family.roles.items()
      if not stated.input and text in stated.forms and len(family.roles) > 1),
    (FULL, "", "medgemma", "decoder"),
    (STUB, "", "", ""),
]  # fmt: skip

ENCODERS = [
    *((row.name, text, name, role)
      for row in BACKENDS.values() for text in row.encoders
      for name, family in FAMILIES.items() for role, stated in family.roles.items()
      if stated.input and text in stated.forms and len(family.roles) > 1),
    *((FULL, "", name, role)
      for name, family in FAMILIES.items() for role, stated in family.roles.items()
      if stated.input and len(family.roles) > 1),
    (STUB, "", "", "pixels"),
    (STUB, "", "", "ids"),
]  # fmt: skip


def _id(case: tuple[str, ...]) -> str:
    return " ".join(filter(None, case))


@pytest.fixture(scope="session", params=DECODERS, ids=_id)
def decoder_case(request: pytest.FixtureRequest, opened: Open, sources: Mapping[str, Path]) -> DecoderCase:
    name, file_format, family, role = request.param
    if name == STUB:
        return DecoderCase(
            lambda context, *, sequences=1, exact=False: StubDecoder(context=context, sequences=sequences),
            32, 64, 0, 1e-6,
        )  # fmt: skip
    if name == FULL:
        parts = loaded(sources[family])
        model, settings = parts.model, parts.source.settings
        vocabulary = settings["vocabulary"]

        def open_one(context: int, *, sequences: int = 1, exact: bool = False) -> Decoder:
            return full_precision.TorchDecoder(model, context, vocabulary)

        return DecoderCase(open_one, settings["hidden"], vocabulary, settings["window"], 1e-4)
    opening, backend = opened(family, file_format), BACKENDS[name]

    def open_row(context: int, *, sequences: int = 1, exact: bool = False) -> Decoder:
        file = replace(opening.decoder_file(role), context=context)
        return backend.decoders[file_format](file, RunOptions(THREADS, sequences=sequences, exact=exact))

    settings = opening.manifest.settings
    return DecoderCase(open_row, settings["hidden"], settings["vocabulary"], settings["window"], 2e-2)


@pytest.fixture(scope="session", params=ENCODERS, ids=_id)
def encoder_case(request: pytest.FixtureRequest, opened: Open, sources: Mapping[str, Path]) -> Iterator[EncoderCase]:
    name, file_format, family, role = request.param
    if name == STUB:
        shape = (20, 30, 3) if role == "pixels" else (12,)
        yield EncoderCase(lambda: StubEncoder(EncoderSpec(role, "image_tokens", shape), tokens=4), 1e-6)
        return
    if name == FULL:
        parts = loaded(sources[family])
        yield EncoderCase(lambda: parts.encoder(role), 1e-4)
        return
    opening, backend = opened(family, file_format), BACKENDS[name]
    if why := backend.problem():
        pytest.skip(why)
    with ExitStack() as stack:
        beside = None
        if backend.leans:
            (decoder,) = (other for other in opening.parts if opening.kind(other) == "decoder")
            beside = stack.enter_context(closing(opening.decoder(decoder)))
        file, options = opening.encoder_file(role), RunOptions(THREADS)
        yield EncoderCase(lambda: backend.encoders[file_format](file, options, beside), 2e-2)
