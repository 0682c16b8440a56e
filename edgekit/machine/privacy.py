"""Nobody listens: what libraries need to be told before they are imported, so that they neither report nor look online.

`import edgekit` calls `keep` before it imports anything else, so the command line, Python programs and worker processes
(which inherit the environment) have it alike.

What the environment says cannot switch a report on: `ORT_DISABLE_TELEMETRY=0` left in a profile by somebody would send
a patient machine's traits to a vendor, and nobody needs edgekit for that. `HF_HUB_OFFLINE` is another matter, since
fetching is something people do on purpose: edgekit sets it where nobody did, keeps what a program set for itself, and
its own commands are offline whatever is set, but for `edgekit export --download`.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress

from edgekit.errors import EdgekitError, EdgekitWarning

# Variable -> value; a library reads it when it is imported.
_SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime from 1.29 on: an identity, a store of events, an upload to Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub and transformers: what is used, sent with requests
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # huggingface_hub: asks PyPI for newer versions
    "DO_NOT_TRACK": "1",  # whoever else honours it
}
# OpenVINO imports this package to send an event, and does without where it is missing.
_REPORTER = "openvino_telemetry"
_OFFLINE = "HF_HUB_OFFLINE"
_YES = ("1", "true", "yes", "on")  # as ONNX Runtime reads it

_set_by_us = False


class TelemetryWarning(EdgekitWarning):
    """A library was imported before edgekit could keep it from reporting to its makers."""


def keep() -> None:
    """Silence every library that edgekit uses, for this process and those that it starts.

    Warns:
        TelemetryWarning: a program imported ONNX Runtime or OpenVINO before edgekit, so that it reports already.
    """
    global _set_by_us
    late = []
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY", "").lower() not in _YES:
        late.append(("onnxruntime", "set ORT_DISABLE_TELEMETRY=1"))
    if "openvino" in sys.modules and sys.modules.get(_REPORTER) is not None:
        late.append(("openvino", f"uninstall {_REPORTER.replace('_', '-')}"))
    os.environ.update(_SILENT)
    sys.modules.setdefault(_REPORTER, None)  # type: ignore[arg-type]  # None: importing it fails
    if not os.environ.get(_OFFLINE):
        os.environ[_OFFLINE], _set_by_us = "1", True
    for name, remedy in late:
        warnings.warn(
            f"{name} was imported before edgekit, so it may report to its makers: import edgekit first, or {remedy}",
            TelemetryWarning,
            stacklevel=3,
        )


def keep_command(*, downloads: bool) -> None:
    """What a command of edgekit has on top, since it is the whole program.

    Args:
        downloads: whether it was told to fetch from the hub, which `HF_HUB_OFFLINE` still forbids where a user set it.
    """
    from edgekit.machine.temporary import system_folder  # here: `import edgekit` must stay instant

    if not downloads:
        os.environ[_OFFLINE] = "1"
    elif _set_by_us:
        os.environ.pop(_OFFLINE, None)
    # torch makes a folder for compiled code when transformers is imported. Nothing here compiles, and a folder that is
    # there already need not be made.
    with suppress(EdgekitError):  # what needs temporary files will say that there are none
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(system_folder()))
