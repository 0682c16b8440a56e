"""Peers: who they are, how they are found, driven and watched; on a stand-in of a server, and on those that are here.

    EDGEKIT_PEERS=llama-server=PROGRAM,openvino-genai=PYTHON pytest -m slow tests/test_bench_peers.py
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_stubs import InProcess

from edgekit.artifacts import manifest as manifests
from edgekit.bench import Sweep, bench, peers, runner
from edgekit.bench.cells import Cell, CellTask, Outcome
from edgekit.bench.peers import environments
from edgekit.bench.peers.catalog import PEERS
from edgekit.bench.peers.rows import timed
from edgekit.bench.subjects import Subject, subjects
from edgekit.bench.tasks import task
from edgekit.bench.worker import run
from edgekit.checkpoints import reference_models
from edgekit.errors import MissingDependencyError, UsageError
from edgekit.machine.cpu import cpu
from edgekit.machine.roofline import Rate, Roofline

PROGRAMS = Path(peers.__file__).parent / "programs"
GIVEN = dict(one.split("=", 1) for one in os.environ.get("EDGEKIT_PEERS", "").split(",") if one)
SHORT = task("latency").model_copy(update={"limit": 2, "prompt_tokens": 24, "decode_tokens": 12})

# A server that speaks as llama-server does: every token takes 10 ms, every prompt 50.
SERVER = '''#!{python}
import json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

if "--version" in sys.argv:
    sys.exit("version: 7 (stand-in)")
given = dict(zip(sys.argv[1:-1:2], sys.argv[2::2]))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"status": "ok"}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(0.05)
        if not asked.get("stream"):
            return self.answer(asked)
        self.send_response(200)
        self.end_headers()
        for number in range(asked["n_predict"]):
            time.sleep(0.01)
            self.wfile.write(b'data: {{"content": "a"}}\\n\\n')
        self.wfile.write(b'data: {{"content": "", "stop": true, "timings": {{"predicted_per_token_ms": 9}}}}\\n\\n')

    def answer(self, data):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *given):
        pass


assert given["-m"].endswith(".gguf") and given["--mmproj"].endswith(".gguf"), given
HTTPServer(("127.0.0.1", int(given["--port"])), Handler).serve_forever()
'''


@pytest.fixture
def server(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(SERVER.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _known_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = Roofline({1: 10e9}, {"fp32": Rate(100e9, "a")})
    monkeypatch.setattr("edgekit.bench.speed.process.limits", lambda folder: limits)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def _subject(folder: Path) -> Subject:
    """An artifact's default level alone, without the full-precision model's row, which takes torch."""
    subject = subjects([folder], [manifests.read(folder).default], [])[0]
    return replace(subject, rows=tuple(row for row in subject.rows if row.kind == "variant"))


def _outcomes(folder: Path, given: str, tmp_path: Path, number: int = 1) -> dict[str, Outcome]:
    """A peer's row -> what its cell gave."""
    found = {}
    for row in peers.rows(_subject(folder), peers.found(given)):
        tasks = (CellTask(SHORT.model_dump(mode="json")),)
        (found[row.name],) = run(Cell(row.key, row.model, tasks, 1, str(tmp_path / "work"), round=number))
    return found


def test_every_peer_has_its_program_which_needs_no_edgekit() -> None:
    there = {path.stem for path in PROGRAMS.glob("peer_*.py")}
    assert there == {peer.program for peer in PEERS.values()}
    for path in PROGRAMS.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name for node in nodes for name in [getattr(node, "module", None), *(n.name for n in node.names)]}
        assert not {name for name in names if name and name.split(".")[0] == "edgekit"}, path
        # A script's folder stands first on its path: none may have the name of what another one imports.
        assert path.stem not in {one for peer in PEERS.values() for one in peer.distributions}


def test_a_peer_takes_its_turn_in_the_rounds(
    medgemma_artifact: Path, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "subjects", lambda *given: [_subject(medgemma_artifact)])
    level = manifests.read(medgemma_artifact).default
    short = tmp_path / "short.toml"
    lines = (f"{key} = {json.dumps(value)}" for key, value in SHORT.model_dump(mode="json").items() if key != "name")
    short.write_text("\n".join(lines))
    sweep = Sweep(
        [medgemma_artifact], tasks=[str(short)], rounds=2, threads=[1], peers=[f"llama-server={server}"], controls=()
    )
    executor = InProcess()
    results = bench(sweep, executor=executor)
    assert not results.errors
    rows = {record.row: record for record in results.records}
    swept = [f"{level}, 1 thread"] if cpu().usable_cores > 1 else []
    assert list(rows) == [level, *swept, f"llama-server, {level}"]
    assert [cell.model.peer is not None for cell in executor.cells] == [False, *(False for _ in swept), True] * 2
    record = rows[f"llama-server, {level}"]
    assert record.kind == "peer"
    figures = {name: estimate.value for name, estimate in record.measurements[0].metrics.items()}
    # What the stand-in takes, and the loopback in between.
    assert 50 <= figures["first_token_ms"] < 1000
    assert 10 <= 1000 / figures["decode_tokens_per_s"] < 200
    assert 20 < figures["prefill_tokens_per_s"] <= 24 / 0.05
    assert figures["load_s"] > 0
    assert figures["own_memory_bytes"] > 5_000_000
    assert figures["file_bytes"] == manifests.read(medgemma_artifact).bytes_of(level)
    assert "decode_share" in figures
    details = record.measurements[0].details
    assert details["runtimes"] == {"peer": "llama-server 7 (stand-in)"}
    assert [len(steps) for steps in details["step_ms"]] == [11, 11]


