"""The page, in a real browser, by clicks and keys, against a real server."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, opened
from page_server import served
from PIL import Image
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from starlette.applications import Starlette
from starlette.testclient import TestClient

from edgekit.inputs.phantoms import draw
from edgekit.serve.page import files

STATIC = Path(files.__file__).parent / "static"
MOST_BYTES = 200_000
QUESTION = "What is the main finding in this image?"
LONG = "What are the symptoms of Gaucher disease ?"  # what the reference model never stops to tell
DEFAULT, OTHER = "BF16", "Q4_0"
KEY = "kKmXrR2v8tqLwZ0n5bQyH3cJ7dFsA9eG"
ENDED = '#ask li:last-child[aria-busy="false"]'
ANSWER = "#ask li:last-child .answer"
ASKED = """window.fetch = async (path, {body}) => {  // from now on nobody answers
    if (body) window.asked = body;
    throw new TypeError();
}"""
HOSTILE = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened() as found:
        yield found


@pytest.fixture(scope="module")
def server(medgemma_artifact: Path, medsiglip_artifact: Path) -> Iterator[str]:
    with served(medgemma_artifact, medsiglip_artifact) as url:
        yield url


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "phantom.png"
    Image.fromarray(draw(seed=9, index=3).image).save(path)
    return path


@pytest.fixture
def page(browser: Browser, server: str) -> Browser:
    """The page, freshly opened on a laptop's screen, with a model that can be asked."""
    browser.size(1280, 800)
    browser.prefer(color_scheme="light", reduced_motion="no-preference")
    browser.go(server)
    browser.until(lambda: browser.text("[data-fact=level]") == DEFAULT)
    return browser


def give(page: Browser, *paths: Path) -> None:
    page.find("#file").send_keys("\n".join(map(str, paths)))


def encoded(page: Browser) -> bool:
    return page.text("[data-part=image] .state").startswith("Encoded in")


def ask(page: Browser, question: str) -> str:
    """Ask by clicking, and wait for the answer's end; the answer."""
    page.find("#question").send_keys(question)
    page.click("[data-does=ask]")
    page.until(lambda: page.find("[data-does=ask]").is_displayed() and page.all(ENDED))
    return page.text(ANSWER).strip()


def compare(page: Browser, labels: str) -> list[tuple[str, float, float]]:
    """Labels compared by clicking: each with its score, and the share of its bar that is filled."""
    page.click("#tab-labels")
    page.find("#label-lines").send_keys(labels)
    page.click("#labels .main")
    page.until(lambda: page.all(".bars li"))
    return [
        tuple(row)
        for row in page.js("""return [...document.querySelectorAll('.bars li')].map((bar) => {
            const [name, score, track, filled] = ['name', 'score', 'track', 'filled'].map(
                (one) => bar.querySelector(`.${one}`));
            const share = parseFloat(score.textContent.replace(/[<>]/, '')) / 100;
            return [name.textContent, share, filled.offsetWidth / track.offsetWidth]})""")
    ]


def sent(page: Browser, path: str) -> list[dict[str, Any]]:
    """The bodies that the page posted to a path since this was last asked."""
    return [
        json.loads(one["postData"]) for one in page.requests() if one["method"] == "POST" and one["url"].endswith(path)
    ]


def answered_by(page: Browser, status: int, body: str, kind: str = "text/event-stream") -> None:
    """From now on the server's answers are these, whatever is asked: what a broken or hostile one might say."""
    page.js(
        """const [status, body, kind] = arguments;
        const headers = {'Content-Type': kind, ...(status === 429 && {'Retry-After': '3'})};
        window.fetch = async () => new Response(body, {status, headers})""",
        status,
        body,
        kind,
    )


def halted(page: Browser, chunks: int) -> None:
    """From now on no more of a stream arrives than this, until it is stopped: else a slow browser may stop it after its
    end.
    """
    page.js(
        """const [most] = arguments;
        window.unhalted = window.fetch;
        window.fetch = async (path, options) => {
            const response = await window.unhalted(path, options);
            let count = 0;
            const stopped = new Promise((resolve) => options.signal?.addEventListener('abort', resolve));
            const halt = {transform: async (chunk, controller) => {
                controller.enqueue(chunk);
                count += 1;
                if (count === most) await stopped;
            }};
            return new Response(response.body.pipeThrough(new TransformStream(halt)), response);
        }""",
        chunks,
    )


