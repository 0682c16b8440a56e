"""The README names what exists, and nothing that does not."""

from __future__ import annotations

import re
from pathlib import Path

from edgekit.artifacts.levels import LEVELS
from edgekit.cli import parser
from edgekit.commands import verbs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_documented_and_exists() -> None:
    assert set(re.findall(r"^\| `edgekit (\w+)", README, re.MULTILINE)) == set(verbs())


def test_example_commands_parse() -> None:
    typed = re.sub(r"<!-- demo output -->.*<!-- /demo output -->", "", README, flags=re.DOTALL)
    blocks = "".join(re.findall(r"^```\n(.*?)^```", typed, re.MULTILINE | re.DOTALL))
    examples = re.findall(r"^edgekit (.+)$", blocks, re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        parser().parse_args([part.strip('"') for part in re.findall(r'"[^"]*"|\S+', example)])


def test_every_level_is_named() -> None:
    for name in LEVELS:
        assert re.search(rf"\b{re.escape(name)}\b", README), name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
