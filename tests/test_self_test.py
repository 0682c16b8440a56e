"""The self-test of llama.cpp: a library that crashes or computes wrongly is found, remembered, and worked around."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import MissingDependencyError, UsageError
from edgekit.formats.gguf.header import TYPES, read_header
from edgekit.formats.gguf.library import keep_log, library
from edgekit.machine import worker
from edgekit.machine.cpu import cpu
from edgekit.runtime import open_model
from edgekit.runtime.llama import backend, self_test, self_test_worker
from edgekit.runtime.parts import DecoderFile, RunOptions

# ---------------------------------------------------------------- what a test's process does
# The real test in a real process, but for what happens before a model is loaded with llama.cpp's own layouts, or any.

Logits = Callable[[], Any]


def _damaged(damage: Callable[[Logits], Any], *, everything: bool = False) -> Iterator[tuple[str, str]]:
    right = self_test_worker.logits

    def logits(path: Path, *, extra_buffers: bool) -> Any:
        def result() -> Any:
            return right(path, extra_buffers=extra_buffers)

        return damage(result) if extra_buffers or everything else result()

    self_test_worker.logits = logits  # type: ignore[assignment]
    return self_test_worker.logits_by_layout(None)


def crash(right: Logits) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def crashes(job: object) -> Iterator[tuple[str, str]]:
    return _damaged(crash)


def always_crashes(job: object) -> Iterator[tuple[str, str]]:
    return _damaged(crash, everything=True)


def answers_else(job: object) -> Iterator[tuple[str, str]]:
    return _damaged(lambda right: -right())


def answers_nan(job: object) -> Iterator[tuple[str, str]]:
    return _damaged(lambda right: right() * float("nan"))


def always_answers_nan(job: object) -> Iterator[tuple[str, str]]:
    return _damaged(lambda right: right() * float("nan"), everything=True)


def has_no_room(job: object) -> Iterator[tuple[str, str]]:
    raise SystemExit("no room")
    yield


def hangs(job: object) -> Iterator[tuple[str, str]]:
    time.sleep(60)
    yield "", ""


# ---------------------------------------------------------------- what is made of it

Starts = list[worker.Work]


@pytest.fixture(autouse=True)
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Starts]:
    """An empty cache, nothing remembered; the tests that were started."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(self_test.VARIABLE, raising=False)
    self_test.remembered.cache_clear()
    started: Starts = []
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the functions above
    start = worker.run

    def run(work: worker.Work, *arguments: Any, **options: Any) -> Any:
        started.append(work)
        return start(work, *arguments, **options)

    monkeypatch.setattr(worker, "run", run)
    yield started
    self_test.remembered.cache_clear()


def broken(monkeypatch: pytest.MonkeyPatch, work: worker.Work) -> None:
    """Have the test's process do something else."""
    monkeypatch.setattr(self_test_worker, "logits_by_layout", work)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(self_test_worker.tiny_decoder())
    return path


def opened(path: Path) -> Any:
    """As an artifact's decoder is opened."""
    return backend.open_decoder(DecoderFile((path,), 64, 0, 1, path), RunOptions(1))


@pytest.fixture
def buffers() -> Iterator[list[str]]:
    """The weight buffers that the library says it makes, in one list for all models loaded meanwhile."""
    lib = library()
    lines: list[str] = []

    def keep(level: int, text: bytes, user_data: Any) -> None:
        line = text.decode("utf-8", "replace")
        if "model buffer size" in line:
            lines.append(line)

    callback = lib.llama_log_callback(keep)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    yield lines
    keep_log(lib)


def laid_out(lines: list[str]) -> bool:
    return any("REPACK" in line or "AMX" in line for line in lines)


def test_the_installed_library_passes_and_is_remembered(starts: Starts) -> None:
    found = self_test.result()
    assert (found.outcome, found.warning) == ("ok", None)
    assert self_test.result() == found
    self_test.remembered.cache_clear()  # as in another process
    assert self_test.result() == found
    assert len(starts) == 1
    assert self_test.result(fresh=True).outcome == "ok"
    assert len(starts) == 2


def test_a_crash_falls_back_to_plain_buffers(
    monkeypatch: pytest.MonkeyPatch, medgemma_artifact: Path, buffers: list[str]
) -> None:
    """A real model is opened with plain weights, works, and says why and how to mend it, once."""
    monkeypatch.setenv(self_test.VARIABLE, "default")
    model = open_model(medgemma_artifact, "Q4_0")
    usual = model.score([guard_message()], ["yes"])
    model.close()
    if not laid_out(buffers):
        pytest.skip("llama.cpp has no layouts for this CPU")
    buffers.clear()

    monkeypatch.delenv(self_test.VARIABLE)
    broken(monkeypatch, crashes)
    model = open_model(medgemma_artifact, "Q4_0")
    assert buffers
    assert not laid_out(buffers)
    assert np.allclose(model.score([guard_message()], ["yes"]), usual, atol=0.05)
    (warning,) = [text for text in model.warnings if "plain buffers" in text]
    assert "died with SIGSEGV" in warning
    assert "edgekit setup --force" in warning
    model.close()


def guard_message() -> Any:
    from edgekit.inputs.message import Message

    return Message("user", "Is there a nodule?")


@pytest.mark.parametrize(
    ("work", "said"), [(crashes, "SIGSEGV"), (answers_else, "off by 200%"), (answers_nan, "not finite")]
)
def test_what_goes_wrong_with_layouts_is_remembered(
    monkeypatch: pytest.MonkeyPatch, work: worker.Work, said: str
) -> None:
    broken(monkeypatch, work)
    found = self_test.result()
    assert found.outcome == "plain buffers only"
    assert said in found.detail
    broken(monkeypatch, has_no_room)
    self_test.remembered.cache_clear()
    assert self_test.result() == found


