"""How a registry is reached: within limits of bytes and time, nowhere without TLS from one with it, as who one is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgekit.errors import RegistryError
from edgekit.pack.registry import errors

MOST_WHOLE_BYTES, WHOLE_S = 1 << 20, 60.0  # of an answer that is read whole
SIP_BYTES = 16  # so often such an answer's time is looked at


class Nowhere:
    """Where requests without TLS end that come of a registry with it: redirects, places for uploads and for tokens."""

    def __init__(self, registry: str) -> None:
        self._registry = registry

    def send(self, request: Any, **_: object) -> Any:
        """Refuse it."""
        raise errors.without_tls(self._registry, request.url)

    def close(self) -> None:
        """As sessions close what is mounted in them."""


def bounded_adapter() -> Any:
    """How a session connects: what is no stream, or sent on elsewhere, is read whole here, within limits."""
    from requests.adapters import HTTPAdapter

    class Bounded(HTTPAdapter):
        def send(self, request: Any, stream: bool = False, **options: Any) -> Any:
            answer = super().send(request, stream=True, **options)
            if not stream or answer.is_redirect:
                answer._content = _whole(answer)  # what `Response.content` keeps once it was read
            return answer

    return Bounded()


def _whole(answer: Any) -> bytes:
    """An answer's body. Raises RegistryError where it is endless, in bytes, unpacked too, or in time."""
    data, begun = bytearray(), time.monotonic()
    for block in answer.iter_content(SIP_BYTES):
        data += block
        if len(data) > MOST_WHOLE_BYTES or time.monotonic() - begun > WHOLE_S:
            raise endless(answer)
    return bytes(data)


def endless(answer: Any) -> RegistryError:
    """An answer that goes on and on, which is given up."""
    answer.close()
    return RegistryError(
        f"{host(answer.url)}: its answer has no end",
        allowed=f"{MOST_WHOLE_BYTES:,} bytes within {WHOLE_S:.0f} s",
        remedy="ask whoever runs this registry, or name another",
    )


def host(address: str) -> str:
    """Host and port, the latter where it is not that of TLS."""
    return urlsplit(address).netloc.lower().removesuffix(":443")


def logins() -> list[str]:
    """Files in which Docker and Podman keep who the user is, besides the first one's usual place."""
    places = [os.environ.get("REGISTRY_AUTH_FILE", "")]
    for folder, name in (("DOCKER_CONFIG", "config.json"), ("XDG_RUNTIME_DIR", "containers/auth.json")):
        if folder in os.environ:
            places.append(str(Path(os.environ[folder], name)))
    return [place for place in places if Path(place).is_file()]
