"""The main job, end to end, on the reference models: export, prove, open, ask, measure, report."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from edgekit import bench as measuring
from edgekit import reference_models as reference
from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Manifest
from edgekit.errors import UsageError
from edgekit.inputs import phantoms
from edgekit.inputs.labels import FINDING_QUESTIONS, PHANTOM_LABELS, class_prompts
from edgekit.inputs.message import Image, Message
from edgekit.progress import Progress
from edgekit.prove import publish as artifact
from edgekit.runtime import open_model

_SEED = 30_260  # of the phantoms shown; training, proof, calibration and benchmarks use others
_ROUNDS = 2
# The rest of the levels takes as long again and shows nothing new on a small model.
_LEVELS = {
    "medgemma-reference": ("BF16", "Q8_0", "Q4_K_M", "Q4_0", "Q4_0+vision-int8", "q4"),
    "medsiglip-reference": ("fp32", "int8", "q4"),
}


def run(folder: Path, data: Path | None, progress: Progress, *, as_json: bool = False) -> int:
    """Export both reference models into `folder`, question every level, benchmark all, write the report.

    Returns:
        0, or 1 where something could not be measured or the control rows show no damage.
    """
    folders, phases = [], {}
    for name in reference.NAMES:
        source = reference.path(name)
        if source is None:
            raise UsageError(
                f"the reference model {name} is not installed", remedy="install edgekit from its repository"
            )
        if (folder / name / manifests.FILE_NAME).is_file():  # an older demo's: parts made by other code prove nothing
            shutil.rmtree(folder / name)
        started = time.perf_counter()
        done = artifact.export(source, folder / name, levels=_LEVELS[name], progress=progress)
        phases[f"export and proof, {name}"] = time.perf_counter() - started
        folders.append(folder / name)
        if not as_json:
            print(f"\n{done.manifest.title}\n  {done.manifest.stand_in}")
            _question(folder / name, done.manifest)
    if not as_json:
        print("\nmeasuring every level against the full-precision model in transformers ...", flush=True)
    results = measuring.bench(measuring.Sweep(folders, data=data, rounds=_ROUNDS), progress=not as_json)
    results = results.after(phases)
    measuring.write(results, folder)
    if as_json:
        print(measuring.as_json(results), end="")
    else:
        print(f"\n{measuring.markdown(results)}\n\nwritten: {folder / 'results.json'}, {folder / 'report.html'}")
    return 0 if results.shows_damage and not results.errors else 1


def _question(folder: Path, manifest: Manifest) -> None:
    """Open every level and let it answer about two phantoms that nobody trained on."""
    shown = [phantom for phantom in phantoms.generate(_SEED, 8) if phantom.severity == "severe"][:2]
    images = [phantom.image for phantom in shown]
    names = [label.name for label in PHANTOM_LABELS]
    print(f"  images: two phantoms, drawn with {' and '.join(phantom.finding for phantom in shown)}")
    for level in manifest.variants:
        model = open_model(folder, level)
        try:
            if "generate" in model.abilities:
                question = FINDING_QUESTIONS[0]
                answers = []
                for image in images:
                    *_, answer = model.generate([Message("user", Image(image), question)], max_tokens=24)
                    answers.append(getattr(answer, "text", ""))
            else:
                question = "best of the phantoms' labels"
                scores = model.classify(images, [class_prompts(label) for label in PHANTOM_LABELS])
                answers = [f"{names[int(row.argmax())]} ({row.max():.2f})" for row in scores]
        finally:
            model.close()
        print(f"  {level:<6} {question} {' | '.join(answers)}")
