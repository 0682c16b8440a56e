"""The schema of a bundle's document, as `edgekit.pack.bundle` has it for whoever has pydantic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CHUNK_BYTES = 1 << 26
_MOST_FILES = 20_000
_NAME, _TEXT, _HEX = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}", r"[\s\S]{0,20000}", r"[0-9a-f]{64}"
_TEXTS = {
    "name": r"[a-z0-9][a-z0-9._+-]{0,199}",
    "edgekit": _NAME,
    "title": _NAME,
    "license": _TEXT,
    "level": _NAME,
    "device": _NAME,
    "platform": r"(linux|macos|windows)-(x86_64|aarch64|arm64)",
    "source_sha256": r"[0-9a-f]{1,64}",
}
_LISTS = {"cpu": _NAME, "python": r"3\.[0-9]{1,2}"}  # of 1 to 10 texts
_KEYS = {*_TEXTS, *_LISTS, "files", "minimum_version", "schema_version", "stand_in", "version"}
_FILE_KEYS = {"path", "bytes", "sha256", "chunks", "executable"}
_PATH = r"""(?=.{1,240}$)[^\x00-\x20\x7f-\U0010ffff\\:*?"<>|/]+(/[^\x00-\x20\x7f-\U0010ffff\\:*?"<>|/]+)*"""
_DEVICES = r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\..*)?"  # of Windows, whatever follows their names
_TOP = ("bundle.json", "bundle.sig.json")


def wrong_in(said: object) -> str | None:
    """What breaks the schema; None where nothing does."""
    if not isinstance(said, dict) or type(said.get("schema_version")) is not int or said["schema_version"] != 1:
        return "is no document of a bundle of schema_version 1"
    if said.keys() != _KEYS:
        return f"lacks or has beside its fields: {', '.join(sorted(map(ascii, said.keys() ^ _KEYS)))[:200]}"
    wrong = [name for name, pattern in _TEXTS.items() if not _matches(pattern, said[name])]
    wrong += [name for name, pattern in _LISTS.items() if not _all_match(pattern, said[name])]
    if said["stand_in"] is not None and not _matches(_TEXT, said["stand_in"]):
        wrong.append("stand_in")
    if not _counted(said["version"], 1, 1 << 31) or not _counted(said["minimum_version"], 1, said["version"] + 1):
        wrong.append("version or minimum_version")
    if wrong:
        return f"{wrong[0]} is wrong"
    return _wrong_files(said["files"])


def _wrong_files(files: object) -> str | None:
    if not isinstance(files, list) or not 0 < len(files) <= _MOST_FILES or not all(map(_is_file, files)):
        return "files is wrong"
    paths = [file["path"] for file in files]
    if paths != sorted(paths):
        return "files are not in the order of their paths"
    folders = {path.rsplit("/", depth)[0] for path in paths for depth in range(1, path.count("/") + 1)}
    if len({name.lower() for name in (*paths, *folders)}) != len(paths) + len(folders):
        return "two files or folders have one name, where a system takes no notice of case"
    return None


def _is_file(file: object) -> bool:
    if not isinstance(file, dict) or file.keys() != _FILE_KEYS or not _matches(_PATH, file["path"]):
        return False
    names = file["path"].lower().split("/")
    if names[0] in _TOP or any(_is_no_name(name) for name in names) or not _counted(file["bytes"], 0, 1 << 53):
        return False
    hashes = file["chunks"]
    return (
        isinstance(hashes, list)
        and len(hashes) == -(-file["bytes"] // _CHUNK_BYTES)
        and all(_matches(_HEX, one) for one in (file["sha256"], *hashes))
        and isinstance(file["executable"], bool)
    )


def _is_no_name(name: str) -> bool:
    return name.startswith(".") or name.endswith(".") or _matches(_DEVICES, name)


def signed_in(said: object) -> Mapping[str, Any] | None:
    """What `bundle.sig.json` says; None where it is none."""
    keys = {"schema_version", "algorithm", "key", "signature"}
    if not isinstance(said, dict) or said.keys() != keys or type(said["schema_version"]) is not int:
        return None
    whole = (said["schema_version"], said["algorithm"]) == (1, "Ed25519")
    return said if whole and _matches(_HEX, said["key"]) and _matches(_HEX * 2, said["signature"]) else None


def _all_match(pattern: str, values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and 0 < len(values) <= 10 and all(
        _matches(pattern, one) for one in values
    )


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _counted(value: object, least: int, below: int) -> bool:
    return type(value) is int and least <= value < below  # true is no number