def streamed(*deltas: str, end: str | None = None) -> str:
    return "".join(chunk({"content": text}) for text in deltas) + (ended("stop") if end is None else end)


def chunk(delta: dict[str, str], reason: str | None = None) -> str:
    document = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    return f"data: {json.dumps(document)}\n\n"


def ended(reason: str | None) -> str:
    return chunk({}, reason) + "data: [DONE]\n\n"


# The files


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=files.routes()))


def paths() -> list[str]:
    return [route.path for route in files.routes()]


def test_the_page_is_small(client: TestClient) -> None:
    assert sum(len(client.get(path).content) for path in paths()) < MOST_BYTES
    assert len(paths()) == sum(path.is_file() for path in STATIC.rglob("*"))


@pytest.mark.parametrize("path", paths())
def test_each_file_says_what_it_is_and_is_sent_once(client: TestClient, path: str) -> None:
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "html": "text/html"}
    first = client.get(path)
    assert first.status_code == 200
    assert first.headers["Content-Type"].startswith(kinds[path.rpartition(".")[2] if path != "/" else "html"])
    assert first.headers["X-Content-Type-Options"] == "nosniff"
    assert first.headers["Referrer-Policy"] == "no-referrer"
    again = client.get(path, headers={"If-None-Match": f'W/"x", W/{first.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert client.get(path, headers={"If-None-Match": '"x"'}).content == first.content


def test_the_policy_lets_nothing_in(client: TestClient) -> None:
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "http" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")


@pytest.mark.parametrize("path", ["/page/", "/page/index.html", "/page/../files.py", "/page/%2e%2e/files.py", "/page"])
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path, follow_redirects=False).status_code == 404


@pytest.mark.parametrize("path", sorted(STATIC.rglob("*.*")), ids=lambda path: path.name)
def test_no_file_makes_markup_of_text_keeps_anything_or_names_another_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|localStorage|sessionStorage|cookie"
    assert re.findall(wrong, text) == []
    assert re.findall(r"\bstyle=|\son\w+=|<script>|<style", text) == []
    named = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"]*", text))
    assert named <= {"http://www.w3.org/2000/svg", "https://html.spec.whatwg.org/multipage/server-sent-events.html"}


# Asking


def test_an_image_is_encoded_before_there_is_a_question(page: Browser, picture: Path) -> None:
    page.js("""window.seen = []; const state = document.querySelector('#handing-state');
        new MutationObserver(() => window.seen.push(state.textContent)).observe(state, {childList: true})""")
    give(page, picture)
    page.until(lambda: encoded(page))
    assert [body["model"] for body in sent(page, "/v1/images")] == [f"medgemma:{DEFAULT}"]
    sending, encoding, done = dict.fromkeys(filter(None, page.js("return window.seen")))
    assert (sending, encoding) == ("Sending…", "Encoding…")
    assert re.fullmatch(r"Encoded in [\d.]+ m?s: ask about it\.", done)
    assert ask(page, QUESTION) == "pneumothorax"
    assert page.find("#ask li img").get_attribute("src").startswith("blob:")


def test_an_answer_is_seen_as_it_is_made(page: Browser) -> None:
    page.js("""window.seen = []; new MutationObserver(() => window.seen.push(
        document.querySelector('#ask .answer')?.textContent)).observe(document, {subtree: true, childList: true})""")
    answer = ask(page, "Is Marfan syndrome inherited ?")
    grown = list(dict.fromkeys(filter(None, page.js("return window.seen"))))
    assert len(grown) > 10
    assert all(later.startswith(earlier) for earlier, later in pairwise(grown))
    assert grown[-1].strip() == answer
    assert page.text("#ask .meta").startswith(f"medgemma:{DEFAULT} · first word after ")


def test_the_conversation_goes_on(page: Browser, picture: Path) -> None:
    give(page, picture)
    page.until(lambda: encoded(page))
    first = ask(page, QUESTION)
    ask(page, "Is there a nodule in this image?")
    one, two = (body["messages"] for body in sent(page, "/v1/chat/completions"))
    assert [turn["role"] for turn in two] == ["user", "assistant", "user"]
    assert two[0] == one[0]
    image, text = one[0]["content"]
    assert re.fullmatch(r"edgekit-image:[\w-]+", image["image_url"]["url"])
    assert text["text"] == QUESTION
    assert two[1]["content"].strip() == first
    assert two[2]["content"] == "Is there a nodule in this image?"


