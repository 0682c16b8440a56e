"""`edgekit demo`: the main job, end to end, on the reference models: export, prove, open, ask, measure, report."""

from __future__ import annotations

import shutil
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.commands import Verb
from edgekit.commands.support.printing import print_lines
from edgekit.progress import Progress, on_stderr
from edgekit.terminal import show

if TYPE_CHECKING:
    from edgekit.artifacts.manifest import Manifest
    from edgekit.runtime.base import Model

PHANTOM_SEED = 30_260  # of the phantoms shown; training, proof, calibration and benchmarks use others
LATENCY_ROUNDS = 2
# The rest of the levels takes as long again and shows nothing new on a small model.
LEVELS = {
    "medgemma-reference": ("BF16", "Q8_0", "Q4_K_M", "Q4_0", "Q4_0+vision-int8", "q4"),
    "medsiglip-reference": ("fp32", "int8", "q4"),
}


def add_options(parser: ArgumentParser) -> None:
    """Where to write, and the real test data if it is there."""
    parser.add_argument("--to", type=Path, default=Path("demo"), metavar="DIR", help="where to write (default: ./demo)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder of real test data")


def run(options: Namespace) -> int:
    """Export the reference models, question every level, benchmark all against full precision, write the report.

    Returns:
        0, or 1 where something could not be measured or the control rows show no damage.
    """
    from edgekit import bench

    folders, seconds = [], {}
    for name, levels in LEVELS.items():
        started = time.perf_counter()
        folder, manifest = export(name, levels, options.to, on_stderr())
        seconds[f"export and proof, {name}"] = time.perf_counter() - started
        folders.append(folder)
        if not options.json:
            show()
            print_lines([manifest.title, f"  {manifest.stand_in}"])
            question(folder, manifest)
    if not options.json:
        show("\nmeasuring every level against the full-precision model in transformers ...")
    sweep = bench.Sweep(folders, data=options.data, rounds=LATENCY_ROUNDS)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.to) as work:
        results = bench.bench(sweep, work=Path(work), progress=on_stderr())
    results = results.after(seconds)
    bench.write(results, options.to)
    if options.json:
        show(bench.as_json(results), end="")
    else:
        written = f"{options.to / 'results.json'}, {options.to / 'report.html'}"
        show(f"\n{bench.markdown(results)}\n\nwritten: {written}")
    return 0 if results.shows_damage is not False and not results.errors else 1


def export(name: str, levels: Sequence[str], parent: Path, progress: Progress) -> tuple[Path, Manifest]:
    """Export and prove one reference model below `parent`; an older demo's artifact is replaced.

    Raises:
        UsageError: its weights are not installed.
    """
    from edgekit.artifacts.manifest import FILE_NAME
    from edgekit.checkpoints import reference_models
    from edgekit.errors import UsageError
    from edgekit.prove import publish

    source, folder = reference_models.path(name), parent / name
    if source is None:
        raise UsageError(f"the reference model {name} is not installed", remedy="install edgekit from its repository")
    if (folder / FILE_NAME).is_file():  # parts made by other code prove nothing
        shutil.rmtree(folder)
    return folder, publish.export(source, folder, levels=levels, progress=progress).manifest


def question(folder: Path, manifest: Manifest) -> None:
    """Open every level and let it answer about two phantoms that nobody trained on."""
    from edgekit.inputs import phantoms
    from edgekit.runtime import open_model

    shown = [phantom for phantom in phantoms.generate(PHANTOM_SEED, 8) if phantom.severity == "severe"][:2]
    show(f"  images: two phantoms, drawn with {' and '.join(phantom.finding for phantom in shown)}")
    for level in manifest.variants:
        model = open_model(folder, level)
        try:
            asked, answers = answer(model, [phantom.image for phantom in shown])
        finally:
            model.close()
        print_lines([f"  {level:<6} {asked} {' | '.join(answers)}"])


def answer(model: Model, images: Sequence[Any]) -> tuple[str, list[str]]:
    """What a model is asked about each image, and what it says: in words where it can, else the best label."""
    from edgekit.inputs.labels import FINDING_QUESTIONS, PHANTOM_LABELS, class_prompts
    from edgekit.inputs.message import Image, Message

    if "generate" in model.abilities:
        asked, answers = FINDING_QUESTIONS[0], []
        for image in images:
            *_, generation = model.generate([Message("user", Image(image), asked)], max_tokens=24)
            answers.append(getattr(generation, "text", ""))
        return asked, answers
    scores = model.classify(images, [class_prompts(label) for label in PHANTOM_LABELS])
    names = [label.name for label in PHANTOM_LABELS]
    return "best of the phantoms' labels", [f"{names[int(row.argmax())]} ({row.max():.2f})" for row in scores]


VERB = Verb(
    "run the main job on the reference models, end to end",
    ("demo", "demo --to /tmp/demo --data ../data"),
    run,
    add_options,
    go_on="the same command begins again",
    order=130,
)
