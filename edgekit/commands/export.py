"""`edgekit export`: convert, prove, publish."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands import Verb
from edgekit.commands.support.options import add_levels, add_proof_inputs
from edgekit.commands.support.plans import add_goal, planned
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.errors import UsageError
from edgekit.progress import on_stderr
from edgekit.terminal import say

if TYPE_CHECKING:
    from edgekit.artifacts.manifest import Served
    from edgekit.checkpoints.hub import Terms
    from edgekit.planning import Row, Settings


def add_options(parser: ArgumentParser) -> None:
    """The source, the target, what to make of it, and what to prove it with."""
    parser.add_argument(
        "source", metavar="SOURCE", help="a checkpoint folder, a model of the hub (owner/name), or a reference model"
    )
    parser.add_argument("--download", action="store_true", help="fetch a model of the hub; without it, only its cache")
    parser.add_argument("--revision", metavar="NAME", help="the hub's branch, tag or commit (default: main)")
    parser.add_argument("--accept-terms", action="store_true", help="accept the terms of use of a model of the hub")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="the artifact's folder; its levels add up"
    )
    parser.add_argument("--recipe", metavar="NAME", help="which model it is, where its config.json does not tell")
    add_levels(parser, "a variant of the recipe; without any, all but the largest, which its `on_request` names")
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="ROLE=LEVEL",
        help="give a part another level than the variant does; may be repeated",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="make the variant that edgekit plan recommends for a device, or here"
    )
    add_goal(parser)
    parser.add_argument("--no-prove", action="store_true", help="publish without comparing; every open will say so")
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run left")
    add_proof_inputs(parser, "calibrate and prove")


def run(options: Namespace) -> int:
    """Make the artifact, or add levels to it."""
    from edgekit.checkpoints.sources import source_folder
    from edgekit.commands.support.artifact_text import artifact_lines, usage_lines
    from edgekit.commands.support.uses import command
    from edgekit.inputs.samples import given_inputs
    from edgekit.prove import publish

    if options.device and options.level:
        raise UsageError("--device beside --level", allowed="one of them: a plan chooses the level for a device")
    if options.goal and not options.device:
        raise UsageError("--goal without --device", remedy="--device here")
    parts: dict[str, str] = {}
    for role, level in map(part_level, options.part):
        if parts.setdefault(role, level) != level:
            raise UsageError(f"--part {role}={level} beside {role}={parts[role]}", allowed="one level for each part")
    given = options.images or options.text
    source = download(options) if options.download else source_folder(options.source, options.revision)
    default = default_of(options.to)
    best = recommended(options, source) if options.device else None
    exported = publish.export(
        source,
        options.to,
        recipe_name=options.recipe,
        levels=[best.variant] if best else options.level,
        parts=parts,
        prove=not options.no_prove,
        fresh=options.fresh,
        inputs=given_inputs(options.images, options.text) if given else None,
        served=served_as(best.settings) if best else None,
        progress=on_stderr(),
    )
    if default and default != exported.manifest.default:
        before = command(exported.folder, exported.manifest, default)
        other = f"; {before} runs the other" if before else ""
        say(f"the default is now {exported.manifest.default}, it was {default}{other}")
    if options.json:
        print_json(exported.manifest.model_dump(mode="json"))
        return 0
    added = {part.id for part in exported.added}
    print_lines(artifact_lines(exported.folder, exported.manifest, only=added))
    if not added:
        print_lines(["nothing new: every part was there already"])
    print_lines(usage_lines(exported.folder, exported.manifest))
    return 0


def recommended(options: Namespace, source: Path) -> Row:
    """What a plan recommends, which is said with the reasons. Raises UsageError where nothing fits."""
    made = planned(str(source), options.device, options.goal, options.recipe)
    best = made.chosen()
    say(f"{best.variant} for {made.device.name}: {'; '.join(made.reasons)}")
    return best


def served_as(settings: Settings) -> Served | None:
    """What other programs are to reserve as a plan has it; None for a model without a context."""
    from edgekit.artifacts.manifest import Served

    if not settings.context:
        return None
    return Served(
        context=settings.context,
        cache_type=settings.cache_type,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
    )


def default_of(folder: Path) -> str | None:
    """The level that an artifact opens when none is named; None where there is no artifact yet."""
    from edgekit.artifacts import manifest

    return manifest.read(folder).default if (folder / manifest.FILE_NAME).is_file() else None


def part_level(text: str) -> tuple[str, str]:
    """`ROLE=LEVEL` as two words. Raises UsageError."""
    role, separator, level = text.partition("=")
    if not separator or not role or not level:
        raise UsageError(f"--part {text}", allowed="ROLE=LEVEL, for example vision=BF16")
    return role, level


def download(options: Namespace) -> Path:
    """The folder of a model of the hub, fetched; afterwards this process is offline again."""
    from edgekit.checkpoints import hub
    from edgekit.checkpoints.sources import check_no_recipe

    if not hub.is_id(options.source):
        check_no_recipe(options.source)
        raise UsageError(f"--download {options.source}", allowed="a model of the hub, as owner/name")
    folder = hub.fetch(options.source, options.revision, accept=partial(accept_terms, options.accept_terms))
    hub.go_offline()
    return folder


def accept_terms(accepted: bool, terms: Terms) -> bool:
    """Show the terms; they are accepted with the option, or by a yes at a terminal."""
    say(f"{terms.repository} is provided under the {terms.name}: {terms.url}")
    if accepted or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return accepted
    say("do you accept them? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


VERB = Verb(
    "convert a checkpoint into a proven artifact",
    (
        "export ./medgemma-4b-it --recipe medgemma-4b --to ./medgemma",
        "export medsiglip-reference --to ./medsiglip --level int8",
        "export ./medgemma-4b-it --recipe medgemma-4b --to ./medgemma --device raspberry-pi-5",
        "export google/medgemma-4b-it --download --recipe medgemma-4b --to ./medgemma",
    ),
    run,
    add_options,
    go_on="the same command goes on from the parts that are finished",
    order=20,
)
