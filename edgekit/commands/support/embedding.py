"""Many pictures through a model of images: what `classify`, `embed` and `index` share."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifacts.files import sha256_json
from edgekit.commands.support.options import add_artifact, add_opening, add_pictures
from edgekit.commands.support.pictures import reading_of
from edgekit.pack.extras import needed
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.retrieval.index import Index
    from edgekit.retrieval.qdrant import Qdrant
    from edgekit.retrieval.sources import Row
    from edgekit.retrieval.vectors import Embedder, FileVectors, How
    from edgekit.runtime.model import Model


def add_source(parser: ArgumentParser, *, required: bool = True) -> None:
    """The model, the images or their folders, and how they are read."""
    add_artifact(parser)
    parser.add_argument(
        "images", type=Path, nargs="+" if required else "*", metavar="IMAGES", help="image and DICOM files, or folders"
    )
    add_pictures(parser)
    add_opening(parser)


def add_cluster(parser: ArgumentParser) -> None:
    """`--ray`, for those that go through archives."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="share the work among the machines of a Ray cluster that have the same model and files at the same paths: "
        "HOST:PORT, or auto for the one that this machine belongs to",
    )


def index_place(text: str) -> Path | str:
    """Where an index is: a folder, or the address of one in a Qdrant server."""
    return text if text.startswith(("http://", "https://")) else Path(text)


@contextmanager
def index_at(place: Path | str, model_id: str, width: int, *, write: bool = False) -> Iterator[Index | Qdrant]:
    """An index that is open, made where it is to be written to and is not there. Raises as `Index` and `Qdrant`."""
    if isinstance(place, str):
        with needed("qdrant"):
            import qdrant_client  # noqa: F401
        from edgekit.retrieval.qdrant import Place, Qdrant

        with Qdrant(Place.of(place), model_id, width, make=write) as server:
            yield server
        return
    from edgekit.retrieval.index import Index, writing

    with writing(place, model_id, width) if write else Index(place, model_id, width) as index:
        yield index


@contextmanager
def embedder(model: Model, options: Namespace, how: How) -> Iterator[Embedder]:
    """What makes vectors, here or on a cluster. Raises as `retrieval.cluster.Cluster`."""
    from edgekit.retrieval.vectors import Here

    if options.ray is None:
        yield Here(model, how)  # type: ignore[arg-type]  # it says itself where it embeds no image
        return
    with needed("ray"):
        import ray  # noqa: F401
    from edgekit.retrieval.cluster import Cluster, Opening

    opening = Opening(options.folder.absolute(), options.level, options.device, options.context, options.runtime)
    with Cluster(options.ray, opening, how, model) as cluster:
        yield cluster


def with_progress(embed: Embedder, paths: Sequence[Path], what: str) -> Iterator[FileVectors]:
    """What each path gives, and how far it is."""
    from edgekit.progress import on_stderr

    progress = on_stderr()
    progress.start(what, len(paths))
    try:
        for one in embed(paths):
            yield one
            progress.advance()
    finally:
        progress.finish()


def how_of(options: Namespace) -> How:
    """How files become vectors, as the options say."""
    from edgekit.retrieval.vectors import How

    return How(reading_of(options), options.pad)


def identity(model: Model, options: Namespace) -> str:
    """Names all that a picture's vector depends on beside the picture."""
    return sha256_json([dict(sorted(model.parts.items())), read_as(options)])


def read_as(options: Namespace) -> Mapping[str, Any]:
    """How images are read, as the options say."""
    return {**asdict(reading_of(options)), "pad": options.pad}


def rows_of(options: Namespace, known: Mapping[str, Any] = {}) -> Iterator[Row]:
    """Each picture, or why there is none, with progress.

    Args:
        known: files whose rows are there already.
    """
    from edgekit.progress import on_stderr
    from edgekit.retrieval import sources

    files, others = sources.files_of(options.images)
    if others:
        say(f"{others} files that are no pictures are passed over")
    left = [path for path in files if str(path) not in known]
    if len(left) < len(files):
        say(f"{len(files) - len(left)} of {len(files)} files are there from before")
    progress = on_stderr()
    progress.start("reading pictures", len(left))
    try:
        for path in left:
            yield from sources.rows(path, reading_of(options), pad=options.pad)
            progress.advance()
    finally:
        progress.finish()
