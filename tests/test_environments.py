"""Machines as people have them: no home, a small /tmp, a terminal of 1985, names in another encoding."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from material import photo
from PIL import Image

from edgekit.errors import NoSpaceError
from edgekit.machine.temporary import array_in_a_file, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's names, users and mounts")
Copy = Callable[[Path], Path]
EDGEKIT = [sys.executable, "-m", "edgekit"]


def run(command: Sequence[str | Path], cwd: Path, **environment: str | None) -> subprocess.CompletedProcess[bytes]:
    """Run a command; a variable that is None is removed."""
    changed = {**os.environ, **environment}
    return subprocess.run(
        command,
        cwd=cwd,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        check=False,
        timeout=300,
    )


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """What a command said for people; it must not have crashed."""
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done.stderr.decode("ascii").splitlines()


# Several commands in one process, which costs less than one each: what each wrote ends with its exit code.
SEVERAL = """
import json, sys
from edgekit.cli import main
for words in json.loads(sys.argv[1]):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    sys.stderr.write(f"\\0{code}\\0")
"""


def errors_of(commands: Sequence[Sequence[str]], cwd: Path) -> list[tuple[int, str]]:
    """The exit code of each command, and what it wrote to standard error."""
    done = run([sys.executable, "-c", SEVERAL, json.dumps(commands)], cwd)
    *said, rest = done.stderr.decode("ascii").split("\0")
    assert (done.returncode, rest, len(said)) == (0, "", 2 * len(commands)), done.stderr.decode()
    return [(int(code), text) for text, code in zip(said[::2], said[1::2], strict=True)]


# ---------------------------------------------------------------- a user without a name and a home

# As in a container that was started with any user: nothing in /etc/passwd, no HOME. It may read what root may, since
# the interpreter may lie in root's home.
SOMEBODY = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
SOMEBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
# The same for one process, where this one may not become another user.
NOBODY = """
import pwd, sys
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
from edgekit.cli import main
sys.exit(main())
"""
HOMELESS = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "EDGEKIT_CACHE", "HF_HOME"))


def homeless(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    able = os.getuid() == 0 and shutil.which("setpriv") is not None
    command = [*SOMEBODY, *EDGEKIT] if able else [sys.executable, "-c", NOBODY]
    return run([*command, *arguments], cwd, **{**HOMELESS, "PYTHONDONTWRITEBYTECODE": "1", **environment})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that anybody may write to. Those above it may be passed through, no more, and only meanwhile."""
    tmp_path.chmod(0o777)
    Image.fromarray(photo(90, 70)).save(tmp_path / "chest.png")
    closed = {path: mode for path in tmp_path.parents if not (mode := path.stat().st_mode) & 0o001}
    for path, mode in closed.items():
        path.chmod(mode | 0o011)
    yield tmp_path
    for path, mode in closed.items():
        path.chmod(mode)


def test_a_user_without_a_home(place: Path, medgemma_artifact: Path, medsiglip_artifact: Path) -> None:
    """Every command works, or says what to set; then it works, too."""
    gguf, siglip = (str(shutil.copytree(one, place / one.name)) for one in (medgemma_artifact, medsiglip_artifact))
    without = [
        ["list", "levels"],
        ["inspect", gguf],
        ["export", "medsiglip-reference", "--to", "new", "--level", "fp32", "--no-prove"],
        ["adopt", str(next(Path(gguf).glob("medgemma-*-Q4_0.gguf"))), "--to", "theirs"],
    ]
    for words in without:
        done = homeless(*words, cwd=place)
        assert (done.returncode, lines(done)) == (0, []), words
    before = {path.name for path in place.iterdir()}
    kept = [
        ["ask", gguf, "?", "--max-tokens", "1"],
        ["classify", siglip, "chest.png", "--label", "a"],
        ["tune", siglip],
    ]
    for words in kept:
        done = homeless(*words, cwd=place)
        assert done.returncode == 2, words
        said = lines(done)
        assert "no home folder" in said[0]
        assert said[1].startswith("try: set EDGEKIT_CACHE")
    assert {path.name for path in place.iterdir()} == before  # no folder named ~
    for words in kept[:2]:
        done = homeless(*words, cwd=place, EDGEKIT_CACHE="cache")
        assert done.returncode == 0, lines(done)
    hub = homeless("export", "google/medgemma-4b-it", "--to", "x", cwd=place)
    assert hub.returncode == 1
    assert "try: set HF_HOME" in lines(hub)[1]


