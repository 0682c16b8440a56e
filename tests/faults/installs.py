"""Small bundles that really install, and a server of runs that install, update and go back.

`python -m faults.installs ROOT SAID`: see `injector.serve`. What a bundle holds is real but for its program: an
`edgekit` of a few lines that prints which version it is and what the model says.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bundles import make

from edgekit.cli import main
from edgekit.machine.cpu import levels
from edgekit.pack import differences, document
from edgekit.pack.bootstrap.here import here
from edgekit.pack.bundle import Bundle

# What stands in for edgekit where a bundle is installed.
_MAIN = """
import sys
from pathlib import Path
from edgekit import VERSION
models = {word: Path(word) / "weights" for word in sys.argv[1:]}
said = [path.read_text() if path.is_file() else word for word, path in models.items()]
print("edgekit", VERSION, *said)
"""
_WORKER = """
import json, sys
from pathlib import Path
job = json.loads(sys.stdin.read())
if (Path(job["golden"]) / "expected").read_text() != (Path(job["model"]) / "weights").read_text():
    sys.stderr.write("the answer is another one\\n")
    sys.exit(1)
"""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel(files: Mapping[str, str], name: str = "edgekit-1.0-py3-none-any.whl") -> bytes:
    """A wheel of these files."""
    import io

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
        info = "-".join(name.split("-")[:2])
        archive.writestr(zipfile.ZipInfo(f"{info}.dist-info/METADATA"), f"Name: {name.split('-')[0]}\n")
    return data.getvalue()


def content(version: int, weights: str = "", expected: str | None = None) -> dict[str, bytes]:
    """The files of a bundle whose program says this version and whose model says `weights`."""
    weights = weights or f"model {version}"
    program = {
        "edgekit/__init__.py": f"VERSION = {version}\n",
        "edgekit/__main__.py": _MAIN,
        "edgekit/machine/__init__.py": "",
        "edgekit/machine/worker.py": _WORKER,
    }
    level = levels()[0]
    return {
        "model/weights": weights.encode(),
        "model/tokenizer": b"the same in all of them",
        "golden/expected": (weights if expected is None else expected).encode(),
        "papers/NOTICE": b"none",
        "install.sh": b"#!/bin/sh\n",
        "wheels/edgekit-1.0-py3-none-any.whl": wheel(program),
        f"wheels/{level}/llama_cpp_python-1.0-py3-none-any.whl": wheel(
            {"llama_cpp.py": f"LEVEL = {level!r}\n"}, "llama_cpp_python-1.0-py3-none-any.whl"
        ),
    }


def made(folder: Path, key: Path, version: int, files: Mapping[str, bytes] | None = None, **more: Any) -> Bundle:
    """A bundle for this machine; its name is the same whatever its version."""
    said = {"platform": here().platform, "python": [PYTHON], "cpu": [levels()[0]]}
    said |= {"version": version, "minimum_version": 1}
    return make(folder, content(version) if files is None else files, key, **{**said, **more})


def without_known(folder: Path, old: Bundle, target: Path) -> Path:
    """A copy of a bundle that brings only what another has not."""
    new = document.read(folder)[0]
    brought = {file.path for file in differences.missing(new, old)}
    shutil.copytree(folder, target)
    for file in new.files:
        if file.path not in brought:
            (target / file.path).unlink()
    for place in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        if not any(place.iterdir()):
            place.rmdir()
    return target


def _run(*words: str) -> int:
    return main(list(words))


# Below the injector's root: the bundles one and two, two as an update of one, the key, and an installed root.
CALLS: Mapping[str, Callable[[], int]] = {
    "install": partial(_run, "install", "one", "--to", "root", "--key", "key.pub"),
    "update": partial(_run, "update", "two", "--to", "root"),
    "update by difference": partial(_run, "update", "less", "--to", "root"),
    "rollback": partial(_run, "rollback", "--to", "root"),
}

if __name__ == "__main__":
    import importlib

    from faults.injector import serve

    for module in ("edgekit.pack.install", "cryptography.hazmat.primitives.asymmetric.ed25519", "rfc8785", "venv"):
        importlib.import_module(module)
    serve(Path(sys.argv[1]), Path(sys.argv[2]), CALLS)
