"""Bundles in a registry: pushed and pulled whole, by difference, interrupted, refused and lied to."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from bundles import make
from faults.installs import made
from material import contents, largest_file
from registry_server import BreakingWire, SmallRegistry, debians, debians_registry, digest

from edgekit import cli
from edgekit.artifacts.folders import locked, staging_of
from edgekit.errors import ArtifactError, BundleError, MissingDependencyError, RegistryError, UsageError
from edgekit.pack import keys
from edgekit.pack.install import install, update
from edgekit.pack.registry.image import reference
from edgekit.pack.registry.pull import Pulled, pull
from edgekit.pack.registry.push import push
from edgekit.pack.registry.remote import Remote
from edgekit.pack.verify import verify
from edgekit.progress import Progress

client = pytest.importorskip("oras.client")

PACKET = 1 << 16  # what of a broken answer is kept is a multiple of it
LARGE, OTHER = bytes(range(256)) * 4_000 + b"!", bytes(range(255, -1, -1)) * 2_000
FILES: Mapping[str, bytes] = {
    "README.md": b"# a card\n",
    "install.sh": b"#!/bin/sh\n",
    "model/edgekit.json": b"{}",
    "model/empty.txt": b"",
    "model/mmproj.gguf": OTHER,
    "model/weights.gguf": LARGE,
    "papers/NOTICE": b"the same",
    "papers/TERMS": b"the same",
}
LATER = FILES | {"model/mmproj.gguf": OTHER[:-1] + b"!", "papers/NOTICE": b"another"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in anywhere."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "keys" / "clinic.key")
    return tmp_path / "keys" / "clinic.key"


@pytest.fixture
def bundle(tmp_path: Path, key: Path) -> Path:
    make(tmp_path / "bundle", FILES, key)
    return tmp_path / "bundle"


@pytest.fixture
def later(tmp_path: Path, key: Path) -> Path:
    make(tmp_path / "later", LATER, key, version=4)
    return tmp_path / "later"


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    served = SmallRegistry()
    yield served
    served.close()


def at(registry: SmallRegistry, tag: str = "3", pauses: tuple[float, ...] = (0, 0, 0)) -> Remote:
    return Remote(reference(f"{registry.host}/models/m{tag if tag[0] == '@' else f':{tag}'}"), pauses=pauses)


def fetched(registry: SmallRegistry, folder: Path, tag: str = "3", **options: Any) -> Pulled:
    registry.log.clear()
    registry.got = 0
    return pull(at(registry, tag), folder, **options)


# ---------------------------------------------------------------- whole


def test_what_is_pulled_is_what_was_pushed(registry: SmallRegistry, bundle: Path, key: Path, tmp_path: Path) -> None:
    pushed = push(bundle, at(registry))
    pulled = fetched(registry, tmp_path / "b", key=keys.public_path(key))
    assert contents(tmp_path / "b") == contents(bundle)
    verify(tmp_path / "b", keys.public_path(key), progress=Progress())
    assert os.access(tmp_path / "b" / "install.sh", os.X_OK)
    assert pulled.digest == pushed.digest == digest(registry.manifests["3"])
    assert pulled.moved_bytes == pushed.moved_bytes == pushed.bytes
    pull(at(registry, f"@{pushed.digest}"), tmp_path / "by digest")
    assert contents(tmp_path / "by digest") == contents(bundle)
    assert [span for method, path, span in registry.log if path.endswith(digest(b""))] == []  # nothing to be asked for


def test_any_client_gets_the_same_folder(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    registry.blobs[digest(b"")] = b""
    client.OrasClient(insecure=True).pull(target=f"{registry.host}/models/m:3", outdir=str(tmp_path / "b"))
    assert contents(tmp_path / "b") == contents(bundle)


def test_what_is_there_is_not_pushed_again(registry: SmallRegistry, bundle: Path, later: Path) -> None:
    push(bundle, at(registry))
    first, registry.log[:] = registry.puts(), []
    assert first == len(set(contents(bundle).values()))
    assert push(bundle, at(registry)).moved_bytes == 0
    assert registry.puts() == 0
    moved = push(later, at(registry, "4"))
    assert registry.puts() == 4  # two documents, two files
    assert moved.moved_bytes == len(OTHER) + len(b"another") + sum(
        (later / name).stat().st_size for name in ("bundle.json", "bundle.sig.json")
    )
    assert set(registry.manifests) >= {"3", "4"}


# ---------------------------------------------------------------- by difference


def test_an_update_moves_only_what_changed(
    registry: SmallRegistry, bundle: Path, later: Path, key: Path, tmp_path: Path
) -> None:
    push(bundle, at(registry))
    push(later, at(registry, "4"))
    pulled = fetched(registry, tmp_path / "b", "4", have=[bundle])
    assert contents(tmp_path / "b") == contents(later)
    verify(tmp_path / "b", keys.public_path(key), progress=Progress())  # files of its own, not links to the other's
    assert registry.gets(LARGE) == []
    assert registry.gets(LATER["model/mmproj.gguf"]) == [None]
    assert len(OTHER) < pulled.moved_bytes < registry.got < len(OTHER) + 20_000


def test_a_difference_leaves_out_what_is_there(
    registry: SmallRegistry, bundle: Path, later: Path, key: Path, tmp_path: Path
) -> None:
    push(later, at(registry, "4"))
    fetched(registry, tmp_path / "d", "4", since=bundle)
    brought = {"bundle.json", "bundle.sig.json", "model/mmproj.gguf", "papers/NOTICE"}
    assert contents(tmp_path / "d") == {path: data for path, data in contents(later).items() if path in brought}
    present = frozenset(brought - {"bundle.json", "bundle.sig.json"})
    verify(tmp_path / "d", keys.public_path(key), present=present, progress=Progress())


def test_what_is_installed_is_updated_from_a_registry(registry: SmallRegistry, key: Path, tmp_path: Path) -> None:
    root, public = tmp_path / "root", keys.public_path(key)
    for version in (1, 2):
        made(tmp_path / f"{version}", key, version)
        push(tmp_path / f"{version}", at(registry, str(version)))
    with pytest.raises(UsageError, match="holds no bundle"):
        fetched(registry, tmp_path / "first", "1", have=[root])
    fetched(registry, tmp_path / "first", "1")
    install(tmp_path / "first", root, public)
    pulled = fetched(registry, tmp_path / "second", "2", since=root)
    old, new = contents(tmp_path / "1"), contents(tmp_path / "2")
    new_ones = {path: data for path, data in new.items() if data not in old.values()}
    assert contents(tmp_path / "second") == new_ones
    assert pulled.moved_bytes == sum(map(len, set(new_ones.values()))) < pulled.bytes
    assert update(tmp_path / "second", root).version == 2


@pytest.mark.parametrize("how", ["have", "since"])
def test_what_is_at_hand_and_damaged_is_fetched(
    registry: SmallRegistry, bundle: Path, later: Path, tmp_path: Path, how: str
) -> None:
    push(later, at(registry, "4"))
    (bundle / "model" / "weights.gguf").write_bytes(LARGE[:-1] + b"?")
    fetched(registry, tmp_path / "b", "4", **{"have": {"have": [bundle]}, "since": {"since": bundle}}[how])
    assert (tmp_path / "b" / "model" / "weights.gguf").read_bytes() == LARGE
    assert registry.gets(LARGE) == [None]


def test_what_is_no_bundle_is_not_at_hand(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        fetched(registry, tmp_path / "b", have=[tmp_path / "empty"])
    assert not (tmp_path / "b").exists()


# ---------------------------------------------------------------- interrupted


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(
    registry: SmallRegistry, bundle: Path, tmp_path: Path, ranges: bool
) -> None:
    push(bundle, at(registry))
    registry.ranges = ranges
    registry.cut[digest(LARGE)] = [4 * PACKET + 9, 0, 8 * PACKET] if ranges else [4 * PACKET + 9, 0, 12 * PACKET]
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert registry.gets(LARGE) == [None, *(f"bytes={n * PACKET}-" for n in (4, 4, 12))]


def test_another_run_goes_on_where_one_ended(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    registry.cut[digest(LARGE)] = [4 * PACKET, 0, 0, 0]
    (tmp_path / "b").mkdir()  # an empty folder is as good as none
    with pytest.raises(RegistryError) as broken:
        fetched(registry, tmp_path / "b")
    assert "goes on" in (broken.value.remedy or "")
    assert list((tmp_path / "b").iterdir()) == []
    registry.cut.clear()
    pulled = fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert registry.gets(LARGE) == [f"bytes={4 * PACKET}-"]
    assert registry.gets(OTHER) == []
    assert pulled.moved_bytes < len(LARGE) + len(OTHER) - 4 * PACKET
    assert not staging_of(tmp_path / "b").exists()


def test_a_tag_that_moved_meanwhile_keeps_what_was_fetched(
    registry: SmallRegistry, bundle: Path, later: Path, tmp_path: Path
) -> None:
    push(bundle, at(registry))
    registry.cut[digest(OTHER)] = [1000, 0, 0, 0]
    with pytest.raises(RegistryError):
        fetched(registry, tmp_path / "b")
    registry.cut[digest(LARGE)] = [4 * PACKET, 0, 0, 0]
    push(later, at(registry))
    with pytest.raises(RegistryError):
        fetched(registry, tmp_path / "b")
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(later)
    assert registry.gets(LARGE) == [f"bytes={4 * PACKET}-"]
    assert registry.gets(FILES["README.md"]) == []
    assert not staging_of(tmp_path / "b").exists()


def test_a_store_that_is_a_link_leads_nowhere(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    registry.cut[digest(LARGE)] = [4 * PACKET, 0, 0, 0]
    with pytest.raises(RegistryError):
        fetched(registry, tmp_path / "b")
    (store,) = (path for path in staging_of(tmp_path / "b").iterdir() if path.is_dir())
    shutil.rmtree(store)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "work").write_text("of years")
    store.symlink_to(tmp_path / "precious")
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["work"]


def test_what_an_earlier_run_left_damaged_is_fetched_again(
    registry: SmallRegistry, bundle: Path, tmp_path: Path
) -> None:
    push(bundle, at(registry))
    registry.cut[digest(LARGE)] = [4 * PACKET, 0, 0, 0]
    with pytest.raises(RegistryError):
        fetched(registry, tmp_path / "b")
    for path in staging_of(tmp_path / "b").rglob("*"):
        if path.is_file() and (data := path.read_bytes()):
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert registry.gets(LARGE) == [f"bytes={4 * PACKET}-", None]
    assert registry.gets(OTHER) == [None]


KILLED = """
import sys
from pathlib import Path
from edgekit.pack.registry.image import reference
from edgekit.pack.registry.pull import pull
from edgekit.pack.registry.remote import Remote
from edgekit.progress import Progress

