"""What stands at the top of the package: it costs nothing to import, and its examples are run."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import edgekit
from edgekit import errors
from edgekit.inputs import phantoms

ROOT = Path(__file__).resolve().parent.parent


def test_everything_that_is_offered_is_there() -> None:
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    assert set(edgekit.__all__) <= set(dir(edgekit))
    assert {"open", "Message", "Image", "Generation", "Model"} <= set(edgekit.__all__)
    kinds = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == "edgekit.errors"
    }
    assert kinds <= set(edgekit.__all__), "every kind of error"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgekit.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec("from edgekit import nothing")


def test_importing_it_loads_no_library() -> None:
    code = "import sys, edgekit; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "PIL", "pydantic", "tokenizers", "onnxruntime", "llama_cpp", "torch", "psutil"}


@pytest.fixture
def folder(medgemma_artifact: Path, medsiglip_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the examples name."""
    (tmp_path / "medgemma").symlink_to(medgemma_artifact)
    (tmp_path / "medsiglip").symlink_to(medsiglip_artifact)
    drawn = next(p for p in phantoms.generate(30_260, 8) if (p.finding, p.severity) == ("pneumothorax", "severe"))
    Image.fromarray(drawn.image).save(tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


EXAMPLES = ("", "open", "Model", "Model.generate", "Generation", "Message", "Image")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_do_what_they_say(name: str, folder: Path) -> None:
    documented: Any = edgekit
    for part in filter(None, name.split(".")):
        documented = getattr(documented, part)
    names = {each: getattr(edgekit, each) for each in ("Generation", "Image", "Message")}
    (found,) = doctest.DocTestFinder(recurse=False).find(documented, name or "edgekit", globs={**names})
    assert found.examples
    said: list[str] = []
    assert not doctest.DocTestRunner().run(found, out=said.append).failed, "".join(said)


def test_the_readmes_example_runs(folder: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    alone = [block for block in blocks if "127.0.0.1" not in block]  # tests/test_serve_clients.py runs the others
    assert alone
    for block in alone:
        exec(compile(block, "README.md", "exec"), {})
