"""Conversations in a terminal and from one command to the next: real processes, a real terminal for Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from edgekit.inputs import phantoms
from edgekit.machine.kept import CONVERSATIONS, Kept

pytestmark = pytest.mark.skipif(os.name == "nt", reason="terminals as POSIX has them")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "chest.png"
    Pillow.fromarray(next(iter(phantoms.generate(919, 1))).image).save(path)
    return path


def environment(tmp_path: Path) -> dict[str, str]:
    """With a folder of its own for what is kept, and llama.cpp's build where it is."""
    from edgekit.machine.cache import cache_folder

    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700, exist_ok=True)
    for name in ("llama-cpp", "tried"):
        if (cache_folder() / name).exists() and not (cache / name).exists():
            (cache / name).symlink_to(cache_folder() / name)
    return {**os.environ, "EDGEKIT_CACHE": str(cache)}


def edgekit(tmp_path: Path, *arguments: object, lines: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        input=lines,
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=300,
        check=False,
    )


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_conversation_holds_what_was_said(tmp_path: Path, medgemma_artifact: Path, picture: Path) -> None:
    lines = f"/image {picture}\nWhat is the main finding in this image?\nIs it severe?\n/new\nWhat is a cough?\n"
    first, second, third = answers(
        edgekit(tmp_path, "chat", medgemma_artifact, "--max-tokens", 12, "--json", lines=lines)
    )
    assert first["cached_tokens"] >= 16, "the image came before its question"
    assert second["cached_tokens"] >= first["prompt_tokens"]
    assert third["prompt_tokens"] < first["prompt_tokens"]
    assert Kept(CONVERSATIONS).folder != tmp_path / "cache" / "kept" / "conversations"
    assert not (tmp_path / "cache" / "kept").exists(), "nothing was named, so nothing stays"


