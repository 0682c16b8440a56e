"""`edgekit serve` as a shell sees it: what it refuses before it starts anything, and how it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from edgekit.artifacts import find
from edgekit.artifacts.recipes import recipe
from edgekit.cli import main
from edgekit.serve import api
from edgekit.serve.api.serving import Serving
from edgekit.serve.engines.served import served
from edgekit.serve.engines.state import EngineOptions
from edgekit.serve.http.metrics import MeasuredEngines
from edgekit.serve.http.server import listen
from edgekit.serve.http.terms import document, need_agreement
from edgekit.serve.page import files

KEY = "k3y-of-a-clinic-0123456789"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(0o600)
    return path


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and where it serves."""
    command = [sys.executable, "-m", "edgekit", "serve", *map(str, arguments), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            yield process, json.loads(line)["url"] if line else ""
        finally:
            process.kill()


def ask(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None)
    for name, value in {"content-type": "application/json", **headers}.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def question(tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is a cough?"}], "max_tokens": tokens}


# ---------------------------------------------------------------- before anything starts


def refused(arguments: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    try:
        code = main(["serve", *map(str, arguments)])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code in (1, 2)
    return capsys.readouterr().err


def test_a_folder_without_an_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in refused([tmp_path], capsys)


def test_a_level_that_is_not_there(medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Q9_9" in refused([medgemma_artifact, "--level", "Q9_9"], capsys)


def test_a_port_in_use(medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        said = refused([medgemma_artifact, "--port", str(taken.getsockname()[1])], capsys)
    assert "in use" in said
    assert "--port" in said


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_a_key_file_that_others_read(medgemma_artifact: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys.chmod(0o644)
    said = refused([medgemma_artifact, "--api-key-file", keys], capsys)
    assert "chmod 600" in said
    assert KEY not in said


def test_a_network_without_a_key(medgemma_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--api-key-file" in refused([medgemma_artifact, "--host", "0.0.0.0"], capsys)


def test_a_network_without_the_terms(
    medgemma_artifact: Path, keys: Path, copied: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(medgemma_artifact)
    manifest = json.loads((folder / "edgekit.json").read_text())
    manifest["license"] = "Health AI Developer Foundations Terms of Use\nfound elsewhere"
    (folder / "edgekit.json").write_text(json.dumps(manifest))
    assert "--terms" in refused([folder, "--host", "0.0.0.0", "--api-key-file", keys], capsys)
    assert need_agreement(served([folder]))
    assert not need_agreement(served([medgemma_artifact]))
    (ours,) = served([medgemma_artifact], ["Q4_0"])
    assert need_agreement([dataclasses.replace(ours, license="all rights reserved", stand_in=None)])  # nobody knows
    assert "3.2" in document(served([folder]), "all of it")["models"][0]["restrictions"]


@pytest.mark.parametrize("name", sorted(find.names("exports")))
def test_what_each_recipe_binds_users_to_is_known(name: str, medgemma_artifact: Path) -> None:
    """A notice that names terms of use has restrictions that users are told; ours has none."""
    (one, *_) = served([medgemma_artifact])
    of_recipe = dataclasses.replace(one, license=recipe(name).license)
    assert need_agreement([of_recipe]) == ("Terms of Use" in of_recipe.license)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--slots", "0"),
        ("--queue", "x"),
        ("--drain-s", "1e3"),
        ("--host", "clinic.local"),
        ("--host", "192.0.2.1"),
        ("--log-level", "all"),
        ("--allow-host", "http://clinic.local"),
        ("--allow-host", "clinic.local/"),
        ("--allow-host", ""),
        ("--device", "abacus"),
        ("--runtime", "abacus"),
        ("--preload", "some"),
        ("--terms", "nowhere"),
        ("--api-key-file", "nowhere"),
        ("--context", "9999999"),
    ],
)
def test_a_wrong_option(medgemma_artifact: Path, wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused([medgemma_artifact, *wrong], capsys)


# ---------------------------------------------------------------- once it has started


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_says_where_what_for_whom_and_under_which_terms(medgemma_artifact: Path, keys: Path, host: str) -> None:
    options = (medgemma_artifact, "--preload", "none", "--host", host, "--api-key-file", keys)
    with serving(*options) as (process, url):
        assert ask(url, "/terms", authorization=f"Bearer {KEY}")[0] == 200
        process.terminate()
        said = process.communicate(timeout=60)[1]
    reach = "on this machine alone" if host == "127.0.0.1" else "unencrypted"
    lines = said.splitlines()
    parts = (url, reach, "models: medgemma", "stand-in", "licence: ", "not cleared")
    assert all(part in line for line, part in zip(lines[:6], parts, strict=True))
    assert "with a key" in lines[1]
    assert all(len(line) < 240 for line in lines[:6])
    assert KEY not in said


def test_every_route_but_health_and_the_page_is_behind_the_key(medgemma_artifact: Path, keys: Path) -> None:
    engines = MeasuredEngines(served([medgemma_artifact]), EngineOptions())
    routes = [route for route in api.routes(Serving(engines)) if isinstance(route, Route)]
    assert len(routes) >= 10
    methods = {method for route in routes for method in route.methods or ()}
    assert methods <= {"GET", "HEAD", "POST", "DELETE"}, "of what reads a body, the guard must ask for JSON"
    with serving(medgemma_artifact, "--api-key-file", keys, "--preload", "none") as (_, url):
        for route in routes:
            for method in sorted((route.methods or set()) - {"HEAD"}):
                path = route.path.replace("{model:path}", "x").replace("{id}", "x")
                request = urllib.request.Request(url + path, b"{}" if method == "POST" else None, method=method)
                request.add_header("content-type", "application/json")
                with pytest.raises(urllib.error.HTTPError) as raised:
                    urllib.request.urlopen(request, timeout=60)
                assert raised.value.code == 401, path
        assert ask(url, "/health")[0] == 200
        for route in files.routes():
            with urllib.request.urlopen(url + route.path, timeout=60) as answer:
                assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert ask(url, "/v1/models", authorization=f"Bearer {KEY}")[0] == 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_crash_of_the_server_leaves_no_core_with_what_was_asked(medgemma_artifact: Path) -> None:
    with serving(medgemma_artifact, "--preload", "none") as (process, url):
        assert ask(url, "/props")[0] == 200
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        (core,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
        assert core[4] == "0"


# ---------------------------------------------------------------- the end


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish(medgemma_artifact: Path, number: int) -> None:
    with serving(medgemma_artifact, "--level", "Q4_0") as (process, url), ThreadPoolExecutor(4) as pool:
        assert ask(url, "/v1/chat/completions", question(4))[0] == 200
        running = [pool.submit(ask, url, "/v1/chat/completions", {**question(300), "n": 1}) for _ in range(4)]
        while ask(url, "/props")[1]["models"][0]["running"] == 0 and not all(one.done() for one in running):
            pass
        process.send_signal(number)
        statuses = [one.result()[0] for one in running]
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
        assert set(statuses) <= {200, 503}
        assert 200 in statuses
        assert "Traceback" not in said
        assert "a second signal ends them" in said


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_a_signal_ends_a_server_that_still_loads(medgemma_artifact: Path) -> None:
    with serving(medgemma_artifact, "--preload", "all") as (process, url):
        assert ask(url, "/health") == (503, {"status": "loading"})
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_a_second_signal_ends_at_once(medgemma_artifact: Path) -> None:
    with serving(medgemma_artifact, "--preload", "none", "--drain-s", "600") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            head = f"POST /tokenize HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            client.sendall(f"{head}Content-Length: 100\r\n\r\n[".encode())
            while ask(url, "/health")[0] != 200:  # until then the request above has begun, too
                pass
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 128 + signal.SIGTERM


LIGHT = """
import sys
from edgekit.cli import main

try:
    main(["serve", sys.argv[1], "--host", "192.0.2.1", "--api-key-file", sys.argv[2]])
finally:
    from edgekit.serve import api
    from edgekit.serve.http import app, metrics, server

    print(sorted({name.split(".")[0] for name in sys.modules} & {"llama_cpp", "onnxruntime", "openvino", "torch"}))
"""


def test_the_server_itself_loads_nothing_that_runs_models(medgemma_artifact: Path, keys: Path) -> None:
    command = [sys.executable, "-c", LIGHT, str(medgemma_artifact), str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert "cannot listen" in done.stderr
