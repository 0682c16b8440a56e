"""Options that several verbs have."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import Literal

from edgekit.artifacts.documents import is_file
from edgekit.errors import UsageError

FOLDER = "an artifact's folder, as `edgekit export` writes it"


def add_artifact(parser: ArgumentParser, *, several: bool = False) -> None:
    """The artifact's folder, or several."""
    if several:
        parser.add_argument("folders", type=artifact, nargs="+", metavar="DIR", help=f"{FOLDER}; or several")
    else:
        parser.add_argument("folder", type=artifact, metavar="DIR", help=FOLDER)


def artifact(text: str) -> Path:
    """A folder, whatever is in it. Raises UsageError for a file, with what can be done with it."""
    path = Path(text)
    if not is_file(path):
        return path
    from edgekit.artifacts.manifest import FILE_NAME

    remedy = None
    if around := next((folder for folder in path.absolute().parents[:2] if is_file(folder / FILE_NAME)), None):
        remedy = f"name the folder that it lies in: {around}"
    elif path.suffix.lower() == ".gguf":
        remedy = f"{shlex.join(['edgekit', 'adopt', text, '--to'])} DIR"
    elif path.suffix.lower() == ".onnx":
        remedy = f"where it is a classifier: {shlex.join(['edgekit', 'pack', text, '--target', 'web'])}"
    raise UsageError(f"{text}: is a file", allowed="an artifact's folder", remedy=remedy)


def add_levels(parser: ArgumentParser, summary: str) -> None:
    """`--level`, any number of times."""
    parser.add_argument("--level", action="append", default=[], metavar="NAME", help=f"{summary}; may be repeated")


def add_proof_inputs(parser: ArgumentParser, purpose: str) -> None:
    """`--images` and `--text`, in place of those that edgekit ships."""
    parser.add_argument("--images", type=Path, metavar="DIR", help=f"images to {purpose} with; phantoms without it")
    parser.add_argument("--text", type=Path, metavar="FILE", help=f"text to {purpose} with; a shipped one without it")


def add_opening(parser: ArgumentParser, *, level: bool = True) -> None:
    """`--level`, `--device`, `--context` and `--runtime`: what one model is opened as.

    Args:
        level: whether there is a `--level`, one.
    """
    if level:
        shown = "a variant; without it the recipe's default, or the one that a plan for a --device recommends"
        parser.add_argument("--level", metavar="NAME", help=shown)
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=os.environ.get("EDGEKIT_DEVICE") or None,
        help="obey the plan for a device: its level, cores, context, cache and GPU. Without the option: "
        "$EDGEKIT_DEVICE, which what was installed from a bundle sets to the device that it was made for",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens that prompt and answer may take together, each image with all of its own (default: 4096, or the "
        "device's); as many as the model was made for at most",
    )
    parser.add_argument(
        "--runtime",
        metavar="NAME",
        help="of encoders in ONNX: onnxruntime, openvino, openvino-bf16, and on a GPU onnxruntime-cuda (NVIDIA's) or "
        "openvino-gpu (Intel's). `default`: ignore what edgekit tune "
        "measured. Without the option: $EDGEKIT_RUNTIME, else the fastest here by edgekit tune",
    )


def add_pictures(parser: ArgumentParser) -> None:
    """`--range` and `--max-megapixels`: how images are read."""
    parser.add_argument(
        "--range",
        type=_range,
        metavar="LOW:HIGH",
        help="the values that become black and white, for images of more than 8 bits (--range=-1000:400); auto: each "
        "image's own least and greatest; without it: all that the type can hold",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=40.0,
        metavar="N",
        help="the largest image that is decoded; a larger JPEG is reduced (default: 40)",
    )
    parser.add_argument(
        "--preprocess",
        default="medgemma-1.5",
        metavar="NAME",
        help="how DICOM files are shown: medgemma-1.5 (default), medgemma-1.0, medgemma-1.5-server or medsiglip, as "
        "Google does, or file, by the file's own window; --range is in the file's units, of a CT in HU",
    )
    parser.add_argument(
        "--pad", action="store_true", help="fill images up with black to a square, in place of stretching them to one"
    )
    parser.add_argument("--series", metavar="NUMBER", help="which of a study's series, by its number or UID")
    parser.add_argument(
        "--slices", type=int, default=85, metavar="N", help="of a series, evenly spread (default: 85, as MedGemma 1.5)"
    )


def _range(text: str) -> tuple[float, float] | Literal["auto"]:
    """`LOW:HIGH` or `auto`; whether it is a range is checked where images are read."""
    if text == "auto":
        return "auto"
    try:
        low, high = map(float, text.split(":"))
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no range; allowed: LOW:HIGH or auto") from error
    return low, high