class Told(Progress):
    def advance(self, units=1):
        print(units, flush=True)

pull(Remote(reference(sys.argv[1]), pauses=()), Path(sys.argv[2]), progress=Told())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
@pytest.mark.parametrize("steps", [*(pytest.param(steps, marks=pytest.mark.slow) for steps in (1, 6, 20)), 12])
def test_killed_at_any_moment_it_goes_on(registry: SmallRegistry, bundle: Path, tmp_path: Path, steps: int) -> None:
    push(bundle, at(registry))
    run = [sys.executable, "-c", KILLED, f"{registry.host}/models/m:3", str(tmp_path / "b")]
    with subprocess.Popen(run, stdout=subprocess.PIPE) as running:
        assert running.stdout
        for _ in range(steps):
            assert running.stdout.readline()
        running.send_signal(signal.SIGKILL)
    assert not (tmp_path / "b").exists()
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert not staging_of(tmp_path / "b").exists()


def test_a_busy_registry_is_asked_again(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    registry.statuses.extend([503, 429, 500])
    push(bundle, at(registry))
    registry.statuses.extend([503, 502])
    fetched(registry, tmp_path / "b")
    registry.statuses.extend([429] * 4)
    with pytest.raises(RegistryError, match=r"429.*not now"):
        fetched(registry, tmp_path / "c")


def test_what_broke_an_upload_is_sent_again(registry: SmallRegistry, bundle: Path) -> None:
    wire = BreakingWire(registry.host, [])
    try:
        for number in range(3):
            registry.statuses.extend([200] * number + [500])
            push(bundle, Remote(reference(f"{wire.host}/models/m:{number}"), pauses=(0, 0)))
    finally:
        wire.close()
    assert set(registry.blobs.values()) == set(contents(bundle).values())


# ---------------------------------------------------------------- lies


def swapped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("path", "lie"),
    [
        ("bundle.json", swapped),
        ("bundle.sig.json", lambda data: data + b"x"),
        ("model/weights.gguf", swapped),
        ("model/weights.gguf", lambda data: data + b"x"),
        ("model/weights.gguf", lambda data: data[:-1]),
        ("README.md", lambda data: b""),
    ],
)
def test_a_registry_that_lies_about_a_digest_is_found_out(
    registry: SmallRegistry, bundle: Path, tmp_path: Path, path: str, lie: Callable[[bytes], bytes]
) -> None:
    push(bundle, at(registry))
    data = (bundle / path).read_bytes()
    registry.sent[digest(data)] = lie(data)
    with pytest.raises(RegistryError, match=digest(data)[7:20]):
        fetched(registry, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    complete = [path for path in staging_of(tmp_path / "b").rglob("*") if len(path.name) == 64]
    assert {path.read_bytes() for path in complete} <= set(contents(bundle).values())
    registry.sent.clear()
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)


