"""What a plan recommends, with which settings, and what it says where nothing fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import bench
from edgekit.errors import UsageError
from edgekit.machine.device import Device
from edgekit.machine.devices import device as shipped
from edgekit.planning import GOALS, Loss, PlannedModel, figure, plan, planned_model, row
from edgekit.planning.kernels import LIBRARIES

FACTS: dict[str, Any] = {
    "name": "board",
    "title": "A board",
    "memory_gb": 16,
    "model_memory_gb": 11,
    "cores": 4,
    "bandwidth_gb_s": 30,
    "gflops": {"fp32": 200.0, "bf16": 400.0, "int8": 700.0},
    "disk_gb_s": 1.0,
}
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
GPU: dict[str, Any] = {"gpu_memory_gb": 8, "gpu_bandwidth_gb_s": 200, "gpu_gflops": 10_000}


def device(**changes: Any) -> Device:
    """A device with these facts; of less memory, all of it a model's."""
    facts = {**FACTS, **changes}
    return Device(**{**facts, "model_memory_gb": min(facts["model_memory_gb"], facts["memory_gb"])})


@pytest.fixture(scope="module")
def medgemma() -> PlannedModel:
    return planned_model("medgemma-4b")


# ---------------------------------------------------------------- full size, from the recipe alone


def test_sizes_at_full_shape_are_those_that_were_measured(medgemma: PlannedModel) -> None:
    """Exports of random weights of the full shape: see onnx-decoder.md, onnx-full-size.md, onnx-encoders.md in
    benchmarks/results."""
    assert medgemma.variants["Q4_0"][0].bytes / 1e9 == pytest.approx(2.36, abs=0.005)
    assert sum(part.bytes for part in medgemma.variants["q4"]) / 1e9 == pytest.approx(2.89, abs=0.005)
    assert medgemma.variants["fp32"][1].bytes / 1e9 == pytest.approx(1.69, abs=0.015)


def test_a_cache_is_what_is_counted_by_hand(medgemma: PlannedModel) -> None:
    """34 layers, of which 5 see everything; 4 heads of 256 keys and as many values, 2 bytes each."""
    made = row("Q4_0", medgemma.variants["Q4_0"], device(), 4096)
    position = 2 * 4 * 256 * 2
    assert made.memory.cache == position * (5 * 4096 + 29 * (1024 + 512))
    assert made.memory.total == sum(
        getattr(made.memory, name) for name in ("weights", "cache", "compute", "vision", "library")
    )
    rounded = row("Q4_0", medgemma.variants["Q4_0"], device(memory_gb=4.4), 4096)
    assert rounded.settings.cache_type in ("f16", "q8_0")


def test_decoding_is_bound_by_reading_all_weights_once(medgemma: PlannedModel) -> None:
    made = row("Q8_0", medgemma.variants["Q8_0"], device())
    decoder = medgemma.variants["Q8_0"][0]
    assert made.times.decode_tokens_per_s is not None
    assert made.times.decode_tokens_per_s * decoder.bytes <= 30e9
    twice = row("Q8_0", medgemma.variants["Q8_0"], device(bandwidth_gb_s=15))
    assert twice.times.decode_tokens_per_s is not None
    assert made.times.decode_tokens_per_s > 1.6 * twice.times.decode_tokens_per_s


def test_a_device_without_rates_has_no_times_of_prompts_and_says_so(medgemma: PlannedModel) -> None:
    made = plan(medgemma, device(gflops={}, disk_gb_s=None))
    assert all(one.times.image_s is None and one.times.load_cold_s is None for one in made.rows)
    assert any("gflops" in note for note in made.notes)
    assert any("disk_gb_s" in note for note in made.notes)
    assert made.recommended
    assert made.recommended.variant == medgemma.default


# ---------------------------------------------------------------- what is taken


def test_each_goal_takes_what_it_names(medgemma: PlannedModel) -> None:
    rows = {goal: plan(medgemma, device(), goal).chosen() for goal in GOALS}  # type: ignore[arg-type]
    able = [one for one in plan(medgemma, device()).rows if one.fits and one.variant not in medgemma.left_out]
    assert rows["smallest"].bytes == min(one.bytes for one in able)
    assert rows["fastest"].times.answer_s() == min(one.times.answer_s() or 1e9 for one in able)
    assert rows["most-faithful"].variant in ("BF16", "F16", "Q8_0")
    usual = plan(medgemma, device()).chosen()
    assert usual.times.answer_s() is not None
    assert usual.times.answer_s() <= 1.5 * rows["fastest"].times.answer_s()  # type: ignore[operator]


