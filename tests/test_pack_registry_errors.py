"""A registry that is down, misnamed, elsewhere, behind a login or not to be trusted: one clear line each."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bundles import make
from material import contents
from registry_server import SmallRegistry, certificate, digest, free_port

from edgekit import cli
from edgekit.errors import RegistryError
from edgekit.pack import keys
from edgekit.pack.registry.errors import BrokenError, failed
from edgekit.pack.registry.image import reference
from edgekit.pack.registry.place import Blob
from edgekit.pack.registry.pull import pull
from edgekit.pack.registry.push import push
from edgekit.pack.registry.remote import Remote
from edgekit.progress import Progress

requests = pytest.importorskip("requests")
pytest.importorskip("oras.client")

FILES: Mapping[str, bytes] = {"README.md": b"# a card\n", "model/weights.gguf": bytes(range(256)) * 4_000}
NAME = "registry.test"
A_YEAR = timedelta(days=365)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in anywhere, and there is no proxy."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path / "home"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "clinic.key")
    make(tmp_path / "bundle", FILES, tmp_path / "clinic.key")
    return tmp_path / "bundle"


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    served = SmallRegistry()
    yield served
    served.close()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`registry.test` and `other.test` are this machine."""
    resolve = socket.getaddrinfo

    def here(host: str, *more: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host in (NAME, "other.test") else host, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)


def at(registry: SmallRegistry, **options: Any) -> Remote:
    return Remote(reference(f"{registry.host}/models/m:3"), pauses=(0,), **options)


def by_name(registry: SmallRegistry, name: str = NAME, **options: Any) -> Remote:
    return Remote(reference(registry.host.replace("127.0.0.1", name) + "/models/m:3"), pauses=(0,), **options)


def said(act: Callable[[], Any]) -> str:
    """What an error says: one line that no library wrote, and what to do."""
    with pytest.raises(RegistryError) as raised:
        act()
    assert raised.value.remedy
    text = str(raised.value)
    assert len(raised.value.message) < 300
    assert not re.search(r"urllib3|HTTPS?Connection|Max retries|object at 0x|Errno|Caused by|<html|_ssl\.c", text), text
    return text


def log_in(home: Path, host: str, password: str) -> None:
    (home / ".docker").mkdir(exist_ok=True)
    auth = base64.b64encode(password.encode()).decode()
    (home / ".docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


# ---------------------------------------------------------------- not there


def test_a_registry_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host, began = f"127.0.0.1:{free_port()}", time.monotonic()
    text = said(lambda: Remote(reference(f"{host}/models/m:3")))
    assert f"{host}: nobody answers there: the connection was refused\ntry: see that it runs" in text
    assert time.monotonic() - began < 5
    assert cli.main(["pull", f"{host}/models/m:3", "--to", str(tmp_path / "b")]) == 1
    assert text.splitlines()[0] in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_registry_that_goes_down_on_the_way(bundle: Path) -> None:
    registry = SmallRegistry()
    place = at(registry)
    registry.close()
    assert f"{registry.host}: nobody answers there" in said(lambda: push(bundle, place))


def test_a_name_that_no_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = said(lambda: Remote(reference("registry.exmple.org/models/m:3")))
    assert "registry.exmple.org: no machine of this name is known here" in text


def wrapped(error: Exception, *causes: BaseException) -> Any:
    """An error as libraries raise it, from others."""
    at = error
    for cause in causes:
        at.__cause__ = cause
        at = cause  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "text", "again"),
    [
        (wrapped(requests.ConnectTimeout("x"), TimeoutError("timed out")), "r.test: does not answer", True),
        (wrapped(requests.ReadTimeout("x"), TimeoutError("timed out")), "the connection to r.test stands still", True),
        (wrapped(requests.ConnectionError("x"), TimeoutError("timed out")), "to r.test stands still", True),
        (wrapped(requests.exceptions.ProxyError("x"), OSError(111, "Connection refused")), "the proxy before it", True),
        (wrapped(requests.ConnectionError("x"), OSError(113, "No route to host")), "failed: No route to host", True),
        (wrapped(requests.ConnectionError("x"), ConnectionResetError(104, "reset")), "to r.test failed: reset", True),
        (requests.TooManyRedirects("x"), "sends on to another address, and on", False),
        (requests.exceptions.JSONDecodeError("x", "y", 0), "gives no tokens", False),
    ],
)
def test_what_connections_end_with(error: Any, text: str, again: bool) -> None:
    found = failed(error, "r.test", "r.test/m:3")
    assert text in found.message
    assert isinstance(found, BrokenError) == again
    assert found.remedy


