"""`edgekit tune`: time what can run an artifact's parts on this machine, and save the figures for every later open.

An encoder is run by each backend that opens it here, on a picture or a short text; a decoder by its backend with and
without weights laid out for this CPU, with several numbers of threads, and with huge pages. Every option runs in a
process of its own (`edgekit.tuning.measure`).

Proofs are by the defaults, and users run what is chosen here. So what each option gives for the proof's pictures,
captions or text is compared with what the proven default gives; one that lies beyond `tuning_results`' limits is shown
and never chosen.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit import metrics
from edgekit.artifacts.disk_errors import file_errors
from edgekit.artifacts.manifest import Part
from edgekit.errors import EdgekitError
from edgekit.inputs.passage import passage
from edgekit.inputs.samples import shipped_inputs, shown
from edgekit.machine import worker
from edgekit.machine.cpu import busy_cores, cpu
from edgekit.machine.temporary import temporary_folder
from edgekit.progress import Progress
from edgekit.runtime import tuning_results
from edgekit.runtime.backends import BACKENDS, Backend, libraries
from edgekit.runtime.opening import Opening, prepare
from edgekit.runtime.tuning_results import DecoderResult, DecoderRun, EncoderResult, EncoderRun, TuningResult
from edgekit.tuning import measure

# glibc asks the kernel for huge pages only if this is set before a process starts, so edgekit cannot switch it.
HUGE_PAGES = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"

# A runtime that takes this many times what the first one took will not be chosen; the least for loading, in seconds.
PATIENCE = 3
LEAST_PATIENCE_S = 30.0

# What takes longer hangs: a small computer reads 25 MB of weights a second from its card, and then runs them some
# dozens of times.
_HANGS_S, _HANGS_S_PER_GB = 600.0, 240.0


@dataclass(frozen=True)
class Tuned:
    """What is known now of one part.

    Attributes:
        result: None where there is nothing to choose.
        reused: whether it had been measured before.
        note: why there is nothing to choose, or what else the user can do.
    """

    role: str
    level: str
    result: TuningResult | None
    reused: bool = False
    note: str | None = None

    def lines(self) -> list[str]:
        """For people."""
        if self.result is None:
            return [f"{self.role} {self.level}: {self.note}"]
        head = f"{self.result}{' (measured before; --fresh measures again)' if self.reused else ''}"
        return [head, *(f"  {run}" for run in self.result.runs), *([f"  {self.note}"] if self.note else [])]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        plain = {"role": self.role, "level": self.level, "reused": self.reused, "note": self.note}
        return {**plain, "choice": self.result and self.result.to_dict()}


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
        ArtifactError: the cache folder, or the one for temporary files, cannot be written.
    """
    progress = progress or Progress()
    tuned: dict[str, Tuned] = {}
    try:
        with file_errors(tuning_results.folder()):
            for level in levels or (None,):
                opening = prepare(folder, level, device, runtime=tuning_results.DEFAULT)
                for role, part in opening.parts.items():
                    if part.id not in tuned:
                        warned = any(one.result and one.result.doubt for one in tuned.values())
                        tuned[part.id] = tune_part(opening, role, fresh=fresh, progress=progress, warned=warned)
    finally:
        progress.finish()
    return list(tuned.values())


def tune_part(opening: Opening, role: str, *, fresh: bool, progress: Progress, warned: bool = False) -> Tuned:
    """Measure one part, or find what was measured before: see `tune`.

    Args:
        warned: whether the user knows that this machine is busy.
    """
    part, rows = opening.parts[role], opening.backends(role)
    can_choose = rows[0].options is not None if opening.kind(role) == "decoder" else len(rows) > 1
    if not can_choose:
        return Tuned(role, part.level, None, note="nothing to choose")
    if opening.on_gpu(role):
        return Tuned(role, part.level, None, note="nothing to choose: it runs on the GPU")
    before = None if fresh else tuning_results.load(part, opening.threads)
    if before and not before.doubt:
        return Tuned(role, part.level, before, reused=True, note=advice(before))
    if opening.kind(role) == "encoder":
        works = [row for row in rows if row.problem() is None]
        if len(works) == 1:
            problem = next(why for row in rows if (why := row.problem()))
            return Tuned(role, part.level, None, note=f"{works[0].title} is the only runtime here ({problem})")
    described = _described(opening, role)
    if described["busy_cores"] > tuning_results.QUIET and not warned:
        busy = f"{described['busy_cores']:.1f} of {cpu().usable_cores} cores"
        progress.note(f"other programs use {busy}: what is measured now may mislead")
    if opening.kind(role) == "encoder":
        result: TuningResult = _encoder(opening, role, works, progress, described)
    else:
        result = _decoder(opening, role, progress, described)
    tuning_results.save(part, result)
    return Tuned(role, part.level, result, note=advice(result))


