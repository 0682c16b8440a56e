"""Put a bundle together: every content writes its files, then all of them are described, and the description is signed.

The bundle takes its name in one step at the end; after an error nothing is left. The same artifact, options and key
give the same bytes, wherever it is put together: no time, no path and no order of the file system enters them.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.folders import MARKER, new_folder, staging_of
from edgekit.artifacts.validation import validated
from edgekit.artifacts.version import __version__
from edgekit.errors import UsageError
from edgekit.machine.cpu import cpu
from edgekit.machine.devices import device
from edgekit.pack import document, keys, openssf, roots, signature
from edgekit.pack.bundle import WHEELS, Bundle, BundleFile
from edgekit.pack.contents import contents
from edgekit.pack.contents.base import About, Gathering, Target
from edgekit.pack.differences import missing
from edgekit.pack.gather import gather
from edgekit.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_OWN_WHEEL = re.compile(rf"{WHEELS}/edgekit-")
_PLATFORMS = re.compile(r"^(linux|macos|windows)-")


@dataclass(frozen=True)
class PackOptions:
    """What a bundle is to be.

    Attributes:
        level: a level of the artifact; its default for None.
        device: a device profile.
        key: the file of the private key that signs it.
        version: None for 1, or with `since` for the one after that bundle's.
        minimum_version: what is older must not be installed any more.
        since: an earlier bundle, its document alone in a folder, or a root that it is installed in: only the files
            that it lacks are written.
        python: versions of Python that its wheels are for; this one for none.
        cpu: levels of processors that llama.cpp is brought for; the device's own for none.
        wheelhouse, download: see `Target`.
        model_signing: whether the OpenSSF's signature of the model stands beside ours.
        password: of the private key; None where it has none.
    """

    device: str
    key: Path
    level: str | None = None
    version: int | None = None
    minimum_version: int = 1
    since: Path | None = None
    about: About = field(default_factory=About)
    python: tuple[str, ...] = ()
    cpu: tuple[str, ...] = ()
    wheelhouse: Path | None = None
    download: bool = False
    model_signing: bool = False
    password: bytes | None = field(default=None, repr=False)


def build(artifact: Path, options: PackOptions, target: Path, progress: Progress) -> Bundle:
    """Make a bundle of one level of an artifact for one device.

    Args:
        target: a new or an empty folder.

    Returns:
        what its document says; with `since` it names files that are not in the folder.

    Raises:
        UsageError: there is no such level or device, the key is none, `target` holds something, the device is none
            that bundles are for, or the text that the model's licence wants every recipient to have is missing.
        ArtifactError: the artifact or one of its files is not what it must be.
        NoSpaceError: the disk is full.
        MissingDependencyError: a library is not installed.
        EdgekitError: the packed model cannot be opened here, or a wheel is missing.
    """
    key = keys.private_key(options.key, options.password)  # before anything is copied
    since = document.read(roots.bundle_in(options.since))[0] if options.since else None
    levels = [options.level] if options.level else []
    gathering = gather(artifact, levels, options.about, staging_of(target), _target(options), progress)
    gathering = replace(gathering, version=_version(gathering.name, options, since))
    with file_errors(target), new_folder(target) as staging:
        gathering = replace(gathering, staging=staging)
        try:
            for content in contents():
                progress.start(content.label, 0)
                content.write(gathering)
            bundle = _described(gathering, options, key)
        finally:
            progress.finish()
        signature.write(staging, document.write(staging, bundle), key)
        if since:
            _remove_known(staging, bundle, since)
            if any(_OWN_WHEEL.match(file.path) for file in missing(bundle, since)):
                progress.note(f"edgekit is another than in version {since.version}: its wheel goes with the update")
    return bundle


def _target(options: PackOptions) -> Target:
    profile = device(options.device)
    if not _PLATFORMS.match(profile.platform):
        raise UsageError(
            f"device {profile.name}: its platform is {profile.platform}",
            allowed="a device that runs Python on Linux, macOS or Windows",
            remedy="edgekit compile-classifier and edgekit pack --target web, for what runs in a browser",
        )
    here = ".".join(map(str, sys.version_info[:2]))
    return Target(
        profile,
        profile.platform,
        options.cpu or (profile.cpu,),
        options.python or (here,),
        options.wheelhouse,
        options.download,
    )


def _version(name: str, options: PackOptions, since: Bundle | None) -> int:
    """Which version it is. Raises UsageError for one that is no update of the bundle that it is to update."""
    version = options.version or (since.version + 1 if since else 1)
    if since and since.version >= version:  # another level may follow, and its name is another
        raise UsageError(
            f"{name}, version {version}, is no update of {since.name}, version {since.version}",
            allowed=f"version {since.version + 1} or later",
        )
    if not 0 < options.minimum_version <= version:
        raise UsageError(f"a minimum version of {options.minimum_version}", allowed=f"1 to {version}, this one's own")
    return version


def _described(gathering: Gathering, options: PackOptions, key: Ed25519PrivateKey) -> Bundle:
    """The document: all files that lie in the staging folder, hashed, and what the bundle is."""
    manifest, target = gathering.manifest, gathering.target
    assert target, "a bundle is for a machine"
    said = {
        "name": gathering.name,
        "version": gathering.version,
        "minimum_version": options.minimum_version,
        "edgekit": __version__,
        "title": manifest.title,
        "license": manifest.license,
        "stand_in": manifest.stand_in,
        "level": gathering.level,
        "device": target.name,
        "platform": target.platform,
        "cpu": target.cpu,
        "python": target.python,
        "source_sha256": manifest.source.sha256,
    }
    files = _files(gathering)
    if options.model_signing:
        gathering.write(gathering.staging / openssf.PATH, openssf.sign(files, key))
        files = sorted([*files, document.describe(gathering.staging, openssf.PATH)], key=lambda file: file.path)
    described = [file.model_dump() for file in files]
    return validated(Bundle, {**said, "files": described}, "the bundle", UsageError)


def _files(gathering: Gathering) -> list[BundleFile]:
    """All files of the staging folder in the order of their paths."""
    staging = gathering.staging
    found = [path for path in staging.rglob("*") if path.is_file() and path != staging / MARKER]
    paths = sorted(path.relative_to(staging).as_posix() for path in found)
    gathering.progress.start("hashing", len(paths))
    files = []
    with ThreadPoolExecutor(cpu().usable_cores) as pool:
        for file in pool.map(lambda path: document.describe(staging, path), paths):
            files.append(file)
            gathering.progress.advance()
    return files


def _remove_known(staging: Path, bundle: Bundle, since: Bundle) -> None:
    """Leave only what an earlier bundle lacks, and no folder that this empties."""
    brought = {file.path for file in missing(bundle, since)}
    for file in bundle.files:
        if file.path not in brought:
            (staging / file.path).unlink()
    for folder in sorted((path for path in staging.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
