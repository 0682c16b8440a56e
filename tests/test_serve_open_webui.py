"""Open WebUI, unmodified, in front of the server: by its own HTTP API, and as a person uses it in a browser.

Needs its package in an environment of its own, named by a variable, and is skipped without it; the second test needs
Debian's chromium, too:

    python3.11 -m venv /tmp/webui && /tmp/webui/bin/pip install torch==2.13.0 'open-webui>=0.12,<0.13'
    EDGEKIT_OPEN_WEBUI=/tmp/webui/bin/open-webui
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import opened
from material import photo
from pictures import png

PROGRAM = os.environ.get("EDGEKIT_OPEN_WEBUI", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="EDGEKIT_OPEN_WEBUI names no open-webui"),
]
KEY = "k3y-of-a-clinic-0123456789"
QUESTION = "What is the main finding in this image?"
START_S = 180
NEWS = "return [...document.querySelectorAll('button')].find((one) => one.innerText.startsWith('Okay'))"
# Everything that it would fetch from elsewhere is off. So are its own functions, which it sends the descriptions of
# with every question, more than a small model reads: what a clinic sets, too.
SETTINGS = {
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "of-this-test-alone",
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_PERSISTENT_CONFIG": "False",
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "True",
    "SCARF_NO_ANALYTICS": "True",
    "DEFAULT_MODEL_METADATA": json.dumps({"capabilities": {"builtin_tools": False}}),
}


@dataclass(frozen=True)
class WebUi:
    """One that runs.

    Attributes:
        token: of its only user.
        log: what edgekit's server wrote.
    """

    url: str
    token: str
    log: Path

    def get(self, path: str, body: Any = None) -> str:
        """What it answers."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=120) as answer:
            return str(answer.read().decode())


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A server, ended at the end."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}, cwd=cwd
        )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def begun(url: str, log: Path) -> None:
    for _ in range(2 * START_S):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(encoding="utf-8")[-4000:])


@pytest.fixture(scope="module")
def web_ui(medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Open WebUI in front of `edgekit serve` with a key."""
    folder = tmp_path_factory.mktemp("web-ui")
    keys = folder / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    (folder / "data").mkdir()
    serve = [sys.executable, "-m", "edgekit", "serve", str(medgemma_artifact), str(medsiglip_artifact)]
    serve += ["--level", "Q4_0", "--level", "fp32", "--port", "0", "--api-key-file", str(keys), "--json"]
    served, shown = folder / "serve.log", folder / "web-ui.log"
    here = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with running(serve, served, here, folder) as edgekit:
        assert edgekit.stdout
        url = json.loads(edgekit.stdout.readline() or "null")["url"]
        begun(f"{url}/health", served)
        port = free_port()
        given = {**SETTINGS, "DATA_DIR": str(folder / "data"), "OPENAI_API_BASE_URL": f"{url}/v1"}
        command = [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)]
        # It prints as it logs: to one file, or the pipe fills.
        with running(["sh", "-c", 'exec "$@" >&2', "sh", *command], shown, {**given, "OPENAI_API_KEY": KEY}, folder):
            begun(f"http://127.0.0.1:{port}/health", shown)
            signed = WebUi(f"http://127.0.0.1:{port}", "", served)
            token = json.loads(signed.get("/api/v1/auths/signin", {"email": "", "password": ""}))["token"]
            yield WebUi(signed.url, token, served)


def test_its_own_api(web_ui: WebUi) -> None:
    models = json.loads(web_ui.get("/api/models"))["data"]
    assert {model["id"] for model in models} == {"medgemma:Q4_0", "medsiglip:fp32"}
    url = f"data:image/png;base64,{base64.b64encode(png(photo(96, 96))).decode()}"
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {"model": "medgemma:Q4_0", "stream": True, "messages": [{"role": "user", "content": parts}]}
    lines = [line[6:] for line in web_ui.get("/api/chat/completions", asked).split("\n") if line[:6] == "data: "]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert [reason for event in events if event["choices"] and (reason := event["choices"][0]["finish_reason"])]


def test_a_wrong_model_is_said(web_ui: WebUi) -> None:
    asked = {"model": "medsiglip:fp32", "messages": [{"role": "user", "content": "?"}]}
    with pytest.raises(urllib.error.HTTPError) as refused:
        web_ui.get("/api/chat/completions", asked)
    assert refused.value.code == 400
    assert "cannot generate" in refused.value.read().decode()


def test_a_person_in_a_browser(web_ui: WebUi, tmp_path: Path) -> None:
    """An image is chosen, a question typed, and its answer comes; the background questions for a title do no harm."""
    image = tmp_path / "chest.png"
    image.write_bytes(png(photo(200, 200)))
    before = len(web_ui.log.read_text().splitlines())  # other tests were refused on purpose
    with opened() as browser:
        browser.size(1200, 900)
        browser.driver.get(web_ui.url)
        browser.until(lambda: browser.all("#chat-input"))
        browser.until(lambda: "medgemma" in browser.text("#model-selector-model-button"))
        browser.until(lambda: browser.js(NEWS))  # what is new, shown once
        browser.js(f"{NEWS}.click()")
        browser.until(lambda: not browser.js(NEWS))
        browser.find("input[type=file][multiple]").send_keys(str(image))
        browser.until(lambda: browser.all("#message-input-container img"))
        browser.find("#chat-input").click()
        browser.keys(QUESTION)
        browser.until(lambda: browser.find("#send-message-button").is_enabled())
        browser.click("#send-message-button")
        browser.until(lambda: browser.all(".copy-response-button"))  # the answer is whole
        answer = browser.text(".chat-assistant")
        browser.driver.save_screenshot(str(tmp_path / "web-ui.png"))
    assert answer
    assert not re.search(r"error|Error", answer)
    done = [line for line in web_ui.log.read_text().splitlines()[before:] if "/v1/chat/completions" in line]
    assert done, "the image's question, at least"
    assert [line for line in done if not re.search(r" 200 [\d.]+ ms$", line)] == []
