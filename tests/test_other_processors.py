"""llama.cpp built for other processors, run by an emulator: the reference model gives the same tokens.

They need what takes minutes to make, so each is told where it is:

- EDGEKIT_TEST_WHEELS: a folder that `edgekit wheelhouse` filled, with builds of llama.cpp in LEVEL/.
- EDGEKIT_TEST_ARM64_ROOT: a root that tests/arm64_root.sh made; and EDGEKIT_TEST_ARM64_WHEELS, such a folder for it,
  gathered with `onnxruntime==1.24.4` as constraint: later ones end by a signal under Debian 12's emulator.

Whether an answer is right is what is asked; an emulator says nothing about speed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from material import photo
from PIL import Image

from edgekit.formats.gguf.library import libraries_in
from edgekit.machine.cpu import LEVELS, platform_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform_name() != "linux-x86_64", reason="the emulators are of x86-64"),
]
LIMIT_S = 900
# OpenMP's threads wait for each other by spinning, which an emulator turns into minutes.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

ANSWERS = """
import json, sys
from pathlib import Path
import edgekit
from edgekit.runtime import open_model
from edgekit.runtime.generation.options import GenerationOptions

folder, picture, level = sys.argv[1:]
answers = []
with open_model(Path(folder), level, threads=1, runtime="default") as model:
    for content in (["Name a lung disease."], [edgekit.Image(picture), "What is the main finding in this image?"]):
        *_, end = model.generate([edgekit.Message("user", *content)], GenerationOptions(max_tokens=16, top_logprobs=0))
        answers.append([[chosen.token for chosen in end.tokens], end.text, end.stopped])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "chest.png"
    Image.fromarray(photo(90, 70)).save(path)
    return path


@pytest.fixture(scope="module")
def expected(medgemma_artifact: Path, chest: Path) -> object:
    """What the build that is installed here answers, on this very processor."""
    pytest.importorskip("llama_cpp")
    return answers([sys.executable], medgemma_artifact, chest)


def answers(python: list[str], artifact: Path, picture: Path, **environment: str) -> object:
    command = [*python, "-P", "-c", ANSWERS, str(artifact), str(picture), "Q8_0"]
    variables = {**os.environ, **ONE_THREAD, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def folder_of(variable: str) -> Path:
    if not (named := os.environ.get(variable)):
        pytest.skip(f"${variable} names no folder")
    return Path(named)


def emulator(name: str) -> str:
    if not (found := shutil.which(name) or shutil.which(name.removesuffix("-static"))):
        pytest.skip(f"no {name}")
    return found


def libraries(wheels: Path, level: str, into: Path) -> Path:
    """The libraries of a level's build."""
    (wheel,) = (wheels / level).glob("llama_cpp_python-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    return into / "llama_cpp" / "lib"


# Level -> a processor that has it and nothing that the next one has.
EMULATED = {"x86-64-v2": "Nehalem", "x86-64-v3": "Haswell"}
REGISTERS = {"x86-64-v2": "ymm|zmm", "x86-64-v3": "zmm"}  # of wider instructions


@pytest.mark.parametrize("level", EMULATED)
def test_a_build_for_old_machines_answers_the_same(
    level: str, expected: object, medgemma_artifact: Path, chest: Path, tmp_path: Path
) -> None:
    build = libraries(folder_of("EDGEKIT_TEST_WHEELS"), level, tmp_path)
    python = [emulator("qemu-x86_64-static"), "-cpu", EMULATED[level], sys.executable]
    asked = [*python, "-c", "from edgekit.machine.cpu import levels; print(levels()[0])"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == level
    assert answers(python, medgemma_artifact, chest, **libraries_in(build)) == expected


@pytest.mark.parametrize("level", EMULATED)
def test_it_holds_no_instruction_of_a_higher_level(level: str, tmp_path: Path) -> None:
    if not (objdump := shutil.which("objdump")):
        pytest.skip("needs binutils")
    build = libraries(folder_of("EDGEKIT_TEST_WHEELS"), level, tmp_path)
    for library in sorted(build.glob("lib[!g]*.so")) + sorted(build.glob("libggml*.so")):
        printed = subprocess.run([objdump, "-d", str(library)], capture_output=True, text=True, check=True).stdout
        assert not re.search(rf"%(?:{REGISTERS[level]})", printed), library.name


def test_the_wrong_one_dies(medgemma_artifact: Path, chest: Path, tmp_path: Path) -> None:
    """Which is why one is chosen: a build for AVX2 on a processor without it."""
    build = libraries(folder_of("EDGEKIT_TEST_WHEELS"), "x86-64-v3", tmp_path)
    python = [emulator("qemu-x86_64-static"), "-cpu", EMULATED["x86-64-v2"], sys.executable]
    with pytest.raises(AssertionError):
        answers(python, medgemma_artifact, chest, **libraries_in(build))


def test_no_build_knows_where_it_was_made() -> None:
    """An assertion names its source file: below no folder of the machine that compiled it."""
    for wheel in folder_of("EDGEKIT_TEST_WHEELS").glob("*/llama_cpp_python-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                assert not re.search(rb"/(?:tmp|root|home|build)/[\w./-]+\.(?:c|cpp|h)\x00", archive.read(name)), name


# ---------------------------------------------------------------- arm64


@pytest.fixture(scope="module")
def arm64(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """Debian's Python for arm64 with edgekit installed for a Raspberry Pi 5: a command and its variables."""
    root, wheels = folder_of("EDGEKIT_TEST_ARM64_ROOT"), folder_of("EDGEKIT_TEST_ARM64_WHEELS")
    qemu = emulator("qemu-aarch64-static")
    site = tmp_path_factory.mktemp("arm64")
    (level,) = (folder.name for folder in wheels.iterdir() if folder.name in LEVELS)
    for wheel in [*wheels.glob("*.whl"), *(wheels / level).glob("*.whl")]:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    python = [qemu, "-cpu", "cortex-a76", "-L", str(root), str(root / "usr/bin/python3")]
    # What it starts is run by the kernel's own rule for such files, which looks here for the rest.
    return python, {"PYTHONPATH": str(site), "QEMU_LD_PREFIX": str(root), "QEMU_CPU": "cortex-a76"}


def test_an_arm_processor_knows_its_level(arm64: tuple[list[str], dict[str, str]]) -> None:
    python, variables = arm64
    code = "from edgekit.machine.cpu import levels, platform_name; print(levels()[0], platform_name())"
    asked = [*python, "-c", code]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env={**os.environ, **variables})
    assert done.stdout.split() == ["armv8.2-a+dotprod+fp16", "linux-aarch64"]


def test_an_arm_processor_answers_the_same(
    arm64: tuple[list[str], dict[str, str]], expected: object, medgemma_artifact: Path, chest: Path
) -> None:
    python, variables = arm64
    assert answers(python, medgemma_artifact, chest, **variables) == expected
