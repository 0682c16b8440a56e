"""One pass over a checkpoint's shards, in the order in which they lie on disk, that writes any number of files at once.

Each slice is read once and encoded once for every distinct form that any file wants, on all cores; meanwhile every
file is appended to by one thread and hashed by another, and so is the source. Nothing is written twice, and
nothing is held but a few slices and, for each file, the matrix that it wants transposed, whole: two where one is still
hashed while the next is filled.

Beside each unfinished file stands a journal: after every tensor a line with the file's length and its SHA-256 up to
there. A rerun reads the file once, finds the last line that is true, and goes on behind it.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate
from typing import Any, Self

from edgekit.artifacts.files import append, write_atomically
from edgekit.checkpoints.checkpoint import Checkpoint
from edgekit.checkpoints.tensors import Slice
from edgekit.formats.sections import EncodedBytes, FileContent, Section, Tail
from edgekit.machine.cpu import cpu
from edgekit.progress import Progress

_SLICE_WEIGHTS = 2 * 1024 * 1024  # 8 MiB of float32 in every worker
_AHEAD = 4  # slices under way, beyond one for each worker


class OutputFile:
    """A file under way: what stands before its first tensor, then its tensors in the pass's order."""

    def __init__(self, content: FileContent) -> None:
        self.path = path = content.path
        self._head, self._sections = content.head, content.sections
        sizes = [len(content.head), *(section.bytes + section.padding for section in content.sections)]
        self._ends = list(accumulate(sizes))
        self._journal_path = path.with_name(f".{path.name}.journal")
        self._digest, self._length = hashlib.sha256(), 0
        self._submitted = self._written = self._hashed = 0  # slices
        self._tail: Tail | None = None  # of the tensor under way

    def __enter__(self) -> Self:
        marks = self._resume()  # the first is the head's
        self._todo = {section.name: section for section in self._sections[max(marks - 1, 0) :]}
        self._writing, self._hashing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        if not marks:
            self._append(self._head)
            self._note(self._head)
            self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.shutdown(cancel_futures=True)
        self._hashing.shutdown(cancel_futures=True)
        self._file.close()
        self._journal.close()

    @property
    def weights_left(self) -> int:
        """Weights that are not in the file yet."""
        return sum(section.weights for section in self._todo.values())

    def wants(self, name: str) -> Section | None:
        """What this tensor becomes here; None where that is nothing, or stands in the file already."""
        return self._todo.get(name)

    def submit(self, section: Section, encoded: Future[Mapping[Hashable, EncodedBytes]], last: bool) -> Future[None]:
        """Append a slice, once it is encoded, behind those that were submitted before; never behind a gap."""
        turn = self._submitted
        self._submitted += 1

        # Where the slice before failed or was cancelled, whoever waits for that one is told.
        def write() -> list[EncodedBytes]:
            chunks = []
            if turn == self._written:
                chunks = self._chunks(section, encoded.result()[section.form], last)
                for chunk in chunks:
                    self._append(chunk)
                self._written += 1
            return chunks

        def note() -> None:
            chunks = written.result()
            if turn == self._hashed and turn < self._written:
                for chunk in chunks:
                    self._note(chunk)
                if last:
                    self._mark()
                self._hashed += 1

        written = self._writing.submit(write)
        return self._hashing.submit(note)

    def _chunks(self, section: Section, encoded: Any, last: bool) -> list[EncodedBytes]:
        """What one slice adds to the file."""
        if section.tail is None:
            chunks = [encoded]
        else:
            now, kept = encoded
            tail = self._tail = self._tail or section.tail()
            tail.add(kept)
            chunks = [now]
            if last:
                chunks += tail.chunks()
                self._tail = None
        return [*chunks, bytes(section.padding)] if last else chunks

    def finish(self) -> tuple[str, int]:
        """SHA-256 and length of the whole file. Its journal stays until somebody has recorded them."""
        assert self._length == self._ends[-1]
        return self._digest.hexdigest(), self._length

    def _note(self, data: EncodedBytes) -> None:
        view = memoryview(data).cast("B")
        self._digest.update(view)
        self._length += len(view)

    def _append(self, data: EncodedBytes) -> None:
        view = memoryview(data).cast("B")
        while view:  # a raw write may take less than it is given
            view = view[self._file.write(view) :]

    def _mark(self) -> None:
        assert self._length in self._ends
        self._journal.write(f"{self._length} {self._digest.hexdigest()}\n".encode())

    def _resume(self) -> int:
        """Open the file, cut behind the last tensor that is as the journal says; return how many marks are true."""
        marks = self._true_marks()
        if not marks:
            self.path.unlink(missing_ok=True)
        write_atomically(self._journal_path, "".join(marks))
        self._file, self._journal = append(self.path), append(self._journal_path)
        self._file.truncate(self._length)
        return len(marks)

    def _true_marks(self) -> list[str]:
        """The journal's lines up to the first that the file does not bear out; digest and length follow them."""
        pair = (self.path, self._journal_path)
        if not all(path.is_file() and not path.is_symlink() for path in pair):
            return []
        marks: list[str] = []
        digest, head = hashlib.sha256(), hashlib.sha256(self._head).hexdigest()
        with self.path.open("rb") as file:
            for line in self._journal_path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True):
                length, _, expected = line.partition(" ")
                planned = str(self._ends[len(marks)]) if len(marks) < len(self._ends) else None
                if not line.endswith("\n") or length != planned or (not marks and expected.strip() != head):
                    break
                left = int(length) - file.tell()
                while left > 0 and (block := file.read(min(left, 1 << 20))):
                    digest.update(block)
                    left -= len(block)
                if left or digest.hexdigest() != expected.strip():
                    break
                self._digest, self._length = digest.copy(), int(length)
                marks.append(line)
        return marks


