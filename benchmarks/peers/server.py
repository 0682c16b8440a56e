"""What a server costs beside its engine alone, and how it behaves under load, ill will, departures and crashes.

    edgekit export medgemma-reference --to ./small --level Q4_0 --no-prove
    edgekit export medsiglip-reference --to ./embeds --level fp32 --no-prove
    python benchmarks/peers/server.py ./small --level Q4_0 --beside ./embeds --beside-level fp32 --json FILE ...

    edgekit synthesize medgemma-4b ./stand-in
    edgekit export ./stand-in --recipe medgemma-4b --to ./made --level Q4_0 --no-prove
    python benchmarks/peers/server.py ./made --level Q4_0 --as "MedGemma 4B's shape" --only cost --json FILE ...

With `--decoder FILE.gguf`, and `--llama-server FILE` of llama.cpp or `--llama-cpp-python PYTHON` of an environment that
has `llama-cpp-python[server]`, those servers do the same in the same rounds, as far as they can. `--share 0.01` tries
everything with a hundredth of the requests. The kills take an hour: a shorter life makes the server wait longer before
it starts an engine again, on purpose.

Random weights: only times and counts mean anything. Every sample is a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from jobs import cell, disturbed, run_job, spread, table, where

from edgekit.bench.environment import environment
from edgekit.machine.cpu import cpu

COST, LOAD, CANARIES = (Path(__file__).with_name(f"http_{name}_job.py") for name in ("cost", "load", "canaries"))
JOBS: Mapping[str, tuple[Path, Mapping[str, Any]]] = {
    "cost": (COST, {"count": 24, "prompt": 60, "tokens": 48}),
    "load": (LOAD, {"clients": 256, "requests": 10_000, "tokens": 8, "slots": 4, "queue": 64, "pause_s": 2.0}),
    "hostile": (LOAD, {"clients": 4, "requests": 1000, "tokens": 8, "sockets": 500}),
    "disconnects": (LOAD, {"count": 500}),
    "kills": (LOAD, {"count": 60, "clients": 8, "slots": 4, "tokens": 32, "life_s": 62.0}),
    "canaries": (CANARIES, {"count": 10_000}),
}
PEERS = ("cost", "load", "hostile")  # what other servers are asked, too
_SHARED = ("count", "requests", "sockets")
_LEAST = 8
_ONCE = ("kills", "canaries")
Row = tuple[str, str]


def main() -> None:
    """Measure, and write what was found."""
    options = _options()
    record: dict[str, Any] = {"samples": {}}
    if options.json and options.json.is_file():
        record = json.loads(options.json.read_text(encoding="utf-8"))
    found: dict[str, list[Any]] = {}
    for number in range(options.rounds):
        for kind in options.only or JOBS:
            if number and kind in _ONCE:
                continue
            for server in ("edgekit", *(_peers(options) if kind in PEERS else ())):
                sample = run_job(JOBS[kind][0], _job(options, kind, server))
                found.setdefault(f"{server}: {kind}", []).append(sample)
                print(server, kind, json.dumps(sample), flush=True)
    record["samples"].setdefault(options.name, {}).update(found)
    record["environment"] = asdict(environment())
    if options.json:
        options.json.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    text = report(record)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python benchmarks/peers/server.py", description=__doc__, formatter_class=raw
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR")
    add("--level", required=True, metavar="NAME")
    add("--as", dest="name", default="Reference model", metavar="NAME", help="the section of what is measured")
    add("--only", action="append", choices=JOBS, metavar="KIND", help=", ".join(JOBS))
    add("--share", type=float, default=1.0, metavar="X", help="of the requests, to try it")
    add("--life-s", type=float, metavar="S", help="of an engine before it is killed")
    add("--beside", type=Path, metavar="DIR", help="an artifact that embeds, which names are told, too")
    add("--beside-level", metavar="NAME")
    add("--rounds", type=int, default=2, metavar="N")
    add("--decoder", type=Path, metavar="FILE", help="what other servers are given")
    add("--llama-server", type=Path, metavar="FILE")
    add("--llama-cpp-python", type=Path, metavar="FILE", help="a Python that has llama_cpp.server")
    add("--json", type=Path, metavar="FILE", help="record everything, and keep what is there of others")
    add("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    if _peers(options) and not options.decoder:
        parser.error("other servers need --decoder FILE")
    if options.beside and not options.beside_level:
        parser.error("--beside DIR needs --beside-level NAME")
    return options


def _peers(options: argparse.Namespace) -> list[str]:
    given = {"llama-server": options.llama_server, "llama-cpp-python": options.llama_cpp_python}
    return [name for name, path in given.items() if path]


def _job(options: argparse.Namespace, kind: str, server: str) -> dict[str, Any]:
    sizes = dict(JOBS[kind][1])
    sizes |= {name: max(_LEAST, round(options.share * sizes[name])) for name in _SHARED if name in sizes}
    if options.life_s and "life_s" in sizes:
        sizes["life_s"] = options.life_s
    files = {name: str(getattr(options, name)) for name in ("llama_server", "llama_cpp_python")}
    decoder = str(options.decoder.resolve()) if options.decoder else ""
    given = {"kind": kind, "server": server, "folder": str(options.folder.resolve()), "level": options.level}
    if options.beside and kind == "canaries":
        given |= {"beside": str(options.beside.resolve()), "beside_level": options.beside_level}
    return {**given, **sizes, **files, "decoder": decoder, "threads": cpu().usable_cores}


def report(record: Mapping[str, Any]) -> str:
    """The page."""
    sections = record["samples"]
    every = [sample for kinds in sections.values() for samples in kinds.values() for sample in samples]
    lines = [
        "# The server beside its engine, under load and ill will",
        "",
        "    python benchmarks/peers/server.py DIR --level LEVEL --decoder FILE.gguf --llama-server FILE \\",
        "        --llama-cpp-python PYTHON --json FILE --markdown FILE",
        "",
        where(record["environment"], disturbed(every)),
        "Medians, in brackets least and greatest of the rounds. Clients and servers share the cores.",
        "",
    ]
    for name, kinds in sections.items():
        rows = [
            (f"{server}: {told}", figure)
            for kind, rows_of in _ROWS.items()
            for server in ("edgekit", "llama-server", "llama-cpp-python")
            if (samples := kinds.get(f"{server}: {kind}"))
            for told, figure in rows_of(samples)
        ]
        lines += [f"## {name}", "", *table(("what", "measured"), rows), ""]
    return "\n".join(lines)


def _cost(s: Sequence[Any]) -> list[Row]:
    def each(name: str) -> str:
        return cell(spread([median(one[name]) for one in s], 4), 2)

    def over(name: str, under: str) -> str:
        pairs = [zip(one[name], one[under], strict=True) for one in s]
        return cell(spread([median(a / b for a, b in pair) for pair in pairs], 4), 3)

    told: dict[str, str] = {
        "own_request": "its own time a request, streamed, beyond what its engine says it took, ms",
        "cpu_token": "its own time a token: what its process, without the engine's, keeps a core busy, ms",
        "first": "first token, ms",
        "token": "from token to token, ms",
        "more_token": "from token to token, longer than of edgekit's engine alone, ms",
    }
    rows = [(text, each(name)) for name, text in told.items() if name in s[0]]
    return [
        *rows,
        ("first token, times edgekit's engine alone", over("first", "engine_first")),
        ("whole answer, times edgekit's engine alone", over("whole", "engine_whole")),
    ]


def _load(s: Sequence[Any]) -> list[Row]:
    outcomes: Counter[str] = sum((Counter(one["outcomes"]) for one in s), Counter())
    growth = [100 * (one["held"][-1]["rss"] / one["held"][0]["rss"] - 1) for one in s]
    rows = [
        ("requests sent", f"{sum(outcomes.values()):,}"),
        ("how they ended", ", ".join(f"{name}: {count:,}" for name, count in sorted(outcomes.items()))),
        ("memory behind the first tenth, growth, %", cell(spread(growth))),
    ]
    refused = [one["refused_ms"] for one in s if one["refused_ms"]["n"]]
    if refused:
        rows.append(("a refusal, p99, ms", cell(spread([one["p99"] for one in refused]))))
    return rows


def _hostile(s: Sequence[Any]) -> list[Row]:
    alone, beside = ([one[name]["p99"] for one in s] for name in ("alone_ms", "beside_ms"))
    return [
        ("good clients' p99 alone, ms", cell(spread(alone))),
        (
            "beside slow and hostile sockets, times that",
            cell(spread([b / a for a, b in zip(alone, beside, strict=True)]), 2),
        ),
    ]


def _disconnects(s: Sequence[Any]) -> list[Row]:
    rows = []
    for way in s[0]["freed_s"]:
        n = sum(one["freed_s"][way]["n"] for one in s)
        rows.append((f"{n} clients that left while {way}, p99 until nothing runs or waits for them, s", way))
    rows = [(told, cell(spread([one["freed_s"][way]["p99"] for one in s]), 2)) for told, way in rows]
    for what in ("threads", "processes", "files"):
        more = [one["after"][what] - one["before"][what] for one in s]
        rows.append((f"{what} more than before", cell(spread([float(one) for one in more]), 0)))
    return rows


def _kills(s: Sequence[Any]) -> list[Row]:
    outcomes: Counter[str] = sum((Counter(one["outcomes"]) for one in s), Counter())
    back = [seconds for one in s for seconds in one["back_s"]]
    return [
        (f"{len(back)} kills of its engine: how requests ended", json.dumps(dict(sorted(outcomes.items())))),
        ("requests in flight at the kills", str(sum(one["in_flight"] for one in s))),
        ("back after, s", cell(spread(back), 2)),
        ("its start, s", cell(spread([one["started_s"] for one in s]), 2)),
    ]


def _canaries(s: Sequence[Any]) -> list[Row]:
    (one,) = s
    found = ", ".join(one["found"]) or "none"
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(one["statuses"].items()))
    return [
        (f"{one['names']:,} made-up names, in {one['files']} files that it could write and its metrics", found),
        ("statuses of their requests", statuses),
    ]


_ROWS: Mapping[str, Callable[[Sequence[Any]], list[Row]]] = {
    "cost": _cost,
    "load": _load,
    "hostile": _hostile,
    "disconnects": _disconnects,
    "kills": _kills,
    "canaries": _canaries,
}

if __name__ == "__main__":
    main()