def test_what_matters_is_always_seen(page: Browser, picture: Path) -> None:
    give(page, picture)
    for width, height in ((1280, 800), (320, 640)):
        page.size(width, height)
        ask(page, QUESTION)
        page.js("scrollTo(0, document.documentElement.scrollHeight)")
        facts = page.js("""const facts = document.querySelectorAll('.facts .uncleared, .facts dl > :not([hidden])');
            return [...facts].map((one) => {
                const box = one.getBoundingClientRect();
                const top = document.elementFromPoint(box.left + 2, box.top + box.height / 2);
                return [one.textContent, box.height > 0 && one.contains(top)]})""")
        said = " | ".join(text for text, _ in facts)
        for what in ("Not cleared for clinical use", f"Level{DEFAULT}", "Parity", "Stand-inreference model", "Licence"):
            assert what in said
        assert all(seen for _, seen in facts), facts


def test_an_answer_can_be_stopped_and_the_next_question_asked(page: Browser) -> None:
    halted(page, chunks=20)
    for number, stop in enumerate((lambda: page.click("[data-does=stop]"), lambda: page.keys(Keys.ESCAPE)), 1):
        page.find("#question").send_keys(LONG, Keys.ENTER)
        page.until(lambda: len(page.all("#ask ol > li")) == number and len(page.text(ANSWER)) > 20)  # noqa: B023
        stop()
        page.until(lambda: page.all(ENDED))
        assert "Stopped. What stands here is not complete." in page.text("#ask li:last-child .notes")
        stopped = page.text(ANSWER).strip()
        assert page.find("[data-does=ask]").is_displayed()
        assert page.js("return document.activeElement.id") == "question"
    page.js("window.fetch = window.unhalted")
    ask(page, "What is a cough?")
    told = sent(page, "/v1/chat/completions")[-1]["messages"][-2]["content"]
    assert re.split(r"\s*\[This answer was cut off here", told)[0] == stopped


@pytest.mark.parametrize("end", [ended("length"), ended(None), 'data: {"error": {"message": "it died"}}\n\n', ""])
def test_an_answer_that_is_not_complete_is_not_taken_for_one(page: Browser, end: str) -> None:
    answered_by(page, 200, streamed("No nodule, ", "but", end=end))
    assert ask(page, "What is it?") == "No nodule, but"
    notes = page.text("#ask li:last-child .notes")
    assert "What stands here is not complete." in notes
    assert "The model is told so with the next question." in notes
    assert page.text("#ask [role=status]").startswith("Incomplete answer: ")
    page.js(ASKED)
    ask(page, "And now?")
    told = json.loads(page.js("return window.asked"))["messages"]
    assert told[1]["content"] == "No nodule, but\n\n[This answer was cut off here: it is not complete.]"


def test_a_complete_answer_goes_back_as_it_is(page: Browser) -> None:
    answered_by(page, 200, streamed("No nodule."))
    ask(page, "What is it?")
    assert "not complete" not in page.text("#ask li:last-child")
    assert page.text("#ask [role=status]") == "Answer: No nodule."
    page.js(ASKED)
    ask(page, "And now?")
    assert json.loads(page.js("return window.asked"))["messages"][1]["content"] == "No nodule."


def test_an_image_of_wrong_contrast_can_be_stretched(page: Browser, picture: Path, tmp_path: Path) -> None:
    stretch = "[data-does=stretch]"
    give(page, picture)
    page.until(lambda: encoded(page))
    assert not page.find(stretch).is_displayed()
    dark = tmp_path / "dark.png"
    Image.fromarray(np.arange(9216, dtype=np.uint16).reshape(96, 96)).save(dark)
    give(page, dark)
    page.until(lambda: page.find(stretch).is_displayed())
    assert "WRONG CONTRAST" in page.text("[data-part=image] .notes")
    page.click(stretch)
    page.until(lambda: "were stretched" in page.text("[data-part=image] .notes"))
    assert encoded(page)
    assert "WRONG CONTRAST" not in page.text("[data-part=image] .notes")
    assert not page.find(stretch).is_displayed()
    assert [body["range"] for body in sent(page, "/v1/images")] == [None, None, "auto"]
    ask(page, QUESTION)
    assert "WRONG CONTRAST" not in page.text("#ask li:last-child .notes")
    assert compare(page, "a nodule")
    assert "WRONG CONTRAST" not in page.text("#labels .notes")


