"""What every content of a bundle is written from, and by what it is found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.artifacts.files import create
from edgekit.artifacts.licenses import Agreement, agreement_of
from edgekit.artifacts.manifest import Manifest, Part
from edgekit.bench.records import Record
from edgekit.machine.device import HERE, Device
from edgekit.pack.bundle import MODEL
from edgekit.progress import Progress


@dataclass(frozen=True)
class About:
    """What is said of a model beside what its manifest says.

    Attributes:
        terms: the text of its terms of use, or the checkpoint's folder that has it.
        records: results of `edgekit bench`, whose figures the card shows.
        base_model: see `Gathering`.
    """

    terms: Path | None = None
    records: Path | None = None
    base_model: str | None = None


@dataclass(frozen=True)
class Target:
    """The machine that a bundle is for.

    Attributes:
        platform, cpu, python: see `edgekit.pack.bundle.Bundle`.
        wheelhouse: a folder of wheels that are taken first; None without one.
        download: whether wheels that are missing are fetched from the package index.
    """

    device: Device
    platform: str
    cpu: tuple[str, ...]
    python: tuple[str, ...]
    wheelhouse: Path | None = None
    download: bool = False

    @property
    def name(self) -> str:
        """The device's; of the machine at hand, which has another name everywhere else, what it runs."""
        return self.device.name if self.device.name != HERE else "-".join(self.cpu)


@dataclass(frozen=True)
class Gathering:
    """All that a bundle, or a repository of the hub, is made from, and where it is put together.

    Attributes:
        staging: the folder that becomes the bundle; what lies there at the end is in it.
        model: the folder in it that the artifact's files go to: the staging folder itself for the hub.
        artifact: the artifact that it is made from.
        manifest: that artifact's, of the chosen levels alone; its default is the one that is installed.
        records: what was measured of this model, of all levels; none where no results were given.
        agreement: the text that its licence wants every recipient to have; None where it wants none.
        base_model: the model on the hub that it was made from, as `owner/name`; None where that is none of them.
        target: None for the hub, whose users bring their own programs.
        version: of the bundle.
    """

    staging: Path
    artifact: Path
    manifest: Manifest
    records: tuple[Record, ...]
    agreement: str | None
    base_model: str | None
    target: Target | None
    progress: Progress
    version: int = 1

    @property
    def name(self) -> str:
        """What is packed: the model, and for a bundle its level and device."""
        words = [self.manifest.recipe, *([self.level, self.target.name] if self.target else [])]
        return re.sub(r"[^a-z0-9._+-]", "-", "-".join(words).lower())

    @property
    def model(self) -> Path:
        """Where the artifact's files go."""
        return self.staging / MODEL if self.target else self.staging

    @property
    def level(self) -> str:
        """The level that is installed."""
        return self.manifest.default

    @property
    def parts(self) -> Mapping[str, Part]:
        """That level's parts, by role."""
        return self.manifest.variant(self.level)[1]

    @property
    def license(self) -> Agreement | None:
        """The agreement that the model's notice names, where it is one of those known."""
        return agreement_of(self.manifest.license)

    def write(self, path: Path | str, content: str | bytes, *, executable: bool = False) -> None:
        """Write a new file.

        Args:
            path: below the staging folder, or relative to it.
            content: text is written as UTF-8.
        """
        place = self.staging / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with create(place) as file:
            file.write(content.encode() if isinstance(content, str) else content)
        place.chmod(0o755 if executable else 0o644)


@dataclass(frozen=True)
class Content:
    """One kind of content.

    Attributes:
        label: what is being done, for whoever waits: `copying the model`.
        order: when it is written; later ones find the files of earlier ones in the staging folder.
        write: writes its files below `Gathering.staging`. Raises EdgekitError.
        installs: whether it is of use only on the machine that a bundle is installed on, and no part of a repository
            of the hub; `Gathering.target` is there then.
    """

    label: str
    order: int
    write: Callable[[Gathering], None]
    installs: bool = False
