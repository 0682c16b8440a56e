"""Models of the hub, from a small server that plays it: success, refusals, broken connections and wrong files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from material import read_json

from edgekit import cli
from edgekit.artifacts import manifest as manifests
from edgekit.checkpoints import hub
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.checkpoints.sources import source_folder
from edgekit.commands.export import accept_terms
from edgekit.errors import HubError, UsageError
from edgekit.prove import publish as artifact

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.file_download")
pytest.importorskip("huggingface_hub.constants")

REPOSITORY, COMMIT = "google/medgemma-small", "0123456789abcdef0123456789abcdef01234567"
PIECE = 50_000  # the library keeps whole pieces of a broken download
LARGE = ("model.safetensors", "tokenizer.model", "tokenizer.json")  # what the hub keeps in LFS


class FakeHub:
    """A hub with one model.

    Attributes:
        files: its files' contents; `sent` has what is sent in their place.
        cut: file -> how many bytes may be sent before the connection breaks, once for each entry.
        refuse: path prefix -> status and error code of the answer.
        log: method, path and range of each request.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.files |= {
            "README.md": b"# a card",
            "pytorch_model.bin": b"pickle",
            "modeling.py": b"code",
            "a/b.json": b"{}",
        }
        self.sent: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.log: list[tuple[str, str, str | None]] = []
        self.tokens: list[str | None] = []
        self.gated: Any = False
        self.card: dict[str, Any] = {"license": "mit"}
        self.commit = COMMIT
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def blob(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git}
        if name in LARGE:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return entry

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        self.log.append((request.command, path, request.headers.get("Range")))
        self.tokens.append(request.headers.get("Authorization"))
        for prefix, (status, code) in self.refuse.items():
            if path.startswith(prefix):
                return self.send(request, status, b"no", {"X-Error-Code": code} if code else {})
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            if path.rsplit("/", 1)[1] not in ("main", "v1", COMMIT):
                return self.send(request, 404, b"no", {"X-Error-Code": "RevisionNotFound"})
            described = {
                "id": REPOSITORY,
                "sha": self.commit,
                "gated": self.gated,
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "cardData": self.card,
                "siblings": [self.blob(name) for name in self.files],
            }
            return self.send(request, 200, json.dumps(described).encode(), {"Content-Type": "application/json"})
        prefix = f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path.startswith(prefix) and (name := path.removeprefix(prefix)) in self.files:
            return self.redirect(request, name) if name in LARGE else self.send_file(request, name)
        if path.startswith("/cdn/"):
            return self.send_file(request, path.removeprefix("/cdn/"))
        return self.send(request, 404, b"no", {"X-Error-Code": "RepoNotFound"})

    def redirect(self, request: BaseHTTPRequestHandler, name: str) -> None:
        """Large files lie on another host."""
        entry = self.blob(name)["lfs"]
        headers = {
            "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/{name}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{entry["sha256"]}"',
            "X-Linked-Size": str(entry["size"]),
        }
        self.send(request, 302, b"", headers)

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        entry, data = self.blob(name), self.sent.get(name, self.files[name])
        etag = entry["lfs"]["sha256"] if name in LARGE else entry["blobId"]
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(request, 206 if start else 200, data[start:], headers, self.cut.get(name))

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        cut: list[int] | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut:
            request.wfile.write(data[: cut.pop(0)])
            request.close_connection = True
            return
        request.wfile.write(data)

    def gets(self, name: str) -> list[str | None]:
        """The ranges that were asked of a file, None for the whole."""
        places = (f"/cdn/{name}", f"/{REPOSITORY}/resolve/{COMMIT}/{name}")[: 1 if name in LARGE else 2]
        return [span for method, path, span in self.log if method == "GET" and path in places]


