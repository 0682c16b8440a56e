"""From an artifact folder to a model: check the files, choose a backend for each part, load, compose."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import sha256_json
from edgekit.artifacts.manifest import FileEntry
from edgekit.errors import ArtifactError
from edgekit.families.composition import Chat
from edgekit.machine.cpu import cpu
from edgekit.machine.device import missing_here
from edgekit.machine.devices import device as load_device
from edgekit.machine.gpu import video_memory
from edgekit.machine.kept import IMAGES, Kept
from edgekit.planning import obeyed
from edgekit.progress import Progress
from edgekit.runtime import backends, manifest_checks, trial, tuning_results
from edgekit.runtime.backends import BACKENDS, Backend
from edgekit.runtime.base import Decoder, Encoder, Model, SupportsOffload, contexts
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.compose import compose
from edgekit.runtime.owned_parts import LaterEncoder
from edgekit.runtime.parts import CacheType, Placement, RunOptions
from edgekit.runtime.tuning_results import DecoderResult, EncoderResult
from edgekit.runtime.use import Use
from edgekit.runtime.variant import Variant
from edgekit.runtime.verified import verify_once

DEFAULT_CONTEXT = 4096


def open_model(
    folder: Path,
    level: str | None = None,
    device: str | None = None,
    context: int | None = None,
    runtime: str | None = None,
    progress: Progress | None = None,
    use: Use = Use(),  # noqa: B008 - it never changes
    threads: int | None = None,
) -> Model:
    """Open one variant of an artifact.

    Args:
        folder: an artifact folder.
        level: a variant's name; the recipe's default for None.
        level: the variant; for None the one that a plan for the device recommends, without a device the default.
        device: a device profile, whose plan is obeyed (`edgekit.planning`); this machine for None.
        context: tokens that a decoder's cache holds, prompt and answer together, up to what the model was made for;
            what the device's plan says, or 4096, for None.
        runtime: the backend of parts that several can open (`edgekit.runtime.backends.runtimes`); `default` for the
            defaults, whatever was measured here; for None what $EDGEKIT_RUNTIME says, else what `edgekit tune` found
            fastest.
        progress: told where files are tried that have never been opened here, and are large.
        use: what it is to be used for.
        threads: how many it computes with; as many as there are cores, or the device has, for None.

    Raises:
        ArtifactError: the folder, its manifest or a file is not what it must be, or a library died on a file.
        UsageError: there is no such variant, device or runtime, the variant needs more memory than the device gives,
            or its context more than is free.
    """
    opening = prepare(folder, level, device, runtime=runtime, progress=progress)
    opening.set_context(context)
    opening.threads = threads or opening.threads
    return opened(opening, use)


def opened(opening: Opening, use: Use) -> Model:
    """The model that `prepare` looked at, with its libraries loaded. Raises as `open_model`."""
    preprocessing = opening.manifest.preprocessing
    composition, opening.use = opening.composition, use
    if use.sees == "never" and isinstance(composition, Chat):
        composition = replace(composition, vision=None)
    model = compose(composition, opening.settings, opening.tokenizer, preprocessing, opening)
    if isinstance(model, ChatModel) and isinstance(composition, Chat) and composition.vision:
        model.made_by = opening.made_by(composition.vision)
        if use.keep:
            model.keep(model.made_by, Kept(IMAGES))
    if isinstance(model, ChatModel):
        model.cache_bytes = opening.held_bytes
    model.title, model.runtimes = opening.manifest.title, opening.runtimes
    model.parts = {role: part.id for role, part in opening.parts.items()}
    model.hints = tuple(opening.hints)
    model.warnings = (*opening.warnings, *opening.hints, *model.warnings)
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
    name, parts = manifest.variant(level or (obeyed.recommended(folder, manifest, profile) if profile else None))
    if runtime in backends.runtimes():
        backends.check_runtime(runtime, [part.format for part in parts.values()], name)
    files = tuple(file for part in parts.values() for file in part.files)
    verify_once(folder, (*files, *([manifest.tokenizer] if manifest.tokenizer else [])), hashed)
    planned = obeyed.planned_row(folder, manifest, name, profile, context).settings if profile else None
    threads = min(planned.threads, cpu().usable_cores) if planned else cpu().usable_cores
    context = context or (planned.context if planned else DEFAULT_CONTEXT)
    video = video_memory(profile.gpu_memory_gb if profile else None, ignored=named == tuning_results.DEFAULT)
    opening = Opening(folder, manifest, name, parts, context, device, threads, video, named, progress or Progress())
    if profile and planned:
        opening.cache_type = planned.cache_type
        opening.warnings += [said] if (said := missing_here(profile)) else []
        if level is None and name != manifest.default:
            opening.warnings.append(f"level {name}, as a plan for {profile.name} recommends")
    return opening


@dataclass
class Opening(Variant):
    """How each part of a variant is loaded.

    Attributes:
        device: the device profile that was named, if any.
        gpu_memory: bytes of video memory that it may take; 0 for the CPU alone.
        runtime: which runtime was named; None where what was measured decides.
        cache_type: what keys and values are rounded to where its use does not say.
        runtimes: role -> what runs it, of the parts loaded so far.
        use: what the model is to be used for.
        held_bytes: what the decoder's contexts take in memory, once they are taken.
        progress: told where trying a part takes long.
        hints: what whoever runs this machine could do for speed; they grow while parts are loaded.
    """

    device: str | None
    threads: int
    gpu_memory: int
    runtime: str | None
    progress: Progress
    cache_type: CacheType = field(default=RunOptions.cache_type, init=False)
    runtimes: dict[str, str] = field(default_factory=dict, init=False)
    hints: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.use = Use()
        self._threads_beside, self.held_bytes = self.threads, 0
        self._tried = False
        self._placement: Placement | None = None

    def set_context(self, context: int | None) -> None:
        """Have a context that was asked for, and keys and values as a device's plan has them then; nothing for None.

        Raises:
            UsageError: the model was not made for it, or the device has no room for it.
        """
        if context is None:
            return
        self.context = manifest_checks.checked_context(context, self.settings, self.manifest.title)
        if self.device:
            profile = load_device(self.device)
            planned = obeyed.planned_row(self.folder, self.manifest, self.level, profile, context)
            self.cache_type = planned.settings.cache_type

    def encoder(self, role: str, beside: Decoder | None = None) -> Encoder:
        """Load an encoder, now or later, in the runtime that was named, or measured to be the fastest here."""
        self._try(role)
        backend, options = self._encoder_choice(role)
        file = self.encoder_file(role)
        load = partial(backend.encoders[self.parts[role].format], file, options, beside)
        self._runs(role, backend, options)
        return LaterEncoder(file.spec, load) if self.use.sees == "later" else load()

    def made_by(self, role: str) -> str:
        """Names all that an encoder's vectors depend on beside its input."""
        backend, options = self._encoder_choice(role)
        given = self.manifest.preprocessing and self.manifest.preprocessing.model_dump(mode="json")
        where = [self._placed().device] if options.gpu_layers else []
        return sha256_json([self.parts[role].id, given, backend.name, backends.version_of(backend.library), *where])

    def _encoder_choice(self, role: str) -> tuple[Backend, RunOptions]:
        backend = self._encoder_backend(role)
        threads = self._threads_beside if backend.leans else self.threads
        on_gpu = bool(backend.place) and backend.leans and self._placed().encoder
        return backend, RunOptions(threads, gpu_layers=int(on_gpu))

    def _encoder_backend(self, role: str) -> Backend:
        part, rows = self.parts[role], self.backends(role)
        if len(rows) == 1 or self.runtime:
            return self._named_backend(role)
        result = tuning_results.load(part, self.threads)
        if isinstance(result, EncoderResult):
            return BACKENDS[result.fastest]
        if sum(version is not None for version in backends.libraries(part.format).values()) > 1:
            hint = f"which runtime is the fastest here was not measured ({self._tune_command})"
            self.hints += [] if hint in self.hints else [hint]
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

    def decoder(self, role: str, *, beside: bool = False) -> Decoder:
        """Load a decoder, with the options that were measured to be the fastest here, or the defaults.

        Args:
            beside: whether it computes nothing, and is only what an encoder leans on: its weights stay as they lie in
                the file, which takes no memory of its own.
        """
        self._try(role)
        backend, options = self._decoder_choice(role)
        options = replace(options, plain_weights=True, sequences=1, gpu_layers=0) if beside else options
        if not beside:
            self._say_cache(role)
        decoder = backend.decoders[self.parts[role].format](self.decoder_file(role), options)
        self.warnings += decoder.warnings
        options = replace(options, gpu_layers=decoder.gpu_layers if isinstance(decoder, SupportsOffload) else 0)
        self._threads_beside = options.threads  # an encoder that leans on it has the same
        self._runs(role, backend, options)
        return decoder

    def _decoder_choice(self, role: str) -> tuple[Backend, RunOptions]:
        backend = self._named_backend(role)
        options = self._decoder_options(role, backend)
        return backend, replace(options, sequences=self.use.slots, cache_type=self.use.cache_type or self.cache_type)

    def _say_cache(self, role: str) -> None:
        """What the contexts take, before they do, where more than usual is asked for."""
        backend, options = self._decoder_choice(role)
        if backend.cache_bytes is None:
            return
        self.held_bytes = self.contexts_bytes(self.use)
        on_cpu = backend.cache_bytes(self.decoder_file(role), options) if options.gpu_layers else self.held_bytes
        in_video_memory = self.held_bytes - on_cpu
        if self.context > DEFAULT_CONTEXT or self.use.slots > 1:
            size = f"{self.held_bytes / 1e9:.2g} GB of memory"
            of_it = f", {in_video_memory / 1e9:.2g} GB of it the GPU's" if in_video_memory else ""
            self.progress.note(f"{contexts(self.use.slots, self.context)} {size}{of_it}")

    def contexts_bytes(self, use: Use) -> int:
        """What a use's contexts would take in memory, were all of it the CPU's; 0 where nobody knows.

        Raises:
            ArtifactError: the decoder's file is damaged.
        """
        role = next((role for role in self.parts if self.kind(role) == "decoder"), None)
        backend = self._named_backend(role) if role else None
        if role is None or backend is None or backend.cache_bytes is None:
            return 0
        options = RunOptions(self.threads, sequences=use.slots, cache_type=use.cache_type or self.cache_type)
        return backend.cache_bytes(self.decoder_file(role), options)

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
        layers = self._placed().layers if backend.place else 0
        if backend.options is None:
            return RunOptions(self.threads, gpu_layers=layers)
        default = RunOptions(self.threads, self.threads, layers)
        if layers or self.runtime == tuning_results.DEFAULT:
            return default
        result = tuning_results.load(self.parts[role], self.threads)
        fastest = result.fastest if isinstance(result, DecoderResult) else None
        return backend.options.settled(fastest.run_options) if fastest else default

    def on_gpu(self, role: str) -> bool:
        """Whether any of a part would run on a GPU, so that there is nothing to choose for the CPU."""
        choice = self._decoder_choice if self.kind(role) == "decoder" else self._encoder_choice
        return choice(role)[1].gpu_layers > 0

    def _placed(self) -> Placement:
        """What runs on a GPU; decided when the first part is loaded, for all of them."""
        if self._placement is None:
            self._placement = self._place() if self.gpu_memory else Placement()
            self.warnings += self._placement.notes
        return self._placement

    def _place(self) -> Placement:
        role = next((role for role in self.parts if self.kind(role) == "decoder"), None)
        backend = self._named_backend(role) if role else None
        if role is None or backend is None or backend.place is None:
            return Placement()
        options = RunOptions(self.threads, sequences=self.use.slots, cache_type=self.use.cache_type or self.cache_type)
        return backend.place(self.decoder_file(role), self._leaning_file(backend), options, self.gpu_memory)

    def _leaning_file(self, backend: Backend) -> Path | None:
        """The file of the encoder that this backend opens beside its decoder, if one is wanted and it is whole."""
        for role in self.parts if self.use.sees != "never" else ():
            if self.kind(role) == "encoder" and self._named_backend(role) == backend and backend.leans:
                with suppress(ArtifactError):  # refused when it is opened
                    return self.encoder_file(role).path
        return None

    @contextmanager
    def part(self, role: str) -> Iterator[Any]:
        """One part, and no other but what it leans on, loaded for a while: a `Decoder` or an `Encoder`."""
        with ExitStack() as stack:
            if self.kind(role) == "decoder":
                loaded: Any = self.decoder(role)
            elif self.backends(role)[0].leans:
                assert isinstance(self.composition, Chat), "only a chat model has a decoder to lean on"
                beside = self.decoder(self.composition.decoder, beside=True)
                loaded = self.encoder(role, stack.enter_context(closing(beside)))
            else:
                loaded = self.encoder(role)
            yield stack.enter_context(closing(loaded))

    def _runs(self, role: str, backend: Backend, options: RunOptions) -> None:
        parts = [backend.title, backends.version_of(backend.library), options]
        if options.gpu_layers:
            layers = f"{options.gpu_layers} layers " if self.kind(role) == "decoder" else ""
            parts.append(f"{layers}on {self._placed().device}")
        self.runtimes[role] = ", ".join(map(str, parts))
