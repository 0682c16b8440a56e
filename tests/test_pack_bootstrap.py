"""What runs before edgekit does: its own verification, choice of wheels and unpacking, and the scripts that hold it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faults.installs import PYTHON, content, made, wheel
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from packaging.tags import Tag, sys_tags

from edgekit.errors import ArtifactError, EdgekitError, UsageError
from edgekit.pack import document, launchers, signature
from edgekit.pack.bootstrap import environment, trust
from edgekit.pack.bootstrap.here import Here, RefusedError, check_platform, chosen, for_python, here
from edgekit.pack.contents import programs
from edgekit.pack.install import install
from edgekit.pack.wheel_files import read_wheel

EVERY = frozenset(sys_tags())
LINUX = Here((3, 11), "linux-x86_64", (2, 36))

# ---------------------------------------------------------------- Ed25519

# RFC 8032, 7.1: public key, message, signature.
KNOWN = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
        "55141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
        "00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("public", "message", "signed"), KNOWN)
def test_what_the_rfc_signed_is_signed(public: str, message: str, signed: str) -> None:
    assert trust.is_signed(bytes.fromhex(message), bytes.fromhex(signed), bytes.fromhex(public))


@settings(max_examples=15, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 8 * 96 - 1), st.binary(min_size=32, max_size=32))
def test_what_another_library_signed_is_signed_and_nothing_else(message: bytes, bit: int, seed: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public, signed = key.public_key().public_bytes_raw(), key.sign(message)
    assert trust.is_signed(message, signed, public)
    assert not trust.is_signed(message + b"x", signed, public)
    both = bytearray(public + signed)
    both[bit // 8] ^= 1 << bit % 8
    assert not trust.is_signed(message, bytes(both[32:]), bytes(both[:32]))


@pytest.mark.parametrize("length", [0, 31, 63, 65])
def test_a_signature_of_another_length_is_none(length: int) -> None:
    assert not trust.is_signed(b"", bytes(length), bytes.fromhex(KNOWN[0][0]))


def test_a_scalar_beyond_the_order_is_refused() -> None:
    """Else each signature would have a second form."""
    order = 2**252 + 27742317777372353535851937790883648493
    signed = bytes.fromhex(KNOWN[0][2])
    moved = (int.from_bytes(signed[32:], "little") + order).to_bytes(32, "little")
    assert not trust.is_signed(b"", signed[:32] + moved, bytes.fromhex(KNOWN[0][0]))


# ---------------------------------------------------------------- wheels that fit


def fits(tag: str, machine: Here) -> bool:
    try:
        return chosen([f"wheels/a-1.0-{tag}.whl"], machine) != []
    except RefusedError:
        return False


def test_what_fits_here_is_what_packaging_says() -> None:
    machine = here()
    assert machine.python == sys.version_info[:2]
    assert [tag for tag in EVERY if not fits(str(tag), machine)] == []


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["cp39", "cp310", "cp311", "cp312", "cp313", "py3", "py2", "py311", "py312", "pp311"]),
    st.sampled_from(["none", "abi3", "cp310", "cp311", "cp312", "cp313"]),
    st.sampled_from(
        ["any", "linux_x86_64", "linux_aarch64", "win_amd64", "macosx_11_0_arm64", "manylinux2014_x86_64",
         "manylinux2014_aarch64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "manylinux_2_99_x86_64",
         "manylinux_2_28_aarch64", "musllinux_1_2_x86_64"]
    ),
)  # fmt: skip
def test_nothing_fits_here_that_packaging_refuses(python: str, abi: str, platform: str) -> None:
    assume(platform != "any" or abi == "none")  # what is bound to an interpreter's binary interface is compiled
    assert fits(f"{python}-{abi}-{platform}", here()) == (Tag(python, abi, platform) in EVERY)


@pytest.mark.parametrize(
    ("tag", "machine", "expected"),
    [
        ("cp311-cp311-macosx_11_0_arm64", Here((3, 11), "macos-arm64", (14, 2)), True),
        ("cp311-cp311-macosx_15_0_arm64", Here((3, 11), "macos-arm64", (14, 2)), False),
        ("cp311-cp311-macosx_10_9_universal2", Here((3, 11), "macos-arm64", (14, 2)), True),
        ("cp311-cp311-macosx_10_9_x86_64", Here((3, 11), "macos-arm64", (14, 2)), False),
        ("cp311-cp311-win_amd64", Here((3, 11), "windows-x86_64"), True),
        ("cp311-cp311-win_arm64", Here((3, 11), "windows-x86_64"), False),
        ("cp311-cp311-win_arm64", Here((3, 11), "windows-arm64"), True),
        ("cp312-cp312-win_amd64", Here((3, 11), "windows-x86_64"), False),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", LINUX, True),
        ("cp311-cp311-manylinux_2_28_x86_64", Here((3, 11), "linux-x86_64", (2, 27)), False),
        ("cp311-cp311-manylinux_2_28_x86_64", Here((3, 11), "linux-x86_64"), False),  # another C library
        ("cp311-cp311-manylinux_2_17_aarch64", Here((3, 11), "linux-aarch64-32bit", (2, 36)), False),
        ("py3-none-any", Here((3, 13), "windows-arm64"), True),
    ],
)
def test_what_fits_elsewhere(tag: str, machine: Here, expected: bool) -> None:
    assert fits(tag, machine) == expected


def test_of_each_package_one_wheel_is_taken() -> None:
    wheels = [
        "wheels/a_b-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
        "wheels/a_b-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
        "wheels/c-1.0-1x-py3-none-any.whl",
    ]
    assert chosen(wheels, LINUX) == [wheels[0], wheels[2]]
    with pytest.raises(RefusedError, match=r"^2 wheels of a-b fit Python 3.11 on linux-x86_64"):
        chosen([*wheels, "wheels/A.B-1.1-py3-none-any.whl"], LINUX)
    with pytest.raises(RefusedError, match=r"^no wheels of a-b fit Python 3.13 on linux-x86_64"):
        chosen(wheels, Here((3, 13), "linux-x86_64", (2, 36)))
    with pytest.raises(RefusedError, match="not named as a wheel"):
        chosen(["wheels/README"], LINUX)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"platform": "linux-aarch64"}, "bundle b is for linux-aarch64, and this machine is linux-x86_64"),
        ({"python": ["3.12", "3.13"]}, "bundle b has wheels for Python 3.12, 3.13, and this is 3.11"),
    ],
)
def test_a_bundle_for_another_machine_is_refused(stated: dict[str, object], said: str) -> None:
    document = {"name": "b", "platform": "linux-x86_64", "python": ["3.11"]}
    check_platform(document, LINUX)
    with pytest.raises(RefusedError) as caught:
        check_platform({**document, **stated}, LINUX)
    assert str(caught.value) == said


# ---------------------------------------------------------------- environments


def test_a_wheel_is_unpacked_as_pip_unpacks_it(tmp_path: Path) -> None:
    name = "thing-1.0-py3-none-any.whl"
    files = {
        "thing/__init__.py": "X = 1\n",
        "thing/data/empty": "",
        "thing-1.0.data/purelib/beside.py": "Y = 2\n",
        "thing-1.0.data/platlib/other/__init__.py": "Z = 3\n",
        "thing-1.0.data/scripts/tool": "#!python\n",
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files["thing-1.0.dist-info/RECORD"] = "".join(f"{path},,\n" for path in files)
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile", "--target"]
    subprocess.run([*command, tmp_path / "pip", tmp_path / name], check=True)
    environment.make_environment(tmp_path / "ours", [tmp_path / name])
    python = environment.python_of(tmp_path / "ours")
    printed = subprocess.run(
        [python, "-c", "import thing, beside, other; print(thing.__file__)"], capture_output=True, text=True, check=True
    ).stdout
    site = Path(printed.strip()).parents[1]
    assert site.is_relative_to(tmp_path / "ours")

    def seen(folder: Path) -> dict[str, bytes]:
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        own = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
        return {
            name: path.read_bytes()
            for name, path in found.items()
            if path.name not in own and path.suffix != ".pyc" and not name.startswith("bin/")
        }

    assert seen(site) == seen(tmp_path / "pip")


def test_an_environment_may_be_moved_and_finds_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.whl").write_bytes(wheel({"thing.py": "print('thing')\n"}))
    environment.make_environment(tmp_path / "one", [tmp_path / "x.whl"])
    (tmp_path / "one").rename(tmp_path / "two")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    code = "import sys, thing; print(*sys.path)"
    done = subprocess.run(
        [environment.python_of(tmp_path / "two"), "-P", "-c", code],
        capture_output=True, text=True, check=True, env=environment.clean_variables(),
    )  # fmt: skip
    assert str(tmp_path / "two") in done.stdout
    assert "elsewhere" not in done.stdout
    assert "numpy" not in done.stdout


def test_the_interpreter_stands_where_each_system_has_it() -> None:
    assert environment.python_of(Path("e"), "posix") == Path("e/bin/python")
    assert environment.python_of(Path("e"), "nt") == Path("e/Scripts/python.exe")


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a\\..\\out", "c:out", "a//b", "a/./b"])
def test_a_wheel_cannot_write_beside_its_environment(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(RefusedError, match="no plain path"):
        environment.make_environment(tmp_path / "env", [tmp_path / "x.whl"])
    assert not list(tmp_path.rglob("*out"))


@pytest.mark.skipif(os.name == "nt", reason="links, which Windows' environments do without")
@pytest.mark.parametrize("name", ["bin/python", "bin/python3", "bin/activate", "pyvenv.cfg", "bin/python/x"])
def test_a_wheel_cannot_replace_what_an_environment_is_made_of(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its interpreter is a link to the system's, here to a file in its place, which would be written through it."""
    systems = tmp_path / "the system's python"
    systems.write_text("whole")
    create = venv.EnvBuilder.create

    def created(self: venv.EnvBuilder, place: Path) -> None:
        create(self, place)
        for link in (place / "bin").glob("python*"):
            link.unlink()
            link.symlink_to(systems)

    monkeypatch.setattr(venv.EnvBuilder, "create", created)
    (tmp_path / "x.whl").write_bytes(wheel({f"x-1.data/data/{name}": "harm"}))
    with pytest.raises(RefusedError, match="would replace"):
        environment.make_environment(tmp_path / "env", [tmp_path / "x.whl"])
    assert systems.read_text() == "whole"
    assert (tmp_path / "env" / "pyvenv.cfg").read_text() != "harm"