@pytest.mark.parametrize("line", ["/image no-such-file.png", "/nonsense", "<start_of_turn>"])
def test_a_program_that_types_what_cannot_be_done_is_told(tmp_path: Path, medgemma_artifact: Path, line: str) -> None:
    """Its next question would be answered as if it had been done."""
    done = edgekit(tmp_path, "chat", medgemma_artifact, "--max-tokens", 4, lines=f"{line}\nWhat is the finding?\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr


def test_what_is_cut_off_or_drawn_is_said_every_time(tmp_path: Path, medgemma_artifact: Path) -> None:
    options = ("--max-tokens", 1, "--temperature", 5)
    done = edgekit(tmp_path, "chat", medgemma_artifact, *options, lines="Hello\nAgain\n")
    assert done.returncode == 0
    assert done.stderr.count("cut off at 1 tokens") == done.stderr.count("drawn with --seed") == 2
    assert done.stderr.count("reference model") == 1


@pytest.mark.parametrize(
    ("options", "remedy"),
    [(["--max-tokens", 3], "--max-tokens"), (["--deadline", 0], "--deadline"), (["--stop", "a"], "--stop")],
)
def test_a_part_of_a_form_is_no_answer(
    tmp_path: Path, medgemma_artifact: Path, options: list[str | int], remedy: str
) -> None:
    form = ("--regex", "[ab]{80}", "--conversation", "c", *options)
    for command, lines in ((("ask", medgemma_artifact, "Hello"), ""), (("chat", medgemma_artifact), "Hello\nAgain\n")):
        cut = edgekit(tmp_path, *command, *form, lines=lines)
        assert cut.returncode == 1
        assert cut.stderr.count("before it had its form") == 1
        assert remedy in cut.stderr.splitlines()[-1]
        kept = json.loads(edgekit(tmp_path, "cache", "--json").stdout)[1]
        assert kept["conversations"] == [], "nobody goes on from it"


def test_a_question_without_an_answer_is_said_to_be_none_of_the_conversation(
    tmp_path: Path, medgemma_artifact: Path
) -> None:
    for command in (("ask", medgemma_artifact, "Hello"), ("chat", medgemma_artifact)):
        done = edgekit(tmp_path, *command, "--conversation", "c", "--deadline", 0, lines="Hello\n")
        assert done.returncode == 0
        assert "has to be asked again" in done.stderr


def test_a_named_conversation_goes_on_in_another_process(
    tmp_path: Path, medgemma_artifact: Path, picture: Path
) -> None:
    common = ("--max-tokens", 12, "--json")
    ask = ("ask", medgemma_artifact)
    image = ("What is the main finding in this image?", "--image", picture)
    first = json.loads(edgekit(tmp_path, *ask, *image, *common, "--conversation", "case 1").stdout)
    later = json.loads(edgekit(tmp_path, *ask, "Is it severe?", *common, "--conversation", "case 1").stdout)
    assert later["cached_tokens"] >= first["prompt_tokens"]
    together = f"/image {picture}\nWhat is the main finding in this image?\nIs it severe?\n"
    told = answers(edgekit(tmp_path, "chat", medgemma_artifact, *common, lines=together))
    assert [first["text"], later["text"]] == [one["text"] for one in told]
    other = json.loads(edgekit(tmp_path, *ask, "Is it severe?", *common, "--conversation", "case 2").stdout)
    assert other["prompt_tokens"] < later["prompt_tokens"]
    listed = json.loads(edgekit(tmp_path, "cache", "--json").stdout)[1]["conversations"]
    assert [(one["name"], one["turns"]) for one in listed] == [("case 1", 4), ("case 2", 2)]
    assert edgekit(tmp_path, "cache", "--forget", "case 3").returncode == 1
    gone = edgekit(tmp_path, "cache", "--forget", "case 1")
    assert "case 1" not in gone.stdout
    assert "case 2: 2 turns" in gone.stdout
    assert len(list((tmp_path / "cache" / "kept" / "conversations").iterdir())) == 1


def test_another_model_begins_anew_and_another_context_computes_again(tmp_path: Path, medgemma_artifact: Path) -> None:
    ask = ("ask", medgemma_artifact, "--max-tokens", 6, "--json", "--conversation", "c")
    first = json.loads(edgekit(tmp_path, *ask, "What is a cough?").stdout)
    other = json.loads(edgekit(tmp_path, *ask, "And a fever?", "--level", "Q4_0").stdout)
    assert other["prompt_tokens"] <= first["prompt_tokens"]
    narrower = edgekit(tmp_path, *ask, "And a fever?", "--context", 300)
    assert narrower.returncode == 0, narrower.stderr
    assert json.loads(narrower.stdout)["prompt_tokens"] > first["prompt_tokens"]


def entry(tmp_path: Path, kind: str = "conversations") -> Path:
    (path,) = (tmp_path / "cache" / "kept" / kind).iterdir()
    return path


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def test_what_is_computed_can_be_damaged_and_what_was_said_is_never_begun_anew(
    tmp_path: Path, medgemma_artifact: Path
) -> None:
    ask = ("ask", medgemma_artifact, "What is a cough?", "--max-tokens", 6, "--json", "--conversation", "c")
    first = json.loads(edgekit(tmp_path, *ask).stdout)
    damage(entry(tmp_path, "computed"))
    later = edgekit(tmp_path, *ask)
    assert "is computed again" in later.stderr
    told = json.loads(later.stdout)
    assert (told["cached_tokens"], told["prompt_tokens"] > first["prompt_tokens"]) == (0, True)

    path = entry(tmp_path)
    right = path.read_bytes()
    damage(path)
    damaged = path.read_bytes()
    refused = edgekit(tmp_path, *ask)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert str(path) in refused.stderr
    remedy = f"edgekit cache --forget {path.name}"
    assert remedy in refused.stderr
    assert path.read_bytes() == damaged
    (listed,) = json.loads(edgekit(tmp_path, "cache", "--json").stdout)[1]["conversations"]
    assert (listed["name"], listed["file"], listed["whole"]) == ("c", path.name, False)

    path.unlink()
    path.mkdir()  # what even root cannot read
    refused = edgekit(tmp_path, *ask)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert str(path) in refused.stderr
    path.rmdir()

    path.write_bytes(right)
    path.parent.chmod(0o777)
    refused = edgekit(tmp_path, *ask)
    assert (refused.returncode, refused.stdout, path.read_bytes()) == (1, "", right)
    assert "chmod go-w" in refused.stderr
    path.parent.chmod(0o700)

    damage(path)
    assert edgekit(tmp_path, *remedy.split()[1:]).returncode == 0
    assert not path.exists()
    assert not list((tmp_path / "cache" / "kept" / "computed").iterdir())
    assert json.loads(edgekit(tmp_path, *ask).stdout)["prompt_tokens"] == first["prompt_tokens"]


def test_one_process_at_a_time_has_a_conversation(tmp_path: Path, medgemma_artifact: Path) -> None:
    options = ("--max-tokens", 4, "--conversation", "c")
    ask = ("ask", medgemma_artifact, "Hello", *options)
    with terminal(tmp_path, "chat", medgemma_artifact, *options) as screen:
        screen.wait_for("> ")
        screen.type("What is a cough?\n")
        screen.wait_for("> ")
        kept = entry(tmp_path, "computed").name
        for command in (ask, ("chat", medgemma_artifact, *options), ("cache", "--forget", "c")):
            second = edgekit(tmp_path, *command)
            assert (second.returncode, second.stdout) == (1, "")
            assert "conversation c is open in another process" in second.stderr
        cleared = edgekit(tmp_path, "cache", "--clear")
        assert cleared.returncode == 1
        assert "open" in cleared.stderr
        assert (tmp_path / "cache" / "kept" / "conversations" / kept).is_file()
        assert edgekit(tmp_path, *ask[:-1], "another").returncode == 0
        screen.process.kill()
        screen.process.wait()
    assert edgekit(tmp_path, *ask).returncode == 0, "a killed process holds nothing"
    cleared = edgekit(tmp_path, "cache", "--clear")
    assert cleared.returncode == 0
    for kind in ("conversations", "computed"):
        assert not list((tmp_path / "cache" / "kept" / kind).iterdir())


def test_an_answer_that_can_be_no_turn_is_not_gone_on_from(tmp_path: Path, medgemma_artifact: Path) -> None:
    options = ("--max-tokens", 20, "--conversation", "c")
    ask = ("ask", medgemma_artifact, "What is a cough?", *options)
    poisoned = edgekit(tmp_path, *ask, "--choice", "<end_of_turn>")
    assert (poisoned.returncode, poisoned.stdout.strip()) == (0, "<end_of_turn>")
    assert "control token <end_of_turn>" in poisoned.stderr
    assert "has to be asked again" in poisoned.stderr
    assert not list((tmp_path / "cache" / "kept" / "conversations").iterdir())
    assert edgekit(tmp_path, *ask).returncode == 0
    chat = ("chat", medgemma_artifact, "--choice", "<end_of_turn>", "--max-tokens", 20)
    both = edgekit(tmp_path, *chat, lines="Hello\nAgain\n")
    assert both.returncode == 0, both.stderr
    assert both.stderr.count("has to be asked again") == 2


class Terminal:
    """A terminal of a process: what it shows, and what is typed."""

    def __init__(self, handle: int, process: subprocess.Popen[bytes]) -> None:
        self.handle, self.process, self.seen = handle, process, ""

    def wait_for(self, pattern: str, within_s: float = 240) -> None:
        """Read until it shows this, from what was not waited for yet."""
        end = time.monotonic() + within_s
        while not (found := re.search(pattern, self.seen)):
            ready, _, _ = select.select([self.handle], [], [], max(0, end - time.monotonic()))
            assert ready, f"it does not show {pattern!r}: {self.seen}"
            try:
                self.seen += os.read(self.handle, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"it ended: {self.seen}") from None
        self.seen = self.seen[found.end() :]

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C until it shows this: Python's readline is deaf to one between its prompt and its waiting for keys."""
        for _ in range(20):
            self.type("\x03")
            with suppress(AssertionError):
                return self.wait_for(pattern, within_s=5)
        raise AssertionError(f"Ctrl-C does nothing: {self.seen}")


@contextmanager
def terminal(tmp_path: Path, *arguments: object) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(tmp_path),
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path, medgemma_artifact: Path) -> None:
    """A stand-in says little by itself; kept to so many letters, it cannot end before."""
    options = ("--max-tokens", 3500, "--temperature", 5, "--seed", 1, "--regex", "([a-z]{1,9} ){900}")
    with terminal(tmp_path, "chat", medgemma_artifact, *options) as screen:
        screen.wait_for("> ")
        screen.type("What is a cough?\n")
        screen.wait_for(r"\w+ .*\w+ .*\w+ .*\w+ .*\w+ .*\w+ .*\w+")
        screen.type("\x03")
        screen.wait_for("cut off at .* it was cancelled")
        screen.wait_for("before it had its form")
        screen.wait_for("> ")
        screen.interrupt("/quit or Ctrl-D")
        for line, said in (("/image no-such-file.png", "no-such-file.png: no such"), ("/nonsense", "is no command")):
            screen.type(f"{line}\n")
            screen.wait_for(said)
            screen.wait_for("> ")
        screen.type("/held\n")
        screen.wait_for("0 turns")  # a part of a form is no answer
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.process.wait(60) == 0


def test_what_would_be_passed_over_is_refused(tmp_path: Path, medgemma_artifact: Path) -> None:
    """What says how to draw where nothing is drawn, and an instruction that comes too late."""
    ask = ("ask", medgemma_artifact, "What is a cough?", "--max-tokens", 3)
    for option in (("--top-p", 0.5), ("--top-k", 3), ("--min-p", 0.1), ("--seed", 0)):
        done = edgekit(tmp_path, *ask, *option)
        assert done.returncode == 2
        assert f"{option[0]} without --temperature" in done.stderr
    named = (*ask, "--conversation", "c", "--system", "You are brief.")
    assert edgekit(tmp_path, *named).returncode == 0
    late = edgekit(tmp_path, *named)
    assert (late.returncode, late.stdout) == (2, "")
    assert "--system in a conversation that has begun" in late.stderr
