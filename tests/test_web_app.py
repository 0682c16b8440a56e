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
from collections.abc import Iterator
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
from edgekit.pack.web import build

RUNTIME = os.environ.get("EDGEKIT_ONNXRUNTIME_WEB", "")
STATIC = Path(build.__code__.co_filename).parent / "static"
NAMES = ("normal", "viral pneumonia", "glioma <b>&amp;</b>")
ROWS = "[...document.querySelectorAll('#scores li')]"
PAGE = {"index.html", "app.js", "style.css", "icon.svg", "pixels.js", "app.webmanifest"}  # loaded before it is kept
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
    command = ["web-app", str(model), "--onnxruntime-web", str(package), "--to"]
    assert main([*command, str(tmp_path / "app")]) == 0
    assert "python -m http.server" in capsys.readouterr().out
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
    with opened() as found:
        yield found


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
        browser.go(url)
        browser.until(lambda: ready(browser))
        assert browser.js("return crossOriginIsolated"), "threads need it"
        said = browser.js("return document.querySelector('#runtime').textContent")
        assert re.search(r"onnxruntime-web 1\.\d+\.\d+, \d+ threads, loaded in", said)
        found = np.asarray([scored(browser, path) for path in shown])
        assert np.abs(found - expected).max() < (1e-3 if level == "fp32" else 0.02), found - expected
        assert browser.js(f"return {ROWS}.map((row) => row.querySelector('.name').textContent)") == list(NAMES)
        went = {one["url"].removeprefix("blob:") for one in browser.requests()}
        assert {urlsplit(one).netloc for one in went} == {urlsplit(url).netloc}
        once = [path.lstrip("/").split("?")[0] for path in asked]
        assert {name for name in app.files if once.count(name) > 1} <= PAGE
        assert browser.faults() == []
        assert [text for text in browser.messages() if "SEVERE" in text or "Refused" in text] == []
    browser.driver.refresh()  # the server is gone
    browser.until(lambda: ready(browser))
    again = scored(browser, shown[0])
    assert np.abs(np.asarray(again) - found[0]).max() < 1e-5
    browser.driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url.rstrip("/"), "storageTypes": "all"})


@pytest.mark.slow
@needs_runtime
def test_a_file_that_was_changed_is_not_kept(model: Path, browser: Browser, tmp_path: Path) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    path = app.folder / "model.json"
    path.write_text(path.read_text().replace('"glioma', '"gliomb'))
    with static_server(app.folder) as (url, _):
        browser.go(url)
        browser.until(lambda: trouble(browser))
        assert "damaged, incomplete" in trouble(browser)
        assert not browser.find("#file").is_enabled()


@pytest.mark.slow
@needs_runtime
def test_a_device_that_computes_something_else_is_found_out(model: Path, browser: Browser, tmp_path: Path) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    said = read_json(app.folder / "model.json")
    said["test"]["logits"][2][0] += 2 * said["test"]["tolerance"]
    (app.folder / "model.json").write_text(json.dumps(said))
    listed = (app.folder / "files.js").read_text()
    digest = hashlib.sha256((app.folder / "model.json").read_bytes()).hexdigest()
    (app.folder / "files.js").write_text(listed.replace(app.files["model.json"], digest))
    with static_server(app.folder) as (url, _):
        browser.go(url)
        browser.until(lambda: trouble(browser))
        assert "The self-test failed" in trouble(browser)
        assert not browser.find("#file").is_enabled()


@pytest.mark.slow
@needs_runtime
def test_what_is_no_image_is_said(model: Path, browser: Browser, tmp_path: Path) -> None:
    app = build(model, Path(RUNTIME), tmp_path / "app")
    wrong = tmp_path / "wrong.png"
    shutil.copy(app.folder / "app.js", wrong)
    with static_server(app.folder) as (url, _):
        browser.go(url)
        browser.until(lambda: ready(browser))
        browser.find("#file").send_keys(str(wrong))
        browser.until(lambda: trouble(browser))
        assert "no image that the browser can read" in trouble(browser)
        assert browser.all("#scores li") == []
