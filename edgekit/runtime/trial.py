"""A part is opened for the first time in a process of its own: what kills its library must not kill this program.

Headers are checked before any library sees a file, but nobody can check everything that a library trusts. So a worker
loads the parts of a variant one after the other, as they will be loaded here, and gives each the smallest work there
is. What lived through it is remembered in edgekit's cache under a key of all that it depends on: the files' contents,
how they are opened, the library and the CPU. A file is tried once on a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.files import sha256_json
from edgekit.errors import ArtifactError, EdgekitError
from edgekit.machine import worker
from edgekit.machine.cpu import cpu
from edgekit.machine.gpu import VARIABLE
from edgekit.machine.memory import memory
from edgekit.machine.tried import remember, was_tried
from edgekit.machine.worker import End
from edgekit.progress import Progress
from edgekit.runtime.backends import BACKENDS, version_of
from edgekit.runtime.base import Decoder, Embeddings, Encoder, Tokens
from edgekit.runtime.parts import DecoderFile, EncoderFile, RunOptions
from edgekit.terminal import stripped_line

METHOD = 1  # part of the key: a change of what is tried makes what is remembered worthless

_CLOSED = "closed"  # what a worker says when all is closed; how it ends then is no part's fault
_CONTEXT = 512
LEAST_S = 300.0  # an image may take most of a minute, and a machine may be busy
_BYTES_PER_S = 4e6
LARGE_BYTES = 1_000_000_000  # trying it takes so long that people should know why
# Signals that others send: they say nothing about the file.
_FROM_OUTSIDE = ("SIGTERM", "SIGINT", "SIGHUP")


@dataclass(frozen=True)
class Piece:
    """One part, and how it is opened.

    Attributes:
        backend: its row's name.
        format: of the part.
        decodes: whether it is a decoder.
        file: an `EncoderFile` or a `DecoderFile` as JSON.
        hashes: SHA-256 of all that is opened: its files, and those of a decoder that it leans on.
    """

    role: str
    backend: str
    format: str
    decodes: bool
    file: Mapping[str, Any]
    options: RunOptions
    hashes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """What the backend is given."""
        return Path(self.file["files"][0] if self.decodes else self.file["path"])

    @property
    def key(self) -> str:
        """Names everything that its end may depend on; the same files have one key wherever they lie."""
        row, processor = BACKENDS[self.backend], cpu()
        places = ("path", "listed", "files", "manifest", "context")
        described = {name: value for name, value in self.file.items() if name not in places}
        built = row.options.fingerprint() if row.options else None
        how = [self.backend, self.format, described, self.options.gpu_layers > 0, self.options.plain_weights]
        how += [self.options.sequences, self.options.cache_type]
        library = [version_of(row.library), built, processor.name, processor.flags]
        return f"part-{sha256_json([METHOD, how, self.hashes, library])[:32]}"

    def open(self, beside: Decoder | None) -> Decoder | Encoder:
        """Load it, a decoder with a small cache."""
        row = BACKENDS[self.backend]
        if not self.decodes:
            return row.encoders[self.format](EncoderFile.from_json(self.file), self.options, beside)
        file = DecoderFile.from_json(self.file)
        context = min(file.context, max(_CONTEXT, 2 * file.image_tokens))
        return row.decoders[self.format](replace(file, context=context), self.options)


def require(pieces: Sequence[Piece], progress: Progress) -> None:
    """Have all parts of a variant opened elsewhere before one of them is opened here.

    A part that its library refuses with an error passes: opened here, it is refused in the same words.

    Args:
        pieces: a decoder before what leans on it.
        progress: told where it takes long.

    Raises:
        ArtifactError: a library died on a file, or found no end.
        EdgekitError: no process can be started, or somebody ended it.
    """
    keys = {piece.role: piece.key for piece in pieces}
    new = [piece for piece in pieces if not was_tried(keys[piece.role])]
    if not new:
        return
    needed = [piece for piece in pieces if piece in new or (piece.decodes and any(_leans(other) for other in new))]
    size = sum(_bytes(piece) for piece in needed)
    if size >= LARGE_BYTES:
        names = ", ".join(piece.path.name for piece in needed)
        progress.note(f"tries {names} once in a process of its own ({size / 1e9:.1f} GB)")
    limit_s = LEAST_S + size / _BYTES_PER_S
    lived, end = _run(needed, limit_s)
    for piece in needed:
        if piece.role not in lived:
            raise _failed(piece, end, limit_s)
    if _CLOSED not in lived:
        raise _failed(needed[-1], end, limit_s)
    for piece in needed:
        if lived[piece.role]:
            remember(keys[piece.role])


def died(pieces: Sequence[Piece], limit_s: float) -> str | None:
    """How a library died on one of these parts, or that it found no end; None where it did or refused its work."""
    lived, end = _run(pieces, limit_s)
    return None if _CLOSED in lived else end.problem or "it wrote nothing"


def attempt(job: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Open each piece and have it work; yields its role, and whether it did: for `edgekit.machine.worker`."""
    pieces = [Piece(**{**one, "options": RunOptions(**one["options"])}) for one in job]
    leaned_on = any(map(_leans, pieces))
    with ExitStack() as until_the_end:
        beside: Decoder | None = None
        for piece in pieces:
            with ExitStack() as until_it_worked:
                try:
                    opened: Any = piece.open(beside if _leans(piece) else None)
                    kept = piece.decodes and leaned_on
                    (until_the_end if kept else until_it_worked).enter_context(closing(opened))
                    beside = opened if kept else beside
                    _work(piece, opened)
                    worked = True
                except EdgekitError:
                    worked = False
            yield piece.role, worked
    yield _CLOSED, True


