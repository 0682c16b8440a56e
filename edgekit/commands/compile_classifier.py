"""`edgekit compile-classifier`: fixed labels, as one small file for phones and browsers."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact
from edgekit.commands.support.printing import print_json, print_lines, print_warnings
from edgekit.errors import UsageError
from edgekit.progress import on_stderr

if TYPE_CHECKING:
    from edgekit.classifier.compile import Compiled


def add_options(parser: ArgumentParser) -> None:
    """What is compiled, and what it is proven with."""
    add_artifact(parser)
    parser.add_argument(
        "--labels",
        required=True,
        metavar="NAME|FILE",
        help="a set of labels (edgekit list labels), or a file: a label a line, or TOML with several prompts of each",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="MODEL.onnx", help="the file to write")
    parser.add_argument("--level", metavar="NAME", help="of the image encoder: a variant; the default without it")
    parser.add_argument("--images", type=Path, metavar="DIR", help="images to prove with; shipped ones without it")
    parser.add_argument("--no-prove", action="store_true", help="do not compare the file with the artifact")


def run(options: Namespace) -> int:
    """Compile, prove, and say what there is."""
    from edgekit.classifier.compile import compile_classifier
    from edgekit.classifier.labels import find, read
    from edgekit.inputs.samples import given_inputs

    if options.images and options.no_prove:
        raise UsageError("--images beside --no-prove", allowed="one of them")
    compiled = compile_classifier(
        options.folder,
        read(find(options.labels)),
        options.to,
        options.level,
        inputs=None if options.no_prove else given_inputs(options.images, None),
        progress=on_stderr(),
    )
    if options.json:
        proof = compiled.proof and compiled.proof.model_dump(mode="json")
        names = [str(path) for path in compiled.files]
        size = sum(path.stat().st_size for path in compiled.files)
        print_json({"files": names, "bytes": size, **compiled.card.model_dump(mode="json"), "proof": proof})
    else:
        print_lines(_lines(compiled))
    print_warnings(compiled.warnings)
    return 0


def _lines(compiled: Compiled) -> Iterator[str]:
    card, proof = compiled.card, compiled.proof
    size = sum(path.stat().st_size for path in compiled.files) / 1e6
    yield f"{card.title}, {len(card.labels.labels)} labels  ({', '.join(map(str, compiled.files))}: {size:.1f} MB)"
    yield f"level     image encoder {card.level}; the labels' vectors from the text encoder {card.text_level}"
    yield "takes     image: uint8 [1, height, width, 3], RGB of any size"
    side = card.preprocessing.size
    yield f"          {card.preprocessing.resample} to {side} x {side} and normalization are built in"
    yield f"gives     scores and logits: float32 [1, {len(card.labels.labels)}], {card.labels.scores}"
    if proof is None:
        yield "parity    not measured"
        return
    yield (
        f"parity    of {proof.images} images, scores differ by at most {proof.worst:.2g} from its parts', cosines by "
        f"{proof.worst_cosine:.2g} of {proof.spread:.2g}"
    )
    yield (
        f"          resized as Pillow does, but for {proof.pixels:.2%} of the values, by 1 of 255; then scores differ "
        f"by at most {proof.worst_resized:.2g}"
    )
    yield f"loss      against {proof.against}: scores differ by {proof.loss_mean:.2g}, at worst {proof.loss_worst:.2g}"


VERB = Verb(
    "make one small ONNX file of fixed labels, for phones and browsers: an image in, scores out",
    (
        "compile-classifier ./medsiglip --labels findings.txt --level int8 --to findings.onnx",
        "compile-classifier ./medsiglip --labels findings.toml --images ./local --to findings.onnx --json",
    ),
    run,
    add_options,
    order=85,
)
