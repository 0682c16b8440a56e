"""One measurement of the engine in a process of its own: python engine_job.py JOB ANSWER.

`kind` is one of the functions below; `folder`, `level`, and what each of them takes.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from edgekit.families.composition import ChatSettings
from edgekit.inputs.message import Image, Message
from edgekit.metrics import kl_divergence
from edgekit.runtime.base import Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.grammar.constraints import JsonSchema
from edgekit.runtime.grammar.guidance import GrammarTokenizer
from edgekit.runtime.llama.cache_form import CacheForm
from edgekit.runtime.llama.decoder import LlamaDecoder
from edgekit.runtime.model import Generation
from edgekit.runtime.opening import open_model, prepare
from edgekit.runtime.parts import CacheType
from edgekit.runtime.use import Use

_SCHEMA = {
    "type": "object",
    "properties": {
        "finding": {"type": "string", "maxLength": 200},
        "severe": {"type": "boolean"},
        "places": {"type": "array", "items": {"enum": ["left", "right", "upper", "lower"]}, "maxItems": 4},
        "sizes_mm": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 400}, "maxItems": 4},
    },
    "required": ["finding", "severe", "places", "sizes_mm"],
    "additionalProperties": False,
}


def conversation(job: dict[str, Any]) -> dict[str, Any]:
    """A long text, a question behind it, two foreign questions, and another one: seconds to each first token."""
    model = _opened(job, context=2 * job["tokens"], slots=2)
    turns = [Message("user", _text(model, job["tokens"]), "What is this about?")]
    first = _answer(model, turns, 8)
    turns += [Message("assistant", first.text or "."), Message("user", "Why?")]
    second = _answer(model, turns, 8)
    for foreign in ("A title for this conversation, in three words:", "Three tags for this conversation:"):
        _answer(model, [Message("user", foreign)], 8)
    turns += [Message("assistant", second.text or "."), Message("user", "And else?")]
    third = _answer(model, turns, 8)
    found = {
        name: {"first_token_s": one.first_token_s, "prompt": one.prompt_tokens, "cached": one.cached_tokens}
        for name, one in (("cold", first), ("follow_up", second), ("after_others", third))
    }
    return {"words": len(_words(model, job["tokens"])), **found}


def image(job: dict[str, Any]) -> dict[str, Any]:
    """A question about an image, cold; and one about another that was there before."""
    model = _opened(job)
    random = np.random.default_rng(0)
    one, other = (Image(random.integers(0, 255, (900, 900, 3), np.uint8)) for _ in range(2))
    question = "What is the main finding in this image?"
    cold = _answer(model, [Message("user", one, question)], 2)
    model.prepare([Message("user", other)])
    ready = _answer(model, [Message("user", other, question)], 2)
    return {"cold_s": cold.first_token_s, "ready_s": ready.first_token_s, "vision": model.runtimes["vision"]}


def together(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of one answer, of four and of eight at once, and of single steps without the engine."""
    counts, tokens = job["counts"], job["tokens"]
    model = _opened(job, slots=max(counts))
    questions = [[Message("user", f"Question {number}: {_text(model, 40)}")] for number in range(max(counts))]
    found: dict[str, Any] = {"words": len(_words(model, 40))}
    for count in counts:
        with ThreadPoolExecutor(count) as pool:
            answers = list(pool.map(lambda turns: _answer(model, turns, tokens, lookup=False), questions[:count]))
        # The last to begin decodes beside all others; the first also while others' prompts are read.
        last = min(answers, key=lambda answer: answer.decode_s)
        found[str(count)] = count * last.tokens_per_s
    (logits,) = model.decoder.prefill(model.segments(questions[0]))
    started = time.perf_counter()
    for _ in range(tokens):
        logits = model.decoder.step([int(logits.argmax())])
    found["bare"] = tokens / (time.perf_counter() - started)
    return found


