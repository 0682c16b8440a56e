"""What Ollama looks for in a repository of the hub: the chat format, and how it decodes."""

from __future__ import annotations

from edgekit.export import llama_programs
from edgekit.pack.contents.base import Content, Gathering


def write(gathering: Gathering) -> None:
    """Write it for the hub alone: a bundle brings its own program."""
    if gathering.target is None:
        for name, text in llama_programs.hub_files(gathering.manifest).items():
            gathering.write(name, text)


CONTENT = Content("writing what Ollama takes", 15, write)
