"""`edgekit tune`: time what can run an artifact's parts on this machine, and keep the figures for every later open.

An ONNX encoder is run by each runtime that is installed, on a phantom or a short text; a GGUF decoder by llama.cpp
with and without weights laid out for this CPU, with several numbers of threads, and with huge pages. Every option runs
in a process of its own (`edgekit.tuning.measure`).
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.artifacts.manifest import Part
from edgekit.errors import EdgekitError
from edgekit.inputs import image as images_
from edgekit.inputs import prompt as prompts_
from edgekit.inputs.samples import shipped_inputs
from edgekit.machine import worker
from edgekit.machine.cpu import busy_cores, cpu
from edgekit.progress import Progress
from edgekit.runtime import backends as onnx_encoder
from edgekit.runtime import tuning_results as choice
from edgekit.runtime.backends import ROWS, Runtime
from edgekit.runtime.llama import self_test as guard
from edgekit.runtime.opening import Opening, prepare
from edgekit.runtime.tuning_results import Choice, DecoderChoice, DecoderRun, EncoderChoice, EncoderRun
from edgekit.tuning import measure

# glibc asks the kernel for huge pages only if this is set before a process starts, so edgekit cannot switch it.
HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"

# A runtime that takes this many times what the first one took will not be chosen; the least for loading, in seconds.
_PATIENCE = 3
_LEAST_PATIENCE_S = 30.0

# What takes longer hangs: a small computer reads 25 MB of weights a second from its card, and then runs them some
# dozens of times.
_HANGS_S, _HANGS_S_PER_GB = 600.0, 240.0


@dataclass(frozen=True)
class Tuned:
    """What is known now of one part.

    Attributes:
        choice: None where there is nothing to choose.
        reused: whether it had been measured before.
        note: why there is nothing to choose, or what else the user can do.
    """

    role: str
    level: str
    choice: Choice | None
    reused: bool = False
    note: str | None = None

    def lines(self) -> list[str]:
        """For people."""
        if self.choice is None:
            return [f"{self.role} {self.level}: {self.note}"]
        head = f"{self.choice}{' (measured before; --fresh measures again)' if self.reused else ''}"
        return [head, *(f"  {run}" for run in self.choice.runs), *([f"  {self.note}"] if self.note else [])]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        plain = {"role": self.role, "level": self.level, "reused": self.reused, "note": self.note}
        return {**plain, "choice": self.choice and self.choice.to_dict()}


def tune(
    folder: Path,
    levels: Sequence[str] = (),
    device: str | None = None,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
) -> list[Tuned]:
    """Measure the parts of some variants of an artifact; what was measured before, on a quiet machine, stays.

    Args:
        levels: variants; the recipe's default for none.
        device: a device profile whose number of cores is obeyed.
        fresh: measure again, whatever was measured before.

    Raises:
        ArtifactError, UsageError: as `edgekit.runtime.open_model`.
        EdgekitError: the runtime that edgekit requires cannot run a part.
        OSError: the cache folder cannot be written.
    """
    progress = progress or Progress()
    found: dict[str, Tuned] = {}
    try:
        for level in levels or (None,):
            opening = prepare(folder, level, device, runtime=choice.DEFAULT)
            for role, part in opening.parts.items():
                if part.id not in found:
                    found[part.id] = _tune(opening, role, part, fresh, progress)
    finally:
        progress.finish()
    return list(found.values())


def _tune(opening: Opening, role: str, part: Part, fresh: bool, progress: Progress) -> Tuned:
    if (part.format, role == "decoder") not in (("onnx", False), ("gguf", True)):
        return Tuned(role, part.level, None, note="nothing to choose")
    if part.format == "gguf" and opening.gpu:
        return Tuned(role, part.level, None, note="nothing to choose: it runs on the GPU")
    before = None if fresh else choice.kept(part, opening.threads)
    if before and not before.doubt:
        return Tuned(role, part.level, before, reused=True, note=_note(before))
    if part.format == "onnx":
        runtimes = onnx_encoder.usable()
        if len(runtimes) == 1:
            note = f"{ROWS[runtimes[0]].title} is the only runtime here ({onnx_encoder.lacking()})"
            return Tuned(role, part.level, None, note=note)
        measured: Choice = _encoder(opening, role, part, runtimes, progress)
    else:
        measured = _decoder(opening, part, progress)
    choice.keep(part, measured)
    return Tuned(role, part.level, measured, note=_note(measured))


def _note(measured: Choice) -> str | None:
    gain = measured.huge_pages_gain if isinstance(measured, DecoderChoice) else None
    return f"{gain:.2f} times as fast with huge pages: start with {HUGE_PAGES}" if gain and gain > 1.02 else None


# ---------------------------------------------------------------- encoders


def _encoder(opening: Opening, role: str, part: Part, runtimes: Sequence[Runtime], progress: Progress) -> EncoderChoice:
    described = _described(opening, role, part, progress)
    progress.start(f"{role} {part.level}: {len(runtimes)} runtimes", len(runtimes))
    runs: list[EncoderRun] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-tune-") as name:
        scratch = Path(name)
        np.save(scratch / "input.npy", _one_item(opening, role))
        job = {"encoder": opening.encoder_file(role).to_json(), "threads": opening.threads}
        job |= {"input": str(scratch / "input.npy"), "output": str(scratch / "output.npy")}
        expected: NDArray[np.float32] | None = None
        limit_s = hangs_s(part)
        for runtime in runtimes:
            started = time.monotonic()
            lines, problem = _measured(measure.encoder, {**job, "runtime": runtime}, limit_s)
            if expected is None:
                if problem:
                    raise EdgekitError(f"{role} {part.level}: {ROWS[runtime].title} cannot run it: {problem}")
                expected = np.load(scratch / "output.npy", allow_pickle=False)
                limit_s = max(_LEAST_PATIENCE_S, _PATIENCE * (time.monotonic() - started))
            output = None if problem else np.load(scratch / "output.npy", allow_pickle=False)
            runs.append(_encoder_run(runtime, lines, problem, expected, output))
            progress.advance()
    return EncoderChoice(runs=tuple(runs), **described)


def _one_item(opening: Opening, role: str) -> NDArray[Any]:
    """A phantom's pixels, or a caption's ids: [1, ...]."""
    inputs = shipped_inputs()
    if role == "text_encoder":
        settings = opening.manifest.settings
        return prompts_.encode_siglip(
            opening.tokenizer, inputs.captions[:1], settings["text_length"], settings["pad_token_id"]
        )
    return images_.to_pixels(inputs.images[:1], opening.preprocessing())


def _encoder_run(
    runtime: Runtime,
    lines: Sequence[Mapping[str, Any]],
    problem: str | None,
    expected: NDArray[np.float32],
    output: NDArray[np.float32] | None,
) -> EncoderRun:
    if output is None:
        return EncoderRun(runtime=runtime, problem=problem)
    if output.shape != expected.shape or not np.isfinite(output).all():
        what = "not finite" if output.shape == expected.shape else f"of shape {list(output.shape)}"
        return EncoderRun(runtime=runtime, problem=f"its output is {what}")
    width = expected.shape[-1]
    cosines = metrics.cosine(output.reshape(-1, width), expected.reshape(-1, width))
    cosines = np.nan_to_num(cosines)  # a vector of zeros has no direction
    return EncoderRun(runtime=runtime, cosine=float(cosines.mean()), cosine_worst=float(cosines.min()), **lines[0])


# ---------------------------------------------------------------- decoder


def _decoder(opening: Opening, part: Part, progress: Progress) -> DecoderChoice:
    trial = guard.verdict()
    trial.require()
    layouts = [trial.extra_buffers] if os.environ.get(guard.VARIABLE) else [False, True][: 1 + trial.extra_buffers]
    counts = thread_counts(opening.threads, cpu().physical_cores)
    described = _described(opening, "decoder", part, progress)
    progress.start(f"decoder {part.level}: llama.cpp's options", len(layouts) + _has_huge_pages())
    job, limit_s = {"decoder": str(opening.path("decoder"))}, hangs_s(part)
    runs: list[DecoderRun] = []
    for extra in layouts:
        runs += _decoder_runs({**job, "threads": counts, "extra_buffers": extra}, limit_s, huge_pages=False)
        progress.advance()
    best = DecoderChoice(runs=tuple(runs), **described).chosen
    if best is None:
        raise EdgekitError(f"decoder {part.level}: llama.cpp cannot run it: {runs[0].problem}")
    if _has_huge_pages():
        again = sorted({best.threads, best.step_threads}, reverse=True)
        runs += _decoder_runs({**job, "threads": again, "extra_buffers": best.extra_buffers}, limit_s, huge_pages=True)
        progress.advance()
    return DecoderChoice(runs=tuple(runs), **described)


def thread_counts(limit: int, physical: int) -> list[int]:
    """Numbers of threads worth trying, most first: all that may be used, one a core, and powers of two."""
    wanted = {limit, physical, *(1 << i for i in range(limit.bit_length()))}
    return sorted((count for count in wanted if 0 < count <= limit), reverse=True)


def _decoder_runs(job: dict[str, Any], limit_s: float, *, huge_pages: bool) -> Iterator[DecoderRun]:
    options = {"extra_buffers": job["extra_buffers"], "huge_pages": huge_pages}
    lines, problem = _measured(measure.decoder, job, limit_s, huge_pages=huge_pages)
    for line in lines:
        yield DecoderRun(**options, **line)
    if problem:
        yield DecoderRun(**options, threads=job["threads"][0], problem=problem)


def _has_huge_pages() -> bool:
    return platform.libc_ver()[0] == "glibc" and Path("/sys/kernel/mm/transparent_hugepage/enabled").is_file()


# ---------------------------------------------------------------- processes


def _described(opening: Opening, role: str, part: Part, progress: Progress) -> dict[str, Any]:
    busy = busy_cores()
    if busy > choice.QUIET:
        progress.note(f"other programs use {busy:.1f} of {cpu().usable_cores} cores: what is measured now may mislead")
    return {
        "title": opening.manifest.title,
        "role": role,
        "level": part.level,
        "part": part.id,
        "threads": opening.threads,
        "libraries": choice.libraries(part.format),
        "cpu": cpu().name,
        "busy_cores": busy,
    }


def _measured(
    work: worker.Work, job: Mapping[str, Any], limit_s: float, *, huge_pages: bool = False
) -> tuple[list[dict[str, Any]], str | None]:
    """What a measuring process found, and why it ended early where it did."""
    environment = {}
    if huge_pages:
        name, _, setting = HUGE_PAGES.partition("=")
        environment[name] = ":".join(filter(None, (os.environ.get(name), setting)))
    measurements, end = worker.run(work, job, limit_s=limit_s, environment=environment)
    return measurements, end.problem


def hangs_s(part: Part) -> float:
    """Seconds after which no measurement of a part can still be expected."""
    return _HANGS_S + _HANGS_S_PER_GB * sum(file.bytes for file in part.files) / 1e9
