"""The 4B decoder at 4 bits: edgekit's ONNX file, ONNX Runtime GenAI's of the same shape, llama.cpp's Q4_0.

Text alone, for GenAI's Gemma 3 sees images causally. Its builder needs several times the model in memory (21 GB for 13
layers), so GenAI is measured on stand-ins of two depths, and its figure for the whole model is extrapolated: a prompt,
a step, or memory, is taken to cost what the shallow one costs and, for every further layer, the difference divided by
the layers between them. Between 7 and 13 layers lie five local layers and a global one, as everywhere in Gemma 3. All
others are measured whole. GenAI stands there with its default blocks of 32 weights and with blocks of 128, as ours do.

    speed     seconds of a prompt of 512 tokens, median of three in a process, and of one token after it, median
    memory    peaks, own and of mapped files, of a process that filled a context of 8,192 tokens, with weights laid out
              for the CPU (prepacked: ONNX Runtime's default, a copy)
    build     what `edgekit export --no-prove` and GenAI's builder take

Every sample is a process of its own; rounds go through all contenders in turn, and a ratio is taken round by round.

    python3.11 -m venv /tmp/genai && /tmp/genai/bin/pip install torch==2.13.0 'transformers>=4.57,<4.58' \\
        onnxruntime-genai==0.15.2 onnx onnx-ir onnxruntime sentencepiece
    python benchmarks/peers/onnx_decoder.py --work ./stand-ins --peer /tmp/genai/bin/python

0.15.2 is the newest whose builder made a Gemma 3 here: 0.16.0 and 0.18.0 import classes that transformers 4 lacks, and
with transformers 5, 0.18.0 asks Gemma 3's nested `rope_parameters` for a `rope_type` that it does not have.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jobs import cell, disturbed, ratios, run_job, spread, table, versions, where
from processes import Cost, measure, size_of, warm

from edgekit.artifacts import recipes
from edgekit.bench.environment import environment
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.machine.cpu import cpu

HERE = Path(__file__).parent
PEER_PACKAGES = ("onnxruntime-genai", "onnxruntime", "torch", "transformers")
LLAMA = "Q4_0"
GENAI = "int4"
PEER = "ONNX Runtime GenAI int4"  # what others are compared with
PEERS = {PEER: 32, f"{PEER}, blocks of 128": 128}
PROMPT, STEPS, CONTEXT = 512, 24, 8192
CHUNK = 512  # of the long prompt in GenAI; edgekit and llama.cpp divide prompts themselves


@dataclass(frozen=True)
class Contender:
    """One file in one runtime; `block` is GenAI's block size."""

    name: str
    runtime: str
    level: str
    block: int | None = None

    @property
    def built_by_genai(self) -> bool:
        """Whether it cannot be built whole."""
        return self.runtime == "genai"


@dataclass(frozen=True)
class Bench:
    """What is measured, and where its files lie."""

    work: Path
    recipe: str
    peer: Path | None
    contenders: tuple[Contender, ...]
    rounds: int
    vocabulary: int
    layers: tuple[int, ...]
    model_layers: int

    def depths(self, contender: Contender) -> tuple[int, ...]:
        """How many layers its stand-ins have."""
        return self.layers if contender.built_by_genai else (self.model_layers,)

    def folder(self, contender: Contender, layers: int) -> Path:
        """Where the contender's file of this depth lies."""
        made = f"genai-{contender.block}" if contender.built_by_genai else "artifact"
        return self.work / f"{made}-{layers}"

    def run(self, contender: Contender, layers: int, prompt: int, prompts: int, context: int) -> dict[str, Any]:
        """One process."""
        job = {
            "folder": str(self.folder(contender, layers)),
            "level": contender.level,
            "context": context,
            "threads": cpu().usable_cores,
            "vocabulary": self.vocabulary,
            "prompt": prompt,
            "prompts": prompts,
            "steps": STEPS,
            "chunk": CHUNK,
        }
        if contender.built_by_genai:
            return run_job(HERE / "genai_job.py", job, str(self.peer))
        return run_job(HERE / "decoder_job.py", job)


def contenders(levels: Sequence[str], peer: Path | None) -> tuple[Contender, ...]:
    """edgekit's levels and the peers."""
    ours = [Contender(f"edgekit {level}", "onnxruntime", level) for level in levels]
    genai = [Contender(name, "genai", GENAI, block=block) for name, block in PEERS.items()] if peer else []
    return (*ours, *genai, Contender(f"llama.cpp {LLAMA}", "llama.cpp", LLAMA))