def test_an_image_that_the_server_no_longer_holds_is_handed_over_again(page: Browser, picture: Path) -> None:
    give(page, picture)
    page.until(lambda: encoded(page))
    first = ask(page, QUESTION)
    (image, _) = sent(page, "/v1/chat/completions")[0]["messages"][0]["content"]
    held = image["image_url"]["url"].removeprefix("edgekit-image:")
    assert page.awaited("return (await fetch(`v1/images/${given[0]}`, {method: 'DELETE'})).status", held) == 200
    assert ask(page, QUESTION) == first
    assert not page.find("#ask li:last-child").find_elements("css selector", ".trouble")
    assert [row[0] for row in compare(page, "a nodule")] == ["a nodule"]


def test_another_level_answers_in_the_same_conversation(page: Browser, picture: Path) -> None:
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    Select(page.find("#level")).select_by_visible_text(OTHER)
    page.until(lambda: page.text("[data-fact=level]") == OTHER)
    page.until(lambda: page.text("[data-part=image] .state").startswith("In the conversation"))
    ask(page, QUESTION)
    assert [meta.text.split(" · ")[0] for meta in page.all("#ask .meta")] == [
        f"medgemma:{level}" for level in (DEFAULT, OTHER)
    ]
    assert [body["model"] for body in sent(page, "/v1/images")] == [f"medgemma:{DEFAULT}", f"medgemma:{OTHER}"]


# Labels


def test_labels_are_bars(page: Browser, picture: Path) -> None:
    give(page, picture)
    rows = compare(page, "a nodule\n\n  a pneumothorax \nno finding\n")
    assert {label for label, _, _ in rows} == {"a nodule", "a pneumothorax", "no finding"}
    assert [score for _, score, _ in rows] == sorted((score for _, score, _ in rows), reverse=True)
    assert sum(score for _, score, _ in rows) == pytest.approx(1, abs=0.01)
    page.until(lambda: not page.js("return document.getAnimations().length"))
    for _, score, filled in compare_again(page):
        assert filled == pytest.approx(score, abs=0.01)


def compare_again(page: Browser) -> list[tuple[str, float, float]]:
    return compare(page, "")


def test_a_model_that_only_classifies(page: Browser, picture: Path) -> None:
    Select(page.find("#model")).select_by_index(1)
    page.until(lambda: page.text("[data-fact=level]") == "fp32")
    assert not page.find("#tab-ask").is_enabled()
    assert page.find("#tab-labels").get_attribute("aria-selected") == "true"
    give(page, picture)
    assert page.find("[name=scores][value=sigmoid]").is_selected()  # what it was trained on, whoever was chosen before
    assert compare(page, "a nodule\nno finding")
    assert sent(page, "/v1/classify")[0]["scores"] == "sigmoid"
    page.find("[name=scores][value=softmax]").click()
    assert not page.all(".bars li")  # scores of one kind must not stand beneath the other


# What can go wrong


def test_a_file_that_is_no_image_is_refused_in_a_sentence(page: Browser, tmp_path: Path, picture: Path) -> None:
    (tmp_path / "report.png").write_text("no image at all")
    give(page, tmp_path / "report.png")
    trouble = page.until(lambda: page.text("[data-part=image] .trouble"))
    assert re.fullmatch(r"[A-Z][^\n]*\.", trouble)
    assert page.find("[data-part=image] .trouble").get_attribute("role") == "alert"
    assert "report.png" not in trouble
    page.click("[data-does=remove]")
    assert not page.find("figure").is_displayed()
    give(page, picture)
    page.until(lambda: encoded(page))


def test_labels_without_an_image_and_an_image_without_labels(page: Browser, picture: Path) -> None:
    page.click("#tab-labels")
    page.click("#labels .main")
    assert page.text("#labels .trouble") == "There is no image yet: choose one first."
    give(page, picture)
    page.click("#labels .main")
    assert page.text("#labels .trouble") == "There are no labels yet: write one a line."


def test_two_images_at_once_are_not_guessed_about(page: Browser, picture: Path) -> None:
    drop(page, 2)
    assert page.text("[data-part=image] .trouble") == "One image at a time, please: which of these is meant?"
    assert not page.find("figure").is_displayed()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(page: Browser, event: str) -> None:
    drop(page, 1, event)
    page.until(lambda: encoded(page))
    assert page.find("figure img").is_displayed()


