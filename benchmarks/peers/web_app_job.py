"""One measurement of a classifier in a process of its own: python web_app_job.py JOB ANSWER.

    browser    the web app in headless Chromium
    node       the file in onnxruntime-node
    python     the file in ONNX Runtime for Python

Each answers with `load_s`, `seconds` and `scores` of each picture, `threads` and `runtime`, or with `failed`: why not.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Job = Mapping[str, Any]
_LIMIT_S = 3600
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
_ROWS = "return [...document.querySelectorAll('#scores li')].map((row) => Number(row.dataset.score))"


def browser(job: Job) -> dict[str, Any]:
    """`app`, a folder, and `pictures`. Loading is from the first request to a page that has tested itself."""
    with _served(Path(job["app"])) as url, _chromium() as driver:
        started = time.perf_counter()
        driver.get(url)
        if trouble := _until(driver, "Ready."):
            return {"failed": trouble}
        load_s, seconds, scores = time.perf_counter() - started, [], []
        for path in job["pictures"]:
            driver.find_element("css selector", "#file").send_keys(path)
            if trouble := _until(driver, "Highest:"):
                return {"failed": trouble}
            seconds.append(float(driver.execute_script("return document.querySelector('#time').dataset.ms")) / 1000)
            scores.append(driver.execute_script(_ROWS))
            driver.execute_script("document.querySelector('#state').textContent = ''")
        said = driver.execute_script("return document.querySelector('#runtime').textContent")
        version = driver.capabilities["browserVersion"]
    (name, threads) = re.findall(r"^(.*?), (\d+) thread", said)[0]
    runtime = f"{name}, Chromium {version}"
    return {"load_s": load_s, "seconds": seconds, "scores": scores, "threads": int(threads), "runtime": runtime}


def _until(driver: Any, state: str) -> str:
    """Wait for what the page says; what it complains of, if it does that first."""
    ask = "return ['#state', '#trouble'].map((id) => document.querySelector(id)?.textContent ?? '')"
    stop = time.monotonic() + _LIMIT_S
    while time.monotonic() < stop:
        found, trouble = driver.execute_script(ask)
        if trouble or found.startswith(state):
            return str(trouble)
        time.sleep(0.05)
    return f"no answer within {_LIMIT_S} s"


@contextmanager
def _chromium() -> Iterator[Any]:
    """A browser that keeps nothing of what another one loaded."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in _FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.command_executor.client_config.timeout = _LIMIT_S
        driver.set_script_timeout(_LIMIT_S)
        yield driver
    finally:
        driver.quit()


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *about: Any) -> None:
            """Nothing: what is printed is for people."""

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def node(job: Job) -> dict[str, Any]:
    """`model`, `pictures`, `threads`, `node`: a folder with onnxruntime-node. One picture comes first, uncounted."""
    with tempfile.TemporaryDirectory() as folder:
        given = []
        for number, path in enumerate(_warmed(job)):
            pixels = _pixels(path)
            raw = Path(folder) / f"{number}.rgb"
            raw.write_bytes(pixels.tobytes())
            given.append({"shape": [1, *pixels.shape], "path": str(raw)})
        asked, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps({"model": job["model"], "images": given, "threads": job["threads"]}))
        script = Path(__file__).with_name("onnxruntime_node.mjs")
        command = ["node", str(script), job["node"], str(asked), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": done.stderr.strip()[-300:]}
        found = json.loads(answer.read_text(encoding="utf-8"))
    images = found["images"][1:]
    return {
        "load_s": found["load_ms"] / 1000,
        "seconds": [image["ms"] / 1000 for image in images],
        "scores": [image["scores"] for image in images],
        "threads": job["threads"],
        "runtime": f"onnxruntime-node {found['version']}",
    }


def python(job: Job) -> dict[str, Any]:
    """`model`, `pictures`, `threads`. One picture more comes first, uncounted."""
    import onnxruntime

    from edgekit.classifier.opened import Classifier

    started = time.perf_counter()
    with Classifier(Path(job["model"]), threads=job["threads"]) as classifier:
        load_s, seconds, scores = time.perf_counter() - started, [], []
        for path in _warmed(job):
            pixels, began = _pixels(path), time.perf_counter()
            scores.append(classifier.ask([pixels])[0][0].tolist())
            seconds.append(time.perf_counter() - began)
    runtime = f"onnxruntime {onnxruntime.__version__}"
    measured = {"load_s": load_s, "seconds": seconds[1:], "scores": scores[1:]}
    return {**measured, "threads": job["threads"], "runtime": runtime}


def _warmed(job: Job) -> list[str]:
    """The first picture once more before all: a page has tested itself likewise."""
    return [job["pictures"][0], *job["pictures"]]


def _pixels(path: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(path).convert("RGB"))


_JOBS: Mapping[str, Callable[[Job], dict[str, Any]]] = {"browser": browser, "node": node, "python": python}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(_JOBS[asked["job"]](asked)), encoding="utf-8")
