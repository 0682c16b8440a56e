"""`edgekit web-app`: a classifier as a folder for any static file server, which browsers keep for use offline."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines


def add_options(parser: ArgumentParser) -> None:
    """The model, what runs it, and where the app goes."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx", help="as edgekit compile-classifier writes it")
    parser.add_argument(
        "--onnxruntime-web",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="npm's package: npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz makes it, called `package`",
    )
    parser.add_argument("--terms", type=Path, metavar="FILE", help="the terms that the model's licence passes on")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="a new folder")


def run(options: Namespace) -> int:
    """Write it."""
    from edgekit.pack.web import build

    app = build(options.model, options.onnxruntime_web, options.to, options.terms)
    if options.json:
        print_json({"folder": str(app.folder), "bytes": app.bytes, "files": dict(app.files)})
    else:
        print_lines(
            [
                f"{app.folder}: {len(app.files)} files, {app.bytes / 1e6:.1f} MB",
                f"try it     python -m http.server --bind 127.0.0.1 --directory {app.folder} 8000",
                "then open  http://localhost:8000/   (elsewhere by https, which threads and offline use need)",
            ]
        )
    return 0


VERB = Verb(
    "make an offline web app of a classifier: a page, the model and ONNX Runtime for browsers",
    ("web-app findings.onnx --onnxruntime-web package --to app",),
    run,
    add_options,
    order=87,
)
