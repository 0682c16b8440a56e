"""`edgekit index`: vectors of images on disk, to search in."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.commands import Verb
from edgekit.commands.support.embedding import (
    add_cluster,
    add_source,
    embedder,
    how_of,
    identity,
    index_at,
    index_place,
    with_progress,
)
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import InputError, UsageError
from edgekit.pack.extras import needed
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.retrieval.entries import Entry
    from edgekit.retrieval.index import Index
    from edgekit.retrieval.qdrant import Qdrant
    from edgekit.retrieval.vectors import Embedder, FileVectors

_QUESTIONS = 100  # of each kind, that a cache's recall is measured with
_AT_ONCE = 64  # pictures that are kept in one step: so many are lost at most when it is stopped


def add_options(parser: ArgumentParser) -> None:
    """What is indexed, by what, where; and what is to be forgotten."""
    add_source(parser, required=False)
    parser.add_argument(
        "--to",
        type=index_place,
        required=True,
        metavar="INDEX",
        help="a folder, or one in a Qdrant server: https://HOST:PORT/NAME; what is in it stays",
    )
    parser.add_argument(
        "--watch",
        type=float,
        metavar="S",
        help="look again every S seconds until Ctrl-C; what was changed within them is left for the next look",
    )
    parser.add_argument(
        "--forget", action="append", default=[], metavar="PATIENT", help="remove all images of a patient by their ID"
    )
    parser.add_argument(
        "--cache",
        action="store_true",
        help="then make a cache of all vectors for quick search among a million, and say how much it finds",
    )
    add_cluster(parser)


def run(options: Namespace) -> int:
    """Index what is new or was changed; 1 where something could not be read."""
    from edgekit.runtime import open_model

    if not (options.images or options.forget or options.cache):
        raise UsageError("nothing to index", allowed="images or their folders, --forget PATIENT, or --cache")
    if options.watch is not None and not (options.watch > 0 and options.images):
        raise UsageError(f"--watch {options.watch:g}", allowed="seconds, above 0, and folders to look at")
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with (
        open_model(*opening) as model,
        index_at(options.to, identity(model, options), int(getattr(model, "width", 0)), write=True) as index,
    ):
        gone = sum(index.forget(patient=patient) for patient in options.forget)
        work = _Indexing(index, options)
        if options.images:
            with embedder(model, options, replace(how_of(options), salt=index.salt)) as embed:
                work.look(embed)
                while options.watch:
                    time.sleep(options.watch)
                    work.look(embed)
        count = len(index)
        cached = _cache(model, index) if options.cache else None
    if options.json:
        told = {"index": str(options.to), "pictures": count, "added": work.added, "forgotten": gone}
        print_json(told | {"errors": work.failed} | ({"cache": cached} if cached else {}))
    else:
        said = [f"{name}  error: {error}" for name, error in work.failed.items()]
        said += [f"{gone} pictures forgotten"] if options.forget else []
        said += [f"{options.to}: {count} pictures, {work.added} of them new"]
        if cached:
            shares = ", ".join(f"{share:.1%} asked by {kind}" for kind, share in cached["recall"].items())
            said += [f"cache: of the ten nearest it finds {shares}; {cached['probes']} cells are looked into"]
        print_lines(said)
    return 1 if work.failed else 0


def _cache(model: Any, index: Index | Qdrant) -> dict[str, Any]:
    """Make an index's cache; what it is found to give. Raises UsageError where a server has it."""
    from edgekit.retrieval.index import Index

    if not isinstance(index, Index):
        raise UsageError("--cache beside an index in a server", allowed="an index in a folder")
    with needed("search"):
        import faiss  # noqa: F401
    import numpy as np

    from edgekit.inputs.labels import ALL_LABELS, class_prompts
    from edgekit.retrieval import cache

    questions = {"image": np.stack(list(index.sample(_QUESTIONS)))} if len(index) else {}
    if "embed_text" in model.abilities:
        prompts = [prompt for label in ALL_LABELS for prompt in class_prompts(label)]
        questions["text"] = model.embed_text(prompts[:_QUESTIONS])
    about = cache.build(index, questions, say)
    return {"probes": about.probes, "recall": dict(about.recall)}


class _Indexing:
    """Looks at folders, once or again and again.

    Attributes:
        added: how many pictures.
        failed: what could not be read, and why.
    """

    def __init__(self, index: Index | Qdrant, options: Namespace) -> None:
        self._index, self._options = index, options
        self._seen: dict[Path, tuple[int, int]] = {}  # size and time of what was looked at
        self.added, self.failed = 0, dict[str, str]()

    def look(self, embed: Embedder) -> None:
        """Index what is there and was not; a file that may still be written is left for the next look."""
        from edgekit.retrieval import sources

        files, others = sources.files_of(self._options.images)
        if others and not self._seen:
            say(f"{others} files that are no pictures are passed over")
        new = {path: digest for path in files if self._is_new(path) and (digest := self._changed(path))}
        before = self.added
        waiting: list[Entry] = []
        for found in with_progress(embed, list(new), "indexing"):
            waiting += self._entries(found, new[found.path])
            if len(waiting) >= _AT_ONCE:
                self._keep(waiting)
        self._keep(waiting)
        if self._options.watch and self.added > before:
            say(f"{self.added - before} pictures new, {len(self._index)} in the index")

    def _is_new(self, path: Path) -> bool:
        try:
            status = path.stat()
        except OSError:
            return path not in self._seen
        now = (status.st_size, status.st_mtime_ns)
        if self._options.watch and time.time() - status.st_mtime < self._options.watch:
            return False
        if self._seen.get(path) == now:
            return False
        self._seen[path] = now
        return True

    def _changed(self, path: Path) -> str | None:
        """A file's digest where it is not indexed as it is; None otherwise, and where it cannot be read."""
        from edgekit.retrieval import sources

        try:
            digest = sources.digest_of(path)
        except InputError as error:
            self.failed[str(path)] = error.message
            return None
        return digest if self._index.known(str(path)) != digest else None

    def _entries(self, found: FileVectors, digest: str) -> list[Entry]:
        from edgekit.retrieval.entries import Entry

        if found.sha256 not in ("", digest):
            self.failed[str(found.path)] = "it is another file where it was read, or was changed meanwhile"
            return []
        made: list[Entry] = []
        for name, row in found.rows:
            if isinstance(row, InputError):
                self.failed[name] = row.message
            else:
                made.append(Entry(name, str(found.path), digest, found.patient, row))
        return made

    def _keep(self, waiting: list[Entry]) -> None:
        self.added += len(waiting)
        self._index.add(waiting)
        waiting.clear()


VERB = Verb(
    "index images by their vectors, to search in; what is unchanged is passed over",
    (
        "index ./medsiglip ./images --to ./archive",
        "index ./medsiglip --forget 4711 --to ./archive",
        "index ./medsiglip /archive --to ./index --ray auto",
        "index ./medsiglip --to ./index --cache",
    ),
    run,
    add_options,
    go_on="what was indexed stays: the same command goes on",
    order=84,
)
