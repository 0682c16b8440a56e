"""Gemma 3's turns as a jinja template: what edgekit writes beside the checkpoints that it makes."""

from __future__ import annotations

from importlib.resources import files


def chat_template() -> str:
    """The text of chat_template.jinja."""
    return files("edgekit.families.gemma3").joinpath("chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
