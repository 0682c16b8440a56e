"""The install script: check what is run, make an environment for the moment, have edgekit in it install the bundle."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from edgekit.pack.bootstrap.environment import check_place, clean_variables, make_environment, python_of
from edgekit.pack.bootstrap.here import RefusedError, check_platform, chosen, for_python, here
from edgekit.pack.bootstrap.trust import read, take, verified

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".edgekit-install-"
_Item = TypeVar("_Item")


def main(arguments: Sequence[str]) -> int:
    """`BUNDLE --to ROOT --key FILE [--json]`.

    Returns:
        The exit code; why it is not 0 is said on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="install",
        description="Install this bundle, or update to it what an earlier one installed. No network, no compiler.",
        epilog="Trust comes from the key alone, so it must come by another way than the bundle: in person, in print. "
        "This script came with the bundle. To rely on nothing that did, run the copy of it that came with the key: "
        "install.sh BUNDLE is the same for every bundle.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="its folder (default: where this script lies)")
    parser.add_argument("--to", type=Path, required=True, metavar="ROOT", help="a new folder, or an earlier ROOT")
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="the public key of the bundle's maker")
    parser.add_argument("--json", action="store_true", help="say no steps, and print the result as JSON")
    options = parser.parse_args(arguments)
    steps = Steps(silent=options.json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is temporary is removed
    try:
        return _install(options.bundle.absolute(), options.to.absolute(), options.key.absolute(), steps)
    except (RefusedError, OSError) as error:
        steps.end()
        sys.stderr.write(f"install: {error}\n")
        return 1


class Steps:
    """What is being done, a line each on standard error; on a terminal the line counts on.

    Args:
        silent: say nothing.
    """

    def __init__(self, *, silent: bool) -> None:
        self.silent, self._counts, self._open = silent, sys.stderr.isatty(), False

    def each(self, label: str, items: Sequence[_Item]) -> Iterator[_Item]:
        """A step of several items, which are handed out one after the other."""
        for number, item in enumerate(items, 1):
            if self._counts:
                self._write(f"\rinstall: {label}: {number} of {len(items)}")
            elif number == 1:
                self._write(f"install: {label}")
            self._open = True
            yield item
        self.end()

    def end(self) -> None:
        """End the line that is being written."""
        if self._open:
            self._write("\n")
        self._open = False

    def _write(self, text: str) -> None:
        if not self.silent:
            sys.stderr.write(text)
            sys.stderr.flush()


def _install(bundle: Path, root: Path, key: Path, steps: Steps) -> int:
    check_place(root)
    document, machine = verified(bundle, key), here()
    check_platform(document, machine)
    state = _state(root / "state.json")
    _check_version(document, state, root)
    wheels = set(chosen(for_python([file["path"] for file in document["files"]], machine), machine))
    files = [file for file in document["files"] if file["path"] in wheels]
    amount = f"{len(files)} wheels, {sum(file['bytes'] for file in files) / 1e6:.0f} MB"
    root.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(root.parent)
    # On the disk of the root: the one for temporary files may be memory.
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=root.parent) as temporary, _locked(temporary):
        environment, copies = Path(temporary, "env"), Path(temporary, "wheels")
        taken = take(bundle, steps.each(f"checking the installer: {amount}", files), copies)
        make_environment(environment, steps.each("unpacking the installer", taken))
        shutil.rmtree(copies)
        words = [python_of(environment), "-P", "-m", "edgekit", _verb(state), bundle]
        words += ["--to", root, "--key", key, *(["--json"] if steps.silent else [])]
        return subprocess.call([*map(str, words)], env=clean_variables())


def _state(path: Path) -> dict[str, Any] | None:
    """What a root's `state.json` says, nothing where there is none; None where it is damaged."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(read(path))
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def _verb(state: Mapping[str, Any] | None) -> str:
    """What edgekit is to do in a root; where its state is damaged, `update` says so."""
    return "install" if state is not None and not state.get("slot") else "update"


def _check_version(document: Mapping[str, Any], state: Mapping[str, Any] | None, root: Path) -> None:
    """Raise RefusedError for a bundle that was withdrawn from a root, or is older than what is in use there: not even
    its edgekit is run.
    """
    minimum, used = (state or {}).get("minimum", 1), _version_in_use(state, root)
    if document["version"] < used:
        raise RefusedError(
            f"{document['name']}: version {document['version']} is older than what {root} has, version {used}; "
            f"{root / 'run'} edgekit rollback --to {root} goes back"
        )
    if isinstance(minimum, int) and document["version"] < minimum:
        raise RefusedError(
            f"{document['name']}: version {document['version']} was withdrawn from {root}, which takes {minimum} on"
        )


def _version_in_use(state: Mapping[str, Any] | None, root: Path) -> int:
    """What a root has in use, as far as that can be read: 0 where nothing is."""
    slot = (state or {}).get("slot")
    if slot not in ("a", "b") or not (root / slot / "bundle.json").is_file():
        return 0
    try:
        said = json.loads(read(root / slot / "bundle.json"))
    except (ValueError, RecursionError, RefusedError):
        return 0
    version = said.get("version") if isinstance(said, dict) else 0
    return version if isinstance(version, int) else 0


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """A folder that is in use as long as this process lives; raises BlockingIOError where another's lives."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe is not waited for
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "is another user's", folder)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_left(folder: Path) -> None:
    """Remove what scripts left that were killed; without locks, as on Windows, nobody knows which those are."""
    for left in folder.glob(f"{_PREFIX}*") if fcntl else ():
        with suppress(OSError), _locked(str(left)):
            shutil.rmtree(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
