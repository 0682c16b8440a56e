"""Data sets of the hub and parquet files: read from a cache that lies here, by data alone, with nobody asked."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
from data_files import lines, picture, stated, table

from edgekit.bench import datasets as sets
from edgekit.bench import own, plan
from edgekit.bench.datasets import hub, load, rows, schema
from edgekit.bench.datasets.own import questions
from edgekit.errors import EdgekitError, HubError, InputError, MissingDependencyError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::edgekit.inputs.image.PictureWarning")  # they are small
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, and no network."""
    library = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(library, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))

    def refused(*given: Any) -> NoReturn:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    return tmp_path / "hub"


def repository(cache: Path, name: str) -> Path:
    """A data set's folder in the cache, as huggingface_hub lays it out."""
    root = cache / f"datasets--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    return root / "snapshots" / COMMIT


ROWS = [{"id": f"q{i}", "data": {"Question": f"Which is {i}?", "Options": {"A": "x", "B": "y", "C": "z", "D": "w"},
         "Correct Option": "ABCD"[i]}} for i in range(4)]  # fmt: skip


def test_a_set_that_is_not_in_the_cache_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(UsageError, match="--download, which fetches openlifescienceai/medqa from the hub"):
        load("medqa", 5, 0, None)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing is downloaded"):
        sets.fetch(sets.source("medqa"))
    with pytest.raises(UsageError, match=r"a/b: neither a folder, a file, nor in the hub's cache\ntry: --download"):
        own.tasks(None, "a/b")
    with pytest.raises(UsageError, match="the hub's data set 'a/b/c'\nallowed: owner/name"):
        hub.cached(schema.HubSource(id="a/b/c"))


def test_a_download_is_of_data_alone_and_only_of_what_was_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch

    import huggingface_hub

    there = ["README.md", "medqa.py", "data/test.jsonl", "weights.bin", "notes.pkl", "data/test.parquet", "setup.sh"]
    asked, look = [], huggingface_hub.snapshot_download

    def download(name: str, **options: Any) -> str:
        if options.get("local_files_only"):
            return look(name, **options)
        asked.append((name, options["repo_type"]))
        folder = repository(cache, name)
        for file in there:
            if any(fnmatch.fnmatch(file, pattern) for pattern in options["allow_patterns"]):
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_text("{}")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    folder = hub.fetch(schema.HubSource(id="openlifescienceai/medqa"))
    assert asked == [("openlifescienceai/medqa", "dataset")]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"README.md", "data/test.jsonl", "data/test.parquet"}
    assert sets.is_here(sets.source("medqa"), None)
    there[:] = ["README.md", "load.py"]
    with pytest.raises(HubError, match="no/data: holds no data"):
        hub.fetch(schema.HubSource(id="no/data"))


def test_only_named_tasks_are_downloaded(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(sets, "fetch", lambda source: fetched.append(source.name))
    text = 'title = "t"\nkind = "finding"\ndataset = "medqa"\nlimit = 5\nprompt = "{question}"\n'
    (tmp_path / "exam.toml").write_text(text + 'parser = "first-label"\nmax_tokens = 9\n')
    with pytest.raises(UsageError, match="none of these models"):  # there are none
        plan.choose([str(tmp_path / "exam.toml")], None, (), download=True)
    assert fetched == ["medqa"]
    plan.choose((), None, (), download=True)
    assert fetched == ["medqa"]


def test_a_card_alone_is_no_data(cache: Path) -> None:
    (repository(cache, "openlifescienceai/medqa") / "README.md").write_text("---\nlicense: mit\n---\n")
    assert hub.cached(schema.HubSource(id="openlifescienceai/medqa")) is None


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        MissingDependencyError, match=r"parquet files need the library datasets\ntry: pip install 'edgekit\[data\]'"
    ):
        rows.data_sets_library("parquet files")


def test_the_columns_of_the_hubs_table_are_its_own(cache: Path) -> None:
    """Its file in a data folder has others."""
    pytest.importorskip("datasets")
    lines(repository(cache, "openlifescienceai/medqa") / "test.jsonl", ROWS)
    samples = load("medqa", 9, 0, None).samples
    assert [(s.id, s.question, s.truth) for s in samples] == [(f"q{i}", f"Which is {i}?", "xyzw"[i]) for i in range(4)]
    said = sets.attribution("medqa", None)
    assert (said["hub"], said["published"]) == ("openlifescienceai/medqa/test", "not stated")


