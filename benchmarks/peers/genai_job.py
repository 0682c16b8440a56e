"""One measurement of ONNX Runtime GenAI in a process of its own; run by the Python of an environment that has it.

The same job as `decoder_job.py`, for a folder that GenAI's builder wrote.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai


def run(job: dict[str, Any]) -> dict[str, Any]:
    """A prompt of random ids, then single steps, which no end token may end.

    The first step takes the logits that the prompt left, so it is no step.
    """
    started = time.perf_counter()
    config = genai.Config(job["folder"])
    options = {"intra_op_num_threads": job["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    model = genai.Model(config)
    load_s = time.perf_counter() - started
    ids = np.random.default_rng(0).integers(10, job["vocabulary"], job["prompt"]).astype(np.int32)
    prefill, steps = [], []
    for _ in range(job["prompts"]):
        params = genai.GeneratorParams(model)
        params.set_search_options(max_length=job["context"], min_length=job["context"], do_sample=False)
        generator = genai.Generator(model, params)
        started = time.perf_counter()
        for start in range(0, len(ids), job["chunk"]):
            generator.append_tokens(ids[start : start + job["chunk"]])
        prefill.append(time.perf_counter() - started)
        generator.generate_next_token()
        for _ in range(job["steps"]):
            started = time.perf_counter()
            generator.generate_next_token()
            steps.append(time.perf_counter() - started)
        del generator  # the next one's cache would stand beside this one's
    return {"load_s": load_s, "prefill_s": prefill, "step_s": steps}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
