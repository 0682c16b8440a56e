"""One measurement of a decoder in a process of its own: python decoder_job.py JOB ANSWER.

`folder`, `level`, `context`, `vocabulary`; a prompt of `prompt` random ids, `prompts` times over, and `steps` single
steps behind each.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.runtime.base import Decoder, Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.opening import open_model


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of loading, of each prompt, of each step."""
    started = time.perf_counter()
    decoder = _decoder(job)
    load_s = time.perf_counter() - started
    ids = [int(one) for one in np.random.default_rng(0).integers(10, job["vocabulary"], job["prompt"])]
    prefill, steps = [], []
    for _ in range(job["prompts"]):
        started = time.perf_counter()
        (logits,) = decoder.prefill([Tokens(tuple(ids))])
        prefill.append(time.perf_counter() - started)
        for _ in range(job["steps"]):
            started = time.perf_counter()
            logits = decoder.step([int(logits.argmax())])
            steps.append(time.perf_counter() - started)
    return {"load_s": load_s, "prefill_s": prefill, "step_s": steps}


def _decoder(job: dict[str, Any]) -> Decoder:
    """As users who did not tune have it: all cores, weights laid out for them."""
    model = open_model(Path(job["folder"]), job["level"], context=job["context"], runtime="default")
    assert isinstance(model, ChatModel), "a decoder makes a chat model"
    return model.decoder


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(asked)), encoding="utf-8")
