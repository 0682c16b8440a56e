"""A worker that stays: job after job in one other process, each with bytes in and bytes out.

Starting Python anew for every job would cost a quarter of a second. The process starts with the first job, is replaced
where it died, and ends with its parent, however that ends. What has to be decoded belongs here: a crash, a memory that
runs out and a loop without end cost one job and not the program.

    decoder = Resident(decode)
    answer, pixels = decoder.ask({"range": None}, file_bytes, limit_s=30, most=120_000_000)

The child is `python -P -m edgekit.machine.resident MODULE:FUNCTION`. A message in either direction is two lengths, a
JSON document and the bytes.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from edgekit.errors import EdgekitError, WorkerError
from edgekit.machine import worker
from edgekit.machine.temporary import system_folder

Serve = Callable[[Any, bytes], tuple[Any, bytes]]

_LENGTHS = struct.Struct(">IQ")  # of the document, of the bytes
_MOST_DOCUMENT = 1 << 20
_READY = b"ready\n"
_ENDING = -int(getattr(signal, "SIGIO", 0)) or None  # see `_ending_with_the_parent`
_START_LIMIT_S = 60.0
_PIPE_BYTES = 1 << 20  # where the system allows it: fewer turns of the two processes for one picture
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class _TakenForTheEndError(Exception):
    """The system told the process of the end of our write only when it had begun to listen for our end."""


class Resident:
    """A function in a process that stays. Threads take turns; after a fork the child starts a process of its own.

    Args:
        work: a function that can be imported by its name; it takes a job, which JSON can hold, and bytes, and returns
            an answer and bytes likewise.
    """

    def __init__(self, work: Serve) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @property
    def pid(self) -> int | None:
        """The process's, None while there is none."""
        return self._process.pid if self._process else None

    def ask(self, job: Any, data: bytes, *, limit_s: float, most: int) -> tuple[Any, bytes]:
        """The work's answer and bytes.

        Args:
            limit_s: seconds after which the process is killed.
            most: bytes that an answer may have; a process that says more of itself is not believed.

        Raises:
            WorkerError: no process can be started.
            EdgekitError: what the work raised; or the process died at it, or took too long.
        """
        with self._lock:
            try:
                answer, result = self._answered(job, data, limit_s, most)
            except BaseException:  # an interrupt, too: its answer would be taken for that of the next job
                self.close()
                raise
        if "refused" in answer:
            message, allowed, remedy = answer["refused"]
            raise EdgekitError(message, allowed=allowed, remedy=remedy)
        return answer["answer"], result

    def close(self) -> None:
        """End the process; the next job starts another."""
        process, log, self._process, self._log = self._process, self._log, None, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what it did not read any more
                    pipe.close()  # type: ignore[union-attr]
        if log:
            log.close()

    def _answered(self, job: Any, data: bytes, limit_s: float, most: int) -> tuple[Any, bytes]:
        """A job's answer; a job that met the end of our own writing is done once more."""
        try:
            return self._exchange(self._running(), job, data, limit_s, most)
        except _TakenForTheEndError:
            self.close()
        try:
            return self._exchange(self._running(), job, data, limit_s, most)
        except _TakenForTheEndError as error:
            raise EdgekitError("the process died with SIGIO, twice") from error

    def _exchange(
        self, process: subprocess.Popen[bytes], job: Any, data: bytes, limit_s: float, most: int
    ) -> tuple[Any, bytes]:
        assert process.stdin, "opened as a pipe"
        assert process.stdout, "opened as a pipe"
        with _deadline(process, limit_s) as late:
            try:
                _send(process.stdin, job, data)
                return _receive(process.stdout, most)
            except (OSError, EOFError):
                code = process.wait()
            except ValueError as error:
                raise EdgekitError(f"the process gave no answer but {error}") from error
        if code == _ENDING:
            raise _TakenForTheEndError
        if late.is_set():
            raise EdgekitError(f"stopped after {limit_s:.0f} s")
        raise EdgekitError(f"the process died with {worker.death(code) or f'exit code {code}'}{self._complaint()}")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is not None:  # it ended while it had nothing to do
            self.close()
        if self._process is None:
            self._start()
        assert self._process, "just started"
        return self._process

    def _start(self) -> None:
        remedy = "run edgekit in an ordinary Python, or give what is decoded already (arrays, Pillow images)"
        if getattr(sys, "frozen", False) or not sys.executable:  # what it names would start the whole program again
            raise WorkerError("no worker process can be started: this program contains its Python", remedy=remedy)
        try:
            self._log = tempfile.TemporaryFile(dir=system_folder())  # noqa: SIM115 (closed by close)
            self._process = worker.start(
                "edgekit.machine.resident",
                self._work,
                _ONE_THREAD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pipesize=_PIPE_BYTES if _pipes_can_grow() else -1,
            )
        except OSError as error:
            self.close()
            raise WorkerError(
                f"no worker process can be started by {sys.executable}: {error}", remedy=remedy
            ) from error
        assert self._process.stdout, "opened as a pipe"
        said = b""
        try:
            with _deadline(self._process, _START_LIMIT_S):
                said = self._process.stdout.read(len(_READY))
        finally:  # an interrupt, too
            why = "" if said == _READY else self._complaint() or ": it is no Python, or has no edgekit"
            if why:
                self.close()
        if why:
            raise WorkerError(f"the worker process {sys.executable} does not answer{why}", remedy=remedy)

    def _complaint(self) -> str:
        """The last line that it wrote, behind a colon."""
        assert self._log, "opened with the process"
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - 4096, 0))
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f": {said[-1]:.200}" if said else ""

    def _forked(self) -> None:
        """In a child of a fork: the process is the parent's, and so are the lock's owner and the other pipe ends."""
        process, log, self._process, self._log = self._process, self._log, None, None
        self._lock = threading.Lock()
        if process:
            process.returncode = 0  # nothing of ours to wait for
            for pipe in (process.stdin, process.stdout):  # or it would live as long as this child
                with suppress(OSError):
                    os.close(pipe.fileno())  # type: ignore[union-attr]
                    pipe.detach()  # type: ignore[union-attr]
        if log:
            log.close()