def damaged_wheels() -> dict[str, bytes]:
    """Whole archives of one member each that Python's zipfile cannot read."""
    import io

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("thing.py"), b"x" * 1000, zipfile.ZIP_DEFLATED)
    whole = data.getvalue()
    local, central = 0, whole.index(b"PK\x01\x02")
    encrypted, deflated, named = bytearray(whole), bytearray(whole), bytearray(whole)
    encrypted[local + 6] |= 1
    encrypted[central + 8] |= 1
    deflated[local + 30 + len("thing.py")] = 0xFF
    named[central + 9] |= 8  # the name is UTF-8
    named[central + 46] = 0xFF
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("thing.py", b"x" * 1000)
    return {"encrypted": bytes(encrypted), "deflate": bytes(deflated), "name": bytes(named), "LZMA": other.getvalue()}


@pytest.mark.parametrize("harm", ["encrypted", "deflate", "name", "LZMA"])
def test_a_damaged_wheel_is_refused_by_both_readers(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    path.write_bytes(damaged_wheels()[harm])
    with pytest.raises(RefusedError, match="is no wheel"):
        environment.make_environment(tmp_path / "env", [path])
    with pytest.raises(ArtifactError, match=r"no zip archive|its compression is none"):
        read_wheel(path)


def test_what_is_no_wheel_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"PK nothing")
    with pytest.raises(RefusedError, match="is no wheel"):
        environment.make_environment(tmp_path / "env", [tmp_path / "x.whl"])
    with pytest.raises(RefusedError, match="is no wheel"):
        environment.unpacked_bytes([tmp_path / "x.whl"])


