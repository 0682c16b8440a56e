"""What the front door refuses. `answers.py` has the status of each."""

from __future__ import annotations

from edgekit.errors import EdgekitError


class Refusal(EdgekitError):  # noqa: N818 - named for what it says, as all of these
    """A request that is not served, by its form or for who sent it.

    Attributes:
        retry_after_s: after how many seconds it may be sent again; None where that would not help.
    """

    retry_after_s: float | None = None


class BadRequest(Refusal):
    """It is no HTTP/1.1 that has one meaning."""


class BadJson(Refusal):
    """Its body is no JSON that has one meaning."""


class TooSlow(Refusal):
    """It did not come within the time for it."""


class BodyTooLarge(Refusal):
    """Its body is larger than any that is read."""


class TargetTooLong(Refusal):
    """Its path and query are longer than any that is read."""


class HeadTooLarge(Refusal):
    """Its headers are too many, or too large together."""


class WrongType(Refusal):
    """Its body is something else than JSON, or compressed."""


class WrongExpectation(Refusal):
    """It expects something else than to be told to continue."""


class UnknownCoding(Refusal):
    """Its body is encoded for transfer in a way that is not read here."""


class WrongVersion(Refusal):
    """It speaks another version of HTTP."""


class NoKey(Refusal):
    """It has no API key, or a wrong one."""


class WrongHost(Refusal):
    """It was sent to a name that is not this server's, as by a page that rebinds its own name to this address."""


class WrongOrigin(Refusal):
    """Another site's page made a browser send it."""


class NoRoute(Refusal):
    """There is nothing at its path."""


class WrongMethod(Refusal):
    """There is something at its path, which another method asks for."""


class Full(Refusal):
    """The server has as many connections, or as much to read, as it can hold."""

    retry_after_s = 5.0


class Draining(Refusal):
    """The server finishes what runs and takes nothing more."""

    retry_after_s = 10.0