@pytest.mark.parametrize(("work", "said"), [(always_crashes, "SIGSEGV"), (always_answers_nan, "not finite")])
def test_a_library_that_never_works_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, work: worker.Work, said: str
) -> None:
    broken(monkeypatch, work)
    with pytest.raises(MissingDependencyError, match=said) as caught:
        opened(tiny)
    assert caught.value.remedy is not None
    assert caught.value.remedy.startswith("edgekit setup --force")


def test_a_trial_that_cannot_run_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    working = self_test_worker.logits_by_layout
    broken(monkeypatch, has_no_room)
    found = self_test.result()
    assert (found.outcome, found.extra_buffers) == ("not known", False)
    assert "no room" in str(found.warning)
    broken(monkeypatch, working)
    self_test.remembered.cache_clear()
    assert self_test.result().outcome == "ok"


def test_a_trial_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "LIMIT_S", 0.2)
    broken(monkeypatch, hangs)
    assert self_test.result() == self_test.SelfTestResult("not known", "the self-test did not end: stopped after 0 s")


def test_only_a_whole_memory_is_believed(starts: Starts, tmp_path: Path) -> None:
    right = self_test.result()
    (stored,) = (tmp_path / "cache").rglob("*.json")
    text = stored.read_text()
    self_test.remembered.cache_clear()
    assert self_test.result() == right
    assert len(starts) == 1
    damaged = ("", text[:-5], "[]", text.replace('"ok"', '"fine"'), text.replace('"ok"', "[]"))
    for content in damaged:
        stored.write_text(content)
        self_test.remembered.cache_clear()
        assert self_test.result() == right, content
        assert stored.read_text() == text
    assert len(starts) == 1 + len(damaged)


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(blocker / "cache"))
    assert self_test.result().outcome == "ok"


def test_the_variable_decides(starts: Starts, monkeypatch: pytest.MonkeyPatch, tiny: Path, buffers: list[str]) -> None:
    for value, extra in (("plain", False), ("default", True)):
        monkeypatch.setenv(self_test.VARIABLE, value)
        assert self_test.result().extra_buffers is extra
        assert self_test.result().warning is None
    monkeypatch.setenv(self_test.VARIABLE, "plain")
    opened(tiny).close()
    assert buffers
    assert not laid_out(buffers)
    assert not starts
    monkeypatch.setenv(self_test.VARIABLE, "fast")
    with pytest.raises(UsageError, match=r"EDGEKIT_LLAMA_BUFFERS=fast\nallowed: plain or default"):
        self_test.result()


def test_the_key_names_library_and_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = [self_test.key(), self_test.key()]
    monkeypatch.setattr(self_test, "cpu", lambda: dataclasses.replace(cpu(), flags=("amx_tile",)))
    keys.append(self_test.key())
    library = tmp_path / "lib"
    library.mkdir()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(library))
    keys.append(self_test.key())
    (library / "libllama.so").write_bytes(b"one build")
    keys.append(self_test.key())
    (library / "libllama.so").write_bytes(b"another build")
    keys.append(self_test.key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


def test_one_wrong_matrix_is_seen(tiny: Path) -> None:
    """Each layer has a type of its own, so a layout that is wrong for one type only must move the logits enough."""
    right = self_test_worker.logits(tiny, extra_buffers=False)
    header, whole = read_header(tiny), tiny.read_bytes()
    for layer in range(len(self_test_worker.LAYERS)):
        for name in self_test_worker.MATRICES:
            tensor = header.tensors[f"blk.{layer}.{name}.weight"]
            rows = np.frombuffer(whole, np.uint8, tensor.bytes, tensor.offset).reshape(tensor.shape[0], -1)
            end = tensor.offset + tensor.bytes
            tiny.write_bytes(whole[: tensor.offset] + np.roll(rows, 1, axis=0).tobytes() + whole[end:])
            wrong = self_test_worker.logits(tiny, extra_buffers=False)
            off = np.linalg.norm(wrong - right) / np.linalg.norm(right)
            assert off > 2 * self_test.TOLERANCE, (tensor.type, name)


def test_the_tiny_decoder_is_what_it_says(tiny: Path) -> None:
    """Read by gguf's own reader: every type of layer, every matrix of whole blocks and tiles."""
    import gguf

    reader = gguf.GGUFReader(tiny)
    ours = read_header(tiny)
    types = {tensor.tensor_type.name for tensor in reader.tensors}
    assert types == {*self_test_worker.LAYERS, "F32"}
    for theirs in reader.tensors:
        found = ours.tensors[theirs.name]
        assert found.shape == tuple(int(n) for n in reversed(theirs.shape))
        assert found.offset == theirs.data_offset
        if len(found.shape) == 2:
            assert all(side % 32 == 0 for side in found.shape)
            values = gguf.dequantize(theirs.data, theirs.tensor_type)
            assert 0.005 < values.std() < 0.2
            assert abs(values.mean()) < values.std() / 4
    assert {name for name, _, _ in TYPES.values()} >= types


def test_the_trial_needs_no_export_library() -> None:
    heavy = "{'gguf', 'torch', 'transformers', 'onnx'}"
    use = "from edgekit.runtime.llama import self_test_worker; self_test_worker.tiny_decoder()"
    statement = f"import sys; {use}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0
