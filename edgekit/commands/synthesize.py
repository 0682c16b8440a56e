"""`edgekit synthesize`: write a stand-in with random weights."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_json, print_lines
from edgekit.progress import on_stderr


def add_options(parser: ArgumentParser) -> None:
    """Which model, how much of it, where."""
    parser.add_argument("recipe", metavar="RECIPE", help="the model (edgekit list recipes)")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or an empty folder")
    parser.add_argument(
        "--layers", type=int, metavar="N", help="this many decoder layers (of MedSigLIP: text layers); all without it"
    )
    parser.add_argument("--vision-layers", type=int, metavar="N", help="this many layers of the vision tower")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="copy the tokenizer from here; a generated one without it"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the weights (default: 0)")


def run(options: Namespace) -> int:
    """Write the checkpoint and say what it is."""
    from dataclasses import asdict

    from edgekit.export.synthesize import synthesize

    written = synthesize(
        options.recipe,
        options.folder,
        layers=options.layers,
        vision_layers=options.vision_layers,
        tokenizer=options.tokenizer,
        seed=options.seed,
        progress=on_stderr(),
    )
    if options.json:
        print_json({key: str(value) if isinstance(value, Path) else value for key, value in asdict(written).items()})
        return 0
    size = f"{written.bytes / 1e9:.2f} GB"
    print_lines(
        [
            f"{written.folder}: {written.label}",
            f"{written.tensors} tensors, {written.weights:,} weights, {size}, seed {written.seed}",
            f"tokenizer: {written.tokenizer or 'generated'}",
            f"next: edgekit export {written.folder} --recipe {written.recipe} --to DIR",
        ]
    )
    return 0


VERB = Verb(
    "write a random-weight checkpoint of a model's exact shape, to try everything that needs no knowledge",
    (
        "synthesize medgemma-4b ./stand-in",
        "synthesize medgemma-27b ./slice --layers 7 --vision-layers 2 --tokenizer ./medgemma-27b-it",
    ),
    run,
    add_options,
    go_on="nothing is left of it: the same command begins again",
    order=40,
)
