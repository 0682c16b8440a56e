"""What went wrong between here and a registry, in one line each; the libraries' own texts name their classes.

What is met in practice: a registry that is down, a wrong name, a network that is not there, TLS that cannot be checked
or is not spoken, a proxy or a network's login page in between, and a registry that lets nobody in.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from edgekit.errors import RegistryError

AGAIN = "run the same command again: what is complete stays, and what broke off goes on"
_UNREACHED = "see that it runs, that its address and port are right, and that this machine's network reaches it"
_PROXY = "see $HTTPS_PROXY and $HTTP_PROXY, and name in $NO_PROXY what is reached without one"
_CERTIFICATES = "name the certificates of your own authority in $REQUESTS_CA_BUNDLE"
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_EOF_WHILE_READING"}
_MOST_CAUSES = 10
_KNOWN = re.compile(r"basic\b|bearer\b.*\brealm=", re.IGNORECASE)


class BrokenError(RegistryError):
    """What may be right the next time: a connection that failed, a registry that is busy."""


def failed(error: OSError, registry: str, where: str) -> RegistryError:
    """What a request's error means, of `requests` or of what is below it.

    Args:
        registry: its host and port.
        where: what messages begin with where a connection broke that there was.

    Raises:
        OSError: a file of this machine could not be read.
    """
    from requests import exceptions

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.filename is not None:
            raise cause
    host = urlsplit(getattr(getattr(error, "request", None), "url", None) or "").netloc or registry
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _insecure(cause, host)
    said = _said(causes)
    unusable = (exceptions.InvalidSchema, exceptions.MissingSchema, exceptions.InvalidURL, exceptions.InvalidHeader)
    kinds = type[OSError] | tuple[type[OSError], ...]
    meanings: list[tuple[kinds, type[RegistryError], str, str]] = [  # of the first that is among the causes
        (exceptions.TooManyRedirects, RegistryError, f"{registry}: sends on to another address, and on", _UNREACHED),
        (exceptions.JSONDecodeError, RegistryError, f"{host}: gives no tokens, but answers otherwise", _UNREACHED),
        (exceptions.ProxyError, BrokenError, f"{host}: the proxy before it does not let this through: {said}", _PROXY),
        (exceptions.ConnectTimeout, BrokenError, f"{host}: does not answer", _UNREACHED),
        (TimeoutError, BrokenError, f"{where}: the connection to {host} stands still", AGAIN),
        (socket.gaierror, BrokenError, f"{host}: no machine of this name is known here", _UNREACHED),
        (ConnectionRefusedError, BrokenError, f"{host}: nobody answers there: the connection was refused", _UNREACHED),
        (unusable, RegistryError, f"{registry}: names an address, or gives a token, that is none: {said}", _UNREACHED),
        (exceptions.RequestException, BrokenError, f"{where}: the connection to {host} failed: {said}", AGAIN),
    ]
    for kind, made, message, remedy in meanings:
        if any(isinstance(cause, kind) for cause in causes):
            return made(message, remedy=remedy)
    return RegistryError(f"{host}: no connection: {said}", remedy=_CERTIFICATES)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, the library's own wrappers among them."""
    found: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _said(causes: list[BaseException]) -> str:
    """The system's own words, where it has some; else those of what came first."""
    words = [cause.strerror for cause in causes if isinstance(cause, OSError) and isinstance(cause.strerror, str)]
    return words[-1] if words else f"{causes[-1]}"


def _insecure(error: ssl.SSLError, host: str) -> RegistryError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return RegistryError(f"{host}: no secure connection: {error.verify_message}", remedy=_CERTIFICATES)
    if error.reason in _NO_TLS:
        return RegistryError(
            f"{host}: no secure connection: it speaks no TLS",
            remedy="see that its port is right; --plain-http does without TLS, on a network that you trust",
        )
    return RegistryError(f"{host}: no secure connection: {error.reason or error}", remedy=_CERTIFICATES)


