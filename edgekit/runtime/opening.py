"""From an artifact folder to a model: check the files, choose a backend by each part's format, compose."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import FOREIGN, Manifest, Part, Preprocessing
from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError, EdgekitError, UsageError
from edgekit.formats.onnx.names import EMBEDDING_STEM, ENCODER_OUTPUTS
from edgekit.inputs.prompt import load_tokenizer
from edgekit.machine.cpu import cpu
from edgekit.machine.devices import Device
from edgekit.machine.devices import device as load_device
from edgekit.runtime import tuning_results as choice
from edgekit.runtime.backends import ROWS, RUNTIMES, open_encoder
from edgekit.runtime.base import Decoder, Encoder, EncoderSpec, Model
from edgekit.runtime.compose import ChatModel, ChatSettings, ContrastiveModel
from edgekit.runtime.llama import self_test as guard
from edgekit.runtime.onnx.interface import EncoderFile
from edgekit.runtime.tuning_results import DecoderChoice, EncoderChoice, LlamaOptions

_DEFAULT_CONTEXT = 4096
_Count = Annotated[int, Field(gt=0, lt=1 << 24)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


def open_model(
    folder: Path,
    level: str | None = None,
    device: str | None = None,
    context: int | None = None,
    runtime: str | None = None,
) -> Model:
    """Open one variant of an artifact.

    Args:
        folder: an artifact folder.
        level: a variant's name; the recipe's default for None.
        device: a device profile whose cores, context and memory limit are obeyed; this machine for None.
        context: tokens that a decoder's cache holds; the device's, or 4096, for None.
        runtime: what runs ONNX encoders (`onnxruntime`, `openvino`, `openvino-bf16`); `default` for the defaults,
            whatever was measured here; for None what $EDGEKIT_RUNTIME says, else what `edgekit tune` found fastest.

    Raises:
        ArtifactError: the folder, its manifest or a file is not what it must be.
        UsageError: there is no such variant, device or runtime, or the variant needs more memory than the device gives.
    """
    opening = prepare(folder, level, device, context, runtime)
    model = opening.compose(opening)
    model.runtimes = opening.runtimes
    return model


def prepare(
    folder: Path,
    level: str | None = None,
    device: str | None = None,
    context: int | None = None,
    runtime: str | None = None,
) -> Opening:
    """Everything before a library loads a part: see `open_model`."""
    named = choice.named(runtime)
    manifest = manifests.read(folder)
    chosen = load_device(device) if device else None
    name, parts = manifest.variant(level)
    if runtime in RUNTIMES and not any(part.format == "onnx" for part in parts.values()):
        raise UsageError(f"runtime {runtime}: no part of {name} is in ONNX", allowed=choice.DEFAULT)
    files = tuple(file for part in parts.values() for file in part.files)
    manifests.verify(folder, (*files, manifest.tokenizer))
    compose = _composer(folder, manifest, parts)
    if chosen:
        _check_memory(manifest, name, parts, chosen)
    threads = min(chosen.cores, cpu().usable_cores) if chosen else cpu().usable_cores
    context = context or (chosen.context if chosen else _DEFAULT_CONTEXT)
    context = min(context, manifest.settings.get("context", context))
    gpu = bool(chosen and chosen.gpu_memory_gb)
    return Opening(folder, manifest, parts, threads, context, gpu, named, compose)


@dataclass
class Opening:
    """What is known of a variant before its parts are loaded, and how each is loaded.

    Attributes:
        runtime: which runtime was named; None where what was measured decides.
        warnings: grow while parts are loaded.
        runtimes: role -> what runs it, of the parts loaded so far.
    """

    folder: Path
    manifest: Manifest
    parts: dict[str, Part]
    threads: int
    context: int
    gpu: bool
    runtime: str | None
    compose: Callable[[Opening], Model]
    runtimes: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.tokenizer = load_tokenizer(self.folder / self.manifest.tokenizer.path)
        self.warnings = [self.manifest.stand_in] if self.manifest.stand_in else []
        self.warnings += [FOREIGN] if self.manifest.foreign else []
        for part in self.parts.values():
            if part.parity is None and not self.manifest.foreign:
                self.warnings.append(f"{part.role} {part.level}: parity: not measured (edgekit prove {self.folder})")

    def path(self, role: str) -> Path:
        """The file that a backend is given."""
        return self.folder / self.parts[role].files[0].path

    def preprocessing(self) -> Preprocessing:
        """How images become pixels. Raises ArtifactError where the manifest does not say."""
        if self.manifest.preprocessing is None:
            raise ArtifactError(
                f"{self.folder / manifests.FILE_NAME}: preprocessing: none for a model that sees images"
            )
        return self.manifest.preprocessing

    def encoder_file(self, role: str) -> EncoderFile:
        """An ONNX encoder as every runtime needs it described."""
        self._require(role, "onnx")
        output = self.parts[role].output
        if output == "logits":
            raise ArtifactError(f"{self.folder / manifests.FILE_NAME}: {role}: logits from an encoder")
        if role == "text_encoder":
            spec, preprocessing = EncoderSpec("ids", output, (self.manifest.settings["text_length"],)), None
        else:
            preprocessing = self.preprocessing()
            spec = EncoderSpec("pixels", output, (preprocessing.size, preprocessing.size, 3))
        listed = tuple(self.folder / file.path for file in self.parts[role].files)
        return EncoderFile(self.path(role), spec, ENCODER_OUTPUTS[role], preprocessing, listed)

    def encoder(self, role: str) -> Encoder:
        """Load an ONNX encoder in the runtime that was named, or measured to be the fastest here."""
        file, runtime = self.encoder_file(role), self._runtime(role)
        encoder = open_encoder(file, runtime, self.threads)
        self._runs(role, ROWS[runtime].title, ROWS[runtime].library, f"{self.threads} threads")
        return encoder

    def _runtime(self, role: str) -> str:
        if self.runtime:
            return RUNTIMES[0] if self.runtime == choice.DEFAULT else self.runtime
        part = self.parts[role]
        found = choice.kept(part, self.threads)
        if isinstance(found, EncoderChoice):
            return found.chosen
        if sum(version is not None for version in choice.libraries("onnx").values()) > 1:
            hint = f"which runtime is the fastest here was not measured (edgekit tune {self.folder})"
            self.warnings += [] if hint in self.warnings else [hint]
        return RUNTIMES[0]

    def decoder(self, image_tokens: int) -> Decoder:
        """Load the decoder, with the options that were measured to be the fastest here, or the defaults."""
        if self.parts["decoder"].format == "onnx":
            return self._onnx_decoder(image_tokens)
        from edgekit.runtime.llama.decoder import LlamaDecoder

        options = self._llama_options()
        threads, step_threads = (options.threads, options.step_threads) if options else (self.threads, self.threads)
        # The user's word on buffers counts more, and so does the trial, which alone may allow them.
        plain = options and not options.extra_buffers and not os.environ.get(guard.VARIABLE)
        decoder = LlamaDecoder(
            self.path("decoder"),
            context=self.context,
            threads=threads,
            image_tokens=image_tokens,
            step_threads=step_threads,
            gpu=self.gpu,
            extra_buffers=False if plain else None,
        )
        self.warnings += decoder.warnings
        layout = ", plain buffers" if plain else ""
        self._runs("decoder", "llama.cpp", "llama_cpp_python", f"{threads}/{step_threads} threads{layout}")
        return decoder

    def _onnx_decoder(self, image_tokens: int) -> Decoder:
        from edgekit.runtime.onnx.decoder import OrtDecoder

        if not (window := self.manifest.settings.get("window")):
            raise ArtifactError(f"{self.folder / manifests.FILE_NAME}: settings.window: none for a decoder in onnx")
        files = tuple(self.folder / file.path for file in self.parts["decoder"].files)
        embedding = next((path for path in files if path.name.startswith(EMBEDDING_STEM)), None)
        if embedding is None:
            raise ArtifactError(f"{files[0]}: no {EMBEDDING_STEM}*.onnx beside it", remedy="export the artifact again")
        decoder = OrtDecoder(
            files[0],
            embedding,
            context=self.context,
            window=window,
            threads=self.threads,
            image_tokens=image_tokens,
            listed=files,
        )
        self._runs("decoder", ROWS[RUNTIMES[0]].title, ROWS[RUNTIMES[0]].library, f"{self.threads} threads")
        return decoder

    def _llama_options(self) -> LlamaOptions | None:
        if self.gpu or self.runtime == choice.DEFAULT:
            return None
        found = choice.kept(self.parts["decoder"], self.threads)
        return found.chosen if isinstance(found, DecoderChoice) else None

    def vision(self, decoder: Decoder, image_tokens: int) -> Encoder:
        """Load a vision part of either format; one in GGUF leans on a GGUF decoder."""
        if self.parts["vision"].format == "onnx":
            return self.encoder("vision")
        from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision

        if not isinstance(decoder, LlamaDecoder):
            raise ArtifactError(
                "llama.cpp opens vision in gguf only beside a decoder in gguf", allowed="vision in onnx"
            )
        size = self.preprocessing().size
        vision = LlamaVision(self.path("vision"), decoder, size=size, image_tokens=image_tokens, gpu=self.gpu)
        self._runs("vision", "llama.cpp", "llama_cpp_python", f"{decoder.threads} threads")
        return vision

    @contextmanager
    def part(self, role: str) -> Iterator[Any]:
        """One part, and no other but what it leans on, loaded for a while: a `Decoder` or an `Encoder`."""
        image_tokens = self.manifest.settings.get("image_tokens", 0)
        with ExitStack() as stack:
            if role == "decoder":
                loaded: Any = self.decoder(image_tokens)
            elif role == "vision" and self.parts[role].format == "gguf":
                loaded = self.vision(stack.enter_context(closing(self.decoder(image_tokens))), image_tokens)
            else:
                loaded = self.encoder(role)
            yield stack.enter_context(closing(loaded))

    def _require(self, role: str, file_format: str) -> None:
        part = self.parts[role]
        if part.format != file_format:
            raise ArtifactError(f"no backend opens {role} in {part.format}", allowed=file_format)

    def _runs(self, role: str, title: str, library: str, options: str) -> None:
        self.runtimes[role] = f"{title}, {choice.libraries(self.parts[role].format)[library]}, {options}"


def _chat(opening: Opening) -> Model:
    """A chat model, with eyes where the variant has a vision part."""
    manifest, settings = opening.manifest, opening.manifest.settings
    sees = "vision" in opening.parts
    preprocessing = opening.preprocessing() if sees else None
    image_tokens = settings["image_tokens"] if sees else 0
    decoder = opening.decoder(image_tokens)
    vision = None
    if sees:
        try:
            vision = opening.vision(decoder, image_tokens)
        except EdgekitError:
            decoder.close()
            raise
    return ChatModel(
        decoder,
        vision,
        opening.tokenizer,
        preprocessing,
        ChatSettings.of(settings),
        title=manifest.title,
        warnings=tuple(opening.warnings),
    )


def _contrastive(opening: Opening) -> Model:
    manifest = opening.manifest
    preprocessing = opening.preprocessing()
    image = opening.encoder("image_encoder")
    try:
        text = opening.encoder("text_encoder")
    except EdgekitError:
        image.close()
        raise
    return ContrastiveModel(
        image,
        text,
        opening.tokenizer,
        preprocessing,
        manifest.settings,
        title=manifest.title,
        warnings=tuple(opening.warnings),
    )


class _TextSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    context: _Count
    window: Annotated[int, Field(ge=0, lt=1 << 24)] = 0
    stop_token_ids: list[_TokenId]
    chat: bool = True


class _ChatSettings(_TextSettings):
    image_tokens: _Count
    image_token_id: _TokenId


class _ContrastiveSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    text_length: _Count
    pad_token_id: _TokenId
    logit_scale: float
    logit_bias: float


# Which model a set of roles makes, and what the manifest's settings must hold for it.
_COMPOSERS: dict[frozenset[str], tuple[Callable[[Opening], Model], type[BaseModel]]] = {
    frozenset({"decoder"}): (_chat, _TextSettings),
    frozenset({"decoder", "vision"}): (_chat, _ChatSettings),
    frozenset({"image_encoder", "text_encoder"}): (_contrastive, _ContrastiveSettings),
}


def _composer(folder: Path, manifest: Manifest, parts: dict[str, Part]) -> Callable[[Opening], Model]:
    path = folder / manifests.FILE_NAME
    if frozenset(parts) not in _COMPOSERS:
        allowed = " or ".join(" and ".join(sorted(roles)) for roles in _COMPOSERS)
        raise ArtifactError(f"{path}: {' and '.join(sorted(parts)) or 'nothing'} makes no model", allowed=allowed)
    compose, schema = _COMPOSERS[frozenset(parts)]
    validated(schema, manifest.settings, str(path), ArtifactError, inside="settings.", whole="settings")
    return compose


def _check_memory(manifest: Manifest, name: str, parts: dict[str, Part], device: Device) -> None:
    """Refuse what cannot fit, with the variants that do."""

    def need(variant: dict[str, Part]) -> int:
        return sum(int(part.requires.get("memory_bytes", 0)) for part in variant.values())

    limit = device.model_memory_gb * 1e9
    if need(parts) > limit:
        fitting = [other for other in manifest.variants if need(manifest.variant(other)[1]) <= limit]
        raise UsageError(
            f"{name} needs {need(parts) / 1e9:.1f} GB, {device.title} gives a model {device.model_memory_gb:g} GB",
            allowed=", ".join(fitting) or "none of this artifact's levels",
        )
