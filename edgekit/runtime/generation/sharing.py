"""Whose turn it is with a decoder that several answers share.

All answers under way have one claim on their model together: whatever else somebody wants of it waits until the last of
them has ended, and nobody but the one whose turn it is calls a library. See `edgekit.runtime.ownership`.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.errors import UsageError
from edgekit.runtime.ownership import Claim, Owned

_LOOK_S = 0.2


class Member:
    """One answer of those that share a claim.

    Attributes:
        claim: of them all.
        thread: the one that asked for a piece of it last.
        computing: whether it does so now.
        release: what it has of the model is given back.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim, self.thread, self.computing = claim, threading.current_thread(), False
        self.release: Callable[[], None] = lambda: None

    @property
    def abandoned(self) -> bool:
        """Whether nobody is there any more who could go on reading."""
        return not self.computing and not self.thread.is_alive()


class Shared:
    """The claim that answers share, at most so many."""

    def __init__(self, owned: Owned, most: int) -> None:
        self._owned, self._most = owned, most
        self._changed = threading.Condition(owned.ownership.lock)
        self._turn = threading.RLock()
        self._inside: threading.Thread | None = None
        self._members: list[Member] = []

    def enter(self, what: str) -> Member:
        """Become one of them, as soon as there is room.

        Raises:
            UsageError: this thread has an unfinished answer where there is room for no other, others take too long, or
                the model is closed.
        """
        self._owned.check_usable()
        last, collected = time.monotonic() + self._owned.ownership.wait_s, False
        while True:
            self._owned.check_usable()
            claim = None if self._members else self._claimed(what, last)
            with self._changed:
                if member := self._joined(claim):
                    return member
                if not self._members:
                    continue  # somebody else has the model for something else
                mine = any(member.thread is threading.current_thread() for member in self._members)
                if collected:
                    if mine or time.monotonic() >= last:
                        raise self._owned.ownership.refusal(what, self._members[0].claim, mine)
                    self._changed.wait(_LOOK_S)
                    continue
            gc.collect()  # an unfinished answer that nobody can reach any more may lie in a cycle
            collected = True

    def _claimed(self, what: str, last: float) -> Claim | None:
        """The claim, waited for without the lock, which whoever has it may need; None for another look."""
        ownership = self._owned.ownership
        left = max(0.0, last - time.monotonic())
        try:
            return ownership.take(what, self._owned.check_usable, wait_s=min(_LOOK_S, left))
        except UsageError:
            self._owned.check_usable()
            if (ownership.is_mine and not self._members) or time.monotonic() >= last:
                raise
            return None

    def _joined(self, claim: Claim | None) -> Member | None:
        """A member, of the claim that the others have, or of this one where there are none."""
        self.drop_lost()
        if len(self._members) >= self._most:
            return None
        if self._members:
            claim = self._members[0].claim
        else:
            if claim is None:
                return None
            claim.readers = lambda: [member.thread for member in self._members]
        member = Member(claim)
        self._members.append(member)
        if len(self._members) == 1:  # else somebody may be computing in their turn
            self._owned.ownership.pause(claim)
        return member

    def drop_lost(self) -> None:
        """Release what those had whose readers are gone, or whose model somebody else uses since."""
        with self._changed:
            for member in list(self._members):
                if member.abandoned or not self._owned.ownership.holds(member.claim):
                    self._members.remove(member)
                    member.release()

    @contextmanager
    def turn(self, member: Member) -> Iterator[None]:
        """Have the model for a while, in this thread alone.

        Raises:
            UsageError: the model was closed, or the answer was given up for another; or this is called back from
                within.
        """
        self._owned.check_usable()
        member.thread, member.computing = threading.current_thread(), True
        try:
            with self._changed:
                if member not in self._members:
                    raise UsageError("an answer was given up: the thread that read it ended, and another took over")
            if self._inside is threading.current_thread():
                raise UsageError("an answer cannot go on within a step of another")
            with self._turn:
                self._owned.ownership.resume(member.claim, self._owned.check_usable)
                self._inside = threading.current_thread()
                try:
                    yield
                finally:
                    self._inside = None
                    self._owned.ownership.pause(member.claim)
        finally:
            member.computing = False

    def leave(self, member: Member) -> None:
        """It has ended, or nobody wants it any more."""
        if self._owned.ownership.is_forked:
            return
        with self._changed:
            if member in self._members:
                self._members.remove(member)
            member.release()
            if not self._members:
                self._owned.ownership.leave(member.claim)
            self._changed.notify_all()