@pytest.fixture
def fake(medgemma_source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the reference model, its weights cut short; this process may reach it, and waits for nothing."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    served = FakeHub(medgemma_source)
    served.files["model.safetensors"] = bytes(range(250)) * 1200
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(
    fake: FakeHub, cache: Path, revision: str | None = None, accept: Callable[..., bool] = lambda _: True
) -> Path:
    return hub.fetch(REPOSITORY, revision, accept=accept, endpoint=fake.url, cache=cache)


# ---------------------------------------------------------------- what is downloaded


def test_a_model_is_what_its_folder_is(fake: FakeHub, cache: Path, medgemma_source: Path, tmp_path: Path) -> None:
    fake.files["model.safetensors"] = (medgemma_source / "model.safetensors").read_bytes()
    folder = fetch(fake, cache)
    original = open_checkpoint(medgemma_source)
    assert open_checkpoint(folder).sha256 == original.sha256
    assert {path.name for path in folder.iterdir()} == set(original.files)  # no pickle, no code, no card
    assert not [path for _, path, _ in fake.log if path.endswith((".bin", ".py", ".md"))]
    # what is in the cache, links to blobs as they are, exports like the folder itself, with the commit written down
    made = artifact.export(folder, tmp_path / "a", levels=["Q8_0"], recipe_name="reference-medgemma", prove=False)
    assert made.manifest.source.revision == f"{REPOSITORY}@{COMMIT}"
    assert manifests.read(tmp_path / "a").source == made.manifest.source
    plain = artifact.export(medgemma_source, tmp_path / "b", levels=["Q8_0"], prove=False)
    assert plain.manifest.source.revision is None
    assert {part.id for part in made.manifest.parts} == {part.id for part in plain.manifest.parts}


@pytest.mark.parametrize("revision", [None, "main", "v1", COMMIT])
def test_a_revision_becomes_its_commit(fake: FakeHub, cache: Path, revision: str | None) -> None:
    folder = fetch(fake, cache, revision)
    assert folder.name == COMMIT
    assert hub.cached(REPOSITORY, revision, cache=cache) == folder
    assert hub.cached(REPOSITORY, COMMIT, cache=cache) == folder


def test_what_is_there_is_not_downloaded_again(fake: FakeHub, cache: Path) -> None:
    fetch(fake, cache)
    fake.log.clear()
    fetch(fake, cache)
    assert not [path for method, path, _ in fake.log if method == "GET" and not path.startswith("/api/")]


def test_the_users_token_goes_to_the_hub(fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(fake, cache)
    sent = {path.split("/")[1]: token for (_, path, _), token in zip(fake.log, fake.tokens, strict=True)}
    assert sent == {"api": "Bearer hf_secret", "google": "Bearer hf_secret", "cdn": None}  # and to nobody else


# ---------------------------------------------------------------- broken connections


def test_a_broken_connection_goes_on_in_the_same_run(fake: FakeHub, cache: Path) -> None:
    fake.cut = {"model.safetensors": [100_000, 50_000]}
    folder = fetch(fake, cache)
    assert fake.gets("model.safetensors") == [None, "bytes=100000-", "bytes=150000-"]
    assert (folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]


def test_a_broken_connection_goes_on_in_the_next_run(fake: FakeHub, cache: Path) -> None:
    fake.cut = {"model.safetensors": [100_000, *[0] * 5]}  # the library tries five times more
    with pytest.raises(HubError, match=r"connection failed(.|\n)*run the same command again"):
        fetch(fake, cache)
    with pytest.raises(HubError, match=r"local cache(.|\n)*--download"):
        hub.cached(REPOSITORY, cache=cache)
    fake.log.clear()
    folder = fetch(fake, cache)
    assert fake.gets("model.safetensors") == ["bytes=100000-"]
    assert fake.gets("config.json") == []
    assert (folder / "model.safetensors").read_bytes() == fake.files["model.safetensors"]
    assert not [path for path in cache.rglob("*") if path.suffix == ".edgekit"]


def test_no_hub_at_all(fake: FakeHub, cache: Path) -> None:
    fake.server.shutdown()
    fake.server.server_close()
    with pytest.raises(HubError, match=r"connection failed(.|\n)*run the same command again"):
        fetch(fake, cache)


# ---------------------------------------------------------------- wrong files


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_hash_is_removed(fake: FakeHub, cache: Path, name: str) -> None:
    content = fake.files[name]
    fake.sent = {name: content[:-1] + bytes([content[-1] ^ 1])}
    with pytest.raises(HubError, match=rf"{name}: .* has the hash [0-9a-f]+\.\.\., the hub names"):
        fetch(fake, cache)
    assert not [path for path in cache.rglob("*") if path.is_file() and path.read_bytes() == fake.sent[name]]
    with pytest.raises(HubError, match="local cache"):
        hub.cached(REPOSITORY, cache=cache)
    fake.sent = {}
    assert (fetch(fake, cache) / name).read_bytes() == content


def test_a_file_that_was_damaged_in_the_cache(fake: FakeHub, cache: Path) -> None:
    folder = fetch(fake, cache)
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    with pytest.raises(HubError, match=r"model\.safetensors: .* it was removed"):
        fetch(fake, cache)
    fetch(fake, cache)
    assert blob.read_bytes() == fake.files["model.safetensors"]


def test_a_part_that_is_longer_than_the_file(fake: FakeHub, cache: Path) -> None:
    """What another version of the file left, or anything else."""
    name = f"{fake.blob('model.safetensors')['lfs']['sha256']}.edgekit"
    blobs = cache / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / name).write_bytes(bytes(len(fake.files["model.safetensors"]) + 1))
    assert (fetch(fake, cache) / "model.safetensors").read_bytes() == fake.files["model.safetensors"]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter, not a model"),
        (["config.json", "model.safetensors", "adapter_config.json"], "a model and an adapter beside it"),
        (["pytorch_model.bin"], "no model.safetensors"),
        ([], "no model.safetensors"),
    ],
)
def test_a_repository_without_a_model(fake: FakeHub, cache: Path, names: list[str], match: str) -> None:
    fake.files = dict.fromkeys(names, b"x")
    with pytest.raises(HubError, match=match):
        fetch(fake, cache)
    assert not cache.exists()


