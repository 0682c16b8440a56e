"""What a build of llama.cpp is made from and with: fetched by pip, refused unless it has the SHA-256 that we state.

The build tools lie in a folder of their own, for this one build: they change nothing in the user's environment, and
pip's own isolation, which would fetch the newest of them unseen, is switched off.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from edgekit.errors import EdgekitError, MissingDependencyError

VERSION = "0.3.36"
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
REQUIREMENTS = Path(__file__).with_name("build_requirements.txt")

_LINES = 5  # of what pip says: a hash that differs is followed by all that would have been right, and by the one found


def fetch_tools(folder: Path) -> dict[str, str]:
    """Install the build tools, and nothing else, into a folder.

    Returns:
        The environment that a build with them takes.

    Raises:
        EdgekitError: one of them cannot be had, or has another hash than is stated here.
        MissingDependencyError: this environment has no pip.
    """
    # --no-user: some systems make --user the default, which pip does not combine with --target.
    options = ("--no-user", "--target", str(folder), "--only-binary", ":all:")
    run_pip("the build tools", "install", "--quiet", *options, *_hashed(REQUIREMENTS))
    path = os.pathsep.join(filter(None, [str(folder / "bin"), os.environ.get("PATH")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}


def fetch_source(folder: Path, environment: dict[str, str]) -> Path:
    """Fetch the source package into a folder.

    Args:
        environment: with the build tools, which pip asks for the package's metadata once its hash was right.

    Raises:
        EdgekitError: it cannot be had, or has another hash than is stated here.
        MissingDependencyError: this environment has no pip.
    """
    wanted = folder / "source.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SOURCE_SHA256}\n", encoding="utf-8")
    options = ("--dest", str(folder), "--no-binary", "llama-cpp-python", "--no-build-isolation")
    what = f"the source of llama-cpp-python {VERSION}"
    run_pip(what, "download", "--quiet", *options, *_hashed(wanted), environment=environment)
    return folder / f"llama_cpp_python-{VERSION}.tar.gz"


def _hashed(requirements: Path) -> tuple[str, ...]:
    return ("--no-deps", "--require-hashes", "--requirement", str(requirements))


def run_pip(what: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    """Run this environment's pip.

    Raises:
        EdgekitError: it failed; the message says of what, and ends with what pip said.
        MissingDependencyError: there is no pip.
    """
    require_pip()
    done = subprocess.run(
        pip_command(*arguments), env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        kept = [*said[:_LINES], *said[_LINES:][-1:]]
        raise EdgekitError(
            f"pip could not {arguments[0]} {what}:\n" + "\n".join(f"  {line}" for line in kept),
            remedy="check the network and pip's settings (pip config list); if a hash differs, somebody changed the "
            "file on its way: use another index",
        )


def require_pip() -> None:
    """Raise MissingDependencyError where this environment has no pip."""
    if importlib.util.find_spec("pip") is None:
        raise MissingDependencyError(f"{sys.executable} has no pip", remedy=f"{sys.executable} -m ensurepip")


def pip_command(*arguments: str) -> list[str]:
    """This environment's pip as a command."""
    return [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments]
