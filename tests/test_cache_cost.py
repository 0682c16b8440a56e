"""What a context costs is said before it is taken, and is what it then takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgekit.cli import main
from edgekit.errors import UsageError
from edgekit.progress import Progress
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.onnx.decoder import OrtDecoder
from edgekit.runtime.opening import open_model
from edgekit.runtime.use import Use

WIDE = 8192


class Noted(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.said.append(text)


def opened(folder: Path, level: str, context: int, use: Use, progress: Progress | None = None) -> ChatModel:
    model = open_model(folder, level, context=context, runtime="default", use=use, progress=progress)
    assert isinstance(model, ChatModel)
    return model


CODE = """
import sys
from pathlib import Path
import psutil
from edgekit.runtime.opening import open_model
from edgekit.runtime.use import Use
folder, context, cache_type = sys.argv[1:]
use = Use(slots=8, cache_type=cache_type, sees="never")
with open_model(Path(folder), "Q8_0", context=int(context), use=use) as model:
    print(psutil.Process().memory_full_info().uss, model.cache_bytes)
"""


@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_the_cost_is_what_the_library_takes(medgemma_artifact: Path, cache_type: str) -> None:
    """Against a process's own memory: contexts so wide that nothing else matters beside them."""
    found = []
    for context in (512, WIDE):
        words = [sys.executable, "-c", CODE, str(medgemma_artifact), str(context), cache_type]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.append([int(word) for word in done.stdout.split()])
    more, cost = found[1][0] - found[0][0], found[1][1] - found[0][1]
    mask = 4 * 512 * WIDE  # which keys a batch's queries see
    assert 8e6 < 0.95 * cost < more < 1.05 * cost + mask


def test_the_cost_is_what_the_arrays_of_an_onnx_decoder_may_grow_to(medgemma_onnx: Path) -> None:
    with opened(medgemma_onnx, "q4", 2048, Use(slots=2)) as model:
        assert isinstance(model.decoder, OrtDecoder)
        for cache in model.decoder.caches:
            cache.reach(2048)
        held = [array.nbytes for cache in model.decoder.caches for array in cache.arrays.values()]
        assert model.cache_bytes >= sum(held) > model.cache_bytes / 2


def test_rounded_keys_take_half(medgemma_artifact: Path) -> None:
    costs = []
    for cache_type in ("f16", "q8_0"):
        with opened(medgemma_artifact, "Q8_0", 4096, Use(cache_type=cache_type, sees="never")) as model:  # type: ignore[arg-type]
            costs.append(model.cache_bytes)
    assert costs[1] == pytest.approx(costs[0] * 17 / 32, rel=1e-6)


def test_it_is_said_where_more_than_usual_is_asked_for(medgemma_artifact: Path) -> None:
    for context, slots, expected in ((4096, 1, 0), (8192, 1, 1), (4096, 2, 1)):
        progress = Noted()
        opened(medgemma_artifact, "Q8_0", context, Use(slots=slots, sees="never"), progress).close()
        said = [line for line in progress.said if "GB of memory" in line]
        assert len(said) == expected, (context, slots, said)


def test_what_finds_no_room_is_refused_with_what_does(medgemma_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=10_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(UsageError, match=r"0\.01 GB of memory are free") as caught:
        opened(medgemma_artifact, "Q8_0", WIDE, Use(slots=8, sees="never"))
    assert "at most" in str(caught.value)


def test_a_type_that_a_runtime_has_not(medgemma_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(medgemma_onnx), "What is a cough?", "--level", "q4", "--cache-type", "q8_0"]
    assert main(words) == 2
    assert "ONNX Runtime" in capsys.readouterr().err
