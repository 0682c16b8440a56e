"""The software bill of materials (CycloneDX 1.6): every wheel of the bundle by name, version, licence and hash."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.files import sha256_file
from edgekit.errors import ArtifactError
from edgekit.pack.bundle import PAPERS, WHEELS
from edgekit.pack.contents.base import Content, Gathering
from edgekit.pack.extras import needed
from edgekit.pack.materials import finished, licenses

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

FILE_NAME = "sbom.cdx.json"
_MOST_BYTES = 1 << 20  # of a wheel's metadata
_LONGEST = 100  # characters of a licence's name; what is longer is its text
_CLASSIFIER = "License :: "
# Run-time libraries of the GNU Compiler Collection, which builders put into wheels, some with a hash in the name. Their
# terms are GCC's and not those that a wheel states for itself.
_RUNTIME = re.compile(r"(libgomp|libgfortran|libquadmath|libgcc_s|libstdc\+\+)(?:-[0-9a-f-]+)?\.so(?:\.\d+)*")
_RUNTIME_TERMS = {"libquadmath": "LGPL-2.1-or-later"}
_GCC_TERMS = "GPL-3.0-or-later WITH GCC-exception-3.1"


@dataclass(frozen=True)
class Wheel:
    """What a wheel says of itself.

    Attributes:
        path: relative to the bundle.
        name: normalized, as packages are found by it.
        license: an SPDX expression, or a name; empty where it says none.
        requires: names of the packages that it needs, whatever the machine.
    """

    path: str
    name: str
    version: str
    summary: str
    license: str
    sha256: str
    requires: frozenset[str]


@dataclass(frozen=True)
class Library:
    """A library of another maker's in a wheel.

    Attributes:
        path: in the wheel.
        license: an SPDX expression.
    """

    path: str
    name: str
    license: str
    sha256: str


def read_wheel(path: Path, name: str) -> Wheel:
    """A wheel's metadata.

    Args:
        name: its path relative to the bundle.

    Raises:
        ArtifactError: it is no wheel.
        MissingDependencyError: `packaging` is not installed.
    """
    with needed("pack"):
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.utils import canonicalize_name

    said = _metadata(path)
    try:
        required = [Requirement(text) for text in said.get_all("Requires-Dist", [])]
    except InvalidRequirement as error:
        raise ArtifactError(f"{path}: needs what cannot be read: {error}") from error
    always = [one for one in required if one.marker is None or "extra" not in str(one.marker)]
    return Wheel(
        path=name,
        name=canonicalize_name(str(said["Name"])),
        version=str(said["Version"]),
        summary=" ".join(str(said["Summary"] or "").split()),
        license=_license(said),
        sha256=sha256_file(path),
        requires=frozenset(canonicalize_name(one.name) for one in always),
    )


def runtime_libraries(wheel: Path) -> Iterator[Library]:
    """The compiler's libraries in a wheel, in the order of their paths."""
    with zipfile.ZipFile(wheel) as archive:
        for path in sorted(archive.namelist()):
            if found := _RUNTIME.fullmatch(path.rpartition("/")[2]):
                with archive.open(path) as stream:
                    digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]  # reads alone
                yield Library(path, found[1], _RUNTIME_TERMS.get(found[1], _GCC_TERMS), digest.hexdigest())


def _metadata(path: Path) -> Message:
    try:
        with zipfile.ZipFile(path) as archive:
            (info,) = (
                one
                for one in archive.infolist()
                if one.filename.endswith(".dist-info/METADATA") and one.filename.count("/") == 1
            )
            if info.file_size > _MOST_BYTES:
                raise ArtifactError(f"{path}: its metadata take {info.file_size} bytes", allowed=f"{_MOST_BYTES}")
            said = BytesParser().parsebytes(archive.read(info))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{path}: is no wheel: {error}", remedy="get it anew from the package index") from error
    if not said["Name"] or not said["Version"]:
        raise ArtifactError(f"{path}: is no wheel: it names no package or no version")
    return said


def _license(said: Message) -> str:
    """An expression, whatever its length; else a short name; else all that the classifiers name."""
    expression, name = (str(said[key] or "").strip() for key in ("License-Expression", "License"))
    if expression:
        return " ".join(expression.split())
    if name and name != "UNKNOWN" and "\n" not in name and len(name) <= _LONGEST:
        return name
    named = [text.rpartition(" :: ")[2] for text in said.get_all("Classifier", []) if text.startswith(_CLASSIFIER)]
    return ", ".join(dict.fromkeys(named))


def write(gathering: Gathering) -> None:
    """List the wheels, what each brings and needs of the others, and the model, whose own list is beside it."""
    with needed("pack"):
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType

    wheels = [
        read_wheel(path, path.relative_to(gathering.staging).as_posix())
        for path in sorted((gathering.staging / WHEELS).rglob("*.whl"))
    ]
    bom = Bom()
    root = Component(
        name=gathering.name, version=str(gathering.version), type=ComponentType.APPLICATION, bom_ref="bundle"
    )
    bom.metadata.component = root
    components = {wheel.path: _component(wheel) for wheel in wheels}
    for component in components.values():
        bom.components.add(component)
    model = Component(
        name=gathering.manifest.title,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        version=gathering.level,
    )
    bom.components.add(model)
    for wheel in wheels:
        brought = [_brought(wheel, library) for library in runtime_libraries(gathering.staging / wheel.path)]
        bom.components.update(brought)
        needs = [components[other.path] for other in wheels if other.name in wheel.requires]
        bom.register_dependency(components[wheel.path], [*needs, *brought])
    bom.register_dependency(root, [*components.values(), model])
    gathering.write(gathering.staging / PAPERS / FILE_NAME, finished(bom))


def _component(wheel: Wheel) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        name=wheel.name,
        version=wheel.version,
        type=ComponentType.LIBRARY,
        bom_ref=wheel.path,
        description=wheel.summary or None,
        licenses=licenses(wheel.license),
        purl=PackageURL("pypi", None, wheel.name, wheel.version, qualifiers=_told_apart(wheel)),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)],
    )


def _told_apart(wheel: Wheel) -> dict[str, str]:
    """Of one version there is one wheel of every package but edgekit's own, which is made of what lies here."""
    return {"checksum": f"sha256:{wheel.sha256}"} if wheel.name == "edgekit" else {}


def _brought(wheel: Wheel, library: Library) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        name=library.name,
        type=ComponentType.LIBRARY,
        bom_ref=f"{wheel.path}#{library.path}",
        description=f"{library.path} in the wheel of {wheel.name}: of the GNU Compiler Collection",
        licenses=licenses(library.license),
        purl=PackageURL("generic", None, library.name),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=library.sha256)],
    )


CONTENT = Content("listing what is in it", 80, write, installs=True)
