"""Many pictures: scored, embedded, indexed, found; stopped anywhere, gone on with, nothing lost."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.fileset import FileSet
from test_dicom_files import data_of, plain
from test_dicom_series import ct_slice, lay

from edgekit.cli import main
from edgekit.errors import ArtifactError, UsageError
from edgekit.retrieval import index as indexes
from edgekit.retrieval import sources
from edgekit.retrieval.entries import Entry
from edgekit.retrieval.index import CACHE, CACHE_NOTES, DATABASE, Index, writing
from edgekit.retrieval.journal import Journal

WIDTH = 32
HERE = Path(__file__).parent
PYTHON_WITH_RAY = os.environ.get("EDGEKIT_RAY", "")


def unit(rng: np.random.Generator, count: int) -> Any:
    rows = rng.standard_normal((count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entries(vectors: Any, start: int = 0, patient: str = "") -> list[Entry]:
    return [Entry(f"f{start + n}", f"f{start + n}", "0" * 64, patient, row) for n, row in enumerate(vectors)]


def made(folder: Path, vectors: Any, at_once: int = 50) -> Path:
    with writing(folder, "model", WIDTH) as index:
        for start in range(0, len(vectors), at_once):
            index.add(entries(vectors[start : start + at_once], start))
    return folder


# ---------------------------------------------------------------- the index


@pytest.mark.parametrize("wide", [10_000, 100])
def test_search_is_exact_beyond_every_shard(wide: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond so many vectors they are kept in half precision, which moves no neighbour of these."""
    monkeypatch.setattr(indexes, "WIDE", wide)
    rng = np.random.default_rng(0)
    vectors, queries = unit(rng, 400), unit(rng, 20)
    folder = made(tmp_path / "i", vectors)
    with Index(folder, "model", WIDTH) as index:
        for query in queries:
            expected = [f"f{n}" for n in np.argsort(-(vectors @ query))[:10]]
            found = index.search(query, 10)
            assert [hit.name for hit in found] == expected
            assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
        assert len(index.search(queries[0], 10_000)) == 400
    assert {np.load(path).dtype for path in folder.glob("*.npy")} <= {np.dtype("f4"), np.dtype("f2")}


def test_a_file_that_changed_takes_its_own_place(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(1), 20)
    folder = made(tmp_path / "i", vectors)
    with writing(folder, "model", WIDTH) as index:
        index.add(entries(-vectors[:1]))
        assert len(index) == 20
        assert index.search(-vectors[0], 1)[0].name == "f0"
        assert index.search(vectors[0], 1)[0].name != "f0"


def test_of_a_patient_who_is_forgotten_no_number_stays(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(2), 30)
    folder = tmp_path / "i"
    with writing(folder, "model", WIDTH) as index:
        index.add(entries(vectors[:10], 0, index.patient_key("4711")))
        index.add(entries(vectors[10:], 10, index.patient_key("4712")))
        assert index.forget(patient="4711") == 10
        assert index.forget(patient="4711") == 0
        assert len(index) == 20
        kept = np.concatenate([np.load(path) for path in folder.glob("*.npy")])
        assert len(kept) == 20
        assert (kept @ vectors[:10].T).max() < 0.999
    assert b"4712" not in b"".join(path.read_bytes() for path in folder.iterdir())


def test_an_index_of_another_model_a_damaged_one_and_none(tmp_path: Path) -> None:
    folder = made(tmp_path / "i", unit(np.random.default_rng(3), 3))
    with pytest.raises(UsageError, match="an index of another model"):
        Index(folder, "other", WIDTH)
    with pytest.raises(UsageError, match="is no index"):
        Index(tmp_path, "model", WIDTH)
    (vectors,) = folder.glob("*.npy")
    vectors.write_bytes(vectors.read_bytes()[:-8])
    with Index(folder, "model", WIDTH) as index, pytest.raises(ArtifactError, match="missing or damaged"):
        index.search(np.ones(WIDTH, np.float32), 1)
    (folder / indexes.DATABASE).write_bytes(b"x" * 5000)
    with pytest.raises(ArtifactError, match="damaged"):
        Index(folder, "model", WIDTH)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"), writing(tmp_path / "other", "model", WIDTH):
        pass


def test_two_at_once_wait_for_nobody(tmp_path: Path) -> None:
    with (
        writing(tmp_path / "i", "model", WIDTH),
        pytest.raises(ArtifactError, match="another command is writing"),
        writing(tmp_path / "i", "model", WIDTH),
    ):
        pass


