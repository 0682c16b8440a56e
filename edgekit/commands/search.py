"""`edgekit search`: which indexed images are like an image, or like a text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifacts.documents import is_file
from edgekit.commands import Verb
from edgekit.commands.support.embedding import identity, index_at, index_place
from edgekit.commands.support.options import add_artifact, add_opening, add_pictures
from edgekit.commands.support.pictures import reading_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import UsageError
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.retrieval.cache import Cache


def add_options(parser: ArgumentParser) -> None:
    """The index, the model that it was made with, and what is asked."""
    add_artifact(parser)
    parser.add_argument(
        "index", type=index_place, metavar="INDEX", help="a folder that edgekit index made, or https://HOST:PORT/NAME"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--image",
        type=Path,
        metavar="PATH",
        help="an image or DICOM file; or a series: its folder, archive or DICOMDIR, by the mean of its slices' vectors",
    )
    asked.add_argument("--text", metavar="TEXT", help="a description")
    parser.add_argument("--most", type=int, default=10, metavar="N", help="how many are shown (default: 10)")
    parser.add_argument("--exact", action="store_true", help="compare all vectors, also where the index has a cache")
    add_pictures(parser)
    add_opening(parser)


def run(options: Namespace) -> int:
    """Print what is the most like it, first."""
    from edgekit.retrieval.sources import asked_about
    from edgekit.runtime import open_model
    from edgekit.runtime.embedding_model import unit

    if options.most < 1:
        raise UsageError(f"--most {options.most}", allowed="1 or more")
    pictures = asked_about(options.image, reading_of(options), pad=options.pad) if options.image else []
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with open_model(*opening) as model:
        made_by = identity(model, options)
        with index_at(options.index, made_by, int(getattr(model, "width", 0))) as index:
            rows = model.embed_image(pictures) if pictures else model.embed_text([options.text])
            (query,) = unit(rows.mean(axis=0, keepdims=True))
            cache = None if options.exact else _cache(options.index)
            hits = index.search(query, options.most, cache)  # type: ignore[arg-type]  # a server has none
            count = len(index)
    if options.json:
        found = [{"name": hit.name, "file": hit.file, "score": round(hit.score, 6)} for hit in hits]
        recall = {"recall@10": dict(cache.about.recall)} if cache else {}
        print_json({"pictures": count, "exact": cache is None, **recall, "results": found})
        return 0
    print_lines([f"{hit.score:.4f}  {hit.name}" for hit in hits])
    return 0


def _cache(folder: Path | str) -> Cache | None:
    """An index's cache; None where it has none, or nothing here can read it."""
    from edgekit.retrieval.index import CACHE_NOTES

    if isinstance(folder, str) or not is_file(folder / CACHE_NOTES):
        return None
    if find_spec("faiss") is None:
        say("all are compared: the index has a cache, which needs pip install 'edgekit[search]'")
        return None
    from edgekit.retrieval.cache import Cache

    cache = Cache(folder)
    shares = ", ".join(f"{share:.1%} asked by {kind}" for kind, share in cache.about.recall.items())
    say(f"by the index's cache, which was found to find {shares} of the ten nearest; --exact compares all")
    return cache


VERB = Verb(
    "find indexed images that are like an image, or a text",
    (
        "search ./medsiglip ./archive --image chest.png",
        'search ./medsiglip ./archive --text "a chest x-ray with pneumonia" --most 5',
    ),
    run,
    add_options,
    order=86,
)
