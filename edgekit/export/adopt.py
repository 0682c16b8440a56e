"""`edgekit adopt`: an artifact folder around GGUF files that others made.

The files are opened, asked and measured like edgekit's own. They do not say which weights they were made from, so they
are unproven until a user names the checkpoint (`edgekit prove`): the manifest says so, and so does every open.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import copy, create, link_or_copy
from edgekit.artifacts.folders import new_folder
from edgekit.artifacts.gates import Gates
from edgekit.artifacts.manifest import Manifest, Part, Preprocessing, Requires, SourceRecord
from edgekit.errors import ArtifactError
from edgekit.export import readme
from edgekit.families import FAMILIES, Family, Role
from edgekit.formats.gguf import FORMAT
from edgekit.formats.gguf.form import GgufForm, read_checked
from edgekit.formats.gguf.header import FILE_TYPES, GgufHeader, read_header
from edgekit.formats.gguf.library import library, tokenized
from edgekit.formats.gguf.schema import FLOATS
from edgekit.formats.gguf.tokenizer import USER_DEFINED, mistyped, tokenizer_of
from edgekit.formats.gguf.writer import file_requires
from edgekit.inputs.text import control_tokens, load_tokenizer
from edgekit.inputs.tokenizer_schema import check_tokenizer_json
from edgekit.inputs.tokenizer_texts import texts
from edgekit.machine import worker
from edgekit.terminal import stripped_line

_TEXTS = 1000
_LIMIT_S = 300.0
_MAX_DIFFERING = 10  # ties between equally good merges are broken differently
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Adopted:
    """What `adopt` made.

    Attributes:
        differing: for how many of `compared` texts the tokenizer gives other ids than llama.cpp's own.
        mended: what edgekit's tokenizer has otherwise than the file; None where it has all as the file.
        notes: what users should know of the model.
    """

    folder: Path
    manifest: Manifest
    compared: int
    differing: int
    mended: str | None = None
    notes: tuple[str, ...] = ()


def adopt(decoder: Path, folder: Path, *, vision: Path | None = None, tokenizer: Path | None = None) -> Adopted:
    """Make an artifact of a Gemma 3 decoder in GGUF, and of its projector file where there is one.

    Args:
        decoder: the language model, as llama.cpp, Ollama or others wrote it.
        folder: the artifact's folder, which must be new or empty; the files are linked into it, or copied.
        vision: the projector file ("mmproj").
        tokenizer: a tokenizer.json; without it, the one that the decoder's vocabulary describes.

    Raises:
        ArtifactError: a file is broken, of another family, or one that llama.cpp cannot run rightly.
        CheckpointError: `tokenizer` holds none, or the decoder's vocabulary describes none.
        MissingDependencyError: llama.cpp is not installed, and reads the vocabulary for comparison.
        UsageError: the folder is not empty.
    """
    with file_errors(folder):
        return _adopt(decoder, folder, vision, tokenizer)


def _adopt(decoder: Path, folder: Path, vision: Path | None, tokenizer: Path | None) -> Adopted:
    for path in (decoder, *([vision] if vision else [])):
        if not path.name.isprintable():  # a manifest is UTF-8, and its names are shown
            raise ArtifactError(f"{path}: a name that is not UTF-8, or not printable", remedy="give it another name")
    family, headers = _headers(decoder, vision)
    model, *others = headers.values()
    form = _forms(family)[next(iter(headers))]
    assert form.settings, "only such a form adopts"
    settings, preprocessing = form.settings(model, others[0] if others else None)
    vocabulary = load_tokenizer(tokenizer) if tokenizer else _described(model, form.markers)
    wrong_types = mistyped(model, form.markers)
    differing = _compare(decoder, model, vocabulary, wrong_types)
    _check_markers(model, vocabulary, form.needs(settings))
    with new_folder(folder) as staging:
        if tokenizer:
            copy(tokenizer, staging / _TOKENIZER)
        else:
            with create(staging / _TOKENIZER) as file:
                file.write(vocabulary.to_str(pretty=False).encode())
        parts = {role: _part(role, family.roles[role], header, staging) for role, header in headers.items()}
        manifest = _manifest(family, model, parts, settings, preprocessing, staging)
        if wrong_types:
            said = f"{manifest.modified} {_mended(wrong_types)}"
            manifest = manifest.model_copy(update={"modified": said})
        readme.publish(staging, manifest)
    mended = _mended(wrong_types) if wrong_types else None
    return Adopted(folder, manifest, _TEXTS, differing, mended, family.notes(settings))


def _mended(wrong_types: Mapping[str, int]) -> str:
    return (
        f"The vocabulary does not type {', '.join(wrong_types)} as control tokens. edgekit's tokenizer does; "
        "llama.cpp's own programs read them as text, or show them."
    )


def _check_markers(header: GgufHeader, tokenizer: Tokenizer, needed: Sequence[str]) -> None:
    """Raise ArtifactError where a marker is not one token to the tokenizer, and the same one in the file."""
    tokens = header.texts("tokenizer.ggml.tokens")
    for marker in needed:
        found = tokenizer.encode(marker, add_special_tokens=False).ids
        if marker not in tokens or found != [tokens.index(marker)]:
            there = f"is token {tokens.index(marker)}" if marker in tokens else "is no token"
            raise ArtifactError(
                f"{header.path}: {marker} {there} of its vocabulary, and {found} to the tokenizer",
                allowed="one token, the same in both: prompts are written with it",
                remedy="--tokenizer FILE with the tokenizer.json of the model that this encoding was made from",
            )


def _described(header: GgufHeader, markers: Sequence[str]) -> Tokenizer:
    """The tokenizer that a vocabulary describes, which must be one that opens later."""
    vocabulary = tokenizer_of(header, markers)
    check_tokenizer_json(vocabulary.to_str().encode(), f"{header.path}: its vocabulary")
    return vocabulary


def _headers(decoder: Path, vision: Path | None) -> tuple[Family, dict[str, GgufHeader]]:
    """The family that adopts the files, and their headers by role, the model's first."""
    header = read_header(decoder)
    adopting = {
        form.architecture: (family, role, form)
        for family in reversed(list(FAMILIES.values()))  # of those that share one, the first has all parts
        for role, form in _forms(family).items()
        if form.settings
    }
    stated = header.text("general.architecture")
    if stated not in adopting:
        allowed = ", ".join(f"{name!r}, {form.described}" for name, (_, _, form) in adopting.items())
        raise ArtifactError(f"{decoder}: its architecture is {stated!r}", allowed=allowed)
    family, role, form = adopting[stated]
    headers = {role: read_checked(form, header.path)}
    if vision:
        other, form = next((name, other) for name, other in _forms(family).items() if name != role)
        headers[other] = read_checked(form, vision)
    return family, headers


