"""The READMEs name what exists, and nothing that does not; what follows from the code is generated."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from bench_records import answers, results, row
from pydantic import BaseModel

from edgekit.artifacts.gates import Gates
from edgekit.artifacts.levels import LEVELS
from edgekit.artifacts.recipes import Recipe, recipe
from edgekit.bench import as_json, datasets, tasks
from edgekit.bench.kinds import kinds
from edgekit.cli import parser
from edgekit.commands import verbs
from edgekit.errors import InputError
from edgekit.machine.device import Device
from edgekit.machine.devices import device

ROOT = Path(__file__).resolve().parent.parent
FILES = ("README.md", "exports/README.md", "devices/README.md", "benchmarks/README.md", "benchmarks/RESULTS.md")
SCHEMAS: dict[str, tuple[type[BaseModel], ...]] = {
    "exports": (Recipe, Gates),
    "devices": (Device,),
    "benchmarks": tuple(kinds().values()),
}
CHECKS = {"exports": recipe, "devices": device, "benchmarks": tasks.task}


def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language; those without a name are what is typed and printed."""
    return [body for name, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if name == language]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_text", ROOT / ".ci" / "generated_text.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", FILES)
def test_generated_parts_are_what_the_code_says(
    generator: ModuleType, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEKIT_HOME", raising=False)
    assert set(generator.PARTS) == set(FILES)
    assert generator.generated(file) == text_of(file), "make readme"


def test_a_committed_run_stands_in_the_results_with_its_command(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "RESULTS", tmp_path)
    (tmp_path / "run.json").write_text(as_json(results(row("Q8_0", answers(0.8125)))), encoding="utf-8")
    (tmp_path / "hand.json").write_text('{"records": [], "what": "of a script"}', encoding="utf-8")
    (tmp_path / "hand.md").write_text("# By | hand\n\nmore\n", encoding="utf-8")
    measured, others = generator.measured(), generator.other_records()
    assert measured.startswith("## [run.json](results/run.json)\n\n    edgekit bench ./medgemma\n\n### Decision")
    assert "81.2" in measured
    assert r"| By \| hand | [hand.md](results/hand.md) | [hand.json](results/hand.json) |" in others
    assert "run.json" not in others
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    (tmp_path / "run.json").write_text(text.replace('"bench_version": 1', '"bench_version": 0'), encoding="utf-8")
    with pytest.raises(InputError, match="bench_version 0"):
        generator.measured()


def test_a_usage_without_its_optional_parts(generator: ModuleType) -> None:
    usage = "usage: edgekit classify [-h] [--json] --label TEXT\n       [--level [NAME]] DIR IMAGE [IMAGE ...]\n"
    assert generator.required(usage) == "edgekit classify --label TEXT DIR IMAGE"


def test_every_command_is_documented_and_exists() -> None:
    assert set(re.findall(r"^\| `edgekit ([\w-]+)", text_of("README.md"), re.MULTILINE)) == set(verbs())


@pytest.mark.parametrize("file", FILES)
def test_example_commands_parse(file: str) -> None:
    typed = re.sub(r"<!-- demo output -->.*<!-- /demo output -->", "", text_of(file), flags=re.DOTALL)
    examples = re.findall(r"^(?:\$ )?edgekit (.+)$", "".join(blocks(typed, "")), re.MULTILINE)
    assert examples
    for example in examples:
        if not example.startswith("reference model"):  # the first line of an artifact's description
            parser().parse_args([part.strip('"') for part in re.findall(r'"[^"]*"|\S+', example)])


def test_every_level_is_named() -> None:
    for name in LEVELS:
        assert re.search(rf"^\| {re.escape(name)} \|", text_of("exports/README.md"), re.MULTILINE), name


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_key_of_a_file_is_explained(kind: str) -> None:
    keys = {key for schema in SCHEMAS[kind] for key in schema.model_fields} - {"name"}  # the file's own name
    section = text_of(f"{kind}/README.md").split("## The file, by example")[1].split("\n## ")[0]
    explained = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert keys <= explained
    assert explained - keys <= {"extends"} | set(kinds())


@pytest.mark.parametrize("kind", SCHEMAS)
def test_example_files_are_valid(kind: str, tmp_path: Path) -> None:
    files = blocks(text_of(f"{kind}/README.md"), "toml")
    assert files
    for number, block in enumerate(files):
        assert tomllib.loads(block)
        path = tmp_path / f"{number}.toml"
        path.write_text(block, encoding="utf-8")
        check = datasets.source if "\nreader = " in block else CHECKS[kind]
        assert check(str(path)).name == str(number)


@pytest.mark.parametrize("file", [*FILES, "CHANGELOG.md"])
def test_links_lead_somewhere(file: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text_of(file))
    assert targets or file in ("devices/README.md", "CHANGELOG.md")
    for target in targets:
        assert ((ROOT / file).parent / target).exists(), target
