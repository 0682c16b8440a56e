"""What tests/test_harness.py has a Python do that has lm_eval: its own log-likelihoods of items, and ours of the same.

Arguments: an artifact's folder, a level, a folder of task files, a task, and whether conversations are asked.
"""

from __future__ import annotations

import json
import sys

import lm_eval
from lm_eval.tasks import TaskManager

import edgekit
import edgekit.bench.harness.model  # what lm_eval up to 0.4.13 does not find by itself
from edgekit import GenerationOptions, Message


def main(artifact: str, level: str, tasks: str, name: str, chat: str) -> None:
    results = lm_eval.simple_evaluate(
        model="edgekit",
        model_args=f"artifact={artifact},level={level},context=512",
        tasks=[name],
        task_manager=TaskManager(include_path=tasks, include_defaults=False),
        apply_chat_template=chat == "chat",
        log_samples=True,
        bootstrap_iters=0,
    )
    assert results
    said = [
        {
            "doc": sample["doc"],
            "asked": [list(given.values()) for given in sample["arguments"].values()]
            if isinstance(sample["arguments"], dict)
            else [list(given) for given in sample["arguments"]],
            "got": sample["filtered_resps"],
        }
        for sample in results["samples"][name]
    ]
    with edgekit.open(artifact, level=level, context=512) as model:
        for sample in said:
            doc = sample["doc"]
            if "options" in doc and chat == "chat":
                sample["score"] = model.score([Message("user", doc["question"])], doc["options"]).tolist()
            if "stop" in doc:
                options = GenerationOptions(max_tokens=12, stop=(doc["stop"],))
                if chat == "chat":
                    *_, answer = model.generate([Message("user", doc["question"])], options)
                else:
                    *_, answer = model.complete(doc["question"], options)
                sample["answer"] = answer.text
    print(
        "result:",
        json.dumps({"samples": said, "results": results["results"][name], "model": results["config"]["model"]}),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
