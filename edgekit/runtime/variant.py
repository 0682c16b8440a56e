"""A variant of an artifact as its manifest describes it, checked: what its parts are, and what they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Manifest, Part, Preprocessing
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
from edgekit.runtime import backends, manifest_checks
from edgekit.runtime.backends import Backend, PartKind
from edgekit.runtime.base import EncoderSpec
from edgekit.runtime.parts import DecoderFile, EncoderFile


@dataclass
class Variant:
    """What is known of a variant before anything is loaded.

    Attributes:
        level: its name.
        parts: role -> part.
        context: tokens that a decoder's cache holds.
        composition, settings: what the parts make, and what the manifest says for it.
        warnings: what is to be known of it; they grow while parts are loaded.

    Raises:
        ArtifactError: the manifest contradicts itself, or no backends open these parts together.
    """

    folder: Path
    manifest: Manifest
    level: str
    parts: dict[str, Part]
    context: int

    def __post_init__(self) -> None:
        self.family, self.composition = manifest_checks.composition_of(self.manifest, self.parts, self._manifest_path)
        self.settings = manifest_checks.settings_of(self.manifest, self.composition, self._manifest_path)
        if isinstance(self.settings, ChatSettings):
            self.context = min(self.context, self.settings.context)
        self._check()
        self._agreeing: dict[str, tuple[Path, ...]] = {}  # looked at once: a vocabulary takes half a second
        self.warnings = [self.manifest.stand_in] if self.manifest.stand_in else []
        self.warnings += [said] if (said := self.manifest.provenance) else []
        self.tokenizer = None
        if reads_text(self.composition):
            loaded = manifest_checks.tokenizer_of(self.manifest, self.folder, self.family)
            self.tokenizer = loaded.tokenizer
            self.warnings += loaded.notes
        self._numbers = manifest_checks.check_beside(self.manifest, self.family, self.folder, self.tokenizer)
        proving = manifest_checks.proving(self.folder)
        for part in self.parts.values():
            if part.parity is None and not self.manifest.foreign:
                self.warnings.append(f"{part.role} {part.level}: parity: not measured ({proving})")
            elif part.parity and not part.parity.audit:
                self.warnings.append(f"{part.role} {part.level}: audit: not made ({proving})")
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
        if role not in self._agreeing:
            self._agreeing[role] = self._agreed(role)
        return self._agreeing[role]

    def _agreed(self, role: str) -> tuple[Path, ...]:
        file_format, form = self._stated(role)
        files = tuple(self.folder / file.path for file in self.parts[role].files)
        file_format.check(form, files[0])
        stated = file_format.stated(form, files)
        manifest_checks.check_agreement(self.manifest, self._numbers, self._manifest_path, files[0], stated)
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

    def decoder_file(self, role: str) -> DecoderFile:
        """A decoder as every backend needs it described."""
        window = self.settings.window if isinstance(self.settings, ChatSettings) else 0
        return DecoderFile(self._checked(role), self.context, window, self._image_tokens, self._manifest_path)


def _a(kind: PartKind) -> str:
    return f"{'an' if kind == 'encoder' else 'a'} {kind}"
