"""A piece of a model with exact weights, by a format's own writer, and how its runtime opens it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.export import writers
from edgekit.families.source import Source
from edgekit.formats import FORMATS, FileLabel
from edgekit.full_precision import streamed
from edgekit.machine.cpu import cpu
from edgekit.progress import Progress
from edgekit.runtime import trial
from edgekit.runtime.backends import backends_for, kind_of
from edgekit.runtime.base import Decoder, Encoder, EncoderSpec
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions


@dataclass(frozen=True)
class ExactPart:
    """A part with exact weights, and the files of each part that opening it takes."""

    source: Source
    role: str
    format: str
    files: Mapping[str, tuple[Path, ...]]
    hashes: Mapping[str, tuple[str, ...]]

    @property
    def weights(self) -> streamed.Weights:
        """What the part's files hold."""
        return streamed.Weights(self.source, self.source.tensors_in(self.role, self.format, self.files[self.role]))

    @contextmanager
    def decoder(self, context: int) -> Iterator[Decoder]:
        """Open the decoder."""
        file = self._decoder_file(self.role, context)
        self._try((self.role, file))
        with self._opened(file) as decoder:
            yield decoder

    @contextmanager
    def encoder(self, shape: tuple[int, ...]) -> Iterator[Encoder]:
        """Open the encoder, beside a decoder where it needs one."""
        (backend, *_) = backends_for(self.format, "encoder")
        stated, files = self.source.family.roles[self.role], self.files[self.role]
        assert stated.input is not None, "an encoder encodes something"
        assert stated.output != "logits", "an encoder gives vectors"
        pictures = self.source.preprocessing if stated.input == "pixels" else None
        tokens = self.source.settings["image_tokens"] if stated.output == "image_tokens" else 0
        name = FORMATS[self.format].output_of(stated.forms.get(self.format))
        file = EncoderFile(files[0], EncoderSpec(stated.input, stated.output, shape), name, pictures, files, tokens)
        leans = _leans(self.source, self.role, self.format)
        decoders = [(leans, self._decoder_file(leans, 64 + tokens))] if leans else []
        self._try(*decoders, (self.role, file))
        with ExitStack() as stack:
            beside = next((stack.enter_context(self._opened(decoder)) for _, decoder in decoders), None)
            encoder = backend.encoders[self.format](file, _options(), beside)
            stack.callback(encoder.close)
            yield encoder

    def _decoder_file(self, role: str, context: int) -> DecoderFile:
        settings = self.source.settings
        tokens = settings.get("image_tokens", 0)
        return DecoderFile(self.files[role], context, settings["window"], tokens, self.source.checkpoint.root)

    @contextmanager
    def _opened(self, file: DecoderFile) -> Iterator[Decoder]:
        (backend, *_) = backends_for(self.format, "decoder")
        with closing(backend.decoders[self.format](file, _options())) as decoder:
            yield decoder

    def _try(self, *opened: tuple[str, DecoderFile | EncoderFile]) -> None:
        """Have these opened in a process of their own first, a decoder before what leans on it: see `trial`."""
        pieces: list[trial.Piece] = []
        hashes: tuple[str, ...] = ()
        for role, file in opened:
            decodes = isinstance(file, DecoderFile)
            (backend, *_) = backends_for(self.format, "decoder" if decodes else "encoder")
            hashes += self.hashes[role]
            if backend.tried:
                piece = trial.Piece(role, backend.name, self.format, decodes, file.to_json(), _options(), hashes)
                pieces.append(piece)
        if pieces:
            trial.require(pieces, Progress())


def _options() -> RunOptions:
    return RunOptions(cpu().usable_cores, plain_weights=True, exact=True)


def _leans(source: Source, role: str, file_format: str) -> str | None:
    """The decoder that an encoder must be opened beside; None where it needs none, or is none."""
    kind = kind_of(source.family.roles[role].input)
    needs = kind == "encoder" and backends_for(file_format, kind)[0].leans
    return source.family.role_giving("logits") if needs else None


def roles_of(source: Source, role: str, file_format: str) -> list[str]:
    """Whose files opening a part in this format takes."""
    return [name for name in (role, _leans(source, role, file_format)) if name]


def write(piece: Source, role: str, file_format: str, folder: Path) -> ExactPart:
    """The piece by the format's own writer, at the level that rounds nothing."""
    folder.mkdir()
    plans = [piece.plan(name, FORMATS[file_format].exactness.level) for name in roles_of(piece, role, file_format)]
    label = FileLabel("exactness", "none", "exactness")
    written = {plan.role: made for plan, made in writers.write(piece, plans, label, None, folder, Progress())}
    files = {name: tuple(folder / file.path for file in made) for name, made in written.items()}
    hashes = {name: tuple(file.sha256 for file in made) for name, made in written.items()}
    return ExactPart(piece, role, file_format, files, hashes)
