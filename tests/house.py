"""A copy of edgekit that a test may add to, and that says which of its files are new or changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).resolve().parent.parent
_PARTS = ("edgekit", "exports", "devices", "benchmarks", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "results", "training")


class House:
    """A checkout in a folder of its own, whose command line a test runs.

    Attributes:
        root: the checkout.
        work: an empty folder beside it, in which commands run.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.work = folder / "house", folder / "work"
        self.work.mkdir()
        self.root.mkdir()
        for part in _PARTS:
            source, target = _REPOSITORY / part, self.root / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=_LEFT_OUT, copy_function=_copy)
            else:
                _copy(str(source), str(target))
        self._before = self._files()

    def write(self, name: str, text: str) -> Path:
        """Write a new file, named relative to the checkout."""
        path = self.root / name
        assert not path.exists(), f"{name} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def insert(self, name: str, after: str, text: str) -> None:
        """Insert lines below the one line of a file that reads exactly so."""
        path = self.root / name
        lines = path.read_text(encoding="utf-8").split("\n")
        assert lines.count(after) == 1, f"{name} has {lines.count(after)} lines {after!r}"
        lines[lines.index(after) + 1 : lines.index(after) + 1] = text.strip("\n").split("\n")
        path.write_text("\n".join(lines), encoding="utf-8")

    def copy_folder(self, name: str, to: str, replace: dict[str, str]) -> None:
        """Copy a folder of text files, putting other words in the place of some, each of which must occur."""
        missing = set(replace)
        for source in sorted((self.root / name).rglob("*")):
            if source.is_file() and source.suffix != ".pyc":
                text = source.read_text(encoding="utf-8")
                for old, new in replace.items():
                    missing -= {old} if old in text else set()
                    text = text.replace(old, new)
                self.write(f"{to}/{source.relative_to(self.root / name).as_posix()}", text)
        assert not missing, f"{name} has no {missing}"

    def changed(self) -> set[str]:
        """The files that were added, changed or removed, relative to the checkout."""
        now = self._files()
        return {name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)}

    def python(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with this checkout's edgekit."""
        ours = ("EDGEKIT_HOME", "EDGEKIT_RUNTIME")
        inherited = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.work,
            env={**inherited, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "", **environment},
            timeout=600,
        )

    def run(self, *arguments: str | Path, **environment: str) -> str:
        """Run a command of edgekit, which must succeed; what it printed."""
        done = self.python("-m", "edgekit", *arguments, **environment)
        assert done.returncode == 0, f"edgekit {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def refused(self, *arguments: str | Path, **environment: str) -> str:
        """Run a command of edgekit, which must end with an error of its own; what it said."""
        done = self.python("-m", "edgekit", *arguments, **environment)
        assert done.returncode in (1, 2), f"edgekit {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def json(self, *arguments: str | Path, **environment: str) -> Any:
        """What a command prints with `--json`."""
        return json.loads(self.run(*arguments, "--json", **environment))

    def _files(self) -> dict[str, str]:
        """Every file but compiled ones -> the hash of its content; weights, which are links, by where they lead."""
        return {
            path.relative_to(self.root).as_posix(): str(path.readlink()) if path.is_symlink() else _hash(path)
            for path in self.root.rglob("*")
            if (path.is_file() or path.is_symlink()) and path.suffix != ".pyc"
        }


def _copy(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).symlink_to(source)
    else:
        shutil.copyfile(source, target)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
