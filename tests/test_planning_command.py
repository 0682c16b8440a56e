"""`edgekit plan`, and everything with a --device that obeys the same plan."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.manifest import Served
from edgekit.bench.obeying import obeying
from edgekit.bench.subjects import subjects
from edgekit.checkpoints import reference_models
from edgekit.cli import main
from edgekit.commands.support.plans import plan_lines
from edgekit.errors import UsageError
from edgekit.export import llama_programs
from edgekit.machine.devices import device as load_device
from edgekit.planning import GOALS, Loss, of_artifact, plan, planned_model, row
from edgekit.runtime.opening import prepare
from edgekit.serve.engines.served import served

BOARD = """
title = "A board"
memory_gb = {memory}
model_memory_gb = {weights}
cores = 2
bandwidth_gb_s = 12
disk_gb_s = 0.5
context = {context}

[gflops]
fp32 = 50
int8 = 150
"""
DEVICES = Path(__file__).parent.parent / "devices"
Board = Callable[..., str]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    """A device of one's own."""
    monkeypatch.setenv("EDGEKIT_HOME", str(tmp_path / "home"))
    (tmp_path / "home/devices").mkdir(parents=True)

    def make(memory: float = 4, weights: float = 3, context: int = 2048, more: str = "") -> str:
        text = BOARD.format(memory=memory, weights=weights, context=context)
        (tmp_path / "home/devices/board.toml").write_text(more + text)
        return "board"

    return make


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_a_recipe_is_planned_without_a_checkpoint(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "plan", "medgemma-4b", "--device", board(8, 6))
    rows = found["variants"]
    assert rows["BF16"]["fits"] is False
    assert "needs 8.6 GB, A board gives a model 6 GB" in rows["BF16"]["against"]
    best = rows[found["recommended"]]
    assert best["fits"]
    assert best["settings"]["context"] == 2048
    assert best["memory"]["total"] <= 0.85 * 8e9
    assert best["times"]["decode_tokens_per_s"] > 1
    assert found["reasons"]
    # the largest file takes longest to load and to decode
    assert rows["Q8_0"]["times"]["decode_tokens_per_s"] < rows["Q4_0"]["times"]["decode_tokens_per_s"]


def test_people_see_every_level_and_why_one_is_taken(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "medgemma-4b", "--device", board(8, 6), "--goal", "smallest"]) == 0
    said = capsys.readouterr().out
    for name in planned_model("medgemma-4b").variants:
        assert name in said
    assert "take      Q2_K" in said
    assert "the smallest of the" in said
    assert "context 2048" in said


