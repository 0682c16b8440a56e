"""`edgekit embed`: unit vectors of images, series or texts."""

from __future__ import annotations

import base64
import csv
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.files import write_atomically
from edgekit.commands import Verb
from edgekit.commands.support.embedding import (
    add_cluster,
    add_source,
    embedder,
    how_of,
    identity,
    read_as,
    with_progress,
)
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import InputError, UsageError
from edgekit.pack.extras import needed
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.retrieval.journal import Journal

_KINDS = (".npy", ".csv", ".parquet")


def add_options(parser: ArgumentParser) -> None:
    """What is embedded, by what, where to."""
    add_source(parser, required=False)
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="a text; may be repeated")
    parser.add_argument(
        "--as-series", action="store_true", help="each path is one series, whose vector is the mean of its slices'"
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npy, with names and model in FILE.json beside it, .csv or .parquet; a run that was stopped goes on",
    )
    add_cluster(parser)


def run(options: Namespace) -> int:
    """Embed one after the other; 1 where something could not be read."""
    from edgekit.retrieval.journal import Journal
    from edgekit.runtime import open_model

    if not options.images and not options.text:
        raise UsageError("nothing to embed", allowed="images, or --text TEXT")
    if options.to.suffix.lower() not in _KINDS:
        raise UsageError(f"--to {options.to}", allowed=" or ".join(_KINDS))
    paths = _paths(options)
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with open_model(*opening) as model:
        made_by = identity(model, options)
        work = {"model": made_by, "read": read_as(options), "series": options.as_series}
        with Journal(options.to, work) as journal:
            for name in options.text:
                if f"text:{name}" not in journal.rows:
                    (vector,) = model.embed_text([name])
                    journal.add(f"text:{name}", {"rows": [[f"text:{name}", _encoded(vector)]]})
            _embed_files(model, options, paths, journal)
            order = [*(f"text:{text}" for text in options.text), *map(str, paths)]
            rows = {name: row for key in order if key in journal.rows for name, row in journal.rows[key]["rows"]}
            good = {name: row for name, row in rows.items() if "vector" in row}
            failed = {name: row["error"] for name, row in rows.items() if "error" in row}
            if options.to.suffix.lower() == ".npy":  # before the vectors, which mean nothing without their names
                names, beside = {"model": made_by, "names": list(good), "errors": failed}, f"{options.to.name}.json"
                with file_errors(options.to):
                    write_atomically(options.to.with_name(beside), json.dumps(names, indent=1) + "\n")
            journal.finish(_written(options.to, good, made_by))
    if options.json:
        print_json({"file": str(options.to), "vectors": len(good), "model": made_by, "errors": failed})
    else:
        lines = [f"{name}  error: {error}" for name, error in failed.items()]
        counted = f"{len(good)} vectors of {vector_width(good)} numbers"
        print_lines([*lines, f"{options.to}: {counted}, model {made_by[:16]}"])
    return 1 if failed else 0


def vector_width(rows: Mapping[str, Mapping[str, Any]]) -> int:
    """How many numbers a vector has; 0 where there is none."""
    return next((len(_decoded(row)) for row in rows.values()), 0)


def _paths(options: Namespace) -> list[Path]:
    """The files, or the series."""
    from edgekit.retrieval import sources

    if options.as_series:
        return list(options.images)
    files, others = sources.files_of(options.images)
    if others:
        say(f"{others} files that are no pictures are passed over")
    return list(dict.fromkeys(files))


def _embed_files(model: Any, options: Namespace, paths: Sequence[Path], journal: Journal) -> None:
    """Keep the rows of each path that has none: of a file all or none."""
    left = [path for path in paths if str(path) not in journal.rows]
    if len(left) < len(paths):
        say(f"{len(paths) - len(left)} of {len(paths)} are there from before")
    if not left:
        return
    with embedder(model, options, replace(how_of(options), as_series=options.as_series)) as embed:
        for found in with_progress(embed, left, "embedding"):
            rows = [
                [name, {"error": row.message} if isinstance(row, InputError) else _encoded(row)]
                for name, row in found.rows
            ]
            journal.add(str(found.path), {"rows": rows})


def _encoded(vector: Any) -> dict[str, str]:
    import numpy as np

    return {"vector": base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()}


def _decoded(row: Mapping[str, Any]) -> Any:
    import numpy as np

    return np.frombuffer(base64.b64decode(row["vector"]), "<f4")


def _written(path: Path, rows: Mapping[str, Mapping[str, Any]], made_by: str) -> bytes:
    """The vectors in the form that the file's name asks for."""
    import numpy as np

    vectors = [_decoded(row) for row in rows.values()]
    if path.suffix.lower() == ".npy":
        file = io.BytesIO()
        np.save(file, np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))
        return file.getvalue()
    if path.suffix.lower() == ".parquet":
        return _parquet(list(rows), vectors, made_by)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "model", *(f"v{place}" for place in range(len(vectors[0]) if vectors else 0))])
    for name, vector in zip(rows, vectors, strict=True):
        writer.writerow([name, made_by, *(f"{value:.8g}" for value in vector)])
    return text.getvalue().encode()


def _parquet(names: Sequence[str], vectors: Sequence[Any], made_by: str) -> bytes:
    """Columns `name` and `vector`, a list of numbers; the model in the table's metadata."""
    with needed("data"):
        import pyarrow
        import pyarrow.parquet

    columns = {
        "name": pyarrow.array(names, pyarrow.string()),
        "vector": pyarrow.array([vector.tolist() for vector in vectors], pyarrow.list_(pyarrow.float32())),
    }
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata({"edgekit.model": made_by}), file)
    return file.getvalue()


VERB = Verb(
    "write unit vectors of images, series or texts",
    (
        "embed ./medsiglip ./images --to vectors.npy",
        'embed ./medsiglip --text "a chest x-ray with pneumonia" --to text.csv',
        "embed ./medsiglip ./study-1 ./study-2 --as-series --to studies.npy",
        "embed ./medsiglip /archive --to vectors.parquet --ray auto",
    ),
    run,
    add_options,
    go_on="the same command goes on where it stopped",
    order=82,
)