def _pipes_can_grow() -> bool:
    """Whether the limit on pipes leaves us one of the wanted size; refused where a user has too many."""
    try:
        return int(Path("/proc/sys/fs/pipe-max-size").read_text()) >= _PIPE_BYTES
    except (OSError, ValueError):
        return False


@contextmanager
def _deadline(process: subprocess.Popen[bytes], limit_s: float) -> Iterator[threading.Event]:
    """Kill a process that is not done in time; the event says whether it was."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _send(pipe: IO[bytes], document: Any, data: bytes) -> None:
    text = json.dumps(document).encode()
    pipe.write(_LENGTHS.pack(len(text), len(data)) + text)
    pipe.write(data)
    pipe.flush()


def _receive(pipe: IO[bytes], most: int) -> tuple[Any, bytes]:
    """A message; raises EOFError where there is none or no whole one, ValueError where it is none or too long."""
    document, data = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    if document > _MOST_DOCUMENT or data > most:
        raise ValueError(f"{document + data} bytes")
    return json.loads(_exactly(pipe, document)), _exactly(pipe, data)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = pipe.read(count)
    if len(data) != count:
        raise EOFError
    return data


# ---------------------------------------------------------------- in the child


def limit_memory(more: int | None) -> None:
    """Let this process have so many bytes more than it holds now, None for no limit: on Linux, which keeps to that.

    A job's limit ends with the job.
    """
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if more is None:
            wanted = hard
        else:
            wanted = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() + more
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def serve(name: str) -> int:
    """Answer job after job from standard input until it ends.

    Args:
        name: MODULE:FUNCTION.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print; only answers may go where the parent reads
    keep_no_core()
    work: Serve = worker.function(name)
    answers.write(_READY)
    answers.flush()
    while True:
        try:
            job, data = _receive(jobs, sys.maxsize)
        except EOFError:
            return 0
        with _ending_with_the_parent(jobs):
            try:
                answer, result = work(job, data)
                message = {"answer": answer}
            except EdgekitError as error:
                message, result = {"refused": [error.message, error.allowed, error.remedy]}, b""
            limit_memory(None)
        _send(answers, message, result)
        with suppress(OSError):  # what it complained of this job is no part of the next one's last words
            sys.stdout.flush()  # held back, it would come after those
            os.ftruncate(2, 0)
            os.lseek(2, 0, os.SEEK_SET)


def keep_no_core() -> None:
    """A crash must not leave a patient's picture on the disk."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@contextmanager
def _ending_with_the_parent(jobs: IO[bytes]) -> Iterator[None]:
    """End at once where the parent's end of the pipe closes, in the midst of a decoder's work, too.

    The system signals it, so that no thread of Python's has to be given its turn. Elsewhere than on Linux the end is
    noticed after the job.
    """
    if sys.platform != "linux":
        yield
        return
    import fcntl

    pipe = jobs.fileno()
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_ASYNC)  # SIGIO, which ends a process that says nothing of it
    closed = select.poll()
    closed.register(pipe, 0)
    if closed.poll(0):  # before we asked for a signal
        os._exit(0)
    try:
        yield
    finally:
        fcntl.fcntl(pipe, fcntl.F_SETFL, flags)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
