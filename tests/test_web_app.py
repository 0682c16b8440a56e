"""A classifier as an offline web app: what is in the folder, and the page in a real browser, with and without server.

The browser's tests take onnxruntime-web's package: npm pack onnxruntime-web && tar -xzf onnxruntime-web-*.tgz, and
EDGEKIT_ONNXRUNTIME_WEB names the folder `package` that this makes.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import Browser, opened
from material import contents, edit_json, photo, read_json
from PIL import Image

from edgekit.classifier.compile import compile_classifier
from edgekit.classifier.labels import Label, Labels
from edgekit.classifier.opened import Classifier
from edgekit.cli import main
from edgekit.errors import ArtifactError, UsageError
from edgekit.inputs.samples import shipped_inputs
from edgekit.pack.web import WebApp, build

RUNTIME = os.environ.get("EDGEKIT_ONNXRUNTIME_WEB", "")
STATIC = Path(build.__code__.co_filename).parent / "static"
NAMES = ("normal", "viral pneumonia", "glioma <b>&amp;</b>")
ROWS = "[...document.querySelectorAll('#scores li')]"
WORKER = {"service-worker.js", "files.js"}  # which a browser looks for anew
# What is loaded before it is kept, and so twice.
PAGE = {"index.html", "app.js", "style.css", "icon.svg", "pixels.js", "app.webmanifest", *WORKER}
FORGET = "document.querySelector('#state').textContent = ''"  # or a page that is left would be taken for the next one
ELSEWHERE = "app.test"  # this machine by a name that no browser takes for secure without https
OURS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels(labels=tuple(Label(name=name, prompts=(name,)) for name in NAMES))


@pytest.fixture(scope="module")
def model(medsiglip_artifact: Path, labels: Labels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compiled") / "findings.onnx"
    return compile_classifier(medsiglip_artifact, labels, target, "fp32", inputs=shipped_inputs()).files[0]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """What stands for npm's package where no browser loads it."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.30.0"}))
    for name in OURS:
        (folder / "dist" / name).write_text(f"// {name}")
    return folder


# ---------------------------------------------------------------- the folder


def test_two_folders_are_the_same(model: Path, package: Path, tmp_path: Path) -> None:
    one, two = (build(model, package, tmp_path / name) for name in ("one", "two"))
    assert contents(one.folder) == contents(two.folder)
    assert one.bytes == sum(len((one.folder / name).read_bytes()) for name in one.files)


def test_the_list_is_of_all_files(model: Path, package: Path, tmp_path: Path) -> None:
    app = build(model, package, tmp_path / "app")
    text = (app.folder / "files.js").read_text()
    listed = json.loads(re.findall(r"FILES = (\{.*?\});", text, re.DOTALL)[0])
    there = contents(app.folder)
    assert set(listed) == set(there) - {"files.js", "service-worker.js"}
    assert set(app.files) == set(there)
    assert all(hashlib.sha256(there[name]).hexdigest() == digest for name, digest in listed.items())
    said = read_json(app.folder / "model.json")
    assert said["labels"] == list(NAMES)
    assert "reference model" in said["stand_in"]
    assert not said["terms"]
    with Classifier(model) as classifier:
        _, expected = classifier.ask([app.folder / name for name in said["test"]["images"]])
    logits = np.asarray(said["test"]["logits"])
    assert np.allclose(logits, expected, atol=1e-4)
    # A device that answers the same whatever it sees is found out, zeros among that.
    assert np.ptp(logits, axis=0).max() / 2 > said["test"]["tolerance"]


