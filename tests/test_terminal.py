"""What is shown: nothing that others wrote controls a terminal, errors are short lines, and no traceback unasked."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import unicodedata
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from material import edit_json, photo
from PIL import Image

import edgekit.runtime
from edgekit.artifacts import find
from edgekit.cli import guarded, main
from edgekit.commands import verbs
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import EdgekitError, GateError, InputError
from edgekit.inputs.message import Message
from edgekit.machine.cpu import Cpu
from edgekit.machine.device import Device, missing
from edgekit.machine.devices import device
from edgekit.runtime.base import Generation, Model
from edgekit.runtime.generation.answer import Piece
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.terminal import json_text, printable, shortened, stripped, stripped_line

Copy = Callable[[Path], Path]
PACKAGE = Path(edgekit.__file__).resolve().parent
BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eback\u2066in\u2069\x7f\x00\r\x85"
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(HOSTILE + "\ud800\n\t\u2028\U000e0041"))


def controls(text: str, allowed: str = "") -> set[str]:
    """What a terminal may obey: by Unicode's own tables, not by a list of ours."""
    return {
        c
        for c in text
        if c not in allowed
        and (unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in BIDI)
    }


# ---------------------------------------------------------------- text


@given(TEXT)
def test_nothing_that_is_printed_controls_a_terminal(text: str) -> None:
    assert not controls(printable(text))
    assert not controls(printable(text, lines=True), "\n\t")
    assert not controls(stripped(text), "\n\t")
    assert not controls(stripped_line(text))
    if not controls(text, "\n\t") and not any(unicodedata.category(c) == "Cf" for c in text):
        assert printable(text, lines=True) == stripped(text) == text


@given(st.text(st.sampled_from("aä漢🙂\u200d\u200c\u00a0 ")))
def test_other_writing_stays_as_it_is(text: str) -> None:
    assert printable(text) == stripped(text) == text


@given(st.recursive(TEXT | st.integers() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)))
def test_json_is_what_it_was_and_controls_nothing(data: Any) -> None:
    for indent in (None, 1):
        text = json_text(data, indent)
        assert json.loads(text) == data
        assert not controls(text, "\n")
        text.encode()


@given(TEXT, st.integers(20, 600))
def test_a_text_is_cut_in_the_middle_and_the_cut_is_marked(text: str, most: int) -> None:
    cut = shortened(text, most)
    assert len(cut) <= most
    if cut != text:
        before, mark, after = cut.rpartition(" [...] ")
        assert mark
        assert text.startswith(before)
        assert text.endswith(after)


@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1).map(" ".join), st.integers(20, 60))
def test_a_line_to_keep_is_cut_between_words_and_the_cut_is_marked(text: str, most: int) -> None:
    kept = stripped_line(text, most)
    assert len(kept) <= most
    if kept != text:
        whole, mark, after = kept.partition(" [...]")
        assert (mark, after) == (" [...]", "")
        assert text.startswith(f"{whole} ")


@given(TEXT, st.integers(1, 400), st.sampled_from([EdgekitError, InputError, GateError]))
def test_every_part_of_an_error_is_one_short_line(text: str, times: int, kind: type[EdgekitError]) -> None:
    error = kind(text * times, allowed=text * times, remedy=text * times)
    for part in (error.message, error.allowed or "", error.remedy or ""):
        assert len(part) <= 500
        assert not controls(part)


def test_a_long_error_keeps_its_beginning_and_its_end() -> None:
    error = EdgekitError("file.json: " + "x" * 5000 + " is wrong")
    assert error.message.startswith("file.json: x")
    assert error.message.endswith(" is wrong")
    assert "[...]" in error.message


def test_one_module_prints() -> None:
    """What reaches a terminal goes through one place, so that one place must be right."""
    printing = set()
    for path in PACKAGE.rglob("*.py"):
        if "training" not in path.parts:
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            if any(isinstance(called, ast.Name) and called.id == "print" for called in calls):
                printing.add(path.name)
    assert printing == {"terminal.py"}


# ---------------------------------------------------------------- what commands print


def test_figures_that_are_none_are_null_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1.0, float("nan")], "b": {"c": float("inf")}})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": [1.0, None], "b": {"c": None}}
    assert "a.1, b.c" in printed.err


def test_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["title\nedgekit: all is well", HOSTILE])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 2
    assert not controls(out, "\n")


