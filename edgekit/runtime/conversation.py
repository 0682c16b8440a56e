"""A named conversation on this disk: what was said, the images as the model sees them, and what was computed of both.

It is kept because the user named it, in a folder of this user's alone; see `edgekit.machine.kept`. What was said cannot
be had again: it is never begun anew over a file that cannot be read. What was computed lies apart, and only saves time.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import lock_file, sha256_json
from edgekit.errors import EdgekitError, EdgekitWarning, InputError, NoSpaceError
from edgekit.inputs.image import to_pixels
from edgekit.inputs.message import Image, Message, read_all
from edgekit.machine.cache import private_folder
from edgekit.machine.kept import COMPUTED, CONVERSATIONS, Entry, Kept
from edgekit.runtime.chat_model import ChatModel

_LENGTH = struct.Struct("<Q")
_LONGEST_NAME = 200
_LONGEST_HEAD = 16 << 20  # bytes of text that are read to describe one
_MALFORMED = (struct.error, ValueError, KeyError, TypeError, RecursionError, InputError)


@contextmanager
def claimed(name: str) -> Iterator[None]:
    """No other process goes on with the conversation of this name, or forgets it, until the end.

    Raises:
        InputError: it is no name.
        EdgekitError: another process has it, or nothing can be kept here.
        UsageError: there is no cache folder.
    """
    if not name.strip() or len(name) > _LONGEST_NAME:
        raise InputError(f"a conversation's name of {len(name)} characters", allowed=f"1 to {_LONGEST_NAME}")
    folder = Kept(CONVERSATIONS).folder
    with ExitStack() as stack:
        with file_errors(folder):
            private_folder(folder)
            free = stack.enter_context(lock_file(_lock(name)))
        if not free:
            raise _open_elsewhere(name)
        yield


@contextmanager
def unopened(name: str) -> Iterator[bool]:
    """As `claimed`, to remove it: False where another process has it."""
    with ExitStack() as stack:
        free = True
        with suppress(OSError):  # a disk without room for a lock, or a closed folder, keeps nothing from being removed
            free = stack.enter_context(lock_file(_lock(name)))
        yield free


def _lock(name: str) -> Path:
    return Kept(CONVERSATIONS).lock(sha256_json(["a conversation's name", name]))


def _open_elsewhere(name: str) -> EdgekitError:
    return EdgekitError(f"conversation {name} is open in another process", remedy="end that one first")


class Conversation:
    """What was said under a name so far; whoever holds one has `claimed` its name.

    Attributes:
        messages: all turns, the last one the model's; none at the beginning.
        computed: what the model had computed of them; None where that is not there any more.
        kept: where it stays.
    """

    def __init__(self, name: str, model: str) -> None:
        """Args:
            name: the user's.
            model: names the model that it is held with, by its files: another one begins anew.

        Raises:
            EdgekitError: it is there, and is damaged or cannot be read.
            UsageError: there is no cache folder.
        """
        self._name, self.kept, self._bulk = name, Kept(CONVERSATIONS), Kept(COMPUTED)
        self._key = sha256_json(["a conversation", name, model])
        self.messages: list[Message] = []
        self.computed: bytes | None = None
        data = self.kept.read(self._key)
        if data is not None:
            try:
                self.messages = _read(data)
            except _MALFORMED as error:
                raise EdgekitError(
                    f"{self.kept.folder / self._key}: a conversation that cannot be read",
                    remedy=f"edgekit cache --forget {self._key}",
                ) from error
            self.computed = self._bulk.get(self._key)

    def keep(self, messages: Sequence[Message], model: ChatModel) -> None:
        """Keep it as it is now, with what the model has computed of it where there is room for that, which is warned of
        where there is none, as of older conversations that had to go.

        Raises:
            InputError: no next question could follow these messages.
            EdgekitError: it cannot be kept, and why; what was kept before is there yet.
        """
        fits = _tokens(messages, model) <= model.decoder.context
        data = _written(self._name, messages, model)
        try:
            self.kept.write(self._key, data)
        except NoSpaceError:  # of a disk, perhaps, that holds what can be computed again
            self._bulk.drop(self._key)
            self.kept.write(self._key, data)
        self.kept.trim(self._key, self._make_room)
        if not fits:  # a wider context goes on with what was said
            self._bulk.drop(self._key)
            return
        try:
            self._bulk.write(self._key, model.save(messages))
        except EdgekitError as error:
            self._bulk.drop(self._key)
            said = f"conversation {self._name} is kept, and what was computed of it is not: {error.message}"
            warnings.warn(said, EdgekitWarning, stacklevel=2)
        self._bulk.trim(self._key)

    def _make_room(self, entry: Entry) -> bool:
        """Remove an older conversation, and say which; whether it is gone. One that is open elsewhere stays."""
        one = _described(self.kept, entry)
        gone = one.forget()
        if gone and entry.finished:
            most = f"conversations took more than {self.kept.most_bytes / 1e6:.0f} MB"
            warnings.warn(f"conversation {one.title} was removed: {most}", EdgekitWarning, stacklevel=4)
        return gone


def _tokens(messages: Sequence[Message], model: ChatModel) -> int:
    """Of these messages with a short question behind them. Raises InputError where none could follow."""
    runs = model.format.runs([*messages, Message("user", "a")])
    return sum(run if isinstance(run, int) else len(run) for run in runs)


@dataclass(frozen=True)
class KeptConversation:
    """A conversation on the disk, as its file says.

    Attributes:
        name: its user's; None where the file cannot be read, or is not finished.
        turns: how many were said.
        whole: whether it can be gone on with; else its name and its turns are what a damaged file says.
    """

    name: str | None
    turns: int
    entry: Entry
    whole: bool

    @property
    def title(self) -> str:
        """What `edgekit cache --forget` takes: its name, or its file's."""
        return self.entry.path.name if self.name is None else self.name

    def forget(self) -> bool:
        """Remove it, and what was computed of it; whether it is gone.

        Raises:
            EdgekitError: another process has it open.
            OSError: it cannot be removed.
        """
        if self.name is None:
            return self._remove()
        with unopened(self.name) as free:
            if not free:
                raise _open_elsewhere(self.name)
            return self._remove()

    def _remove(self) -> bool:
        if self.entry.finished:
            Kept(COMPUTED).drop(self.entry.path.name)
        return self.entry.remove()


