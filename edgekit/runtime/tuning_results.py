"""What was measured on this machine, and what follows: an encoder's backend, the options of a decoder's.

Which is fastest differs between CPUs by factors, so `edgekit tune` measures and saves the figures here, one file a
part, under a key of everything that they depend on: another library version, CPU or number of threads has no results
until it is measured, and gets the defaults. What is fastest is not saved but follows from the figures.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from edgekit.artifacts.documents import read_json
from edgekit.artifacts.files import make_folder, sha256_json, write_atomically
from edgekit.artifacts.manifest import Part
from edgekit.artifacts.validation import Count, Listed, Name, Sha256, StrictModel, Text, validated
from edgekit.errors import ArtifactError, UsageError
from edgekit.machine.cache import cache_folder
from edgekit.machine.cpu import cpu
from edgekit.runtime.backends import BACKENDS, backends_for, libraries, runtimes
from edgekit.runtime.parts import RunOptions

VARIABLE = "EDGEKIT_RUNTIME"
DEFAULT = "default"  # nothing that was measured counts: the required backends, with their defaults

# Part of the key: a change of how things are measured makes what was saved worthless.
METHOD = 2

# How far what an option gives may lie from what the proven default gives, for the option to count. Only rounding may
# differ. Of an encoder, relative errors (L2) of its vectors, on average and at worst, twice what rounding did and more
# (measured at MedSigLIP's width: bf16 0.013, an int8 file in either runtime 0.02, both 0.025); of a decoder, the mean
# KL divergence in nats. It judges arithmetic, not a level: a proof's limits compare a file with another model's code.
MOST_ERROR, MOST_ERROR_AT_WORST = 0.045, 0.1
MOST_KL = 5e-4

# Two timings that are nearer than this are the same.
NOISE = 1.05

# As many cores may be busy with other things for a measurement to be worth something.
QUIET = 0.2

# What a decoder's options are judged by: a question about one image, and a short answer.
PROMPT_TOKENS, ANSWER_TOKENS = 300, 100

# Weights laid out for the CPU are a second copy of them in memory: they must be worth it.
LEAST_GAIN = 1.1


_Seconds = Annotated[float, Field(ge=0, le=1e9)]
_Distance = Annotated[float, Field(ge=0, le=1e9)]
_Speed = Annotated[float, Field(ge=0, le=1e12)]
_Threads = Annotated[int, Field(gt=0, le=100_000)]


class EncoderRun(StrictModel):
    """An encoder in one backend: seconds for one item, the best of a few runs; one run where that takes long.

    Attributes:
        error, worst_error: relative, mean and most over the output's vectors, to the required backend's; None where
            they were not compared.
        peak_bytes: of the measuring process; 0 where the system does not say.
        problem: why there are no figures.
    """

    runtime: Name
    seconds: _Seconds = 0
    load_s: _Seconds = 0
    peak_bytes: Count = 0
    error: _Distance | None = None
    worst_error: _Distance | None = None
    problem: Text | None = None

    @field_validator("runtime")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in runtimes():
            raise ValueError(f"{name!r} is no runtime")
        return name

    @property
    def counts(self) -> bool:
        """Whether it may be chosen."""
        return (
            self.problem is None and _within(self.error, MOST_ERROR) and _within(self.worst_error, MOST_ERROR_AT_WORST)
        )

    def __str__(self) -> str:
        if self.problem:
            return f"{BACKENDS[self.runtime].title}: {self.problem}"
        refused = "" if self.counts else f": does not count, beyond {MOST_ERROR} (worst {MOST_ERROR_AT_WORST})"
        speed = f"{BACKENDS[self.runtime].title}: {self.seconds:.3g} s, {self.peak_bytes / 1e9:.2f} GB"
        return f"{speed}, {self.agreement}{refused}"

    @property
    def agreement(self) -> str:
        """How far it lies from the proven default, for people."""
        if self.runtime == runtimes()[0]:
            return "the proven default"
        if self.error is None or self.worst_error is None:
            return "not compared with the proven default"
        return f"relative error {self.error:.2g} (worst {self.worst_error:.2g}) to the proven default"


def _within(measured: float | None, most: float) -> bool:
    return measured is not None and measured <= most


class DecoderRun(StrictModel):
    """A decoder with one set of its backend's options.

    Attributes:
        kl: mean divergence in nats of its logits from those of the proven default; None where they were not compared.
    """

    extra_buffers: bool
    huge_pages: bool
    threads: _Threads
    prefill_tokens_per_s: _Speed = 0
    decode_tokens_per_s: _Speed = 0
    peak_bytes: Count = 0
    kl: _Distance | None = None
    problem: Text | None = None

    @property
    def counts(self) -> bool:
        """Whether it may be chosen."""
        return self.problem is None and _within(self.kl, MOST_KL)

    @property
    def agreement(self) -> str:
        """How far it lies from the proven default, for people."""
        return "not compared with the proven default" if self.kl is None else f"KL {self.kl:.2g} to the proven default"

    def __str__(self) -> str:
        layout = "laid out for this CPU" if self.extra_buffers else "as in the file"
        pages = ", huge pages" if self.huge_pages else ""
        if self.problem:
            return f"weights {layout}{pages}: {self.problem}"
        return (
            f"weights {layout}{pages}, threads {self.threads}: prefill {self.prefill_tokens_per_s:.3g} and "
            f"decode {self.decode_tokens_per_s:.3g} tok/s, {self.peak_bytes / 1e9:.2f} GB, {self.agreement}"
            f"{'' if self.counts else f': does not count, beyond {MOST_KL}'}"
        )


@dataclass(frozen=True)
class DecoderSpeed:
    """The options under which a decoder is fastest.

    Attributes:
        extra_buffers: let the backend lay out weights for this CPU, at the price of a second copy.
        threads, step_threads: for prompts, and for one token after the other.
        seconds: what `PROMPT_TOKENS` and `ANSWER_TOKENS` take.
    """

    extra_buffers: bool
    threads: int
    step_threads: int
    seconds: float

    @property
    def run_options(self) -> RunOptions:
        """As a backend takes them."""
        return RunOptions(self.threads, self.step_threads, plain_weights=not self.extra_buffers)

    def __str__(self) -> str:
        layout = "laid out for this CPU" if self.extra_buffers else "as in the file"
        return f"llama.cpp: weights {layout}, threads {self.threads} for prompts and {self.step_threads} for answers"


class _Result(StrictModel):
    """What was measured of one part of an artifact.

    Attributes:
        title: of the model.
        part: its id.
        threads: how many could be used.
        libraries: versions, for people.
        busy_cores: how many cores other programs used meanwhile, which makes the figures doubtful.
    """

    title: Name
    role: Name
    level: Name
    part: Sha256
    threads: _Threads
    libraries: dict[Name, Name | None]
    cpu: Name
    busy_cores: float = Field(ge=0, le=1e6)

    @property
    def doubt(self) -> str | None:
        """Why it should be measured again."""
        return f"measured while other programs used {self.busy_cores:.1f} cores" if self.busy_cores > QUIET else None


class EncoderResult(_Result):
    """What was measured of an ONNX encoder."""

    kind: Literal["encoder"] = "encoder"
    runs: Listed[EncoderRun]

    @property
    def fastest(self) -> str:
        """The fastest of the runtimes that count; of equally fast ones the one that rounds least."""
        order = runtimes()
        counting = sorted((run for run in self.runs if run.counts), key=lambda run: order.index(run.runtime))
        best = counting[0] if counting else None
        for run in counting[1:]:
            if best and run.seconds * NOISE <= best.seconds:
                best = run
        return best.runtime if best else order[0]

    @property
    def agreement(self) -> str:
        """How far what was chosen lies from the proven default, for people."""
        chosen = next((run for run in self.runs if run.runtime == self.fastest), None)
        return chosen.agreement if chosen else "not compared with the proven default"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the figures, and what follows from them."""
        return {**self.model_dump(mode="json"), "chosen": self.fastest, "agreement": self.agreement}

    def __str__(self) -> str:
        return f"{self.role} {self.level}: {BACKENDS[self.fastest].title}"