def test_a_hostile_artifact_is_shown_harmlessly(
    medgemma_artifact: Path, copied: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(medgemma_artifact)
    harmless = "a\u202eb\u2066c\u2069"  # which names of an artifact may hold
    edit_json(
        folder / "edgekit.json",
        {"title": harmless, "stand_in": HOSTILE + "\n" + HOSTILE, "license": HOSTILE, "source.name": HOSTILE},
    )
    for options in ([], ["--json"]):
        assert main(["inspect", str(folder), *options]) == 0
        printed = capsys.readouterr()
        assert not controls(printed.out + printed.err, "\n")
    assert main(["ask", str(folder), "?", "--max-tokens", "1", "--level", "Q8_0"]) == 0
    printed = capsys.readouterr()
    assert not controls(printed.out + printed.err, "\n")
    edit_json(folder / "edgekit.json", {"tokenizer.path": HOSTILE, "default": HOSTILE})
    for options in ([], ["--json"]):
        assert main(["inspect", str(folder), *options]) == 1
        assert not controls(capsys.readouterr().err, "\n")


class Talker(Model):
    """A model whose answer tries to control the terminal."""

    def generate(
        self, messages: Sequence[Message], options: GenerationOptions | None = None, *, max_tokens: int | None = None
    ) -> Iterator[Piece | Generation]:
        yield from map(Piece, (f"{HOSTILE}one\n", "\ttwo", HOSTILE))
        yield Generation(f"{HOSTILE}one\n\ttwo{HOSTILE}", 1, 3, False, 0.1, 0.1, (HOSTILE,))

    def classify(self, images: Sequence[Any], labels: Sequence[str | Sequence[str]]) -> Any:
        return np.full((len(images), len(labels)), np.nan, np.float32)


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.runtime, "open_model", lambda *given, **named: Talker())


@pytest.mark.usefixtures("talker")
def test_an_answer_is_printed_without_what_controls_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "DIR", "?"]) == 0
    printed = capsys.readouterr()
    assert not controls(printed.out, "\n\t")
    assert "one\n\ttwo" in printed.out
    assert not controls(printed.err, "\n")
    assert main(["ask", "DIR", "?", "--json"]) == 0
    out = capsys.readouterr().out
    assert not controls(out, "\n")
    assert json.loads(out)["text"] == f"{HOSTILE}one\n\ttwo{HOSTILE}"