def advice(result: TuningResult) -> str | None:
    """Why the fastest encoder was not chosen, or what the user can do that edgekit cannot; None for nothing."""
    if isinstance(result, EncoderResult):
        least = min((run for run in result.runs if run.counts), key=lambda run: run.seconds, default=None)
        if least is None or least.runtime == result.fastest:
            return None
        margin = f"less than {(tuning_results.NOISE - 1) * 100:.0f} %"
        return f"{BACKENDS[least.runtime].title} is {margin} faster: {BACKENDS[result.fastest].title} is kept"
    gain = result.huge_pages_gain
    return f"{gain:.2f} times as fast with huge pages: start with {HUGE_PAGES}" if gain and gain > 1.02 else None


# ---------------------------------------------------------------- encoders


def _encoder(
    opening: Opening, role: str, rows: Sequence[Backend], progress: Progress, described: Mapping[str, Any]
) -> EncoderResult:
    part = opening.parts[role]
    progress.start(f"{role} {part.level}: {len(rows)} runtimes", len(rows))
    runs: list[EncoderRun] = []
    with temporary_folder("tune") as scratch:
        measure.save(scratch / "input.npy", _items(opening, role))
        job: dict[str, Any] = {
            "file": opening.encoder_file(role).to_json(),
            "format": part.format,
            "threads": opening.threads,
        }
        job["input"] = str(scratch / "input.npy")
        expected: NDArray[np.float32] | None = None
        limit_s = hangs_s(part)
        for backend in rows:
            started = time.monotonic()
            written = scratch / f"{backend.name}.npy"  # its own: what another backend wrote must not count for it
            mine = {**job, "backend": backend.name, "output": str(written)}
            lines, problem = _measured(measure.encoder, mine, limit_s)
            problem = problem or (None if lines and written.is_file() else "it gave no output")
            if expected is None:
                if problem:
                    raise EdgekitError(f"{role} {part.level}: {backend.title} cannot run it: {problem}")
                expected = np.load(written, allow_pickle=False)
                limit_s = max(LEAST_PATIENCE_S, PATIENCE * (time.monotonic() - started))
            output = None if problem else np.load(written, allow_pickle=False)
            runs.append(encoder_run(backend.name, lines, problem, expected, output))
            progress.advance()
    return EncoderResult(runs=tuple(runs), **described)


def _items(opening: Opening, role: str) -> NDArray[Any]:
    """What a proof shows this encoder; of pictures that take long, two."""
    inputs = shipped_inputs()
    images = shown(inputs) if opening.parts[role].output == "pooled" else inputs.images[:2]
    return opening.items(role, images, inputs.captions[: len(images)])


def encoder_run(
    runtime: str,
    lines: Sequence[Mapping[str, Any]],
    problem: str | None,
    expected: NDArray[np.float32],
    output: NDArray[np.float32] | None,
) -> EncoderRun:
    """What a backend's measurement says, once its output is compared with the required backend's.

    Args:
        lines: measurements; the first counts.
        problem: why there is no output.
        expected: the required backend's output for the same items.
    """
    if output is None:
        return EncoderRun(runtime=runtime, problem=problem)
    if output.shape != expected.shape or not np.isfinite(output).all():
        what = "not finite" if output.shape == expected.shape else f"of shape {list(output.shape)}"
        return EncoderRun(runtime=runtime, problem=f"its output is {what}")
    width = expected.shape[-1]
    errors = metrics.relative_error(expected.reshape(-1, width), output.reshape(-1, width))
    if not np.isfinite(errors).all():
        return EncoderRun(runtime=runtime, problem="the proven default's output is zero or not finite")
    return EncoderRun(runtime=runtime, error=float(errors.mean()), worst_error=float(errors.max()), **lines[0])


