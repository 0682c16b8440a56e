"""A repository of a registry of containers, through the library oras: the OCI distribution specification 1.1.

The library finds who the user is (where `docker login` and `podman login` keep it) and gets tokens. Connections are
kept here: the library itself waits for ever, reads whole files into memory, and does not go on where it stopped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urljoin

from edgekit.artifacts.disk_errors import named
from edgekit.errors import RegistryError
from edgekit.pack.extras import needed
from edgekit.pack.registry import connections, errors
from edgekit.pack.registry.errors import BrokenError
from edgekit.pack.registry.image import INDEX, MANIFEST, MOST_BYTES, Reference, digest_of
from edgekit.pack.registry.place import Blob
from edgekit.progress import Progress

T = TypeVar("T")

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts that brought nothing
_TIMEOUTS_S = (10.0, 60.0)  # to connect, and between two packets
_BLOCK_BYTES = 1 << 20  # of what is sent
_PACKET_BYTES = 1 << 16  # of what is received, and lost at most when a connection breaks
_MOST_ERROR_BYTES = 1 << 16


class _Content:
    """A file's content as the body of a request, from its beginning each time that it is sent."""

    def __init__(self, path: Path, size: int, progress: Progress) -> None:
        self._path, self._size, self._progress, self._sent = path, size, progress, 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._progress.advance(-self._sent)
        self._sent = 0
        with named(self._path), self._path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                self._sent += len(block)
                self._progress.advance(len(block))
                yield block


