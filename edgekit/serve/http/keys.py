"""The API keys of a server: a file that its user alone may read, one key a line."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import shlex
import stat
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.artifacts.documents import read_bounded
from edgekit.errors import UsageError

_KEY = re.compile(r"[\x21-\x7e]{16,200}")
_MOST_KEYS = 1000
_HOW = "16 to 200 visible ASCII characters a line, as `openssl rand -hex 32` writes them"


@dataclass(frozen=True)
class Keys:
    """Keys as hashes; none of them is kept."""

    digests: tuple[bytes, ...] = field(repr=False)

    def allow(self, key: bytes) -> bool:
        """Whether it is one of them, in a time that says nothing about how much of it is right."""
        digest = hashlib.sha256(key).digest()
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


def read_keys(path: Path) -> Keys:
    """The keys of a file; empty lines and those that begin with # are none.

    Raises:
        UsageError: others may read it, it is not this user's, or holds no keys. No message quotes one.
    """
    try:
        found = path.stat()
    except OSError as problem:
        quoted = shlex.quote(str(path))
        made = f"openssl rand -hex 32 > {quoted} && chmod 600 {quoted}" if not path.exists() else None
        raise UsageError(f"the key file {path} cannot be read: {problem.strerror}", remedy=made) from problem
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"the key file {path} is no file")
    if os.name == "posix":
        if found.st_uid != os.getuid():
            raise UsageError(f"the key file {path} belongs to another user", remedy=f"a copy: chown {os.getuid()}")
        if mode := stat.S_IMODE(found.st_mode) & 0o077:
            raise UsageError(f"others may use the key file {path} (mode {mode:03o} of it)", remedy=f"chmod 600 {path}")
    lines = read_bounded(path, UsageError, 1 << 20).decode("utf-8", "replace").splitlines()
    keys = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip() and line[:1] != "#"}
    for number, key in keys.items():
        if not _KEY.fullmatch(key):
            raise UsageError(f"line {number} of the key file {path} is no key", allowed=_HOW)
    if not 0 < len(keys) <= _MOST_KEYS:
        raise UsageError(f"the key file {path} holds {len(keys) or 'no'} keys", allowed=f"1 to {_MOST_KEYS}: {_HOW}")
    return Keys(tuple(hashlib.sha256(key.encode()).digest() for key in keys.values()))
