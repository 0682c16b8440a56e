"""One user at a time: whose turn it is with a model and its parts, which share one `Ownership`.

A decoder has one cache, so two answers at once would be written into each other, and libraries crash when they are
called or freed while they compute. Whoever uses a model therefore holds a claim on it until that use is over.

- A claim belongs to a call, or to an iterator until it has ended, was closed or is garbage; not to a thread: a service
  may ask for each piece of one answer in another thread.
- Another thread waits for the claim, up to `Ownership.wait_s`. In the thread that read the last piece of an unfinished
  answer that would never end, so there the second use is refused at once.
- Closing ends what is under way at its next step and frees nothing under a library that still computes.
- A fork of the process has the libraries' memory but none of their threads: there everything is refused.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from edgekit.errors import UsageError

WAIT_S = 300.0
_LOOK_S = 0.2  # how often who waits looks whether the thread that it waits for still lives
_EXIT_S = 10.0  # what the end of the program waits for a library that still computes

ItemT = TypeVar("ItemT")
Check = Callable[[], None]


class Claim:
    """One use under way.

    Attributes:
        what: it is, for messages.
        thread: the one that runs it, or that ran it last.
        running: whether it computes now; an iterator does so only while somebody waits for an item.
        readers: the threads that wait for something of it; several where answers share it.
        user: whose sequence a decoder holds: an answer is one user in all its threads, who calls a part directly is
            its thread.
    """

    def __init__(self, what: str, thread: threading.Thread, user: object | None) -> None:
        self.what, self.thread, self.running = what, thread, True
        self.user = user or self
        self.readers: Callable[[], Iterable[threading.Thread]] = lambda: (self.thread,)

    @property
    def abandoned(self) -> bool:
        """Whether nobody is there any more who could go on reading."""
        return not self.running and not any(thread.is_alive() for thread in self.readers())


class Ownership:
    """Who uses a model, or a part that is used alone.

    Attributes:
        wait_s: seconds that another thread waits for its turn.
        ended: whether it was closed as a whole.
        lock: of all that is known of uses. There is no second one beside it: garbage is collected at any point, and
            what leaves then would take the two in the other order.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self.wait_s, self.ended = wait_s, False
        self._process = os.getpid()
        # Reentrant: an answer that is garbage may be collected, and leave, while its thread is in here.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._claim: Claim | None = None
        self._afterwards: list[Check] = []
        _ALIVE.add(self)

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in another process than the one that opened the model."""
        return os.getpid() != self._process

    @property
    def user(self) -> object:
        """Whose use is under way."""
        return self._claim and self._claim.user

    @property
    def is_mine(self) -> bool:
        """Whether what is under way is this thread's."""
        return self._claim is not None and self._claim.thread is threading.current_thread()

    def take(self, what: str, check: Check, *, inside: bool = False, wait_s: float | None = None) -> Claim | None:
        """A claim, as soon as nobody else has one.

        Args:
            what: is to be done, for messages.
            check: raises UsageError where it may no longer be used.
            wait_s: seconds to wait; as this owner waits for None.
            inside: it may be a step of what this thread has under way, and then needs no claim of its own: None.

        Raises:
            UsageError: this thread has an unfinished answer, another's takes too long, or `check` fails.
        """
        me, last = threading.current_thread(), time.monotonic() + (self.wait_s if wait_s is None else wait_s)
        collected = False
        while True:
            check()  # before the lock, too: in a fork a thread that is not there may hold it
            with self._changed:
                check()
                claim = self._claim
                if claim is None or claim.abandoned:
                    self._claim = Claim(what, me, me if inside else None)
                    return self._claim
                mine = claim.thread is me
                if inside and mine and claim.running:
                    return None
                if claim.running or collected:
                    left = last - time.monotonic()
                    if mine or left <= 0:
                        raise self.refusal(what, claim, mine)
                    self._changed.wait(min(_LOOK_S, left))
                    continue
            gc.collect()  # an unfinished answer that nobody can reach any more may lie in a cycle
            collected = True

    def holds(self, claim: Claim | None) -> bool:
        """Whether a claim is still the one under way."""
        return claim is not None and self._claim is claim

    def refusal(self, what: str, claim: Claim, mine: bool) -> UsageError:
        """Why something cannot begin: what is under way, in this thread or in another one that was waited for."""
        if mine:
            return UsageError(
                f"{what} cannot begin: {claim.what} is still under way in this thread",
                remedy="read its iterator to the end or close() it first, or open the model twice",
            )
        return UsageError(
            f"{what} cannot begin: after {self.wait_s:g} s {claim.what} is still under way in {claim.thread.name}",
            remedy="a larger wait_s, or open the model twice",
        )

    def pause(self, claim: Claim | None) -> None:
        """What has an item to give computes nothing until the next is asked for."""
        if claim and not self.is_forked:
            with self._changed:
                claim.running = False
                self._settle()

    def resume(self, claim: Claim | None, check: Check) -> None:
        """Go on, perhaps in another thread. Raises UsageError where it was closed, or is another's by now."""
        check()
        if claim:
            with self._changed:
                check()
                if self._claim is not claim:
                    raise UsageError(f"{claim.what} was given up: the thread that read it ended, and another took over")
                claim.running, claim.thread = True, threading.current_thread()

    def leave(self, claim: Claim | None) -> None:
        """The use is over."""
        if claim and not self.is_forked:
            with self._changed:
                claim.running = False
                if self._claim is claim:
                    self._claim = None
                self._settle()

    def when_idle(self, free: Check, *, seconds: float = float("inf")) -> None:
        """Free what a library holds once it does not compute: now, or where this very thread is in it, behind that."""
        last = time.monotonic() + seconds
        with self._changed:
            while self._computes and (left := last - time.monotonic()) > 0:
                assert self._claim is not None
                if self._claim.thread is threading.current_thread():
                    break
                self._changed.wait(min(_LOOK_S, left))
            if self._computes:
                self._afterwards.append(free)
            else:
                free()

    @property
    def _computes(self) -> bool:
        return self._claim is not None and self._claim.running

    def _settle(self) -> None:
        """What waited for the library to be idle, others' turns among it."""
        if not self._computes:
            while self._afterwards:
                self._afterwards.pop(0)()
        self._changed.notify_all()


