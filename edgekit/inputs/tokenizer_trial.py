"""A tokenizer.json of others, loaded and used for the first time in a process of its own.

What is checked by our own rules may still end the library behind it, and what ends a worker is an error. A file that
held is remembered by its hash, so this costs a moment once per file and machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers

from edgekit.artifacts.files import sha256_file, sha256_json
from edgekit.errors import CheckpointError
from edgekit.inputs import charsmap, tokenizer_schema
from edgekit.inputs.tokenizer_schema import check_tokenizer_json
from edgekit.machine import worker
from edgekit.machine.limits import limit_this_process
from edgekit.machine.tried import remember, was_tried
from edgekit.machine.worker import End

_LIMIT_S = 20, 4  # of computing, and as many more for each MB
_MEMORY = 256 << 20, 16  # bytes, and as many more for each of the file
_WAIT = 10  # a busy machine takes so many times as long
_held: set[str] = set()  # in this process: where the cache cannot be written, and whatever a file's place
_TEXTS = (
    "The lungs are clear; the heart is not enlarged.",
    " \t two  spaces\n\n\nand lines\r\n\u00a0\u3000\u200b",
    "na\u00efve e\u0301 \ufb01 \uff21\uff0f \u2160 \ufdfa \u0130\u00df \0",
    "\u4e2d\u6587 \u0639\u0631\u0628\u064a \U0001fac1 \U0010ffff",
    "a" * 5000,
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ " * 20,
)


def ensure_tried(path: Path, data: bytes) -> None:
    """Try a tokenizer.json unless one with the same bytes held here before, with the same library and the same rules.

    Args:
        path: where `data` was read.

    Raises:
        CheckpointError: it is not what a tokenizer of these families is, or the library died on it.
    """
    digest = hashlib.sha256(data).hexdigest()
    key = sha256_json(["tokenizer.json", digest, tokenizers.__version__, _rules()])
    if key in _held:
        return
    if not was_tried(key):
        if problem := try_in_a_worker(path, digest).problem:
            raise CheckpointError(f"{path}: not a tokenizer: the library that reads it fails: {problem:.200}")
        remember(key)
    _held.add(key)


@cache
def _rules() -> list[str]:
    return [sha256_file(Path(str(module.__file__))) for module in (tokenizer_schema, charsmap)]


def try_in_a_worker(path: Path, digest: str | None = None) -> End:
    """Check, load and use a tokenizer.json in a process of its own.

    Args:
        digest: the SHA-256 that it must have.

    Returns:
        How that process ended: `problem` says what the library failed on.

    Raises:
        CheckpointError: it is not what a tokenizer of these families is, or no process can be started.
    """
    megabytes = 1 + (path.stat().st_size >> 20)
    seconds = _LIMIT_S[0] + _LIMIT_S[1] * megabytes
    job = {"path": str(path), "digest": digest, "seconds": seconds}
    environment = {"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    try:
        refused, end = worker.run(trial, job, limit_s=seconds * _WAIT, environment=environment)
    except OSError as error:
        raise CheckpointError(f"{path}: no process can be started to try it in: {error}") from error
    if refused:
        raise CheckpointError(**refused[0])
    return end


def trial(job: dict[str, Any]) -> Iterator[dict[str, str | None]]:
    """In the worker: yields an error's parts where the file is refused, and nothing where all is well."""
    path = Path(job["path"])
    data = path.read_bytes()
    limit_this_process(_MEMORY[0] + _MEMORY[1] * len(data), job["seconds"])
    if job["digest"] and hashlib.sha256(data).hexdigest() != job["digest"]:
        yield {"message": f"{path}: was changed while it was read", "remedy": "try again"}
        return
    try:
        added = check_tokenizer_json(data, str(path))
    except CheckpointError as error:
        yield {"message": error.message, "allowed": error.allowed, "remedy": error.remedy}
        return
    tokenizer = tokenizers.Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for content, index in added.items():
        if tokenizer.token_to_id(content) != index:  # the library numbers them itself
            yield {"message": f"{path}: added token {content!r:.60} is numbered {index}, which the vocabulary forbids"}
            return
    for text in (*_TEXTS, "".join(added)):
        for special in (False, True):
            encoding = tokenizer.encode(text, add_special_tokens=special)
            tokenizer.decode(encoding.ids, skip_special_tokens=special)