def test_a_shard_missing_from_the_cache(fake: FakeHub, cache: Path) -> None:
    folder = fetch(fake, cache)
    (folder / "model.safetensors").unlink()
    with pytest.raises(HubError, match=r"model\.safetensors is missing(.|\n)*--download"):
        hub.cached(REPOSITORY, cache=cache)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("where", "status", "code", "match"),
    [
        ("/api", 401, "RepoNotFound", r"\(401\)(.|\n)*HF_TOKEN"),
        ("/google", 401, "GatedRepo", r"\(401\)(.|\n)*HF_TOKEN"),
        (
            "/google",
            403,
            "GatedRepo",
            r"\(403\)(.|\n)*accept the terms at https://huggingface\.co/google/medgemma-small",
        ),
        ("/google", 403, "", r"\(403\)"),
        ("/api", 404, "RepoNotFound", r"no such model"),
        ("/api", 500, "", r"answered 500(.|\n)*again"),
    ],
)
def test_a_refusal_says_what_to_do(fake: FakeHub, cache: Path, where: str, status: int, code: str, match: str) -> None:
    fake.refuse = {where: (status, code)}
    with pytest.raises(HubError, match=match):
        fetch(fake, cache)


def test_an_unknown_revision(fake: FakeHub, cache: Path) -> None:
    with pytest.raises(HubError, match="no such revision"):
        fetch(fake, cache, "v2")


def test_a_commit_that_is_none(fake: FakeHub, cache: Path) -> None:
    fake.commit = "../../../../evil"
    with pytest.raises(HubError, match="commit"):
        fetch(fake, cache)
    assert not cache.exists()


@pytest.mark.parametrize("revision", ["../x", "a b", "-x", "a/../../b"])
def test_a_revision_that_is_none(fake: FakeHub, cache: Path, revision: str) -> None:
    with pytest.raises(HubError, match="revision"):
        fetch(fake, cache, revision)
    assert fake.log == []


# ---------------------------------------------------------------- terms


@pytest.mark.parametrize(
    ("gated", "card", "name", "url"),
    [
        (
            "auto",
            {"license": "other", "license_name": "health-ai-developer-foundations", "license_link": "https://x.org/"},
            "Health AI Developer Foundations Terms of Use",
            "https://developers.google.com/health-ai-developer-foundations/terms",
        ),
        (False, {"license": "gemma"}, "Gemma Terms of Use", "https://ai.google.dev/gemma/terms"),
        ("manual", {"license_name": "mine\x1b[2J", "license_link": "https://x.org/"}, "mine[2J", "https://x.org/"),
        ("manual", {"license_link": "javascript:x"}, "terms on the model's page", None),
    ],
)
def test_terms_are_shown_before_anything_is_downloaded(
    fake: FakeHub, cache: Path, gated: Any, card: dict[str, Any], name: str, url: str | None
) -> None:
    fake.gated, fake.card = gated, card
    shown: list[hub.Terms] = []
    with pytest.raises(HubError, match=r"terms were not accepted(.|\n)*--accept-terms"):
        fetch(fake, cache, accept=lambda terms: bool(shown.append(terms)))
    assert shown == [hub.Terms(REPOSITORY, name, url or f"{fake.url}/{REPOSITORY}")]
    assert not [path for _, path, _ in fake.log if not path.startswith("/api/")]
    assert not cache.exists()
    fetch(fake, cache)