def test_parquet_from_a_data_folder_and_from_the_hub_is_the_same(cache: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    subjects = ["anatomy", "astronomy", "virology", "medical_genetics"]
    table_ = library.Dataset.from_dict(
        {"question": [f"{s}?" for s in subjects], "subject": subjects, "choices": [["p", "q", "r", "s"]] * 4,
         "answer": [0, 1, 2, 3]}
    )  # fmt: skip
    folder = repository(cache, "cais/mmlu")
    (folder / "all").mkdir()
    table_.to_parquet(str(folder / "all" / "test-00000-of-00001.parquet"))
    card = "---\nconfigs:\n- config_name: all\n  data_files:\n  - split: test\n    path: all/test-*\n---\n"
    (folder / "README.md").write_text(card)
    (tmp_path / "data" / "mmlu").mkdir(parents=True)
    table_.to_parquet(str(tmp_path / "data" / "mmlu" / "test.parquet"))
    here, there = load("mmlu-med", 9, 0, tmp_path / "data"), load("mmlu-med", 9, 0, None)
    assert here.sha256 == there.sha256
    assert [(s.question, s.truth, s.topic) for s in here.samples] == [
        ("anatomy?", "p", "anatomy"), ("medical_genetics?", "s", "medical_genetics"),
    ]  # fmt: skip


def test_damaged_parquet_and_a_split_that_is_not_there(cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"t\.parquet: no parquet file that can be read"):
        rows.read(tmp_path / "t.parquet")
    lines(repository(cache, "a/b") / "train.jsonl", ROWS)
    with pytest.raises(InputError, match="a/b: test: cannot be read"):
        hub.rows(schema.HubSource(id="a/b"), hub.cached(schema.HubSource(id="a/b")) or Path())


def test_images_of_the_hub_are_decoded_by_us(cache: Path, tmp_path: Path) -> None:
    """Within our limits of size and time: the library hands over bytes; a broken one is counted."""
    library = pytest.importorskip("datasets")
    made = [picture(tmp_path / f"{i}.png", i).read_bytes() for i in range(3)] + [b"no image"]
    features = library.Features({"image": library.Image(), "label": library.Value("string")})
    table_ = library.Dataset.from_dict(
        {"image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(made)], "label": list("abab")},
        features=features,
    )
    table_.to_parquet(str(repository(cache, "me/pictures") / "test.parquet"))
    task, *_ = own.tasks("me/pictures", None)
    loaded = load(task.dataset, 9, 0, None)
    assert [(s.id, s.truth, s.image is not None) for s in loaded.samples] == [
        ("0.png", "a", True), ("1.png", "b", True), ("2.png", "a", True),
    ]  # fmt: skip
    assert [str(s.problem).split(":")[0] for s in loaded.unread] == ["3.png"]


def test_a_program_is_not_run(cache: Path, tmp_path: Path) -> None:
    """A data set may come with a script that loads it: neither it nor anything of its folder is."""
    pytest.importorskip("datasets")
    folder = repository(cache, "a/script")
    (folder / "script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (folder / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(EdgekitError):
        own.tasks(None, "a/script")
    lines(folder / "test.jsonl", [{"question": "Q?", "answer": "x"}])
    source = schema.HubSource(id="a/script")
    assert [row.text("answer") for row in hub.rows(source, hub.cached(source) or Path())] == ["x"]
    assert not (tmp_path / "ran").exists()


def test_reading_leaves_nothing_behind(cache: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("datasets")
    path = tmp_path / "t.parquet"
    library.Dataset.from_dict({"question": ["Q?"], "answer": ["x"]}).to_parquet(str(path))
    before = sorted(str(entry) for entry in tmp_path.rglob("*"))
    assert len(load(stated(path, columns={"question": "question", "answer": "answer"}), 9, 0, None).samples) == 1
    assert sorted(str(entry) for entry in tmp_path.rglob("*")) == before


def test_a_table_of_the_hub_in_csv(cache: Path) -> None:
    pytest.importorskip("datasets")
    table(repository(cache, "me/table") / "train.csv", [("question", "answer"), ("Q?", "x")])
    source = questions("me/table")
    assert (source.title, source.columns.question) == ("me/table, train", "question")
    assert [sample.truth for sample in load(source, 9, 0, None).samples] == ["x"]
