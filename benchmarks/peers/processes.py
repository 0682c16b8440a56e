"""What a command takes: time, memory of its whole process tree, bytes read and written. Linux only: it reads /proc."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_POLL_SECONDS = 0.02
_READ_BYTES = 1 << 24
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """What one command, or several in a row, took.

    Attributes:
        cpu_seconds: user and system time of all its processes.
        sync_seconds: how long the system still wrote afterwards.
        anonymous_bytes, file_bytes: peaks of the process tree's own memory and of its mapped files.
        read_bytes, written_bytes: through system calls; reads of mapped files are not counted.
        disk_bytes: peak of the files in the working folder, but for those that are the result.
        others_share: of all cores' time meanwhile, what went to other processes, or to other machines of the host.
    """

    seconds: float
    cpu_seconds: float
    sync_seconds: float
    anonymous_bytes: int
    file_bytes: int
    read_bytes: int
    written_bytes: int
    disk_bytes: int
    others_share: float

    def then(self, other: Cost) -> Cost:
        """Both, one after the other."""
        mine, theirs = asdict(self), asdict(other)
        peaks = ("anonymous_bytes", "file_bytes", "disk_bytes", "others_share")
        return Cost(**{k: max(mine[k], theirs[k]) if k in peaks else mine[k] + theirs[k] for k in mine})


@dataclass
class Watch:
    """Peaks of a process tree and of a folder, polled until `stop`."""

    pid: int
    folder: Path
    anonymous: int = 0
    file: int = 0
    disk: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll; for a thread of its own."""
        while not self.stop.wait(_POLL_SECONDS):
            found = [_resident(pid) for pid in _tree(self.pid)]
            self.anonymous = max(self.anonymous, sum(anonymous for anonymous, _ in found))
            self.file = max(self.file, sum(mapped for _, mapped in found))
            self.disk = max(self.disk, size_of(self.folder))


def measure(command: Sequence[str | Path], folder: Path, result: Path) -> Cost:
    """Run a command that writes `result` inside `folder`.

    Raises:
        SystemExit: the command failed; its last output is shown.
    """
    os.sync()
    with tempfile.TemporaryFile() as log:
        start, before = time.perf_counter(), _machine()
        child = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)
        watch = Watch(child.pid, folder)
        thread = threading.Thread(target=watch.run)
        thread.start()
        # The counters of a process that ended, and of the children that it waited for, stay until it is waited for.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seconds, after = time.perf_counter() - start, _machine()
        read, written = _io(child.pid)
        watch.stop.set()
        thread.join()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            tail = log.read().decode("utf-8", "replace")[-3000:]
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{tail}")
    busy, whole = (late - early for early, late in zip(before, after, strict=True))
    own = usage.ru_utime + usage.ru_stime
    start = time.perf_counter()
    os.sync()
    return Cost(
        seconds=seconds,
        cpu_seconds=own,
        sync_seconds=time.perf_counter() - start,
        anonymous_bytes=watch.anonymous,
        file_bytes=watch.file,
        read_bytes=read,
        written_bytes=written,
        disk_bytes=max(0, watch.disk - size_of(result)),
        others_share=round(max(0.0, busy - own) / max(whole, 1e-9), 3),
    )


def _machine() -> tuple[float, float]:
    """Seconds of all cores since the start: busy, also for other machines of the host (steal); and altogether."""
    ticks = [int(one) for one in _text(Path("/proc/stat")).split("\n", 1)[0].split()[1:9]]
    whole, idle = sum(ticks), ticks[3] + ticks[4]  # idle, and waiting for a disk
    return (whole - idle) / _TICKS, whole / _TICKS


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(children).split():
            yield from _tree(int(child))


def _resident(pid: int) -> tuple[int, int]:
    lines = dict(line.split(":", 1) for line in _text(Path(f"/proc/{pid}/status")).splitlines() if ":" in line)
    anonymous, mapped = (int(lines.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
    return anonymous, mapped


def _io(pid: int) -> tuple[int, int]:
    counted = dict(line.split(": ") for line in _text(Path(f"/proc/{pid}/io")).splitlines())
    return int(counted["rchar"]), int(counted["wchar"])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # the process has ended
        return ""


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder, which may change meanwhile."""
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # renamed or removed meanwhile
            continue
    return total


def warm(*paths: Path) -> None:
    """Read files once, so that the page cache has them."""
    for path in paths:
        with path.open("rb", buffering=0) as stream:
            while stream.read(_READ_BYTES):
                pass