def test_a_file_that_cannot_be_read_is_no_failed_connection(registry: SmallRegistry, bundle: Path) -> None:
    with pytest.raises(FileNotFoundError):
        at(registry).put(Blob("0" * 64, 5), bundle / "gone", Progress())
    broken = OSError(errno.EIO, "Input/output error", str(bundle / "README.md"))
    with pytest.raises(OSError, match=r"README\.md"):
        failed(wrapped(requests.ConnectionError("x"), broken), "r.test", "r.test/m:3")


# ---------------------------------------------------------------- what it answers


def test_a_name_that_nothing_was_pushed_to(registry: SmallRegistry, tmp_path: Path) -> None:
    text = said(lambda: pull(at(registry), tmp_path / "b"))
    assert f"{registry.host}/models/m:3: the registry has no manifests/3 (404: UNKNOWN)" in text
    assert "allowed: what was pushed there" in text


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission(registry: SmallRegistry, bundle: Path, status: int) -> None:
    place = at(registry)
    registry.statuses.extend([status] * 4)
    text = said(lambda: push(bundle, place))
    assert "does not know you, or does not let you" in text
    assert f"docker login {registry.host}" in text


def test_a_question_that_nobody_here_can_answer(registry: SmallRegistry) -> None:
    registry.password = "somebody:secret"
    for registry.asks in ("Negotiate", "Bearer nothing=here"):
        assert f"in a way that is not known here: {registry.asks}" in said(lambda: at(registry))


def test_a_login_page_in_place_of_a_registry(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    """As a hotel's network, or a proxy, answers any question."""
    push(bundle, at(registry))
    place = at(registry)
    registry.pages = ["/v2/models/"]  # from now on
    for act in (lambda: push(bundle, place), lambda: pull(place, tmp_path / "b")):
        assert f"{registry.host}: a web page answers, and no registry" in said(act)
    registry.pages = ["/v2/"]
    assert f"{registry.host}: a web page answers, and no registry" in said(lambda: at(registry))
    registry.pages = [f"/v2/models/m/blobs/{digest(FILES['model/weights.gguf'])}"]
    assert "a web page answers" in said(lambda: pull(at(registry), tmp_path / "b"))
    registry.pages.clear()
    pull(at(registry), tmp_path / "b")
    assert contents(tmp_path / "b") == contents(bundle)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b'{"token": null}', "know you"),
        (b"[]", "gave none, or something else"),
        (b'{"token": 5}', "know you"),
        (b'{"token": "a\\r\\nX-Other: b"}', "gives a token, that is none"),
        (b"{", "gives no tokens"),
    ],
)
def test_a_token_that_is_none(answer: bytes, text: str, registry: SmallRegistry, bundle: Path) -> None:
    registry.token_uses, registry.token_answer = 5, answer
    assert text in said(lambda: push(bundle, at(registry)))


@pytest.mark.parametrize("address", ["file:///etc/passwd", "http://127.0.0.1:99999/token", "gopher://x/"])
@pytest.mark.parametrize("way", ["realm", "redirect"])
def test_an_address_that_is_none_is_not_tried_again(
    address: str, way: str, registry: SmallRegistry, bundle: Path
) -> None:
    remote = Remote(reference(f"{registry.host}/models/m:3"), pauses=(60.0,))
    if way == "realm":
        registry.token_uses, registry.asks = 5, f'Bearer realm="{address}",service="small",scope="repository:m:pull"'
    else:
        registry.sends_on = {"/v2/models/m/blobs": address}
    begun = time.monotonic()
    said(lambda: push(bundle, remote))
    assert time.monotonic() - begun < 30


def test_a_page_where_tokens_are_given(registry: SmallRegistry, bundle: Path) -> None:
    registry.token_uses, registry.pages = 5, ["/token"]
    assert "gives no tokens" in said(lambda: push(bundle, at(registry)))


# ---------------------------------------------------------------- elsewhere


def test_a_registry_that_is_elsewhere(registry: SmallRegistry) -> None:
    registry.sends_on = {"/v2/": "https://login.example.org/start?to="}
    text = said(lambda: at(registry))
    assert f"{registry.host}: sends on to https://login.example.org/start?to=/v2/, and is no registry itself" in text
    registry.sends_on = {"/v2/": f"https://{registry.host}"}
    assert "leave out --plain-http" in said(lambda: at(registry))