def write(checkpoint: Checkpoint, outputs: Sequence[OutputFile], progress: Progress) -> None:
    """Read the checkpoint once from end to end, write all files, and tell the checkpoint its shards' hashes.

    Args:
        outputs: entered as context managers; their sections in the order of `Checkpoint.in_order`.
        progress: counts weights, those of each file.

    Raises:
        CheckpointError: a shard ended early or was changed meanwhile, or a weight cannot be encoded.
        OSError: the disk is full, for instance.
    """
    progress.start(_label(outputs), sum(output.weights_left for output in outputs))
    threads = cpu().usable_cores
    under_way: deque[tuple[list[Future[None]], int]] = deque()

    def land(at_most: int) -> None:
        while len(under_way) > at_most:
            futures, weights = under_way.popleft()
            for future in futures:
                future.result()
            progress.advance(weights)

    with ExitStack() as stack:
        workers, hashing = (stack.enter_context(ThreadPoolExecutor(count)) for count in (threads, 1))
        for pool in (workers, hashing):  # after an error nobody waits for what is queued
            stack.callback(pool.shutdown, cancel_futures=True)
        for shard in checkpoint.shards:
            digest = hashlib.sha256()
            for piece in checkpoint.pieces(shard, _SLICE_WEIGHTS):
                hashed = hashing.submit(digest.update, piece.data)
                targets = [(output, section) for output in outputs if (section := output.wants(piece.name))]
                if targets:
                    encoded = workers.submit(_encode, piece, [section for _, section in targets])
                    appended = [output.submit(section, encoded, piece.last) for output, section in targets]
                under_way.append(([hashed, *(appended if targets else [])], piece.weights * len(targets)))
                land(threads + _AHEAD)
            land(0)
            checkpoint.record_hash(shard, digest.hexdigest())


def _encode(piece: Slice, sections: Sequence[Section]) -> Mapping[Hashable, EncodedBytes]:
    """The forms of one slice that are wanted, each once."""
    piece.check()
    forms = {section.form: section for section in sections}
    return {form: section.encode(piece) for form, section in forms.items()}


def _label(outputs: Sequence[OutputFile]) -> str:
    return outputs[0].path.name if len(outputs) == 1 else f"{len(outputs)} files"