def _forms(family: Family) -> dict[str, GgufForm]:
    forms = ((role, form) for role, part in family.roles.items() for form in part.forms.values())
    return {role: form for role, form in forms if isinstance(form, GgufForm)}


def _compare(path: Path, header: GgufHeader, tokenizer: Tokenizer, wrong_types: Mapping[str, int]) -> int:
    """For how many texts a tokenizer gives other ids than llama.cpp. Raises ArtifactError where they are many.

    Args:
        wrong_types: markers that the file types otherwise; as text, llama.cpp alone would divide them.
    """
    text = {token for token, kind in wrong_types.items() if kind != USER_DEFINED}
    pieces = [token.replace("▁", " ") for token in header.texts("tokenizer.ggml.tokens") if token not in text]
    control = [token for token in control_tokens(tokenizer) if token not in text]
    compared = texts(pieces, control, _TEXTS)
    ours = tokenizer.encode_batch(compared, add_special_tokens=False)
    library()  # or it is not installed
    theirs, end = worker.run(tokenized, {"path": str(path), "texts": compared}, limit_s=_LIMIT_S)
    if end.problem:
        raise ArtifactError(f"{path}: llama.cpp cannot use its vocabulary: {stripped_line(end.problem)}")
    wrong = [text for text, encoding, ids in zip(compared, ours, theirs, strict=True) if encoding.ids != ids]
    if len(wrong) > _MAX_DIFFERING:
        raise ArtifactError(
            f"{path}: the tokenizer gives other ids than llama.cpp for {len(wrong)} of {len(compared)} texts, the "
            f"first {wrong[0][:60]!r}{_prefixed(header)}",
            remedy="--tokenizer FILE with the tokenizer.json of the model that this encoding was made from",
        )
    return len(wrong)


