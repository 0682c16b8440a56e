"""From an artifact folder to a model: check the files, choose a backend for each part, compose."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import FileEntry, Manifest, Part, Preprocessing
from edgekit.errors import ArtifactError
from edgekit.families.composition import (
    Chat,
    ChatFormat,
    ChatSettings,
    Contrastive,
    ContrastiveSettings,
    reads_text,
)
from edgekit.formats import FORMATS, Format
from edgekit.inputs.image import ImageLike, to_pixels
from edgekit.machine.cpu import cpu
from edgekit.machine.devices import device as load_device
from edgekit.machine.devices import missing_here
from edgekit.progress import Progress
from edgekit.runtime import backends, manifest_checks, trial, tuning_results
from edgekit.runtime.backends import BACKENDS, Backend, PartKind
from edgekit.runtime.base import Decoder, Encoder, EncoderSpec, Model
from edgekit.runtime.compose import compose
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions
from edgekit.runtime.tuning_results import DecoderResult, EncoderResult

_DEFAULT_CONTEXT = 4096


def open_model(
    folder: Path,
    level: str | None = None,
    device: str | None = None,
    context: int | None = None,
    runtime: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Open one variant of an artifact.

    Args:
        folder: an artifact folder.
        level: a variant's name; the recipe's default for None.
        device: a device profile whose cores, context and memory limit are obeyed; this machine for None.
        context: tokens that a decoder's cache holds, prompt and answer together, up to what the model was made for;
            the device's, or 4096, for None.
        runtime: the backend of parts that several can open (`edgekit.runtime.backends.runtimes`); `default` for the
            defaults, whatever was measured here; for None what $EDGEKIT_RUNTIME says, else what `edgekit tune` found
            fastest.
        progress: told where files are tried that have never been opened here, and are large.

    Raises:
        ArtifactError: the folder, its manifest or a file is not what it must be, or a library died on a file.
        UsageError: there is no such variant, device or runtime, the variant needs more memory than the device gives,
            or its context more than is free.
    """
    opening = prepare(folder, level, device, runtime=runtime, progress=progress)
    if context is not None:
        opening.context = manifest_checks.checked_context(context, opening.settings, opening.manifest.title)
    preprocessing = opening.manifest.preprocessing
    model = compose(opening.composition, opening.settings, opening.tokenizer, preprocessing, opening)
    model.title, model.runtimes = opening.manifest.title, opening.runtimes
    model.warnings = (*opening.warnings, *model.warnings)
    return model


def prepare(
    folder: Path,
    level: str | None = None,
    device: str | None = None,
    context: int | None = None,
    runtime: str | None = None,
    hashed: Collection[FileEntry] = (),
    progress: Progress | None = None,
) -> Opening:
    """Everything before a library loads a part: see `open_model`.

    Args:
        hashed: see `edgekit.artifacts.manifest.verify`.
    """
    named = tuning_results.named(runtime)
    manifest = manifests.read(folder)
    profile = load_device(device) if device else None
    name, parts = manifest.variant(level)
    if runtime in backends.runtimes():
        backends.check_runtime(runtime, [part.format for part in parts.values()], name)
    files = tuple(file for part in parts.values() for file in part.files)
    manifests.verify(folder, (*files, *([manifest.tokenizer] if manifest.tokenizer else [])), hashed)
    if profile:
        manifest_checks.check_memory(manifest, name, parts, profile)
    threads = min(profile.cores, cpu().usable_cores) if profile else cpu().usable_cores
    context = context or (profile.context if profile else _DEFAULT_CONTEXT)
    gpu = bool(profile and profile.gpu_memory_gb)
    opening = Opening(folder, manifest, name, device, parts, threads, context, gpu, named, progress or Progress())
    if profile and (warning := missing_here(profile)):
        opening.warnings.append(warning)
    return opening


