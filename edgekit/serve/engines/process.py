"""The engine's process: one model, opened once, and a thread for each job that is under way.

`python -P -m edgekit.serve.engines.process MODULE:FUNCTION`, where the function is
`perform(model, job, cancelled) -> Iterator[Event]`. Frames come on standard input and leave on standard output, see
`edgekit.serve.engines.channel`; the process ends when the first of these does, whatever it is at. It writes nothing
else anywhere: what libraries print goes to standard error, which the server throws away, for it may quote a patient.

What is no EdgekitError is a mistake of ours: the process says its type and its place, and ends like from any crash.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

from edgekit.artifacts.disk_errors import file_errors
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.families.composition import Chat
from edgekit.machine import resident, temporary, worker
from edgekit.runtime import opening
from edgekit.runtime.model import Model
from edgekit.runtime.opening import Opening
from edgekit.runtime.use import Use
from edgekit.serve.engines import channel
from edgekit.serve.engines.served import digest_of
from edgekit.serve.jobs import Event, Job, failure

Perform = Callable[[Model, Job, threading.Event], Generator[Event, None, None]]

FAULT = 70  # exit code after a mistake of ours
# A model that answers several at once has one user at a time for the rest: the server says how long they may wait.
_WAIT_S = 24 * 3600.0


class Output:
    """Where frames leave; threads take turns."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def send(self, document: dict[str, Any], data: bytes = b"") -> None:
        """Write a frame, and wait where the pipe is full. Ends the process where nobody reads it any more."""
        frame = memoryview(channel.head(document, len(data)) + data)
        with self._lock:
            try:
                while frame:
                    frame = frame[os.write(self._descriptor, frame) :]
            except BrokenPipeError:
                end()


class Files:
    """What the model was loaded from. It may be mapped, so that what is written into a file becomes the model.

    A file that takes another's place does no harm: the old one lives as long as it is mapped.
    """

    def __init__(self, paths: Collection[Path]) -> None:
        self._seen = {path: _stamp(path) for path in paths}

    def check(self) -> None:
        """Raise ArtifactError where one was written into since."""
        for path, seen in self._seen.items():
            now = _stamp(path)
            if seen and now and now[0] == seen[0] and now != seen:
                problem = f"{path.name} was written into while the model was loaded: its answers cannot be trusted"
                raise ArtifactError(problem, remedy="start the server again, which checks what it loads")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Running:
    """A job under way, in a thread of its own."""

    def __init__(self, number: int, job: Job, output: Output, files: Files) -> None:
        self.number, self._job, self._output, self._files = number, job, output, files
        self.cancelled = threading.Event()
        self._room = threading.Semaphore(channel.WINDOW)

    def cancel(self) -> None:
        """End it at its next step; it may wait for its events to be taken."""
        self.cancelled.set()
        self._room.release()

    def took(self, count: int) -> None:
        """So many events more may be on their way."""
        self._room.release(count)

    def run(self, model: Model, perform: Perform, done: Callable[[Running], None]) -> None:
        """Do the job, say what comes of it, and at last that it has ended."""
        last: dict[str, Any] = {"job": self.number, "end": True}
        try:
            with file_errors(temporary.system_folder()):
                self._files.check()
                self._send(perform(model, self._job, self.cancelled))
                self._files.check()
        except EdgekitError as error:
            last = {"job": self.number, "error": failure(error)}
        done(self)
        self._output.send(last)

    def _send(self, events: Generator[Event, None, None]) -> None:
        with closing(events):
            for event in events:
                self._room.acquire()
                if self.cancelled.is_set():
                    return
                document = {"job": self.number, "event": event.kind, "body": event.body}
                self._output.send(document, event.data)


class Jobs:
    """Those under way, by number."""

    def __init__(self, model: Model, perform: Perform, output: Output, files: Files) -> None:
        self._model, self._perform, self._output, self._files = model, perform, output, files
        self._running: dict[int, Running] = {}

    def take(self, document: Mapping[str, Any], data: bytes) -> None:
        """Do what a frame says."""
        number = document["job"]
        if "kind" in document:
            images = channel.split(data, document["images"])
            running = Running(number, Job(document["kind"], document["body"], images), self._output, self._files)
            self._running[number] = running
            work = (self._model, self._perform, self._done)
            threading.Thread(target=running.run, args=work, name=f"job-{number}", daemon=True).start()
        elif known := self._running.get(number):  # else it has ended meanwhile
            if "cancel" in document:
                known.cancel()
            else:
                known.took(document["took"])

    def _done(self, running: Running) -> None:
        del self._running[running.number]


