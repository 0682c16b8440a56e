"""What a manifest must say for a variant to open, and whether the files that it describes say the same.

Runtimes obey the files, edgekit the manifest: where they differ, answers change without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from edgekit.artifacts.documents import is_file
from edgekit.artifacts.gates import Limits, beyond
from edgekit.artifacts.levels import limits_of
from edgekit.artifacts.manifest import FILE_NAME, Manifest, Parity, Part, unproven_pair, verify
from edgekit.artifacts.recipes import STAND_IN_KEY, choose
from edgekit.artifacts.validation import ANEW
from edgekit.checkpoints.checkpoint import SOURCE_FILES, Checkpoint
from edgekit.checkpoints.json_files import read_json
from edgekit.errors import ArtifactError, CheckpointError, UsageError
from edgekit.families import Family, family_named
from edgekit.families.composition import ChatSettings, Composition, Settings, checked_settings
from edgekit.inputs.text import LoadedTokenizer, check_rows, read_tokenizer

_CONFIG = "config.json"
_BUNDLE = "bundle.json"  # `edgekit.pack.bundle.DOCUMENT`, beside the artifact of what was installed
# What an export's settings were read from, and still can be; tokenizers are verified and read where they are loaded.
_STATING = frozenset(SOURCE_FILES) - {"tokenizer.json", "tokenizer.model", "spiece.model"}


def composition_of(manifest: Manifest, parts: Mapping[str, Part], path: Path) -> tuple[Family, Composition]:
    """The family, and what these parts make in it. Raises ArtifactError where they make nothing."""
    family = family_named(manifest.family, str(path), ArtifactError)
    for composition in family.compositions:
        if composition.roles == frozenset(parts):
            return family, composition
    allowed = " or ".join(" and ".join(sorted(composition.roles)) for composition in family.compositions)
    raise ArtifactError(f"{path}: {' and '.join(sorted(parts)) or 'nothing'} makes no model", allowed=allowed)


def settings_of(manifest: Manifest, composition: Composition, path: Path) -> Settings:
    """What a manifest must say for a composition. Raises ArtifactError where it does not."""
    return checked_settings(composition.settings, manifest.settings, str(path), ArtifactError)


def tokenizer_of(manifest: Manifest, folder: Path, family: Family) -> LoadedTokenizer:
    """The tokenizer of a model that reads text. Raises ArtifactError where there is none, or not for its embedding."""
    if manifest.tokenizer is None:
        raise ArtifactError(f"{folder}: tokenizer: none for a model that reads text")
    loaded = read_tokenizer(folder / manifest.tokenizer.path)
    if isinstance(rows := manifest.settings.get("vocabulary"), int):
        check_rows(loaded.tokenizer, rows, family.unused_tokens, manifest.tokenizer.path, ArtifactError)
    return loaded


def check_variants(manifest: Manifest, path: Path) -> None:
    """Raise ArtifactError where parts of a variant make no model, or settings that it must have are missing."""
    for name in manifest.variants:
        _, composition = composition_of(manifest, manifest.variant(name)[1], path)
        settings_of(manifest, composition, path)


def failed_proof(manifest: Manifest, part: Part) -> str | None:
    """What is to be said of a part whose recorded proof fails the gates beside it; None where it does not.

    Gates that are looser than any recipe may set are not believed: see `edgekit.artifacts.gates.STRETCH`.
    """
    parity, gates = part.parity, manifest.gates
    if parity is None:
        return None
    limits = gates.limits(part.level, limits_of(part.level))
    failed = [
        *beyond(parity.metric, "wiring", parity.wiring, limits),
        *beyond(parity.metric, "loss", parity.loss, limits),
        *_beyond_end_to_end(manifest, parity, limits),
    ]
    if parity.wiring.get("changed", 0) > gates.changed_share_quantized * parity.positions:
        failed.append(("changed_share_quantized", parity.wiring["changed"] / parity.positions))
    for name, measured in failed:
        found = "no figure" if math.isnan(measured) else f"{measured:.3g}"
        return f"{part.role} {part.level}: its recorded proof fails its own gate {name} with {found}: do not trust it"
    return None


def _beyond_end_to_end(manifest: Manifest, parity: Parity, limits: Limits) -> Iterator[tuple[str, float]]:
    levels = {part.id: part.level for part in manifest.parts}
    for eye, figures in parity.end_to_end.items():
        beside = manifest.gates.limits(levels[eye], limits_of(levels[eye])) if eye in levels else None
        measured = figures.get("mean", math.nan)
        if beside and not measured <= limits.wiring_kl + beside.image_kl:
            yield "image_kl", measured


def unproven_together(parts: Collection[Part], folder: Path) -> str | None:
    """What is to be said of a variant whose proven parts never answered a question about an image together."""
    pair = unproven_pair(parts)
    if not pair or not all(part.parity for part in pair):
        return None
    decoder, eye = pair
    together = f"{decoder.role} {decoder.level} behind {eye.role} {eye.level}"
    return f"{together}: not proven end to end ({proving(folder)})"


def proving(folder: Path) -> str:
    """What proves an artifact's parts: of one that a bundle brought, nothing here, where no checkpoint is."""
    if is_file(folder.parent / _BUNDLE):
        return "it was packed so; edgekit prove, where it was exported, and pack it again"
    return f"edgekit prove {folder}"


