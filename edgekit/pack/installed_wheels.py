"""Wheels of what is installed here: edgekit's own, and those of the packages that it runs with.

An installed package is its wheel unpacked, and its RECORD has the hash of every file: packed again it is what others
can install, without an index, and in the very version that the artifact was proven with. Of a checkout, edgekit's wheel
is built; both ways give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path, PurePosixPath

import edgekit
from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.machine.temporary import temporary_folder
from edgekit.pack.wheel_files import Wheel, read_wheel, write_wheel
from edgekit.runtime.llama.build_inputs import run_pip

# What an installer adds to a wheel's metadata, each a statement about this one installation.
_INSTALLERS = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"}


def own_wheel(folder: Path) -> Path:
    """Write edgekit's wheel into a folder.

    Raises:
        MissingDependencyError: a checkout cannot be built here.
        ArtifactError: a file of the installed package is not the one that was installed.
        EdgekitError: the build failed.
    """
    checkout = Path(edgekit.__file__).resolve().parent.parent
    is_checkout = (checkout / "pyproject.toml").is_file()
    return write_wheel(_built(checkout) if is_checkout else installed_wheel("edgekit"), folder)


def installed_wheel(name: str) -> Wheel:
    """The wheel that an installer unpacked, as its RECORD knows it, but for programs, which an installer makes anew.

    Raises:
        MissingDependencyError: the package is not installed.
        ArtifactError: it did not come from a wheel, or a file is not the one that was installed.
    """
    try:
        installed = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDependencyError(f"{name} is not installed here", remedy=f"pip install {name}") from error
    files: dict[str, bytes] = {}
    for file in installed.files or ():
        path = PurePosixPath(file)
        of_installer = path.parent.name.endswith(".dist-info") and path.name in _INSTALLERS
        if path.parts[0] == ".." or path.suffix == ".pyc" or of_installer:
            continue
        data = Path(str(file.locate())).read_bytes()
        if file.hash is None or file.hash.value != _digest(file.hash.mode, data):
            raise ArtifactError(
                f"{file.locate()}: was changed since it was installed, so it is not what others should get",
                remedy=f"pip install --force-reinstall --no-deps {name}=={installed.version}",
            )
        files[str(path)] = data
    described = next((path for path in files if path.endswith(".dist-info/WHEEL")), None)
    if described is None:
        raise ArtifactError(
            f"{name} was not installed from a wheel",
            remedy="give a folder of wheels, or have them fetched: --wheelhouse FOLDER, --download",
        )
    package, _, version = described.partition(".dist-info/")[0].rpartition("-")
    return Wheel(package, version, _tag(files[described].decode()), files)


def _built(checkout: Path) -> Wheel:
    if importlib.util.find_spec("hatchling") is None:
        raise MissingDependencyError(
            f"hatchling is not installed: the wheel of {checkout} is built by it", remedy="pip install hatchling"
        )
    with temporary_folder("wheel") as scratch:
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
        run_pip("edgekit's own", "wheel", *options, "--wheel-dir", str(scratch), str(checkout))
        return read_wheel(next(scratch.glob("*.whl")))


def _tag(described: str) -> str:
    """The tag that a wheel's file name has: its single ones, joined by dots."""
    single = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("Tag:")]
    parts = zip(*(tag.split("-") for tag in single), strict=True)
    return "-".join(".".join(dict.fromkeys(part)) for part in parts)


def _digest(kind: str, data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.new(kind, data).digest()).rstrip(b"=").decode()
