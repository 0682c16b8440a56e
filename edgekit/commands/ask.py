"""`edgekit ask`: answer a question, streaming."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgekit.commands import Verb
from edgekit.commands.support.options import add_opening, add_pictures
from edgekit.commands.support.printing import print_json, print_warnings
from edgekit.errors import UsageError
from edgekit.terminal import say, show, stripped

if TYPE_CHECKING:
    from edgekit.runtime.base import Generation

T = TypeVar("T")


def add_options(parser: ArgumentParser) -> None:
    """The question, its images, what answers and how long."""
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("--image", action="append", default=[], type=Path, metavar="FILE", help="may be repeated")
    add_pictures(parser)
    add_opening(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system instruction; MedGemma was evaluated without one")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="the output budget (default: 512)")


def run(options: Namespace) -> int:
    """Open the model, print the answer as it comes, and what to know about it."""
    if not options.image and not options.question.strip():
        raise UsageError("an empty question", allowed="a question, or an image with --image")
    from edgekit.inputs.image import read
    from edgekit.inputs.message import Image, Message
    from edgekit.progress import on_stderr
    from edgekit.runtime import open_model

    # A bad image must not cost the time of loading a model.
    reading = {"range": options.range, "max_megapixels": options.max_megapixels}
    images = [Image(read(path, **reading)) for path in options.image]
    model = open_model(
        options.folder, options.level, options.device, options.context, options.runtime, progress=on_stderr()
    )
    try:
        messages = [Message("system", options.system)] if options.system else []
        messages.append(Message("user", *images, options.question))
        answer: Generation | None = None
        pieces = model.generate(messages, max_tokens=options.max_tokens)
        for piece in _telling(pieces, len(images)) if images and not options.json else pieces:
            if not isinstance(piece, str):
                answer = piece
            elif not options.json:
                show(stripped(piece), end="")
    finally:
        model.close()
    assert answer is not None  # generate always ends with the finished answer
    if options.json:
        from dataclasses import asdict

        print_json({**asdict(answer), "runtimes": dict(model.runtimes)})
    else:
        show()
        print_warnings(answer.warnings)
    return 0


def _telling(pieces: Iterator[T], images: int) -> Iterator[T]:
    """The pieces of an answer; before the first, which may take minutes, say for what, and then how long it took."""
    began = time.perf_counter()
    say(f"looking at {'the image' if images == 1 else f'{images} images'} ...")
    for number, piece in enumerate(pieces):
        if not number:
            say(f"looked and read the question in {time.perf_counter() - began:.1f} s")
        yield piece


VERB = Verb(
    "ask a question, about images or without",
    (
        'ask ./medgemma "Describe this X-ray" --image chest.png',
        'ask ./medgemma "Describe this slice" --image ct16.png --range=31768:33168',
        'ask ./medgemma "What is a pneumothorax?" --level Q8_0',
    ),
    run,
    add_options,
    order=70,
)