def test_a_manifest_that_is_another_is_found_out(
    registry: SmallRegistry, bundle: Path, later: Path, tmp_path: Path
) -> None:
    first = push(bundle, at(registry))
    other = push(later, at(registry, "4"))
    registry.sent["3"] = registry.manifests["4"]  # with the digest of the first in its headers
    with pytest.raises(RegistryError, match="says that it is"):
        fetched(registry, tmp_path / "b")
    registry.manifests[first.digest] = registry.manifests[other.digest]  # which it says is right
    with pytest.raises(RegistryError, match="says that it is"):
        pull(at(registry, f"@{first.digest}"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_documents_that_are_too_large_are_not_fetched(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    said = json.loads(registry.manifests["3"])
    said["config"]["size"] = 1 << 40
    registry.manifests["3"] = json.dumps(said).encode()
    with pytest.raises(RegistryError, match=r"bytes of application/vnd\.edgekit\.bundle"):
        fetched(registry, tmp_path / "b")
    registry.manifests["3"] = b" " * (5 << 20)
    with pytest.raises(RegistryError, match="its manifest is too large"):
        fetched(registry, tmp_path / "b")


def test_what_is_no_bundle_is_not_pulled(registry: SmallRegistry, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    client.OrasClient(insecure=True).push(target=f"{registry.host}/models/m:3", files=["a.txt"])
    with pytest.raises(RegistryError, match="holds no bundle of edgekit"):
        fetched(registry, tmp_path / "b")


def test_what_another_signed_is_not_fetched(
    registry: SmallRegistry, bundle: Path, key: Path, tmp_path: Path
) -> None:
    keys.generate(tmp_path / "stranger.key")
    make(tmp_path / "theirs", FILES, tmp_path / "stranger.key")
    push(tmp_path / "theirs", at(registry))
    with pytest.raises(BundleError, match=rf"^{registry.host}/models/m:3, bundle\.sig\.json: signed by another key"):
        fetched(registry, tmp_path / "b", key=keys.public_path(key))
    assert registry.gets(LARGE) == []
    assert not (tmp_path / "b").exists()
    assert not staging_of(tmp_path / "b").exists()


# ---------------------------------------------------------------- who asks


def log_in(home: Path, host: str, password: str) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    said = base64.b64encode(password.encode()).decode()
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": said}}}))


@pytest.mark.parametrize("token_uses", [None, 1, 3, 1000])
def test_a_registry_knows_who_logged_in(
    registry: SmallRegistry, bundle: Path, home: Path, tmp_path: Path, token_uses: int | None
) -> None:
    """With passwords, and with tokens that are for one thing and expire."""
    registry.password, registry.token_uses = "somebody:secret", token_uses
    for password in (None, "somebody:wrong"):
        if password:
            log_in(home, registry.host, password)
        with pytest.raises(RegistryError, match="does not know you") as refused:
            push(bundle, at(registry))
        assert f"docker login {registry.host}" in (refused.value.remedy or "")
    log_in(home, registry.host, registry.password)
    push(bundle, at(registry))
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)


def test_anybody_may_have_a_token(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    registry.token_uses = 5
    push(bundle, at(registry))
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)


@pytest.mark.parametrize("variable", ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"])
def test_logins_are_found_where_others_keep_them(
    registry: SmallRegistry, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    registry.password = "somebody:secret"
    log_in(tmp_path, registry.host, registry.password)
    written = tmp_path / ".docker" / "config.json"
    place = {"DOCKER_CONFIG": "d/config.json", "REGISTRY_AUTH_FILE": "d", "XDG_RUNTIME_DIR": "d/containers/auth.json"}
    (tmp_path / place[variable]).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(written, tmp_path / place[variable])
    monkeypatch.setenv(variable, str(tmp_path / "d"))
    push(bundle, at(registry))


def test_a_damaged_login_is_named(registry: SmallRegistry, bundle: Path, home: Path) -> None:
    (home / ".docker").mkdir()
    (home / ".docker" / "config.json").write_text("{")
    with pytest.raises(RegistryError, match="a login wrote"):
        push(bundle, at(registry))


# ---------------------------------------------------------------- refused


def test_what_is_not_there_is_named(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no manifests/3 \(404: UNKNOWN\)"):
        fetched(registry, tmp_path / "b")
    push(bundle, at(registry))
    del registry.blobs[digest(LARGE)]
    with pytest.raises(RegistryError, match=rf"no blobs/{digest(LARGE)[:20]}.*\(404: UNKNOWN\)"):
        fetched(registry, tmp_path / "b")
    registry.statuses.append(400)
    with pytest.raises(RegistryError, match=r"refused.*\(400\).*not now"):
        fetched(registry, tmp_path / "b")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oras.provider", None)
    with pytest.raises(MissingDependencyError) as missing:
        Remote(reference("a.b/c:1"))
    assert missing.value.remedy == "pip install 'edgekit[oras]'"


def test_what_is_there_is_not_replaced(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    before = contents(bundle)
    with pytest.raises(UsageError, match="is not empty"):
        fetched(registry, bundle)
    assert contents(bundle) == before
    with locked(staging_of(tmp_path / "b")), pytest.raises(ArtifactError, match="another command"):
        fetched(registry, tmp_path / "b")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_a_disk_that_becomes_full_is_named(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    with largest_file(600_000), pytest.raises(ArtifactError, match="no space left"):
        fetched(registry, tmp_path / "b")
    assert not (tmp_path / "b").exists()
    fetched(registry, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert len(registry.gets(LARGE)) == 1
    assert registry.gets(OTHER) == []


# ---------------------------------------------------------------- the commands


def test_the_commands_say_what_moved(
    registry: SmallRegistry, bundle: Path, later: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = f"{registry.host}/models/m:3", f"{registry.host}/models/m:4"
    assert cli.main(["push", str(bundle), image, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["digest"] == digest(registry.manifests["3"])
    assert cli.main(["push", str(later), other]) == 0
    assert "version 4" in capsys.readouterr().out
    assert cli.main(["pull", image, "--to", str(tmp_path / "b"), "--key", str(keys.public_path(key))]) == 0
    assert "signature checked" in capsys.readouterr().out
    arguments = ["pull", other, "--to", str(tmp_path / "d"), "--since", str(tmp_path / "b"), "--json"]
    assert cli.main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["bytes"]) == (4, sum(map(len, contents(later).values())))
    assert said["moved_bytes"] < len(OTHER) + 20_000
    assert cli.main(["push", str(bundle), "3", "--layout", str(tmp_path / "layout")]) == 0
    assert cli.main(["pull", "3", "--layout", str(tmp_path / "layout"), "--to", str(tmp_path / "c")]) == 0
    assert contents(tmp_path / "c") == contents(bundle)


@pytest.mark.parametrize(
    "arguments",
    [
        ["pull", "medgemma:3", "--to", "b"],
        ["pull", "3", "--layout", "l", "--plain-http", "--to", "b"],
        ["push", "b", "a.b/c"],
        ["push", "b", "a.b/c:3", "--layout", "l"],
    ],
)
def test_wrong_usage_reaches_nobody(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(arguments) == 2
    assert sorted(tmp_path.rglob("*")) == before


# ---------------------------------------------------------------- Debian's registry


needs_debians = pytest.mark.skipif(
    not debians(), reason="needs docker-registry (apt install docker-registry), or $DOCKER_REGISTRY"
)


@needs_debians
def test_debians_registry_serves_bundles(bundle: Path, later: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with debians_registry(tmp_path / "registry") as host:
        images = [Remote(reference(f"{host}/models/medgemma:{tag}"), pauses=(0, 0)) for tag in ("3", "4")]
        first = push(bundle, images[0])
        second = push(later, images[1])
        assert first.moved_bytes == first.bytes
        assert len(OTHER) < second.moved_bytes < len(OTHER) + 20_000
        pull(images[0], tmp_path / "a", key=keys.public_path(key))
        assert contents(tmp_path / "a") == contents(bundle)
        # By difference, on a wire that breaks; then by digest, in two runs.
        wire = BreakingWire(host, [300_000, 150_000])
        pulled = pull(
            Remote(reference(f"{wire.host}/models/medgemma:4"), pauses=(0, 0)), tmp_path / "b", have=[tmp_path / "a"]
        )
        assert wire.after == []
        assert contents(tmp_path / "b") == contents(later)
        assert pulled.moved_bytes == second.moved_bytes
        wire.after += [800_000]
        one = Remote(reference(f"{wire.host}/models/medgemma@{first.digest}"), pauses=())
        with pytest.raises(RegistryError, match=r"connection to .* failed|ended after"):
            pull(one, tmp_path / "c")
        rest = pull(one, tmp_path / "c")
        assert contents(tmp_path / "c") == contents(bundle)
        assert rest.moved_bytes < first.bytes - 500_000
        client.OrasClient(insecure=True).pull(target=f"{host}/models/medgemma:3", outdir=str(tmp_path / "theirs"))
        assert contents(tmp_path / "theirs") == contents(bundle)
        wire.close()


@needs_debians
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_debians_registry_with_a_killed_pull_and_a_damaged_store(bundle: Path, tmp_path: Path) -> None:
    """What came before SIGKILL is not fetched again; a blob that is another on its disk is found out."""
    (tmp_path / "registry").mkdir()
    with debians_registry(tmp_path / "registry") as host:
        image = Remote(reference(f"{host}/models/m:3"), pauses=())
        whole = push(bundle, image).bytes
        run = [sys.executable, "-c", KILLED, f"{host}/models/m:3", str(tmp_path / "b")]
        with subprocess.Popen(run, stdout=subprocess.PIPE) as running:
            assert running.stdout
            for _ in range(12):
                assert running.stdout.readline()
            running.send_signal(signal.SIGKILL)
        assert not (tmp_path / "b").exists()
        assert pull(image, tmp_path / "b").moved_bytes < whole
        assert contents(tmp_path / "b") == contents(bundle)
        assert not staging_of(tmp_path / "b").exists()
        (stored,) = (path for path in (tmp_path / "registry").rglob("data") if path.read_bytes() == LARGE)
        stored.write_bytes(LARGE[:-1] + b"?")
        with pytest.raises(RegistryError, match="other bytes came") as refused:
            pull(image, tmp_path / "c")
        assert digest(LARGE)[:20] in refused.value.message
        assert not (tmp_path / "c").exists()
        stored.write_bytes(LARGE)
        pull(image, tmp_path / "c")
        assert contents(tmp_path / "c") == contents(bundle)
