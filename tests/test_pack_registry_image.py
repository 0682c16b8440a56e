"""A bundle as an OCI image: its name, its manifest, and a layout of such images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make
from material import contents
from registry_server import SmallRegistry

from edgekit.errors import ArtifactError, BundleError, RegistryError, UsageError
from edgekit.pack import document, keys
from edgekit.pack.registry.image import digest_of, manifest_of, read_manifest, reference
from edgekit.pack.registry.layout import Layout
from edgekit.pack.registry.pull import pull
from edgekit.pack.registry.push import push
from edgekit.pack.verify import verify
from edgekit.progress import Progress

layouts = pytest.importorskip("oras.layout.layout")
schemas = pytest.importorskip("oras.schemas")
providers = pytest.importorskip("oras.provider")
jsonschema = pytest.importorskip("jsonschema")

LARGE = bytes(range(256)) * 4000
FILES = {
    "README.md": b"# a card\n",
    "install.sh": b"#!/bin/sh\n",
    "model/edgekit.json": b"{}",
    "model/empty.txt": b"",
    "model/weights.gguf": LARGE,
    "papers/NOTICE": b"the same",
    "papers/TERMS": b"the same",
}
HOSTS = ["localhost", "localhost:5000", "registry.example.org", "127.0.0.1:5000", "a-b.example:80", "[::1]:5000"]
NAMES = ["medgemma", "models/medgemma", "a/b/c", "a__b/c-d.e", "0"]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "keys" / "clinic.key")
    return tmp_path / "keys" / "clinic.key"


@pytest.fixture
def bundle(tmp_path: Path, key: Path) -> Path:
    make(tmp_path / "bundle", FILES, key)
    return tmp_path / "bundle"


def manifest(bundle: Path) -> bytes:
    found, data = document.read(bundle)
    return manifest_of(found, data, (bundle / "bundle.sig.json").read_bytes())


# ---------------------------------------------------------------- its name


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_read_as_it_is_written(host: str, name: str) -> None:
    for end in (":7", ":v1.0_a-b", ":Latest", f"@sha256:{'ab' * 32}"):
        found = reference(f"{host}/{name}{end}")
        assert (found.registry, found.repository, str(found)) == (host, name, f"{host}/{name}{end}")
        if "." in host:  # and as the library reads it
            theirs = providers.oras.container.Container(str(found))
            assert theirs.manifest_url() == f"{host}/v2/{name}/manifests/{end[1:]}"


def test_a_tag_beside_a_digest_says_nothing() -> None:
    assert str(reference(f"a.b/c:7@sha256:{'ab' * 32}")) == f"a.b/c@sha256:{'ab' * 32}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "medgemma",
        "medgemma:7",
        "models/medgemma:7",
        "a.b/c",
        "a.b/:7",
        "/c:7",
        "a.b/C:7",
        "a.b/c:",
        "a.b/c:-7",
        f"a.b/c:{'7' * 129}",
        "a.b/../c:7",
        "a.b/c//d:7",
        "a.b/c:7 ",
        "a.b/c:7\n",
        "http://a.b/c:7",
        "user:secret@a.b/c:7",
        "a.b:port/c:7",
        "a.b/c@sha256:ab",
        f"a.b/c@sha512:{'ab' * 64}",
        "a.b/c@",
        f"a.b/{'c' * 255}:7",
        "a.b/c?d:7",
        "a.b/ç:7",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no image"):
        reference(text)


@pytest.mark.parametrize("host", HOSTS)
def test_who_is_on_this_machine_needs_no_tls(host: str) -> None:
    here = host.startswith(("localhost", "127.", "[::1]"))
    assert reference(f"{host}/a:1").loopback is here
    assert not reference("localhost.example.org/a:1").loopback
    assert not reference("127.0.0.1.example.org/a:1").loopback


# ---------------------------------------------------------------- its manifest


def test_a_manifest_names_every_file_by_its_path(bundle: Path) -> None:
    found = json.loads(manifest(bundle))
    jsonschema.validate(found, schemas.manifest)
    assert found["config"]["digest"] == f"sha256:{hashlib.sha256((bundle / 'bundle.json').read_bytes()).hexdigest()}"
    titled = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in found["layers"]}
    assert set(titled) == set(contents(bundle))
    for path, data in contents(bundle).items():
        assert titled[path]["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert titled[path]["size"] == len(data)


def test_the_same_bundle_elsewhere_is_the_same_image(bundle: Path, key: Path, tmp_path: Path) -> None:
    make(tmp_path / "another place" / "b", dict(reversed(FILES.items())), key)
    assert manifest(tmp_path / "another place" / "b") == manifest(bundle)


CONFIG = "application/vnd.edgekit.bundle.v1+json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m | {"mediaType": "application/vnd.oci.image.index.v1+json"}, "holds no bundle but"),
        (lambda m: m | {"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}, "holds no bundle but"),
        (lambda m: m | {"config": m["config"] | {"mediaType": "application/vnd.oci.image.config.v1+json"}}, "edgekit"),
        (lambda m: m | {"config": m["config"] | {"digest": "sha256:../../etc/passwd"}}, "config.digest"),
        (lambda m: m | {"config": m["config"] | {"size": -1}}, "config.size"),
        (lambda m: m | {"config": m["config"] | {"size": "7"}}, "config.size"),
        (lambda m: m | {"layers": m["layers"][2:]}, "0 layers of signatures"),
        (lambda m: m | {"layers": [*m["layers"], m["layers"][1]]}, "2 layers of signatures"),
        (lambda m: {k: v for k, v in m.items() if k != "config"}, "is missing"),
        (lambda m: m | {"layers": {}}, "layers"),
        (lambda m: [m], "here"),
        (lambda m: None, "here"),
    ],
)
def test_what_is_no_manifest_of_a_bundle_is_refused(
    bundle: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    found = json.loads(manifest(bundle))
    read_manifest(json.dumps(found | {"annotations": {"of": "others"}, "subject": None}).encode(), "here")
    with pytest.raises(RegistryError, match=f"here.*{said}|{said}"):
        read_manifest(json.dumps(change(found)).encode(), "here")


# ---------------------------------------------------------------- layouts


def stored(layout: Path) -> dict[str, bytes]:
    return contents(layout / "blobs" / "sha256")


def test_what_is_pulled_from_a_layout_is_what_was_pushed(bundle: Path, key: Path, tmp_path: Path) -> None:
    pushed = push(bundle, Layout(tmp_path / "layout", "3"))
    pulled = pull(Layout(tmp_path / "layout", "3"), tmp_path / "new" / "b", key=keys.public_path(key))
    assert contents(tmp_path / "new" / "b") == contents(bundle)
    assert pulled.digest == pushed.digest == digest_of(manifest(bundle))
    assert pulled.bundle == pushed.bundle
    assert pushed.moved_bytes == pushed.bytes == sum(map(len, set(contents(bundle).values())))
    verify(tmp_path / "new" / "b", keys.public_path(key), progress=Progress())
    assert os.access(tmp_path / "new" / "b" / "install.sh", os.X_OK)
    assert not os.access(tmp_path / "new" / "b" / "README.md", os.X_OK)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "b"]  # nothing that was on the way


def test_a_layout_is_one_to_others(bundle: Path, tmp_path: Path) -> None:
    """The library's own reader of layouts takes it to a registry, where it is the same image."""
    push(bundle, Layout(tmp_path / "layout", "3"))
    for name, data in stored(tmp_path / "layout").items():
        assert hashlib.sha256(data).hexdigest() == name
    theirs = layouts.NewLayout(str(tmp_path / "layout"))
    registry = SmallRegistry()
    try:
        provider = providers.Registry(insecure=True)
        theirs.push_to_registry(provider, f"{registry.host}/m:3", tag="3")
        assert registry.manifests["3"] == manifest(bundle)
        everything = {f"sha256:{name}" for name in stored(tmp_path / "layout")}
        assert set(registry.blobs) == everything - set(registry.manifests)
    finally:
        registry.close()


