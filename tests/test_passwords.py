"""The password of a key, as scripts give it and as people type it: a real terminal, a real file descriptor."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from edgekit.cli import main
from edgekit.commands.support import passwords
from edgekit.pack import keys

REPOSITORY = Path(__file__).resolve().parent.parent
LIMIT_S = 120


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    path = tmp_path / "protected"
    keys.generate(path, b"secret")
    return path


def options(**given: object) -> Namespace:
    return Namespace(**{"password": False, "password_fd": None, **given})


def on_a_terminal(words: Sequence[str | Path], typed: Sequence[str]) -> tuple[int, str]:
    """Run edgekit on a terminal of its own, and type a line at each prompt; its exit code and what was shown."""
    pty = pytest.importorskip("pty")
    process, terminal = pty.fork()
    if process == 0:
        command = [sys.executable, "-P", "-m", "edgekit", *map(str, words)]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(REPOSITORY)})
    shown, waiting, ends = b"", [*typed], time.monotonic() + LIMIT_S
    prompts = 0
    while time.monotonic() < ends and select.select([terminal], [], [], LIMIT_S)[0]:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # Linux: the other end was closed
            break
        if not piece:
            break
        shown += piece
        if waiting and shown.count(b": ") > prompts and shown.endswith(b": "):
            prompts = shown.count(b": ")
            os.write(terminal, f"{waiting.pop(0)}\n".encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode()


def test_a_new_password_is_asked_twice_and_never_shown(tmp_path: Path) -> None:
    code, shown = on_a_terminal(["keygen", "--to", tmp_path / "key", "--password"], ["secret", "secret"])
    assert code == 0, shown
    assert "secret" not in shown
    assert "whoever has it and its password signs in your name" in shown
    assert keys.private_key(tmp_path / "key", b"secret")


@pytest.mark.parametrize(("typed", "said"), [(("secret", "sekret"), "are not the same"), (("",), "of 0 bytes")])
def test_a_slip_makes_no_key(typed: Sequence[str], said: str, tmp_path: Path) -> None:
    code, shown = on_a_terminal(["keygen", "--to", tmp_path / "key", "--password"], typed)
    assert code == 2
    assert said in shown
    assert list(tmp_path.iterdir()) == []


def test_packing_asks_once_and_refuses_another(protected: Path, medgemma_artifact: Path, tmp_path: Path) -> None:
    words = ["pack", medgemma_artifact, "--device", "laptop-16gb-cpu", "--key", protected, "--to", tmp_path / "bundle"]
    code, shown = on_a_terminal(words, ["another"])
    assert code == 2
    assert f"password of {protected}: " in shown
    assert "its password is another one" in shown
    assert not (tmp_path / "bundle").exists()


def test_without_a_terminal_it_is_said_what_scripts_do(
    protected: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edgekit", "keygen", "--to", tmp_path / "key", "--password"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=LIMIT_S,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "--password-fd N, or $EDGEKIT_KEY_PASSWORD" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["protected", "protected.crt", "protected.pub"]


def test_the_environment_is_rid_of_it(protected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What packing starts, as the model that is asked, inherits the environment."""
    monkeypatch.setenv(passwords.VARIABLE, "secret")
    assert main(["keygen", "--to", str(tmp_path / "key")]) == 0
    assert passwords.VARIABLE not in os.environ
    assert keys.private_key(tmp_path / "key", b"secret")
    monkeypatch.setenv(passwords.VARIABLE, "secret")
    assert passwords.password_of(protected, options()) == b"secret"
    assert passwords.VARIABLE not in os.environ


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_descriptor_goes_before_the_environment(
    end: bytes, protected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passwords.VARIABLE, "another")
    reading, writing = os.pipe()
    os.write(writing, b"secret" + end)
    os.close(writing)
    try:
        assert passwords.password_of(protected, options(password_fd=reading)) == b"secret"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("number", "said"),
    [("-1", "is no file descriptor"), (str(1 << 40), "is no file descriptor"), ("9999", "cannot be read: Bad file")],
)
def test_what_is_no_file_descriptor(
    number: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["keygen", "--to", str(tmp_path / "key"), f"--password-fd={number}"]
    with suppress(SystemExit):  # so argparse ends
        assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_key_without_a_password_is_not_asked_about(tmp_path: Path) -> None:
    keys.generate(tmp_path / "plain")
    assert passwords.password_of(tmp_path / "plain", options()) is None
