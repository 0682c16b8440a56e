"""Times, memory and the machine's limits: against known answers, another count of operations, the kernel's files."""

from __future__ import annotations

import csv
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stubs import StubChat, StubDecoder, StubEmbedder, dataset

from edgekit.artifacts import manifest as manifests
from edgekit.bench import printed
from edgekit.bench.cells import Cell, CellTask, ModelRef
from edgekit.bench.environment import environment
from edgekit.bench.kinds.latency import LatencyTask
from edgekit.bench.records import Measurement, Record
from edgekit.bench.report.lines import FIELDS
from edgekit.bench.results import Results
from edgekit.bench.speed import summary, surroundings
from edgekit.bench.speed.operations import Operations, operations, shares
from edgekit.bench.speed.timing import Amounts, answering, embedding, random_ids
from edgekit.bench.tasks import task
from edgekit.bench.worker import run
from edgekit.checkpoints import reference_models
from edgekit.machine import disturbance, energy, page_cache, roofline
from edgekit.machine.cpu import cpu
from edgekit.machine.residence import peaks
from edgekit.machine.roofline import Rate, Roofline
from edgekit.runtime.base import Generation

LIMITS = Roofline({1: 10e9, 2: 20e9}, {"fp32": Rate(100e9, "a"), "int8": Rate(400e9, "b")})


# ---------------------------------------------------------------- the machine


def test_limits_are_those_of_a_machine() -> None:
    """A number of a machine, not of a cache or of a clock that was read wrongly: within a few powers of ten."""
    rates = roofline.rates(cpu().usable_cores, (64, 128, 256))
    assert {"fp32", "int8"} <= set(rates)
    assert all(1e7 < rate.per_s < 1e15 for rate in rates.values())
    assert 1e8 < roofline.bandwidth(1, 1 << 24) < 1e13


def test_limits_survive_json() -> None:
    again = Roofline.of(json.loads(json.dumps(LIMITS.to_json())))
    assert again == LIMITS
    assert (again.bytes_per_s, again.fastest) == (20e9, "int8")


def _zone(root: Path, name: str, called: str, microjoules: int) -> Path:
    zone = root / "sys/class/powercap" / name
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{called}\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")
    return zone