KILLED = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_retrieval import entries, unit
from edgekit.retrieval.index import writing
vectors = unit(np.random.default_rng(0), 100_000)
with writing(Path(sys.argv[1]), "model", 32) as index:
    print("begun", flush=True)
    for start in range(0, len(vectors), 20):
        index.add(entries(vectors[start:start + 20], start))
"""


def test_what_is_killed_anywhere_is_whole(tmp_path: Path) -> None:
    folder, count = tmp_path / "i", 0
    for wait in (0.05, 0.11, 0.23):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent)), folder],
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with writing(folder, "model", WIDTH) as index:
            assert len(index) % 20 == 0
            assert len(index) >= count
            count = len(index)
            assert len(index.search(np.ones(WIDTH, np.float32), count or 1)) == count
    assert count
    with sqlite3.connect(folder / indexes.DATABASE) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


# ---------------------------------------------------------------- the journal


def test_a_journal_goes_on_and_takes_no_rows_of_other_work(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with Journal(target, {"a": 1}) as journal:
        journal.add("x", {"n": 1})
        journal.add("y", {"n": 2})
    partial = tmp_path / ".out.csv.partial"
    partial.write_bytes(partial.read_bytes()[:-4])  # killed while it wrote
    with pytest.raises(UsageError, match="rows of another model"):
        Journal(target, {"a": 2})
    with Journal(target, {"a": 1}) as journal:
        assert journal.rows == {"x": {"n": 1}}
        journal.add("y", {"n": 3})
        journal.finish("done")
    assert target.read_text() == "done"
    assert not partial.exists()
    with pytest.raises(UsageError, match="is there already"):
        Journal(target, {"a": 1})


# ---------------------------------------------------------------- commands


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures, one that is damaged, one file that is none, one DICOM file."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for number in range(4):
        place = folder / ("more" if number % 2 else "") / f"p{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(place)
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "notes.txt").write_text("canary")
    (folder / "slice.dcm").write_bytes(ct_slice(40, 0, 1, Rows=4, PatientName="Canary"))
    return folder


def test_a_folder_is_classified_into_a_table(
    medsiglip_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.toml"
    labels.write_text('scores = "softmax"\n[labels]\nnormal = ["normal lungs", "healthy lungs"]\nsick = "pneumonia"\n')
    words = ["classify", str(medsiglip_artifact), str(pictures), "--labels", str(labels)]
    assert main([*words, "--csv", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr()
    assert "6 images, 1 of them could not be read" in said.out
    assert "1 files that are no pictures are passed over" in said.err
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [Path(row["file"]).name for row in rows] == ["bad.png", "p0.png", "p2.png", "slice.dcm", "p1.png", "p3.png"]
    assert rows[0]["error"]
    for row in rows[1:]:
        assert float(row["normal"]) + float(row["sick"]) == pytest.approx(1, abs=1e-5)
    assert main([*words, "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("scores", {}).get("sick") for line in lines[1:]] == [float(row["sick"]) for row in rows[1:]]


@pytest.mark.parametrize("verb", ["classify", "embed"])
def test_a_run_that_was_stopped_within_a_file_of_several_frames(
    medsiglip_artifact: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Its frames are all made again, none is left out; a file whose name has a # is one file."""
    folder = tmp_path / "in"
    folder.mkdir()
    frames = np.random.default_rng(1).integers(0, 255, (4, 32, 32), dtype=np.uint8)
    (folder / "many.dcm").write_bytes(data_of(plain(frames, NumberOfFrames=4, Modality="US")))
    for name in ("a#1.png", "a.png", "a#2.png"):
        Image.fromarray(np.full((32, 32, 3), len(name), np.uint8)).save(folder / name)
    made = {"classify": "--csv", "embed": "--to"}[verb]
    words = [verb, str(medsiglip_artifact), str(folder), made, str(tmp_path / "out.csv")]
    words += ["--label", "a", "--label", "b"] if verb == "classify" else []
    assert main(words) == 0
    whole = (tmp_path / "out.csv").read_text()
    assert len(whole.splitlines()) == 8
    (tmp_path / "out.csv").unlink()
    read, seen = sources.rows, []

    def stops(path: Path, *how: Any, **more: Any) -> Any:
        for row in read(path, *how, **more):
            seen.append(row)
            if len(seen) == 6:  # the third frame
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patched:
        patched.setattr(sources, "rows", stops)
        assert main(words) == 130
    assert len(seen) == 6
    assert main(words) == 0
    assert (tmp_path / "out.csv").read_text() == whole