_ALIVE: weakref.WeakSet[Ownership] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A library whose globals are destroyed while a thread computes in it would crash the program at its end."""
    for ownership in list(_ALIVE):
        if not ownership.is_forked:
            ownership.ended = True
            ownership.when_idle(lambda: None, seconds=_EXIT_S)


class Stream(Iterator[ItemT]):
    """Items as they are computed. Each may be asked for by another thread, but by one at a time."""

    def __init__(self, items: Generator[ItemT, None, None], what: str, owned: Owned) -> None:
        self._items, self._what, self._owned = items, what, owned
        self._turn, self._given_up = threading.RLock(), False

    def __next__(self) -> ItemT:
        if self._owned.ownership.is_forked:  # where a thread that is not there may hold the lock
            self._owned.check_usable()
        if not self._turn.acquire(blocking=self._given_up):
            raise UsageError(f"two threads ask for the next item of {self._what} at once", allowed="one at a time")
        try:
            return next(self._items)
        finally:
            self._turn.release()

    def close(self) -> None:
        """Give up the rest, so that another may use the model; waits for a thread that computes the next item."""
        self._given_up = True
        if not self._owned.ownership.is_forked:
            with self._turn:
                self._items.close()


class Owned:
    """A model or a part of one: what has one user at a time, is closed once, and stays in its process.

    Attributes:
        noun: what messages call it.
        ownership: shared by all parts of a model.
    """

    noun = "model"
    ownership: Ownership
    _closed: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Has an owner from the start, so that no subclass can forget it."""
        made = super().__new__(cls)
        made.ownership, made._closed = Ownership(), False
        _OPENED.add(made)
        return made

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, alone or with its model."""
        return self._closed or self.ownership.ended

    def check_usable(self) -> None:
        """Raise UsageError where it was closed, or this process is a fork of the one that opened it."""
        if self.ownership.is_forked:
            raise UsageError(
                f"this {self.noun} was opened in another process, of which this one is a fork",
                remedy="open it in this process; start processes with multiprocessing's 'spawn'",
            )
        if self.is_closed:
            raise UsageError(f"this {self.noun} is closed", remedy="open the model again")

    @contextmanager
    def _using(self, what: str, *, inside: bool = False) -> Iterator[None]:
        """Hold a claim for a call; see `Ownership.take`."""
        claim = self.ownership.take(what, self.check_usable, inside=inside)
        try:
            yield
        finally:
            self.ownership.leave(claim)

    def _streaming(self, what: str, items: Callable[[], Iterator[ItemT]], *, inside: bool = False) -> Stream[ItemT]:
        """Hold a claim from the first item that is asked for until the iterator ends, is closed or is garbage."""
        return Stream(self._claimed(what, items, inside), what, self)

    def _claimed(self, what: str, items: Callable[[], Iterator[ItemT]], inside: bool) -> Generator[ItemT, None, None]:
        claim = self.ownership.take(what, self.check_usable, inside=inside)
        try:
            for item in items():
                self.ownership.pause(claim)
                yield item
                self.ownership.resume(claim, self.check_usable)
        finally:
            self.ownership.leave(claim)

    def close(self) -> None:
        """Free what the libraries hold, as soon as none of them computes; twice does no harm.

        What is under way in other threads ends at its next step with a UsageError. In a fork nothing is freed.
        """
        self._closed = True
        if not self.ownership.is_forked:
            self.ownership.when_idle(self._free)

    def _free(self) -> None:
        """Free what the libraries hold. May be called again."""


_OPENED: weakref.WeakSet[Owned] = weakref.WeakSet()


def _keep_all() -> None:
    """In a fork, let nothing be destroyed: a library would wait for its threads to end, which are not there."""
    for owned in list(_OPENED):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