def test_what_is_made_on_request_alone_is_shown_and_not_taken(medgemma: PlannedModel) -> None:
    made = plan(medgemma, device(memory_gb=200, model_memory_gb=180), "most-faithful")
    assert {"fp32", "fp16"} <= {one.variant for one in made.rows if one.fits}
    assert made.chosen().variant not in ("fp32", "fp16")


def test_a_context_that_finds_no_room_is_rounded_first_and_halved_then(medgemma: PlannedModel) -> None:
    """A long context, on devices of less and less memory: never more than fits, never less than is needed."""
    parts = medgemma.variants["Q4_0"]
    seen = []
    for tenths in range(120, 30, -1):
        made = row("Q4_0", parts, device(memory_gb=tenths / 10, context=131_072))
        if not made.fits:
            break
        assert made.memory.total <= 0.85e9 * tenths / 10
        seen.append((made.settings.context, made.settings.cache_type))
    assert seen[0] == (131_072, "f16")
    assert (131_072, "q8_0") in seen
    assert all(before >= after for before, after in zip([c for c, _ in seen], [c for c, _ in seen][1:], strict=False))
    assert seen[-1][0] < 131_072


def test_a_context_that_was_asked_for_is_not_shortened(medgemma: PlannedModel) -> None:
    small = device(memory_gb=5.2, context=1024)
    assert row("Q4_0", medgemma.variants["Q4_0"], small).fits
    asked = row("Q4_0", medgemma.variants["Q4_0"], small, 131_072)
    assert asked.settings.context == 131_072
    assert not asked.fits
    assert "131,072 tokens" in asked.against


def test_an_image_budget_leaves_room_for_words(medgemma: PlannedModel) -> None:
    settings = row("Q4_0", medgemma.variants["Q4_0"], device(context=4096)).settings
    assert settings.images == (4096 - 1024) // 256
    assert settings.threads == 4


@given(memory=st.floats(0.5, 64), share=st.floats(0.1, 1), context=st.integers(64, 131_072))
def test_what_is_recommended_always_fits(memory: float, share: float, context: int) -> None:
    model = planned_model_once()
    made = plan(model, device(memory_gb=memory, model_memory_gb=memory * share, context=context))
    if made.recommended:
        used = made.recommended.memory
        assert used.total <= 0.85e9 * memory
        assert sum(part.opened_bytes for part in model.variants[made.recommended.variant]) <= 1e9 * memory * share
        assert made.recommended.settings.context <= context
    else:
        assert all(not one.fits for one in made.rows if one.variant not in model.left_out)
        assert "nothing fits board" in made.missing


_MADE: dict[str, PlannedModel] = {}


def planned_model_once() -> PlannedModel:
    """MedGemma 4B by its recipe, worked out once."""
    if not _MADE:
        _MADE["it"] = planned_model("medgemma-4b")
    return _MADE["it"]


def test_nothing_that_fits_is_an_error_that_says_what_is_missing(medgemma: PlannedModel) -> None:
    made = plan(medgemma, device(memory_gb=2, model_memory_gb=1))
    assert made.recommended is None
    with pytest.raises(UsageError, match=r"nothing fits board: \S+, which takes the least, needs \d\.\d GB"):
        made.chosen()


# ---------------------------------------------------------------- a GPU


def test_a_gpu_takes_as_many_layers_as_it_holds(medgemma: PlannedModel) -> None:
    parts, layers = medgemma.variants["Q4_0"], []
    for gigabytes in (0, 1, 2, 3, 4, 6, 24):
        settings = row("Q4_0", parts, device(gpu_memory_gb=gigabytes)).settings
        layers.append(settings.gpu_layers)
    assert layers[0] == 0
    assert layers[-1] == 35  # 34, and the output
    assert any(0 < one < 35 for one in layers)
    whole = row("Q4_0", parts, device(gpu_memory_gb=24))
    assert whole.settings.gpu_vision
    assert whole.memory.weights < row("Q4_0", parts, device()).memory.weights / 2
    assert whole.memory.cache == 0