def test_one_label_under_a_softmax_is_refused(medsiglip_artifact: Path, pictures: Path, capsys: Any) -> None:
    words = ["classify", str(medsiglip_artifact), str(pictures), "--label", "a"]
    assert main([*words, "--scores", "softmax"]) == 2
    assert "softmax over one label is always 1" in capsys.readouterr().err


def test_vectors_are_units_and_those_of_python(
    medsiglip_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import edgekit

    words = ["embed", str(medsiglip_artifact), str(pictures), "--text", "normal lungs", "--to"]
    assert main([*words, str(tmp_path / "v.npy")]) == 1
    vectors, beside = np.load(tmp_path / "v.npy"), json.loads((tmp_path / "v.npy.json").read_text())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(vectors) == len(beside["names"]) == 6
    with edgekit.open(medsiglip_artifact) as model:
        place = beside["names"].index(str(pictures / "p0.png"))
        np.testing.assert_allclose(vectors[place], model.embed_image([pictures / "p0.png"])[0], atol=1e-6)
    capsys.readouterr()
    assert main([*words, str(tmp_path / "v.csv")]) == 1
    rows = list(csv.reader((tmp_path / "v.csv").open()))
    assert len(rows) == 7
    np.testing.assert_allclose(np.asarray([row[2:] for row in rows[1:]], np.float32), vectors, atol=1e-6)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert main([*words, str(tmp_path / "v.parquet")]) == 1
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table["name"].to_pylist() == beside["names"]
    np.testing.assert_allclose(np.asarray(table["vector"].to_pylist()), vectors, atol=1e-7)
    assert table.schema.metadata[b"edgekit.model"].decode() == beside["model"]
    assert main([*words, str(tmp_path / "v.xlsx")]) == 2


def test_what_is_indexed_is_found_and_forgotten(
    medsiglip_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "archive"
    words = ["index", str(medsiglip_artifact), "--to", str(index)]
    assert main([*words[:2], str(pictures), *words[2:]]) == 1
    assert "5 pictures, 5 of them new" in capsys.readouterr().out
    assert main([*words[:2], str(pictures), *words[2:]]) == 1
    assert "5 pictures, 0 of them new" in capsys.readouterr().out
    look = ["search", str(medsiglip_artifact), str(index), "--json"]
    assert main([*look, "--image", str(pictures / "p2.png")]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)["results"]
    assert (first["file"], round(first["score"], 3)) == (str(pictures / "p2.png"), 1.0)
    assert main([*look, "--text", "pneumonia", "--most", "2"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 2
    assert main([*words, "--forget", "4711"]) == 0
    assert "1 pictures forgotten" in capsys.readouterr().out
    assert main([*look, "--image", str(pictures / "p2.png"), "--pad"]) == 2
    assert "an index of another model" in capsys.readouterr().err
    for path in index.iterdir():
        assert b"anary" not in path.read_bytes()


def test_a_cache_finds_what_it_says_and_forgets(tmp_path: Path) -> None:
    """Against all of them compared by numpy; what was added later is found, what was removed is not."""
    cache = pytest.importorskip("edgekit.retrieval.cache")
    rng = np.random.default_rng(3)
    centres = unit(rng, 50)
    vectors, later, questions = (
        unit_rows(centres[rng.integers(0, 50, count)] + 0.1 * rng.normal(size=(count, WIDTH)))
        for count in (6000, 300, 60)
    )
    folder = made(tmp_path / "i", vectors, 1500)
    with writing(folder, "model", WIDTH) as index:
        about = cache.build(index, {"image": questions})
        assert about.recall["image"] >= 0.99
        index.add(entries(later, 6000, patient=index.patient_key("4711")))
        index.forget(file="f10")
        assert not (folder / CACHE).exists()  # a vector of that file was in it
        cache.build(index, {"image": questions})
        index.add(entries(unit(rng, 1), 7000))
        cached = cache.Cache(folder)
        kept = np.concatenate([vectors, later])
        kept[10] = 0
        found = [{hit.name for hit in index.search(one, 10, cached)} for one in questions]
        right = [{f"f{at}" for at in np.argsort(-(kept @ one))[:10]} for one in questions]
        assert np.mean([len(a & b) for a, b in zip(found, right, strict=True)]) >= 9.8
        new = np.load(folder / index.shards()[-1].file)[0]
        assert index.search(np.asarray(new, np.float32), 1, cached)[0].name == "f7000"
        assert index.forget(patient="4711") == 300
    (folder / CACHE).write_bytes(b"IwFl" + bytes(100))
    (folder / CACHE_NOTES).write_text(json.dumps({"shards": [], "probes": 1, "recall": {}}))
    with pytest.raises(ArtifactError, match="missing or damaged"):
        cache.Cache(folder)


@pytest.mark.skipif(os.name == "nt", reason="limits of a process")
def test_a_full_disk_leaves_no_half_of_a_cache(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    folder = made(tmp_path / "i", unit(rng, 4000), 4000)
    there = sorted(path.name for path in folder.iterdir())
    script = (
        "import resource, numpy as np\n"
        "from pathlib import Path\n"
        "from edgekit.errors import EdgekitError\n"
        "from edgekit.retrieval import cache\n"
        "from edgekit.retrieval.index import Index\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"with Index(Path({str(folder)!r}), 'model', {WIDTH}) as index:\n"
        "    try:\n"
        f"        cache.build(index, {{'image': np.eye({WIDTH}, dtype=np.float32)}})\n"
        "    except EdgekitError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "cache.faiss" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == there


def unit_rows(rows: Any) -> Any:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_archives_directories_and_series_are_taken(medsiglip_artifact: Path, tmp_path: Path, capsys: Any) -> None:
    folder = lay(tmp_path / "ct", [ct_slice(100 * n, 5.0 * n, n + 1) for n in range(4)])
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"study/{path.name}")
        archive.writestr("study/notes.txt", "nothing")
    medium = FileSet()
    for path in sorted(folder.iterdir()):
        medium.add(whole(path))
    medium.write(tmp_path / "medium")
    places = {"archive": tmp_path / "ct.zip", "medium": tmp_path / "medium" / "DICOMDIR", "folder": folder}
    found = {}
    for name, place in places.items():
        index = str(tmp_path / f"index-{name}")
        assert main(["index", str(medsiglip_artifact), str(place), "--to", index]) == 0
        assert "4 pictures, 4 of them new" in capsys.readouterr().out
        assert main(["classify", str(medsiglip_artifact), str(place), "--label", "a", "--json"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 4
        for asked in places.values():
            assert main(["search", str(medsiglip_artifact), index, "--image", str(asked), "--json"]) == 0
            hits = json.loads(capsys.readouterr().out)["results"]
            found[name, asked] = [hit["score"] for hit in hits]
        assert main(["index", str(medsiglip_artifact), "--forget", "4711", "--to", index]) == 0
        assert "4 pictures forgotten" in capsys.readouterr().out
    first, *others = found.values()
    for scores in others:
        np.testing.assert_allclose(scores, first, atol=1e-5)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.dcm", ct_slice(1, 0, 1, PatientID="1"))
        archive.writestr("b.dcm", ct_slice(1, 0, 2, PatientID="2"))
    assert main(["index", str(medsiglip_artifact), str(tmp_path / "two.zip"), "--to", str(tmp_path / "i")]) == 1
    assert "an archive of several patients" in capsys.readouterr().out
    (tmp_path / "text.zip").write_bytes(b"PK\x03\x04 nothing")
    assert main(["index", str(medsiglip_artifact), str(tmp_path / "text.zip"), "--to", str(tmp_path / "i")]) == 1
    assert "a damaged archive" in capsys.readouterr().out


def whole(path: Path) -> Any:
    """A file with what a directory of a medium must say of it."""
    made = pydicom.dcmread(path)
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20200101", "120000", "1", "1"
    return made


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Qdrant's own client with its own store on disk, in place of the server that it would ask."""
    client = pytest.importorskip("qdrant_client")
    from edgekit.retrieval import qdrant

    def here(**asked: Any) -> Any:
        assert asked["url"] == "http://localhost:6333"
        return client.QdrantClient(path=str(tmp_path / "qdrant"))

    monkeypatch.setattr(qdrant, "QdrantClient", here)
    return qdrant


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_server_answers_as_a_folder_does(
    server: Any, medsiglip_artifact: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "http://localhost:6333/archive"
    words = ["index", str(medsiglip_artifact)]
    for place in (url, str(tmp_path / "folder")):
        assert main([*words, str(pictures), "--to", place]) == 1
        assert "5 pictures, 5 of them new" in capsys.readouterr().out
        assert main([*words, str(pictures), "--to", place]) == 1
        assert "5 pictures, 0 of them new" in capsys.readouterr().out
    for asked in (["--text", "pneumonia"], ["--image", str(pictures / "p2.png")]):
        found = []
        for place in (url, str(tmp_path / "folder")):
            assert main(["search", str(medsiglip_artifact), place, *asked, "--json"]) == 0
            found.append(json.loads(capsys.readouterr().out))
        server_hits, folder_hits = (one["results"] for one in found)
        assert [hit["name"] for hit in server_hits] == [hit["name"] for hit in folder_hits]
        np.testing.assert_allclose(*([hit["score"] for hit in one] for one in (server_hits, folder_hits)), atol=1e-5)
    assert main(["search", str(medsiglip_artifact), url, "--text", "a", "--pad"]) == 2
    assert "an index of another model" in capsys.readouterr().err
    assert main([*words, "--to", url, "--forget", "4711"]) == 0
    assert "1 pictures forgotten" in capsys.readouterr().out
    assert not any(b"Canary" in path.read_bytes() for path in (tmp_path / "qdrant").rglob("*") if path.is_file())
    assert main([*words, "--to", url, "--cache"]) == 2


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_a_file_that_was_kept_in_part_is_kept_again(server: Any) -> None:
    rng = np.random.default_rng(0)
    place = server.Place.of("http://localhost:6333/a")
    rows = [Entry(f"f#{n}", "f", "1" * 64, "", row) for n, row in enumerate(unit(rng, 3))]
    store = server.QdrantClient(url="http://localhost:6333")
    with server.Qdrant(place, "m" * 64, WIDTH, make=True, client=store) as index:
        index.add(rows)
        assert index.known("f") == "1" * 64
        index.add([Entry(one.name, one.file, "2" * 64, "", one.vector) for one in rows[:2]])
        assert (index.known("f"), len(index)) == ("2" * 64, 2)
        index.add(rows)
        (hit,) = index.search(rows[1].vector, 1)
        assert (hit.name, round(hit.score, 4)) == ("f#1", 1.0)
        name = f"a-{'m' * 16}"
        store.delete(name, [store.scroll(name, limit=1)[0][0].id])  # what a request that was cut off leaves
        assert index.known("f") is None
    with pytest.raises(UsageError, match="another model"):
        server.Qdrant(place, "n" * 64, WIDTH)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("http://archive.clinic:6333/a", "unencrypted"),
        ("https://key:secret@archive.clinic/a", "ends in logs"),
        ("https://archive.clinic:6333", "names no index"),
        ("https://archive.clinic/a/b", "names no index"),
        ("http:///a", "names no index"),
    ],
)
def test_an_address_that_is_refused(url: str, match: str) -> None:
    qdrant = pytest.importorskip("edgekit.retrieval.qdrant")
    with pytest.raises(UsageError, match=match) as refused:
        qdrant.Place.of(url)
    assert "secret" not in str(refused.value)


def test_a_server_that_does_not_answer(medsiglip_artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("qdrant_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/archive"
        assert main(["search", str(medsiglip_artifact), url, "--text", "a"]) == 1
    said = capsys.readouterr().err
    assert url.rpartition("/")[0] in said
    assert "Traceback" not in said


def test_ten_thousand_canaries_in_dicom_files(
    medsiglip_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every element that may name somebody, and in private ones: none leaves the file, whole, damaged or odd."""
    folder, count = tmp_path / "in", 0
    folder.mkdir()
    texts = (
        "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientNames", "PatientAddress", "PatientComments",
        "PatientMotherBirthName", "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName",
        "InstitutionName", "InstitutionAddress", "StationName", "AccessionNumber", "StudyID", "StudyDescription",
        "ProtocolName", "ImageComments", "RequestedProcedureDescription", "PhysiciansOfRecord",
    )  # fmt: skip
    for number in range(100):
        made = plain(np.arange(64, dtype=np.uint16).reshape(8, 8) + number, Modality="CR")
        for name in texts:
            setattr(made, name, f"canary{number}{name}"[: 16 if name in ("StationName", "StudyID") else 60])
        block = made.private_block(0x0041, "canary maker", create=True)
        for place in range(80):
            block.add_new(place, "LO", f"canary{number}private{place}")
        count += len(texts) + 80
        if number % 10 == 7:  # refused, each for another reason
            made.BitsStored = 99
        data = data_of(made)
        (folder / f"f{number:03}.dcm").write_bytes(data[:-40] if number % 10 == 3 else data)
    assert count == 10_000
    said = []
    for words in (
        ["index", str(medsiglip_artifact), str(folder), "--to", str(tmp_path / "index")],
        ["classify", str(medsiglip_artifact), str(folder), "--label", "a", "--csv", str(tmp_path / "out" / "s.csv")],
        ["embed", str(medsiglip_artifact), str(folder), "--to", str(tmp_path / "out" / "v.csv")],
        ["classify", str(medsiglip_artifact), str(folder), "--label", "a", "--json"],
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        assert main(words) == 1
        told = capsys.readouterr()
        said.append(told.out + told.err)
    assert main(["--debug", "ask", str(medsiglip_artifact), "?", "--image", str(folder / "f003.dcm")]) != 0
    said += capsys.readouterr()
    kept = [path.read_bytes() for place in ("index", "out") for path in (tmp_path / place).iterdir()]
    assert len(kept) >= 4
    assert "canary" not in "".join(said).lower()
    assert not any(b"canary" in data.lower() for data in kept)
    rows = (tmp_path / "out" / "s.csv").read_text().splitlines()
    assert len(rows) == 101
    assert sum("truncated" in row or "bits" in row for row in rows) == 20


@pytest.mark.slow
def test_search_in_a_hundred_thousand_vectors(tmp_path: Path) -> None:
    """At MedSigLIP's width; the figure is a benchmark's, this only says that it ends."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "i"
    with writing(folder, "model", WIDTH) as index:
        for start in range(0, 100_000, 50_000):
            index.add(entries(unit(rng, 50_000), start))
        began = time.perf_counter()
        index.search(unit(rng, 1)[0], 10)
        assert time.perf_counter() - began < 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not PYTHON_WITH_RAY, reason="EDGEKIT_RAY names no Python that has ray; see test_serve_ray")
@pytest.mark.skipif(sys.platform != "linux", reason="several addresses of the loopback")
@pytest.mark.parametrize("verb", ["embed", "index"])
def test_a_cluster_embeds_an_archive_while_a_node_is_killed(
    medsiglip_artifact: Path, pictures: Path, tmp_path: Path, verb: str
) -> None:
    """Two nodes, one of which ends as by a power cut: every picture is there once, with the vector of one machine."""
    rng = np.random.default_rng(7)
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(pictures / f"x{number:03}.png")
    target = tmp_path / ("v.npy" if verb == "embed" else "index")
    words = [verb, str(medsiglip_artifact), str(pictures), "--to", str(target)]
    (tmp_path / "settings.json").write_text(json.dumps({"verb": words, "kill": 40}))
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' names are long
    try:
        done = subprocess.run(
            [PYTHON_WITH_RAY, str(HERE / "ray_embed.py"), str(tmp_path / "settings.json")],
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 1, done.stderr[-4000:]  # one picture is damaged
    assert "127.0.0.3 was lost; 1 machines go on" in done.stderr
    names, vectors = _stored(target)
    assert main([*words[:-1], str(tmp_path / ("one" + target.suffix))]) == 1
    expected_names, expected = _stored(tmp_path / ("one" + target.suffix))
    assert len(expected_names) == 205
    assert sorted(names) == sorted(expected_names)
    if verb == "embed":
        assert names == expected_names  # in the order of the files
    place = {name: row for row, name in enumerate(names)}
    np.testing.assert_allclose(vectors[[place[name] for name in expected_names]], expected, atol=2e-6)


def _stored(target: Path) -> tuple[list[str], Any]:
    """Names and vectors of a file or an index."""
    if target.suffix:
        return json.loads(target.with_name(f"{target.name}.json").read_text())["names"], np.load(target)
    with closing(sqlite3.connect(target / DATABASE)) as database:
        rows = database.execute(
            "select name, shards.file, place from pictures join shards on shard = shards.id order by name"
        ).fetchall()
    return [row[0] for row in rows], np.stack([np.load(target / file)[place] for _, file, place in rows])
