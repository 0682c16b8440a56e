"""edgekit as a model of lm-evaluation-harness: its log-likelihoods are ours, and those of its own Hugging Face model.

The slow tests need a Python that has edgekit's extra [lm-eval], named by a variable, and are skipped without it. With
torch, transformers and accelerate beside it, lm_eval's own model of the same weights is the judge:

    python3.11 -m venv /tmp/lm-eval && /tmp/lm-eval/bin/pip install --editable '.[lm-eval]'
    /tmp/lm-eval/bin/pip install torch==2.13.0 'transformers>=5.3,<6' accelerate peft
    EDGEKIT_LM_EVAL=/tmp/lm-eval/bin/python
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import chat_model

from edgekit import Message
from edgekit.errors import InputError
from edgekit.metrics import log_softmax
from edgekit.runtime.base import Tokens

PYTHON = os.environ.get("EDGEKIT_LM_EVAL", "")
HERE = Path(__file__).parent
needs_lm_eval = pytest.mark.skipif(not PYTHON, reason="EDGEKIT_LM_EVAL names no Python that has lm_eval")
CHOICES = [
    ("What is the main finding in this image?", ["normal", "bacterial pneumonia", "viral pneumonia"]),
    ("Is there a tumor?", ["yes", "no"]),
    ("Which is it?\n(A) glioma (B) meningioma", ["A", "B", "glioma"]),
    ("Is it a nodule, or\n\npneumonia <of some kind>?", ["a nodule", "a nodule or pneumonia", "nothing"]),
]
ASKED = ["What is the main finding in this image?", "Describe this image in one sentence."]
TEXTS = ["A chest x-ray showing bacterial pneumonia.", "No tumor is seen. " * 60]  # the second is longer than a context
CONTEXT = 128
MULTIPLE_CHOICE = """
task: own_choices
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{options}}"
doc_to_target: 0
metric_list:
  - metric: acc
"""
ANSWERS = """
task: own_answers
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{question}}"
generation_kwargs:
  until: %s
  max_gen_toks: 12
  do_sample: false
metric_list:
  - metric: exact_match
