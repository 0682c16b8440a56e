"""The report says what was measured, what it rests on, and what it cannot show."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgekit.bench import as_json, markdown, write
from edgekit.bench.environment import Environment
from edgekit.bench.records import Kind, Measurement, Record, plain
from edgekit.bench.report import charts, figures
from edgekit.bench.report.lines import as_csv
from edgekit.bench.report.page import page
from edgekit.bench.results import Results, controls_show_damage, damage
from edgekit.metrics import Comparison, Estimate

HERE = Environment("f" * 64, "A CPU", "x86_64", ("avx2",), 2, 8_000_000_000, {"edgekit": "0.1.0"}, "c" * 40, "d" * 64)
DATA = {
    "name": "phantoms", "title": "phantoms", "citation": "somebody 2026", "license": "CC0", "note": "drawn",
    "sha256": "0",
}  # fmt: skip


def _accuracy(value: float, paired: Estimate | None, task: str = "finding-phantom") -> Measurement:
    details = {
        "prompt": "What is it?", "parser": "first-label", "max_tokens": 24, "truncated_share": 0.04,
        "unparsed_share": 0.0,
        "majority_baseline": {"label": "nodule", "accuracy": 0.125, "balanced": 0.125},
        "per_class": {"nodule": plain(Estimate(value, value - 0.1, value + 0.1, 30))},
    }  # fmt: skip
    figures = {name: Estimate(value, value - 0.05, value + 0.05, 240) for name in ("accuracy", "balanced_accuracy")}
    compared = Comparison(paired) if paired else None
    return Measurement("k", task, "finding", "Findings", "accuracy", "t", DATA, 240, figures, compared, None, details)


def _fidelity(kl: float) -> Measurement:
    figures = {"kl": Estimate(kl, 0.5 * kl, 2 * kl, 2300), "top1": Estimate(0.9876, 0.98, 0.99, 2300)}
    quantiles = {"median": 0.001, "p90": 0.02, "p99": 0.3, "maximum": 4.0, "nonfinite": 0}
    details = {
        "positions": 2300, "groups": 32, "context": 512, "kl_quantiles": quantiles, "clear_top1_changes": 17,
        "beyond_noise": True,
    }  # fmt: skip
    name, kind = "fidelity-text", "text-fidelity"
    return Measurement("k", name, kind, "Logits", "kl", "t", DATA, 32, figures, None, 0.0, details)


def _latency() -> Measurement:
    figures = {
        "load_s": Estimate(1.234, 1, 2, 5), "first_token_ms": Estimate(321, 300, 400, 5),
        "decode_tokens_per_s": Estimate(98.7, 90, 99, 5), "image_encode_ms": Estimate(45.6, 40, 50, 5),
        "peak_memory_bytes": Estimate(123e6, 120e6, 125e6, 5),
    }  # fmt: skip
    return Measurement("k", "latency", "latency", "Times", "", "t", DATA, 4, figures, None, None, {"rounds": 5})


def _record(
    row: str, kind: Kind, *measurements: Measurement, bits: int | None = None, model: str = "A model"
) -> Record:
    control: dict[str, Any] | None = {"role": "decoder", "bits": bits} if bits else None
    return Record(model, "r", "a stand-in", "s", row, kind, None, ("gguf",), {"decoder": "p"}, 14_200_000, 4.5,
                  {"Q4_0": 1000}, control, measurements, HERE)  # fmt: skip


DROP, NOTHING = Estimate(-0.3, -0.36, -0.24, 240), Estimate(-0.004, -0.02, 0.012, 240)


def _results(control: Estimate = DROP) -> Results:
    return Results(
        (
            _record("control: decoder at 3 bits", "control", _accuracy(0.5, control), bits=3),
            _record("reference", "reference", _accuracy(0.8, None), _fidelity(0.0), _latency()),
            _record("Q4_0", "variant", _accuracy(0.7958, NOTHING), _fidelity(0.0123), _latency()),
        ),
        {"latency": 61.2, "nothing": 0.0},
        ("a note",),
    )


def _cells(text: str, row: str) -> dict[str, str]:
    """A row of the main table in Markdown by column."""
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line] for line in table]
    first = next(number for number, line in enumerate(lines) if line[:2] == ["level", "size MB"])
    return dict(zip(lines[first], next(line for line in lines[first:] if line[0] == row), strict=True))


def test_table_has_every_figure() -> None:
    assert _cells(markdown(_results()), "Q4_0") == {
        "level": "Q4_0", "size MB": "14.2", "bits/weight": "4.50", "accuracy %": "79.6 [74.6, 84.6]",
        "to full precision, points": "-0.4 [-2.0, +1.2]", "KL, nats": "0.012", "top-1 %": "98.76 [98.00, 99.00]",
        "load s": "1.23", "first token ms": "321", "decode tok/s": "98.7", "image ms": "45.6", "peak MB": "123",
    }  # fmt: skip


def test_rows_are_reference_variants_control() -> None:
    text = markdown(_results())
    assert text.index("| reference") < text.index("| Q4_0") < text.index("| control: decoder at 3 bits")


def test_what_a_figure_rests_on_is_said() -> None:
    text = markdown(_results())
    for said in (
        "Stand-in: a stand-in", "n = 240; prompt 'What is it?'; parser first-label", "at most 24 tokens",
        "at most 4.0 % of a row's answers cut off", "always 'nodule' gives 12.5 %",
        "2300 positions of 32 chunks of 512 tokens",
        "noise floor (full precision in bfloat16 against float32) 0 nats",
        "medians over 5 rounds", "somebody 2026; licence CC0; drawn",
        "A CPU, 2 cores",
        "edgekit 0.1.0", "commit cccccccccccc", "- a note", "Time: latency 61 s, together 61 s",
        "control: decoder at 3 bits: shows in finding-phantom",
    ):  # fmt: skip
        assert said in text


def test_controls_must_show_damage() -> None:
    assert controls_show_damage(_results().records)
    hidden = _results(NOTHING)
    assert not controls_show_damage(hidden.records)
    warning = "control: decoder at 3 bits: no task shows the damage, so no figure here can show any"
    assert markdown(hidden).startswith("**WARNING: A model, " + warning)
    assert warning in page(hidden)
    assert warning not in page(_results())


def test_a_gain_is_no_damage() -> None:
    assert not controls_show_damage(_results(Estimate(0.3, 0.24, 0.36, 240)).records)


def test_every_control_must_show_it() -> None:
    blind = _record("control: image encoder at 3 bits", "control", _accuracy(0.8, NOTHING), bits=3, model="Another")
    both = replace(_results(), records=(*_results().records, blind))
    assert not controls_show_damage(both.records)
    assert [one.shown for one in damage(both.records)] == [("finding-phantom",), ()]


def test_tasks_that_miss_the_damage_are_named() -> None:
    record = _record("control", "control", _accuracy(0.5, DROP), _accuracy(0.7, NOTHING, "yesno-phantom"), bits=3)
    text = markdown(replace(_results(), records=(record,)))
    assert "shows in finding-phantom; not in yesno-phantom, which could not show such damage in any row" in text
    assert "70.0 [65.0, 75.0] (-0.4 [-2.0, +1.2])" in text


def test_a_control_that_failed_says_nothing_of_damage() -> None:
    """Neither that it shows some nor that it shows none."""
    failed = replace(_accuracy(0.5, None), metrics={}, details={}, error="SIGSEGV")
    (found,) = damage([_record("control", "control", failed, bits=3)])
    assert (found.shown, found.missed) == ((), ())


def test_a_control_that_did_not_run_is_said_to_be_not_run() -> None:
    """Whether it failed itself, or full precision did and there is nothing to compare with: it shows no "no drop"."""
    failed = replace(_accuracy(0.5, None), metrics={}, details={}, error="SIGSEGV")
    for measured, reason in ((failed, "SIGSEGV"), (_accuracy(0.5, None), "full precision was not measured")):
        control = _record("control", "control", measured, bits=3)
        results = replace(_results(), records=(control, *_results().records[1:]))
        (found,) = damage(results.records)
        assert found.not_run == {"finding-phantom": reason}
        assert not found.blind
        assert results.shows_damage is None
        for text in (markdown(results), page(results)):
            assert f"control: not run on finding-phantom: {reason}." in text
            assert "WARNING" in markdown(results)
            assert "A model, control: not run on finding-phantom" in text
            assert "NO task" not in text
            assert "no task shows" not in text
        stated = json.loads(as_json(results))
        assert stated["controls_show_damage"] is None
        assert stated["controls"][0]["not_run"] == {"finding-phantom": reason}


def test_a_control_that_ran_in_part_says_both() -> None:
    failed = replace(_accuracy(0.5, None, "yesno-phantom"), metrics={}, details={}, error="SIGSEGV")
    record = _record("control", "control", _accuracy(0.5, DROP), failed, bits=3)
    results = replace(_results(), records=(record, *_results().records[1:]))
    assert results.shows_damage is None
    assert "control: shows in finding-phantom; not run on yesno-phantom: SIGSEGV." in markdown(results)


def test_without_a_control_nothing_is_claimed() -> None:
    results = replace(_results(), records=_results().records[1:])
    assert results.shows_damage is None
    assert json.loads(as_json(results))["controls_show_damage"] is None


def test_samples_that_failed_are_counted_and_named() -> None:
    measured = replace(_accuracy(0.8, None), failed=("a.zip: x.jpg is no image", "a.zip: y.jpg is no image"))
    results = replace(_results(), records=(_record("Q4_0", "variant", measured),))
    for text in (markdown(results), page(results)):
        assert "n = 240 of 242" in text
        assert "finding-phantom: 2 of 242 failed: a.zip: x.jpg is no image, and 1 more" in text
    stated = json.loads(as_json(results))["records"][0]["measurements"][0]
    assert (stated["n"], stated["failed"]) == (240, list(measured.failed))


def test_data_that_is_not_the_published_set_is_said_first() -> None:
    data = {**DATA, "published": "no", "title": "not the published set (lungs)", "citation": "unknown"}
    results = replace(_results(), records=(_record("Q4_0", "variant", replace(_accuracy(0.8, None), dataset=data)),))
    assert markdown(results).startswith("**WARNING: finding-phantom: not the published set (lungs)**")
    assert "somebody 2026" not in markdown(results) + page(results)


def test_without_accuracy_nothing_is_claimed() -> None:
    assert controls_show_damage((_record("control", "control", _fidelity(1.0), bits=3),))


def test_errors_come_first() -> None:
    broken = replace(_accuracy(0.5, None), metrics={}, details={}, error="SIGSEGV")
    results = replace(_results(), records=(_record("Q4_0", "variant", broken),))
    assert results.errors == ("A model, Q4_0, finding-phantom: SIGSEGV",)
    assert markdown(results).startswith("**WARNING: not measured: A model, Q4_0, finding-phantom: SIGSEGV**")
    assert "SIGSEGV" in page(results)


class _Strict(HTMLParser):
    """Collects tags and attributes, and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_alone_and_is_well_formed() -> None:
    text = page(_results())
    parser = _Strict()
    parser.feed(text)
    assert parser.open == []
    assert parser.links == []
    assert "script" not in parser.tags
    assert not re.search(r"https?:", text)
    assert "url(" not in text
    assert parser.tags.count("svg") == 9  # accuracy, difference, KL against size, top token, five costs
    assert "prefers-color-scheme: dark" in text
    assert "<td>17</td>" in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text)


