"""Machines of another processor, as far as an emulator is one: whatever program runs there, it is run by qemu.

A command runs in namespaces of its own (user, mounts, network), so that it takes no rights of root's, changes nothing
of this machine and reaches no network. In them the kernel hands every program of the processor to the emulator: since
Linux 6.7 each user's namespace has such rules (binfmt_misc). One core is given: OpenMP's threads wait for each other by
spinning, which an emulator turns into minutes.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Processor -> ELF's number of it, and the emulator as Debian's qemu-user-static names it.
_PROCESSORS = {"x86_64": (62, "qemu-x86_64-static"), "aarch64": (183, "qemu-aarch64-static")}
_LAST_OF_IDENT = 15  # a byte of an ELF file's beginning that means nothing
_NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--net")
_SETTING_UP = """
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
for folder in dev proc; do mount --rbind "/$folder" "$2/$folder"; done
mount --bind "$3" "$2/mnt"
root=$2 rule=$1
shift 3
printf %s "$rule" > /proc/sys/fs/binfmt_misc/register
exec chroot "$root" env --chdir=/mnt "$@"
"""


@dataclass(frozen=True)
class Machine:
    """A machine that an emulator stands for.

    Attributes:
        processor: the architecture, as Linux calls it.
        model: the processor, as qemu calls it.
        emulator: made by `emulator`.
        root: the folder that is its `/`.
    """

    processor: str
    model: str
    emulator: Path
    root: Path = Path("/")

    def run(
        self, shared: Path, *command: str | Path, limit_s: float = 3000, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there, in the folder /mnt, which is `shared`; with no variables but these."""
        core = str(max(os.sched_getaffinity(0)))
        setting_up = [*_NAMESPACES, "taskset", "-c", core, "sh", "-ec", _SETTING_UP, "sh"]
        words = [*setting_up, self._rule(), self.root, shared, *command]
        given = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/mnt", "TMPDIR": "/mnt", "QEMU_CPU": self.model}
        return subprocess.run(
            [str(word) for word in words],
            capture_output=True, text=True, check=False, env={**given, **variables}, timeout=limit_s,
        )  # fmt: skip

    def _rule(self) -> str:
        """binfmt_misc's: programs of the processor, by the beginning of their files, go to the emulator; which is kept
        open (F), since `chroot` leaves its path behind."""
        number = _PROCESSORS[self.processor][0]
        #        ELF, of 64 bits, little-endian  any system, the rest is 0      executable         for the processor
        magic = b"\x7fELF\x02\x01\x01" + b"\x00" + bytes(8) + b"\x02\x00" + number.to_bytes(2, "little")
        mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff" + b"\xff\xff"
        return f":emulated:M::{_escaped(magic)}:{_escaped(mask)}:{self.emulator}:F"


def emulator(processor: str, found: Path, folder: Path) -> Path:
    """A copy of an emulator that is no program of the processor by the rule, or it would be run by itself."""
    data = bytearray(found.read_bytes())
    data[_LAST_OF_IDENT] = 1
    copy = folder / f"emulator-of-{processor}"
    copy.write_bytes(data)
    copy.chmod(0o755)
    return copy


def emulator_name(processor: str) -> str:
    """What Debian's package qemu-user-static has for a processor."""
    return _PROCESSORS[processor][1]


@functools.cache
def lacking() -> str | None:
    """What of the kernel's this takes and is not here; None where all is."""
    if sys.platform != "linux":
        return "Linux"
    trial = [*_NAMESPACES, "mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]
    try:
        done = subprocess.run(trial, capture_output=True, check=False)
    except FileNotFoundError:
        return "unshare"
    return None if done.returncode == 0 else "namespaces of a user with binfmt_misc (Linux 6.7)"


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)