def test_a_peer_beside_tasks_without_times_is_refused(
    medgemma_artifact: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "subjects", lambda *given: [_subject(medgemma_artifact)])
    sweep = Sweep([medgemma_artifact], tasks=["finding-phantom"], peers=[f"llama-server={server}"])
    with pytest.raises(UsageError, match=r"llama-server.* is only timed, and none of these tasks measures times"):
        bench(sweep, executor=InProcess())


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's script")
@pytest.mark.parametrize("says", ["echo hello", r"printf '\377\376'", "echo '[]'", "echo '{\"transformers\": 5}'"])
def test_what_is_no_python_does_not_run(tmp_path: Path, says: str) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    with pytest.raises(MissingDependencyError, match="does not run: it does not answer as a Python does"):
        peers.found(f"transformers={path}")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's script")
def test_a_version_is_read_whatever_stands_around_it(tmp_path: Path) -> None:
    path = tmp_path / "llama-server"
    path.write_text("#!/bin/sh\nprintf '\\377\\376\\nversion: 7 (a)\\n'\n")
    path.chmod(0o755)
    assert peers.found(f"llama-server={path}").versions == {"llama-server": "7 (a)"}


def test_nothing_of_a_peer_is_left_running(medgemma_artifact: Path, server: Path, tmp_path: Path) -> None:
    import psutil

    (outcome,) = _outcomes(medgemma_artifact, f"llama-server={server}", tmp_path).values()
    assert outcome.error is None
    running = [line for one in psutil.process_iter() if (line := _command(one)) and str(server) in line]
    assert running == []


def _command(process: Any) -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_peer_that_fails_costs_its_own_figures(medgemma_artifact: Path, server: Path, tmp_path: Path) -> None:
    given = f"llama-server={server}"
    found = peers.found(given)
    server.write_text(f"#!{sys.executable}\nraise SystemExit('this model is not for me')\n")
    (row,) = peers.rows(_subject(medgemma_artifact), found)
    cell = Cell(row.key, row.model, (CellTask(SHORT.model_dump(mode="json")),), 1, str(tmp_path / "work"), round=1)
    (outcome,) = run(cell)
    assert outcome.result is None
    assert outcome.error == "llama-server ended with exit code 1: llama-server does not start: exit code 1"
    other = replace(cell, tasks=(CellTask(task("finding-phantom").model_dump(mode="json")),))
    (outcome,) = run(other)
    assert outcome.error == "finding-phantom: peers are timed, and nothing else"


def test_a_peer_whose_environment_is_not_here_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown peer 'llama-serve'"):
        peers.found("llama-serve")
    with pytest.raises(MissingDependencyError, match="no program /nowhere/llama-server") as said:
        peers.found("llama-server=/nowhere/llama-server")
    assert "--peer llama-server=PROGRAM" in str(said.value)
    with pytest.raises(MissingDependencyError, match=r"ONNX Runtime GenAI.* is missing") as said:
        peers.found("onnxruntime-genai")
    assert "--install-peers" in str(said.value)
    assert "'onnxruntime-genai==0.15.2'" in str(said.value)
    with pytest.raises(MissingDependencyError, match="does not run"):
        peers.found(f"openvino-genai={tmp_path}/python")


def test_an_environment_that_the_cache_holds_is_found(tmp_path: Path) -> None:
    """A link to this Python stands in for one: it has what llama-cpp-python needs."""
    folder = tmp_path / "cache" / "peers" / "transformers" / ("Scripts" if sys.platform == "win32" else "bin")
    folder.mkdir(parents=True)
    python = folder / ("python.exe" if sys.platform == "win32" else "python")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    found = peers.found("transformers")
    assert found.program == python
    assert set(found.versions) == set(PEERS["transformers"].distributions)