def test_energy_of_packages_and_memory_counts_once_and_over_the_end_of_a_counter(tmp_path: Path) -> None:
    package = _zone(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    core, dram = _zone(tmp_path, "intel-rapl:0:0", "core", 5), _zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    whole = _zone(tmp_path, "intel-rapl:1", "psys", 7)
    with energy.spent(tmp_path) as spent:
        for zone, later in ((package, 2_000_000), (core, 900_000), (dram, 1_500_000), (whole, 9_000_000)):
            (zone / "energy_uj").write_text(str(later))
    assert (spent.source, spent.joules) == ("rapl", pytest.approx(3.5))


@pytest.mark.parametrize("named", [{"power_now": 20_000_000}, {"current_now": 2_000_000, "voltage_now": 10_000_000}])
def test_energy_of_a_battery_that_is_discharged(tmp_path: Path, named: dict[str, int]) -> None:
    battery = tmp_path / "sys/class/power_supply/BAT0"
    battery.mkdir(parents=True)
    for name, value in {"type": "Battery", "status": "Discharging", **named}.items():
        (battery / name).write_text(f"{value}\n")
    started = time.perf_counter()
    with energy.spent(tmp_path) as spent:
        time.sleep(0.05)
    assert spent.source == "battery"
    assert 20 * 0.05 <= (spent.joules or 0) <= 20 * (time.perf_counter() - started)
    (battery / "status").write_text("Charging")
    with energy.spent(tmp_path) as charging:
        pass
    assert charging.joules is None


def test_a_machine_that_says_nothing_of_energy(tmp_path: Path) -> None:
    _zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("")
    with energy.spent(tmp_path) as spent:
        pass
    assert (spent.joules, spent.source) == (None, "")


def test_other_work_heat_and_the_clock_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores for ten seconds: 20 of them, 8 idle, 9 ours, so 3 are others'."""
    machine = namedtuple("machine", "user system idle iowait guest")
    own = namedtuple("own", "user system children_user children_system")
    times = iter([machine(100.0, 10.0, 500.0, 5.0, 60.0), machine(110.0, 12.0, 507.0, 6.0, 70.0)])
    ours = iter([own(1.0, 0.0, 0.0, 0.0), own(5.0, 1.0, 3.0, 1.0)])
    monkeypatch.setattr(disturbance.psutil, "cpu_times", lambda: next(times))
    monkeypatch.setattr(disturbance.psutil.Process, "cpu_times", lambda self: next(ours))
    folder = tmp_path / "sys/devices/system/cpu/cpu0"
    for path, text in (("cpufreq/scaling_governor", "powersave"), ("thermal_throttle/core_throttle_count", "4")):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(f"{text}\n")
    with disturbance.watched(tmp_path) as found:
        (folder / "thermal_throttle/core_throttle_count").write_text("6\n")
    assert (found.others_share, found.governor, found.throttled) == (0.15, "powersave", 2)
    assert found.disturbed is not None
    assert found.disturbed.startswith("other work took 15% of the cores, heat slowed the CPU 2 times")


def test_quiet_conditions_disturb_nothing() -> None:
    assert disturbance.Conditions(others_share=0.05, governor="performance").disturbed is None


def test_memory_of_a_process_and_its_children() -> None:
    code = "import time; held = bytearray(80_000_000); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            with peaks(child.pid) as one, peaks() as all_of_it:
                pass
        finally:
            child.kill()
    assert 80_000_000 < one.own < 120_000_000
    assert one.resident >= one.own
    assert all_of_it.own > one.own
    assert all_of_it.mapped > one.mapped > 0


def test_what_a_process_held_and_freed_is_its_peak() -> None:
    with peaks() as found:
        held = np.ones(60_000_000, np.uint8)
        time.sleep(0.4)
        del held
    with peaks() as later:
        pass
    assert found.own > later.own + 50_000_000


def test_files_are_forgotten_and_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 64)
    assert page_cache.forget([path]) == hasattr(os, "posix_fadvise")
    assert path.read_bytes() == bytes(range(256)) * 64


# ---------------------------------------------------------------- what arithmetic costs


def test_operations_of_an_image_are_those_that_torch_counts(medgemma_artifact: Path) -> None:
    """Within a few hundredths: the projector's weights see fewer patches, position embeddings multiply nothing."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from edgekit.families.source import open_source
    from edgekit.full_precision.model import load

    folder = reference_models.path("medgemma-reference")
    assert folder is not None
    model = load(open_source(folder))
    level = manifests.read(medgemma_artifact).default
    size = manifests.read(medgemma_artifact).preprocessing.size  # type: ignore[union-attr]
    matrices = sdpa_kernel(SDPBackend.MATH)  # attention as products that are counted
    with torch.no_grad(), matrices, FlopCounterMode(display=False) as counted:
        model.get_image_features(pixel_values=torch.zeros(1, 3, size, size))
    costs = operations(medgemma_artifact, level)
    assert costs.image == pytest.approx(counted.get_total_flops(), rel=0.1)
    ids = torch.ones((1, 16), dtype=torch.int64) * 10
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(input_ids=ids, logits_to_keep=1)
    head = 2 * model.config.text_config.vocab_size * model.config.text_config.hidden_size
    assert costs.token == pytest.approx((counted.get_total_flops() - head) / 16, rel=0.1)


def test_a_step_reads_its_decoders_files(medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    manifest = manifests.read(medgemma_artifact)
    files = [f for part in manifest.variant("Q4_0")[1].values() if part.output == "logits" for f in part.files]
    costs = operations(medgemma_artifact, "Q4_0")
    assert costs.step_bytes == sum((medgemma_artifact / file.path).stat().st_size for file in files)
    embeds = operations(medsiglip_artifact, manifests.read(medsiglip_artifact).default)
    assert (embeds.step_bytes, embeds.token) == (None, None)
    assert embeds.image


def test_a_share_is_of_the_limit_that_bounds_the_figure() -> None:
    costs = Operations(step_bytes=2_000_000_000, token=8e9, image=1e11, file_bytes=1)
    figures = {"decode_tokens_per_s": 5.0, "prefill_tokens_per_s": 10.0, "image_encode_ms": 500.0}
    found = dict(shares(costs, figures, LIMITS))
    assert found == pytest.approx({"decode_share": 0.5, "prefill_share": 0.2, "image_share": 0.5})
    assert dict(shares(Operations(None, None, None, 1), figures, LIMITS)) == {}


# ---------------------------------------------------------------- timing


def test_each_first_token_knows_as_much_as_its_name_says() -> None:
    """The engine's own count of tokens that were computed before, on a stand-in that keeps none: what is asked."""
    asked: list[tuple[bool, str]] = []

    class Watched(StubChat):
        def generate(self, messages: Any, *, max_tokens: int = 256) -> Any:
            (message,) = messages
            first = message.content[0] if hasattr(message, "content") else None
            asked.append((first is not None and not isinstance(first, str), message.text))
            return super().generate(messages, max_tokens=max_tokens)

    answering(Watched(), "What?", dataset(3).images, Amounts(8, 4))
    texts = [text for _, text in asked]
    assert texts[:3] == ["What?"] * 3
    assert "A case." in texts[3]
    assert texts[4:] == ["What?", "What? Answer in one word."]