class DecoderResult(_Result):
    """What was measured of a GGUF decoder."""

    kind: Literal["decoder"] = "decoder"
    runs: Listed[DecoderRun]

    @property
    def fastest(self) -> DecoderSpeed | None:
        """The options under which the question and its answer take least; None where nothing could be measured."""
        plain, laid_out = (_fastest(self.runs, extra, huge_pages=False) for extra in (False, True))
        if plain and laid_out:
            return laid_out if laid_out.seconds * LEAST_GAIN <= plain.seconds else plain
        return plain or laid_out

    @property
    def huge_pages_gain(self) -> float | None:
        """How many times as fast the fastest options are with huge pages; None where that was not measured."""
        best = self.fastest
        huge = best and _fastest(self.runs, best.extra_buffers, huge_pages=True)
        return best.seconds / huge.seconds if best and huge else None

    @property
    def agreement(self) -> str:
        """How far what was chosen lies from the proven default, for people: the farther of prompts' and steps'."""
        best = self.fastest
        chosen = [
            run
            for run in self.runs
            if best
            and run.counts
            and not run.huge_pages
            and run.extra_buffers == best.extra_buffers
            and run.threads in (best.threads, best.step_threads)
        ]
        farthest = max(chosen, key=lambda run: run.kl or 0, default=None)
        return farthest.agreement if farthest else "not compared with the proven default"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the figures, and what follows from them."""
        chosen = self.fastest and asdict(self.fastest)
        return {**self.model_dump(mode="json"), "chosen": chosen, "agreement": self.agreement}

    def __str__(self) -> str:
        return f"{self.role} {self.level}: {self.fastest or 'nothing could be measured'}"


TuningResult = EncoderResult | DecoderResult

_FILE: TypeAdapter[TuningResult] = TypeAdapter(TuningResult)


def _fastest(runs: Sequence[DecoderRun], extra_buffers: bool, huge_pages: bool) -> DecoderSpeed | None:
    """Prompts and single steps each with the number of threads that suits them best."""
    wanted = (extra_buffers, huge_pages)
    here = [run for run in runs if (run.extra_buffers, run.huge_pages) == wanted and run.counts]
    here = [run for run in here if run.prefill_tokens_per_s > 0 and run.decode_tokens_per_s > 0]
    if not here:
        return None
    prompt = max(here, key=lambda run: run.prefill_tokens_per_s)
    step = max(here, key=lambda run: run.decode_tokens_per_s)
    seconds = PROMPT_TOKENS / prompt.prefill_tokens_per_s + ANSWER_TOKENS / step.decode_tokens_per_s
    return DecoderSpeed(extra_buffers, prompt.threads, step.threads, seconds)


def named(runtime: str | None) -> str | None:
    """The runtime that the caller names, or else the user by the environment variable; None where nobody does.

    Raises:
        UsageError: there is none of this name.
    """
    for name, where in ((runtime, ""), (os.environ.get(VARIABLE), f" in ${VARIABLE}")):
        if name:
            if name not in (allowed := (DEFAULT, *runtimes())):
                raise UsageError(f"unknown runtime {name!r}{where}", allowed=", ".join(allowed))
            return name
    return None


def key(part_id: str, file_format: str, threads: int) -> str:
    """Names everything that a measurement depends on."""
    processor = cpu()
    ingredients: list[Any] = [METHOD, part_id, threads, libraries(file_format), processor.name, processor.flags]
    ingredients += [row.options.fingerprint() for row in backends_for(file_format, "decoder") if row.options]
    return sha256_json(ingredients)[:24]


def load(part: Part, threads: int) -> TuningResult | None:
    """What was measured of a part on this machine; None for nothing, or for a file that cannot be read."""
    result = read(folder() / f"{key(part.id, part.format, threads)}.json")
    return result if result and result.part == part.id else None


def save(part: Part, result: TuningResult) -> None:
    """Save what was measured, in place of what was saved before. Raises OSError where the cache cannot be written."""
    path = folder() / f"{key(part.id, part.format, result.threads)}.json"
    make_folder(path.parent)
    write_atomically(path, result.model_dump_json(indent=1) + "\n")


def load_all() -> Iterator[TuningResult]:
    """Everything that was measured with the libraries and the CPU of now."""
    formats = {name for row in BACKENDS.values() for name in row.formats}
    for path in sorted(folder().glob("*.json")):
        result = read(path)
        if result and path.stem in {key(result.part, name, result.threads) for name in formats}:
            yield result


def folder() -> Path:
    """Where results are saved, a file each."""
    return cache_folder() / "choices"


def read(path: Path) -> TuningResult | None:
    """What a file of results holds; None for one that cannot be read."""
    try:
        return validated(_FILE, read_json(path, ArtifactError), str(path), ArtifactError)
    except ArtifactError:
        return None
