"""What the engine saves at MedGemma 4B's full shape: prompts read once, images seen before, answers decoded together.

    edgekit synthesize medgemma-4b ./stand-in
    edgekit export ./stand-in --recipe medgemma-4b --to ./made --level Q4_0 --part vision=int8_dynamic --no-prove
    python benchmarks/peers/engine.py ./made --level Q4_0+vision-int8_dynamic --json FILE --markdown FILE

With `--server llama-server --decoder FILE.gguf --vision FILE.gguf`, its vision part in GGUF, llama.cpp's own server
answers the same questions in the same rounds.

Random weights: only times and counts mean anything. Every sample is a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs import cell, disturbed, run_job, spread, table, where

from edgekit.bench.environment import environment
from edgekit.machine.cpu import cpu

SCRIPT, SERVER = (Path(__file__).with_name(f"{name}_job.py") for name in ("engine", "server"))
JOBS: Mapping[str, Mapping[str, Any]] = {
    "image": {},
    "conversation": {"tokens": 10_000},
    "together": {"counts": [1, 4, 8], "tokens": 48},
    "lookup": {"tokens": 160},
    "busy": {"tokens": 64},
    "start": {},
    "mask": {},
    "questions": {"count": 1000},
    "cache": {"tokens": 1000},
    "cache_loss": {},
}
_ONCE = ("questions", "cache_loss")  # the first takes half an hour, the second finds the same again
PEERS = ("image", "conversation", "together")  # what llama-server is asked, too


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python benchmarks/peers/engine.py", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--level", required=True, metavar="NAME")
    parser.add_argument("--only", action="append", choices=JOBS, metavar="KIND")
    parser.add_argument("--runtime", default="default", metavar="NAME", help="of its vision part, in ONNX")
    parser.add_argument("--server", type=Path, metavar="FILE", help="llama-server, of the same source")
    parser.add_argument("--decoder", type=Path, metavar="FILE", help="what it is given")
    parser.add_argument("--vision", type=Path, metavar="FILE", help="what it is given to see with")
    parser.add_argument("--real", type=Path, metavar="DIR", help="an artifact with real weights: what rounding costs")
    parser.add_argument("--real-level", metavar="NAME")
    parser.add_argument("--text", type=Path, metavar="FILE.gz", help="a real text for it, of 40,000 characters or more")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="record everything, and keep what is there of others")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    record: dict[str, Any] = {"samples": {}}
    if options.json and options.json.is_file():
        record = json.loads(options.json.read_text(encoding="utf-8"))
    kinds = options.only or [kind for kind in JOBS if kind != "cache_loss" or options.real]
    found: dict[str, list[Any]] = {}
    for number in range(options.rounds):
        for kind in kinds if not number else (kind for kind in kinds if kind not in _ONCE):
            job = {"kind": kind, "folder": str(options.folder), "level": options.level, **JOBS[kind]}
            job |= {name: str(getattr(options, name)) for name in ("runtime", "real", "real_level", "text")}
            sample = run_job(SCRIPT, job)
            found.setdefault(kind, []).append(sample)
            print(kind, json.dumps(sample), flush=True)
            if options.server and kind in PEERS:
                files = {name: str(getattr(options, name)) for name in ("server", "decoder", "vision")}
                job |= files | {"words": sample.get("words"), "threads": cpu().usable_cores}
                found.setdefault(f"{kind}, llama-server", []).append(run_job(SERVER, job))
                print("llama-server", json.dumps(found[f"{kind}, llama-server"][-1]), flush=True)
    record["samples"] |= found
    record["environment"] = asdict(environment())
    record["level"] = options.level
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = report(record)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(text)


def report(record: Mapping[str, Any]) -> str:
    """The page."""
    samples = record["samples"]
    rows = [row for kind, of_kind in _ROWS.items() if kind in samples for row in of_kind(samples[kind])]
    for kind, beside in _BESIDE.items():
        if theirs := samples.get(f"{kind}, llama-server"):
            rows += beside(samples[kind], theirs)
    every = [sample for kind, of_kind in samples.items() if kind not in _ONCE for sample in of_kind]  # the timed ones
    lines = [
        "# The engine at MedGemma 4B's full shape",
        "",
        "    python benchmarks/peers/engine.py ./made --level LEVEL --server llama-server --decoder FILE.gguf \\",
        "        --vision FILE.gguf --real DIR --real-level LEVEL --text FILE.gz --json FILE --markdown FILE",
        "",
        f"Random weights of the exact shape, {record['level']}; {where(record['environment'], disturbed(every))}",
        "Medians, in brackets least and greatest of the rounds; ratios round by round. What keys and values lose is "
        "measured on a model with real weights.",
        "",
        *table(("what", "measured"), rows),
        "",
    ]
    return "\n".join(lines)


def _figures(samples: Sequence[Any], *path: str) -> list[float]:
    found = []
    for sample in samples:
        value = sample
        for name in path:
            value = value[name]
        found.append(float(value))
    return found


def _over(over: Sequence[float], under: Sequence[float], digits: int = 2) -> str:
    return cell(spread([o / u for o, u in zip(over, under, strict=True)], 4), digits)


def _image_beside(s: Sequence[Any], theirs: Sequence[Any]) -> list[tuple[str, str]]:
    cold = _figures(theirs, "cold_s")
    return [
        ("llama-server: first token of an image question, cold, s", cell(spread(cold))),
        ("edgekit: times sooner than llama-server, cold", _over(cold, _figures(s, "cold_s"))),
        ("edgekit: times sooner, with the image there before", _over(cold, _figures(s, "ready_s"))),
    ]


def _conversation_beside(s: Sequence[Any], theirs: Sequence[Any]) -> list[tuple[str, str]]:
    rows = [(f"llama-server: {told}", figures) for told, figures in _conversation(theirs)]
    for name, told in (("cold", "cold"), ("follow_up", "a follow-up"), ("after_others", "after foreign questions")):
        over, under = (_figures(samples, name, "first_token_s") for samples in (theirs, s))
        rows.append((f"edgekit: times sooner than llama-server, {told}", _over(over, under)))
    return rows


def _together_beside(s: Sequence[Any], theirs: Sequence[Any]) -> list[tuple[str, str]]:
    one = _figures(theirs, "1")
    rows = [("llama-server: decode of one answer, tokens a second", cell(spread(one), 2))]
    for count in sorted(int(name) for name in s[0] if name.isdigit()):
        told = "one answer" if count == 1 else f"{count} answers together"
        if count > 1:
            rows.append((f"llama-server: {told}, times one", _over(_figures(theirs, str(count)), one)))
        rows.append((f"edgekit: {told}, times as fast", _over(_figures(s, str(count)), _figures(theirs, str(count)))))
    return rows


def _questions(s: Sequence[Any]) -> list[tuple[str, str]]:
    rows = []
    for sample in s:
        first, *later = sample["rss"]
        change = 100 * max(abs(one / first - 1) for one in later)
        told = f"resident memory over {sample['count']:,} questions, after the first tenth: GB, greatest change in %"
        rows.append((told, f"{first / 1e9:.2f}, {change:.1f}"))
    return rows


def _cache(s: Sequence[Any]) -> list[tuple[str, str]]:
    rows = []
    for name, told in (("prompt_per_s", "prefill"), ("tokens_per_s", "decode")):
        rounded, usual = (_figures(s, cache_type, name) for cache_type in ("q8_0", "f16"))
        rows.append((f"keys and values in q8_0, {told} behind a long prompt, times f16", _over(rounded, usual)))
    share = s[0]["q8_0"]["cache_bytes"] / s[0]["f16"]["cache_bytes"]
    return [*rows, ("keys and values in q8_0: memory, times f16", f"{share:.2f}")]


def _cache_loss(s: Sequence[Any]) -> list[tuple[str, str]]:
    rows = []
    for name in ("f16", "q8_0"):
        one = s[0][name]
        places = f"{s[0]['positions']} positions beyond the window"
        told = f"{s[0]['title']}, keys and values in {name}, {places}: KL, agreement"
        rows.append((told, f"{one['kl']:.2g} ± {one['half_width']:.1g} nats, {one['agree']:.1%}"))
    return rows


def _image(s: Sequence[Any]) -> list[tuple[str, str]]:
    cold, ready = _figures(s, "cold_s"), _figures(s, "ready_s")
    return [
        (f"first token of an image question, cold, s; the vision part in {s[0]['vision']}", cell(spread(cold))),
        ("with the image there before, s", cell(spread(ready), 2)),
        ("as a share of cold, %", _over([100 * one for one in ready], cold, 1)),
    ]


def _conversation(s: Sequence[Any]) -> list[tuple[str, str]]:
    cold = _figures(s, "cold", "first_token_s")
    rows = [(f"first token of a prompt of {s[0]['cold']['prompt']:,} tokens, cold, s", cell(spread(cold)))]
    for name, told in (("follow_up", "of a follow-up"), ("after_others", "of another, after two foreign questions")):
        first = _figures(s, name, "first_token_s")
        shares = [100 * one[name]["cached"] / one[name]["prompt"] for one in s]
        rows.append((f"{told}, s", cell(spread(first), 2)))
        rows.append((f"{told}: times sooner than cold", _over(cold, first, 1)))
        rows.append((f"{told}: of its tokens from the cache, %", cell(spread(shares), 1)))
    return rows


def _together(s: Sequence[Any]) -> list[tuple[str, str]]:
    bare, one = _figures(s, "bare"), _figures(s, "1")
    rows = [
        ("decode of one answer, tokens a second", cell(spread(one), 2)),
        ("as a share of the decoder's bare steps, %", _over([100 * each for each in one], bare, 1)),
    ]
    for count in sorted((int(name) for name in s[0] if name.isdigit()), key=int)[1:]:
        rows.append((f"{count} answers together, times one", _over(_figures(s, str(count)), one)))
    return rows


def _lookup(s: Sequence[Any]) -> list[tuple[str, str]]:
    rows = []
    for name, told in (("repeating", "an answer that repeats itself"), ("other", "one that does not")):
        plain, drafts = (_figures(s, f"{name}, {kind}", "tokens_per_s") for kind in ("plain", "drafts"))
        rows.append((f"drafts from the context, {told}: times as fast as without", _over(drafts, plain)))
    return rows


def _busy(s: Sequence[Any]) -> list[tuple[str, str]]:
    shares = _over([100 * one for one in _figures(s, "busy")], _figures(s, "quiet"), 0)
    return [("decode beside another program that keeps a core busy, % of quiet", shares)]


def _start(s: Sequence[Any]) -> list[tuple[str, str]]:
    told = "`edgekit ask` with a text question, from the start to the first character, s"
    return [(told, cell(spread(_figures(s, "first_s")), 2))]


def _mask(s: Sequence[Any]) -> list[tuple[str, str]]:
    size = f"{s[0]['vocabulary']:,}"
    return [
        (f"mask of a schema at {size} tokens, ms, median", cell(spread(_figures(s, "p50")), 2)),
        (f"mask of a schema at {size} tokens, ms, p99", cell(spread(_figures(s, "p99")), 2)),
        ("a grammar's tokenizer, once, s", cell(spread(_figures(s, "built_s")), 2)),
    ]


_ROWS = {
    "image": _image,
    "conversation": _conversation,
    "together": _together,
    "lookup": _lookup,
    "busy": _busy,
    "start": _start,
    "mask": _mask,
    "questions": _questions,
    "cache": _cache,
    "cache_loss": _cache_loss,
}
_BESIDE = {"image": _image_beside, "conversation": _conversation_beside, "together": _together_beside}

if __name__ == "__main__":
    main()
