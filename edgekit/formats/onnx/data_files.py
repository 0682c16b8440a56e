"""Check where an ONNX graph says that its weights lie: in which file, and in which of its bytes.

A graph names files by paths of its own choosing. Whoever wrote it could point at any file of the machine and have it
read as weights, so a location must stay in the graph's folder whichever way it is read, links included. A hard link is
a file of elsewhere that no path betrays; it is accepted only where a manifest gives the file's SHA-256: whoever knows
the hash of a secret file has the file.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from edgekit.errors import ArtifactError

_KEYS = ("location", "offset", "length", "checksum")
_MAX_LOCATION_BYTES = 1024
_MAX_BYTES = (1 << 63) - 1
_IN_MEMORY = "*/"  # ONNX Runtime takes such a location for an address in its own memory
_AGAIN = "download or export the files again"


class DataFiles:
    """The data files beside a graph, each looked at once.

    Args:
        graph: the .onnx file.
        listed: the files whose SHA-256 was compared with a manifest; data may lie in no others. None without manifest.
    """

    def __init__(self, graph: Path, listed: Collection[Path] | None) -> None:
        self._graph = graph
        self._listed = None if listed is None else {path.resolve() for path in listed}
        self._found: dict[str, tuple[Path, int]] = {}

    def place(self, tensor: str, entries: Mapping[str, str], need: int) -> tuple[Path, int]:
        """The file and the offset of a tensor's data.

        Args:
            entries: the tensor's `external_data`.
            need: how many bytes its shape takes.

        Raises:
            ArtifactError: the file must not be read, is missing, or has no such bytes.
        """
        if unknown := sorted(set(entries) - set(_KEYS)):
            raise self._wrong(tensor, f"external data with the key {unknown[0]!r:.60}", ", ".join(_KEYS))
        location = entries.get("location", "")
        if location not in self._found:
            self._found[location] = self._file(tensor, location)
        path, size = self._found[location]
        offset = self._number(tensor, "offset", entries.get("offset", "0"))
        length = self._number(tensor, "length", entries.get("length", str(need)))
        if length != need:
            raise self._wrong(tensor, f"{length} bytes of external data", f"{need}, by its type and shape")
        if offset + need > size:
            raise self._wrong(tensor, f"ends at byte {offset + need} of {path.name}, the file at {size}")
        return path, offset

    def _wrong(self, tensor: str, what: str, allowed: str | None = None, remedy: str = _AGAIN) -> ArtifactError:
        return ArtifactError(f"{self._graph}: tensor {tensor!r:.100}: {what}", allowed=allowed, remedy=remedy)

    def _number(self, tensor: str, key: str, text: str) -> int:
        if not re.fullmatch("[0-9]{1,19}", text, re.ASCII) or int(text) > _MAX_BYTES:
            raise self._wrong(tensor, f"the {key} {text!r:.60}", f"a whole number from 0 to {_MAX_BYTES}")
        return int(text)

    def _file(self, tensor: str, location: str) -> tuple[Path, int]:
        windows, shown = PureWindowsPath(location), f"{location!r:.200}"
        inside = "a file in the folder of the graph, or below it"
        if (
            not location
            or len(location.encode()) > _MAX_LOCATION_BYTES
            or set("\\\0") & set(location)
            or PurePosixPath(location).is_absolute()
            or windows.anchor
            or ".." in windows.parts
            or location.startswith(_IN_MEMORY)
        ):
            raise self._wrong(tensor, f"its data may not lie at {shown}", inside)
        path = self._graph.parent / location
        try:
            status = path.stat()
            resolved = path.resolve()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._wrong(
                tensor,
                f"its data file {shown} is missing",
                remedy=f"put it beside {self._graph.name}: the two belong together",
            ) from error
        except OSError as error:
            raise self._wrong(tensor, f"its data file {shown} cannot be read: {error.strerror or error}") from error
        if not resolved.is_relative_to(self._graph.parent.resolve()):
            raise self._wrong(
                tensor, f"its data file {shown} is a link out of the folder", inside, "copy the files themselves: cp -L"
            )
        if not stat.S_ISREG(status.st_mode):
            raise self._wrong(tensor, f"its data file {shown} is no regular file", inside)
        self._check_origin(tensor, shown, resolved, status.st_nlink)
        return path, status.st_size

    def _check_origin(self, tensor: str, shown: str, resolved: Path, links: int) -> None:
        if self._listed is None:
            if links > 1:
                raise self._wrong(
                    tensor,
                    f"its data file {shown} is hard-linked: {links} names, this one among them, share its bytes",
                    "a file of its own, or one that a manifest lists",
                    "copy the file and give the copy its name: cp DATA COPY && mv COPY DATA",
                )
        elif resolved not in self._listed:
            names = ", ".join(sorted(path.name for path in self._listed))
            raise self._wrong(tensor, f"its data file {shown} is not in the manifest", f"{names:.200}")
