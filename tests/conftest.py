"""Fixtures: the reference models' folders, one unproven export of each, and copies that a test may damage."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

# Before any library reads them: waiting threads must not spin on a busy machine, and nothing may reach for a network.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings
from material import LEVELS, Copy

from edgekit.checkpoints import reference_models as reference
from edgekit.errors import EdgekitError, UsageError
from edgekit.machine.cache import cache_folder
from edgekit.machine.temporary import temporary_folder

if TYPE_CHECKING:
    from proofs import Unproven

    from edgekit.runtime.llama.gpu_build import GpuBuild

# What was tried, measured and built on this machine is no part of a test, nor may a test leave anything there, or where
# the system's temporary files are: some kill a process, which leaves its own. What failed tests wrote pytest keeps.
_RUN = ExitStack()
_USERS_CACHE: Path | None = None
with suppress(UsageError):  # a user without a home
    _USERS_CACHE = cache_folder()
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
for _variable in ("EDGEKIT_CACHE", "TMPDIR"):
    os.environ[_variable] = str(_RUN.enter_context(temporary_folder("tests")))
tempfile.tempdir = None  # found anew, there
# Shells have what they run behind `&` ignore Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Time says nothing on a shared machine, and examples must be the same in every run.
settings.register_profile(
    "edgekit",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("edgekit")


def pytest_unconfigure() -> None:
    _RUN.close()


def _shipped(name: str) -> Path:
    found = reference.path(name)
    assert found is not None, f"{name} belongs to the repository"
    return found


@pytest.fixture(scope="session")
def gpu_build() -> GpuBuild:
    """The user's build for a GPU, linked into the tests' cache; it finds a GPU now, or a test of it is skipped."""
    from edgekit.runtime.llama import gpu_build, gpu_trial

    theirs, ours = (cache and cache / "llama-cpp" for cache in (_USERS_CACHE, cache_folder()))
    if theirs is None or ours is None or not (theirs / "gpu.json").is_file():
        pytest.skip("no build for a GPU is here: edgekit setup --gpu vulkan")
    ours.mkdir(mode=0o700, exist_ok=True)
    for path in theirs.iterdir():
        if (path.name == "gpu.json" or (path / "lib").is_dir()) and not (ours / path.name).exists():
            (ours / path.name).symlink_to(path)
    try:
        build = gpu_build.current()
        assert build
        gpu_trial.look(build)
    except EdgekitError as error:
        pytest.skip(str(error))
    return build


@pytest.fixture(scope="session")
def medgemma_source() -> Path:
    """The MedGemma-like checkpoint."""
    return _shipped("medgemma-reference")


@pytest.fixture(scope="session")
def medsiglip_source() -> Path:
    """The MedSigLIP-like checkpoint."""
    return _shipped("medsiglip-reference")


@pytest.fixture(scope="session")
def medgemma_artifact(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three levels of the MedGemma-like model, unproven. Copy it before changing it."""
    from edgekit.prove import publish as artifact

    folder = tmp_path_factory.mktemp("artifacts") / "medgemma"
    return artifact.export(medgemma_source, folder, levels=LEVELS, prove=False).folder


@pytest.fixture(scope="session")
def medsiglip_artifact(medsiglip_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MedSigLIP-like model at fp32, unproven. Copy it before changing it."""
    from edgekit.prove import publish as artifact

    folder = tmp_path_factory.mktemp("artifacts") / "medsiglip"
    return artifact.export(medsiglip_source, folder, levels=["fp32"], prove=False).folder


@pytest.fixture(scope="session")
def medsiglip_few(medsiglip_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MedSigLIP-like model at fp32, int8 and q4, unproven. Copy it before changing it."""
    from edgekit.prove import publish as artifact

    folder = tmp_path_factory.mktemp("artifacts") / "medsiglip"
    return artifact.export(medsiglip_source, folder, levels=["fp32", "int8", "q4"], prove=False).folder


@pytest.fixture(scope="session")
def decoder(medgemma_artifact: Path) -> Path:
    """The Q4_0 decoder file of `medgemma_artifact`, as others make one."""
    (path,) = medgemma_artifact.glob("medgemma-*-Q4_0.gguf")
    return path


@pytest.fixture(scope="session")
def projector(medgemma_artifact: Path) -> Path:
    """The projector file of `medgemma_artifact`, as others have one beside a decoder."""
    (path,) = medgemma_artifact.glob("mmproj-*-Q8_0.gguf")
    return path


@pytest.fixture(scope="session")
def medgemma_onnx(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MedGemma-like model at q4 beside a calibrated encoder, unproven. Copy it before changing it."""
    from edgekit.prove import publish as artifact

    folder = tmp_path_factory.mktemp("artifacts") / "medgemma-onnx"
    return artifact.export(medgemma_source, folder, levels=["q4"], prove=False).folder


@pytest.fixture(scope="session")
def medgemma_levels(tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    """Both parts of the MedGemma-like model at every level there is. Who changes it in place must undo that."""
    return _at_every_level("medgemma", tmp_path_factory)


@pytest.fixture(scope="session")
def medsiglip_levels(tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    """The MedSigLIP-like model at every level of ONNX. Who changes it in place must undo that."""
    return _at_every_level("medsiglip", tmp_path_factory)


def _at_every_level(name: str, tmp_path_factory: pytest.TempPathFactory) -> Unproven:
    from proofs import at_every_level

    made = at_every_level(name, tmp_path_factory.mktemp(f"{name}-levels"))
    assert made is not None
    return made


@pytest.fixture
def copied(tmp_path: Path) -> Copy:
    """Copies a folder to where a test may change it, under a name that has nothing to do with the original's."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))

    return copy
