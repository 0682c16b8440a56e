"""`edgekit classify`: score labels for images."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from edgekit.commands import Verb
from edgekit.commands.support.options import add_opening
from edgekit.commands.support.printing import print_warnings, told_by_edgekit


def add_options(parser: ArgumentParser) -> None:
    """The images, the labels, what scores them."""
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--label", action="append", required=True, metavar="TEXT", help="may be repeated")
    add_opening(parser)


def run(options: Namespace) -> int:
    """Score image by image; as JSON, one line each."""
    from edgekit.inputs.image import load
    from edgekit.runtime import open_model

    for path in options.images:  # a bad image must not cost the time of loading a model
        load(path)
    model = open_model(options.folder, options.level, options.device, options.context, options.runtime)
    width = max(map(len, options.label))
    said: dict[str, None] = {}  # once each, in order
    try:
        for path in options.images:
            with told_by_edgekit() as told:
                (row,) = model.classify([path], options.label)
            said.update(dict.fromkeys(told))
            scores = {label: round(float(score), 6) for label, score in zip(options.label, row, strict=True)}
            best = max(scores, key=lambda label: scores[label])
            if options.json:
                line = {"file": str(path), "label": best, "scores": scores, "warnings": [*model.warnings, *told]}
                print(json.dumps(line, ensure_ascii=False), flush=True)
                continue
            print(path)
            for label, score in scores.items():
                print(f"  {label:<{width}}  {score:.4f}{'  <' if label == best else ''}")
    finally:
        model.close()
    print_warnings([*model.warnings, *said])
    return 0


VERB = Verb(
    "score labels for images",
    ('classify ./medsiglip chest.png --label "normal lungs" --label pneumonia',),
    run,
    add_options,
    order=80,
)