def test_what_lies_on_a_gpu_is_stated_and_is_no_more_than_it_has(medgemma: PlannedModel) -> None:
    for name, parts in medgemma.variants.items():
        made = row(name, parts, device(gpu_memory_gb=4))
        assert made.memory.gpu <= 4e9
        assert bool(made.memory.gpu) == bool(made.settings.gpu_layers or made.settings.gpu_vision)
    whole = row("Q4_0", medgemma.variants["Q4_0"], device(gpu_memory_gb=24))
    assert whole.settings.gpu_whole
    assert whole.memory.gpu > sum(part.bytes for part in medgemma.variants["Q4_0"])
    assert row("Q4_0", medgemma.variants["Q4_0"], device()).memory.gpu == 0


def test_a_gpu_decodes_no_faster_than_it_reads_its_weights(medgemma: PlannedModel) -> None:
    """All weights on the GPU in the time that its bandwidth allows; the more of them there, the faster."""
    parts = medgemma.variants["Q8_0"]
    whole = row("Q8_0", parts, device(**GPU))
    assert whole.times.decode_tokens_per_s is not None
    assert 0.5 < whole.times.decode_tokens_per_s * parts[0].bytes / 200e9 < 1
    speeds = [row("Q8_0", parts, device(**{**GPU, "gpu_memory_gb": size})).times for size in (0.5, 2, 3, 4, 5, 8)]
    rates = [times.decode_tokens_per_s or 0 for times in speeds]
    assert rates == sorted(rates)
    assert rates[-1] > 3 * rates[0]
    assert speeds[-1].image_s < speeds[0].image_s  # type: ignore[operator]


def test_times_on_a_gpu_are_estimates_or_not_known(medgemma: PlannedModel) -> None:
    known = plan(medgemma, device(**GPU, cpu="x86-64-v4"))
    moved = next(one for one in known.rows if one.variant == "Q4_0")
    assert {"decode_tokens_per_s", "first_token_s", "image_s"} <= set(moved.times.estimated)
    assert any("what its GPU runs are estimates" in note for note in known.notes)
    silent = plan(medgemma, device(gpu_memory_gb=8))
    rows = {one.variant: one for one in silent.rows}
    assert rows["Q4_0"].times.decode_tokens_per_s is rows["Q4_0"].times.image_s is None
    assert rows["q4"].times.decode_tokens_per_s is not None  # a decoder in ONNX stays on the CPU
    assert any("no gpu_bandwidth_gb_s and no gpu_gflops" in note for note in silent.notes)


def test_without_times_a_goal_decides_among_what_the_gpu_holds_whole(medgemma: PlannedModel) -> None:
    silent = {goal: plan(medgemma, device(gpu_memory_gb=8), goal) for goal in (None, *GOALS)}  # type: ignore[arg-type]
    whole = [one for one in silent[None].rows if one.settings.gpu_whole]
    assert 1 < len(whole) < len(silent[None].rows)
    assert silent[None].chosen().variant == "Q8_0"  # BF16 is larger than the GPU
    assert "that its GPU holds whole" in silent[None].reasons[0]
    assert silent["fastest"].chosen() == min(whole, key=lambda one: one.bytes)
    assert silent["most-faithful"].chosen().variant == "F16"
    small = plan(medgemma, device(gpu_memory_gb=1))
    assert small.chosen().variant == medgemma.default
    assert "times are not known" in small.reasons[0]


def test_the_only_one_that_fits_is_said_to_be(medgemma: PlannedModel) -> None:
    for goal in (None, *GOALS):
        made = plan(medgemma, device(memory_gb=3.5, model_memory_gb=2.3), goal)  # type: ignore[arg-type]
        assert [one.variant for one in made.rows if one.fits] == ["Q2_K"]
        assert made.reasons[0].startswith("the only one that fits: a question")


# ---------------------------------------------------------------- what was measured, and what was not


def test_times_are_estimates_where_nobody_measured_them(medgemma: PlannedModel) -> None:
    alike = {one.variant: one for one in plan(medgemma, device(cpu="x86-64-v4")).rows}
    assert alike["Q4_0"].times.estimated == ()
    assert "decode_tokens_per_s" in alike["fp16"].times.estimated  # of such a decoder there is no record
    assert "image_s" not in alike["fp16"].times.estimated  # of such an encoder there is


def test_what_is_said_to_be_measured_has_a_record_of_such_weights() -> None:
    for library in LIBRARIES.values():
        for name, kernel in library.decoder.items():
            if kernel.measured:
                records = bench.read(RESULTS / kernel.measured).records
                assert any(name in (record.tensor_types or {}) for record in records if record.kind == "variant"), name
        for kernel in library.encoder.values():
            assert not kernel.measured or (RESULTS / kernel.measured).is_file()


