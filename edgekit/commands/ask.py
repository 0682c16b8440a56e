"""`edgekit ask`: answer a question, streaming."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.answers import answered, begun, check_form, check_system, claiming, kept, shown
from edgekit.commands.support.boxes import boxes_in, say_boxes
from edgekit.commands.support.decoding import add_answering, generation_options, keeps
from edgekit.commands.support.options import add_artifact
from edgekit.commands.support.pictures import parts_of
from edgekit.commands.support.record import add_record, say_marks, write_answer
from edgekit.errors import UsageError


def add_options(parser: ArgumentParser) -> None:
    """The question, its images, what answers and how long."""
    add_artifact(parser)
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument(
        "--image", action="append", default=[], type=Path, metavar="PATH",
        help="an image file, a DICOM file, a series' folder, a DICOMDIR or a zip archive; may be repeated",
    )
    add_record(parser)
    add_answering(parser)


def run(options: Namespace) -> int:
    """Open the model, print the answer as it comes, and what to know about it."""
    if not options.image and not options.question.strip():
        raise UsageError("an empty question", allowed="a question, or an image with --image")
    if options.fhir_out and not options.record:
        raise UsageError("--fhir-out without --record", allowed="the answer to a question about a record")
    from edgekit.commands.support.uses import check_ability
    from edgekit.inputs.fhir.cite import prompt
    from edgekit.inputs.message import Message
    from edgekit.progress import on_stderr
    from edgekit.runtime import open_model
    from edgekit.runtime.records import digest_of, kept_to, read_record, told_json
    from edgekit.runtime.use import Use

    check_ability(options.folder, options.level, "generate", shown=bool(options.image))
    # A bad image must not cost the time of loading a model.
    images = parts_of(options.image, options)
    asked = read_record(options.record, options.question) if options.record else None
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
        question, digest = options.question, None
        if asked:
            beside = [part for turn in turns for part in turn.parts] + images
            digest = digest_of(asked, model, beside, decoding)  # type: ignore[arg-type]  # a model that chats
            question, decoding = prompt(digest, question), kept_to(digest, decoding)
        turns = [*turns, Message("user", *images, question)]
        answer = shown(
            model.generate(turns, decoding),
            model,
            len(options.image),
            as_json=options.json,
            more=lambda text: {
                "boxes": boxes_in(text, images),
                **({"record": told_json(digest, text, asked.notes)} if asked and digest else {}),
            },
        )
        check_form(answer, decoding)
        if not options.json:
            say_boxes(boxes_in(answer.text, images))
        if asked and digest and not options.json:
            say_marks(digest, answer.text, asked.notes)
        if asked and digest and options.fhir_out:
            write_answer(options.fhir_out, asked, digest, answer.text, model)
        if conversation and (gone_on := answered(turns, answer, model)):
            kept(conversation, gone_on, model)
    return 0


VERB = Verb(
    "ask a question, about images or without",
    (
        'ask ./medgemma "Describe this X-ray" --image chest.png',
        'ask ./medgemma "Describe this slice" --image ct16.png --range=31768:33168',
        'ask ./medgemma "What is a pneumothorax?" --level Q8_0',
        'ask ./medgemma "Which medications are active?" --record patient.json --context 16384',
        'ask ./medgemma "Is there a nodule?" --image ./ct-series',
        'ask ./medgemma "And the heart?" --conversation case-12',
    ),
    run,
    add_options,
    order=70,
)
