"""What tests/test_harness.py has a Python do that has lm_eval: log-likelihoods, answers and sums of its tasks.

The argument is JSON: the model's name and arguments for lm_eval, a folder of task files, tasks, and whether they are
asked as conversations; and of our own model, the messages with options and the texts that it is asked beside them.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from PIL import Image as Picture

import edgekit
from edgekit import GenerationOptions, Image, Message
from edgekit.bench.harness.model import EdgekitLM  # lm_eval up to 0.4.13 does not find it by itself
from edgekit.inputs import phantoms

BUDGET = 12


def samples(given: dict[str, Any]) -> dict[str, Any]:
    """Task -> what was asked and what came back, item by item."""
    results = lm_eval.simple_evaluate(
        model=given["model"],
        model_args=given["arguments"],
        tasks=given["tasks"],
        task_manager=TaskManager(include_path=given["folder"], include_defaults=False),
        apply_chat_template=given["chat"],
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results
    return {
        name: [{"doc": sample["doc"], "got": sample["resps"]} for sample in found]
        for name, found in results["samples"].items()
    }


def ours(given: dict[str, Any]) -> dict[str, Any]:
    """What edgekit itself gives, without lm_eval."""
    artifact, level = given["artifact"]
    with edgekit.open(artifact, level=level, context=512) as model:
        options = GenerationOptions(max_tokens=BUDGET)
        scores = [model.score([Message("user", text)], allowed).tolist() for text, allowed in given["scored"]]
        answers = [list(model.generate([Message("user", text)], options))[-1].text for text in given["asked"]]
        continued = [list(model.complete(text, options))[-1].text for text in given["asked"]]
    return {"scores": scores, "answers": answers, "continued": continued}


def seen(given: dict[str, Any]) -> dict[str, Any]:
    """The answer about an image through lm_eval's kind of request and without, and what is said of one too many."""
    artifact, level = given["seen"]
    image, question = (
        Picture.fromarray(next(iter(phantoms.generate(3, 1))).image),
        "What is the main finding in this image?",
    )
    model = EdgekitLM(artifact, level, context=512)
    context = model.apply_chat_template([{"role": "user", "content": f"<image>{question}"}])
    settings = {"until": ["@@"], "max_gen_toks": BUDGET, "do_sample": False}
    request = SimpleNamespace(args=(context, settings, {"visual": [image]}))
    (answer,) = model.generate_until([request], disable_tqdm=True)
    ours = list(model.model.generate([Message("user", Image(image), question)], max_tokens=BUDGET))[-1].text
    request.args = (context, settings, {"visual": [image, image]})
    try:
        refused = str(model.generate_until([request], disable_tqdm=True))
    except edgekit.EdgekitError as error:
        refused = str(error)
    return {"answer": answer, "ours": ours, "refused": refused}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    found = {"samples": samples(asked)} if "model" in asked else {}
    if "artifact" in asked:
        found["ours"] = ours(asked)
    if "seen" in asked:
        found["seen"] = seen(asked)
    (plugin,) = entry_points(group="lm_eval.models", name="edgekit")
    print("result:", json.dumps({**found, "plugin": plugin.load().__name__}))
