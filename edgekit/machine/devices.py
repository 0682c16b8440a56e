"""Device profiles by name: data in `devices/<name>.toml`, and `here`."""

from __future__ import annotations

import os

from edgekit.artifacts import find
from edgekit.artifacts.validation import validated
from edgekit.errors import UsageError
from edgekit.machine import here
from edgekit.machine.device import HERE, Device


def device(name: str) -> Device:
    """The device of this name, checked; `here` is this machine, measured now where that was not done lately.

    Raises:
        UsageError: there is no such device, or its file is wrong; the message names the key.
    """
    if name == HERE:
        return here.device()
    try:
        data = find.load("devices", name)
    except UsageError as error:
        if name != os.environ.get("EDGEKIT_DEVICE"):
            raise
        raise UsageError(f"$EDGEKIT_DEVICE: {error.message}", allowed=error.allowed, remedy=error.remedy) from error
    path = find.find("devices", name)
    remedy = f"correct {path}; devices/README.md says what each key means"
    return validated(Device, {"name": path.stem, **data}, f"device {name}", UsageError, remedy=remedy)
