"""Builds for a GPU: beside the CPU's, used only where they compute what the CPU does, and left out, said, else."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import ArtifactError, EdgekitError, EdgekitWarning, UsageError
from edgekit.formats.gguf.library import libraries_in, library, load_from
from edgekit.machine import worker
from edgekit.machine.gpu import VARIABLE, video_memory
from edgekit.progress import Progress
from edgekit.runtime import open_model, trial
from edgekit.runtime.llama import backend, build, build_inputs, gpu_build, gpu_setup, gpu_trial, placing
from edgekit.runtime.llama.compiler import Compiler
from edgekit.runtime.llama.decoder import LlamaDecoder, LlamaVision
from edgekit.runtime.llama.gpu_build import GpuBuild
from edgekit.runtime.llama.gpu_kinds import KINDS
from edgekit.runtime.llama.gpu_trial import GpuTrial
from edgekit.runtime.llama.video import VideoDevice
from edgekit.runtime.opening import prepare
from edgekit.runtime.parts import DecoderFile, RunOptions

VULKAN = KINDS["vulkan"]
Give = Callable[[Mapping[str, str | bytes]], None]
CARD = VideoDevice("Vulkan0", "A card", 8_000_000_000, 8_000_000_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing that names a GPU or another build."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for workers' functions in this file
    for name in (VARIABLE, "LLAMA_CPP_LIB_PATH", "MTMD_CPP_LIB", "Vulkan_INCLUDE_DIR", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def installed_libraries() -> Path:
    spec = find_spec("llama_cpp")
    assert spec
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "lib"


def made(key: str = f"{build_inputs.VERSION}-linux-vulkan-0", source: Path | None = None) -> GpuBuild:
    """A build in the cache: the installed libraries, which know no GPU, or none."""
    built = GpuBuild(VULKAN, key)
    built.libraries.parent.mkdir(parents=True, mode=0o700)
    if source:
        built.libraries.symlink_to(source)
    else:
        built.libraries.mkdir()
    return built


# ---------------------------------------------------------------- made


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> Give:
    """Has builds give a wheel with these members."""
    monkeypatch.setattr(build, "find_compiler", lambda: Compiler("gcc", (12, 2, 0)))
    monkeypatch.setattr(type(VULKAN), "require", lambda kind: None)

    def give(members: Mapping[str, str | bytes]) -> None:
        def pack(plan: build.Plan, *, force: bool, progress: bool) -> tuple[Path, bool]:
            folder = build.build_folder(plan.key)
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            reused = not force and (folder / "llama.whl").exists()
            with zipfile.ZipFile(folder / "llama.whl", "w") as archive:
                for name, text in members.items():
                    archive.writestr(name, text)
            return folder / "llama.whl", reused

        monkeypatch.setattr(gpu_build, "wheel_of", pack)

    return give


def test_only_libraries_are_unpacked_and_nowhere_else(cache: Path, wheel: Give) -> None:
    hostile = ("llama_cpp/lib/../../../evil.so", "/evil.so", "../evil.so", "llama_cpp/lib/sub/evil.so")
    wheel({"llama_cpp/lib/libllama.so": "a", "llama_cpp/__init__.py": "b", **dict.fromkeys(hostile, "c")})
    built, reused = gpu_build.make(VULKAN, progress=False)
    assert not reused
    assert {path.name: path.read_text() for path in built.libraries.iterdir()} == {"libllama.so": "a"}
    assert not list(cache.parent.rglob("evil.so"))
    assert sorted(path.name for path in built.libraries.parent.iterdir()) == ["lib", "llama.whl"]


def test_a_forced_build_takes_the_place_of_the_one_before(wheel: Give) -> None:
    wheel({"llama_cpp/lib/libold.so": "old"})
    gpu_build.make(VULKAN, progress=False)
    wheel({"llama_cpp/lib/libnew.so": "new"})
    built, _ = gpu_build.make(VULKAN, force=True, progress=False)
    assert [path.name for path in built.libraries.iterdir()] == ["libnew.so"]


def test_a_build_that_was_damaged_is_mended_and_its_users_keep_what_they_have(wheel: Give) -> None:
    """By setup alone; nothing is written into a file that a process may have loaded, which would crash it."""
    wheel({"llama_cpp/lib/libllama.so": "whole", "llama_cpp/lib/libggml.so": "whole"})
    libraries = gpu_build.make(VULKAN, progress=False)[0].libraries
    os.truncate(libraries / "libllama.so", 0)
    (libraries / "libggml.so").unlink()
    (libraries / "libstray.so").touch()
    with (libraries / "libllama.so").open("rb") as loaded:
        assert gpu_build.make(VULKAN, progress=False)[1], "nothing had to be compiled"
        assert loaded.read() == b""
    assert {path.name: path.read_text() for path in libraries.iterdir()} == {
        "libllama.so": "whole",
        "libggml.so": "whole",
    }
    assert sorted(path.name for path in libraries.parent.iterdir()) == ["lib", "llama.whl"]


def test_libraries_are_on_the_disk_before_they_have_their_place(wheel: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        order.append(str(os.fstat(handle).st_ino))
        fsync(handle)

    def replaced(source: Path, target: Path) -> Path:
        order.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    wheel({"llama_cpp/lib/libllama.so": "a", "llama_cpp/lib/libggml.so": "b"})
    libraries = gpu_build.make(VULKAN, progress=False)[0].libraries
    files = {str(path.stat().st_ino) for path in libraries.iterdir()}
    assert files <= set(order[: order.index("lib")])


def test_a_wheel_without_libraries(wheel: Give) -> None:
    wheel({"llama_cpp/__init__.py": ""})
    with pytest.raises(EdgekitError, match="no libraries in llama_cpp/lib"):
        gpu_build.make(VULKAN, progress=False)


# ---------------------------------------------------------------- which counts


def test_none_counts_until_it_is_chosen() -> None:
    assert gpu_build.current() is None
    built = made()
    assert gpu_build.current() is None
    gpu_build.choose(built)
    assert gpu_build.current() == built
    gpu_build.forget()
    gpu_build.forget()
    assert gpu_build.current() is None


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("", "gpu.json"),
        ("[]", "gpu.json"),
        ('{"kind": "vulkan"}', "key"),
        ('{"kind": "vulkan", "key": "../../elsewhere"}', "key"),
        ('{"kind": "opencl", "key": "0.3.36-x"}', "opencl"),
        ('{"kind": "vulkan", "key": "0.0.1-linux-vulkan-0"}', "not of llama-cpp-python"),
        (json.dumps({"kind": "vulkan", "key": f"{build_inputs.VERSION}-gone"}), "the Vulkan build is gone"),
    ],
)
def test_a_record_that_is_wrong_is_refused(cache: Path, record: str, said: str) -> None:
    (cache / "llama-cpp").mkdir(parents=True, mode=0o700)
    (cache / "llama-cpp" / "gpu.json").write_text(record)
    with pytest.raises(EdgekitError, match=said):
        gpu_build.current()
    (note,) = placed().notes
    assert note.startswith("on the CPU and not on a GPU: ")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="permissions are not POSIX's")
def test_libraries_that_others_can_write_to_are_not_loaded() -> None:
    built = made()
    gpu_build.choose(built)
    built.libraries.chmod(0o777)
    with pytest.raises(EdgekitError, match="others may write to it"):
        gpu_build.current()


# ---------------------------------------------------------------- looked at and tried, in processes of their own


def test_a_build_that_knows_no_gpu() -> None:
    with pytest.raises(EdgekitError, match="Vulkan build finds no GPU") as caught:
        gpu_trial.look(made(source=installed_libraries()))
    assert caught.value.remedy
    assert "GGML_VK_VISIBLE_DEVICES" in caught.value.remedy


def test_a_build_that_does_not_load() -> None:
    with pytest.raises(EdgekitError, match=r"cannot look for a GPU: llama\.cpp cannot be loaded") as caught:
        gpu_trial.look(made())
    assert "edgekit setup" not in caught.value.message
    assert caught.value.remedy
    assert caught.value.remedy.startswith("edgekit setup --gpu vulkan")


def _damaged(job: Mapping[str, Any], damage: Callable[[Any], Any]) -> Iterator[str]:
    """Logits as they should be on the CPU, and something else on the GPU."""
    (right,) = RIGHT({"gpu_layers": 0})
    rows = np.frombuffer(base64.b64decode(right), np.float32)
    yield base64.b64encode((damage(rows) if job["gpu_layers"] else rows).astype(np.float32).tobytes()).decode()


RIGHT = gpu_trial.logits


def computes(job: Mapping[str, Any]) -> Iterator[str]:
    return _damaged(job, lambda rows: rows * 1.001)


def computes_else(job: Mapping[str, Any]) -> Iterator[str]:
    return _damaged(job, lambda rows: np.roll(rows, 1))


def computes_nan(job: Mapping[str, Any]) -> Iterator[str]:
    return _damaged(job, lambda rows: rows * np.nan)


def crashes(job: Mapping[str, Any]) -> Iterator[str]:
    return _damaged(job, lambda rows: os.kill(os.getpid(), signal.SIGSEGV))


@pytest.mark.parametrize(
    ("work", "passed", "said"),
    [
        (computes, True, "logits within 0.10% of the CPU's"),
        (computes_else, False, "its logits are off by"),
        pytest.param(computes_nan, False, "its logits are not finite", marks=pytest.mark.slow),
        (crashes, False, "the Vulkan build gave no logits: it died with SIGSEGV"),
    ],
)
def test_what_a_trial_finds_is_remembered_if_it_was_good(
    monkeypatch: pytest.MonkeyPatch, work: worker.Work, passed: bool, said: str
) -> None:
    built = made(source=installed_libraries())
    monkeypatch.setattr(gpu_trial, "logits", work)
    tried = gpu_trial.result(built, CARD)
    assert tried.passed is passed
    assert said in tried.detail
    monkeypatch.setattr(gpu_trial, "logits", computes_nan)
    assert gpu_trial.result(built, CARD).passed is passed
    assert not gpu_trial.result(built, dataclasses.replace(CARD, description="Another")).passed
    assert not gpu_trial.result(built, CARD, fresh=True).passed


def test_setup_has_a_build_count_only_if_it_computes_the_same(monkeypatch: pytest.MonkeyPatch, wheel: Give) -> None:
    wheel({f"llama_cpp/lib/{path.name}": path.read_bytes() for path in installed_libraries().iterdir()})
    monkeypatch.setattr(gpu_trial, "look", lambda built: CARD)
    monkeypatch.setattr(gpu_trial, "logits", computes)
    good = gpu_setup.setup(VULKAN, progress=False)
    assert gpu_build.current() == good.build
    assert "A card" in "\n".join(good.lines)
    assert json.loads(json.dumps(good.to_dict()))["kind"] == "vulkan"
    monkeypatch.setattr(gpu_trial, "logits", computes_else)
    with pytest.raises(EdgekitError, match="does not compute on A card what the CPU does: its logits are off"):
        gpu_setup.setup(VULKAN, progress=False)
    assert gpu_build.current() is None


# ---------------------------------------------------------------- used


def loads(job: list[str]) -> Iterator[list[bool]]:
    """Whether each folder may be loaded from, before the library is there and after."""
    before = [load_from(Path(folder)) for folder in job]
    library()
    yield [*before, *(load_from(Path(folder)) for folder in job)]


def loads_after(job: str) -> Iterator[bool]:
    library()
    yield load_from(Path(job))


def test_a_process_loads_one_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(installed_libraries())
    assert worker.run(loads, [ours, str(tmp_path), ours])[0] == [[True, False, True] * 2]
    assert worker.run(loads_after, ours)[0] == [False]
    assert worker.run(loads, [ours], environment=libraries_in(Path(ours)))[0] == [[True, True]]
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))  # the user's own
    assert not load_from(Path(ours))


FILE = Path(__file__)


def placed(file: Path = FILE, budget: int = 10**10) -> Any:
    return placing.place(DecoderFile((file,), 256, 0, 16, file), None, RunOptions(1), budget)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that counts, a card that it finds, and a trial that it passed; nothing is really loaded."""
    gpu_build.choose(made())
    monkeypatch.setattr(gpu_trial, "look", lambda built: CARD)
    monkeypatch.setattr(gpu_trial, "result", lambda built, device: GpuTrial(True, "logits within 0.1%"))
    monkeypatch.setattr(placing, "load_from", lambda folder: True)