@pytest.mark.parametrize("name", sorted(path.stem for path in DEVICES.glob("*.toml")))
def test_a_table_is_no_wider_than_a_terminal_and_explains_its_marks(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for recipe in ("medgemma-4b", "medgemma-27b", "medsiglip", "reference-medgemma"):
        main(["plan", recipe, "--device", name])
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 120
        assert not re.search(r"\de[+-]\d|-0\.0\b|the smallest the", said)
        head, legend, *_ = said.split("\nlegend ")
        assert ("GPU GB" in head) == bool(load_device(name).gpu_memory_gb)
        for mark, meaning in {"\n*": "* to be taken", "~": "~ estimated", " ? ": "? not known"}.items():
            assert (mark in f"{head} ") == (meaning in legend)
        for word in ("weights", "memory"):
            assert (f"no, {word}" in head) == (f"no, {word}: " in " ".join(legend.split()))


def test_the_widest_row_fits(board: Board, medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A level of a long name on a device with a GPU, of which records know all that they can."""
    name = board(64, 48, 8192, "gpu_memory_gb = 8\ngpu_bandwidth_gb_s = 100\ngpu_gflops = 1000\n")
    made = plan(
        planned_model("medgemma-4b"),
        load_device(name),
        losses={"Q4_K_M+vision-int8": Loss({"kl": 0.0123, "accuracy_drop": -0.04}, "records")},
    )
    rows = tuple(replace(one, variant=one.variant.replace("int8", "int8_dynamic")) for one in made.rows)
    lines = list(plan_lines(replace(made, rows=rows)))
    assert max(map(len, lines)) <= 120
    assert any("KL 0.012, 0.0 pt" in line for line in lines)


def test_programs_are_told_which_times_are_estimates(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "plan", "medgemma-4b", "--device", "raspberry-pi-5")
    assert {row["estimated"] for row in found["variants"].values()} == {True}
    assert "decode_tokens_per_s" in found["variants"]["Q4_0"]["times"]["estimated"]
    assert any("estimates" in note for note in found["notes"])


def test_records_say_what_the_reference_model_lost(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "plan", "reference-medgemma", "--device", "laptop-16gb-cpu")
    lost = {name: row["loss"] for name, row in found["variants"].items()}
    assert lost["Q2_K"]["source"].startswith("medgemma-reference.json, of the checkpoint ")
    assert lost["Q2_K"]["kl"] > lost["Q8_0"]["kl"] >= 0
    assert 0 < lost["Q4_0"]["accuracy"] <= 1
    siglip = printed(capsys, "plan", "reference-medsiglip", "--device", "laptop-16gb-cpu")
    assert siglip["variants"]["int8"]["settings"]["context"] == 0
    assert siglip["variants"]["int8"]["loss"]["cosine_image"] > 0.9


def test_what_another_checkpoint_lost_is_not_this_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same recipe, shape and names, with other weights."""
    folder = tmp_path / "other"
    shutil.copytree(reference_models.path("medgemma-reference"), folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    found = printed(capsys, "plan", str(folder), "--device", "laptop-16gb-cpu")
    assert {name for name, row in found["variants"].items() if row["loss"]} == set()
    named = ["--records", "benchmarks/results/medgemma-reference.json"]
    assert main(["plan", str(folder), "--device", "laptop-16gb-cpu", *named]) == 2
    assert "says nothing of what any level of this model lost" in capsys.readouterr().err


def test_nothing_fits_is_said_with_what_is_missing(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    name = board(2, 1)
    assert main(["plan", "medgemma-4b", "--device", name]) == 1
    captured = capsys.readouterr()
    assert "nothing fits board: " in captured.err
    assert "gives a model 1 GB" in captured.err
    assert "Q2_K" in captured.out
    assert printed(capsys, "plan", "medgemma-4b", "--device", name, code=1)["recommended"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "medgemma-4b", "--device", "abacus"], "unknown device"),
        (["plan", "medgemma-9b", "--device", "laptop-8gb-cpu"], "unknown recipe"),
        (["plan", "medgemma-4b", "--device", "laptop-8gb-cpu", "--records", "none.json"], "none.json"),
        (["export", "medgemma-reference", "--to", "x", "--device", "laptop-8gb-cpu", "--level", "Q4_0"], "--level"),
        (["export", "medgemma-reference", "--to", "x", "--goal", "fastest"], "--goal without --device"),
    ],
)
def test_a_wrong_word_is_one_clear_message(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) != 0
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        ((-4, 3), "", "memory_gb: -4"),
        ((float("nan"), 3), "", "memory_gb: nan"),
        ((1e300, 3), "", "memory_gb: 1e+300"),
        ((4, float("inf")), "", "model_memory_gb: inf"),
        ((4, 3), "cores = 4\n", "cores"),  # twice
        ((4, 3, -1), "", "context: -1"),
    ],
)
def test_a_wrong_number_in_a_device_file_is_refused_by_its_key(
    values: tuple[float, ...], more: str, said: str, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "medgemma-4b", "--device", board(*values, more=more)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "board.toml" in captured.err
    assert "Traceback" not in captured.err


def test_a_goal_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "medgemma-4b", "--device", "raspberry-pi-5", "--goal", "cheapest"])
    said = capsys.readouterr().err
    assert "cheapest" in said
    assert all(goal in said for goal in GOALS)


# ---------------------------------------------------------------- who obeys it