@pytest.mark.parametrize("name", ["it's.onnx", "a#b?c%41.onnx", "Lunge übersehen.onnx"])
def test_a_name_that_scripts_and_addresses_would_misread(
    name: str, model: Path, package: Path, tmp_path: Path
) -> None:
    for path in model.parent.glob(f"{model.name}*"):
        shutil.copy(path, tmp_path / path.name.replace(model.name, name))
    with pytest.raises(UsageError, match="is no name for a file of a web app"):
        build(tmp_path / name, package, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_what_answers_alike_whatever_it_sees_is_no_app(
    model: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = np.full((3, len(NAMES)), -4, np.float32)
    monkeypatch.setattr(Classifier, "ask", lambda self, images: (alike, alike))
    with pytest.raises(ArtifactError, match="differ by 0 over the self-test"):
        build(model, package, tmp_path / "app")
    assert not (tmp_path / "app").exists()


@pytest.mark.parametrize("path", sorted(STATIC.rglob("*.*")), ids=lambda path: path.name)
def test_no_file_makes_markup_of_text_keeps_anything_or_names_another_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(|localStorage|sessionStorage|cookie"
    assert re.findall(wrong, text) == []
    assert re.findall(r"\bstyle=|\son\w+=|<script>|<style", text) == []
    assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"]*", text)) <= {"http://www.w3.org/2000/svg"}


def test_what_is_no_such_package(model: Path, package: Path, tmp_path: Path) -> None:
    target = tmp_path / "app"
    (package / "dist" / OURS[2]).rename(tmp_path / "away")
    with pytest.raises(ArtifactError, match=f"no dist/{OURS[2]}"):
        build(model, package, target)
    edit_json(package / "package.json", {"version": "1.16.3"})
    (tmp_path / "away").rename(package / "dist" / OURS[2])
    with pytest.raises(ArtifactError, match=r"1\.16\.3 is too old"):
        build(model, package, target)
    edit_json(package / "package.json", {"name": "onnxruntime-node"})
    with pytest.raises(ArtifactError, match="is the package 'onnxruntime-node'"):
        build(model, package, target)
    with pytest.raises(ArtifactError, match=r"no package\.json"):
        build(model, tmp_path, target)
    assert not target.exists()


def test_a_licence_that_demands_its_terms(
    medsiglip_artifact: Path, labels: Labels, package: Path, tmp_path: Path, copied: Any
) -> None:
    folder = copied(medsiglip_artifact)
    edit_json(folder / "edgekit.json", {"license": "Health AI Developer Foundations Terms of Use"})
    (model,) = compile_classifier(folder, labels, tmp_path / "a.onnx", "fp32").files
    with pytest.raises(UsageError, match="everybody who is given it must get a copy") as refused:
        build(model, package, tmp_path / "app")
    assert "--terms FILE" in str(refused.value)
    terms = tmp_path / "terms.txt"
    terms.write_text("a page that links to them")
    with pytest.raises(UsageError, match="is not the text of the Health AI Developer Foundations Terms of Use"):
        build(model, package, tmp_path / "app", terms)
    whole = "Health AI Developer Foundations Terms of Use\n" + "what they say\n" * 400
    terms.write_text(whole)
    app = build(model, package, tmp_path / "app", terms)
    assert (app.folder / "TERMS.txt").read_text() == whole
    assert read_json(app.folder / "model.json")["terms"] is True


def test_the_command(model: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pack", str(model), "--target", "web", "--onnxruntime-web", str(package), "--to"]
    assert main([*command, str(tmp_path / "app")]) == 0
    out = capsys.readouterr().out
    assert "python -m http.server" in out
    assert f"{len(contents(tmp_path / 'app'))} files" in out
    assert main([*command, str(tmp_path / "other"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["index.html"]
    assert main([*command, str(tmp_path / "app")]) == 2
    assert "is not empty" in capsys.readouterr().err


# ---------------------------------------------------------------- the page

needs_runtime = pytest.mark.skipif(not RUNTIME, reason="EDGEKIT_ONNXRUNTIME_WEB names no package of onnxruntime-web")


@contextmanager
def static_server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """As simple as there are: its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *about: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


def state(page: Browser) -> str:
    return str(page.js("return document.querySelector('#state')?.textContent ?? ''"))


def trouble(page: Browser) -> str:
    return page.text("#trouble")


def news(page: Browser) -> str:
    return page.text("#news")


def ready(page: Browser) -> bool:
    assert not trouble(page), trouble(page)
    return state(page) == "Ready."


def scored(page: Browser, path: Path) -> list[float]:
    page.find("#file").send_keys(str(path))
    page.until(lambda: state(page).startswith("Highest:") or trouble(page))
    assert not trouble(page), trouble(page)
    return [float(one) for one in page.js(f"return {ROWS}.map((row) => row.dataset.score)")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all: each test's server is another origin."""
    with opened(f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1", "--disable-features=HttpsUpgrades") as found:
        yield found


def visit(browser: Browser, url: str) -> None:
    """Open an app and wait for it."""
    browser.go(url)
    browser.until(lambda: ready(browser))


def reload(browser: Browser) -> None:
    """As users do."""
    browser.js(FORGET)
    browser.driver.refresh()
    browser.until(lambda: ready(browser))


def labels_of(browser: Browser) -> list[str]:
    """Of the version that a tab has."""
    return list(browser.awaited("return (await (await fetch('model.json')).json()).labels"))


@pytest.mark.slow
@needs_runtime
@pytest.mark.parametrize("level", ["fp32", "int8", "q4"])
def test_it_scores_in_a_browser_and_asks_nobody(
    level: str, medsiglip_few: Path, labels: Labels, browser: Browser, tmp_path: Path
) -> None:
    target = tmp_path / "findings.onnx"
    made = compile_classifier(medsiglip_few, labels, target, level, inputs=shipped_inputs())
    app = build(made.files[0], Path(RUNTIME), tmp_path / "app")
    shown = []
    for name, size in (("a.png", (300, 211)), ("b.jpg", (640, 480)), ("c.png", (31, 90))):
        Image.fromarray(photo(*size)).save(tmp_path / name)
        shown.append(tmp_path / name)
    with Classifier(made.files[0]) as classifier:
        expected, _ = classifier.ask(shown)
    with static_server(app.folder) as (url, asked):
        visit(browser, url)
        assert browser.js("return crossOriginIsolated"), "threads need it"
        said = browser.js("return document.querySelector('#runtime').textContent")
        assert re.search(r"onnxruntime-web 1\.\d+\.\d+, \d+ threads?, loaded in", said)
        found = np.asarray([scored(browser, path) for path in shown])
        assert np.abs(found - expected).max() < (1e-3 if level == "fp32" else 0.02), found - expected
        assert browser.js(f"return {ROWS}.map((row) => row.querySelector('.name').textContent)") == list(NAMES)
        went = {one["url"].removeprefix("blob:") for one in browser.requests()}
        assert {urlsplit(one).netloc for one in went} == {urlsplit(url).netloc}
        once = [path.lstrip("/").split("?")[0] for path in asked]
        assert {name for name in app.files if once.count(name) > 1} <= PAGE
        assert browser.faults() == []
        assert [text for text in browser.messages() if "SEVERE" in text or "Refused" in text] == []
    reload(browser)  # the server is gone
    again = scored(browser, shown[0])
    assert np.abs(np.asarray(again) - found[0]).max() < 1e-5
    browser.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url.rstrip("/"), "storageTypes": "all"})


@pytest.mark.slow
@needs_runtime
def test_no_page_and_no_worker_asks_another_address(model: Path, tmp_path: Path) -> None:
    """By Chromium's own record of its network, which sees workers, too, that a page's tools do not."""
    app = build(model, Path(RUNTIME), tmp_path / "app")
    Image.fromarray(photo(300, 211)).save(tmp_path / "a.png")
    with static_server(app.folder) as (url, _):
        with opened(f"--log-net-log={tmp_path / 'network.json'}") as browser:
            visit(browser, url)
            scored(browser, tmp_path / "a.png")
        log = read_json(tmp_path / "network.json")
    begun = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [event["params"] for event in log["events"] if event["type"] == begun and "params" in event]
    ours = [one["url"] for one in requests if one.get("initiator", "").startswith(url.rstrip("/"))]
    assert {urlsplit(one).path.lstrip("/") for one in ours} >= app.files.keys() - WORKER, "the worker fetches all"
    assert {urlsplit(one).netloc for one in ours} == {urlsplit(url).netloc}


def words_changed(app: WebApp) -> None:
    path = app.folder / "model.json"
    path.write_text(path.read_text().replace('"glioma', '"gliomb'))


def weights_changed(app: WebApp) -> None:
    data = bytearray((app.folder / "findings.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (app.folder / "findings.onnx").write_bytes(data)


def weights_cut(app: WebApp) -> None:
    path = app.folder / "findings.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def weights_missing(app: WebApp) -> None:
    (app.folder / "findings.onnx").unlink()


def logits_moved(app: WebApp) -> None:
    """As on a device that computes something else: every file is the one that is listed."""
    said = read_json(app.folder / "model.json")
    said["test"]["logits"][2][0] += 2 * said["test"]["tolerance"]
    (app.folder / "model.json").write_text(json.dumps(said))
    listed = (app.folder / "files.js").read_text()
    digest = hashlib.sha256((app.folder / "model.json").read_bytes()).hexdigest()
    (app.folder / "files.js").write_text(listed.replace(app.files["model.json"], digest))


UNUSABLE = {
    words_changed: "This app cannot be kept: model.json: its SHA-256 is ",
    weights_changed: "This app cannot be kept: findings.onnx: its SHA-256 is ",
    weights_cut: "This app cannot be kept: findings.onnx: its SHA-256 is ",
    weights_missing: "This app cannot be kept: findings.onnx: the server answers 404. Load it again.",
    logits_moved: "The self-test failed: logits differ by ",
}


@pytest.mark.slow
@needs_runtime
@pytest.mark.parametrize("change", UNUSABLE, ids=lambda change: change.__name__)
def test_what_is_damaged_or_computes_something_else_is_not_used(
    change: Callable[[WebApp], None], model: Path, browser: Browser, tmp_path: Path
) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    change(app)
    with static_server(app.folder) as (url, _):
        browser.go(url)
        browser.until(lambda: trouble(browser))
        assert trouble(browser).startswith(UNUSABLE[change])
        assert not browser.find("#file").is_enabled()


@pytest.mark.slow
@needs_runtime
def test_an_update_takes_over_when_all_tabs_are_closed(
    model: Path, medsiglip_artifact: Path, browser: Browser, tmp_path: Path
) -> None:
    """A tab keeps the files that it began with; a damaged update changes nothing."""
    others = Labels(labels=(Label(name="other", prompts=("one", "two")), Label(name="rest", prompts=("rest",))))
    target = tmp_path / "findings.onnx"
    compile_classifier(medsiglip_artifact, others, target, "fp32", inputs=shipped_inputs())
    first, second = (build(path, Path(RUNTIME), tmp_path / path.parent.name) for path in (model, target))
    served = tmp_path / "served"
    shutil.copytree(first.folder, served)

    def update(app: WebApp) -> None:
        shutil.copytree(app.folder, served, dirs_exist_ok=True)
        reload(browser)
        browser.until(lambda: news(browser))

    with static_server(served) as (url, _):
        visit(browser, url)
        damaged = build(target, Path(RUNTIME), tmp_path / "damaged")
        weights_changed(damaged)
        update(damaged)
        assert news(browser).startswith("A newer version of this app cannot be kept: findings.onnx: its SHA-256 is ")
        assert labels_of(browser) == list(NAMES)
        update(second)
        assert news(browser).startswith("A newer version of this app is here.")
        assert labels_of(browser) == list(NAMES)
        Image.fromarray(photo(300, 211)).save(tmp_path / "a.png")
        assert len(scored(browser, tmp_path / "a.png")) == len(NAMES)

        def taken_over() -> bool:
            visit(browser, url)  # leaving the old version's only tab
            return labels_of(browser) == others.names

        browser.until(taken_over)
        assert len(scored(browser, tmp_path / "a.png")) == len(others.names)
        browser.until(lambda: len(browser.awaited("return await caches.keys()")) == 1)


@pytest.mark.slow
@needs_runtime
def test_two_tabs_at_once(model: Path, browser: Browser, tmp_path: Path) -> None:
    """From the first visit on; and a tab that is loaded anew past what is kept comes back to it."""
    app = build(model, Path(RUNTIME), tmp_path / "app")
    Image.fromarray(photo(300, 211)).save(tmp_path / "a.png")
    with static_server(app.folder) as (url, _):
        browser.go(url)
        one = browser.driver.current_window_handle
        browser.driver.switch_to.new_window("tab")
        two = browser.driver.current_window_handle
        browser.go(url)
        found = []
        for tab in (two, one):
            browser.driver.switch_to.window(tab)
            browser.until(lambda: ready(browser))
        for tab in (one, two):
            browser.driver.switch_to.window(tab)
            found.append(scored(browser, tmp_path / "a.png"))
        assert found[0] == pytest.approx(found[1], abs=1e-6)
        browser.js(FORGET)
        browser.driver.execute_cdp_cmd("Page.reload", {"ignoreCache": True})
        browser.until(lambda: ready(browser))
        assert browser.js("return crossOriginIsolated && Boolean(navigator.serviceWorker.controller)")
        browser.driver.close()
        browser.driver.switch_to.window(one)


@pytest.mark.slow
@needs_runtime
def test_without_a_secure_context_there_is_one_thread_and_that_is_said(
    model: Path, browser: Browser, tmp_path: Path
) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    Image.fromarray(photo(300, 211)).save(tmp_path / "a.png")
    with Classifier(model) as classifier:
        expected, _ = classifier.ask([tmp_path / "a.png"])
    with static_server(app.folder) as (url, _):
        visit(browser, url.replace("127.0.0.1", ELSEWHERE))
        assert browser.js("return [isSecureContext, crossOriginIsolated]") == [False, False]
        assert browser.text("#threads").startswith("One thread, and nothing is kept for use without a network: ")
        assert np.abs(np.asarray(scored(browser, tmp_path / "a.png")) - expected).max() < 1e-3
        assert browser.text("#time").endswith(", 1 thread")


def odd_pictures(folder: Path) -> dict[str, Path]:
    """Files whose pixels a browser may read otherwise than edgekit."""
    picture = Image.fromarray(photo(300, 211))
    turned = Image.Exif()
    grey16 = np.asarray(picture.convert("L"), np.uint16) * 257
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    paths = {}
    for name, image, options in (
        *((f"turned-{turn}.jpg", picture, {"exif": turn, "quality": 95}) for turn in (3, 6, 8)),
        ("grey.png", picture.convert("L"), {}),
        ("grey.jpg", picture.convert("L"), {"quality": 95}),
        ("grey-16.png", Image.fromarray(grey16), {}),
        ("palette.png", picture.quantize(64), {}),
        ("alpha.png", alpha, {}),
        ("narrow.png", Image.fromarray(photo(2, 90)), {}),
        ("turned.png", picture, {"exif": 6}),
    ):
        if "exif" in options:
            turned[0x0112] = options["exif"]
            options = {**options, "exif": turned.tobytes()}
        paths[name] = folder / name
        image.save(paths[name], **options)
    return paths


@pytest.mark.slow
@needs_runtime
def test_pictures_that_are_odd_or_large_are_read_as_edgekit_does(model: Path, browser: Browser, tmp_path: Path) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    paths = odd_pictures(tmp_path)
    large = tmp_path / "fifty-megapixels.jpg"
    Image.fromarray(photo(866, 578)).resize((8660, 5780), Image.Resampling.BICUBIC).save(large, quality=90)
    with Classifier(model) as classifier:
        expected = {path: classifier.ask([path])[0][0] for path in (*paths.values(), large)}
    with static_server(app.folder) as (url, _):
        visit(browser, url)
        for name, path in paths.items():
            assert np.abs(np.asarray(scored(browser, path)) - expected[path]).max() < 1e-3, name
            assert not browser.text("#note")
        assert np.abs(np.asarray(scored(browser, large)) - expected[large]).max() < 0.01
        assert browser.text("#note") == "8660 x 5780 pixels are above the limit: read at 1/2 of that."


@pytest.mark.slow
@needs_runtime
def test_what_is_no_image_is_said(model: Path, browser: Browser, tmp_path: Path) -> None:
    """And what browsers read otherwise than edgekit: a WebP file is not turned as its EXIF says."""
    app = build(model, Path(RUNTIME), tmp_path / "app")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(photo(90, 60)).save(tmp_path / "turned.webp", exif=turned.tobytes())
    (tmp_path / "turned.webp").rename(tmp_path / "turned.png")
    shutil.copy(app.folder / "app.js", tmp_path / "wrong.png")
    Image.fromarray(photo(90, 60)).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:40])
    with static_server(app.folder) as (url, _):
        visit(browser, url)
        for name, said in (
            ("turned.png", "none of what is read here: JPEG, PNG"),
            ("wrong.png", "none of what is read here: JPEG, PNG"),
            ("half.jpg", "no image that the browser can read"),
        ):
            browser.find("#file").send_keys(str(tmp_path / name))
            browser.until(lambda said=said: said in trouble(browser))  # type: ignore[misc]
            assert browser.all("#scores li") == []