def test_all_of_a_model_on_a_card(card: None, decoder: Path) -> None:
    found = placed(decoder)
    assert (found.device, found.notes) == ("A card", ())
    assert found.layers > 1


def test_what_finds_no_room_is_said(card: None, decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = placed(decoder).layers
    found = placed(decoder, 1)
    assert found.layers == 0
    assert f"on A card: 0 of {whole} layers, the rest on the CPU" in found.notes[0]
    full = dataclasses.replace(CARD, free_bytes=1000)  # by other programs
    monkeypatch.setattr(gpu_trial, "look", lambda built: full)
    assert placed(decoder).layers == 0


def test_without_a_usable_gpu_all_is_the_cpus_and_said(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "load_from", lambda folder: False)
    assert "has loaded another build" in placed().notes[0]
    monkeypatch.setattr(gpu_trial, "result", lambda built, device: GpuTrial(False, "its logits are off by 40%"))
    assert "the Vulkan build is refused: its logits are off by 40%" in placed().notes[0]
    assert "so it is refused" in placing.state()

    def vanished(built: GpuBuild) -> VideoDevice:
        raise EdgekitError("llama.cpp's Vulkan build finds no GPU", remedy="plug it in")

    monkeypatch.setattr(gpu_trial, "look", vanished)
    assert "finds no GPU (plug it in)" in placed().notes[0]
    assert placing.state() == "llama.cpp's Vulkan build finds no GPU (plug it in)"
    gpu_build.forget()
    assert "not built for a GPU here (edgekit setup --gpu auto)" in placed().notes[0]
    assert placed().layers == 0


def test_a_device_with_a_gpu_where_none_is_built_for(medgemma_artifact: Path) -> None:
    with open_model(medgemma_artifact, "Q4_0", device="gpu-8gb") as model:
        assert any("was not built for a GPU here" in warning for warning in model.warnings)
        assert "layers on" not in model.runtimes["decoder"]
    with open_model(medgemma_artifact, "Q4_0") as model:
        assert not any("GPU" in warning for warning in model.warnings)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", f"models use the CPU, as long as neither {VARIABLE} nor a --device grants its memory"),
        ("0", f"models use the CPU, as long as neither {VARIABLE} nor a --device grants its memory"),
        ("auto", "models may use all of it"),
        ("2.5", "models may use 2.5 GB of it"),
        ("lots", f"{VARIABLE}=lots"),
    ],
)
def test_whether_models_may_use_a_build_that_passed_is_said(
    card: None, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.setenv(VARIABLE, named)
    assert placing.state() == f"Vulkan on {CARD}: logits within 0.1%; {said}"
    monkeypatch.setattr(gpu_trial, "result", lambda built, device: GpuTrial(False, "its logits are off by 40%"))
    assert said not in placing.state()


class Full:
    """llama.cpp where others have taken the video memory meanwhile."""

    class Decoder(LlamaDecoder):
        def __init__(self, path: Path, **options: Any) -> None:
            if options["gpu_layers"]:
                raise ArtifactError(f"{path}: llama.cpp cannot load it: out of device memory")
            super().__init__(path, **options)

    class Vision(LlamaVision):
        def __init__(self, path: Path, beside: LlamaDecoder, **options: Any) -> None:
            if options.get("gpu"):
                raise ArtifactError(f"{path}: llama.cpp cannot load it: out of device memory")
            super().__init__(path, beside, **options)


def test_what_a_gpu_refuses_runs_on_the_cpu_and_is_said(
    card: None, medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "LlamaDecoder", Full.Decoder)
    monkeypatch.setattr(backend, "LlamaVision", Full.Vision)
    monkeypatch.setattr(trial, "require", lambda pieces, progress: None)
    monkeypatch.setenv(VARIABLE, "auto")
    with pytest.warns(EdgekitWarning, match="the GPU did not take it"):
        model = open_model(medgemma_artifact, "Q4_0")
    with model:
        assert any("on the CPU: the GPU did not take it" in warning for warning in model.warnings)
        assert "layers on" not in model.runtimes["decoder"]


def test_nothing_is_chosen_for_the_cpu_of_what_runs_on_a_gpu(
    card: None, medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = prepare(medgemma_artifact, "Q4_0", "gpu-8gb")
    assert opening.on_gpu("decoder")
    assert opening.on_gpu("vision")
    assert not prepare(medgemma_artifact, "Q4_0").on_gpu("decoder")


def test_a_crash_on_a_gpu_says_how_to_leave_it_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DecoderFile((tmp_path / "x.gguf",), 256, 64, 16, tmp_path)
    file.files[0].touch()
    options = RunOptions(1, gpu_layers=3)
    piece = trial.Piece("decoder", "llama.cpp", "gguf", True, file.to_json(), options, ("x",))
    monkeypatch.setattr(trial, "attempt", dies)
    with pytest.raises(ArtifactError, match=r"died on it: SIGSEGV.*, on a GPU") as caught:
        trial.require([piece], Progress())
    assert caught.value.remedy
    assert caught.value.remedy.startswith(f"{VARIABLE}=0 leaves the GPU out")


def dies(job: object) -> Iterator[None]:
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


# ---------------------------------------------------------------- how much may be used


@pytest.mark.parametrize(
    ("named", "profile", "expected"),
    [
        ("", None, 0),
        ("", 8.0, 8_000_000_000),
        ("", 0.0, 0),
        ("auto", 8.0, 8_000_000_000),
        ("auto", 0.0, 0),
        ("2.5", None, 2_500_000_000),
        ("2.5", 8.0, 2_500_000_000),
        ("16", 8.0, 8_000_000_000),
        ("0", 8.0, 0),
        ("2.5", 0.0, 0),
    ],
)
def test_the_smaller_of_what_the_device_and_the_user_grant(
    monkeypatch: pytest.MonkeyPatch, named: str, profile: float | None, expected: int
) -> None:
    monkeypatch.setenv(VARIABLE, named)
    assert video_memory(profile) == expected
    assert video_memory(profile, ignored=True) == int((profile or 0) * 1e9)


def test_auto_is_more_than_any_card_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    assert video_memory(None) > 10**14


@pytest.mark.parametrize("named", ["all", "-1", "nan", "inf", "8GB", "1e9", " "])
def test_what_is_no_amount_of_memory(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv(VARIABLE, named)
    with pytest.raises(UsageError, match=VARIABLE) as caught:
        video_memory(8.0)
    assert caught.value.allowed
    assert "auto" in caught.value.allowed
