"""Set-up's choice of torch: its CPU build by itself, never CUDA libraries that nothing here can use."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENT = "faketorch==1.0"
CUDA = ("numpy", "nvidia_cublas_cu13==13.1; platform_system == 'Linux'", "cuda-bindings")
NO_CUDA = ("numpy", "nvidia-cublas; platform_system == 'Windows'", "nvidia-nccl; extra == 'cuda'")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nvidia-smi") is not None,
    reason="the choice is for Linux without an NVIDIA GPU",
)


class Index(ThreadingHTTPServer):
    """A package index that answers with a page, or not at all."""

    daemon_threads = True

    def __init__(self, page: str, *, hangs: bool = False) -> None:
        asked = self.asked = []
        release = self.release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                if hangs:
                    release.wait(60)
                body = page.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/cpu"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    asked: list[str]
    release: threading.Event


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of an index that refuses connections: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/cpu"


def choose(
    default_index: Path, cpu_index: str, *requires: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Choose between a CPU index and a default index with one package, `faketorch`, that requires these."""
    folder = "faketorch-1.0.dist-info"
    with zipfile.ZipFile(default_index / "faketorch-1.0-py3-none-any.whl", "w") as wheel:
        needs = "".join(f"Requires-Dist: {name}\n" for name in requires)
        wheel.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: faketorch\nVersion: 1.0\n{needs}")
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{folder}/RECORD", "")
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(default_index), "no_proxy": "127.0.0.1"}
    command = [sys.executable, str(ROOT / ".ci" / "torch_index.py"), "--requirement", REQUIREMENT]
    command += ["--cpu-index", cpu_index, "--patience", "2", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("file", ["faketorch-1.0%2Bcpu-py3-none-any.whl", "faketorch-1.0-py3-none-any.whl"])
def test_the_cpu_index_is_taken_where_it_answers(tmp_path: Path, file: str) -> None:
    with Index(f'<a href="/cpu/{file}#sha256=0">faketorch</a>') as index:
        done = choose(tmp_path, index.url, *CUDA)
        index.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"--index-url {index.url}", REQUIREMENT]
    assert index.asked == ["/cpu/faketorch/"]


def test_an_index_without_this_version_does_not_count(tmp_path: Path) -> None:
    with Index('<a href="/cpu/faketorch-1.0.1-py3-none-any.whl">faketorch</a>') as index:
        done = choose(tmp_path, index.url, *NO_CUDA)
        index.shutdown()
    assert (done.returncode, done.stdout.split()) == (0, [REQUIREMENT])


def test_one_that_hangs_is_left_soon(tmp_path: Path) -> None:
    with Index("", hangs=True) as index:
        started = time.monotonic()
        done = choose(tmp_path, index.url, *NO_CUDA)
        seconds = time.monotonic() - started
        index.release.set()
        index.shutdown()
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [REQUIREMENT], "")
    assert seconds < 20


def test_stops_before_cuda_and_names_the_variable(tmp_path: Path, refusing: str) -> None:
    done = choose(tmp_path, refusing, *CUDA)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "needs nvidia_cublas_cu13, cuda-bindings, this machine has no NVIDIA GPU" in done.stderr
    assert f"{refusing} did not answer" in done.stderr
    assert "make setup TORCH_INDEX=URL" in done.stderr


def test_a_default_index_with_a_cpu_build_will_do(tmp_path: Path, refusing: str) -> None:
    done = choose(tmp_path, refusing, *NO_CUDA)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [REQUIREMENT], "")


def test_an_index_named_by_hand_wins(tmp_path: Path) -> None:
    with Index("faketorch-1.0-") as index:
        done = choose(tmp_path, index.url, *CUDA, options=("--index", "https://mirror.example/simple"))
        index.shutdown()
    assert done.stdout.splitlines() == ["--index-url https://mirror.example/simple", REQUIREMENT]
    assert index.asked == []


def test_pins_what_the_project_pins(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "torch_index.py"), "--index", "https://mirror.example"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize("variables", [(), ("TORCH_INDEX=https://mirror.example/simple",)])
def test_the_makefile_asks_this_script(variables: tuple[str, ...]) -> None:
    command = ["make", "--dry-run", "--always-make", "PYTHON=python3", "-C", str(ROOT), "setup", *variables]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ".ci/torch_index.py" in printed
    assert ("--index 'https://mirror.example/simple'" in printed) is bool(variables)