def test_names_from_a_manifest_are_escaped() -> None:
    record = replace(_results().records[1], model="<script>alert(1)</script>", row="a|b<i>")
    evil = replace(_results(), records=(record,))
    assert "<script>" not in page(evil)
    assert "<i>" not in page(evil)
    assert "a\\|b" in markdown(evil)
    assert "\\<script>" in markdown(evil)
    assert not re.search(r"(?<!\\)<(script|i|/)", markdown(evil))


def test_texts_of_others_control_nothing() -> None:
    """No terminal, no table's line, no link, no cell of a spreadsheet."""
    name = "=A\x1b[31m\x00\nB\r[x](http://y)"
    measured = replace(_accuracy(0.5, NOTHING), title=name, failed=(name,), error=None)
    details = {**measured.details, "by_topic": {name: {"value": 0.5, "n": 3}}}
    record = replace(_record(name, "variant", replace(measured, details=details)), model=name)
    evil = Results((record,), {}, (name,), name)
    for text in (markdown(evil), page(evil), as_csv(evil)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
        assert "\nB" not in text
    assert "](http" not in markdown(evil)
    (line,) = {line["row"] for line in csv.DictReader(io.StringIO(as_csv(evil)))}
    assert line.startswith("'=A")


def test_files_are_written_and_json_is_strict(tmp_path: Path) -> None:
    infinite = _record("Q4_0", "variant", _fidelity(float("inf")))
    write(replace(_results(), records=(infinite, *_results().records)), tmp_path / "out")
    data = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert data["records"][0]["measurements"][0]["metrics"]["kl"]["value"] is None
    assert data["controls_show_damage"] is True
    difference = data["records"][3]["measurements"][0]["paired"]["difference"]
    assert Estimate(**difference) == NOTHING
    assert data["records"][3]["environment"]["fingerprint"] == HERE.fingerprint
    assert "not finite" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_an_accuracy_needs_no_baseline_to_be_drawn() -> None:
    measured = _accuracy(0.5, None)
    details = {name: value for name, value in measured.details.items() if name != "majority_baseline"}
    record = _record("Q4_0", "variant", replace(measured, kind="latency", details={**details, "rounds": 1}))
    text = page(replace(_results(), records=(record,)))
    assert "Findings: accuracy with 95 % interval, n = 240<" in text
    assert 'class="dashed"' not in text


def test_earlier_phases_are_added() -> None:
    assert list(_results().after({"export": 3.0}).phases) == ["export", "latency", "nothing"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.99997, "0.99997"), (1.0, "1"), (0.12345, "0.123"), (99.98, "99.98"), (1234.5, "1,234"), (-0.0, "0"),
        (3, "3"), (True, "yes"), (float("nan"), "not finite"), (None, "-"), (1e300, "1e+300"), (0.0, "0"),
    ],
)  # fmt: skip
def test_a_number_is_not_rounded_to_what_it_is_not(value: object, text: str) -> None:
    assert figures.bare(value) == text


