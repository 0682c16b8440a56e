"""The server's end of an engine's process: two threads, one that reads its frames and one that writes ours.

Threads, since pipes can be waited for on every system; each hands over all that it has at once. They end with the
process, and the process ends with them.

A process can also hang: stopped, or in a library that neither returns nor lets Python's other threads run. It would
hold its memory and its slots for ever, so it is asked for a sign of life again and again, and killed when it gives
none. A thread that does nothing else answers. A job that never ends in a library that lets others run is not noticed:
nobody knows how long it may take.
"""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgekit.machine import worker
from edgekit.serve.engines import channel
from edgekit.serve.engines.channel import Frame, Frames, Rubbish

_READ_BYTES = 1 << 16
_AHEAD = 8  # reads that may wait for the event loop, so that a flood stays in the pipe
_CLOSE_S = 5.0
# Without a word, which is longer than any call of a library here that does not let other threads run (the tokenizer
# reads the longest prompt in seconds), and than loading a library from a slow disk.
SILENT_S = 60.0
_PINGS = 6  # in that time

_RUBBISH = "it wrote what is no answer"

Arrived = Callable[[Sequence[Frame]], None]


class Child:
    """A process that performs jobs; made in an event loop, whose thread calls everything here.

    Args:
        perform: MODULE:FUNCTION.
        arrived: called in the loop with the frames of one read. Raising Rubbish ends the process.
        ended: called in the loop once, when the process is gone, with this and what ended it.
        silent_s: seconds without a word from it after which it is killed; no fewer than `SILENT_S` before its first.

    Raises:
        OSError: no process can be started.
    """

    def __init__(
        self, perform: str, arrived: Arrived, ended: Callable[[Child, str], None], silent_s: float = SILENT_S
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived, self._ended, self._silent_s = arrived, ended, silent_s
        self._process = worker.start(
            "edgekit.serve.engines.process",
            perform,
            {},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it may quote what a patient's doctor asked
        )
        self._gone = asyncio.Event()
        self._fault = ""  # what it was killed for
        self._ahead = threading.Semaphore(_AHEAD)
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()
        self._unanswered, self._spoke = 0, False
        self._watching = self._loop.create_task(self._watch(), name="watch an engine")

    @property
    def hangs(self) -> bool:
        """Whether it has given no sign of life lately."""
        return self._unanswered > 1

    @property
    def pid(self) -> int:
        """The process's."""
        return int(self._process.pid)

    def send(self, document: dict[str, Any], data: Sequence[bytes] = ()) -> None:
        """Have a frame written soon. Raises Rubbish where it would be too large."""
        self._outgoing.put(channel.head(document, sum(map(len, data))))
        for part in data:
            self._outgoing.put(part)

    def kill(self) -> None:
        """End it now, in the midst of what it does."""
        self._process.kill()

    async def close(self) -> None:
        """End it: it notices that its input ends, and is killed where it does not. Nothing of it is left then."""
        self._outgoing.put(None)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), _CLOSE_S)
        finally:  # nobody may wait any longer
            self.kill()
        await self._gone.wait()
        for thread in self._threads:
            thread.join()

    async def _watch(self) -> None:
        """Ping, and kill it where that is in vain. Turns are counted, not seconds: this loop may have been held up."""
        pause = self._silent_s / _PINGS
        while self._unanswered <= (_PINGS if self._spoke else max(_PINGS, SILENT_S / pause)):
            self.send({"ping": True})
            await asyncio.sleep(pause)
            self._unanswered += 1
        self._end(f"it gave no sign of life for {self._silent_s:g} s")

    def _end(self, fault: str) -> None:
        self._fault = self._fault or fault
        self.kill()

    def _read(self) -> None:
        """In a thread: hand over what comes until nothing comes any more, and take the process's leave."""
        assert self._process.stdout, "opened as a pipe"
        pipe, frames = self._process.stdout.fileno(), Frames()
        try:
            while arrived := os.read(pipe, _READ_BYTES):
                if found := frames.fed(arrived):
                    self._ahead.acquire()
                    self._soon(self._hand_over, found)
        except Rubbish:
            self._fault = _RUBBISH
        self._process.kill()  # it may live on with its output closed
        code = self._process.wait()
        self._process.stdout.close()
        self._outgoing.put(None)
        self._threads[1].join()
        self._soon(self._leave, code)

    def _soon(self, call: Callable[[Any], None], given: Any) -> None:
        with suppress(RuntimeError):  # the loop was closed without us
            self._loop.call_soon_threadsafe(call, given)

    def _write(self) -> None:
        """In a thread: write what is to be sent; all of it that is there, before it is flushed."""
        pipe = self._process.stdin
        assert pipe, "opened as a pipe"
        with suppress(OSError), pipe:  # it has ended
            while (part := self._outgoing.get()) is not None:
                pipe.write(part)
                if self._outgoing.empty():
                    pipe.flush()

    def _hand_over(self, frames: Sequence[Frame]) -> None:
        self._ahead.release()
        if self._fault:
            return
        self._unanswered, self._spoke = 0, True
        try:
            self._arrived([frame for frame in frames if "pong" not in frame[0]])
        except Rubbish:
            self._end(_RUBBISH)

    def _leave(self, code: int) -> None:
        self._watching.cancel()
        self._gone.set()
        self._ended(self, self._fault or worker.death(code) or f"exit code {code}")
