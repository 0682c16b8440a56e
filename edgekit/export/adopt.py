"""`edgekit adopt`: an artifact folder around GGUF files that others made.

The files are opened, asked and measured like edgekit's own. Nobody knows which weights they were made from, so nothing
can be proven about them: the manifest says so, and so does every open.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.files import link_or_copy
from edgekit.artifacts.folders import new_folder
from edgekit.artifacts.manifest import Gates, Manifest, Output, Part, Preprocessing, Source
from edgekit.artifacts.validation import validated
from edgekit.errors import ArtifactError
from edgekit.families.gemma3.gguf_checks import check_decoder, check_projector, image_tokens
from edgekit.formats.gguf.header import FILE_TYPES, GgufHeader, read_header
from edgekit.formats.gguf.tokenizer import tokenizer_of
from edgekit.inputs.prompt import control_tokens, load_tokenizer
from edgekit.inputs.tokenizer_texts import texts
from edgekit.runtime.llama.decoder import tokenize

_TEXTS = 1000
_MAX_DIFFERING = 10  # ties between equally good merges are broken differently
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Adopted:
    """What `adopt` made.

    Attributes:
        differing: for how many of `compared` texts the tokenizer gives other ids than llama.cpp's own.
    """

    folder: Path
    manifest: Manifest
    compared: int
    differing: int


def adopt(decoder: Path, folder: Path, *, vision: Path | None = None, tokenizer: Path | None = None) -> Adopted:
    """Make an artifact of a Gemma 3 decoder in GGUF, and of its projector file where there is one.

    Args:
        decoder: the language model, as llama.cpp, Ollama or others wrote it.
        folder: the artifact's folder, which must be new or empty; the files are linked into it, or copied.
        vision: the projector file ("mmproj").
        tokenizer: a tokenizer.json; without it, the one that the decoder's vocabulary describes.

    Raises:
        ArtifactError: a file is broken, of another family, or one that llama.cpp cannot run rightly.
        CheckpointError: `tokenizer` holds none.
        MissingDependencyError: llama.cpp is not installed, and reads the vocabulary for comparison.
        UsageError: the folder is not empty.
    """
    headers = {"decoder": _decoder_header(decoder), **({"vision": _vision_header(vision)} if vision else {})}
    settings, preprocessing = _settings(headers["decoder"]), None
    if "vision" in headers:
        preprocessing = _preprocessing(headers["vision"])
        settings |= _image_settings(headers["decoder"], headers["vision"])
    chosen = load_tokenizer(tokenizer) if tokenizer else tokenizer_of(headers["decoder"])
    differing = _compare(decoder, headers["decoder"], chosen)
    with new_folder(folder) as staging:
        if tokenizer:
            shutil.copyfile(tokenizer, staging / _TOKENIZER)
        else:
            chosen.save(str(staging / _TOKENIZER), pretty=False)
        parts = {role: _part(role, header, staging) for role, header in headers.items()}
        manifest = _manifest(headers["decoder"], parts, settings, preprocessing, staging)
        manifests.write(staging, manifest)
    return Adopted(folder, manifest, _TEXTS, differing)


def _decoder_header(path: Path) -> GgufHeader:
    header = _header(path, "gemma3", "a language model")
    if any(name.startswith(("v.", "mm.")) for name in header.tensors):
        raise ArtifactError(
            f"{path}: holds the vision tower, too, as Ollama's own conversions do; llama.cpp cannot read it",
            allowed="a decoder and a projector in files of their own",
        )
    check_decoder(header)
    return header


def _vision_header(path: Path) -> GgufHeader:
    header = _header(path, "clip", "a projector")
    check_projector(header)
    return header


def _header(path: Path, architecture: str, described: str) -> GgufHeader:
    header = read_header(path)
    found = header.text("general.architecture")
    if found != architecture:
        raise ArtifactError(f"{path}: its architecture is {found!r}", allowed=f"{architecture!r}, {described}")
    if header.integer("split.count", 1) > 1:
        raise ArtifactError(f"{path}: is one piece of a model", remedy="llama-gguf-split --merge joins the pieces")
    return header


def _settings(header: GgufHeader) -> dict[str, Any]:
    """What `edgekit.families.gemma3.family` reads from a checkpoint."""
    tokens = header.texts("tokenizer.ggml.tokens")
    ids = {token: i for i, token in enumerate(tokens)}
    named = {ids[name] for name in ("<eos>", "<end_of_turn>") if name in ids}
    return {
        "context": header.integer("gemma3.context_length"),
        "window": header.integer("gemma3.attention.sliding_window", 0),
        "hidden": header.integer("gemma3.embedding_length"),
        "vocabulary": len(tokens),
        "chat": "tokenizer.chat_template" in header.fields,
        "stop_token_ids": sorted({header.integer("tokenizer.ggml.eos_token_id"), *named}),
    }


def _image_settings(decoder: GgufHeader, vision: GgufHeader) -> dict[str, Any]:
    """Image tokens by the projector's pooling, their ids by the decoder's vocabulary."""
    hidden, width = decoder.integer("gemma3.embedding_length"), vision.integer("clip.vision.projection_dim")
    if hidden != width:
        raise ArtifactError(f"{vision.path}: projects to a width of {width}", allowed=f"{hidden}, the decoder's")
    tokens = decoder.texts("tokenizer.ggml.tokens")
    named = {"image": "<image_soft_token>", "boi": "<start_of_image>", "eoi": "<end_of_image>"}
    if missing := [name for name in named.values() if name not in tokens]:
        raise ArtifactError(f"{decoder.path}: its vocabulary has no {', '.join(missing)}")
    return {
        "image_tokens": image_tokens(vision),
        **{f"{name}_token_id": tokens.index(token) for name, token in named.items()},
    }


def _preprocessing(header: GgufHeader) -> Preprocessing:
    """As the projector says; Gemma 3 resizes bilinearly."""
    mean, std = (header.numbers(f"clip.vision.image_{name}", 3) for name in ("mean", "std"))
    data = {"size": header.integer("clip.vision.image_size"), "resample": "bilinear", "mean": mean, "std": std}
    return validated(Preprocessing, data, str(header.path), ArtifactError, inside="clip.vision.image_")


def _compare(path: Path, header: GgufHeader, tokenizer: Tokenizer) -> int:
    """For how many texts a tokenizer gives other ids than llama.cpp. Raises ArtifactError where they are many."""
    pieces = [token.replace("▁", " ") for token in header.texts("tokenizer.ggml.tokens")]
    compared = texts(pieces, control_tokens(tokenizer), _TEXTS)
    ours = tokenizer.encode_batch(compared, add_special_tokens=False)
    wrong = [text for text, one, ids in zip(compared, ours, tokenize(path, compared), strict=True) if one.ids != ids]
    if len(wrong) > _MAX_DIFFERING:
        raise ArtifactError(
            f"{path}: the tokenizer gives other ids than llama.cpp for {len(wrong)} of {len(compared)} texts, the "
            f"first {wrong[0][:60]!r}",
            remedy="--tokenizer FILE with the tokenizer.json of the model that this one was made from",
        )
    return len(wrong)


def _part(role: str, header: GgufHeader, staging: Path) -> Part:
    name = header.path.name if header.path.suffix == ".gguf" else f"{header.path.name}.gguf"
    path = staging / (f"mmproj-{name}" if (staging / name).exists() else name)
    link_or_copy(header.path, path)
    entry = manifests.file_entry(staging, path)
    weights: Counter[str] = Counter()
    for tensor in header.tensors.values():
        weights[tensor.type] += tensor.weights
    if not weights:
        raise ArtifactError(f"{header.path}: has no tensors")
    stated = header.fields.get("general.file_type")
    level = (FILE_TYPES.get(stated) if isinstance(stated, int) else None) or weights.most_common(1)[0][0]
    output: Output = "logits" if role == "decoder" else "image_tokens"
    return Part(
        id=manifests.part_id(role, "gguf", level, (entry,)),
        role=role,
        format="gguf",
        level=level,
        files=(entry,),
        weights=weights.total(),
        bits_per_weight=round(entry.bytes * 8 / weights.total(), 3),
        tensor_types=dict(weights.most_common()),
        output=output,
        requires={
            "gguf_version": 3,
            "architecture": header.text("general.architecture"),
            "memory_bytes": entry.bytes,
        },
        tools={},
    )


def _manifest(
    header: GgufHeader,
    parts: dict[str, Part],
    settings: dict[str, Any],
    preprocessing: Preprocessing | None,
    staging: Path,
) -> Manifest:
    files = {file.path: file.sha256 for part in parts.values() for file in part.files}
    listing = "\n".join(f"{path} {digest}" for path, digest in sorted(files.items()))
    stated = manifests.printable(header.text("general.license", "none"))
    level = parts["decoder"].level
    return Manifest(
        recipe="adopted",
        title=manifests.printable(header.text("general.name", header.path.stem)),
        family="medgemma",
        stand_in=None,
        license=f"The file names this licence: {stated}\nWhat it allows, the place it came from says.",
        modified="Made by others; adopted by edgekit, which changed nothing in it.",
        source=Source(name=header.path.name, sha256=hashlib.sha256(listing.encode()).hexdigest(), files=files),
        preprocessing=preprocessing,
        tokenizer=manifests.file_entry(staging, staging / _TOKENIZER),
        settings=settings,
        parts=tuple(parts.values()),
        variants={level: {role: part.id for role, part in parts.items()}},
        default=level,
        foreign=True,
        gates=Gates(),
    )
