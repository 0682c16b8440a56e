"""The report's page in a real browser: it fits, at any width, and has no script."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bench_records import answers, compared, logits, results, row, times
from browser import Browser, opened

from edgekit.bench.decision import Question, gates
from edgekit.bench.report.page import page
from edgekit.machine.devices import device

LONG = "gguf-" + "a_long_level_name" * 4
WIDTHS = (1280, 800, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight levels on six tasks with thirty topics, and names that are longer than a table likes."""
    tasks = [f"answers-{i}" for i in range(6)]
    paired = compared(-0.03, -0.01, 0.01, p=0.2, adjusted_p=0.9, within=False, gained=3, lost=6, items_needed=123_456)
    names = ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", LONG]
    topics = {f"topic {i}": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 12} for i in range(30)}
    detailed = [
        replace(answers(0.8, paired, task), details={**answers(0.8).details, "by_topic": topics}) for task in tasks
    ]
    full = row("reference", *(answers(0.8, task=task) for task in tasks), logits(1e-5), kind="reference")
    levels = [row(name, *detailed, logits(0.01), times(300, 3e9)) for name in names]
    control = row("control: decoder at 2 bits", answers(0.1, compared(-0.8, -0.7, -0.6), tasks[0]), kind="control")
    question = Question(gates(["accuracy_drop <= 1, kl <= 0.2"]), device("raspberry-pi-5"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(results(full, *levels, control), question), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_out_of_the_page(browser: Browser, report: Path, width: int) -> None:
    browser.size(width, 900)
    browser.go(report.as_uri())
    assert browser.js("return document.documentElement.scrollWidth") <= width
    # Nothing but what a frame hides reaches beyond the page, and a frame is as wide as its page at most.
    beyond = browser.js(
        """const beyond = [...document.querySelectorAll('body *')].filter((one) =>
            !one.closest('table') && !one.closest('svg') && one.getBoundingClientRect().right > innerWidth + 1);
        return beyond.map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    cut = browser.js(
        """return [...document.querySelectorAll('table')].filter((one) => {
            const frame = one.closest('.frame');
            const scrolls = getComputedStyle(frame).overflowX === 'auto' && frame.tabIndex === 0;
            return one.scrollWidth > frame.clientWidth + 1 && !scrolls}).length"""
    )
    assert cut == 0


def test_tables_of_figures_need_no_scrolling_on_a_laptop(browser: Browser, report: Path) -> None:
    browser.size(1280, 900)
    browser.go(report.as_uri())
    wide = browser.js(
        """return [...document.querySelectorAll('.frame')].filter((one) => one.scrollWidth > one.clientWidth + 1)
            .map((one) => one.innerText.slice(0, 60))"""
    )
    assert wide == []


def test_a_phone_shows_letters_that_can_be_read_and_where_there_is_more(browser: Browser, report: Path) -> None:
    browser.size(390, 900)
    browser.go(report.as_uri())
    small = browser.js(
        """return [...document.querySelectorAll('svg')].filter((one) =>
            one.getBoundingClientRect().width / one.viewBox.baseVal.width * 11 < 9 ||
            !one.closest('.frame')).length"""
    )
    assert small == 0
    shaded = browser.js("return getComputedStyle(document.querySelector('.frame')).backgroundAttachment")
    assert shaded == "local, local, scroll, scroll"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(browser: Browser, report: Path, scheme: str) -> None:
    browser.size(1280, 900)
    browser.prefer(color_scheme=scheme)
    browser.go(report.as_uri())
    assert browser.faults() == []
    assert browser.messages() == []
    assert [one["url"] for one in browser.requests()] == [report.as_uri()]


def test_a_printed_page_shows_whole_tables(browser: Browser, report: Path) -> None:
    browser.go(report.as_uri())
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.js("return getComputedStyle(document.querySelector('.frame')).overflowX") == "visible"
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_decision_stands_first(browser: Browser, report: Path) -> None:
    browser.size(1280, 900)
    browser.go(report.as_uri())
    assert browser.text("h2") == "Decision"
    assert browser.text("strong").startswith("A model: ")
    assert browser.js("return document.querySelector('strong').getBoundingClientRect().bottom") < 900
    assert browser.all("script") == []
