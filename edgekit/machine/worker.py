"""Worker processes: a function of edgekit called in a process of its own, a JSON job in, JSON results out.

A process of its own gives work a fresh start, a peak of memory that is its own, and a crash that takes nothing with
it. The parent names a function, which takes the job and yields results:

    with Worker(measure.decoder, job, limit_s=600) as worker:
        for result in worker.results():
            ...
        end = worker.wait()

The child is `python -P -m edgekit.machine.worker MODULE:FUNCTION`. The job is one JSON document on its standard input,
a result one JSON line on its standard output, and why it failed is the last line of its standard error. For many small
jobs, `edgekit.machine.resident` keeps one process.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from edgekit.artifacts.disk_errors import file_errors
from edgekit.errors import EdgekitError
from edgekit.machine.temporary import system_folder, temporary_folder

Work = Callable[[Any], Iterable[Any]]

# Exit codes from here on are NTSTATUS errors: an access violation, an illegal instruction.
_WINDOWS_EXCEPTION = 0xC0000000
_CTRL_C = (-signal.SIGINT, 0xC000013A)
PROBE_LIMIT_S = 120.0
_LOOK_EVERY_S = 0.5
_LAST_BYTES = 1 << 16  # of what a process complained


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        exit_code: as the system reports it.
        complaint: the last line on its standard error, empty where there is none.
        stopped_after_s: the time limit, where that ended it.
    """

    exit_code: int
    complaint: str = ""
    stopped_after_s: float | None = None

    @property
    def died(self) -> str | None:
        """The signal or exception that ended it; None if it ended by itself, or by its time limit."""
        return None if self.stopped_after_s is not None else death(self.exit_code)

    @property
    def problem(self) -> str | None:
        """Why it did not end well, None where it did."""
        if self.stopped_after_s is not None:
            return f"stopped after {self.stopped_after_s:.0f} s"
        if died := self.died:
            return f"it died with {died}"
        return (self.complaint or f"exit code {self.exit_code}") if self.exit_code else None


_running: set[Worker] = set()


class Worker:
    """A function under way in a process of its own, which ends with the context.

    Args:
        work: a function that can be imported by its name; it takes the job and yields results.
        job: what JSON can hold.
        limit_s: seconds after which the process is killed, None for no limit.
        environment: variables on top of this process's own.

    Raises:
        OSError: no process can be started.
        NoSpaceError: the folder for temporary files is full.
    """

    def __init__(
        self,
        work: Work,
        job: Any = None,
        *,
        limit_s: float | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        with ExitStack() as undo:
            # Its temporary files are in a folder of ours, so that what a killed one left is removed. Files, not pipes:
            # neither side waits for the other, and a process that dies unread breaks nothing.
            folder = undo.enter_context(temporary_folder("worker"))
            self._log = undo.enter_context((folder / "log").open("w+b"))
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            document = undo.enter_context((folder / "job.json").open("rb"))
            self._process = start(
                "edgekit.machine.worker",
                work,
                {**dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder)), **environment},
                stdin=document,
                stdout=subprocess.PIPE,
                stderr=self._log,
                encoding="utf-8",
                errors="replace",
            )
            self._cleanup = undo.pop_all()
        _running.add(self)
        self._limit_s, self._late = limit_s, False
        self._timer = threading.Timer(limit_s or 0, self._stop_late)
        self._timer.daemon = True
        if limit_s is not None:
            self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        _running.discard(self)
        self._cleanup.close()

    def results(self) -> Iterator[Any]:
        """Each result as it comes. A line that a crash cut off is none."""
        assert self._process.stdout, "opened as a pipe"
        for line in self._process.stdout:
            if line.endswith("\n"):
                yield json.loads(line)

    def wait(self) -> End:
        """Wait for the end; call it when the results are read."""
        code = self._process.wait()
        self._timer.cancel()
        self._log.seek(max(self._log.seek(0, os.SEEK_END) - _LAST_BYTES, 0))
        lines = self._log.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return End(code, said[-1] if said else "", self._limit_s if self._late and code else None)

    def kill(self) -> None:
        """End it now; another thread may do this."""
        self._process.kill()

    def _stop_late(self) -> None:
        self._late = True
        self._process.kill()