def checked_context(context: int, settings: Settings, title: str) -> int:
    """The context that was asked for. Raises UsageError where the model was not made for it."""
    if not isinstance(settings, ChatSettings):
        raise UsageError(f"a context of {context!r:.40} tokens: {title} has none")
    if not isinstance(context, int) or isinstance(context, bool) or not 1 <= context <= settings.context:
        allowed = f"1 to {settings.context}, which this model was made for"
        raise UsageError(f"a context of {context!r:.40} tokens", allowed=allowed)
    return context


def check_beside(
    manifest: Manifest, family: Family, folder: Path, tokenizer: Tokenizer | None
) -> Mapping[str, float]:
    """Compare what a manifest says with the configuration files that an export put beside the parts.

    Files of others come without; what is in their headers is compared by `check_agreement`.

    Returns:
        the numbers of config.json that parts' files state, too, for `check_agreement`; none without one.

    Raises:
        ArtifactError: they differ, or a file is missing or changed; the message has both values.
    """
    if manifest.foreign:
        return {}
    path, listed = folder / FILE_NAME, {entry.path: entry for entry in manifest.support_files}
    if _CONFIG not in listed:
        raise ArtifactError(f"{path}: support_files: no {_CONFIG}", remedy=ANEW)
    verify(folder, tuple(entry for name, entry in listed.items() if name in _STATING))
    try:
        beside = Checkpoint(folder, read_json(folder / _CONFIG), {}, ())
        config = family.parse(beside.config)
        settings, image = family.settings(beside, config, tokenizer), family.preprocessing(beside, config)
    except CheckpointError as error:
        raise ArtifactError(error.message, allowed=error.allowed, remedy=ANEW) from error
    _compare("settings", manifest.settings, {"template": None, **settings}, path, folder / _CONFIG)
    if image and manifest.preprocessing:
        _compare("preprocessing", manifest.preprocessing.model_dump(), image.model_dump(), path, folder / _CONFIG)
    if manifest.stand_in is None and (said := _stand_in(beside.config, family)):
        raise ArtifactError(f"{path}: stand_in is null, and {_CONFIG} is that of a stand-in: {said}")
    return family.numbers(config)


def _stand_in(config: Mapping[str, Any], family: Family) -> str | None:
    """Why a model with this config.json is not the real one; None where it may be."""
    if said := config.get(STAND_IN_KEY):
        return str(said)
    try:
        return choose(config, None, family.name).stand_in
    except UsageError:  # no recipe knows it, or several do
        return None


def _template(stated: Any, file: Any) -> bool:
    """What a template may use beside messages, files say in other words."""
    texts = [one.get("text") if isinstance(one, dict) else one for one in (stated, file)]
    return bool(texts[0] == texts[1])


def _is_close(stated: Any, file: Any) -> bool:
    """A header's numbers have 32 bits."""
    return bool(np.allclose(stated, file, rtol=1e-6, atol=0))


_SAME: Mapping[str, Callable[[Any, Any], bool]] = {"template": _template, "mean": _is_close, "std": _is_close}


def check_agreement(
    manifest: Manifest, numbers: Mapping[str, float], path: Path, file: Path, stated: Mapping[str, Any]
) -> None:
    """Compare what a manifest says with what a part's file says; what only one of them says counts.

    Args:
        numbers: of config.json, as `check_beside` gives them.
        path: the manifest's.
        file: the part's.
        stated: as `edgekit.formats.base.Format.stated` gives it.

    Raises:
        ArtifactError: they differ; the message has both values.
    """
    settings = dict(stated)
    image, computed = settings.pop("preprocessing", None), settings.pop("numbers", {})
    _compare("settings", manifest.settings, settings, path, file)
    for name, value in computed.items():
        if name in numbers and not _is_close(numbers[name], value):
            raise ArtifactError(
                f"{path.with_name(_CONFIG)}: {name} is {numbers[name]!r}, {file.name} says {value!r:.100}",
                remedy="export the model again",
            )
    if image and manifest.preprocessing:
        _compare("preprocessing", manifest.preprocessing.model_dump(), image, path, file)


def _compare(inside: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], path: Path, file: Path) -> None:
    for name, value in theirs.items():
        said = ours.get(name)
        if said is None and name != "template":  # no template of its own means the family's
            continue
        if not _SAME.get(name, lambda one, other: bool(one == other))(said, value):
            raise ArtifactError(
                f"{path}: {inside}.{name} is {said!r:.100}, {file.name} says {value!r:.100}",
                remedy="export or adopt the model again",
            )