def lookup(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second with drafts and without, of an answer that repeats itself and of one that does not."""
    model = _opened(job)
    words = [model.tokenize(word)[0] for word in (" lung", " heart", " left", " right")]
    repeating = {"logit_bias": dict.fromkeys(words, 100.0), "frequency_penalty": 2.0}
    found = {}
    for name, options in (("repeating", repeating), ("other", {"temperature": 3.0, "seed": 1})):
        for drafts in (False, True):
            done = _answer(model, [Message("user", "Say it.")], job["tokens"], lookup=drafts, **options)
            found[f"{name}, {'drafts' if drafts else 'plain'}"] = {
                "tokens_per_s": done.tokens_per_s,
                "drafted": done.drafted_tokens,
                "accepted": done.accepted_tokens,
            }
    return found


def busy(job: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second on a quiet machine, and while another program keeps a core busy."""
    model = _opened(job)
    turns = [Message("user", "What is a cough?")]
    quiet = _answer(model, turns, job["tokens"], lookup=False)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        disturbed = _answer(model, turns, job["tokens"], lookup=False)
    finally:
        other.kill()
        other.wait()
    return {"quiet": quiet.tokens_per_s, "busy": disturbed.tokens_per_s}


def start(job: dict[str, Any]) -> dict[str, Any]:
    """From the start of `edgekit ask` to the first character of its answer."""
    command = [sys.executable, "-m", "edgekit", "ask", job["folder"], "What is a cough?", "--level", job["level"]]
    command += ["--runtime", job["runtime"]]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--max-tokens", "4"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    first = time.perf_counter() - began
    process.communicate()
    return {"first_s": first}


def mask(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a mask of a schema over an answer, and of making what it needs."""
    model = _opened(job)
    grammar = GrammarTokenizer(model.tokenizer, model.settings.stop_token_ids, model.decoder.vocabulary)
    began = time.perf_counter()
    grammar.matcher(JsonSchema(_SCHEMA))
    built = time.perf_counter() - began
    matcher = grammar.matcher(JsonSchema(_SCHEMA))
    random, times = np.random.default_rng(0), []
    while not matcher.ended and len(times) < 400:
        logits = random.normal(size=model.decoder.vocabulary).astype(np.float32)
        began = time.perf_counter()
        matcher.apply(logits)
        times.append(1e3 * (time.perf_counter() - began))
        matcher.accept(int(logits.argmax()))
    return {
        "built_s": built,
        "vocabulary": model.decoder.vocabulary,
        **{f"p{share}": float(np.percentile(times, share)) for share in (50, 99)},
        "masks": len(times),
    }


def questions(job: dict[str, Any]) -> dict[str, Any]:
    """Resident memory of the process while it answers one question after the other, each with a beginning of its own.

    The first tenth warms up: caches fill, and pages are touched for the first time.
    """
    model = _opened(job, slots=2)
    process, held = psutil.Process(), []
    for number in range(job["count"]):
        _answer(model, [Message("user", f"{number}: what is a cough?")], 1)
        if (number + 1) % (job["count"] // 10) == 0:
            held.append(process.memory_info().rss)
    return {"rss": held, "count": job["count"]}


def cache(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a prompt and tokens a second behind it, with keys and values in each type."""
    found = {}
    for cache_type in ("f16", "q8_0"):
        with _opened(job, context=2 * job["tokens"], cache_type=cache_type) as model:
            done = _answer(model, [Message("user", _text(model, job["tokens"]))], 48, lookup=False)
            found[cache_type] = {
                "prompt": done.prompt_tokens,
                "prompt_per_s": done.prompt_tokens / done.first_token_s,
                "tokens_per_s": done.tokens_per_s,
                "cache_bytes": model.cache_bytes,
            }
    return found


def cache_loss(job: dict[str, Any]) -> dict[str, Any]:
    """KL divergence in nats, and the share of equal first choices, that a type of keys and values costs beside single
    precision, at positions beyond the window of a real text: of `real`, an artifact with real weights, at `real_level`.
    """
    opening = prepare(Path(job["real"]), job["real_level"], context=4096, runtime="default")
    assert isinstance(opening.settings, ChatSettings), "a decoder's artifact"
    assert opening.tokenizer is not None, "a decoder's artifact"
    file = opening.decoder_file("decoder")
    with gzip.open(job["text"], "rt", encoding="utf-8") as stream:
        ids = opening.tokenizer.encode(stream.read(40_000)).ids[:4000]
    wanted = range(2 * opening.settings.window, len(ids), 8)
    rows = {}
    for cache_type in ("f32", "f16", "q8_0"):
        form = CacheForm(1, "f16", exact=True) if cache_type == "f32" else CacheForm(1, cache_type)
        decoder = LlamaDecoder(file.files[0], context=4096, threads=opening.threads, image_tokens=0, cache=form)
        rows[cache_type] = np.stack(list(decoder.prefill([Tokens(tuple(ids))], wanted)))
        decoder.close()
    best = {name: found.argmax(axis=1) for name, found in rows.items()}
    loss = {name: kl_divergence(rows["f32"], rows[name]) for name in ("f16", "q8_0")}
    return {
        "positions": len(wanted),
        "title": opening.manifest.title,
        **{
            name: {
                "kl": float(kl.mean()),
                "half_width": float(1.96 * kl.std(ddof=1) / np.sqrt(len(kl))),
                "agree": float((best[name] == best["f32"]).mean()),
            }
            for name, kl in loss.items()
        },
    }


def _opened(job: dict[str, Any], context: int = 2048, slots: int = 1, cache_type: CacheType = "f16") -> ChatModel:
    use = Use(slots=slots, cache_type=cache_type)
    model = open_model(Path(job["folder"]), job["level"], context=context, runtime=job["runtime"], use=use)
    assert isinstance(model, ChatModel), "a decoder makes a chat model"
    return model


def _answer(model: ChatModel, turns: list[Message], tokens: int, **options: Any) -> Generation:
    """An answer of so many tokens: random weights rarely end one by themselves, and no end token is drawn."""
    ends = dict.fromkeys(model.settings.stop_token_ids, -100.0)
    bias = {**ends, **options.pop("logit_bias", {})}
    *_, answer = model.generate(turns, GenerationOptions(max_tokens=tokens, logit_bias=bias, **options))
    assert isinstance(answer, Generation)
    return answer


def _text(model: ChatModel, tokens: int) -> str:
    """A text of about so many tokens."""
    return " ".join(_words(model, tokens))


def _words(model: ChatModel, tokens: int) -> list[str]:
    words = [f"word{number}" for number in range(tokens)]
    each = len(model.tokenize(" ".join(words[:100]))) / 100
    return words[: int(tokens / each)]


KINDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    one.__name__: one
    for one in (conversation, image, together, lookup, busy, start, mask, questions, cache, cache_loss)
}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(KINDS[asked["kind"]](asked)), encoding="utf-8")
