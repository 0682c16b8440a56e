"""The arithmetic of the peer benchmarks: spreads, ratios, extrapolation, and what counts as the fastest."""

from __future__ import annotations

import ast
import importlib
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


@pytest.mark.parametrize("path", sorted(PEERS.glob("*.py")), ids=lambda path: path.stem)
def test_what_the_peers_import_from_edgekit_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "edgekit":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")