def test_a_type_that_has_no_row_is_an_estimate_by_the_slowest() -> None:
    unknown = LIBRARIES["gguf"].kernel("Q1_9")
    assert not unknown.is_measured
    assert unknown.many == min(kernel.many for kernel in LIBRARIES["gguf"].decoder.values())


@pytest.mark.parametrize(
    "other",
    [
        {"cpu": "x86-64-v3"},
        {"cpu": "armv8.2-a+dotprod+fp16", "platform": "linux-aarch64"},
        {"cpu": "x86-64-v4", "instruction_sets": ("avx512", "amx")},
        {"cpu": "x86-64-v4", "sources": {"gflops": "estimate: by its data sheet"}},
        {
            "cpu": "x86-64-v4",
            "sources": {"gflops": "measured 2026-01-01 on mains; other work took 91% of the cores: a product"},
        },
    ],
)
def test_on_other_processors_every_time_is_an_estimate(other: dict[str, Any], medgemma: PlannedModel) -> None:
    made = plan(medgemma, device(**other))
    for one in made.rows:
        named = {name for name in vars(one.times) if name != "estimated" and getattr(one.times, name) is not None}
        assert set(one.times.estimated) == named
    assert any(note.startswith("all times are estimates") for note in made.notes)
    assert " in ~" in made.reasons[0]


def test_what_disturbed_a_profile_is_noted(medgemma: PlannedModel) -> None:
    quiet = {"bandwidth_gb_s": "measured 2026-01-01 on mains: 0.5 GB read by NumPy; the best"}
    assert not any("estimates" in note for note in plan(medgemma, device(cpu="x86-64-v4", sources=quiet)).notes)
    busy = {"bandwidth_gb_s": "measured 2026-01-01 on mains; other work took 91% of the cores: 0.5 GB read"}
    notes = plan(medgemma, device(cpu="x86-64-v4", sources=busy)).notes
    assert any("other work took 91% of the cores; edgekit profile measures again" in note for note in notes)


def test_a_rate_that_a_device_does_not_state_makes_estimates(medgemma: PlannedModel) -> None:
    """Of BF16 products, whose rate is missing; not of those in 8 bits, nor of steps, which need no rate."""
    rates = {"fp32": 200.0, "int8": 700.0}
    rows = {one.variant: one for one in plan(medgemma, device(cpu="x86-64-v4", gflops=rates)).rows}
    assert set(rows["BF16"].times.estimated) == {"first_token_s", "prefill_tokens_per_s"}
    assert rows["Q8_0"].times.estimated == ()


@pytest.mark.parametrize("name", ["reference-medgemma", "reference-medsiglip"])
def test_times_of_models_narrower_than_any_that_was_measured_are_estimates(name: str) -> None:
    for one in plan(planned_model(name), device(cpu="x86-64-v4")).rows:
        assert {"load_s", "image_s"} <= set(one.times.estimated)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0, 3, "0"), (2560, 3, "2,560"), (-25.64, 3, "-25.6"), (0.002561, 2, "0.0026"), (1.0, 2, "1.0")],
)
def test_figures_are_written_without_powers_of_ten(value: float, digits: int, text: str) -> None:
    assert figure(value, digits) == text


# ---------------------------------------------------------------- what is known of levels


def test_what_records_know_stands_in_the_rows(medgemma: PlannedModel) -> None:
    made = plan(medgemma, device(), losses={"Q4_0": Loss({"kl": 0.1}, "measured.json")})
    rows = {one.variant: one for one in made.rows}
    assert rows["Q4_0"].loss == Loss({"kl": 0.1}, "measured.json")
    assert rows["Q8_0"].loss is None


@pytest.mark.parametrize("context", [1024, 65_536, 131_072])
@pytest.mark.parametrize("name", ["apple-m-8gb", "apple-m-16gb", "jetson-orin-nano"])
def test_what_a_gpu_holds_of_the_one_memory_counts(name: str, context: int) -> None:
    board = shipped(name)
    assert board.unified_memory
    for recipe in ("medgemma-4b", "gemma-3-12b", "medgemma-27b"):
        for level, parts in planned_model(recipe).variants.items():
            made = row(level, parts, board, context)
            alone = row(level, parts, board.model_copy(update={"unified_memory": False}), context)
            assert made.memory.total >= alone.memory.total
            if made.fits and made.settings.gpu_layers:
                assert made.memory.shared > 0
                assert made.memory.total <= 0.85e9 * board.memory_gb
