"""Measure a peer's cell: its driver in a process of its own environment, watched from here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.folders import updating
from edgekit.bench import datasets
from edgekit.bench.cells import Cell, CellTask, Outcome, PeerRef
from edgekit.bench.datasets import Dataset
from edgekit.bench.kinds.latency import LatencyTask
from edgekit.bench.peers.catalog import PEERS, THREADS
from edgekit.bench.speed.process import limited, memory
from edgekit.bench.speed.surroundings import files
from edgekit.bench.speed.timing import random_ids
from edgekit.bench.tasks import parse
from edgekit.errors import EdgekitError
from edgekit.machine import page_cache
from edgekit.machine.cpu import cpu
from edgekit.machine.disturbance import watched
from edgekit.machine.residence import Peaks, peaks
from edgekit.machine.temporary import temporary_folder

_DRIVER = Path(__file__).parent / "programs" / "driver.py"
_CONTEXT = 4096  # what a model is opened with where nobody says anything else
_MADE = "made.json"
# Stands in for vocabularies that nobody here knows; every Gemma and SigLIP has as many.
_VOCABULARY = 1024


def outcomes(cell: Cell) -> Iterator[Outcome]:
    """Run a peer's cell; whatever goes wrong costs its own figures."""
    for given in cell.tasks:
        began = time.perf_counter()
        try:
            result, error = _measured(cell, _timed(given)), None
        except EdgekitError as failure:
            result, error = None, str(failure)
        yield Outcome(given.name, result, time.perf_counter() - began, error)


def _timed(given: CellTask) -> LatencyTask:
    task = parse(given.data)
    if not isinstance(task, LatencyTask):
        raise EdgekitError(f"{task.name}: peers are timed, and nothing else")
    return task


def _measured(cell: Cell, task: LatencyTask) -> dict[str, Any]:
    ref = cell.model.peer
    assert ref is not None, "a peer's cell"
    dataset = datasets.load(task.dataset, task.limit, task.seed, Path(cell.data) if cell.data else None)
    job = _job(cell, ref, task)
    with temporary_folder("peer") as folder:
        job["images"] = _pictures(dataset, folder)
        _prepare(ref, job, folder)
        cold = _cold(cell, ref, job, folder)
        started = datetime.now(UTC)
        with watched() as conditions:
            found, held = _driven(ref, {**job, "do": "measure"}, folder)
    versions = found["versions"] or {ref.name: ref.version}
    figures = found["figures"] | cold | memory(held) | {"peak_memory_bytes": float(held.resident)}
    if PEERS[ref.name].prepares:
        made = [path.stat().st_size for path in Path(ref.made).rglob("*") if path.is_file()]
        figures["file_bytes"] = float(sum(made))
    return {
        "figures": figures,
        "samples": found["samples"],
        "prompt_tokens": found["prompt_tokens"],
        "steps": job["steps"],
        "conditions": {**asdict(conditions), "disturbed": conditions.disturbed},
        "runtimes": {"peer": ", ".join(" ".join(pair) for pair in versions.items())},
        "started": started.isoformat(timespec="seconds"),
        **limited(figures, cell),
    }


def _job(cell: Cell, ref: PeerRef, task: LatencyTask) -> dict[str, Any]:
    peer, threads = PEERS[ref.name], cell.model.threads or cpu().usable_cores
    manifest = manifests.read(Path(cell.model.folder))
    vocabulary = manifest.settings.get("vocabulary")
    options = {name: threads if value == THREADS else value for name, value in peer.settings[ref.setting].items()}
    decoder, vision = _gguf(cell) if peer.takes == "gguf" else (None, None)
    limit = manifest.settings.get("context")
    context = min(_CONTEXT, limit) if isinstance(limit, int) else _CONTEXT
    count = max(1, min(task.prompt_tokens, context - task.decode_tokens - 2))
    return {
        "peer": peer.program,
        "packages": list(peer.distributions),
        "binary": ref.program,
        "decoder": decoder,
        "vision": vision,
        "sees": vision is not None if peer.takes == "gguf" else manifest.preprocessing is not None,
        "checkpoint": ref.source,
        "made": ref.made,
        "threads": threads,
        "options": options,
        "context": context,
        "text": task.prompt,
        "ids": random_ids(count, vocabulary if isinstance(vocabulary, int) else _VOCABULARY),
        "steps": min(task.decode_tokens, context // 2),
    }


def _gguf(cell: Cell) -> tuple[str, str | None]:
    """Decoder and vision part: the variant's own, or where that is in another format, the artifact's first in GGUF."""
    folder, manifest = Path(cell.model.folder), manifests.read(Path(cell.model.folder))
    parts = [*manifest.variant(cell.model.level)[1].values(), *manifest.parts]
    place = {
        output: next((part.files[0].path for part in parts if (part.output, part.format) == (output, "gguf")), None)
        for output in ("logits", "image_tokens")
    }
    eye = place["image_tokens"]
    return str(folder / str(place["logits"])), str(folder / eye) if eye else None


def _pictures(dataset: Dataset, folder: Path) -> list[str]:
    paths = [folder / f"{place}.png" for place in range(len(dataset.images))]
    for path, image in zip(paths, dataset.images, strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def _prepare(ref: PeerRef, job: Mapping[str, Any], folder: Path) -> None:
    """Have a peer make its files, once for a checkpoint: they are kept, in edgekit's cache."""
    made = Path(ref.made)
    if not PEERS[ref.name].prepares:
        return
    made.mkdir(parents=True, exist_ok=True)
    with updating(made):
        if not (made / _MADE).exists():
            _driven(ref, {**job, "do": "prepare"}, folder)
            (made / _MADE).write_text(json.dumps({"by": ref.name, "threads": job["threads"]}), encoding="utf-8")


def _cold(cell: Cell, ref: PeerRef, job: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The first opening, from the disk, in a process of its own."""
    paths = files(cell.model) if cell.model.level else [path for path in Path(ref.made).rglob("*") if path.is_file()]
    if cell.round or not paths or not page_cache.forget(paths):
        return {}
    found, _ = _driven(ref, {**job, "do": "open"}, folder)
    return {"load_cold_s": found["figures"]["load_s"]}


def _driven(ref: PeerRef, job: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], Peaks]:
    """What the driver finds, and the peaks of memory of all its processes.

    Raises:
        EdgekitError: it failed; the message ends with the last line that it wrote.
    """
    asked, answer, log = folder / "job.json", folder / "result.json", folder / "log"
    asked.write_text(json.dumps(job), encoding="utf-8")
    answer.unlink(missing_ok=True)
    python = ref.program if PEERS[ref.name].packages else sys.executable
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [python, str(_DRIVER), str(asked), str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=_environment(folder),
            start_new_session=True,  # all that it starts ends with it
        )
        try:
            with peaks(process.pid) as held:
                process.wait()
        finally:
            _end(process)
    if process.returncode or not answer.exists():
        lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        said = lines[-1] if lines else "it wrote nothing"
        raise EdgekitError(f"{PEERS[ref.name].title} ended with exit code {process.returncode}: {said}")
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return result, held


def _environment(folder: Path) -> dict[str, str]:
    """Ours without edgekit on its path, and nothing of a network."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    return {**kept, **offline, "TMPDIR": str(folder), "PYTHONIOENCODING": "utf-8:backslashreplace"}


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
