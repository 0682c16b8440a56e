"""From a model to a machine far away and back: each step of a bundle's life, without a network, with Python alone.

Slow: it takes some 250 MB of wheels through five places.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.machine.cpu import levels
from edgekit.pack.installed_wheels import installed_wheel
from edgekit.pack.wheel_files import write_wheel

ALONE = ["unshare", "-n"] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["unshare", "-rn"]
REPOSITORY = Path(__file__).resolve().parent.parent


def can_be_alone() -> bool:
    """Whether a network namespace can be made here."""
    if sys.platform != "linux":
        return False
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_be_alone(), reason="no network namespaces"),
]

# Runs in the namespace, by the system's Python: brings its loopback up, serves, asks as a client would.
SERVED = """
import fcntl, json, socket, struct, subprocess, sys, urllib.request

fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
server = subprocess.Popen(
    [sys.argv[1], "edgekit", "serve", ":model", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
)
url = json.loads(server.stdout.readline())["url"]
body = {"model": "model", "max_tokens": 5, "messages": [{"role": "user", "content": "What is a pneumothorax?"}]}
request = urllib.request.Request(
    url + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
)
with urllib.request.urlopen(request) as answer:
    print(json.loads(answer.read())["choices"][0]["message"]["content"])
server.terminate()
server.wait()
"""


def test_the_whole_way_of_a_bundle(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    plain = {"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    python = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    began = time.monotonic()

    def run(*command: str | Path, **more: str) -> str:
        """A command where there is no network and nothing of this environment; what it prints."""
        done = subprocess.run(
            [*ALONE, *map(str, command)],
            capture_output=True, text=True, check=False, cwd=tmp_path, env={**plain, **more}, timeout=3000,
        )  # fmt: skip
        print(f"{time.monotonic() - began:6.1f} s  {' '.join(map(str, command))[:100]}", file=sys.stderr)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def edgekit(*words: str | Path) -> str:
        return run(sys.executable, "-m", "edgekit", *words, PYTHONPATH=str(REPOSITORY))

    # Where bundles are made.
    level = levels()[0]
    (tmp_path / "given" / level).mkdir(parents=True)
    write_wheel(installed_wheel("llama-cpp-python"), tmp_path / "given" / level)
    edgekit("export", "medgemma-reference", "--to", "art", "--level", "Q4_0", "--level", "Q4_K_M", "--no-prove")
    edgekit("keygen", "--to", "maker")
    packed = ("--device", "laptop-16gb-cpu", "--cpu", level, "--key", "maker", "--wheelhouse", "given")
    edgekit("pack", "art", "--level", "Q4_0", *packed, "--to", "bundle")
    edgekit("pack", "art", "--level", "Q4_K_M", *packed, "--to", "next", "--since", "bundle")
    edgekit("verify", "bundle", "--key", "maker.pub")

    # Where they are used: Python alone.
    root, question = tmp_path / "root", ("ask", ":model", "What is a pneumothorax?", "--max-tokens", "5")
    run("sh", "bundle/install.sh", "--to", root, "--key", "maker.pub", PYTHON=python)
    (tmp_path / "bundle").rename(tmp_path / "the stick is gone")
    first = run(root / "run", "edgekit", *question)
    assert first.strip()
    assert run(python, "-c", SERVED, root / "run").strip() == first.strip()

    def in_use() -> tuple[str, str | None]:
        found = json.loads(run(root / "run", "edgekit", "installed", root, "--json"))
        return found["in_use"]["level"], found["before"] and found["before"]["level"]

    assert in_use() == ("Q4_0", None)
    run(root / "run", "edgekit", "update", "next", "--to", root)
    assert in_use() == ("Q4_K_M", "Q4_0")
    assert run(root / "run", "edgekit", *question).strip()
    run(root / "run", "edgekit", "rollback", root)
    assert in_use() == ("Q4_0", "Q4_K_M")
    assert run(root / "run", "edgekit", *question) == first