def test_a_pythons_wheels_are_everyones_and_its_own() -> None:
    files = ["bundle.json", "wheels/a.whl", "wheels/3.11/b.whl", "wheels/3.12/c.whl", "wheels/3.1/d.whl",
             "wheels/x86-64-v3/e.whl", "wheels/3.11/x/f.whl", "model/3.11/g.whl", "wheels/armv8.2-a/h.whl"]  # fmt: skip
    assert for_python(files, LINUX) == ["wheels/a.whl", "wheels/3.11/b.whl"]
    assert for_python(files, Here((3, 12), "windows-arm64")) == ["wheels/a.whl", "wheels/3.12/c.whl"]
    assert for_python(files, Here((3, 13), "macos-arm64")) == ["wheels/a.whl"]


# ---------------------------------------------------------------- the scripts


def test_the_program_is_standard_and_in_every_shells_letters() -> None:
    text = programs.program()
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= sys.stdlib_module_names
    for script in programs.texts().values():
        assert script.isascii()
    assert not any(line.startswith(("'@", "END_OF_PROGRAM")) for line in text.splitlines())


def test_no_module_of_the_program_takes_a_name_of_another() -> None:
    """As one text they share one namespace."""
    made = [node for node in ast.parse(programs.program()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names = [node.name for node in made]
    for node in ast.parse(programs.program()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == set()


def test_both_scripts_hold_the_same_program() -> None:
    shell, powershell = programs.texts().values()
    assert programs.program() in shell
    assert programs.program() in powershell.replace("\r\n", "\n")
    assert shell.count("\r") == 0
    assert powershell.count("\r\n") == powershell.count("\n")


@pytest.mark.parametrize("name", ["install.ps1", "run.ps1"])
def test_powershell_would_read_what_is_written_for_it(name: str) -> None:
    """No Windows and no PowerShell is here; a grammar of its language is."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    text = {**programs.texts(), **launchers.texts("nt")}[name].encode()
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    assert not parser.parse(text).root_node.has_error
    assert parser.parse(text + b"if (").root_node.has_error


def changed(document: bytes, old: str, new: str) -> bytes:
    made = document.replace(old.encode(), new.encode(), 1)
    assert made != document
    return made


DOCUMENTS: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda _: b"{",
    "list": lambda _: b"[]",
    "null": lambda _: b"null",
    "deep": lambda _: b"[" * 100_000,
    "long number": lambda said: changed(said, '"version":1', '"version":' + "1" * 5000),
    "no text": lambda said: said.replace(b"linux", b"\xff"),
    "mark": lambda said: b"\xef\xbb\xbf" + said,
    "UTF-16": lambda said: said.decode().encode("utf-16"),
    "space": lambda said: said + b"\n",
    "twice": lambda said: changed(said, '{', '{"name":"b",'),
    "NaN": lambda said: changed(said, '"version":1', '"version":NaN'),
    "half a character": lambda said: changed(said, '"name":"', '"name":"\\ud800'),
    "escape": lambda said: changed(said, '"name":"', '"name":"\\u001b[2J'),
    "no name": lambda said: changed(said, '"name":', '"nome":'),
    "no bytes": lambda said: changed(said, '"bytes":', '"bites":'),
    "schema 2": lambda said: changed(said, '"schema_version":1', '"schema_version":2'),
    "schema true": lambda said: changed(said, '"schema_version":1', '"schema_version":true'),
    "version 0": lambda said: changed(said, '"version":1', '"version":0'),
    "minimum beyond": lambda said: changed(said, '"minimum_version":1', '"minimum_version":2'),
    "fraction": lambda said: changed(said, '"bytes":', '"bytes":1.0,"bites":'),
    "infinite": lambda said: changed(said, '"bytes":', '"bytes":1e999,"bites":'),
    "true": lambda said: changed(said, '"bytes":', '"bytes":true,"bites":'),
    "text": lambda said: changed(said, '"python":[', '"python":"3.11","pythons":['),
    "digits": lambda said: changed(said, '"python":["', '"python":["3.\u0661\u0661","'),
    "wide": lambda said: changed(said, "wheels/", "wheels/\uff13.\uff11\uff11/"),
    "newline": lambda said: changed(said, "wheels/", "wheels/\\n"),
    "files null": lambda said: changed(said, '"files":[', '"files":null,"filed":['),
    "files text": lambda said: changed(said, '"files":[', '"files":"x","filed":['),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_that_edgekit_refuses_is_refused_before_edgekit_runs(tmp_path: Path, key: Path, name: str) -> None:
    bundle = packed(tmp_path / "bundle", key)
    original = (bundle / "bundle.json").read_bytes()
    assert trust.stated(original, bundle)["name"] == document.parsed(original, "here").name
    harmed = DOCUMENTS[name](original)
    with pytest.raises(EdgekitError):
        document.parsed(harmed, "here")
    with pytest.raises(RefusedError) as caught:
        trust.stated(harmed, bundle)
    assert str(caught.value).isprintable()


Values = st.one_of(
    st.none(), st.booleans(), st.integers(-1, (1 << 53) - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.just([]), st.just({}),
    st.text(max_size=3), st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["3.11", "linux-x86_64", "a" * 64, "A" * 64, "con.txt", ".a", "a.", "a/b", "A/b", "bundle.json/x"]),
)  # fmt: skip


@st.composite
def of_the_form(draw: st.DrawFn) -> dict[str, Any]:
    """A document, whole or with some changes that break its schema, or do not."""
    names = st.sampled_from(["a", "A", "b", "a/b", "A/c", "con", "com1.x", "bundle.json", "x.", "wheels/x.whl", "a b"])
    size = st.sampled_from([0, 1, 1 << 26, (1 << 26) + 1])
    files = [
        {"path": path, "bytes": n, "sha256": "0" * 64, "chunks": ["0" * 64] * -(-n // (1 << 26)), "executable": False}
        for path, n in draw(st.lists(st.tuples(names, size), min_size=1, max_size=3))
    ]
    if draw(st.integers(0, 3)):
        files.sort(key=lambda file: str(file["path"]))
    said: dict[str, Any] = {
        "schema_version": 1, "name": "a-b", "version": 2, "minimum_version": 1, "edgekit": "1.0", "title": "T",
        "license": "L", "stand_in": None, "level": "Q4_0", "device": "d", "platform": "linux-x86_64",
        "cpu": ["x86-64-v3"], "python": ["3.11"], "source_sha256": "0" * 64, "files": files,
    }  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.sampled_from([said, *files]))
        name = draw(st.sampled_from([*where, "more"]))
        if draw(st.booleans()):
            where[name] = draw(Values)
        else:
            where.pop(name, None)
    return said


@settings(max_examples=400, deadline=None)
@given(of_the_form())
def test_both_readers_refuse_the_same_documents(said: dict[str, Any]) -> None:
    raw = document.canonical(said)
    refused: list[Exception] = []
    try:
        document.parsed(raw, "here")
    except EdgekitError as error:
        refused.append(error)
    try:
        trust.stated(raw, Path("here"))
    except RefusedError as error:
        refused.append(error)
    assert len(refused) in (0, 2), refused


posix = pytest.mark.skipif(os.name == "nt" or not shutil.which("sh"), reason="a POSIX shell")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    signature.generate(tmp_path / "key")
    return tmp_path / "key"


def packed(folder: Path, key: Path, **more: object) -> Path:
    """A bundle with its install script."""
    made(folder, key, 1, {**content(1), "install.sh": programs.texts()["install.sh"].encode()}, **more)
    return folder


def script(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [str(shutil.which("sh")), *map(str, words)]
    variables = {**os.environ, "PYTHON": sys.executable, **more}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables, timeout=60)


@pytest.fixture
def pythons(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Variables by which no Python is found but stand-ins of these names, each this one that states its version."""

    def made(**versions: str) -> dict[str, str]:
        folder = tmp_path / "pythons"
        folder.mkdir(exist_ok=True)
        for tool in ("cat", "dirname", "head", "sed", "tr"):
            (folder / tool).symlink_to(str(shutil.which(tool)))
        for name, version in versions.items():
            path = folder / name.replace("_", ".")
            path.write_text(
                f'#!/bin/sh\nif [ "$1" = -c ]; then echo {version}; else echo "$0"; cat > /dev/null; fi\n'
            )
            path.chmod(0o755)
        return {"PATH": str(folder), "PYTHON": ""}

    return made


@posix
@pytest.mark.parametrize(
    ("there", "named", "expected"),
    [
        ({"python3_11": "3.11", "python3_12": "3.12"}, "", "python3.11"),
        ({"python3_12": "3.12", "python3": "3.10"}, "", "python3.12"),
        ({"python3": "3.12"}, "", "python3"),
        ({"python3_11": "3.11", "python3_12": "3.12"}, "python3.12", "python3.12"),
        ({"python3_11": "3.11", "mine": "3.13"}, "mine", "mine"),  # which is then refused by name
    ],
)
def test_whichever_python_is_there_runs_it(
    tmp_path: Path, key: Path, pythons: Callable[..., dict[str, str]], there: dict[str, str], named: str, expected: str
) -> None:
    bundle = packed(tmp_path / "bundle", key, python=["3.11", "3.12"])
    done = script(bundle / "install.sh", **{**pythons(**there), "PYTHON": named})
    assert done.stdout.strip().rpartition("/")[2] == expected


@posix
@pytest.mark.parametrize("there", [{}, {"python3": "", "python3_13": "3.13"}])
def test_the_pythons_that_would_do_are_named(
    tmp_path: Path, key: Path, pythons: Callable[..., dict[str, str]], there: dict[str, str]
) -> None:
    bundle = packed(tmp_path / "bundle", key, python=["3.11", "3.12"])
    done = script(bundle / "install.sh", **pythons(**there))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "install: no Python 3.11 or 3.12 was found; PYTHON=... names one\n"


@posix
@pytest.mark.parametrize("away", [False, True])
def test_the_script_runs_the_bundles_edgekit(tmp_path: Path, key: Path, away: bool) -> None:
    """From the bundle, or a copy of it that came with the key."""
    bundle = packed(tmp_path / "a bundle", key)
    copy = shutil.copy(bundle / "install.sh", tmp_path / "mine.sh")
    words = [copy, bundle] if away else [bundle / "install.sh"]
    root, public = tmp_path / "new" / "root", tmp_path / "key.pub"
    done = script(*words, "--to", root, "--key", public, PYTHONPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 0
    assert done.stderr == "install: checking the installer: 1 wheels, 0 MB\ninstall: unpacking the installer\n"
    assert done.stdout == f"edgekit 1 install {bundle} --to {root} --key {public}\n"
    assert list(root.parent.iterdir()) == []  # what was made for the moment is gone
    done = script(*words, "--to", root, "--key", public, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"edgekit 1 install {bundle} --to {root} --key {public} --json\n"


@posix
@pytest.mark.parametrize("broken", [False, True])
def test_a_terminal_is_told_how_far_the_installer_is(tmp_path: Path, key: Path, broken: bool) -> None:
    """Each step in one line that counts on, which also an error leaves whole."""
    bundle = packed(tmp_path / "bundle", key)
    if broken:
        lengthen_wheel(bundle)
    controller, terminal = os.openpty()
    command = ["sh", bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub"]
    variables = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(command, stderr=terminal, stdout=subprocess.DEVNULL, check=False, env=variables, timeout=60)
    os.close(terminal)
    shown = os.read(controller, 1 << 16).decode().replace("\r\n", "\n")
    os.close(controller)
    first, second, end = shown.split("\n")
    assert first == "\rinstall: checking the installer: 1 wheels, 0 MB: 1 of 1"
    if broken:
        assert second.endswith("is not the file that was signed")
    else:
        assert second == "\rinstall: unpacking the installer: 1 of 1"
    assert end == ""


def other_pythons() -> list[str]:
    """Interpreters beside this one: on the path, and those that lie where this one does."""
    names = [f"python3.{minor}" for minor in (11, 12, 13) if minor != sys.version_info.minor]
    around = [path for name in names for path in Path(sys.base_prefix).parent.glob(f"*/bin/{name}")]
    found = [*filter(None, map(shutil.which, names)), *map(str, around)]
    return [path for path in found if subprocess.run([path, "-c", "import venv"], check=False).returncode == 0]


@posix
def test_each_of_several_pythons_gets_its_own_wheels(tmp_path: Path, key: Path) -> None:
    """By the interpreters that are here: each imports what was made for it, and one without wheels is named."""
    files, name = content(1), "edgekit-1.0-py3-none-any.whl"
    files[f"wheels/{name}"] = wheel({"edgekit/__main__.py": "import thing; print(thing.MADE_FOR)\n"}, name)
    for short in ("cp311", "cp312"):
        name = f"thing-1.0-{short}-{short}-any.whl"
        files[f"wheels/3.{short[3:]}/{name}"] = wheel({"thing.py": f"MADE_FOR = {short!r}\n"}, name)
    files["install.sh"] = programs.texts()["install.sh"].encode()
    made(tmp_path / "bundle", key, 1, files, python=["3.11", "3.12"])
    for python in (sys.executable, *other_pythons()):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        words = (tmp_path / "bundle" / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
        done = script(*words, PYTHON=python)
        if version in ("3.11", "3.12"):
            assert (done.returncode, done.stdout) == (0, f"cp{version.replace('.', '')}\n")
        else:
            assert done.returncode == 1
            assert f"has wheels for Python 3.11, 3.12, and this is {version}" in done.stderr


@posix
@pytest.mark.parametrize(("slot", "verb"), [('"a"', "update"), ("null", "install")])
def test_the_script_updates_what_is_installed(tmp_path: Path, key: Path, slot: str, verb: str) -> None:
    bundle = packed(tmp_path / "bundle", key)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "state.json").write_text(f'{{"slot": {slot}}}')
    done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
    assert done.stdout.startswith(f"edgekit 1 {verb} ")


@posix
@pytest.mark.parametrize("state", ["[]", "null", "x", '{"slot":', "[" * 100_000])
def test_of_a_damaged_root_edgekit_says_what_is_wrong(tmp_path: Path, key: Path, state: str) -> None:
    bundle = packed(tmp_path / "bundle", key)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "state.json").write_text(state)
    done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("edgekit 1 update ")


@posix
def test_what_a_killed_script_left_is_removed_and_nothing_that_is_used(tmp_path: Path, key: Path) -> None:
    import fcntl

    bundle, place = packed(tmp_path / "bundle", key), tmp_path / "place"
    for name in ("left", "used"):
        (place / f".edgekit-install-{name}" / "env").mkdir(parents=True)
    handle = os.open(place / ".edgekit-install-used", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = script(bundle / "install.sh", "--to", place / "root", "--key", tmp_path / "key.pub")
    finally:
        os.close(handle)
    assert done.returncode == 0
    assert [path.name for path in place.iterdir()] == [".edgekit-install-used"]


@posix
def test_nothing_of_a_withdrawn_bundle_is_run(tmp_path: Path, key: Path) -> None:
    bundle = packed(tmp_path / "bundle", key)
    (tmp_path / "root").mkdir()
    for minimum, code in ((2, 1), (1, 0)):
        (tmp_path / "root" / "state.json").write_text(f'{{"slot":"a","minimum":{minimum}}}')
        done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
        assert (done.returncode, "was withdrawn from" in done.stderr) == (code, bool(code))
        assert bool(done.stdout) == (not code)


@posix
@pytest.mark.parametrize(("there", "code"), [(2, 1), (1, 0), (None, 0), ("x", 0)])
def test_nothing_of_an_older_bundle_than_the_one_in_use_is_run(
    tmp_path: Path, key: Path, there: object, code: int
) -> None:
    bundle = packed(tmp_path / "bundle", key)
    slot = tmp_path / "root" / "a"
    slot.mkdir(parents=True)
    (tmp_path / "root" / "state.json").write_text('{"slot":"a","minimum":1}')
    (slot / "bundle.json").write_text("{" if there == "x" else json.dumps({"version": there}))
    done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
    assert (done.returncode, "is older than what" in done.stderr) == (code, bool(code))
    assert bool(done.stdout) == (not code)


@posix
def test_a_launcher_is_found_through_links(tmp_path: Path) -> None:
    root = tmp_path / "a root"
    python = root / "a" / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$0"\n')
    python.chmod(0o755)
    (root / "state.json").write_text('{"slot":"a"}')
    launchers.write(root)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "one").symlink_to("../a root/run")
    (tmp_path / "two").symlink_to(tmp_path / "bin" / "one")
    done = script("-c", '"$0" edgekit', tmp_path / "two")
    assert (done.returncode, done.stdout.strip()) == (0, str(python.resolve()))


@posix
def test_a_pipe_of_the_name_of_what_was_left_is_not_waited_for(tmp_path: Path, key: Path) -> None:
    bundle, place = packed(tmp_path / "bundle", key), tmp_path / "place"
    place.mkdir()
    os.mkfifo(place / ".edgekit-install-x")
    done = script(bundle / "install.sh", "--to", place / "root", "--key", tmp_path / "key.pub")
    assert done.returncode == 0
    assert [path.name for path in place.iterdir()] == [".edgekit-install-x"]


def test_a_wheel_that_is_changed_after_it_was_taken_is_not_the_one_that_is_unpacked(tmp_path: Path, key: Path) -> None:
    bundle = packed(tmp_path / "bundle", key)
    files = trust.verified(bundle, tmp_path / "key.pub")["files"]
    taken = trust.take(bundle, [file for file in files if file["path"].endswith("any.whl")], tmp_path / "taken")
    for path in bundle.rglob("*.whl"):
        path.write_bytes(b"another")
    for path in taken:
        zipfile.ZipFile(path).close()


def flip_wheel(bundle: Path) -> None:
    path = bundle / "wheels" / "edgekit-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def edit_document(bundle: Path) -> None:
    path = bundle / "bundle.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))


def take_signature(bundle: Path) -> None:
    (bundle / "bundle.sig.json").unlink()


def spoil_signature(bundle: Path) -> None:
    (bundle / "bundle.sig.json").write_text('{"signature": 5}')


def take_wheel(bundle: Path) -> None:
    (bundle / "wheels" / "edgekit-1.0-py3-none-any.whl").unlink()


def link_wheel(bundle: Path) -> None:
    path = bundle / "wheels" / "edgekit-1.0-py3-none-any.whl"
    path.unlink()
    path.symlink_to("/dev/zero")


def lengthen_wheel(bundle: Path) -> None:
    with (bundle / "wheels" / "edgekit-1.0-py3-none-any.whl").open("ab") as stream:
        stream.truncate(1 << 40)  # a hole: read to its end, it would take an hour


def pipe_document(bundle: Path) -> None:
    (bundle / "bundle.json").unlink()
    os.mkfifo(bundle / "bundle.json")


def nest_signature(bundle: Path) -> None:
    (bundle / "bundle.sig.json").write_text("[" * 200_000)


@posix
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (link_wheel, "is a link"),
        (lengthen_wheel, "is not the file that was signed"),
        (pipe_document, "is no file"),
        (nest_signature, "is no signature of a bundle"),
        (flip_wheel, "is not the file that was signed"),
        (edit_document, "was not signed by"),
        (take_signature, "bundle.sig.json: No such file"),
        (spoil_signature, "is no signature of a bundle"),
        (take_wheel, "No such file"),
    ],
)
def test_nothing_of_a_changed_bundle_is_run(tmp_path: Path, key: Path, harm: object, said: str) -> None:
    bundle = packed(tmp_path / "bundle", key)
    assert callable(harm)
    harm(bundle)
    done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
    assert (done.returncode, done.stdout) == (1, "")
    *steps, last = done.stderr.splitlines()
    assert all(step.startswith("install: checking the installer") for step in steps)
    assert last.startswith("install: ")
    assert said in last
    assert not (tmp_path / "root").exists()


@posix
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"python": ["3.98", "3.99"]}, f"has wheels for Python 3.98, 3.99, and this is {PYTHON}"),
        ({"platform": "windows-arm64"}, "is for windows-arm64, and this machine is"),
        ({"python": ["3.99"]}, f"has wheels for Python 3.99, and this is {PYTHON}"),
    ],
)
def test_the_script_refuses_a_bundle_for_another_machine(
    tmp_path: Path, key: Path, more: dict[str, object], said: str
) -> None:
    bundle = packed(tmp_path / "bundle", key, **more)
    done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / "key.pub")
    assert done.returncode == 1
    assert said in done.stderr


