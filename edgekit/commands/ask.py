"""`edgekit ask`: answer a question, streaming."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.answers import answered, begun, check_form, check_system, claiming, kept, shown
from edgekit.commands.support.decoding import add_answering, generation_options, keeps
from edgekit.commands.support.options import add_artifact
from edgekit.errors import UsageError


def add_options(parser: ArgumentParser) -> None:
    """The question, its images, what answers and how long."""
    add_artifact(parser)
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument("--image", action="append", default=[], type=Path, metavar="FILE", help="may be repeated")
    add_answering(parser)


def run(options: Namespace) -> int:
    """Open the model, print the answer as it comes, and what to know about it."""
    if not options.image and not options.question.strip():
        raise UsageError("an empty question", allowed="a question, or an image with --image")
    from edgekit.commands.support.uses import check_ability
    from edgekit.inputs.image import read
    from edgekit.inputs.message import Image, Message
    from edgekit.progress import on_stderr
    from edgekit.runtime import open_model
    from edgekit.runtime.use import Use

    check_ability(options.folder, options.level, "generate", shown=bool(options.image))
    # A bad image must not cost the time of loading a model.
    reading = {"range": options.range, "max_megapixels": options.max_megapixels}
    images = [Image(read(path, **reading)) for path in options.image]
    decoding, named = generation_options(options), options.conversation is not None
    use = Use(
        sees="later" if images or named else "never",
        keep=keeps(options) or named,
        cache_type=options.cache_type,
    )
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with claiming(options.conversation), open_model(*opening, progress=on_stderr(), use=use) as model:
        conversation = begun(options.conversation, model)
        turns = conversation.messages if conversation else []
        check_system(options.system, turns)
        if options.system and not turns:
            turns = [Message("system", options.system)]
        turns = [*turns, Message("user", *images, options.question)]
        answer = shown(model.generate(turns, decoding), model, len(images), as_json=options.json)
        check_form(answer, decoding)
        if conversation and (gone_on := answered(turns, answer, model)):
            kept(conversation, gone_on, model)
    return 0


VERB = Verb(
    "ask a question, about images or without",
    (
        'ask ./medgemma "Describe this X-ray" --image chest.png',
        'ask ./medgemma "Describe this slice" --image ct16.png --range=31768:33168',
        'ask ./medgemma "What is a pneumothorax?" --level Q8_0',
        'ask ./medgemma "And the heart?" --conversation case-12',
    ),
    run,
    add_options,
    order=70,
)