def serve(name: str) -> None:
    """Open the model that the first frames name, and do jobs until standard input ends.

    Args:
        name: MODULE:FUNCTION of what performs jobs.
    """
    # A terminal and a service manager signal all of us: the server answers what is under way, and then ends this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resident.keep_no_core()
    pipe, output = os.fdopen(os.dup(0), "rb"), Output(os.dup(1))
    os.dup2(2, 1)  # libraries print; only frames may go where the server reads
    threading.excepthook = lambda failed: _fault(output, failed.exc_value)
    sys.excepthook = lambda kind, error, at: _fault(output, error)
    perform: Perform = worker.function(name)
    frames: queue.SimpleQueue[channel.Frame] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, frames, output), name="frames", daemon=True).start()
    try:
        with file_errors(temporary.system_folder()):
            model, files = _opened(frames, output)
    except EdgekitError as error:
        output.send({"failed": failure(error)})
        end()
    model.warnings = tuple(text for text in model.warnings if text not in model.hints)  # clients cannot follow them
    output.send({"ready": {"hints": list(model.hints)}})
    jobs = Jobs(model, perform, output, files)
    while True:
        jobs.take(*frames.get())


def end(code: int = 0) -> NoReturn:
    """End this process at once, whatever its threads are at; temporary files go with it."""
    worker.kill_all()
    temporary.remove_all()
    os._exit(code)


def _read(pipe: IO[bytes], frames: queue.SimpleQueue[channel.Frame], output: Output) -> None:
    """In a thread, so that the server's end is noticed in the midst of anything, and the server that we live."""
    while frame := channel.read(pipe):
        if "ping" in frame[0]:
            output.send({"pong": True})
        else:
            frames.put(frame)
    end()


def _opened(frames: queue.SimpleQueue[channel.Frame], output: Output) -> tuple[Model, Files]:
    """Say what a model needs, hear how many slots it may have, and load it."""
    wanted, _ = frames.get()
    prepared = opening.prepare(Path(wanted["folder"]), wanted["level"], wanted["device"], runtime=wanted["runtime"])
    # What clients are told of the model would be of another.
    if digest_of(prepared.manifest, prepared.parts) != wanted["digest"]:
        problem = f"the level {wanted['level']} has other files or settings than when the server started"
        raise ArtifactError(problem, remedy="start the server again, which reads what it serves anew")
    prepared.set_context(wanted["context"])
    use = Use(cache_type=wanted["cache_type"], keep=wanted["keep"])
    several = wanted["most_slots"] if isinstance(prepared.composition, Chat) else 1
    contexts = [prepared.contexts_bytes(replace(use, slots=slots)) for slots in range(1, several + 1)]
    output.send({"weights": _weights(prepared), "contexts": contexts})
    given, _ = frames.get()
    files = Files([prepared.folder / file.path for part in prepared.parts.values() for file in part.files])
    model = opening.opened(prepared, replace(use, slots=given["slots"]))
    model.wait_s = _WAIT_S
    return model, files


def _weights(prepared: Opening) -> int:
    """Bytes that the parts take in memory."""
    return sum(
        max(int(part.requires.get("memory_bytes", 0)), sum(file.bytes for file in part.files))
        for part in prepared.parts.values()
    )


def _fault(output: Output, error: BaseException | None) -> NoReturn:
    """A mistake of ours: its type and place, never its text, which may hold what a user said."""
    at = traceback.extract_tb(error.__traceback__)[-1] if error and error.__traceback__ else None
    place = f" at {Path(at.filename).name}:{at.lineno}" if at else ""
    output.send({"fault": f"{type(error).__name__}{place}"})
    end(FAULT)


if __name__ == "__main__":
    serve(sys.argv[1])
