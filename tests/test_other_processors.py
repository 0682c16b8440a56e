"""Bundles installed on machines with other processors, which an emulator stands for: the reference model says the same.

They need what takes minutes to make, so each is told where it is:

- EDGEKIT_TEST_WHEELS: what `edgekit wheelhouse --cpu x86-64-v2 --cpu x86-64-v3 --cpu x86-64-v4` gathered.
- EDGEKIT_TEST_ARM64_ROOT: a root that tests/arm64_root.sh made; and EDGEKIT_TEST_ARM64_WHEELS, what
  `edgekit wheelhouse --device raspberry-pi-5` gathered.

Whether an answer is right is what is asked; an emulator says nothing about speed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import emulated
import pytest
from emulated import Machine
from material import photo
from PIL import Image

from edgekit.cli import main
from edgekit.formats.gguf.library import libraries_in
from edgekit.machine.cpu import LEVELS, platform_name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(platform_name() != "linux-x86_64", reason="the emulators are of x86-64"),
]
LEVEL = "Q4_0+vision-int8"  # a decoder in llama.cpp, a vision part in ONNX Runtime
REPOSITORY = Path(__file__).resolve().parent.parent
PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


@dataclass(frozen=True)
class Model:
    """A processor that has a level and nothing that the next one has.

    Attributes:
        device: a profile of a machine with such a one.
        wheels: the variable that names a folder with builds for it.
    """

    processor: str
    level: str
    device: str
    wheels: str


MODELS = {
    "Nehalem": Model("x86_64", "x86-64-v2", "laptop-16gb-cpu", "EDGEKIT_TEST_WHEELS"),
    "Haswell": Model("x86_64", "x86-64-v3", "laptop-16gb-cpu", "EDGEKIT_TEST_WHEELS"),
    "cortex-a76": Model("aarch64", "armv8.2-a+dotprod+fp16", "raspberry-pi-5", "EDGEKIT_TEST_ARM64_WHEELS"),
}

# Greedy answers that may not end (1 and 5 would end them): each token, and by how many nats it leads.
ANSWERS = """
import json, sys
from pathlib import Path
import edgekit
from edgekit.runtime import open_model
from edgekit.runtime.generation.options import GenerationOptions

folder, picture, level = sys.argv[1:]
asked = [
    ["Is cystic fibrosis inherited?"],
    ["Who was the patient?"],
    [edgekit.Image(picture), "Describe the lungs."],
]
options = GenerationOptions(max_tokens=24, top_logprobs=3, logit_bias={1: -100, 5: -100}, lookup=False)
answers = []
with open_model(Path(folder), level, threads=1, runtime="default") as model:
    for content in asked:
        *_, end = model.generate([edgekit.Message("user", *content)], options)
        likely = [[one for one in chosen.top if one.token not in options.logit_bias] for chosen in end.tokens]
        answers.append([[best.token, best.logprob - next.logprob] for best, next, *_ in likely])
        assert [best.token for best, *_ in likely] == [chosen.token for chosen in end.tokens], likely
