"""A fault at a file operation of anything that writes leaves the old thing or the new one, and a rerun mends the rest.

All points and writers: `python -m tests.faults`. Here a sample, and that the judge sees a writer that is wrong.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from faults.injector import FAULTS, Operation
from faults.trials import Range, tried, unsafe
from faults.writers import WRITERS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("cc") or shutil.which("gcc")), reason="LD_PRELOAD and a C compiler"
)

SAMPLE = {
    "export GGUF, one level more": 2, "export ONNX": 1, "remove": 1, "adopt": 1, "synthesize": 1, "bench": 1, "tune": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    with Range(tmp_path_factory.mktemp("faults") / "range", proofs=False) as found:
        yield found


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_faults(place: Range, name: str) -> None:
    """Every kind of fault, at places that are spread over the operations."""
    for number, fault in enumerate(FAULTS):
        points, count = place.points(name, fault), SAMPLE[name]
        shares = [(i + (number + 0.5) / len(FAULTS)) / count for i in range(count)]
        chosen = [points[int(share * len(points))] for share in shares]
        assert tried(place, name, fault, chosen).wrong == []


@pytest.mark.parametrize("name", SAMPLE)
def test_content_reaches_the_disk_before_its_name_does(place: Range, name: str) -> None:
    operations = place.clean(name)[0].operations
    assert any(operation.name == "rename" for operation in operations)
    assert unsafe(operations, place.root / WRITERS[name].place.split("/")[0]) == []


@pytest.mark.parametrize("fault", ["no space", "killed"])
@pytest.mark.parametrize("name", ["export GGUF, one level more", "remove"])
def test_a_rerun_mends_a_readme_that_states_the_manifest_before(place: Range, name: str, fault: str) -> None:
    """Between the manifest's name and the README's."""
    named = [operation.target for operation in place.clean(name)[0].operations]
    first, last = (named.index(place.root / "out/a" / file) + 1 for file in ("edgekit.json", "README.md"))
    points = [point for point in place.points(name, fault) if first < point <= last]
    assert last in points
    assert tried(place, name, fault, points).wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_fault_everywhere(tmp_path: Path, name: str, fault: str) -> None:
    with Range(tmp_path / "range", proofs=name == "prove") as found:
        assert tried(found, name, fault, found.points(name, fault)).wrong == []


# ---------------------------------------------------------------- the judge


def operations(*lines: str) -> list[Operation]:
    """`write a`, `rename a b`: names below /r/out."""
    split = [line.split() for line in lines]
    paths = [[Path("/r/out") / word for word in words[1:]] for words in split]
    return [
        Operation(words[0], path[0], path[1] if path[1:] else None) for words, path in zip(split, paths, strict=True)
    ]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (("create .a.partial", "write .a.partial", "fsync .a.partial", "rename .a.partial a", "fsync ."), 0),
        (("create .a.partial", "write .a.partial", "rename .a.partial a", "fsync ."), 1),
        (("create .a.partial", "fsync .a.partial", "write .a.partial", "rename .a.partial a", "fsync ."), 1),
        (("create .a.partial", "write .a.partial", "fsync .a.partial", "rename .a.partial a"), 1),
        (("create .a.partial/f", "write .a.partial/f", "rename .a.partial a", "fsync ."), 1),
        (("write .a.partial/f", "rename .a.partial/f .a.partial/g", "rename .a.partial a", "fsync ."), 1),
        (("write .a.partial/f", "link .a.partial/f f", "fsync ."), 1),
        (("create a", "write a", "fsync a"), 1),
        (("truncate a", "fsync a"), 1),
    ],
)
def test_an_unsafe_order_is_seen(lines: Sequence[str], wrong: int) -> None:
    assert len(unsafe(operations(*lines), Path("/r/out"))) == wrong


@pytest.mark.parametrize(
    ("call", "fault", "said"),
    [
        ("writes in place", "no space", "NOTICE is neither old nor new"),
        ("tears the README", "no space", "edgekit.json and README.md are neither"),
        ("writes the README first", "killed", "edgekit.json and README.md are neither"),
        ("leaves a README as it is", "killed", "the rerun made something else"),
        ("leaves something", "no space", ".x.partial"),
        ("prints a traceback", "no space", "no error of edgekit's own"),
    ],
)
def test_a_writer_that_is_wrong_is_seen(place: Range, call: str, fault: str, said: str) -> None:
    """Each breaks one of the promises, and is told from one that keeps them."""
    wrong = tried(place, call, fault, place.points(call, fault)).wrong
    assert any(said in what for what in wrong), wrong
