"""A training loop that can be stopped at any moment and goes on where it was.

Every step draws from a generator seeded by (seed, step), so an interrupted run repeats no sample and skips none.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from edgekit.artifacts.files import replacing

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: names the checkpoint.
        modules: what is trained, by name.
        loss: from the step's random generator to a scalar loss and figures for the log.
        steps: optimizer steps in all.
        rate: highest learning rate; a linear warm-up of `warmup` steps, then a cosine to zero.
        check: called every `check_every` steps and at the end; its text goes to the log.
    """

    name: str
    modules: Mapping[str, torch.nn.Module]
    loss: Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, float]]]
    steps: int
    rate: float
    seed: int
    warmup: int = 100
    decay: float = 0.05
    check: Callable[[], str] | None = None
    check_every: int = 500


class StoppedError(Exception):
    """The loop was told to stop; its state is saved."""


def _rate(stage: Stage, step: int) -> float:
    if step < stage.warmup:
        return stage.rate * (step + 1) / stage.warmup
    part = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    return stage.rate * 0.5 * (1 + math.cos(math.pi * part))


def _optimizer(stage: Stage) -> torch.optim.AdamW:
    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": stage.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=stage.rate, betas=(0.9, 0.98))


def _save(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state = {name: module.state_dict() for name, module in stage.modules.items()}
    with replacing(path) as temporary:
        torch.save({"modules": state, "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}, temporary)


def restore(work: Path, name: str, modules: Mapping[str, torch.nn.Module]) -> dict[str, Any] | None:
    """Load a stage's checkpoint into `modules`; the rest of the checkpoint, or None if there is none."""
    path = work / f"{name}.pt"
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    for key, module in modules.items():
        module.load_state_dict(state["modules"][key])
    return state


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that receives SIGTERM and SIGINT instead of their usual effect."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(stage: Stage, work: Path, until: int | None = None) -> None:
    """Run a stage to its end, or to step `until`, from its checkpoint if there is one.

    Raises `StoppedError` after SIGTERM or SIGINT.
    """
    end = stage.steps if until is None else min(until, stage.steps)
    optimizer = _optimizer(stage)
    state = restore(work, stage.name, stage.modules)
    first, before = (state["step"], state["seconds"]) if state else (0, 0.0)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    path, saved, start = work / f"{stage.name}.pt", time.monotonic(), time.process_time()
    with _stop_requests() as stop:
        for step in range(first, end):
            figures, done = _step(stage, optimizer, step), step + 1
            seconds = before + time.process_time() - start
            _report(stage, done, seconds, figures, last=done == end)
            if stop or done == end or time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(path, stage, optimizer, done, seconds)
                saved = time.monotonic()
            if stop:
                raise StoppedError(f"{stage.name} stopped at step {done}; run it again to go on")


def _report(stage: Stage, done: int, seconds: float, figures: dict[str, float], *, last: bool) -> None:
    if done % 25 == 0:
        text = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
        print(f"{stage.name} {done}/{stage.steps} {seconds:.0f}s {text}", flush=True)
    if stage.check and (done % stage.check_every == 0 or last):
        print(f"{stage.name} {done} check: {stage.check()}", flush=True)


def _step(stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = _rate(stage, step)
    torch.manual_seed(stage.seed * 1_000_003 + step)
    loss, figures = stage.loss(np.random.default_rng([stage.seed, step]))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    return {"loss": loss.item(), **figures}