def test_a_model_without_terms_asks_nothing(fake: FakeHub, cache: Path) -> None:
    fetch(fake, cache, accept=lambda terms: pytest.fail(str(terms)))


@pytest.mark.parametrize(
    ("option", "terminal", "said", "accepted"),
    [(True, False, "", True), (False, False, "y\n", False), (False, True, "Yes\n", True), (False, True, "\n", False)],
)
def test_terms_are_accepted_by_option_or_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: bool,
    terminal: bool,
    said: str,
    accepted: bool,
) -> None:
    answer = io.StringIO(said)
    monkeypatch.setattr(answer, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdin", answer)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert accept_terms(option, hub.Terms("a/b", "Some Terms", "https://x.org")) is accepted
    assert "Some Terms: https://x.org" in capsys.readouterr().err


# ---------------------------------------------------------------- offline


def test_offline_mode_is_obeyed(fake: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"HF_HUB_OFFLINE is set(.|\n)*unset"):
        fetch(fake, cache)
    with pytest.raises(HubError, match=r"local cache(.|\n)*--download"):
        hub.cached(REPOSITORY, cache=cache)
    assert fake.log == []


def test_the_cache_answers_without_the_hub(fake: FakeHub, cache: Path) -> None:
    folder = fetch(fake, cache)
    fake.log.clear()
    assert hub.cached(REPOSITORY, cache=cache) == folder
    assert fake.log == []


@pytest.mark.parametrize("name", ["a", "a/b/c", "./a", "/a/b", "a/", "../b", "a b/c", "~/a", "https://x/y"])
def test_what_is_no_id(name: str) -> None:
    assert not hub.is_id(name)
    with pytest.raises(UsageError, match="no such checkpoint folder"):
        source_folder(name)


def test_a_file_is_no_checkpoint_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as `owner/name` it looks like a model of the hub, which nobody has to download."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a file") as caught:
        source_folder("model/model.safetensors")
    assert str(tmp_path / "model") in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("name", "source"),
    [("reference-medgemma", "name medgemma-reference"), ("medgemma-4b", "google/medgemma-4b-it, which .* --download")],
)
def test_a_recipe_is_no_checkpoint(name: str, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=f"{name}: is a recipe, and no checkpoint") as caught:
        source_folder(name)
    assert re.search(source, str(caught.value.remedy))
    assert cli.main(["export", name, "--download", "--to", "DIR"]) == 2
    assert str(caught.value) in capsys.readouterr().err


def run(fake: FakeHub, cache: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """edgekit in a process of its own, with the environment that a user has."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    home = {"HF_ENDPOINT": fake.url, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent / "home")}
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *words],
        env={**inherited, **home, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_command_line_downloads_only_when_told_to(
    fake: FakeHub, cache: Path, tmp_path: Path, medgemma_source: Path
) -> None:
    fake.files["model.safetensors"] = (medgemma_source / "model.safetensors").read_bytes()
    fake.gated, fake.card = "manual", {"license": "gemma"}
    export = ("export", REPOSITORY, "--to", str(tmp_path / "a"), "--level", "Q8_0", "--no-prove")
    plain = run(fake, cache, *export)
    assert plain.returncode == 1
    assert "--download" in plain.stderr
    refused = run(fake, cache, *export, "--download", "--accept-terms", HF_HUB_OFFLINE="1")
    assert refused.returncode == 1
    assert "HF_HUB_OFFLINE" in refused.stderr
    assert fake.log == []
    asked = run(fake, cache, *export, "--download")
    assert asked.returncode == 1
    assert "https://ai.google.dev/gemma/terms" in asked.stderr
    assert "--accept-terms" in asked.stderr
    assert not cache.exists()
    done = run(fake, cache, *export, "--download", "--accept-terms")
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "a" / "edgekit.json")["source"]["revision"] == f"{REPOSITORY}@{COMMIT}"
    fake.log.clear()
    again = run(fake, cache, *export)
    assert again.returncode == 0, again.stderr
    assert fake.log == []


def test_download_wants_an_id(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["export", str(tmp_path), "--to", str(tmp_path / "a"), "--download"]) == 2
    assert "owner/name" in capsys.readouterr().err