def text_recipe(work: Path, base: str | None, levels: Sequence[str]) -> str:
    """A recipe of the 4B's decoder alone, or of another text model, with a variant for each level."""
    path = work / "decoder.toml"
    lines = ['family = "medgemma-text"', 'title = "The 4B decoder"', 'stem = "decoder"', 'source = "benchmark"']
    lines += ['license = "none"', "match = {}"]
    if base:
        lines = [f"extends = {json.dumps(str(Path(base).resolve()))}", "match = {}"]
    lines.append(f'default = "{LLAMA}"')
    lines += [f'[variant.{level}]\ndecoder = "{level}"' for level in (LLAMA, *levels)]
    if not base:
        whole = recipes.recipe("medgemma-4b").config
        text = {**whole["text_config"], "architectures": ["Gemma3ForCausalLM"], "eos_token_id": whole["eos_token_id"]}
        text |= {"bos_token_id": 2, "pad_token_id": 0, "transformers_version": whole["transformers_version"]}
        lines += ["[config]", *(f"{key} = {_toml(value)}" for key, value in text.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


# ---------------------------------------------------------------- measuring


def build(bench: Bench, layers: int) -> list[dict[str, Any]]:
    """Make the stand-in of this depth and all its files; what each tool took."""
    here = [one for one in bench.contenders if layers in bench.depths(one)]
    source = bench.work / f"checkpoint-{layers}"
    if not source.exists():
        _command([sys.executable, "-m", "edgekit", "synthesize", bench.recipe, source, "--layers", layers], source)
    rows = []
    edgekit = [sys.executable, "-m", "edgekit", "export", source, "--recipe", bench.recipe, "--no-prove", "--to"]
    for old in {bench.folder(one, layers) for one in here}:  # a rerun measures again
        shutil.rmtree(old, ignore_errors=True)
    artifact = bench.work / f"artifact-{layers}"
    for level in dict.fromkeys(one.level for one in here if not one.built_by_genai):
        warm(*open_checkpoint(source).shards)
        before = size_of(artifact)
        cost = _command([*edgekit, artifact, "--level", level], artifact)
        rows.append({"tool": "edgekit", "level": level, "bytes": size_of(artifact) - before, **asdict(cost)})
    for one in (one for one in here if one.built_by_genai):
        out = bench.folder(one, layers)
        command = [
            str(bench.peer),
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            source,
            "-o",
            out,
            "-p",
            GENAI,
            "-e",
            "cpu",
        ]
        warm(*open_checkpoint(source).shards)
        # Like the others, it need not compute logits of a whole prompt.
        extra = ["prune_lm_head=true", f"int4_block_size={one.block}"]
        options = ["-c", bench.work / "genai-cache", "--extra_options", *extra]
        cost = _command([*command, *options], out)
        rows.append({"tool": "genai", "level": f"{GENAI}, {one.block}", "bytes": size_of(out), **asdict(cost)})
    return [{"layers": layers, **row} for row in rows]


def _command(command: Sequence[Any], result: Path) -> Cost:
    with tempfile.TemporaryDirectory() as folder:  # of the disk, only the result counts here
        return measure(command, Path(folder), result)


def speed(bench: Bench) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Name -> depth -> a sample of each round."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        one.name: {str(n): [] for n in bench.depths(one)} for one in bench.contenders
    }
    for number in range(bench.rounds):
        for one in bench.contenders:
            for depth in bench.depths(one):
                answer = bench.run(one, depth, PROMPT, 3, 2 * PROMPT)
                sample = {"prefill_s": median(answer["prefill_s"]), "step_s": median(answer["step_s"])}
                beside = {name: answer[name] for name in ("load_s", "others_share")}
                found[one.name][str(depth)].append(sample | beside)
                said = f"{PROMPT / sample['prefill_s']:.1f} and {1 / sample['step_s']:.1f} tok/s"
                print(f"round {number + 1}, {depth} layers, {one.name}: {said}", file=sys.stderr)
    return found


def memory(bench: Bench, context: int) -> dict[str, dict[str, dict[str, int]]]:
    """Name -> depth -> peaks of a process that filled the context."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for one in bench.contenders:
        for depth in bench.depths(one):
            answer = bench.run(one, depth, context - STEPS - 8, 1, context)
            peaks = {name: answer[name] for name in ("anonymous_bytes", "file_bytes")}
            found.setdefault(one.name, {})[str(depth)] = peaks
            print(f"memory, {depth} layers, {one.name}: {peaks}", file=sys.stderr)
    return found


def extrapolated(by_depth: Mapping[str, float], target: int) -> float:
    """A line through two depths, at the depth of the model; the depth itself where it was measured."""
    if str(target) in by_depth:
        return by_depth[str(target)]
    (shallow, low), (deep, high) = ((int(depth), value) for depth, value in by_depth.items())
    return low + (target - shallow) * (high - low) / (deep - shallow)


# ---------------------------------------------------------------- tables


def rows(result: Mapping[str, Any], peer: str = PEER) -> list[dict[str, Any]]:
    """Tokens a second and bytes at the model's own depth, and ratios to GenAI, round by round."""
    target = result["model_layers"]
    whole: dict[str, dict[str, list[float]]] = {}
    for name, depths in result["speed"].items():
        by_round = [dict(zip(depths, samples, strict=True)) for samples in zip(*depths.values(), strict=True)]
        whole[name] = {
            key: [tokens / extrapolated({d: s[key] for d, s in one.items()}, target) for one in by_round]
            for key, tokens in (("prefill_s", PROMPT), ("step_s", 1))
        }
    return [
        {
            "name": name,
            "prefill": spread(found["prefill_s"], 2),
            "decode": spread(found["step_s"], 2),
            "ratio": {key: ratios(found[key], whole[peer][key]) for key in found} if peer in whole else None,
            "memory": {
                key: extrapolated({depth: peaks[key] for depth, peaks in result["memory"][name].items()}, target)
                for key in ("anonymous_bytes", "file_bytes")
            }
            if name in result["memory"]
            else None,
        }
        for name, found in whole.items()
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The tables for people."""
    depths, target = result["layers"], result["model_layers"]
    how = f"GenAI's extrapolated from stand-ins of {' and '.join(map(str, depths))} layers, the others' measured"
    how = "measured" if target in depths else how
    head = ["", f"prefill {PROMPT}, tok/s", "decode, tok/s", "prefill / GenAI's", "decode / GenAI's"]
    body = []
    for row in rows(result):
        ratio = [cell(row["ratio"][key], 2) if row["ratio"] else "-" for key in ("prefill_s", "step_s")]
        peaks = [f"{value / 1e9:.2f}" for value in row["memory"].values()] if row["memory"] else ["-", "-"]
        body.append([row["name"], cell(row["prefill"]), cell(row["decode"]), *ratio, *peaks])
    lines = [
        "# The decoder at 4 bits beside ONNX Runtime GenAI and llama.cpp",
        "",
        "How it was measured stands in benchmarks/peers/onnx_decoder.py, which writes this file.",
        f"{target} layers, {how}. Memory with {result['context']} tokens of context, all filled.",
        "",
        *table([*head, "own memory, GB", "mapped, GB"], body),
        "",
        *table(
            ["built by", "level", "layers", "s", "own memory, GB", "result, GB"],
            [
                [
                    row["tool"],
                    row["level"],
                    str(row["layers"]),
                    f"{row['seconds']:.1f}",
                    *(f"{row[name] / 1e9:.2f}" for name in ("anonymous_bytes", "bytes")),
                ]
                for row in result["build"]
            ],
        ),
    ]
    peer = ", ".join(f"{name} {version}" for name, version in (result["peer"] or {}).items())
    others = disturbed(one for depths in result["speed"].values() for samples in depths.values() for one in samples)
    lines += ["", f"{where(result['environment'], others)} Peer: {peer or 'none'}."]
    measured = result["memory_environment"]  # in another run, maybe
    if result["memory"] and measured != result["environment"]:
        lines += ["", f"Memory, in an earlier run: {where(measured)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build, measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--peer", type=Path, help="the Python of an environment with onnxruntime-genai; without it for none"
    )
    quick = "of GenAI's stand-ins: two to extrapolate from; one depth for all is a quick look"
    parser.add_argument("--layers", type=int, nargs="+", default=[7, 13], help=quick)
    parser.add_argument("--levels", nargs="+", default=["q4", "q4_128"], help="edgekit's ONNX levels")
    parser.add_argument("--recipe", help="the .toml of another text model's shape, for a quick look")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("speed", "memory"), default=("speed", "memory"))
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens that the measurement of memory fills")
    parser.add_argument("--work", type=Path, help="a folder for stand-ins and files, kept (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx-decoder.json"))
    parser.add_argument("--json", action="store_true", help="print the record, not the tables")
    options = parser.parse_args()
    if not 1 <= len(options.layers) <= 2:
        parser.error("--layers takes one number, or two")
    work = (options.work or Path(tempfile.mkdtemp())).resolve()
    work.mkdir(parents=True, exist_ok=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    recipe = text_recipe(work, options.recipe, options.levels)
    config = recipes.recipe(recipe).config
    compared = contenders(options.levels, options.peer)
    model_layers = config["num_hidden_layers"] if len(options.layers) == 2 else options.layers[0]
    bench = Bench(
        work, recipe, options.peer, compared, options.rounds, config["vocab_size"], tuple(options.layers), model_layers
    )
    depths = dict.fromkeys(depth for one in compared for depth in bench.depths(one))
    kept = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    if kept.get("layers") != options.layers:
        kept = {}
    try:
        result: dict[str, Any] = {
            "what": __doc__,
            "environment": asdict(environment()),
            "peer": versions(options.peer, PEER_PACKAGES) if options.peer else None,
            "layers": options.layers,
            "model_layers": model_layers,
            "context": options.context,
            "build": [row for layers in depths for row in build(bench, layers)],
            "speed": speed(bench) if "speed" in options.only else kept.get("speed", {}),
            "memory": memory(bench, options.context) if "memory" in options.only else kept.get("memory", {}),
        }
        known = kept.get("memory_environment", kept.get("environment"))
        result["memory_environment"] = result["environment"] if "memory" in options.only else known
    finally:
        if not options.work:
            shutil.rmtree(work)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(markdown(result), encoding="utf-8")
    print(json.dumps(result) if options.json else markdown(result))


if __name__ == "__main__":
    main()