@posix
def test_the_script_refuses_another_key(tmp_path: Path, key: Path) -> None:
    bundle = packed(tmp_path / "bundle", key)
    signature.generate(tmp_path / "other")
    (tmp_path / "text").write_text("-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n")
    for name, said in (("other.pub", "was not signed by"), ("text", "no public key"), ("none", "No such file")):
        done = script(bundle / "install.sh", "--to", tmp_path / "root", "--key", tmp_path / name)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.mark.parametrize("before", ["key", "key.crt", None])
def test_a_key_in_a_file_of_more_is_taken_by_neither(tmp_path: Path, key: Path, before: str | None) -> None:
    bundle = packed(tmp_path / "bundle", key)
    more = (tmp_path / before).read_bytes() if before else b"\n" * (1 << 16)
    (tmp_path / "both").write_bytes(more + (tmp_path / "key.pub").read_bytes())
    with pytest.raises(RefusedError, match="is no public key"):
        trust.verified(bundle, tmp_path / "both")
    with pytest.raises(EdgekitError):
        signature.verify((bundle / "bundle.json").read_bytes(), bundle / "bundle.sig.json", tmp_path / "both")


@posix
@pytest.mark.parametrize("name", ["c:d", "a\udcff", "a\n"])
def test_a_root_that_no_environment_can_be_in_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no folder to install into"):
        install(tmp_path / "none", tmp_path / name, tmp_path / "none.pub")
    with pytest.raises(RefusedError, match="no folder to install into"):
        environment.check_place(tmp_path / name)
    (tmp_path / "install.sh").write_text(programs.texts()["install.sh"])
    done = script(tmp_path / "install.sh", "--to", tmp_path / name, "--key", tmp_path / "none.pub")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no folder to install into" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["install.sh"]


