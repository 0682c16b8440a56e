"""What of a variant's parts runs on a GPU here, and what is to be said of it."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.errors import EdgekitError, UsageError
from edgekit.formats.gguf.header import read_header
from edgekit.formats.gguf.library import load_from
from edgekit.machine.gpu import AUTO, VARIABLE, video_memory
from edgekit.planning.caches import batch_of
from edgekit.planning.offload import RESERVE_BYTES, Plan, Sizes, plan
from edgekit.runtime.llama import gpu_build, gpu_trial
from edgekit.runtime.llama.cache_form import CacheForm
from edgekit.runtime.llama.offload import decoder_sizes, vision_bytes
from edgekit.runtime.llama.video import VideoDevice
from edgekit.runtime.parts import DecoderFile, Placement, RunOptions

_SETUP = "edgekit setup --gpu auto"


def state() -> str:
    """One line about the build for a GPU, the GPU that it finds now, and whether it may be used."""
    try:
        build = gpu_build.current()
        if build is None:
            return f"not built for a GPU ({_SETUP})"
        device = gpu_trial.look(build)
        tried = gpu_trial.result(build, device)
    except EdgekitError as error:
        return _in_a_line(error)
    if not tried.passed:
        return f"{build.kind.title} on {device}: {tried.detail}, so it is refused ({_SETUP})"
    return f"{build.kind.title} on {device}: {tried.detail}; {_granted()}"


def _granted() -> str:
    """Whether models use it."""
    try:
        granted = video_memory(None)
    except UsageError as error:
        return error.message
    if not granted:
        return f"models use the CPU, as long as neither {VARIABLE} nor a --device grants its memory"
    return f"models may use {'all of it' if os.environ.get(VARIABLE) == AUTO else f'{granted / 1e9:.3g} GB of it'}"


def place(decoder: DecoderFile, vision: Path | None, options: RunOptions, budget: int) -> Placement:
    """Divide a decoder and a vision part between a GPU and the CPU; all is the CPU's where there is no usable GPU.

    From then on, this process uses the build for the GPU.

    Args:
        options: how the decoder holds its keys and values.
        budget: bytes of video memory; what the driver reports as free bounds it.

    Raises:
        ArtifactError: a file is damaged.
    """
    try:
        build = gpu_build.current()
        if build is None:
            return _on_cpu(f"llama.cpp was not built for a GPU here ({_SETUP})")
        device = gpu_trial.look(build)
        tried = gpu_trial.result(build, device)
    except EdgekitError as error:
        return _on_cpu(_in_a_line(error))
    if not tried.passed:
        return _on_cpu(f"the {build.kind.title} build is refused: {tried.detail} ({_SETUP} --force)")
    if not load_from(build.libraries):
        return _on_cpu("this process has loaded another build of llama.cpp, and can load but one")
    form = CacheForm(options.sequences, options.cache_type, options.exact)
    output, layers = decoder_sizes(read_header(decoder.files[0]), batch_of(decoder.image_tokens), decoder.context, form)
    sizes = Sizes(output, layers, vision_bytes(read_header(vision)) if vision else 0)
    planned = plan(min(budget, device.free_bytes - RESERVE_BYTES), sizes)
    return Placement(planned.layers, planned.vision, device.description, _notes(planned, sizes, device, budget))


def _in_a_line(error: EdgekitError) -> str:
    return error.message + (f" ({error.remedy})" if error.remedy else "")


def _on_cpu(why: str) -> Placement:
    return Placement(notes=(f"on the CPU and not on a GPU: {why}",))


def _notes(planned: Plan, sizes: Sizes, device: VideoDevice, budget: int) -> tuple[str, ...]:
    """What does not run on the GPU, since it is slower than one may expect; nothing where all does."""
    most = len(sizes.layers) + 1
    if planned.layers == most and planned.vision == bool(sizes.vision):
        return ()
    parts = [f"{planned.layers} of {most} layers"]
    if sizes.vision:
        parts.append("the vision part" if planned.vision else "not the vision part")
    allowed = min(budget, device.free_bytes)
    whole = f"all of it takes {sizes.all / 1e9:.2g} GB, {allowed / 1e9:.2g} GB may be used"
    return (f"on {device.description}: {' and '.join(parts)}, the rest on the CPU ({whole})",)