def test_blobs_that_lie_elsewhere(registry: SmallRegistry, bundle: Path, home: Path, tmp_path: Path) -> None:
    """As large registries keep them: in a store that is told nothing of who asks."""
    store = SmallRegistry()
    registry.password = "somebody:secret"
    log_in(home, registry.host, registry.password)
    registry.uploads_at = f"http://{store.host}"
    place = at(registry)
    try:
        push(bundle, place)
        assert set(store.blobs.values()) == set(contents(bundle).values())
        registry.sends_on = {"/v2/models/m/blobs/": f"http://{store.host}"}
        pull(at(registry), tmp_path / "b")
    finally:
        store.close()
    assert contents(tmp_path / "b") == contents(bundle)
    assert set(store.told) == {None}
    assert all(told for (_, path, _), told in zip(registry.log, registry.told, strict=True) if path != "/v2/")
    assert f"{store.host}: nobody answers there" in said(lambda: pull(at(registry), tmp_path / "c"))


def test_without_an_end(registry: SmallRegistry, bundle: Path, tmp_path: Path) -> None:
    push(bundle, at(registry))
    registry.sends_on = {"/v2/models/": f"http://{registry.host}"}
    assert "sends on to another address, and on" in said(lambda: pull(at(registry), tmp_path / "b"))


def _packed(count: int) -> bytes:
    return gzip.compress(bytes(count))


@contextmanager
def answering(head: bytes, blocks: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A host that answers every request by this head and whatever comes of these blocks, as long as somebody reads."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        connection.recv(1 << 16)
                        connection.sendall(head)
                        for block in blocks():
                            connection.sendall(block)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found\r\nLocation: /v2/elsewhere", b"401 Unauthorized"])
@pytest.mark.parametrize("way", ["endless", "bomb", "slow"])
def test_an_answer_without_an_end(status: bytes, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the first question, before anything can be checked: in bytes, in unpacked bytes, in time."""
    monkeypatch.setattr("edgekit.pack.registry.connections.WHOLE_S", 1.0)
    encoding = b"Content-Encoding: gzip\r\n" if way == "bomb" else b""

    def blocks() -> Iterator[bytes]:
        if way == "bomb":
            yield _packed(1 << 28)
            return
        while True:
            yield bytes(4) if way == "slow" else bytes(1 << 16)
            time.sleep(0.05 if way == "slow" else 0)

    head = b"HTTP/1.1 " + status + b"\r\n" + encoding + b"Connection: close\r\n\r\n"
    with answering(head, blocks) as host:
        begun = time.monotonic()
        assert "its answer has no end" in said(lambda: Remote(reference(f"{host}/models/a:1"), pauses=()))
        assert time.monotonic() - begun < 60


# ---------------------------------------------------------------- TLS


@pytest.fixture
def tls(tmp_path: Path, named: None) -> Iterator[tuple[SmallRegistry, Path]]:
    """A registry with TLS, and the certificate to trust."""
    path, context = certificate(tmp_path, NAME, datetime.now(UTC) + A_YEAR)
    served = SmallRegistry(context)
    yield served, path
    served.close()


def test_tls_that_cannot_be_checked(tls: tuple[SmallRegistry, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    registry, trusted = tls
    text = said(lambda: by_name(registry))
    assert f"{NAME}:{registry.host.split(':')[1]}: no secure connection: self-signed certificate" in text
    assert "$REQUESTS_CA_BUNDLE" in text
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    by_name(registry)
    assert "Hostname mismatch" in said(lambda: by_name(registry, "other.test"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    assert "no connection: " in said(lambda: by_name(registry))


def test_a_certificate_that_has_ended(tmp_path: Path, named: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path, context = certificate(tmp_path, NAME, datetime.now(UTC) - timedelta(days=1))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    registry = SmallRegistry(context)
    try:
        assert "no secure connection: certificate has expired" in said(lambda: by_name(registry))
    finally:
        registry.close()


@pytest.mark.usefixtures("named")
def test_a_registry_that_speaks_no_tls(registry: SmallRegistry) -> None:
    text = said(lambda: by_name(registry))
    assert "no secure connection: it speaks no TLS" in text
    assert "--plain-http" in text
    by_name(registry, plain_http=True)


def test_nothing_goes_from_tls_to_where_there_is_none(
    tls: tuple[SmallRegistry, Path], registry: SmallRegistry, bundle: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Neither an upload, nor a question for a blob, nor a password for a token."""
    secure, trusted = tls
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    secure.uploads_at = f"http://{registry.host}"
    assert f"sends on to http://{registry.host}/v2/" in said(lambda: push(bundle, by_name(secure)))
    secure.uploads_at = ""
    push(bundle, by_name(secure))
    secure.sends_on = {"/v2/models/": f"http://{registry.host}"}
    assert "without TLS: nothing was sent there" in said(lambda: pull(by_name(secure), tmp_path / "b"))
    secure.sends_on, secure.token_uses = {}, 5
    secure.asks = f'Bearer realm="http://{registry.host}/token",service="small",scope="repository:m:pull"'
    assert "without TLS: nothing was sent there" in said(lambda: pull(by_name(secure), tmp_path / "b"))
    assert registry.log == []