def kept_conversations(kept: Kept) -> list[KeptConversation]:
    """All that are there, what was used longest ago first."""
    return [_described(kept, entry) for entry in kept.entries()]


def _described(kept: Kept, entry: Entry) -> KeptConversation:
    with suppress(*_MALFORMED):
        (length,) = _LENGTH.unpack(kept.beginning(entry, _LENGTH.size))
        head = json.loads(kept.beginning(entry, _LENGTH.size + min(length, _LONGEST_HEAD))[_LENGTH.size :])
        name, turns = str(head["name"]), len(head["turns"])
        if entry.finished:
            return KeptConversation(name, turns, entry, kept.is_whole(entry))
    return KeptConversation(None, 0, entry, whole=False)


def _written(name: str, messages: Sequence[Message], model: ChatModel) -> bytes:
    assert model.preprocessing is not None or not any(message.images for message in messages)
    turns, pixels = [], []
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, Image):
                assert model.preprocessing is not None, "a model that sees images says how"
                pictures, _ = read_all([part])  # what is to be known of it came with the answer
                (array,) = to_pixels(pictures, model.preprocessing)
                parts.append({"image": list(array.shape)})
                pixels.append(array)
            else:
                parts.append(part)
        turns.append({"role": message.role, "parts": parts})
    head = json.dumps({"name": name, "turns": turns}).encode()
    return _LENGTH.pack(len(head)) + head + b"".join(array.tobytes() for array in pixels)


def _read(data: bytes) -> list[Message]:
    (length,) = _LENGTH.unpack_from(data)
    turns = json.loads(data[_LENGTH.size : _LENGTH.size + length])["turns"]
    place = [_LENGTH.size + length]
    return [Message(turn["role"], *_parts(turn["parts"], data, place)) for turn in turns]


def _parts(stated: Sequence[Any], data: bytes, place: list[int]) -> Iterator[str | Image]:
    for part in stated:
        if isinstance(part, str):
            yield part
        else:
            height, width, channels = part["image"]
            end = place[0] + height * width * channels
            array: NDArray[np.uint8] = np.frombuffer(data[place[0] : end], np.uint8).reshape(height, width, channels)
            place[0] = end
            yield Image(array)
