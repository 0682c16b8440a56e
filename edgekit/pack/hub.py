"""Lay an artifact out as a repository of Hugging Face's hub, for `hf upload`.

    README.md          the card, with the metadata that the hub reads
    *.gguf             decoders at the top, as llama.cpp and Ollama look for a level in a file's name
    mmproj-*.gguf      vision parts
    onnx/              as Transformers.js and optimum look for them
    config.json, tokenizer.json, ...
    template, params   for Ollama
    papers/            notice, agreement, modifications, ML-BOM
    edgekit.json       so that edgekit opens it as any other artifact

Artifacts are laid out so already: what a repository has beside is the card and the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.folders import new_folder, staging_of
from edgekit.artifacts.manifest import Manifest
from edgekit.pack.contents import contents
from edgekit.pack.contents.base import About
from edgekit.pack.gather import gather
from edgekit.progress import Progress


def lay_out(artifact: Path, levels: Sequence[str], about: About, target: Path, progress: Progress) -> Manifest:
    """Write the repository.

    Args:
        levels: of the artifact, the one that edgekit opens by default first; all of them for none.
        target: a new or an empty folder.

    Raises:
        UsageError: there is no such level, `target` holds something, or the text that the model's licence wants every
            recipient to have is missing.
        ArtifactError: the artifact or one of its files is not what it must be.
        NoSpaceError: the disk is full.
    """
    manifest = manifests.read(artifact)
    every = [manifest.default, *(name for name in manifest.variants if name != manifest.default)]
    gathering = gather(artifact, levels or every, about, staging_of(target), None, progress)
    with file_errors(target), new_folder(target) as staging:
        gathering = replace(gathering, staging=staging)
        try:
            for content in contents():
                if not content.installs:
                    progress.start(content.label, 0)
                    content.write(gathering)
        finally:
            progress.finish()
    return gathering.manifest