INSTALLS = """
import os, signal, sys
from types import SimpleNamespace
from edgekit.bench.peers import catalog, environments

peer = catalog.Peer("own", "Own", ("pip",), "gguf", frozenset({"generate"}))  # which an environment has, offline
environments.PEERS = {"own": peer}
run, failed = environments.subprocess.run, environments.subprocess.CalledProcessError


def stopped(command, **given):
    if "install" not in command:
        return run(command, **given)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt


if sys.argv[1:]:
    environments.subprocess = SimpleNamespace(run=stopped, CalledProcessError=failed)
print(environments.found("own", install=True).program)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_installation_that_was_stopped_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the environment and its packages it leaves what looks like one; interrupted, nothing."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    kept = tmp_path / "cache" / "peers"

    def installs(*stopped: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", INSTALLS, *stopped], capture_output=True, text=True, check=False)

    assert installs("kill").returncode == -signal.SIGKILL
    assert (kept / "own" / "bin" / "python").exists()
    peer = replace(PEERS["transformers"], name="own", packages=("pip",))
    monkeypatch.setattr(environments, "PEERS", {"own": peer})
    assert peers.found("own").program == Path(sys.executable), "what was left is none"
    assert installs("interrupt").returncode != 0
    assert not (kept / "own").exists()
    running = [subprocess.Popen([sys.executable, "-c", INSTALLS], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert {process.communicate()[0].strip() for process in running} == {str(kept / "own" / "bin" / "python")}
    assert [path.name for path in kept.iterdir()] == ["own"]


@pytest.mark.parametrize(("threads", "wrong"), [([0], 0), ([1, 100_000], 100_000)])
def test_threads_that_cannot_be_had(medgemma_artifact: Path, threads: list[int], wrong: int) -> None:
    with pytest.raises(UsageError, match=f"{wrong} threads"):
        timed([_subject(medgemma_artifact)], threads, [])


def test_a_peer_that_opens_none_of_the_artifacts_is_refused(medsiglip_artifact: Path, server: Path) -> None:
    with pytest.raises(UsageError, match="peer llama-server: it opens none of these artifacts"):
        timed([_subject(medsiglip_artifact)], [], [peers.found(f"llama-server={server}")])


def test_peers_and_threads_are_for_one_machine(medgemma_artifact: Path) -> None:
    with pytest.raises(UsageError, match="timed on one machine"):
        bench(Sweep([medgemma_artifact], threads=[1], ray="auto"))


@pytest.mark.parametrize("name", ["llama-cpp-python", "transformers"])
def test_a_peer_that_is_here_is_measured(medgemma_artifact: Path, tmp_path: Path, name: str) -> None:
    found = _outcomes(medgemma_artifact, name, tmp_path)
    expected = {
        "llama-cpp-python": r"llama-cpp-python, (defaults|best settings), \S+",
        "transformers": "transformers, as stored",
    }
    assert found
    for row, outcome in list(found.items())[:2]:
        assert re.fullmatch(expected[name], row)
        assert outcome.error is None
        _check(outcome.result)


def _check(result: dict[str, Any]) -> None:
    """Figures that any peer of an answering model has, each of a size that a model of six million weights has."""
    figures = result["figures"]
    assert 1 < figures["prefill_tokens_per_s"] < 1e6
    assert 0.1 < figures["decode_tokens_per_s"] < 1e5
    assert 1e7 < figures["own_memory_bytes"] <= figures["peak_memory_bytes"] < 1e11
    assert result["prompt_tokens"] > 0
    assert len(result["samples"]["prompt_s"]) == 2


def test_the_text_of_a_checkpoint_that_sees_is_the_same_model(tmp_path: Path) -> None:
    """transformers reads what was written, and gives the whole model's logits."""
    import torch
    import transformers

    spec = importlib.util.spec_from_file_location("text_checkpoint", PROGRAMS / "text_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    source = reference_models.path("medgemma-reference")
    assert source is not None
    made = module.text_checkpoint(source, tmp_path / "text")
    assert module.text_checkpoint(made, tmp_path / "again") == made
    ids = torch.from_numpy(np.random.default_rng(0).integers(10, 2000, (1, 12)))
    kinds = (transformers.AutoModelForImageTextToText, source), (transformers.AutoModelForCausalLM, made)
    with torch.no_grad():
        whole, text = (
            kind.from_pretrained(folder, dtype=torch.float32)(input_ids=ids).logits for kind, folder in kinds
        )
    assert torch.equal(whole, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("llama-cpp-python", "transformers")])
def test_a_peer_in_its_own_environment(
    medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path: Path, name: str
) -> None:
    if name not in GIVEN:
        pytest.skip(f"EDGEKIT_PEERS names no program for {name}")
    for outcome in _outcomes(medgemma_artifact, f"{name}={GIVEN[name]}", tmp_path, 0).values():
        assert outcome.error is None
        _check(outcome.result)
        assert outcome.result["figures"]["load_cold_s"] > 0
    for outcome in _outcomes(medsiglip_artifact, f"{name}={GIVEN[name]}", tmp_path, 0).values():
        assert outcome.error is None
        assert outcome.result["figures"]["image_encode_ms"] > 0