def test_no_zero_has_a_minus_and_no_interval_is_not_a_number() -> None:
    assert figures.points(Estimate(-1e-5, -1e-5, 1e-5, 9)) == "+0.0 [+0.0, +0.0]"
    assert figures.percent(Estimate(0.5, float("nan"), float("inf"), 9)) == "50.0"
    assert figures.percent(Estimate(float("nan"), 0.0, 1.0, 9)) == "not finite [0.0, 100.0]"


def test_details_say_shares_in_percent_and_sizes_in_megabytes() -> None:
    measured = _fidelity(0.01)
    parts = {"0 to 0.5": plain(Estimate(1.0, 0.99, 1.0, 1381)), "0.5 to 1": plain(Estimate(0.9996, 0.99, 1.0, 2500))}
    measured = replace(measured, details={**measured.details, "top1_by_confidence": parts})
    timed = replace(_latency(), metrics={**_latency().metrics, "file_bytes": Estimate(4.2e6, 4.2e6, 4.2e6, 5)})
    text = markdown(replace(_results(), records=(_record("Q4_0", "variant", measured, timed),)))
    assert "100 % (n = 1381)" in text
    assert "99.96 % (n = 2500)" in text
    assert re.search(r"\| file MB +\|", text)
    assert re.search(r"\| 4\.2 +\|", text)


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, float("inf"), float("nan")])
def test_no_figure_breaks_a_chart(value: float) -> None:
    absurd = [Estimate(value, value, value, 5), Estimate(0.5, 0.4, value, 5), Estimate(0.5, value, 0.6, 5)]
    for estimate in absurd:
        score = replace(_accuracy(0.5, estimate), metrics={"accuracy": estimate})
        compared = replace(_fidelity(0.1), metrics={"kl": estimate, "top1": estimate})
        timed = replace(_latency(), metrics=dict.fromkeys(_latency().metrics, estimate))
        text = page(replace(_results(), records=(_record("Q4_0", "variant", score, compared, timed),)))
        assert not re.search(r'="-?(nan|inf)"|>-?(nan|inf)<', text)