def test_versions_of_a_bundle_share_what_they_have_in_common(bundle: Path, key: Path, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    push(bundle, Layout(place, "3"))
    before = stored(place)
    make(tmp_path / "later", FILES | {"model/edgekit.json": b'{"a": 1}'}, key, version=4)
    moved = push(tmp_path / "later", Layout(place, "4"))
    new = {name: data for name, data in stored(place).items() if name not in before}
    documents = ("bundle.json", "bundle.sig.json", "model/edgekit.json")
    assert sorted(new.values()) == sorted(
        [*(contents(tmp_path / "later")[name] for name in documents), manifest(tmp_path / "later")]
    )
    assert moved.moved_bytes < len(LARGE) < moved.bytes
    for tag, folder in (("3", bundle), ("4", tmp_path / "later")):
        pull(Layout(place, tag), tmp_path / f"from {tag}")
        assert contents(tmp_path / f"from {tag}") == contents(folder)


def test_a_tag_moves_and_what_others_tagged_stays(bundle: Path, key: Path, tmp_path: Path) -> None:
    place = tmp_path / "layout"
    push(bundle, Layout(place, "now"))
    index = json.loads((place / "index.json").read_text())
    theirs = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{'cd' * 32}",
        "size": 3,
        "platform": {"architecture": "arm64", "os": "linux"},
    }
    (place / "index.json").write_text(json.dumps(index | {"manifests": [theirs, *index["manifests"]]}))
    make(tmp_path / "later", FILES, key, version=4)
    push(tmp_path / "later", Layout(place, "now"))
    entries = json.loads((place / "index.json").read_text())["manifests"]
    assert entries[0] == theirs
    assert [entry["digest"] for entry in entries[1:]] == [digest_of(manifest(tmp_path / "later"))]