def test_an_export_for_a_device_makes_what_the_plan_recommends(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = board()
    best = printed(capsys, "plan", "medgemma-reference", "--device", name, "--goal", "smallest")["recommended"]
    words = ["export", "medgemma-reference", "--to", str(tmp_path / "made"), "--device", name, "--no-prove"]
    assert main([*words, "--goal", "smallest"]) == 0
    assert f"{best} for board: the smallest" in capsys.readouterr().err
    assert list(manifests.read(tmp_path / "made").variants) == [best]


def test_other_programs_are_told_the_context_of_the_plan(
    board: Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the line for llama-server and in the Modelfile, also after another level was added without a device."""
    folder, words = tmp_path / "made", ["export", "medgemma-reference", "--no-prove", "--to", str(tmp_path / "made")]
    assert main([*words, "--device", board(context=1024), "--goal", "smallest"]) == 0
    assert re.search(r"llama-server .* -c 1024 ", capsys.readouterr().out)
    assert main([*words, "--level", "Q8_0"]) == 0
    assert re.search(r"llama-server .* -c 1024 ", capsys.readouterr().out)
    files = list(folder.glob("Modelfile.*"))
    assert len(files) == 2
    assert all("PARAMETER num_ctx 1024\n" in path.read_text() for path in files)
    assert main([*words, "--device", board(context=512), "--goal", "smallest"]) == 0
    assert all("PARAMETER num_ctx 512\n" in path.read_text() for path in files)


def test_keys_and_values_in_8_bits_are_told_too(medgemma_artifact: Path) -> None:
    found = manifests.read(medgemma_artifact).model_copy(update={"served": Served(context=2048, cache_type="q8_0")})
    command = " ".join(llama_programs.server_command(Path(), found, "Q8_0") or [])
    assert "-c 2048 -ctk q8_0 -ctv q8_0" in command
    text = llama_programs.modelfile(found, "Q8_0") or ""
    assert "PARAMETER num_ctx 2048\n" in text
    assert re.search("^# .*OLLAMA_KV_CACHE_TYPE=q8_0$", text, re.MULTILINE)


def test_what_computes_is_told_too(medgemma_artifact: Path) -> None:
    served_here = Served(context=2048, threads=3, gpu_layers=7)
    found = manifests.read(medgemma_artifact).model_copy(update={"served": served_here})
    assert "-t 3 -ngl 7" in " ".join(llama_programs.server_command(Path(), found, "Q8_0") or [])
    assert "PARAMETER num_thread 3\nPARAMETER num_gpu 7\n" in (llama_programs.modelfile(found, "Q8_0") or "")


def test_commands_obey_the_device_of_the_environment_where_no_option_says_another(
    medgemma_artifact: Path, board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def context(*words: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("/held\n"))
        assert main(["chat", str(medgemma_artifact), *words]) == 0
        (said,) = re.findall(r"the context is (\d+) tokens", capsys.readouterr().err)
        return str(said)

    board(context=512)
    monkeypatch.setenv("EDGEKIT_DEVICE", str(Path(os.environ["EDGEKIT_HOME"]) / "devices/board.toml"))
    assert context() == "512"
    assert context("--context", "768") == "768"
    assert context("--device", "laptop-16gb-cpu") != "512"
    monkeypatch.setenv("EDGEKIT_DEVICE", "")
    assert context() != "512"
    monkeypatch.setenv("EDGEKIT_DEVICE", "toaster")
    assert main(["chat", str(medgemma_artifact)]) == 2
    assert re.search(r"\$EDGEKIT_DEVICE: .*toaster", capsys.readouterr().err)


def test_opening_takes_the_level_and_the_settings_of_the_plan(medgemma_artifact: Path, board: Board) -> None:
    manifest = manifests.read(medgemma_artifact)
    name = board(context=1024)
    profile = load_device(name)
    opened = prepare(medgemma_artifact, None, name)
    model = of_artifact(medgemma_artifact, manifest)
    planned = row(opened.level, model.variants[opened.level], profile)
    assert opened.level == main_choice(medgemma_artifact, name)
    assert (opened.context, opened.threads, opened.cache_type) == (
        planned.settings.context, planned.settings.threads, planned.settings.cache_type,
    )  # fmt: skip
    said = f"level {opened.level}, as a plan for board recommends"
    assert (said in opened.warnings) == (opened.level != manifest.default)


def main_choice(folder: Path, device: str) -> str:
    """What `edgekit plan` recommends."""
    from edgekit.commands.support.plans import planned

    return planned(str(folder), device, None).chosen().variant


def test_a_long_context_is_opened_with_rounded_keys_where_memory_demands_it(
    medgemma_artifact: Path, board: Board
) -> None:
    """The reference model's longest context, on a device that has room for half of its keys and values."""
    manifest = manifests.read(medgemma_artifact)
    model = of_artifact(medgemma_artifact, manifest)
    profile = load_device(board(64, 32, 1_000_000))
    whole = row("Q8_0", model.variants["Q8_0"], profile)
    need = whole.memory.total - whole.memory.cache / 3
    name = board(need / 0.85e9, 0.1, 1_000_000)
    opened = prepare(medgemma_artifact, "Q8_0", name)
    assert (opened.cache_type, opened.context) == ("q8_0", whole.settings.context)
    opened.set_context(64)
    assert (opened.cache_type, opened.context) == ("f16", 64)


def test_what_finds_no_room_beside_its_context_is_not_opened(medgemma_artifact: Path, board: Board) -> None:
    with pytest.raises(UsageError, match=r"Q8_0 takes \S+ GB with a context of 1,024 tokens, A board leaves"):
        prepare(medgemma_artifact, "Q8_0", board(0.05, 0.04))


def test_what_is_served_stands_first_as_the_plan_recommends(medgemma_artifact: Path, board: Board) -> None:
    first, *_ = served([medgemma_artifact], device=board(context=1024))
    assert (first.level, first.context) == (main_choice(medgemma_artifact, "board"), 1024)


def test_a_benchmark_runs_what_fits_as_the_plan_has_it(medgemma_artifact: Path, board: Board) -> None:
    manifest = manifests.read(medgemma_artifact)
    model = of_artifact(medgemma_artifact, manifest)
    weights = {name: sum(part.opened_bytes for part in parts) for name, parts in model.variants.items()}
    between = (weights["Q8_0"] + weights["BF16"]) / 2e9
    name = board(4, between, 1024)
    (found,), notes = obeying(subjects([medgemma_artifact], (), ()), name)
    variants = [one for one in found.rows if one.kind == "variant"]
    assert [one.level for one in variants] == [level for level in manifest.variants if level != "BF16"]
    assert {one.model.device for one in variants} == {name}
    assert len(notes) == 1
    assert "BF16" in notes[0]
    plain = {one.level: one.key for one in subjects([medgemma_artifact], (), ())[0].rows}
    assert all(one.key != plain[one.level] for one in variants)
    with pytest.raises(UsageError, match="no level fits board"):
        obeying(subjects([medgemma_artifact], (), ()), board(4, 1e-6))