def _prefixed(header: GgufHeader) -> str:
    """What makes llama.cpp read all texts otherwise than Gemma was trained to, where a file asks for it."""
    key = "tokenizer.ggml.add_space_prefix"
    if not header.fields.get(key, True):
        return ""
    stated = "is true" if key in header.fields else "is missing, and true then"
    return f"; {key} {stated}: every text begins with a space for llama.cpp"


def _part(name: str, role: Role, header: GgufHeader, staging: Path) -> Part:
    form = next(form for form in role.forms.values() if isinstance(form, GgufForm))
    file = header.path.name if header.path.suffix == ".gguf" else f"{header.path.name}.gguf"
    path = staging / (f"{form.prefix}{file}" if (staging / file).exists() else file)
    link_or_copy(header.path, path)
    entry = manifests.file_entry(staging, path)
    weights: Counter[str] = Counter()
    for tensor in header.tensors.values():
        weights[tensor.type] += tensor.weights
    if not weights:
        raise ArtifactError(f"{header.path}: has no tensors")
    level = _level(header, weights.most_common(1)[0][0])
    return Part(
        id=manifests.part_id(name, FORMAT.name, level, (entry,)),
        role=name,
        format=FORMAT.name,
        level=level,
        files=(entry,),
        weights=weights.total(),
        bits_per_weight=round(entry.bytes * 8 / weights.total(), 3),
        tensor_types=dict(weights.most_common()),
        output=role.output,
        requires=cast("Requires", {**file_requires(form), "memory_bytes": entry.bytes}),
        tools={},
    )


def _level(header: GgufHeader, common: str) -> str:
    """What a file calls its level, unless its weights contradict that: converters leave F16 where they wrote another.

    Args:
        common: the type of most of its weights.
    """
    number = header.fields.get("general.file_type")
    stated = FILE_TYPES.get(number) if isinstance(number, int) else None
    return common if stated is None or FLOATS & {stated, common} else stated


def _manifest(
    family: Family,
    header: GgufHeader,
    parts: dict[str, Part],
    settings: dict[str, Any],
    preprocessing: Preprocessing | None,
    staging: Path,
) -> Manifest:
    files = {file.path: file.sha256 for part in parts.values() for file in part.files}
    listing = "\n".join(f"{path} {digest}" for path, digest in sorted(files.items()))
    stated = stripped_line(header.text("general.license", "none"))
    level = next(iter(parts.values())).level
    return Manifest(
        recipe="adopted",
        title=stripped_line(header.text("general.name", header.path.stem)),
        family=family.name,
        stand_in=None,
        license=f"The file names this licence: {stated}\nWhat it allows, the place it came from says.",
        modified="Made by others; adopted by edgekit, which changed nothing in it.",
        source=SourceRecord(name=header.path.name, sha256=hashlib.sha256(listing.encode()).hexdigest(), files=files),
        preprocessing=preprocessing,
        tokenizer=manifests.file_entry(staging, staging / _TOKENIZER),
        settings=settings,
        parts=tuple(parts.values()),
        variants={level: {role: part.id for role, part in parts.items()}},
        default=level,
        foreign=True,
        gates=Gates(),
    )
