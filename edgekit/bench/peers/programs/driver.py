"""Measure one peer: python driver.py JOB RESULT, both JSON files; `JOB` is what `edgekit.bench.peers.run` writes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

PROMPTS = 3  # the first a warm-up


def main() -> None:
    """Do what the job says."""
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if job["do"] == "prepare":
        importlib.import_module(job["peer"]).prepare(job)
        found: dict[str, Any] = {}
    else:
        found = _measured(job)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


def _measured(job: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    peer = importlib.import_module(job["peer"]).start(job)  # the import of its libraries counts
    figures: dict[str, float] = {"load_s": time.perf_counter() - started}
    samples: dict[str, list[float]] = {}
    tokens = 0
    try:
        if job["do"] == "measure":
            _questions(peer, job, figures)
            _encodings(peer, job, figures)
            if hasattr(peer, "prompt"):
                prompt_s = [peer.prompt(job["ids"]) for _ in range(PROMPTS)]
                tokens = getattr(peer, "prompt_tokens", len(job["ids"]))
                step_ms = peer.steps(job["ids"], job["steps"])
                samples = {"prompt_s": prompt_s[1:], "step_ms": step_ms[1:]}
                figures["prefill_tokens_per_s"] = tokens / median(prompt_s[1:])
                figures["decode_tokens_per_s"] = 1000 * (len(step_ms) - 1) / sum(step_ms[1:])
    finally:
        peer.close()
    versions = {name: metadata.version(name) for name in job["packages"]}
    return {"figures": figures, "samples": samples, "prompt_tokens": tokens, "versions": versions}


def _questions(peer: Any, job: dict[str, Any], figures: dict[str, float]) -> None:
    if not hasattr(peer, "first_token"):
        return
    images, text = job["images"] if job["sees"] else [None] * len(job["images"]), job["text"]
    waits = [1000 * peer.first_token(text, image) for image in images]
    figures["first_token_cold_ms"] = waits[0]
    if warm := waits[1:]:
        figures["first_token_ms"] = median(warm)
    figures["first_token_prefix_known_ms"] = 1000 * peer.first_token(f"{text} Answer in one word.", images[-1])


def _encodings(peer: Any, job: dict[str, Any], figures: dict[str, float]) -> None:
    """Of what is encoded the first time warms up: one image alone is no figure."""
    if len(job["images"]) < 2:
        return
    if hasattr(peer, "image"):
        figures["image_encode_ms"] = median([1000 * peer.image(image) for image in job["images"]][1:])
        figures["images_per_s"] = 1000 / figures["image_encode_ms"]
    if hasattr(peer, "text"):
        figures["text_encode_ms"] = median([1000 * peer.text(job["text"]) for _ in job["images"]][1:])


def _end_with(parent: int) -> None:
    """End this process, and all that it started, soon after its parent."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