def test_pushing_again_moves_nothing(bundle: Path, tmp_path: Path) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    before = contents(tmp_path / "layout")
    assert push(bundle, Layout(tmp_path / "layout", "3")).moved_bytes == 0
    assert contents(tmp_path / "layout") == before


@pytest.mark.parametrize("path", ["bundle.json", "bundle.sig.json", "model/weights.gguf", "README.md", "MANIFEST"])
def test_a_damaged_blob_is_seen_and_nothing_is_left(bundle: Path, tmp_path: Path, path: str) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    data = manifest(bundle) if path == "MANIFEST" else (bundle / path).read_bytes()
    blob = tmp_path / "layout" / "blobs" / "sha256" / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RegistryError, match=r"digest|not the one"):
        pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    blob.write_bytes(data)  # whoever mends it has the rest already
    pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)
    assert not (tmp_path / ".b.partial").exists()


def test_a_blob_that_is_missing_or_cut_off_is_named(bundle: Path, tmp_path: Path) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    blob = tmp_path / "layout" / "blobs" / "sha256" / hashlib.sha256(LARGE).hexdigest()
    blob.write_bytes(LARGE[:-1])
    with pytest.raises(RegistryError, match=blob.name):
        pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")
    blob.unlink()
    with pytest.raises(RegistryError, match=blob.name):
        pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")
    assert push(bundle, Layout(tmp_path / "layout", "3")).moved_bytes == len(LARGE)  # and pushing mends it


def test_an_unknown_tag_names_those_that_are_there(bundle: Path, tmp_path: Path) -> None:
    push(bundle, Layout(tmp_path / "layout", "stable"))
    with pytest.raises(UsageError, match="did you mean stable"):
        pull(Layout(tmp_path / "layout", "stabel"), tmp_path / "b")
    with pytest.raises(RegistryError, match="no OCI image layout"):
        pull(Layout(bundle, "stable"), tmp_path / "b")
    with pytest.raises(UsageError, match="is no tag"):
        Layout(tmp_path / "layout", "a/b:7")
    assert not (tmp_path / "b").exists()


def test_a_folder_of_others_becomes_no_layout(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a").write_text("b")
    with pytest.raises(UsageError, match="holds something"):
        push(bundle, Layout(tmp_path / "theirs", "3"))
    assert contents(tmp_path / "theirs") == {"a": b"b"}


@pytest.mark.parametrize("index", ["{}", "[]", '{"manifests": [{"digest": "sha256:../../x"}]}', "{" * 100, ""])
def test_an_index_of_nonsense_is_refused(bundle: Path, tmp_path: Path, index: str) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    (tmp_path / "layout" / "index.json").write_text(index)
    with pytest.raises(RegistryError, match=r"index\.json"):
        pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")


# ---------------------------------------------------------------- what is pushed


def test_what_was_changed_since_it_was_signed_is_not_pushed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "model" / "weights.gguf").write_bytes(LARGE[:-1] + b"x")
    with pytest.raises(BundleError, match=r"weights\.gguf"):
        push(bundle, Layout(tmp_path / "layout", "3"))
    assert not (tmp_path / "layout").exists()


def test_what_nobody_signed_is_not_pushed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "bundle.sig.json").unlink()
    with pytest.raises(BundleError, match="nobody signed"):
        push(bundle, Layout(tmp_path / "layout", "3"))


def test_a_difference_is_pushed_to_where_the_rest_is(bundle: Path, key: Path, tmp_path: Path) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    make(tmp_path / "later", FILES | {"README.md": b"# another card\n"}, key, version=4)
    whole = contents(tmp_path / "later")
    (tmp_path / "later" / "model" / "weights.gguf").unlink()
    with pytest.raises(BundleError, match=r"weights\.gguf.* is missing"):
        push(tmp_path / "later", Layout(tmp_path / "elsewhere", "4"))
    push(tmp_path / "later", Layout(tmp_path / "layout", "4"))
    pull(Layout(tmp_path / "layout", "4"), tmp_path / "b")
    assert contents(tmp_path / "b") == whole


def test_a_full_disk_leaves_what_can_be_gone_on_with(bundle: Path, tmp_path: Path, monkeypatch: Any) -> None:
    push(bundle, Layout(tmp_path / "layout", "3"))
    usage = __import__("shutil").disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage._replace(free=len(LARGE) - 1))
    with pytest.raises(ArtifactError, match="are free"):
        pull(Layout(tmp_path / "layout", "3"), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / ".b.partial").exists()