def drop(page: Browser, count: int, event: str = "drop") -> None:
    """Selenium moves no files by mouse: the events that a browser would send."""
    page.awaited("""const [count, event] = given;
        const picture = await new Promise((done) => document.createElement('canvas').toBlob(done));
        const files = new DataTransfer();
        for (let i = 0; i < count; i++) files.items.add(new File([picture], `${i}.png`, {type: 'image/png'}));
        const made = event === 'drop' ? new DragEvent(event, {dataTransfer: files, bubbles: true, cancelable: true})
            : new ClipboardEvent(event, {clipboardData: files, bubbles: true, cancelable: true});
        document.body.dispatchEvent(made)""", count, event)  # fmt: skip


def test_what_a_model_says_is_text_whatever_it_looks_like(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=document.title='run'>.png"
    Image.new("L", (32, 32)).save(path)
    give(page, path)
    page.until(lambda: encoded(page))
    answered_by(page, 200, streamed(HOSTILE[:10], HOSTILE[10:]))
    assert ask(page, HOSTILE) == HOSTILE
    assert page.text("#ask li:last-child .asked p") == HOSTILE
    assert page.text("figcaption") == path.name
    answered_by(page, 400, json.dumps({"error": {"message": HOSTILE}}), "application/json")
    ask(page, "again")
    assert HOSTILE in page.text("#ask li:last-child .trouble")
    assert page.driver.title == "edgekit"
    assert page.js("return document.body.querySelectorAll('script, [onerror]').length") == 0


def test_thoughts_are_folded_away_from_the_answer(page: Browser) -> None:
    thought = json.dumps({"choices": [{"index": 0, "delta": {"reasoning_content": "Perhaps."}, "finish_reason": None}]})
    answered_by(page, 200, f"data: {thought}\n\n" + streamed("No."))
    assert ask(page, "Is there a nodule?") == "No."
    folded = page.find("#ask details p")
    assert not folded.is_displayed()
    page.click("#ask summary")
    assert folded.text == "Perhaps."


def test_markup_cannot_be_made_of_text(page: Browser) -> None:
    made = "document.createElement('script')"
    for sink in (
        "document.body.innerHTML = 'x'",
        "document.write('x')",
        f"{made}.text = '1'",
        f"{made}.src = '/page/x'",
    ):
        assert "requires 'Trusted" in page.awaited(sink)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, streamed("half ", end='data: {"error": {"message": "the engine died\\ntry: ask again"}}\n\n'),
         "The engine died; try: ask again."),
        (200, streamed("half ", end=""), "The server broke off: this answer is not complete."),
        (200, "data: {\n\n", "The server's answer cannot be read: is it edgekit?"),
        (429, '{"error": {"message": "too many wait"}}', "Too many wait. Try again in 3 s."),
        (503, "<html>", "The server answered 503 without a reason."),
    ],
)  # fmt: skip
def test_an_answer_that_fails_says_so(page: Browser, status: int, body: str, said: str) -> None:
    answered_by(page, status, body)
    half = ask(page, "What is it?")
    assert page.text("#ask li:last-child .trouble") == said
    if half:
        assert "Broken off. What stands here is not complete." in page.text("#ask li:last-child .notes")
    else:
        assert page.find("#question").get_attribute("value") == "What is it?"


