"""Which torch to install on this machine: prints a requirements file for pip.

Without an NVIDIA GPU, gigabytes of CUDA libraries are of no use, and on Linux the torch of PyPI brings them. So there
the CPU build is taken: from PyTorch's own CPU index where that answers, else from pip's default index where its torch
is a CPU build (a mirror's may be). Where neither has one, this stops and says which variable names another index.

Needs nothing but the standard library and, for the default index, `packaging`. Nothing is installed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import subprocess
import sys
import threading
import tomllib
import urllib.parse
import urllib.request
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PATIENCE_S = 10.0


def main() -> None:
    """Print the requirements; exit with a message where there is nothing that fits."""
    options = parse_options()
    index = options.index or (options.cpu_index if needs_cpu_build(options) else None)
    print(f"--index-url {index}\n{options.requirement}" if index else options.requirement)


def parse_options() -> argparse.Namespace:
    """The command line; without options it is about the torch that pyproject.toml pins."""
    parser = argparse.ArgumentParser(description="Print a requirements file for the torch that fits this machine.")
    parser.add_argument("--index", metavar="URL", help="take this index, unasked")
    parser.add_argument("--cpu-index", metavar="URL", default=CPU_INDEX, help=f"of CPU builds (default: {CPU_INDEX})")
    parser.add_argument("--requirement", metavar="NAME==VERSION", default=pinned_torch(), help="in place of torch")
    parser.add_argument("--patience", type=float, metavar="S", default=PATIENCE_S, help="how long the index may take")
    return parser.parse_args()


def pinned_torch() -> str:
    """`torch==VERSION`, as the project pins it."""
    extras = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return str(next(need for need in extras["export"] if need.startswith("torch==")))


def needs_cpu_build(options: argparse.Namespace) -> bool:
    """Whether the CPU index must be named: the machine has no use for CUDA, and that index has the build.

    False where pip's default index does as well. Exits where neither fits.
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return False
    if has(options.cpu_index, options.requirement, options.patience):
        return True
    cuda = cuda_libraries(options.requirement)
    if cuda:
        sys.exit(
            f"edgekit: stopped before downloading CUDA libraries: {options.requirement} from pip's index needs "
            f"{', '.join(cuda)}, this machine has no NVIDIA GPU, and {options.cpu_index} did not answer within "
            f"{options.patience:g} s.\nName an index with a CPU build of torch:\n  make setup TORCH_INDEX=URL"
        )
    return False


def has(index: str, requirement: str, patience_s: float) -> bool:
    """Whether an index answers in time and its page names this version."""
    name, version = requirement.split("==")
    wanted = f"{name}-{version}"
    answered = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/{name}/", timeout=patience_s) as page:  # noqa: S310
                text = urllib.parse.unquote(page.read().decode("utf-8", errors="replace"))
        except (OSError, ValueError, http.client.HTTPException):
            return
        if f"{wanted}-" in text or f"{wanted}+" in text:
            answered.set()

    # In a thread: a name server that does not answer, or a page that comes byte by byte, knows no time-out.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience_s)
    return answered.is_set()


def cuda_libraries(requirement: str) -> list[str]:
    """The CUDA libraries that this requirement would bring from pip's default index; exits where it is not there.

    pip reads the index's metadata, or the wheel's first bytes.
    """
    ask = [sys.executable, "-m", "pip", "-qq", "install", "--dry-run", "--no-deps", "--use-feature=fast-deps"]
    report = subprocess.run([*ask, "--report", "-", requirement], stdout=subprocess.PIPE, text=True, check=False)
    if report.returncode:
        sys.exit(report.returncode)
    to_install = json.loads(report.stdout)["install"]
    if not to_install:  # installed already
        return []
    from packaging.requirements import Requirement

    needs = map(Requirement, to_install[0]["metadata"].get("requires_dist", []))
    applying = [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return [name for name in applying if name.startswith(("nvidia", "cuda"))]


if __name__ == "__main__":
    main()