print(json.dumps(answers))
"""
# By AVX2, numpy's partial sort dies or errs in qemu 7.2, the first that has AVX2. llama.cpp keeps it.
NO_AVX2_IN_NUMPY = {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}
CLEAR = 0.25  # a lead that rounding, which differs from processor to processor, does not turn


def folder_of(variable: str) -> Path:
    if not (named := os.environ.get(variable)):
        pytest.skip(f"${variable} names no folder")
    return Path(named)


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "chest.png"
    Image.fromarray(photo(90, 70)).save(path)
    return path


@pytest.fixture(scope="module")
def artifact(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgekit.prove.publish import export

    return export(medgemma_source, tmp_path_factory.mktemp("artifact") / "model", levels=[LEVEL], prove=False).folder


Answers = list[list[tuple[int, float]]]


@pytest.fixture(scope="module")
def expected(artifact: Path, chest: Path) -> Answers:
    """What the builds that are installed here answer, on this very processor."""
    pytest.importorskip("llama_cpp")
    command = [sys.executable, "-P", "-c", ANSWERS, str(artifact), str(chest), LEVEL]
    return answers(subprocess.run(command, capture_output=True, text=True, check=False, timeout=900))


def answers(done: subprocess.CompletedProcess[str]) -> Answers:
    assert done.returncode == 0, done.stderr[-3000:]
    return [[tuple(chosen) for chosen in answer] for answer in json.loads(done.stdout.splitlines()[-1])]


def machine(model: str, folder: Path) -> Machine:
    """A machine with a processor, whose emulator is put into a folder."""
    if lacks := emulated.lacking():
        pytest.skip(f"needs {lacks}")
    processor = MODELS[model].processor if model in MODELS else "x86_64"
    if not (found := shutil.which(emulated.emulator_name(processor))):
        pytest.skip(f"needs {emulated.emulator_name(processor)}")
    root = Path("/") if processor == "x86_64" else folder_of("EDGEKIT_TEST_ARM64_ROOT")
    return Machine(processor, model, emulated.emulator(processor, Path(found), folder), root)


@pytest.fixture(scope="module")
def packed(artifact: Path, chest: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Model], Path]:
    """Makes a folder with a bundle for a device, which has all builds that there are, the key that signed it, and the
    picture; once for all processors."""

    @functools.cache
    def folder(device: str, variable: str) -> Path:
        wheels, place = folder_of(variable), tmp_path_factory.mktemp(device)
        levels = [word for path in sorted(wheels.iterdir()) if path.name in LEVELS for word in ("--cpu", path.name)]
        assert main(["keygen", "--to", str(place / "maker")]) == 0
        words = ["pack", str(artifact), "--level", LEVEL, "--device", device, "--key", str(place / "maker")]
        assert main([*words, *levels, "--wheelhouse", str(wheels), "--to", str(place / "bundle")]) == 0
        shutil.copy(chest, place)
        return place

    return lambda model: folder(model.device, model.wheels)


@dataclass(frozen=True)
class Installed:
    """What a bundle's own script makes of it on a machine.

    Attributes:
        folder: what is /mnt there.
    """

    machine: Machine
    folder: Path

    @property
    def root(self) -> Path:
        """Where it is installed, below the folder."""
        return Path(f"root-{self.machine.model}")

    def install(self) -> subprocess.CompletedProcess[str]:
        """Run the script, by the Python of the machine's system."""
        named = {"PYTHON": PYTHON} if self.machine.root == Path("/") else {}
        words = ("sh", "bundle/install.sh", "--to", self.root, "--key", "maker.pub")
        return self.machine.run(self.folder, *words, **named)

    def python(self, code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run code by what is installed."""
        command = (self.root / "a/env/bin/python", "-P", "-c", code, *words)
        return self.machine.run(self.folder, *command, **(NO_AVX2_IN_NUMPY if self.machine.model == "Haswell" else {}))


@pytest.fixture(scope="module", params=MODELS)
def installed(
    request: pytest.FixtureRequest, packed: Callable[[Model], Path], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    there = machine(request.param, tmp_path_factory.mktemp("emulator"))
    made = Installed(there, packed(MODELS[request.param]))
    done = made.install()
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def test_the_installer_chose_the_build_for_the_processor(installed: Installed) -> None:
    model = MODELS[installed.machine.model]
    code = "from edgekit.machine.cpu import levels, platform_name; print(levels()[0], platform_name())"
    assert installed.python(code).stdout.split() == [model.level, f"linux-{model.processor}"]
    (site,) = (installed.folder / installed.root / "a/env").glob("lib/python*/site-packages")
    for name, data in libraries(folder_of(model.wheels) / model.level).items():
        assert (site / name).read_bytes() == data, name


def test_what_is_installed_gives_the_same_tokens(installed: Installed, expected: Answers) -> None:
    """Up to where two are about equally likely."""
    found = answers(installed.python(ANSWERS, installed.root / "a/model", "chest.png", LEVEL))
    compared = 0
    for here, there in zip(expected, found, strict=True):
        clear = next((at for at, (_, lead) in enumerate(here) if lead < CLEAR), len(here))
        assert [token for token, _ in there[:clear]] == [token for token, _ in here[:clear]]
        compared += clear
    assert compared >= 60


def test_what_is_installed_is_run_by_its_launcher(installed: Installed) -> None:
    done = installed.machine.run(installed.folder, installed.root / "run", "edgekit", "inspect", ":model")
    assert done.returncode == 0, done.stderr[-3000:]
    assert LEVEL in done.stdout


def test_a_processor_below_all_builds_is_refused(packed: Callable[[Model], Path], tmp_path: Path) -> None:
    """A Core 2, which numpy's own wheels do not run on either."""
    there = Installed(machine("core2duo", tmp_path), packed(MODELS["Nehalem"]))
    done = there.install()
    assert done.returncode == 1
    assert "is for processors of x86-64-v2 or x86-64-v3" in done.stderr
    assert not (there.folder / there.root).exists()


def test_a_build_for_more_dies(tmp_path: Path) -> None:
    """Which is why one is chosen; and an emulator that lets its instructions pass would prove nothing."""
    for name, data in libraries(folder_of("EDGEKIT_TEST_WHEELS") / "x86-64-v3").items():
        (tmp_path / Path(name).name).write_bytes(data)
    code = "from edgekit.formats.gguf.library import library; library()"
    there = machine("Nehalem", tmp_path)
    done = there.run(tmp_path, sys.executable, "-c", code, **libraries_in(Path("/mnt")), PYTHONPATH=str(REPOSITORY))
    assert done.returncode == -signal.SIGILL


# ---------------------------------------------------------------- what the builds hold

# Level -> what no instruction that its processors have is or touches, as objdump prints it: wider registers, more of
# them, masks, and extensions that take neither; but for lzcnt, which miniaudio in libmtmd uses where CPUID has it.
_BEYOND_V2 = r"\tv[a-z]|\t(?:andn|bextr|bls\w+|bzhi|movbe|mulx|pdep|pext|rorx|s[ah][lr]x)[lqw]?\b"
BEYOND = {
    "x86-64-v2": rf"%[yz]mm|%k[0-7]|{_BEYOND_V2}",
    "x86-64-v3": r"%zmm|%[xy]mm(?:1[6-9]|2\d|3[01])|%k[0-7]|\tvpdp",
}


def libraries(folder: Path) -> Mapping[str, bytes]:
    """llama.cpp's libraries in the wheel that a folder has: path in the wheel -> content."""
    (wheel,) = folder.glob("llama_cpp_python-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.search(r"/lib/lib(?:ggml|llama|mtmd)[\w-]*\.so$", name)]
        assert len(names) > 3
        return {name: archive.read(name) for name in names}


@pytest.mark.parametrize("level", BEYOND)
def test_a_build_holds_no_instruction_of_a_higher_level(level: str, tmp_path: Path) -> None:
    if not (objdump := shutil.which("objdump")):
        pytest.skip("needs binutils")
    for name, data in libraries(folder_of("EDGEKIT_TEST_WHEELS") / level).items():
        (tmp_path / "library").write_bytes(data)
        command = [objdump, "--disassemble", "--no-show-raw-insn", str(tmp_path / "library")]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "\tret" in printed
        found = re.search(BEYOND[level], printed)
        assert found is None, f"{name}: {printed[found.start() - 40 : found.end() + 40]}"


def test_no_build_knows_where_it_was_made() -> None:
    """An assertion names its source file: below no folder of the machine that compiled it."""
    for wheel in folder_of("EDGEKIT_TEST_WHEELS").glob("*/llama_cpp_python-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                assert not re.search(rb"/(?:tmp|root|home|build)/[\w./-]+\.(?:c|cpp|h)\x00", archive.read(name)), name