def test_a_relative_cache_is_the_folder_of_the_first_call(tmp_path: Path) -> None:
    code = (
        "import os, sys; from edgekit.machine.cache import cache_folder\n"
        "os.mkdir('elsewhere'); first = cache_folder(); os.chdir('elsewhere')\n"
        "print(cache_folder() == first == __import__('pathlib').Path(sys.argv[1]), os.environ['EDGEKIT_CACHE'])"
    )
    done = run([sys.executable, "-c", code, tmp_path / "mine"], tmp_path, EDGEKIT_CACHE="mine")
    assert done.stdout.decode() == f"True {tmp_path / 'mine'}\n"


# ---------------------------------------------------------------- terminals

TERMINALS = [
    pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),  # no more than the next one
    {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]
LABELS = ["größer", "气胸", "\N{LUNGS}"]


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_terminal_that_lacks_characters(terminal: dict[str, str], medsiglip_artifact: Path, tmp_path: Path) -> None:
    picture = tmp_path / "Aufnahme-größer.png"
    Image.fromarray(photo(90, 70)).save(picture)
    encoding = terminal.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    labels = ["a"] if "PYTHONUTF8" in terminal else LABELS  # there the arguments themselves are no Unicode
    words = [word for label in labels for word in ("--label", label)]
    command = [*EDGEKIT, "classify", str(medsiglip_artifact), str(picture), *words]
    plain, as_json = run(command, tmp_path, **terminal), run([*command, "--json"], tmp_path, **terminal)
    assert plain.returncode == as_json.returncode == 0, plain.stderr.decode()
    printed = plain.stdout.decode(encoding)
    row = json.loads(as_json.stdout.decode(encoding))
    if "PYTHONUTF8" not in terminal:
        assert (row["file"], list(row["scores"])) == (str(picture), LABELS)
        assert "\\u6c14\\u80f8" in printed
        assert ("größer" in printed) == (encoding == "cp1252")
        assert ("gr\\u00f6\\u00dfer" in printed) == (encoding == "ascii")
    refused = run([*EDGEKIT, "inspect", tmp_path / "größer"], tmp_path, **terminal)
    assert refused.returncode == 1
    assert b"Traceback" not in refused.stderr
    refused = run([*EDGEKIT, "inspect", tmp_path / "größer", "--json"], tmp_path, **terminal)
    assert json.loads(refused.stderr.decode(encoding))["kind"] == "ArtifactError"


# ---------------------------------------------------------------- names that are no UTF-8

NAME = os.fsdecode(b"b\xe9d")


