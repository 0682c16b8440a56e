"""The arithmetic of the peer benchmarks: spreads, ratios, extrapolation, and what counts as the fastest."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules by name; they import each other as scripts do."""
    monkeypatch.setattr(sys, "path", [str(PEERS), *sys.path])
    return importlib.import_module


def test_ratios_are_taken_round_by_round(peers: Any) -> None:
    # A machine that slows down in the second round changes no ratio.
    assert peers("jobs").ratios([4.0, 8.0, 4.0], [2.0, 4.0, 2.0]) == {"min": 2, "median": 2, "max": 2, "n": 3}


def test_a_model_is_extrapolated_along_its_layers(peers: Any) -> None:
    extrapolated = peers("onnx_decoder").extrapolated
    assert extrapolated({"7": 10.0 + 7, "13": 10.0 + 13}, 34) == pytest.approx(10 + 34)
    assert extrapolated({"7": 1.0, "34": 5.0}, 34) == 5.0
    assert extrapolated({"7": 1.0}, 7) == 1.0


def test_speed_ratios_to_the_peer_at_full_depth(peers: Any) -> None:
    def samples(head: float, layer: float) -> dict[str, list[dict[str, float]]]:
        return {str(n): [{"prefill_s": head + n * layer, "step_s": head + n * layer}] for n in (7, 13)}

    peer = "ONNX Runtime GenAI int4"
    result = {"model_layers": 34, "speed": {"ours": samples(1, 0.5), peer: samples(2, 1)}, "memory": {}}
    ours, theirs = peers("onnx_decoder").rows(result)
    assert ours["decode"]["median"] == pytest.approx(1 / 18, abs=0.01)
    assert ours["ratio"]["step_s"]["median"] == 2
    assert theirs["ratio"]["prefill_s"]["median"] == 1


def test_the_fastest_vision_part_is_a_right_one(peers: Any) -> None:
    def row(level: str, runtime: str, seconds: float, mean: float) -> dict[str, Any]:
        return {"level": level, "runtime": runtime, "seconds": {"median": seconds}, "cosine": {"mean": mean}}

    rows = [row("F16", "llama.cpp", 0.5, 1), row("q4", "openvino", 1, 0.99), row("int8", "openvino", 2, 0.9995)]
    fastest = peers("encoder_sections").fastest
    assert fastest({"rows": [*rows, row("fp32", "onnxruntime", 3, 1)]}) == ("int8", "openvino")
    with pytest.raises(SystemExit, match="measure `vision` first"):
        fastest({"rows": rows[:2]})
    with pytest.raises(SystemExit, match="measure `vision` first"):
        fastest(None)


def test_a_towers_arithmetic(peers: Any) -> None:
    from edgekit.artifacts.recipes import recipe
    from edgekit.families import FAMILIES

    tower = FAMILIES["medgemma"].parse(dict(recipe("medgemma-4b").config)).vision_config
    flop = peers("encoder_sections").flop(tower)
    assert flop["attention"] / 1e12 == pytest.approx(2.09, abs=0.01)
    assert sum(flop.values()) / 1e12 == pytest.approx(5.5, abs=0.05)


def test_no_request_is_called_answered_that_was_not(peers: Any) -> None:
    client = peers("http_client")
    whole, broken = ({"status": 200, "ended": ended} for ended in (True, False))
    assert client.outcome(client.Answered(**whole)) == "answered"
    assert client.outcome(client.Answered(**whole, events=[{"error": {"code": "engine_died"}}])) == "503"
    assert client.outcome(client.Answered(**broken), leaves=True) == "cancelled"
    assert client.outcome(client.Answered(**broken)).startswith("lost")
    assert client.outcome(client.Answered(status=500, ended=True)).startswith("lost")
    assert client.outcome(client.Answered(status=429, ended=True)) == "429"
    assert client.outcome(client.Answered()).startswith("lost")


def test_a_name_is_found_in_whatever_form(peers: Any) -> None:
    job = peers("http_canaries_job")
    every = list(itertools.islice(job.names(), 10_000))
    assert len({name.split()[1] for name in every}) == 10_000, "each is known by its second word alone"
    hidden = f"GET /{every[7].upper().replace(' ', '%20')} 404".encode()
    assert job.names_in(hidden, every, "a log") == [f"a log: {every[7]}"]
    assert job.names_in(b"GET /v1/models 200", every, "a log") == []


@pytest.mark.slow
def test_the_servers_benchmark_runs(medgemma_artifact: Path, tmp_path: Path) -> None:
    """All of it, with the least of everything: each question has an answer, and no name is written anywhere."""
    record = tmp_path / "server.json"
    small = ["--share", "0.002", "--life-s", "2", "--rounds", "1", "--json", str(record)]
    command = [sys.executable, str(PEERS / "server.py"), str(medgemma_artifact), "--level", "Q4_0", *small]
    environment = {**os.environ, "PYTHONPATH": str(PEERS.parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = json.loads(record.read_text())["samples"].values()
    assert not [name for (one,) in samples.values() for name in one.get("outcomes", {}) if name.startswith("lost")]
    assert samples["edgekit: canaries"][0]["found"] == []


@pytest.mark.parametrize("path", sorted(PEERS.glob("*.py")), ids=lambda path: path.stem)
def test_what_the_peers_import_from_edgekit_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "edgekit":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")


def test_plans_of_whole_models_lie_as_near_to_their_records_as_is_promised(peers: Any) -> None:
    """By recipes alone, of what nothing else disturbed; but for opening a model, which `planning.md` speaks of."""
    planning = peers("planning")
    found = [one for name in ("medgemma-4b", "medsiglip-448", "medgemma-27b") for one in planning.levels(results(name))]
    pairs = [pair for one in found for pair in planning.compared(one, [], ["medgemma-27b:bytes"]) if not pair.disturbed]
    wrong = {(pair.results, pair.figure) for pair in pairs if not pair.holds}
    assert wrong <= {("medgemma-27b", "load_s"), ("medgemma-4b", "load_s")}
    assert {pair.figure for pair in pairs} >= {"bytes", "own_memory_bytes", "prefill_tokens_per_s", "image_encode_ms"}
    assert [pair.results for pair in pairs if pair.held_out] == ["medgemma-27b"]
    text = "\n".join(planning.lines(found, pairs))
    assert "| held out: sizes, within 0.1 % | 1 | 1 |" in text
    assert "(1.000)\\* |" in text


def test_a_slice_is_not_planned_by_the_recipe_of_the_whole(peers: Any) -> None:
    planning = peers("planning")
    one = next(planning.levels(results("medgemma-4b-slice")))
    with pytest.raises(SystemExit, match="of another shape than its recipe; name its folder with --artifact"):
        list(planning.compared(one, [], []))


def results(name: str) -> Path:
    """Committed records."""
    return PEERS.parent / "results" / f"{name}.json"
