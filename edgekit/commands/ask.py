"""`edgekit ask`: answer a question, streaming."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_opening
from edgekit.commands.support.printing import print_json, print_warnings

if TYPE_CHECKING:
    from edgekit.runtime.base import Generation


def add_options(parser: ArgumentParser) -> None:
    """The question, its images, what answers and how long."""
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("--image", action="append", default=[], type=Path, metavar="FILE", help="may be repeated")
    add_opening(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system instruction; MedGemma was evaluated without one")
    parser.add_argument("--max-tokens", type=int, default=512, metavar="N", help="the output budget (default: 512)")


def run(options: Namespace) -> int:
    """Open the model, print the answer as it comes, and what to know about it."""
    from edgekit.inputs.image import load
    from edgekit.inputs.message import Image, Message
    from edgekit.runtime import open_model

    images = [Image(load(path)) for path in options.image]  # a bad image must not cost the time of loading a model
    model = open_model(options.folder, options.level, options.device, options.context, options.runtime)
    try:
        messages = [Message("system", options.system)] if options.system else []
        messages.append(Message("user", *images, options.question))
        answer: Generation | None = None
        for piece in model.generate(messages, max_tokens=options.max_tokens):
            if not isinstance(piece, str):
                answer = piece
            elif not options.json:
                print(piece, end="", flush=True)
    finally:
        model.close()
    assert answer is not None  # generate always ends with the finished answer
    if options.json:
        from dataclasses import asdict

        print_json({**asdict(answer), "runtimes": dict(model.runtimes)})
    else:
        print()
        print_warnings(answer.warnings)
    return 0


VERB = Verb(
    "ask a question, about images or without",
    (
        'ask ./medgemma "Describe this X-ray" --image chest.png',
        'ask ./medgemma "What is a pneumothorax?" --level Q8_0',
    ),
    run,
    add_options,
    order=70,
)