@pytest.fixture(scope="module")
def named(
    tmp_path_factory: pytest.TempPathFactory,
    medgemma_artifact: Path,
    medgemma_onnx: Path,
    medsiglip_artifact: Path,
    medsiglip_source: Path,
) -> Path:
    """A folder that holds artifacts, a checkpoint and an image, all under names that are no UTF-8."""
    folder = tmp_path_factory.mktemp("names") / NAME
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    kinds = {"gguf": medgemma_artifact, "onnx": medgemma_onnx, "siglip": medsiglip_artifact, "source": medsiglip_source}
    for kind, one in kinds.items():
        shutil.copytree(one, folder / f"{kind}{NAME}")
    Image.fromarray(photo(90, 70)).save(folder / f"{NAME}.png")
    shutil.copyfile(next(medgemma_artifact.glob("medgemma-*-Q4_0.gguf")), folder / f"{NAME}.gguf")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "gguf@"],
        ["ask", "gguf@", "?", "--image", "@.png", "--max-tokens", "1"],
        ["ask", "onnx@", "?", "--image", "@.png", "--max-tokens", "1"],
        ["classify", "siglip@", "@.png", "--label", "a"],
        ["classify", "siglip@", "@.png", "--label", "a", "--runtime", "openvino"],
        ["export", "source@", "--recipe", "reference-medsiglip", "--to", "new@", "--level", "fp32", "--no-prove"],
        pytest.param(["prove", "siglip@"], marks=pytest.mark.slow),
        pytest.param(["tune", "siglip@"], marks=pytest.mark.slow),
        ["synthesize", "medsiglip", "made@", "--layers", "1", "--vision-layers", "1"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_names_that_are_no_utf_8(words: list[str], named: Path, tmp_path: Path) -> None:
    if "openvino" in words:
        pytest.importorskip("openvino")
    command = [*EDGEKIT, *(word.replace("@", NAME) for word in words), "--json"]
    done = run(command, named, EDGEKIT_CACHE=str(tmp_path / NAME))
    assert done.returncode == 0, done.stderr.decode()
    printed = json.loads(done.stdout.decode("ascii" if "classify" in words else "utf-8"))
    if "classify" in words:
        assert printed["file"] == f"{NAME}.png"


def test_such_names_in_errors(named: Path) -> None:
    cases: list[tuple[list[str], str | None]] = [
        (["adopt", "@.gguf", "--to", "theirs"], "ArtifactError"),  # its name would stand in the manifest
        (["ask", "nothing@", "?"], "ArtifactError"),
        (["ask", "gguf@", "@"], "InputError"),
        (["classify", "siglip@", "nothing@.png", "--label", "a"], "InputError"),
        (["export", "nothing@", "--to", "new"], "UsageError"),
        (["prove", "siglip@", "--images", "nothing@", "--text", "@.png"], None),
        (["bench", "siglip@", "--task", "@"], "UsageError"),
        (["ask", "gguf@", "?", "--device", "@"], "UsageError"),
    ]
    plain = [[word.replace("@", NAME) for word in words] for words, _ in cases]
    said = errors_of([*plain, *([*words, "--json"] for words in plain)], named)
    for (words, kind), (code, text), (code_of_json, json_text) in zip(
        cases, said[: len(cases)], said[len(cases) :], strict=True
    ):
        assert code == code_of_json in (1, 2), words
        assert "Traceback" not in text, words
        assert kind in (None, json.loads(json_text)["kind"]), words
    assert not {path.name for path in named.iterdir()} & {"theirs", "new"}


# ---------------------------------------------------------------- a small /tmp


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(parent: Path | None) -> NoSpaceError:
        with pytest.raises(NoSpaceError) as caught, temporary_folder("test", parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return caught.value

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert str(tmp_path) in full(None).message
    assert "TMPDIR" in str(full(None).remedy)
    beside = full(tmp_path / "beside")
    assert beside.message.startswith(f"{tmp_path / 'beside'}: no space left")
    assert "TMPDIR" not in str(beside.remedy)
    assert list(tmp_path.rglob("*")) == [tmp_path / "beside"]


def test_an_array_in_a_file_leaves_no_name(tmp_path: Path) -> None:
    rows = array_in_a_file((3, 5), tmp_path)
    rows[1] = 7
    assert (rows.shape, str(rows.dtype), float(rows.sum())) == ((3, 5), "float32", 35.0)
    assert list(tmp_path.iterdir()) == []


MOUNTED = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
MOUNTED += ['mount -t tmpfs -o "size=$0" tmpfs "$TMPDIR" && exec "$@"']


@pytest.mark.parametrize("proven", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_small_tmp(proven: bool, tmp_path: Path) -> None:
    """Headers and jobs alone lie there, and where even these do not fit, the folder is named; the rest is beside it."""
    small = tmp_path / "tmp"
    small.mkdir()
    if run([*MOUNTED, "16k", "true"], tmp_path, TMPDIR=str(small)).returncode != 0:
        pytest.skip("may not mount")
    export = [*EDGEKIT, "export", "medgemma-reference", "--to", "new", "--level", "Q8_0"]
    export += [] if proven else ["--no-prove"]
    environment = {"TMPDIR": str(small), "EDGEKIT_CACHE": str(tmp_path / "cache")}
    full = run([*MOUNTED, "16k", *export], tmp_path, **environment)
    assert full.returncode == 1
    said = lines(full)
    assert said[0].startswith(f"edgekit: {small}")
    assert "no space left" in said[0]
    assert "$TMPDIR" in said[1]
    assert not (tmp_path / "new").exists()
    done = run([*MOUNTED, "4m" if proven else "128k", *export], tmp_path, **environment)
    assert done.returncode == 0, done.stderr.decode()