@posix
def test_the_script_says_where_trust_comes_from(tmp_path: Path, key: Path) -> None:
    bundle = packed(tmp_path / "bundle", key)
    done = script(bundle / "install.sh", "--help")
    assert done.returncode == 0
    assert "Trust comes from the key" in done.stdout.replace("\n", " ")
    done = script(bundle / "install.sh", "--to", tmp_path / "root")
    assert done.returncode == 2
    assert "--key" in done.stderr


@posix
def test_the_script_says_that_it_needs_python(tmp_path: Path, key: Path) -> None:
    bundle = packed(tmp_path / "bundle", key)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("dirname", "sed", "tr"):
        (tools / name).symlink_to(str(shutil.which(name)))
    shell = str(shutil.which("sh"))
    done = subprocess.run(
        [shell, bundle / "install.sh"], capture_output=True, text=True, check=False, env={"PATH": str(tools)}
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Python 3.11 or later was found" in done.stderr


def test_a_signature_that_this_accepts_is_one_for_everybody(tmp_path: Path, key: Path) -> None:
    """Both verifiers agree on a bundle, and on each flipped bit of its signature's file that leaves it readable."""
    bundle = packed(tmp_path / "bundle", key)
    public = tmp_path / "key.pub"
    document, signed = (bundle / "bundle.json").read_bytes(), bundle / "bundle.sig.json"
    assert trust.verified(bundle, public)["version"] == 1
    original = signed.read_bytes()
    start = original.index(b'"signature":"') + len(b'"signature":"')
    for at in (start, start + 63, start + 64, start + 127):
        digit = b"0" if original[at : at + 1] != b"0" else b"1"
        signed.write_bytes(original[:at] + digit + original[at + 1 :])
        with pytest.raises(RefusedError):
            trust.verified(bundle, public)
        with pytest.raises(EdgekitError):
            signature.verify(document, signed, public)