def refused(answer: Any, body: bytes, registry: str, where: str, path: str) -> RegistryError:
    """What an answer means that was not the expected one.

    Args:
        path: what was asked for, below the repository.
    """
    status = answer.status_code
    said = _words(answer, body)
    by = urlsplit(answer.url).netloc
    who = f"{by}, where {registry} sends on to," if answer.history and by != registry else "the registry"
    if status == 429 or status >= 500:
        return BrokenError(f"{where}: {who} answered {status}{said}", remedy=AGAIN)
    if status in (401, 403):
        return stranger(registry, where, f" ({status}{said})")
    if status == 404:
        return RegistryError(
            f"{where}: {who} has no {path:.40} (404{said})",
            allowed="what was pushed there",
            remedy=f"see the name's spelling; where only some may see it: docker login {registry}",
        )
    return RegistryError(f"{where}: {who} refused {path:.40} ({status}){said}")


def _words(answer: Any, body: bytes) -> str:
    """What an answer says, as the distribution specification has errors; of a web page nothing."""
    if is_page(answer):
        return ", a web page"
    text = body.decode("utf-8", "replace").strip()
    try:
        first = json.loads(text)["errors"][0]
        text = f"{first['code']}: {first['message']}" if first.get("message") else str(first["code"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass  # then it says it in its own way
    return f": {text:.200}" if text else ""


def is_page(answer: Any) -> bool:
    """Whether an answer is for people: no registry sends one."""
    return bool(answer.headers.get("Content-Type", "").lower().startswith("text/html"))


def page(answer: Any, registry: str) -> RegistryError:
    """A web page in place of what a registry answers."""
    by = urlsplit(answer.url).netloc
    whose = f" of {by}" if by != registry else ""
    return RegistryError(
        f"{registry}: a web page{whose} answers, and no registry",
        remedy=f"log in where this network wants it, or correct the address; a browser shows it: {answer.url:.200}",
    )


def stranger(registry: str, where: str, status: str = "") -> RegistryError:
    """A registry that asks who somebody is, and is not content with the answer."""
    return RegistryError(
        f"{where}: the registry does not know you, or does not let you{status}",
        remedy=f"docker login {registry} (or podman login); else ask who keeps the registry",
    )


def no_token(registry: str, where: str) -> RegistryError:
    """A place that gives tokens, and gave none."""
    return RegistryError(
        f"{where}: who gives tokens for {registry} gave none, or something else in its place",
        remedy="ask who keeps the registry",
    )


def check_registry(answer: Any, registry: str) -> None:
    """Look at what `/v2/` answers. Raises RegistryError where no registry does, or none that can be talked to."""
    status, asks = answer.status_code, answer.headers.get("WWW-Authenticate", "")
    if answer.is_redirect:
        raise _sent_on(answer, registry)
    if status == 200 and is_page(answer):
        raise page(answer, registry)
    if status not in (200, 401, 403):
        raise RegistryError(
            f"{registry}: no registry of containers answers, or none that works ({status})", remedy=_UNREACHED
        )
    if asks and not _KNOWN.match(asks):
        raise RegistryError(
            f"{registry}: asks who you are in a way that is not known here: {asks:.100}",
            allowed="Basic, and Bearer with a realm",
            remedy="ask who keeps the registry to offer one of them",
        )


def _sent_on(answer: Any, registry: str) -> RegistryError:
    target = answer.headers["Location"]
    plain = answer.url.startswith("http://") and target.startswith(f"https://{urlsplit(answer.url).netloc}/")
    return RegistryError(
        f"{registry}: sends on to {target:.200}, and is no registry itself",
        remedy="leave out --plain-http" if plain else "name that registry, if it is one; if it is a login, log in",
    )


def without_tls(registry: str, address: str) -> RegistryError:
    """A registry with TLS that names an address without."""
    return RegistryError(
        f"{registry}: sends on to {address:.200}, without TLS: nothing was sent there",
        remedy="tell who keeps the registry: behind a proxy it must know that it is reached by https",
    )