class Workers:
    """Workers side by side in several threads, so that an interrupt ends all of them."""

    def __init__(self) -> None:
        self._running: set[Worker] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called: what has not ended by then is no failure."""
        return self._stopped

    def results(self, work: Work, job: Any) -> Iterator[Any]:
        """Run a worker to its end and yield its results as they come; nothing after `stop`.

        Raises:
            EdgekitError: it failed or died; the message ends with the last line that it wrote.
            KeyboardInterrupt: Ctrl-C ended it, which a terminal tells every process of a command, some before us.
        """
        if self._stopped:
            return
        with Worker(work, job) as worker:
            self._running.add(worker)
            if self._stopped:  # meanwhile
                worker.kill()
            try:
                yield from worker.results()
                end = worker.wait()
            finally:
                self._running.discard(worker)
        if end.exit_code in _CTRL_C:
            raise KeyboardInterrupt
        if end.exit_code:
            how = end.died or f"exit code {end.exit_code}"
            raise EdgekitError(f"the worker process ended with {how}: {end.complaint or 'it wrote nothing'}")

    def stop(self) -> None:
        """End every worker, and start no more."""
        self._stopped = True
        for worker in list(self._running):
            worker.kill()


def run(
    work: Work,
    job: Any = None,
    *,
    limit_s: float | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[Any], End]:
    """All results of a worker, and how it ended; the arguments are `Worker`'s. A crash loses no result before it.

    Raises:
        OSError: no process can be started.
    """
    with Worker(work, job, limit_s=limit_s, environment=environment) as worker:
        return list(worker.results()), worker.wait()


def probe(question: Work) -> tuple[bool, str]:
    """Ask a library something in a process of its own, since a wrong build dies on a signal.

    Returns:
        Whether it answered, and its answer (the last result) or the reason why there is none.
    """
    answers, end = run(question, limit_s=PROBE_LIMIT_S)
    if end.stopped_after_s is not None:
        return False, f"no answer within {PROBE_LIMIT_S:.0f} s"
    if end.problem or not answers:
        return False, end.problem or "no answer"
    return True, str(answers[-1])


def kill_all() -> None:
    """End every worker of this process, which ends now itself."""
    for worker in list(_running):
        worker.kill()


def death(exit_code: int) -> str | None:
    """What ended a process, by its exit code: a signal's name, Windows' exception code; None if it ended by itself."""
    if exit_code < 0:
        try:
            return signal.Signals(-exit_code).name
        except ValueError:  # most real-time signals have no name
            return f"signal {-exit_code}"
    return f"exception 0x{exit_code:X}" if exit_code >= _WINDOWS_EXCEPTION else None


def start(
    program: str, work: Callable[..., Any] | str, environment: Mapping[str, str], **streams: Any
) -> subprocess.Popen[Any]:
    """Start `python -P -m PROGRAM MODULE:FUNCTION`; the one place where a process of edgekit's own begins.

    -P: nothing in the current directory may stand in for a module.

    Args:
        program: the module that serves, this one or `edgekit.machine.resident`.
        work: what it serves, a function that can be imported by its name, or that name where this process must not
            import it.
        environment: variables on top of this process's own.
        streams: subprocess.Popen's.

    Raises:
        OSError: no process can be started.
    """
    name = work if isinstance(work, str) else f"{work.__module__}:{work.__qualname__}"
    command = [sys.executable, "-P", "-m", program, name]
    return subprocess.Popen(command, env={**_environment(), **environment}, **streams)


def _environment() -> dict[str, str]:
    """Ours, with the checkout on the path where edgekit is not installed."""
    changed = {"PYTHONIOENCODING": "utf-8:backslashreplace"}  # whatever a terminal can show: we read it
    checkout = Path(__file__).resolve().parent.parent.parent
    if (checkout / "pyproject.toml").is_file():
        changed["PYTHONPATH"] = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **changed}


# ---------------------------------------------------------------- in the child


def function(name: str) -> Any:
    """What MODULE:FUNCTION names."""
    module, _, inside = name.partition(":")
    return getattr(importlib.import_module(module), inside)


def serve(name: str) -> int:
    """Read the job from standard input, do the work, write its results to standard output.

    Args:
        name: MODULE:FUNCTION.

    Returns:
        The exit code: 1 where the work raised an EdgekitError, which then is one line on standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # die quietly: the parent tells the user
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # Libraries print to file descriptor 1, some when they are imported; only results may go where the parent reads.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.read())
    try:
        with file_errors(system_folder()):
            for result in function(name)(job):
                results.write(json.dumps(result) + "\n")
                results.flush()
    except EdgekitError as error:
        sys.stderr.write(str(error).replace("\n", "; ") + "\n")
        return 1
    return 0


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may have been killed and could not end it."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
