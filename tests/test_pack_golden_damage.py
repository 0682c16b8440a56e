"""What the self-test of a bundle sees of a damaged model, and that honest variation passes.

The manifest's hashes are made to fit the damaged files: that a file is another one is seen by those long before.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from material import Copy, edit_json, read_json
from numpy.typing import NDArray

from edgekit.artifacts.files import sha256_file
from edgekit.errors import BundleError
from edgekit.formats.gguf.library import libraries_in
from edgekit.pack import golden

LEVEL, LEVELS = "Q4_0", ("Q4_0", "Q8_0")
LIMIT_S = 900
SHARE, TRIED, LEAST = 0.001, 12, 11  # of a tensor's bits that are flipped; matrices drawn; caught of them
Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def self_test(medgemma_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    assert golden.make(medgemma_artifact, LEVEL, folder).unseen == ()
    return folder


def matrices(path: Path) -> list[str]:
    return [tensor.name for tensor in gguf.GGUFReader(path).tensors if len(tensor.shape) > 1]


def change(folder: Path, path: Path, pattern: str, by: Callable[[Bytes], Bytes]) -> None:
    """Change the bytes of the tensors of a file that have such names; the manifest says that it is so."""
    data = np.fromfile(path, np.uint8)
    for tensor in gguf.GGUFReader(path).tensors:
        if re.fullmatch(pattern, tensor.name):
            place = slice(tensor.data_offset, tensor.data_offset + tensor.n_bytes)
            data[place] = by(data[place])
    data.tofile(path)
    parts = read_json(folder / "edgekit.json")["parts"]
    (number,) = (number for number, part in enumerate(parts) if part["files"][0]["path"] == path.name)
    edit_json(folder / "edgekit.json", {f"parts.{number}.files.0.sha256": sha256_file(path)})


def flipped(data: Bytes, dice: random.Random) -> Bytes:
    bits = np.unpackbits(data)
    places = dice.sample(range(len(bits)), max(1, round(SHARE * len(bits))))
    bits[places] ^= 1
    return np.packbits(bits)


def is_caught(self_test: Path, folder: Path) -> bool:
    try:
        golden.check(self_test, folder, LEVEL)
    except BundleError:
        return True
    return False


# What an installation does in other ways than the machine that packed.
CHECK = """
import os, sys
from pathlib import Path
from edgekit.pack import golden
if "ONE_CORE" in os.environ:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
golden.check(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""


def checked_elsewhere(self_test: Path, artifact: Path, level: str, **variables: str) -> None:
    """The self-test in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHECK, self_test, artifact, level],
        capture_output=True, text=True, check=False, env={**os.environ, **variables}, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux binds a process to cores")
@pytest.mark.parametrize(("name", "value"), [("EDGEKIT_LLAMA_BUFFERS", "plain"), ("ONE_CORE", "yes")])
def test_honest_variation_passes(name: str, value: str, self_test: Path, medgemma_artifact: Path) -> None:
    """Other kernels, for weights as they lie in the file; another number of threads."""
    checked_elsewhere(self_test, medgemma_artifact, LEVEL, **{name: value})


@pytest.mark.slow
@pytest.mark.parametrize("build", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("level", LEVELS)
def test_builds_for_older_processors_pass(build: str, level: str, medgemma_artifact: Path, tmp_path: Path) -> None:
    """Their kernels, with the vectors of their time, on this processor. See `test_other_processors`."""
    if not (wheels := os.environ.get("EDGEKIT_TEST_WHEELS")):
        pytest.skip("$EDGEKIT_TEST_WHEELS names no folder")
    (wheel,) = Path(wheels, build).glob("llama_cpp_python-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "build")
    golden.make(medgemma_artifact, level, tmp_path / "golden")
    libraries = libraries_in(tmp_path / "build" / "llama_cpp" / "lib")
    checked_elsewhere(tmp_path / "golden", medgemma_artifact, level, **libraries)


FILES = {"decoder": "medgemma-*-Q4_0.gguf", "vision": "mmproj-*-Q8_0.gguf"}


@pytest.mark.slow
@pytest.mark.parametrize("part", FILES)
def test_a_thousandth_of_the_bits_of_one_matrix(
    part: str, self_test: Path, medgemma_artifact: Path, copied: Copy
) -> None:
    """Of a vector, a norm's scale, that is eight bits of 256 numbers, which may do less than rounding does."""
    dice, folder = random.Random(part), copied(medgemma_artifact)
    (path,) = folder.glob(FILES[part])
    whole, missed = path.read_bytes(), []
    for name in dice.sample(matrices(path), TRIED):
        path.write_bytes(whole)
        change(folder, path, re.escape(name), lambda data: flipped(data, dice))
        if not is_caught(self_test, folder):
            missed.append(name)
    assert len(missed) <= TRIED - LEAST, missed


# What is done to which tensors of which part.
WRONG: dict[str, tuple[str, str, Callable[[Bytes], Bytes]]] = {
    "one layer of the decoder is zero": ("decoder", r"blk\.3\..*weight", np.zeros_like),
    "the last layer of the decoder is zero": ("decoder", r"blk\.6\..*weight", np.zeros_like),
    "one layer of the vision part is zero": ("vision", r"v\.blk\.1\..*weight", np.zeros_like),
    "another projection": ("vision", r"mm\.input_projection\.weight", lambda data: np.roll(data, len(data) // 2)),
    "rows of other layers": ("decoder", r"blk\.2\.ffn_.*weight", lambda data: np.roll(data, len(data) // 2)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_plainly_wrong_is_caught(case: str, self_test: Path, medgemma_artifact: Path, copied: Copy) -> None:
    part, pattern, by = WRONG[case]
    folder = copied(medgemma_artifact)
    (path,) = folder.glob(FILES[part])
    before = path.read_bytes()
    change(folder, path, pattern, by)
    assert path.read_bytes() != before
    with pytest.raises(BundleError, match="the self-test failed"):
        golden.check(self_test, folder, LEVEL)