class Remote:
    """One image of a registry.

    Args:
        reference: where it is.
        plain_http: speak to the registry without TLS, as with one on this machine always.
        pauses: how long to wait after each attempt in a row that brought nothing, in seconds.

    Raises:
        RegistryError: nobody answers there, or no registry does.
        MissingDependencyError: oras is not installed.
    """

    def __init__(self, reference: Reference, *, plain_http: bool = False, pauses: Sequence[float] = PAUSES_S) -> None:
        with needed("oras"):
            import oras.provider
            import oras.utils

        self.reference = reference
        self._pauses = pauses
        self._append = oras.utils.append_url_params
        self._new = partial(oras.provider.Registry, insecure=plain_http or reference.loopback)
        self._send: Any = oras.provider.Registry.do_request.__wrapped__  # without its retries, which take two minutes
        logging.getLogger("oras.logger").setLevel(logging.CRITICAL + 1)  # what is wrong is in the error
        self._connect()

    @property
    def name(self) -> str:
        """Registry, repository, and tag or digest."""
        return str(self.reference)

    def manifest(self) -> bytes:
        """The manifest of the digest, or of what has the tag now.

        Raises:
            RegistryError: there is none, it is too large, or it has another digest than was asked for or is said.
        """
        asked = self.reference.digest or self.reference.tag
        data, said = self._persist(lambda: self._get_manifest(asked))
        for digest in filter(None, (self.reference.digest, said)):
            if digest.startswith("sha256:") and digest != digest_of(data):
                raise RegistryError(
                    f"{self.name}: the registry sent a manifest with the digest {digest_of(data):.23}..., "
                    f"and says that it is {digest:.23}..."
                )
        return data

    def has(self, blob: Blob) -> bool:
        """As `Place.has`."""
        answer = self._persist(lambda: self._once("HEAD", f"blobs/sha256:{blob.sha256}", expected=(200, 404)))
        return bool(answer.status_code == 200)

    def blocks(self, blob: Blob, begun: int) -> Iterator[bytes]:
        """As `Place.blocks`: a connection that broke is made again, and goes on where the last one ended."""
        failures = 0
        while begun < blob.bytes:
            try:
                for block in self._stream(blob, begun):
                    begun, failures = begun + len(block), 0
                    yield block
            except BrokenError as error:
                failures += 1
                self._pause(failures, error)

    def put(self, blob: Blob, path: Path, progress: Progress) -> None:
        """As `Place.put`: in one request, since not every registry takes parts, and from the beginning where it fails.

        What a registry gets is hashed there.
        """
        content = _Content(path, blob.bytes, progress)
        self._persist(lambda: self._upload(blob, content))

    def publish(self, manifest: bytes) -> None:
        """As `Place.publish`."""
        headers = {"Content-Type": MANIFEST}
        path = f"manifests/{self.reference.digest or self.reference.tag}"
        answer = self._persist(lambda: self._once("PUT", path, expected=(201,), headers=headers, data=manifest))
        said = answer.headers.get("Docker-Content-Digest", digest_of(manifest))
        if said.startswith("sha256:") and said != digest_of(manifest):
            raise RegistryError(f"{self.name}: the registry took the manifest for another, {said:.23}...")

    # ------------------------------------------------------------ requests

    def _connect(self) -> None:
        """Ask whether there is a registry and how it asks who somebody is, and find what it is to be told."""
        self._registry, self._headers = self._made("token"), {}
        basic = self._ping().lower().startswith("basic")
        if basic:
            self._registry = self._made("basic")
        auth = self._registry.auth
        try:
            auth.load_configs(self._registry.get_container(self.name), configs=connections.logins())
        except (ValueError, OSError) as error:
            raise RegistryError(f"{self.name}: what a login wrote cannot be read: {error}") from error
        if not basic:
            return
        if getattr(auth, "_basic_auth", None):
            # A password goes with every request: else each would be refused first, and a large file sent twice.
            self._headers = dict(auth.get_auth_header())
        else:
            auth.set_basic_auth("", "")  # which is refused, where the library knows nothing to say

    def _made(self, auth: str) -> Any:
        """The library's registry, which waits for no answer for ever, and goes nowhere without TLS from one with it."""
        made = self._new(auth_backend=auth)
        made.session.request = partial(made.session.request, timeout=_TIMEOUTS_S)
        made.session.mount("https://", connections.bounded_adapter())
        secure = made.prefix == "https"
        plain = connections.Nowhere(self.reference.registry) if secure else connections.bounded_adapter()
        made.session.mount("http://", plain)
        return made

    def _ping(self) -> str:
        """What the registry says of how it asks who somebody is; empty where it does not."""
        registry = self.reference.registry
        with self._explained():
            address = f"{self._registry.prefix}://{registry}/v2/"
            answer = self._registry.session.request("GET", address, allow_redirects=False)
        errors.check_registry(answer, registry)
        return str(answer.headers.get("WWW-Authenticate", ""))

    def _get_manifest(self, asked: str) -> tuple[bytes, str | None]:
        accepted = {"Accept": f"{MANIFEST}, {INDEX}"}
        with self._once("GET", f"manifests/{asked}", expected=(200,), headers=accepted, keep=True) as answer:
            data = b"".join(self._body(answer, MOST_BYTES))
            if len(data) > MOST_BYTES:
                raise RegistryError(f"{self.name}: its manifest is too large", allowed=f"at most {MOST_BYTES} bytes")
            return data, answer.headers.get("Docker-Content-Digest")

    def _stream(self, blob: Blob, begun: int) -> Iterator[bytes]:
        """A blob's bytes from one on, from one answer: all that are left."""
        called = f"sha256:{blob.sha256:.16}..."
        headers = {"Accept-Encoding": "identity"}
        if begun:
            headers["Range"] = f"bytes={begun}-"
        path = f"blobs/sha256:{blob.sha256}"
        with self._once("GET", path, expected=(200, 206), headers=headers, keep=True) as answer:
            before = begun if answer.status_code == 200 else 0  # a registry that sends all or nothing
            if answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
                raise RegistryError(f"{self.name}: the registry sent another part of {called} than was asked for")
            for block in self._body(answer):
                skipped = min(before, len(block))
                before -= skipped
                begun += len(block) - skipped
                if begun > blob.bytes:
                    raise RegistryError(f"{self.name}: the registry sent more of {called} than its {blob.bytes} bytes")
                yield block[skipped:]
        if begun < blob.bytes:
            raise BrokenError(f"{self.name}: {called} ended after {begun} of {blob.bytes} bytes", remedy=errors.AGAIN)

    def _upload(self, blob: Blob, content: _Content) -> None:
        begun = self._once("POST", "blobs/uploads/", expected=(202,))
        location = urljoin(begun.url, begun.headers.get("Location", ""))
        place = self._append(location, {"digest": f"sha256:{blob.sha256}"})
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.bytes)}
        self._once("PUT", place, expected=(201,), headers=headers, data=content)

    def _once(
        self,
        method: str,
        path: str,
        *,
        expected: Sequence[int],
        headers: Mapping[str, str] | None = None,
        data: bytes | _Content | None = None,
        keep: bool = False,
    ) -> Any:
        """One request, without another attempt.

        Args:
            path: below the repository, or a whole address.
            expected: the answers that are none of failure.
            keep: leave the answer's body to the caller.
        """
        image = self.reference
        address = urljoin(f"{self._registry.prefix}://{image.registry}/v2/{image.repository}/", path)
        with self._known():
            answer = self._answer(method, address, headers or {}, data)
        if answer.status_code not in expected:
            with answer:
                said = b"".join(self._body(answer, _MOST_ERROR_BYTES))
            raise errors.refused(answer, said, image.registry, self.name, path)
        if errors.is_page(answer):
            raise errors.page(answer, image.registry)
        if not keep:
            with answer:
                list(self._body(answer, _MOST_ERROR_BYTES))
        return answer

    def _answer(self, method: str, address: str, headers: Mapping[str, str], data: bytes | _Content | None) -> Any:
        """What is answered; whatever another host is asked, it is not told who the user is."""
        if connections.host(address) != connections.host(f"//{self.reference.registry}"):
            session = self._registry.session
            return session.request(method, address, data=data, headers=dict(headers), stream=True)
        auth = self._registry.auth
        given = {**self._headers, **headers}
        answer = self._send(self._registry, address, method, data=data, headers=dict(given), stream=True)
        if answer.status_code == 401 and getattr(auth, "token", None):
            auth.token = None  # it has expired, or is for less than this
            answer = self._send(self._registry, address, method, data=data, headers=dict(given), stream=True)
        return answer

    def _body(self, answer: Any, most_bytes: int | None = None) -> Iterator[bytes]:
        """An answer's body; no more than one block behind a limit, which is one of time, too."""
        got, begun = 0, time.monotonic()
        with self._explained():
            for block in answer.iter_content(_PACKET_BYTES if most_bytes is None else connections.SIP_BYTES):
                got += len(block)
                yield block
                if most_bytes is None:
                    continue
                if got > most_bytes:
                    return
                if time.monotonic() - begun > connections.WHOLE_S:
                    raise connections.endless(answer)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """A connection's errors as ours."""
        try:
            yield
        except OSError as error:
            raise errors.failed(error, self.reference.registry, self.name) from error

    @contextmanager
    def _known(self) -> Iterator[None]:
        """As `_explained`, around what the library does beside requests: it asks who the user is."""
        try:
            with self._explained():
                yield
        except ValueError as error:  # it has no answer
            raise errors.stranger(self.reference.registry, self.name) from error
        except (AttributeError, TypeError) as error:  # it got none, or something else
            raise errors.no_token(self.reference.registry, self.name) from error

    # ------------------------------------------------------------ again

    def _persist(self, attempt: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return attempt()
            except BrokenError as error:
                failures += 1
                self._pause(failures, error)

    def _pause(self, failures: int, error: RegistryError) -> None:
        """Wait before another attempt. Raises RegistryError where there were enough."""
        if failures > len(self._pauses):
            raise RegistryError(error.message, remedy=error.remedy) from error
        time.sleep(self._pauses[failures - 1])