# ---------------------------------------------------------------- decoder


def _decoder(opening: Opening, role: str, progress: Progress, described: Mapping[str, Any]) -> DecoderResult:
    (backend, *_), part = opening.backends(role), opening.parts[role]
    assert backend.options is not None, "asked before"
    assert opening.tokenizer is not None, "a decoder reads text"
    layouts, counts = backend.options.layouts(), thread_counts(opening.threads, cpu().physical_cores)
    progress.start(f"{role} {part.level}: {backend.title}'s options", len(layouts) + has_huge_pages())
    text = opening.tokenizer.encode(passage(), add_special_tokens=False).ids[: measure.COMPARED_TOKENS]
    job = {"file": opening.decoder_file(role).to_json(), "format": part.format, "backend": backend.name, "text": text}
    with temporary_folder("tune") as scratch:
        measured = _DecoderRuns(part, job, scratch)
        # What is proven: weights as the backend thinks best, and all threads. It comes first.
        for extra in sorted(layouts, reverse=True):
            measured.run(counts, extra)
            progress.advance()
        best = DecoderResult(runs=tuple(measured.runs), **described).fastest
        if best is None:
            raise EdgekitError(f"{role} {part.level}: {backend.title} cannot run it: {measured.problem}")
        if has_huge_pages():
            measured.run(sorted({best.threads, best.step_threads}, reverse=True), best.extra_buffers, huge_pages=True)
            progress.advance()
    return DecoderResult(runs=tuple(measured.runs), **described)


@dataclass
class _DecoderRuns:
    """The runs of one decoder so far, their logits compared with those of the first that gave any."""

    part: Part
    job: Mapping[str, Any]
    scratch: Path
    runs: list[DecoderRun] = field(default_factory=list)
    expected: NDArray[np.float32] | None = None

    def run(self, threads: Sequence[int], extra_buffers: bool, *, huge_pages: bool = False) -> None:
        """One process with one layout of the weights, and these numbers of threads."""
        options: dict[str, Any] = {"extra_buffers": extra_buffers, "huge_pages": huge_pages}
        outputs = self.scratch / f"{len(self.runs)}"
        outputs.mkdir()
        job = {**self.job, "threads": threads, "extra_buffers": extra_buffers, "outputs": str(outputs)}
        lines, problem = _measured(measure.decoder, job, hangs_s(self.part), huge_pages=huge_pages)
        for line in lines:
            self.runs.append(DecoderRun(**options, **line, **self._agreement(outputs / f"{line['threads']}.npy")))
        if problem:
            self.runs.append(DecoderRun(**options, threads=threads[0], problem=problem))

    def _agreement(self, written: Path) -> dict[str, Any]:
        if not written.is_file():
            return {"problem": "it gave no output"}
        logits = np.load(written, allow_pickle=False)
        written.unlink()  # a row is 1 MB at Gemma's vocabulary
        if not np.isfinite(logits).all():
            return {"problem": "its output is not finite"}
        if self.expected is None:
            self.expected = logits
        if logits.shape != self.expected.shape:
            return {"problem": f"its output is of shape {list(logits.shape)}"}
        return {"kl": float(metrics.kl_divergence(self.expected, logits).mean())}

    @property
    def problem(self) -> str:
        """Why nothing may be chosen."""
        return next((run.problem for run in self.runs if run.problem), "nothing was measured")


def thread_counts(limit: int, physical: int) -> list[int]:
    """Numbers of threads worth trying, most first: all that may be used, one a core, and powers of two."""
    wanted = {limit, physical, *(1 << i for i in range(limit.bit_length()))}
    return sorted((count for count in wanted if 0 < count <= limit), reverse=True)


def has_huge_pages() -> bool:
    """Whether this system can give a process huge pages that asks by `HUGE_PAGES`."""
    return platform.libc_ver()[0] == "glibc" and Path("/sys/kernel/mm/transparent_hugepage/enabled").is_file()


# ---------------------------------------------------------------- processes


def _described(opening: Opening, role: str) -> dict[str, Any]:
    part = opening.parts[role]
    return {
        "title": opening.manifest.title,
        "role": role,
        "level": part.level,
        "part": part.id,
        "threads": opening.threads,
        "libraries": libraries(part.format),
        "cpu": cpu().name,
        "busy_cores": busy_cores(),
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