def test_a_server_that_is_gone(page: Browser) -> None:
    page.driver.execute_cdp_cmd("Network.enable", {})
    gone = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", gone)
    try:
        ask(page, "What is it?")
    finally:
        back = gone | {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        page.driver.execute_cdp_cmd("Network.emulateNetworkConditions", back)
    said = "The server cannot be reached: is edgekit serve still running?"
    assert page.text("#ask li:last-child .trouble") == said
    page.until(lambda: not page.find("[data-part=models] .trouble").is_displayed())


def test_events_are_read_however_the_network_cuts_them(page: Browser) -> None:
    text = ": ping\r\n\r\ndata: a\r\ndata: bé\n\nevent: x\ndata:c\r\rdata: lost"
    found = page.awaited("""const { events } = await import('/page/sse.js');
        const bytes = new TextEncoder().encode(given[0]);
        const all = [];
        for (let cut = 0; cut <= bytes.length; cut++) {
            const body = new ReadableStream({start(to) {
                for (const part of [bytes.slice(0, cut), bytes.slice(cut)]) to.enqueue(part);
                to.close();
            }});
            const found = [];
            for await (const data of events(body)) found.push(data);
            all.push(JSON.stringify(found));
        }
        return [...new Set(all)];""", text)  # fmt: skip
    assert found == ['["a\\nbé","c"]']


# Secrets


def test_a_key_is_asked_for_only_where_the_server_does(
    browser: Browser, page: Browser, medsiglip_artifact: Path, tmp_path: Path
) -> None:
    assert not page.find("#key").is_displayed()
    (tmp_path / "keys").write_text(KEY + "\n")
    (tmp_path / "keys").chmod(0o600)
    with served(medsiglip_artifact, "--preload", "none", "--api-key-file", tmp_path / "keys") as url:
        browser.go(url)
        browser.until(lambda: browser.find("#key").is_displayed())
        browser.find("#key").send_keys("a-wrong-one", Keys.ENTER)
        browser.until(lambda: browser.text("[data-part=access] .trouble") == "The server does not know this key.")
        browser.find("#key").send_keys(KEY, Keys.ENTER)
        browser.until(lambda: browser.text("[data-fact=level]") == "fp32")
        assert not browser.find("#key").is_displayed()
        assert kept(browser) == []
        browser.driver.refresh()
        browser.until(lambda: browser.find("#key").is_displayed())


def kept(page: Browser) -> list[Any]:
    found = page.awaited("""return [...Object.keys(localStorage), ...Object.keys(sessionStorage), document.cookie,
        ...await indexedDB.databases(), ...await caches.keys()].filter(Boolean)""")
    return list(found)


def is_held(server: str, image: dict[str, Any]) -> bool:
    """Whether a server still has an image that was handed over."""
    body = {"model": "medsiglip", "image": image["image_url"]["url"], "labels": ["a nodule"]}
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server}v1/classify", json.dumps(body).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refused:
        return b"no image of this id" not in refused.read()


def test_nothing_of_a_patient_stays(page: Browser, picture: Path, server: str) -> None:
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    page.find("#question").send_keys("and then")
    page.click("#start-over")
    assert QUESTION not in page.driver.page_source
    assert picture.name not in page.text("body")
    assert page.find("#question").get_attribute("value") == ""
    assert not page.find("figure").is_displayed()
    assert page.until(lambda: [one for one in page.requests() if one["method"] == "DELETE"])
    ask(page, QUESTION)
    assert len(sent(page, "/v1/chat/completions")[-1]["messages"]) == 1
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    (image, _) = sent(page, "/v1/chat/completions")[-1]["messages"][-1]["content"]
    page.driver.get("about:blank")
    page.until(lambda: not is_held(server, image))
    page.driver.back()
    page.until(lambda: page.text("[data-fact=level]") == DEFAULT)
    assert QUESTION not in page.driver.page_source
    assert kept(page) == []


def test_starting_over_ends_the_answer_under_way(page: Browser) -> None:
    page.find("#question").send_keys(LONG, Keys.ENTER)
    page.until(lambda: page.text(ANSWER))
    page.chord(Keys.ALT, "n")
    page.until(lambda: page.find("[data-does=ask]").is_displayed())
    assert page.all("#ask li") == []
    assert page.text("#ask [role=status]") == "Conversation and image are forgotten."


def test_nothing_is_asked_of_anyone_else_and_the_policy_is_kept(page: Browser, picture: Path, server: str) -> None:
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    compare(page, "a nodule\nno finding")
    page.click("[data-opens=details]")
    page.until(lambda: "not cleared" in page.text(".terms"))
    asked = [one["url"] for one in page.requests()]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((server, f"blob:{server}"))] == []
    assert page.messages() == []


# Whoever uses it