def _work(piece: Piece, opened: Any) -> None:
    """A prompt with a token and, where images are shown, an image's first vectors, and a step; or one empty item."""
    if piece.decodes:
        prompt: list[Tokens | Embeddings] = [Tokens((0,))]
        if piece.file["image_tokens"]:
            prompt.append(Embeddings(np.zeros((2, opened.hidden), np.float32), "nothing"))
        list(opened.prefill(prompt))
        opened.step((0,))
    else:
        kind = np.uint8 if opened.spec.input == "pixels" else np.int64
        opened.encode(np.zeros((1, *opened.spec.shape), kind))


def _leans(piece: Piece) -> bool:
    return not piece.decodes and BACKENDS[piece.backend].leans


def _bytes(piece: Piece) -> int:
    files = piece.file["files"] if piece.decodes else piece.file["listed"] or [piece.file["path"]]
    return sum(Path(path).stat().st_size for path in files)


def _run(pieces: Sequence[Piece], limit_s: float) -> tuple[dict[str, bool], End]:
    """Role -> whether it worked, of those that did not end the process; and how that ended."""
    job = [asdict(piece) for piece in pieces]
    quiet = {"GGML_NO_BACKTRACE": "1"}  # llama.cpp would start a debugger to say where it died
    try:
        results, end = worker.run(attempt, job, limit_s=limit_s, environment=quiet)
    except OSError as error:
        why = error.strerror or error
        raise EdgekitError(f"no process can be started to try {pieces[0].path} in: {why}") from error
    return dict(map(tuple, results)), end


def _failed(piece: Piece, end: End, limit_s: float) -> EdgekitError:
    title, said = BACKENDS[piece.backend].title, stripped_line(end.complaint)
    if end.died in _FROM_OUTSIDE:
        return EdgekitError(f"{piece.path}: the process that tried it was ended by {end.died}", remedy="try again")
    if end.stopped_after_s is not None:
        what, remedy = f"{title} found no end within {limit_s:.0f} s", "export or download the file again"
    elif end.died == "SIGKILL":
        free = memory().available_bytes
        what = f"{title} was killed on it, as systems do when memory runs out ({free / 1e9:.1f} GB are free)"
        remedy = "close other programs, or open a smaller level"
    else:
        how = end.died or f"exit code {end.exit_code}"
        what, remedy = f"{title} died on it: {how}{f' ({said})' if said else ''}", "export or download the file again"
    if piece.options.gpu_layers:  # nobody knows which of both it was
        what, remedy = f"{what}, on a GPU", f"{VARIABLE}=0 leaves the GPU out; {remedy}"
    return ArtifactError(f"{piece.path}: {what}", remedy=remedy)