"""
ROLLING = """
task: own_texts
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
"""


@pytest.mark.parametrize("count", [1, 5, 70])  # the last in several calls
def test_log_probabilities_of_a_continuation_are_the_decoders(medgemma_source: Path, count: int) -> None:
    model = chat_model(medgemma_source)
    ids = np.random.default_rng(count).integers(300, 2000, 20 + count).tolist()
    rows = list(model.decoder.prefill([Tokens(tuple(ids))], range(19, 19 + count)))
    expected = sum(float(log_softmax(row)[token]) for row, token in zip(rows, ids[20:], strict=True))
    found, greedy = model.continuation(ids[:20], ids[20:])
    assert found == pytest.approx(expected, abs=1e-4)
    assert not greedy
    best: list[int] = []
    for _ in range(count):
        (row,) = model.decoder.prefill([Tokens((*ids[:20], *best))])
        best.append(int(row.argmax()))
    assert model.continuation(ids[:20], best)[1]


def test_a_continuation_of_messages_is_their_score(medgemma_source: Path) -> None:
    model = chat_model(medgemma_source)
    for text, options in CHOICES:
        segments = model.segments([Message("user", text)])
        prompt = [i for segment in segments if isinstance(segment, Tokens) for i in segment.ids]
        found = [model.continuation(prompt, model.tokenize(option))[0] for option in options]
        assert found == pytest.approx(model.score([Message("user", text)], options).tolist(), abs=1e-4)


def test_a_continuation_of_nothing_and_of_too_much(medgemma_source: Path) -> None:
    model = chat_model(medgemma_source)
    assert model.continuation([2, 3], []) == (0, True)
    with pytest.raises(InputError, match="a prompt of 600 tokens"):
        model.continuation([2] * 600, [3])
    with pytest.raises(InputError, match="a token id of 9999"):
        model.continuation([2, 9999], [3])


def test_without_lm_eval_it_says_what_to_install() -> None:
    code = (
        "import sys, runpy; sys.modules['lm_eval'] = None; runpy.run_module('edgekit.bench.harness', None, '__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: lm-evaluation-harness needs lm_eval",
        "try: pip install 'edgekit[lm-eval]'",
    ]


# ---------------------------------------------------------------- with lm_eval


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder of three tasks on local files."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    items = {
        "own_choices": [{"question": text, "options": options} for text, options in CHOICES],
        "own_answers": [{"question": text} for text in ASKED],
        "own_texts": [{"text": text} for text in TEXTS],
    }
    for (name, rows), text in zip(items.items(), (MULTIPLE_CHOICE, ANSWERS % '["@@"]', ROLLING), strict=True):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        where = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(text + where)
    return folder


def environment(folder: Path) -> dict[str, str]:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    return {**os.environ, **offline, "PYTHONPATH": str(HERE.parent)}


def job(folder: Path, **given: Any) -> dict[str, Any]:
    command = [PYTHON, str(HERE / "harness_job.py"), json.dumps({"folder": str(folder), **given})]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment(folder))
    said = [line for line in done.stdout.splitlines() if line.startswith("result: ")]
    assert said, done.stderr[-4000:]
    return dict(json.loads(said[-1].removeprefix("result: ")))


def likelihoods(samples: list[dict[str, Any]]) -> list[list[float]]:
    """Of each item the log-likelihoods of its options."""
    return [[float(option[0][0]) for option in sample["got"]] for sample in samples]


@pytest.mark.slow
@needs_lm_eval
def test_log_likelihoods_of_conversations_are_our_scores(medgemma_onnx: Path, tasks: Path) -> None:
    found = job(
        tasks,
        model="edgekit",
        arguments=f"artifact={medgemma_onnx},level=q4,context=512",
        tasks=["own_choices", "own_answers"],
        chat=True,
        artifact=[str(medgemma_onnx), "q4"],
        scored=CHOICES,
        asked=ASKED,
    )
    assert found["plugin"] == "EdgekitLM"
    for ours, theirs in zip(found["ours"]["scores"], likelihoods(found["samples"]["own_choices"]), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)
    answers = [sample["got"][0][0] for sample in found["samples"]["own_answers"]]
    assert answers == found["ours"]["answers"]


@pytest.mark.slow
@needs_lm_eval
def test_tasks_about_images_show_them_in_their_places(medgemma_onnx: Path, tasks: Path) -> None:
    found = job(tasks, seen=[str(medgemma_onnx), "q4"])["seen"]
    assert found["answer"] == found["ours"] != ""
    assert found["refused"] == "2 images of a task whose texts have another number of places for one"


@pytest.mark.slow
@needs_lm_eval
def test_answers_go_on_from_texts_up_to_a_stop(medgemma_onnx: Path, tasks: Path) -> None:
    given = {"tasks": ["own_answers"], "model": "edgekit"}
    given["arguments"] = f"artifact={medgemma_onnx},level=q4,context=512"
    found = job(tasks, **given, chat=False, artifact=[str(medgemma_onnx), "q4"], scored=[], asked=ASKED)
    assert [sample["got"][0][0] for sample in found["samples"]["own_answers"]] == found["ours"]["continued"]
    whole = found["ours"]["answers"]
    stop = next(text[len(text) // 2] for text in whole if text)
    path = tasks / "own_answers.yaml"
    path.write_text(path.read_text().replace('["@@"]', json.dumps([stop])))
    cut = [sample["got"][0][0] for sample in job(tasks, **given, chat=True)["samples"]["own_answers"]]
    assert cut == [text.split(stop)[0] for text in whole]


@pytest.mark.slow
@needs_lm_eval
def test_log_likelihoods_are_those_of_lm_evals_own_model(medgemma_source: Path, tasks: Path, tmp_path: Path) -> None:
    """Of the same float32 weights: our ONNX file, and transformers behind lm_eval's `hf`."""
    has = "import torch, transformers, accelerate, peft"
    if subprocess.run([PYTHON, "-c", has], capture_output=True, check=False).returncode:
        pytest.skip("EDGEKIT_LM_EVAL has no torch, transformers, accelerate and peft")
    from edgekit.prove import publish as artifact

    folder = artifact.export(medgemma_source, tmp_path / "fp32", levels=["fp32"], prove=False).folder
    hf = f"pretrained={medgemma_source},dtype=float32,device=cpu,max_length={CONTEXT}"
    mine = f"artifact={folder},level=fp32,context={CONTEXT}"
    both = [
        job(tasks, model=model, arguments=arguments, tasks=["own_choices", "own_texts"], chat=False)["samples"]
        for model, arguments in (("hf", hf), ("edgekit", mine))
    ]
    theirs, ours = (likelihoods(each["own_choices"]) for each in both)
    for expected, found in zip(theirs, ours, strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
    greedy = [[[option[0][1] for option in sample["got"]] for sample in each["own_choices"]] for each in both]
    assert greedy[0] == greedy[1]
    chats = [
        likelihoods(
            job(tasks, model=model, arguments=arguments, tasks=["own_choices"], chat=True)["samples"]["own_choices"]
        )
        for model, arguments in (("hf", hf), ("edgekit", mine))
    ]
    for expected, found in zip(*chats, strict=True):
        # lm_eval's takes the line break before the answer for a part of it, which adds the same to every option
        added = np.array(expected) - np.array(found)
        assert np.ptp(added) < 1e-3
        assert -0.1 < added.mean() <= 1e-3


@pytest.mark.slow
@needs_lm_eval
def test_texts_longer_than_the_context_are_summed_in_windows(medgemma_onnx: Path, tasks: Path) -> None:
    found = job(
        tasks,
        model="edgekit",
        arguments=f"artifact={medgemma_onnx},level=q4,context={CONTEXT}",
        tasks=["own_texts"],
        chat=False,
    )
    import edgekit

    with edgekit.open(medgemma_onnx, level="q4", context=512) as model:
        for sample, text in zip(found["samples"]["own_texts"], TEXTS, strict=True):
            bos, *ids = model.format.continued(text)
            expected = model.continuation([bos], ids[:CONTEXT])[0]
            for start in range(CONTEXT, len(ids), CONTEXT):
                end = min(start + CONTEXT, len(ids))
                expected += model.continuation(ids[max(end - CONTEXT - 1, 0) : start], ids[start:end])[0]
            assert float(np.ravel(sample["got"])[0]) == pytest.approx(expected, abs=1e-2)


@pytest.mark.slow
@needs_lm_eval
def test_its_command_line_writes_results_that_name_the_parts(medgemma_onnx: Path, tasks: Path, tmp_path: Path) -> None:
    command = [PYTHON, "-m", "edgekit.bench.harness", "run", "--model", "edgekit", "--tasks", "own_choices"]
    command += ["--model_args", f"artifact={medgemma_onnx},level=q4,context=512", "--include_path", str(tasks)]
    command += ["--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    (path,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(path.read_text())
    assert results["config"]["parts"].keys() >= {"decoder"}
    assert results["results"]["own_choices"]["acc,none"] >= 0
    wrong = [*command[:-2], "--model_args", f"artifact={medgemma_onnx},level=q5"]
    done = subprocess.run(wrong, capture_output=True, text=True, check=False, timeout=600, env=environment(tmp_path))
    assert done.returncode
    assert "q5" in done.stderr
