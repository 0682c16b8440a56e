"""From a model to a machine far away and back: plan, export, pack, verify, install, serve, update, rollback.

Without a network at any step, and with Python alone from the installation on.

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

DEVICE = "laptop-16gb-cpu"

# Runs in the namespace, by the system's Python: brings its loopback up, serves, asks as a client would.
SERVED = """
import fcntl, json, socket, struct, subprocess, sys, urllib.request

fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
server = subprocess.Popen(
    [sys.argv[1], "edgekit", "serve", ":model", "--device", sys.argv[2], "--port", "0", "--json"],
    stdout=subprocess.PIPE, text=True,
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

    # Where bundles are made: what the plan recommends, and another level to update to.
    plan = json.loads(edgekit("plan", "medgemma-reference", "--device", DEVICE, "--json"))
    best = plan["recommended"]
    assert plan["variants"][best]["fits"]
    edgekit("export", "medgemma-reference", "--to", "artifact", "--device", DEVICE, "--no-prove")
    assert json.loads((tmp_path / "artifact" / "edgekit.json").read_text())["default"] == best
    other = "Q4_K_M" if best != "Q4_K_M" else "Q4_0"
    edgekit("export", "medgemma-reference", "--to", "artifact", "--level", other, "--no-prove")
    level = levels()[0]
    (tmp_path / "wheels" / level).mkdir(parents=True)
    write_wheel(installed_wheel("llama-cpp-python"), tmp_path / "wheels" / level)
    edgekit("keygen", "--to", "clinic.key")
    packed = ("--device", DEVICE, "--cpu", level, "--key", "clinic.key", "--wheelhouse", "wheels")
    edgekit("pack", "artifact", "--level", best, *packed, "--to", "bundle")
    edgekit("pack", "artifact", "--level", other, *packed, "--to", "update", "--since", "bundle")
    edgekit("verify", "bundle", "--key", "clinic.key.pub")
    edgekit("verify", "update", "--key", "clinic.key.pub", "--since", "bundle")

    # Where they are used: Python alone.
    root, question = tmp_path / "root", ("ask", ":model", "What is a pneumothorax?", "--max-tokens", "5")
    run("sh", "bundle/install.sh", "--to", root, "--key", "clinic.key.pub", PYTHON=python)
    (tmp_path / "bundle").rename(tmp_path / "the stick is gone")
    first = run(root / "run", "edgekit", *question)
    assert first.strip()
    assert run(python, "-c", SERVED, root / "run", DEVICE).strip() == first.strip()

    def in_use(beside: str = "before") -> tuple[str, str | None]:
        """The level in use, and that of the slot that can be gone back to, or was gone back from."""
        found = json.loads(run(root / "run", "edgekit", "installed", "--to", root, "--json"))
        return found["in_use"]["level"], found[beside] and found[beside]["level"]

    assert in_use() == (best, None)
    run(root / "run", "edgekit", "update", "update", "--to", root)
    assert in_use() == (other, best)
    assert run(root / "run", "edgekit", *question).strip()
    run(root / "run", "edgekit", "rollback", "--to", root)
    assert in_use("after") == (best, other)
    assert run(root / "run", "edgekit", *question) == first
