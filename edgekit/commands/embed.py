"""`edgekit embed`: unit vectors of images, series or texts."""

from __future__ import annotations

import base64
import csv
import io
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.commands import Verb
from edgekit.commands.support.embedding import add_source, identity, read_as, rows_of
from edgekit.commands.support.pictures import reading_of
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import InputError, UsageError
from edgekit.pack.extras import needed

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


def run(options: Namespace) -> int:
    """Embed one after the other; 1 where something could not be read."""
    from edgekit.retrieval.journal import Journal
    from edgekit.runtime import open_model

    if not options.images and not options.text:
        raise UsageError("nothing to embed", allowed="images, or --text TEXT")
    if options.to.suffix.lower() not in _KINDS:
        raise UsageError(f"--to {options.to}", allowed=" or ".join(_KINDS))
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with open_model(*opening) as model:
        made_by = identity(model, options)
        work = {"model": made_by, "read": read_as(options), "series": options.as_series}
        with Journal(options.to, work) as journal:
            for name, vector in _vectors(model, options, journal.rows):
                journal.add(name, vector)
            good = {name: row for name, row in journal.rows.items() if "vector" in row}
            failed = {name: row["error"] for name, row in journal.rows.items() if "error" in row}
            journal.finish(_written(options.to, good, made_by))
    if options.to.suffix.lower() == ".npy":
        beside = {"model": made_by, "names": list(good), "errors": failed}
        options.to.with_name(f"{options.to.name}.json").write_text(json.dumps(beside, indent=1) + "\n", "utf-8")
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


def _vectors(model: Any, options: Namespace, known: Mapping[str, Any]) -> Any:
    from edgekit.inputs.image import Picture

    for text in options.text:
        if f"text:{text}" not in known:
            (vector,) = model.embed_text([text])
            yield f"text:{text}", _encoded(vector)
    if options.as_series:
        yield from _series(model, options, known)
        return
    done = {name.partition("#")[0] for name in known}
    for row in rows_of(options, dict.fromkeys(done)) if options.images else ():
        if isinstance(row.picture, InputError):
            yield row.name, {"error": row.picture.message}
            continue
        (vector,) = model.embed_image([Picture(row.picture.image)])
        yield row.name, _encoded(vector)


def _series(model: Any, options: Namespace, known: Mapping[str, Any]) -> Any:
    from edgekit.retrieval import sources
    from edgekit.runtime.embedding_model import unit

    for path in options.images:
        if str(path) in known:
            continue
        try:
            pictures, _ = sources.series(path, reading_of(options), pad=options.pad)
        except InputError as error:
            yield str(path), {"error": error.message}
            continue
        yield str(path), _encoded(unit(model.embed_image(pictures).mean(axis=0, keepdims=True))[0])


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
    ),
    run,
    add_options,
    go_on="the same command goes on where it stopped",
    order=82,
)
