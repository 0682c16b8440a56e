"""How a command ends when it is told to: within two seconds, tidied up, with a word on how to go on.

Python looks at a signal between two steps of its own, and native code that reads a long prompt is one step. So a thread
watches as well, which the system wakes at once: where the command has not ended by itself after a moment, the thread
ends the process, whose files are safe at every moment for the same reason that they survive a loss of power.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from edgekit.machine import temporary, worker

GRACE_S = 0.5

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or another wish that this process ends.

    Attributes:
        exit_code: as shells report it: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


_instead: list[tuple[Collection[int], Callable[[int], None]]] = []


@contextmanager
def signals_call(handler: Callable[[int], None], numbers: Collection[int] = _SIGNALS) -> Iterator[None]:
    """For a while these signals are a handler's, which is called with their number, and do not end the command."""
    entry = (numbers, handler)
    _instead.append(entry)
    try:
        yield
    finally:
        _instead.remove(entry)


def ctrl_c_calls(handler: Callable[[], None]) -> AbstractContextManager[None]:
    """For a while Ctrl-C ends something within the command, and not the command."""
    return signals_call(lambda number: handler(), (signal.SIGINT,))


def _elsewhere(number: int) -> Callable[[int], None] | None:
    """Whose a signal is at the moment, where it is not the command's."""
    return next((handler for numbers, handler in reversed(_instead) if number in numbers), None)


@contextmanager
def ending_promptly(last_words: Callable[[], str]) -> Iterator[None]:
    """Raise `Interrupted` at the first such signal; end the process at the second, or if nothing came of the first.

    Signals that this process was started to ignore, as `nohup` does, stay ignored; elsewhere than in the main thread
    nothing changes.

    Args:
        last_words: what is written to standard error where the process is ended from here.
    """
    wanted = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    if threading.current_thread() is not threading.main_thread() or not wanted:
        yield
        return
    received: list[int] = []

    def first(number: int, frame: FrameType | None) -> None:
        if handler := _elsewhere(number):
            handler(number)
            return
        received.append(number)
        if len(received) == 1:
            raise Interrupted(number)

    def not_raised(unraisable: sys.UnraisableHookArgs) -> None:
        # Native code had called back, as to log a line, and an exception goes no further than there: the watcher ends
        # the process in its place.
        if not isinstance(unraisable.exc_value, Interrupted):
            heard_before(unraisable)

    ours, systems = socket.socketpair()
    systems.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, wanted, last_words), daemon=True)
    watcher.start()
    woken = signal.set_wakeup_fd(systems.fileno(), warn_on_full_buffer=False)
    heard_before, sys.unraisablehook = sys.unraisablehook, not_raised
    before = {number: signal.getsignal(number) for number in wanted}
    try:
        for number in wanted:
            signal.signal(number, first)
        yield
    finally:
        received.append(0)  # from here on nothing is raised
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = heard_before
        signal.set_wakeup_fd(woken)
        systems.shutdown(socket.SHUT_WR)  # ends the watcher, though a fork may hold a copy of this end
        systems.close()
        watcher.join()
        ours.close()


def _watch(bell: socket.socket, wanted: list[int], last_words: Callable[[], str]) -> None:
    """Wait for a signal's number, then for a second one or the end of the command, but not for long."""
    while number := bell.recv(1):
        if number[0] in wanted and not _elsewhere(number[0]):
            ready, _, _ = select.select([bell], [], [], GRACE_S)
            if ready and not bell.recv(1):
                return
            _end(number[0], last_words())


def _end(number: int, said: str) -> None:
    """End this process and what it started; what Python would do at its end may wait for what hangs."""
    worker.kill_all()
    temporary.remove_all()
    os.write(2, f"{said}\n".encode(errors="backslashreplace"))
    os._exit(128 + number)
