"""`edgekit prove`: prove an artifact that exists."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from edgekit.commands import Verb
from edgekit.commands.support.options import add_artifact, add_levels, add_proof_inputs
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import UsageError
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which levels, against which original, with which inputs."""
    add_artifact(parser)
    add_levels(parser, "a variant; all without any")
    parser.add_argument(
        "--reference",
        metavar="SOURCE",
        help="the checkpoint that it was made from; reference models are found without, but for files of others",
    )
    add_proof_inputs(parser, "prove")


def run(options: Namespace) -> int:
    """Compare, and record the result in the manifest."""
    from edgekit.artifacts import manifest
    from edgekit.artifacts.differences import DifferencesError, as_data
    from edgekit.checkpoints.sources import reference_model_of, source_folder
    from edgekit.commands.support.artifact_text import artifact_lines
    from edgekit.inputs.samples import given_inputs
    from edgekit.prove import publish

    known = manifest.read(options.folder)
    if known.foreign and not options.reference:
        raise UsageError(
            f"{options.folder}: others made these files, and which checkpoint they come from is yours to say",
            remedy=f"edgekit prove {options.folder} --reference SOURCE, a folder or a model of the hub as owner/name",
        )
    source = source_folder(options.reference) if options.reference else reference_model_of(known.source.sha256)
    if source is None:
        raise UsageError(
            "the checkpoint that this artifact was made from is not known", remedy="name it with --reference SOURCE"
        )
    try:
        proven = publish.prove(
            options.folder,
            source,
            levels=options.level,
            inputs=given_inputs(options.images, options.text),
            progress=on_stderr(),
        )
    except DifferencesError as error:
        if options.json:
            print_json({"differences": as_data(error.differences)})
        raise
    if options.json:
        print_json(proven.manifest.model_dump(mode="json"))
    else:
        now = ", ".join(f"{part.role} {part.level}" for part in proven.parts) or "nothing"
        print_lines(artifact_lines(options.folder, proven.manifest, only={part.id for part in proven.parts}))
        print_lines([f"proven    just now: {now}"])
    return 0


VERB = Verb(
    "compare an artifact with its original and record the result",
    (
        "prove ./medgemma --reference ./medgemma-4b-it",
        "prove ./medsiglip --level int8",
        "prove ./theirs --reference google/medgemma-4b-it",
    ),
    run,
    add_options,
    go_on="the artifact is as it was: the same command begins its proof again",
    order=30,
)
