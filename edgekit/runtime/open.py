"""From an artifact folder to a model: check the files, choose a backend by each part's format, compose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit import manifest as manifests
from edgekit.cpu import cpu
from edgekit.devices import Device
from edgekit.devices import device as load_device
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.prompt import load_tokenizer
from edgekit.manifest import FOREIGN, Manifest, Part, Preprocessing
from edgekit.runtime.base import EncoderSpec, Model
from edgekit.runtime.compose import ChatModel, ChatSettings, ContrastiveModel

_DEFAULT_CONTEXT = 4096
_Count = Annotated[int, Field(gt=0, lt=1 << 24)]
_TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


def open_model(folder: Path, level: str | None = None, device: str | None = None, context: int | None = None) -> Model:
    """Open one variant of an artifact.

    Args:
        folder: an artifact folder.
        level: a variant's name; the recipe's default for None.
        device: a device profile whose cores, context and memory limit are obeyed; this machine for None.
        context: tokens that a decoder's cache holds; the device's, or 4096, for None.

    Raises:
        ArtifactError: the folder, its manifest or a file is not what it must be.
        UsageError: there is no such variant or device, or the variant needs more memory than the device gives.
    """
    manifest = manifests.read(folder)
    chosen = load_device(device) if device else None
    name, parts = manifest.variant(level)
    files = tuple(file for part in parts.values() for file in part.files)
    manifests.verify(folder, (*files, manifest.tokenizer))
    compose = _composer(folder, manifest, parts)
    if chosen:
        _check_memory(manifest, name, parts, chosen)
    threads = min(chosen.cores, cpu().usable_cores) if chosen else cpu().usable_cores
    context = context or (chosen.context if chosen else _DEFAULT_CONTEXT)
    context = min(context, manifest.settings.get("context", context))
    return compose(_Opening(folder, manifest, parts, threads, context, bool(chosen and chosen.gpu_memory_gb)))


class _Opening:
    """What the composers need to know."""

    def __init__(
        self, folder: Path, manifest: Manifest, parts: dict[str, Part], threads: int, context: int, gpu: bool
    ) -> None:
        self.folder, self.manifest, self.parts = folder, manifest, parts
        self.threads, self.context, self.gpu = threads, context, gpu
        self.tokenizer = load_tokenizer(folder / manifest.tokenizer.path)
        warnings = [manifest.stand_in] if manifest.stand_in else []
        warnings += [FOREIGN] if manifest.foreign else []
        for part in parts.values():
            if part.parity is None and not manifest.foreign:
                warnings.append(f"{part.role} {part.level}: parity: not measured (edgekit prove {folder})")
        self.warnings = tuple(warnings)

    def file(self, role: str, file_format: str) -> Path:
        part = self.parts[role]
        if part.format != file_format:
            raise ArtifactError(f"no backend opens {role} in {part.format}", allowed=file_format)
        return self.folder / part.files[0].path

    def preprocessing(self) -> Preprocessing:
        """How images become pixels. Raises ArtifactError where the manifest does not say."""
        if self.manifest.preprocessing is None:
            raise ArtifactError(
                f"{self.folder / manifests.FILE_NAME}: preprocessing: none for a model that sees images"
            )
        return self.manifest.preprocessing


def _chat(opening: _Opening) -> Model:
    """A chat model, with eyes where the variant has a vision part."""
    from edgekit.runtime.llamacpp import LlamaDecoder, LlamaVision

    manifest, settings = opening.manifest, opening.manifest.settings
    sees = "vision" in opening.parts
    decoder_file = opening.file("decoder", "gguf")
    vision_file = opening.file("vision", "gguf") if sees else None
    preprocessing = opening.preprocessing() if sees else None
    image_tokens = settings["image_tokens"] if sees else 0
    decoder = LlamaDecoder(
        decoder_file, context=opening.context, threads=opening.threads, image_tokens=image_tokens, gpu=opening.gpu
    )
    vision = None
    if vision_file and preprocessing:
        try:
            vision = LlamaVision(
                vision_file, decoder, size=preprocessing.size, image_tokens=image_tokens, gpu=opening.gpu
            )
        except ArtifactError:
            decoder.close()
            raise
    return ChatModel(
        decoder,
        vision,
        opening.tokenizer,
        preprocessing,
        ChatSettings.of(settings),
        title=manifest.title,
        warnings=(*opening.warnings, *decoder.warnings),
    )


def _contrastive(opening: _Opening) -> Model:
    from edgekit.runtime.ort import OrtEncoder

    manifest, settings, preprocessing = opening.manifest, opening.manifest.settings, opening.preprocessing()
    size = preprocessing.size
    image = OrtEncoder(
        opening.file("image_encoder", "onnx"),
        EncoderSpec("pixels", "pooled", (size, size, 3)),
        threads=opening.threads,
        output="pooler_output",
        preprocessing=preprocessing,
    )
    text = OrtEncoder(
        opening.file("text_encoder", "onnx"),
        EncoderSpec("ids", "pooled", (settings["text_length"],)),
        threads=opening.threads,
        output="pooler_output",
        preprocessing=None,
    )
    return ContrastiveModel(
        image,
        text,
        opening.tokenizer,
        preprocessing,
        settings,
        title=manifest.title,
        warnings=opening.warnings,
    )


class _TextSettings(BaseModel):
    model_config = ConfigDict(strict=True)

    context: _Count
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
_COMPOSERS: dict[frozenset[str], tuple[Callable[[_Opening], Model], type[BaseModel]]] = {
    frozenset({"decoder"}): (_chat, _TextSettings),
    frozenset({"decoder", "vision"}): (_chat, _ChatSettings),
    frozenset({"image_encoder", "text_encoder"}): (_contrastive, _ContrastiveSettings),
}


def _composer(folder: Path, manifest: Manifest, parts: dict[str, Part]) -> Callable[[_Opening], Model]:
    path = folder / manifests.FILE_NAME
    if frozenset(parts) not in _COMPOSERS:
        allowed = " or ".join(" and ".join(sorted(roles)) for roles in _COMPOSERS)
        raise ArtifactError(f"{path}: {' and '.join(sorted(parts)) or 'nothing'} makes no model", allowed=allowed)
    compose, schema = _COMPOSERS[frozenset(parts)]
    try:
        schema.model_validate(manifest.settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(f"{path}: settings.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
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