@pytest.mark.usefixtures("talker")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_scores_that_are_no_numbers_are_refused(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(photo(8, 8)).save(tmp_path / "a.png")
    assert main(["classify", "DIR", str(tmp_path / "a.png"), "--label", "x", *options]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no finite numbers" in printed.err


@pytest.mark.usefixtures("talker")
def test_ask_says_that_it_looks_and_for_how_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(photo(8, 8)).save(picture)
    assert main(["ask", "DIR", "?", "--image", str(picture)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "edgekit: looking at the image ..."
    assert re.fullmatch(r"edgekit: looked and read the question in \d+\.\d s", said[1])
    for quiet in (["--json", "--image", str(picture)], []):
        assert main(["ask", "DIR", "?", *quiet]) == 0
        assert "look" not in capsys.readouterr().err


@pytest.mark.parametrize("question", ["", " ", "\n\t \u00a0\u3000"])
def test_an_empty_question_is_refused_before_anything_is_opened(
    question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", str(tmp_path / "nothing"), question]) == 2
    assert "empty question" in capsys.readouterr().err


# ---------------------------------------------------------------- errors that nobody foresaw


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


def raising(error: BaseException) -> Callable[[Namespace], int]:
    def run(options: Namespace) -> int:
        raise error

    return run


def recursing(options: Namespace) -> int:
    return recursing(options)


ESCAPES = [ValueError("bad\nvalue \x1b[31m"), KeyError("x" * 5000), Panic("index out of bounds"), TypeError()]


@pytest.mark.parametrize("error", ESCAPES, ids=lambda error: type(error).__name__)
def test_an_unforeseen_error_is_one_line_with_an_offer(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(raising(error), Namespace(json=False, debug=False)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert type(error).__name__ in printed.err
    assert "--debug" in printed.err
    assert "Traceback" not in printed.err
    assert not controls(printed.err, "\n")
    assert guarded(raising(error), Namespace(json=True, debug=False)) == 1
    fields = json.loads(capsys.readouterr().err)
    assert fields["kind"] == type(error).__name__
    assert "--debug" in fields["error"]


@pytest.mark.parametrize("error", [*ESCAPES, InputError("no such image")], ids=lambda error: type(error).__name__)
def test_debug_shows_the_traceback_too(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raising(error), Namespace(json=False, debug=True)) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert 'test_terminal.py", line' in err
    assert not controls(err, "\n")


@pytest.mark.parametrize(
    ("run", "match"), [(raising(MemoryError()), "not enough memory"), (recursing, "nested too deeply")]
)
def test_too_little_memory_and_too_deep_nesting_are_known(
    run: Callable[[Namespace], int], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(run, Namespace(json=True, debug=False)) == 1
    fields = json.loads(capsys.readouterr().err)
    assert match in fields["error"]
    assert fields["kind"] == "EdgekitError"


def test_an_end_that_was_asked_for_is_no_error() -> None:
    with pytest.raises(SystemExit):
        guarded(raising(SystemExit(3)), Namespace(json=False, debug=False))


def test_every_command_takes_debug_before_and_after_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in verbs():
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert "--debug" in capsys.readouterr().out
    for command in (["--debug", "inspect", "nowhere"], ["inspect", "nowhere", "--debug"]):
        assert main(command) == 1
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--json"], ["ask", "--json"], ["list", "no\x1b[31mthing", "--json"], ["ask", "d", "q", "--json", "--x"]],
)
def test_wrong_usage_is_json_where_json_is_asked_for(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    fields = json.loads(printed.err)
    assert fields["kind"] == "UsageError"
    assert fields["try"].startswith("edgekit")
    assert not controls(printed.err, "\n")


def test_a_shell_sees_one_line_and_no_traceback(tmp_path: Path) -> None:
    """A real process, with an error that a file of others causes below everything that edgekit checks."""
    code = "import sys; from edgekit import cli, commands; from edgekit.commands import doctor\n"
    code += "import edgekit.commands.support.diagnosis as d; d.diagnose = lambda: 1 / 0\n"
    code += "sys.exit(cli.main(sys.argv[1:]))"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "doctor", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)

    plain, debugged = run(), run("--debug")
    assert (plain.returncode, plain.stdout, debugged.returncode) == (1, "", 1)
    assert re.fullmatch(r"edgekit: .*ZeroDivisionError.*--debug.*\n", plain.stderr)
    assert "Traceback" in debugged.stderr


# ---------------------------------------------------------------- a device that this machine is not

FACTS: dict[str, Any] = {"name": "board", "title": "a board", "memory_gb": 8, "model_memory_gb": 5, "bandwidth_gb_s": 9}
HERE = Cpu("a CPU", "x86_64", ("avx2",), 4, 2)


@pytest.mark.parametrize(
    ("facts", "memory_gb", "match"),
    [
        ({"cores": 4, "instruction_sets": ("avx2",)}, 8, None),
        ({"cores": 4}, 7.5, None),  # a machine sold with 8 GB
        ({"cores": 8}, 16, r"8 cores \(it has 4\)"),
        ({"cores": 2, "instruction_sets": ("avx2", "neon", "dotprod")}, 16, "neon, dotprod"),
        ({"cores": 2}, 4, r"8 GB of memory \(it has 4.0\)"),
    ],
)
def test_what_this_machine_lacks_of_a_device_is_said(facts: dict[str, Any], memory_gb: float, match: str) -> None:
    said = missing(Device(**FACTS, **facts), HERE, int(memory_gb * 1e9))
    assert said is None if match is None else re.search(match, said or "")


def test_a_device_that_is_not_this_machine_is_said_in_text_and_json(
    medgemma_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "giant.toml"
    profile.write_text(find.find("devices", "laptop-16gb-cpu").read_text().replace("cores = 6", "cores = 5000"))
    assert device(str(profile)).cores == 5000
    command = ["ask", str(medgemma_artifact), "?", "--max-tokens", "1", "--level", "Q8_0", "--device", str(profile)]
    assert main(command) == 0
    assert "this machine is no giant: it lacks 5000 cores" in capsys.readouterr().err
    assert main([*command, "--json"]) == 0
    assert any("this machine is no giant" in warning for warning in json.loads(capsys.readouterr().out)["warnings"])


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
