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
METHOD = 1

# How well an encoder's vectors must agree with ONNX Runtime's for a faster runtime to count, on average and of the
# worst of an image's tokens. Only rounding may differ, and three times what it did is allowed (measured at MedSigLIP's
# width: bf16 0.99992, an int8 file in either runtime 0.9998, both 0.9997). It judges a runtime, not a level: a recipe's
# limits compare a file with other arithmetic, and allow for more.
LEAST_MEAN, LEAST_WORST = 0.999, 0.995

# Two timings that are nearer than this are the same.
_NOISE = 1.05

# As many cores may be busy with other things for a measurement to be worth something.
QUIET = 0.2

# What a decoder's options are judged by: a question about one image, and a short answer.
PROMPT_TOKENS, ANSWER_TOKENS = 300, 100

# Weights laid out for the CPU are a second copy of them in memory: they must be worth it.
LEAST_GAIN = 1.1


_Seconds = Annotated[float, Field(ge=0, le=1e9)]
_Cosine = Annotated[float, Field(ge=-1.01, le=1.01)]  # rounding leads beyond 1
_Speed = Annotated[float, Field(ge=0, le=1e12)]
_Threads = Annotated[int, Field(gt=0, le=100_000)]


class EncoderRun(StrictModel):
    """An encoder in one backend: seconds for one item, the best of a few runs; one run where that takes long.

    Attributes:
        cosine, cosine_worst: mean and least over the output's vectors, to the required backend's.
        peak_bytes: of the measuring process; 0 where the system does not say.
        problem: why there are no figures.
    """

    runtime: Name
    seconds: _Seconds = 0
    load_s: _Seconds = 0
    peak_bytes: Count = 0
    cosine: _Cosine = 0
    cosine_worst: _Cosine = 0
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
        return self.problem is None and self.cosine >= LEAST_MEAN and self.cosine_worst >= LEAST_WORST

    def __str__(self) -> str:
        if self.problem:
            return f"{BACKENDS[self.runtime].title}: {self.problem}"
        agrees = "" if self.runtime == runtimes()[0] else f", cosine {self.cosine:.6f} (worst {self.cosine_worst:.6f})"
        refused = "" if self.counts else f": does not count, below {LEAST_MEAN} (worst {LEAST_WORST})"
        return f"{BACKENDS[self.runtime].title}: {self.seconds:.3g} s, {self.peak_bytes / 1e9:.2f} GB{agrees}{refused}"


class DecoderRun(StrictModel):
    """A decoder with one set of its backend's options."""

    extra_buffers: bool
    huge_pages: bool
    threads: _Threads
    prefill_tokens_per_s: _Speed = 0
    decode_tokens_per_s: _Speed = 0
    peak_bytes: Count = 0
    problem: Text | None = None

    def __str__(self) -> str:
        layout = "laid out for this CPU" if self.extra_buffers else "as in the file"
        pages = ", huge pages" if self.huge_pages else ""
        if self.problem:
            return f"weights {layout}{pages}: {self.problem}"
        return (
            f"weights {layout}{pages}, threads {self.threads}: prefill {self.prefill_tokens_per_s:.3g} and "
            f"decode {self.decode_tokens_per_s:.3g} tok/s, {self.peak_bytes / 1e9:.2f} GB"
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
            if best and run.seconds * _NOISE <= best.seconds:
                best = run
        return best.runtime if best else order[0]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the figures, and what follows from them."""
        return {**self.model_dump(mode="json"), "chosen": self.fastest}

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

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: the figures, and what follows from them."""
        return {**self.model_dump(mode="json"), "chosen": self.fastest and asdict(self.fastest)}

    def __str__(self) -> str:
        return f"{self.role} {self.level}: {self.fastest or 'nothing could be measured'}"


TuningResult = EncoderResult | DecoderResult

_FILE: TypeAdapter[TuningResult] = TypeAdapter(TuningResult)


def _fastest(runs: Sequence[DecoderRun], extra_buffers: bool, huge_pages: bool) -> DecoderSpeed | None:
    """Prompts and single steps each with the number of threads that suits them best."""
    wanted = (extra_buffers, huge_pages)
    here = [run for run in runs if (run.extra_buffers, run.huge_pages) == wanted and run.problem is None]
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