def test_charts_are_in_the_tables_unit() -> None:
    """Percent where the table has percent, with as many digits."""
    text = page(_results())
    chart = next(part for part in text.split("<figure>") if "top-1 %, 95 % interval" in part)
    assert ">98.76<" in chart
    assert ">0.98760<" not in text


def _positions(svg: str) -> list[float]:
    return [float(x) for x in re.findall(r'<circle class="\w+" cx="([\d.]+)"', svg)]


def test_charts_place_values_to_scale() -> None:
    marks = [charts.Mark("a", "variant", v, v - 1, v + 1) for v in (10.0, 20.0, 40.0)]
    a, b, c = _positions(charts.intervals(marks, title="t", unit="%"))
    assert (c - b) / (b - a) == pytest.approx(2, rel=0.01)
    widths = [float(w) for w in re.findall(r'<rect[^>]* width="([\d.]+)"', charts.bars(marks, title="t", unit="ms"))]
    assert widths[2] / widths[0] == pytest.approx(4, rel=0.01)
    svg = charts.scatter([("a", "variant", 4, 1e-3), ("b", "variant", 8, 1e-5)], title="t", x_unit="x", y_unit="y")
    assert _positions(svg)[0] < _positions(svg)[1]
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', svg)]
    assert heights[0] < heights[1]  # the larger distance is drawn higher


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_charts_survive_a_single_value_without_width(value: float) -> None:
    mark = [charts.Mark("a", "variant", value, value, value)]
    assert "nan" not in charts.intervals(mark, title="t", unit="") + charts.bars(mark, title="t", unit="")
    assert "nan" not in charts.scatter([("a", "variant", 4, value)], title="t", x_unit="x", y_unit="y")
