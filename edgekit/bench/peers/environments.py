"""Where a peer's environment is, and how one is made."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.folders import updating
from edgekit.bench.peers.catalog import PEERS, Peer
from edgekit.errors import EdgekitError, MissingDependencyError, unknown
from edgekit.machine.cache import cache_folder, private_folder

_ASK_S = 120
_PYTHON = "an environment's Python"
_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    """A peer that can be run here.

    Attributes:
        program: the Python of its environment, or the peer's own program.
        versions: of its packages.
    """

    peer: Peer
    program: Path
    versions: dict[str, str]


def found(given: str, *, install: bool = False) -> Environment:
    """The environment of a peer.

    Args:
        given: NAME, or NAME=PROGRAM with the Python of an environment that has it, or the program itself.
        install: make an environment with pip where there is none.

    Raises:
        UsageError: there is no such peer.
        MissingDependencyError: it is not here; the message says how it is made.
        EdgekitError: its environment cannot be made.
    """
    name, _, named = given.partition("=")
    if name not in PEERS:
        raise unknown("peer", name, list(PEERS))
    peer = PEERS[name]
    if not peer.packages:
        return _binary(peer, named)
    if named:
        return _checked(peer, Path(named))
    python = _folder(peer) / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if install:
        _install(peer, python)
    if _is_made(peer, python):
        return _checked(peer, python)
    return _checked(peer, Path(sys.executable))  # where it may be installed, too


def _binary(peer: Peer, named: str) -> Environment:
    program = shutil.which(named or peer.name)
    if program is None:
        remedy = f"--peer {peer.name}=PROGRAM, with the program's path"
        raise MissingDependencyError(f"{peer.title} is not here: no program {named or peer.name}", remedy=remedy)
    said = re.search(r"version: *(.+)", _said([program, "--version"], peer.title, check=False))
    return Environment(peer, Path(program).absolute(), {peer.name: said[1].strip() if said else ""})


def _checked(peer: Peer, python: Path) -> Environment:
    """The environment of this Python, where it has the peer's own packages."""
    versions = _versions(peer, python)
    missing = [name for name in peer.distributions if name not in versions]
    if not missing:
        return Environment(peer, python.absolute(), versions)  # a link is kept: by it Python knows its environment
    packages = " ".join(f"'{one}'" for one in peer.packages)
    raise MissingDependencyError(
        f"{peer.title} is not in the environment of {python}: {missing[0]} is missing",
        remedy=f"--install-peers, which makes {_folder(peer)}; or pip install {packages} in an environment of its own, "
        f"and --peer {peer.name}=PYTHON with that one's Python",
    )


def _versions(peer: Peer, python: Path) -> dict[str, str]:
    command = [str(python), "-I", "-c", _VERSIONS, *peer.distributions]
    try:
        versions = json.loads(_said(command, _PYTHON))
    except (ValueError, RecursionError):
        versions = None
    if not (isinstance(versions, dict) and all(isinstance(version, str) for version in versions.values())):
        raise MissingDependencyError(f"{python}: does not run: it does not answer as a Python does", allowed=_PYTHON)
    return versions


def _said(command: list[str], allowed: str, *, check: bool = True) -> str:
    """What a program prints, on its standard error as well where it need not end well."""
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_ASK_S, check=check
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingDependencyError(f"{command[0]}: does not run: {error}", allowed=allowed) from error
    return done.stdout if check else done.stdout + done.stderr


def _folder(peer: Peer) -> Path:
    return cache_folder() / "peers" / peer.name


def _unfinished(peer: Peer) -> Path:
    """The file that is there while an environment is made, and after a run that was killed at it."""
    return _folder(peer).with_name(f".{peer.name}.unfinished")


def _is_made(peer: Peer, python: Path) -> bool:
    return python.exists() and not _unfinished(peer).exists()


def _install(peer: Peer, python: Path) -> None:
    """An environment by package names; one that was not finished is removed, here or by the next run that wants it."""
    folder = _folder(peer)
    with updating(private_folder(folder.parent)):  # of two runs one installs, and the other waits for it
        if _is_made(peer, python):
            return
        _unfinished(peer).touch()
        try:
            _fill(peer, folder, python)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _unfinished(peer).unlink()


def _fill(peer: Peer, folder: Path, python: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *peer.packages], capture_output=True, text=True, check=True)
        if peer.without:
            subprocess.run([*pip, "uninstall", "--yes", *peer.without], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise EdgekitError(f"{peer.title}: its environment cannot be made: {said[-1] if said else error}") from error