@dataclass
class Opening:
    """What is known of a variant before its parts are loaded, and how each is loaded.

    Attributes:
        level: the variant's name.
        device: the device profile that was named, if any.
        parts: role -> part.
        runtime: which runtime was named; None where what was measured decides.
        composition, settings: what the parts make, and what the manifest says for it.
        warnings: grow while parts are loaded.
        runtimes: role -> what runs it, of the parts loaded so far.
        progress: told where trying a part takes long.

    Raises:
        ArtifactError: the manifest contradicts itself, or no backends open these parts together.
    """

    folder: Path
    manifest: Manifest
    level: str
    device: str | None
    parts: dict[str, Part]
    threads: int
    context: int
    gpu: bool
    runtime: str | None
    progress: Progress
    runtimes: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.family, self.composition = manifest_checks.composition_of(self.manifest, self.parts, self._manifest_path)
        self.settings = manifest_checks.settings_of(self.manifest, self.composition, self._manifest_path)
        if isinstance(self.settings, ChatSettings):
            self.context = min(self.context, self.settings.context)
        self._check()
        self._threads_beside = self.threads
        self._tried = False
        self.warnings = [self.manifest.stand_in] if self.manifest.stand_in else []
        self.warnings += [said] if (said := self.manifest.provenance) else []
        self.tokenizer = None
        if reads_text(self.composition):
            loaded = manifest_checks.tokenizer_of(self.manifest, self.folder, self.family)
            self.tokenizer = loaded.tokenizer
            self.warnings += loaded.notes
        manifest_checks.check_beside(self.manifest, self.family, self.folder, self.tokenizer)
        for part in self.parts.values():
            if part.parity is None and not self.manifest.foreign:
                self.warnings.append(f"{part.role} {part.level}: parity: not measured (edgekit prove {self.folder})")
            elif part.parity and not part.parity.audit:
                self.warnings.append(f"{part.role} {part.level}: audit: not made (edgekit prove {self.folder})")
            if failed := manifest_checks.failed_proof(self.manifest, part):
                self.warnings.append(failed)
        if apart := manifest_checks.unproven_together(self.parts.values(), self.folder):
            self.warnings.append(apart)

    def _check(self) -> None:
        for role, part in self.parts.items():
            formats = [name for name in self.family.roles[role].formats if backends.backends_for(name, self.kind(role))]
            if part.format not in formats:
                what = f"no backend opens {role} in {part.format}"
                raise ArtifactError(f"{self._manifest_path}: {what}", allowed=" or ".join(formats))
            if (part.output == "logits") != (self.kind(role) == "decoder"):
                raise ArtifactError(f"{self._manifest_path}: {role}: {part.output} from {_a(self.kind(role))}")
            if self.family.roles[role].input == "pixels":
                self.preprocessing()
        kinds = {role: (part.format, self.kind(role)) for role, part in self.parts.items()}
        if leaning := backends.leaning_part(kinds):
            allowed = f"{leaning.role} in {' or '.join(leaning.formats)}"
            raise ArtifactError(f"{self._manifest_path}: {leaning.message}", allowed=allowed)

    @property
    def _manifest_path(self) -> Path:
        return self.folder / manifests.FILE_NAME

    def kind(self, role: str) -> PartKind:
        """Whether a part decodes or encodes."""
        return backends.kind_of(self.family.roles[role].input)

    def backends(self, role: str) -> tuple[Backend, ...]:
        """Those that open a part, the required one first."""
        return backends.backends_for(self.parts[role].format, self.kind(role))

    def _stated(self, role: str) -> tuple[Format, Any]:
        """A part's format, and what the family states of the part for it."""
        name = self.parts[role].format
        return FORMATS[name], self.family.roles[role].forms.get(name)

    def _checked(self, role: str) -> tuple[Path, ...]:
        """A part's files, which a backend may trust, and which say what the manifest says."""
        file_format, form = self._stated(role)
        files = tuple(self.folder / file.path for file in self.parts[role].files)
        file_format.check(form, files[0])
        manifest_checks.check_agreement(self.manifest, self._manifest_path, files[0], file_format.stated(form, files))
        return files

    def preprocessing(self) -> Preprocessing:
        """How images become pixels. Raises ArtifactError where the manifest does not say."""
        if self.manifest.preprocessing is None:
            raise ArtifactError(f"{self._manifest_path}: preprocessing: none for a model that sees images")
        return self.manifest.preprocessing

    def items(self, role: str, images: Sequence[ImageLike], texts: Sequence[str]) -> NDArray[Any]:
        """Images or texts as an encoder takes them: a batch of pixels, or of ids."""
        if self.family.roles[role].input == "pixels":
            return to_pixels(images, self.preprocessing())
        assert isinstance(self.composition, Contrastive), "what encodes texts is half of a pair"
        assert self.tokenizer is not None, "a model that reads text has a tokenizer"
        assert isinstance(self.settings, ContrastiveSettings), "settings are of the composition's schema"
        return self.composition.text_ids(self.tokenizer, self.settings, texts)

    def chat_format(self) -> ChatFormat:
        """How conversations are written for its decoder."""
        assert isinstance(self.composition, Chat), "only a decoder is given conversations"
        assert self.tokenizer is not None, "a model that reads text has a tokenizer"
        assert isinstance(self.settings, ChatSettings), "settings are of the composition's schema"
        return self.composition.format(self.tokenizer, self.settings)

    def encoder_file(self, role: str) -> EncoderFile:
        """An encoder as every backend needs it described."""
        output, given = self.parts[role].output, self.family.roles[role].input
        assert given is not None, "only encoders are described as such"
        assert output != "logits", "checked before"
        if given == "ids":
            assert isinstance(self.settings, ContrastiveSettings), "what encodes texts is half of a pair"
            spec, preprocessing = EncoderSpec(given, output, (self.settings.text_length,)), None
        else:
            preprocessing = self.preprocessing()
            spec = EncoderSpec(given, output, (preprocessing.size, preprocessing.size, 3))
        tokens = self._image_tokens if output == "image_tokens" else 0
        file_format, form = self._stated(role)
        files = self._checked(role)
        return EncoderFile(files[0], spec, file_format.output_of(form), preprocessing, files, tokens)

    @property
    def _image_tokens(self) -> int:
        sees = isinstance(self.composition, Chat) and self.composition.vision
        return self.settings.image_tokens or 0 if sees and isinstance(self.settings, ChatSettings) else 0

    def encoder(self, role: str, beside: Decoder | None = None) -> Encoder:
        """Load an encoder, in the runtime that was named, or measured to be the fastest here."""
        self._try(role)
        backend, options = self._encoder_choice(role)
        encoder = backend.encoders[self.parts[role].format](self.encoder_file(role), options, beside)
        self._runs(role, backend, options)
        return encoder

    def _encoder_choice(self, role: str) -> tuple[Backend, RunOptions]:
        backend = self._encoder_backend(role)
        threads = self._threads_beside if backend.leans else self.threads
        return backend, RunOptions(threads, gpu=self._on_gpu(backend))

    def _encoder_backend(self, role: str) -> Backend:
        part, rows = self.parts[role], self.backends(role)
        if len(rows) == 1 or self.runtime:
            return self._named_backend(role)
        result = tuning_results.load(part, self.threads)
        if isinstance(result, EncoderResult):
            return BACKENDS[result.fastest]
        if sum(version is not None for version in backends.libraries(part.format).values()) > 1:
            hint = f"which runtime is the fastest here was not measured ({self._tune_command})"
            self.warnings += [] if hint in self.warnings else [hint]
        return rows[0]

    @property
    def _tune_command(self) -> str:
        """What measures these very parts with as many threads."""
        level = f" --level {self.level}" if self.level != self.manifest.default else ""
        device = f" --device {self.device}" if self.device else ""
        return f"edgekit tune {self.folder}{level}{device}"

    def _named_backend(self, role: str) -> Backend:
        """The runtime that was named, or where it opens no such part, the required one."""
        rows = self.backends(role)
        return next((row for row in rows if row.name == self.runtime), rows[0])

    def decoder_file(self, role: str) -> DecoderFile:
        """A decoder as every backend needs it described."""
        window = self.settings.window if isinstance(self.settings, ChatSettings) else 0
        return DecoderFile(self._checked(role), self.context, window, self._image_tokens, self._manifest_path)

    def decoder(self, role: str) -> Decoder:
        """Load a decoder, with the options that were measured to be the fastest here, or the defaults."""
        self._try(role)
        backend, options = self._decoder_choice(role)
        decoder = backend.decoders[self.parts[role].format](self.decoder_file(role), options)
        self.warnings += decoder.warnings
        self._threads_beside = options.threads  # an encoder that leans on it has the same
        self._runs(role, backend, options)
        return decoder

    def _decoder_choice(self, role: str) -> tuple[Backend, RunOptions]:
        backend = self._named_backend(role)
        return backend, self._decoder_options(role, backend)

    def _try(self, role: str) -> None:
        """Have all parts opened in a process of its own first, those that were never opened here; see `trial`."""
        if not self._tried:
            trial.require(list(self._pieces(role)), self.progress)
            self._tried = True

    def _pieces(self, wanted: str) -> Iterator[trial.Piece]:
        """The parts that must be tried. One whose file is broken is left out until it is wanted."""
        before: tuple[str, ...] = ()
        for role in sorted(self.parts, key=lambda role: self.kind(role) != "decoder"):
            decodes, part = self.kind(role) == "decoder", self.parts[role]
            backend, options = self._decoder_choice(role) if decodes else self._encoder_choice(role)
            hashes = tuple(file.sha256 for file in part.files)
            try:
                file = (self.decoder_file(role) if decodes else self.encoder_file(role)).to_json()
            except ArtifactError:
                if role == wanted:
                    raise
                continue
            if backend.tried:
                leaned_on = before if backend.leans and not decodes else ()
                yield trial.Piece(role, backend.name, part.format, decodes, file, options, hashes + leaned_on)
            before = hashes if decodes else before

    def _decoder_options(self, role: str, backend: Backend) -> RunOptions:
        gpu = self._on_gpu(backend)
        if backend.options is None:
            return RunOptions(self.threads, gpu=gpu)
        default = RunOptions(self.threads, self.threads, gpu)
        if gpu or self.runtime == tuning_results.DEFAULT:
            return default
        result = tuning_results.load(self.parts[role], self.threads)
        fastest = result.fastest if isinstance(result, DecoderResult) else None
        return backend.options.settled(fastest.run_options) if fastest else default

    def _on_gpu(self, backend: Backend) -> bool:
        return self.gpu and "gpu" in backend.devices

    @contextmanager
    def part(self, role: str) -> Iterator[Any]:
        """One part, and no other but what it leans on, loaded for a while: a `Decoder` or an `Encoder`."""
        with ExitStack() as stack:
            if self.kind(role) == "decoder":
                loaded: Any = self.decoder(role)
            elif self.backends(role)[0].leans:
                assert isinstance(self.composition, Chat), "only a chat model has a decoder to lean on"
                loaded = self.encoder(role, stack.enter_context(closing(self.decoder(self.composition.decoder))))
            else:
                loaded = self.encoder(role)
            yield stack.enter_context(closing(loaded))

    def _runs(self, role: str, backend: Backend, options: RunOptions) -> None:
        self.runtimes[role] = f"{backend.title}, {backends.version_of(backend.library)}, {options}"


def _a(kind: PartKind) -> str:
    return f"{'an' if kind == 'encoder' else 'a'} {kind}"