def test_all_of_it_can_be_done_by_keyboard(page: Browser, picture: Path) -> None:
    page.tab_to("#model")
    page.keys(Keys.ARROW_DOWN)
    page.until(lambda: page.text("[data-fact=level]") == "fp32")
    page.keys(Keys.ARROW_UP)
    page.until(lambda: page.text("[data-fact=level]") == DEFAULT)
    page.tab_to("#file")
    assert page.js("return getComputedStyle(document.querySelector('label[for=file]')).outlineStyle") == "solid"
    give(page, picture)  # the system's own dialog is not the page's
    page.until(lambda: encoded(page))
    page.tab_to("#tab-labels")  # where the other model has led
    page.keys(Keys.ARROW_LEFT)
    page.tab_to("#question")
    page.keys("What is the main")
    page.chord(Keys.SHIFT, Keys.ENTER)
    page.keys("finding in this image?", Keys.ENTER)
    page.until(lambda: page.all(ENDED) and page.find("[data-does=ask]").is_displayed())
    assert page.text(ANSWER)
    assert page.text("#ask li .asked p") == "What is the main\nfinding in this image?"
    page.driver.execute_script("document.querySelector('#tab-ask').focus()")
    page.keys(Keys.ARROW_RIGHT)
    assert page.js("return document.activeElement.id") == "tab-labels"
    page.tab_to("#label-lines")
    page.keys("a nodule", Keys.ENTER, "no finding")
    page.tab_to("#labels .main")
    page.keys(Keys.ENTER)
    page.until(lambda: page.all(".bars li"))
    page.chord(Keys.ALT, "m")
    assert page.js("return document.activeElement.id") == "model"


@pytest.mark.parametrize("width", [320, 1280])
def test_what_has_the_focus_is_seen_and_says_so(page: Browser, picture: Path, width: int) -> None:
    page.size(width, 640)
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    seen = []
    for _ in range(16):
        page.keys(Keys.TAB)
        seen.append(
            page.js("""const place = document.activeElement;
            const shown = place.type === 'file' ? place.nextElementSibling : place;
            const {left, top, width, height} = shown.getBoundingClientRect();
            const above = document.elementFromPoint(left + width / 2, top + Math.min(height / 2, 40));
            const name = place === document.body ? null : place.id || place.textContent.trim();
            return [name, getComputedStyle(shown).outlineStyle, above === place || shown.contains(above)]""")
        )
    places = [one for one in seen if one[0] is not None]  # not the browser's own, behind the last
    assert len({name for name, _, _ in places}) > 9
    assert [one for one in places if one[1:] != ["solid", True]] == []


def test_a_dialog_takes_the_focus_and_gives_it_back(page: Browser) -> None:
    page.tab_to("[data-opens=keys]")
    page.keys(Keys.ENTER)
    assert "Alt" in page.text("#keys")
    assert page.js("return document.querySelector('#keys').contains(document.activeElement)")
    page.keys(Keys.ESCAPE)
    assert not page.find("#keys").is_displayed()
    assert page.js("return document.activeElement.dataset.opens") == "keys"


@pytest.mark.parametrize("width", [320, 768, 1024])
def test_no_width_needs_scrolling_sideways(page: Browser, picture: Path, width: int) -> None:
    page.size(width, 640)
    give(page, picture)
    ask(page, QUESTION)
    ask(page, "long" * 60)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.js(wide) == [width, width]
    compare(page, "a nodule\nno finding")
    assert page.js(wide) == [width, width]
    page.click("[data-opens=details]")
    assert page.js(wide) == [width, width]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing_serious(page: Browser, picture: Path, scheme: str, width: int) -> None:
    page.prefer(color_scheme=scheme, reduced_motion="reduce")
    page.size(width, 800)
    assert page.faults() == []
    give(page, picture)
    page.until(lambda: encoded(page))
    ask(page, QUESTION)
    answered_by(page, 503, "")
    ask(page, "again")
    assert page.faults() == []
    page.js("document.querySelector('.trouble:not([hidden])').scrollIntoView()")
    page.go(page.driver.current_url)
    page.until(lambda: page.text("[data-fact=level]") == DEFAULT)
    give(page, picture)
    page.until(lambda: encoded(page))  # what it says until then moves what is to be clicked
    compare(page, "a nodule\nno finding")
    assert page.faults() == []
    for dialog in ("keys", "details"):
        page.click(f"[data-opens={dialog}]")
        assert page.faults() == []
        page.click(f"#{dialog} button")


def test_dark_is_dark_and_light_is_light(page: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(page.js(ground)) > 200
    page.prefer(color_scheme="dark")
    assert max(page.js(ground)) < 60


def test_nothing_moves_for_who_wants_that(page: Browser, picture: Path) -> None:
    page.js("window.fetch = () => new Promise(() => {})")
    page.find("#question").send_keys("What is it?", Keys.ENTER)
    waiting = page.until(lambda: page.find("#ask .waiting"))
    assert waiting.is_displayed()
    moving = "return document.getAnimations().length"
    page.until(lambda: page.js(moving))
    page.prefer(reduced_motion="reduce")
    page.until(lambda: not page.js(moving))