def test_a_model_that_sees_nothing_reads_each_text_anew() -> None:
    """No text is another's beginning, so an engine that keeps positions has none of the next question's."""
    asked: list[str] = []

    class Reader(StubChat):
        sees = False

        def generate(self, messages: Any, *, max_tokens: int = 256) -> Any:
            asked.append(messages[0].text)
            yield Generation("a", 10, 1, False, 0.25, 0.5)

    answering(Reader(), "What helps?", dataset(3).images, Amounts(8, 4))
    first, second, third, *known = asked
    assert all(text.endswith("What helps?") for text in (first, second, third))
    assert len({text[: len("Case 0")] for text in (first, second, third)}) == 3
    assert known == ["What helps?", "What helps? Answer in one word."]


def test_where_nothing_but_the_first_is_measured_there_is_no_median() -> None:
    """One image: what stands there would be the warm-up."""
    once = {"first_token_ms", "image_encode_ms"}
    for n, expected in ((1, set()), (2, once)):
        found = answering(StubChat(), "What?", dataset(n).images, Amounts(8, 4)).figures
        assert "first_token_cold_ms" in found
        assert once & set(found) == expected
        assert ("images_per_s" in found) == (n > 1)
    embedded = embedding(StubEmbedder(), "What?", dataset(1).images).figures
    assert set(embedded) == {"images_per_s"}  # behind a first one
    assert {"image_encode_ms", "text_encode_ms"} < set(embedding(StubEmbedder(), "What?", dataset(2).images).figures)


def test_a_short_context_bounds_what_is_measured() -> None:
    class Short(StubDecoder):
        context = 100

    model = StubChat()
    model.decoder = Short()
    timed = answering(model, "What?", dataset(2).images, Amounts(512, 136))
    assert timed.amounts == Amounts(49, 50)


def test_the_prompt_is_the_same_for_every_program() -> None:
    ids = random_ids(512, 262_144)
    assert ids == random_ids(512, 262_144)
    assert min(ids) >= 10
    assert len(set(ids)) > 500


def test_a_prefix_that_is_known_is_read_from_the_engine(medgemma_artifact: Path) -> None:
    """On a real model: a follow-up about the same image takes its positions from the cache."""
    from edgekit.bench.answers import answer
    from edgekit.bench.items import Item, question
    from edgekit.runtime import open_model

    image = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    model = open_model(medgemma_artifact, "Q4_0", runtime="default", threads=1)
    try:
        assert "1 thread" in " ".join(model.runtimes.values())
        answer(model, Item("", question("What is it?", image)), 1)
        again = answer(model, Item("", question("What is it? Answer in one word.", image)), 1)
        assert again.cached_tokens > manifests.read(medgemma_artifact).settings["image_tokens"]
    finally:
        model.close()


def test_a_cell_gives_a_cold_load_in_its_first_round_only(
    medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.bench.speed.process.limits", lambda folder: LIMITS)
    short = task("latency").model_copy(update={"limit": 2})
    level = manifests.read(medsiglip_artifact).default
    model = ModelRef(str(medsiglip_artifact), level, threads=1)
    cell = Cell("row", model, (CellTask(short.model_dump(mode="json")),), 1, str(tmp_path))
    (cold,), (warm,) = ([outcome.result for outcome in run(replace(cell, round=number))] for number in (0, 1))
    assert cold["figures"]["load_cold_s"] > 0
    assert "load_cold_s" not in warm["figures"]
    assert 0 < warm["figures"]["image_share"] < 1
    assert warm["figures"]["file_bytes"] == manifests.read(medsiglip_artifact).bytes_of(level)
    assert (warm["threads"], warm["limits"]) == (1, LIMITS.to_json())


def test_limits_are_measured_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(work: Any, *given: Any, **named: Any) -> Any:
        asked.append(work)
        return [LIMITS.to_json()], type("End", (), {"problem": None})()

    monkeypatch.setattr(surroundings, "run", measured)
    assert surroundings.limits(tmp_path / "work") == surroundings.limits(tmp_path / "work") == LIMITS
    assert asked == [roofline.measure]


# ---------------------------------------------------------------- from rounds to figures


def _round(load_s: float, steps: list[float], **more: float) -> dict[str, Any]:
    conditions = {"others_share": 0.01, "governor": "performance", "temperature_c": 50.0, "disturbed": None}
    return {
        "figures": {"load_s": load_s, "decode_tokens_per_s": 1000 / statistics.mean(steps), **more},
        "samples": {"step_ms": steps, "prompt_s": [0.5, 0.4]},
        "prompt_tokens": 100, "steps": len(steps), "conditions": conditions, "limits": LIMITS.to_json(),
        "threads": 2, "runtimes": {"decoder": "llama.cpp, 1.0"}, "started": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip


def test_figures_are_medians_over_the_rounds_that_have_them() -> None:
    found = summary.figures([_round(1, [5.0, 7.0], load_cold_s=9), _round(3, [5.0, 7.0]), _round(2, [5.0, 7.0])])
    assert (found["load_s"].value, found["load_s"].low, found["load_s"].high, found["load_s"].n) == (2, 1, 3, 3)
    assert (found["load_cold_s"].value, found["load_cold_s"].n) == (9, 1)
    assert not any(name.startswith("step_p") for name in found)  # of six steps


@pytest.mark.parametrize(("count", "names"), [(63, {50}), (64, {50, 90}), (661, {50, 90}), (662, {50, 90, 99})])
def test_no_percentile_that_the_steps_cannot_carry(count: int, names: set[int]) -> None:
    steps = [float(value) for value in np.random.default_rng(0).permutation(count)]
    found = summary.figures([_round(1, steps[: count // 2]), _round(1, steps[count // 2 :])])
    assert {name for name in found if name.startswith("step_p")} == {f"step_p{percent}_ms" for percent in names}
    for percent in names:
        assert found[f"step_p{percent}_ms"].value == pytest.approx(np.percentile(steps, percent), abs=1)


DATA = {"name": "phantoms", "title": "phantoms", "citation": "c", "license": "l", "note": "n", "sha256": "0"}


def _results(*rounds: dict[str, Any]) -> Results:
    measured = Measurement(
        "k", "latency", "latency", "Times", "", "t", DATA, 4, summary.figures(rounds),
        details=summary.details(rounds),
    )  # fmt: skip
    record = Record(
        "Model", "recipe", None, "s", "Q4_0, 1 thread", "variant", "Q4_0", ("gguf",), None, 1000, 4.5,
        {"Q4_0": 1500, "F32": 20}, None, (measured,), environment(),
    )  # fmt: skip
    return Results((record,), {})


def test_lines_have_llama_benchs_names_and_figures() -> None:
    """`pp` and `tg` as llama-bench gives them: nanoseconds of the whole test, tokens a second over the samples."""
    rounds = _round(1, [10.0, 20.0]), _round(1, [10.0, 10.0])
    lines = [json.loads(line) for line in printed(_results(*rounds), "jsonl").splitlines()]
    by_figure = {line["figure"]: line for line in lines}
    assert "prefill_tokens_per_s" not in by_figure  # no round had one
    steps = by_figure["decode_tokens_per_s"]
    assert (steps["n_prompt"], steps["n_gen"], steps["n_depth"], steps["n_threads"]) == (0, 2, 100, 2)
    assert steps["samples_ns"] == [30_000_000, 20_000_000]
    assert steps["avg_ns"] == 25_000_000
    assert steps["stddev_ns"] == round(statistics.stdev([30_000_000, 20_000_000]))
    assert steps["avg_ts"] == pytest.approx(statistics.mean([2 / 0.03, 2 / 0.02]))
    assert steps["stddev_ts"] == pytest.approx(statistics.stdev([2 / 0.03, 2 / 0.02]))
    assert steps["test_time"] == "2026-01-02T03:04:05+00:00"
    assert (steps["model_type"], steps["model_size"], steps["model_n_params"]) == ("Model Q4_0", 1000, 1520)
    assert (steps["backends"], steps["row"]) == ("llama.cpp, 1.0", "Q4_0, 1 thread")
    assert by_figure["load_s"]["n_gen"] is None
    assert by_figure["load_s"]["value"] == 1


def test_a_prompts_line_counts_its_samples_of_all_rounds() -> None:
    results = _results(*(_round(1, [10.0, 20.0], prefill_tokens_per_s=222.0) for _ in range(2)))
    rows = {row["figure"]: row for row in csv.DictReader(io.StringIO(printed(results, "csv")))}
    prompt = rows["prefill_tokens_per_s"]
    assert list(prompt) == list(FIELDS)
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["avg_ns"]) == ("100", "0", "450000000")
    assert float(prompt["avg_ts"]) == pytest.approx((100 / 0.5 + 100 / 0.4) / 2)
    assert rows["load_s"]["avg_ts"] == ""


def test_other_forms_are_the_report_and_the_document() -> None:
    results = _results(_round(1, [10.0, 20.0]))
    assert "decode tok/s" in printed(results, "md")
    assert json.loads(printed(results, "json"))["records"]


def test_the_report_says_what_shares_are_of_and_that_rows_are_doubtful() -> None:
    busy = _round(1, [10.0, 20.0], decode_share=0.876)
    busy["conditions"] |= {"disturbed": "other work took 80% of the cores", "others_share": 0.8}
    text = printed(_results(busy), "md")
    assert "87.6" in text
    assert "10.0 with 1 thread, 20.0 with 2 threads GB/s" in text
    assert "fp32 100 (a), int8 400 (b) GFLOP/s" in text
    assert "Disturbed in 1 of 1 row, so their times say little: other work took up to 80 % of the cores." in text
    assert "load s \N{DAGGER}" in text
    assert "\N{DAGGER} disturbed: other work ran, or the machine was slowed" in text


def test_disturbances_of_many_rows_are_one_sentence() -> None:
    rows = []
    for share, times in ((0.5, 1), (0.88, 3), (0.61, 2)):
        busy = _round(1, [10.0, 20.0])
        reason = f"other work took {share:.0%} of the cores, heat slowed the CPU {times} times"
        busy["conditions"] |= {"disturbed": reason, "others_share": share}
        rows += _results(busy, busy).records[0].measurements
    rows += _results(_round(1, [10.0])).records[0].measurements
    assert summary.disturbance_said(rows) == (
        " Disturbed in 3 of 4 rows, so their times say little: other work took up to 50 to 88 % of the cores, heat "
        "slowed the CPU."
    )


def test_the_shipped_task_carries_a_99th_percentile_in_its_five_rounds() -> None:
    shipped = task("latency")
    assert isinstance(shipped, LatencyTask)
    assert 5 * (shipped.decode_tokens - 1) >= 662
