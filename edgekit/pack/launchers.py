"""The program that runs what is installed: it asks `state.json` at each start, so that a switch needs nothing of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from edgekit.artifacts.documents import is_file
from edgekit.artifacts.files import replacing

_POSIX = """\
#!/bin/sh
# Runs what is installed here: run edgekit ask :model "..."; :model is the model's folder. EDGEKIT_SLOT=a or b runs what
# is in a slot that is not in use. EDGEKIT_DEVICE names a device whose plan is obeyed in place of the one that the
# bundle was made for; empty, for none.
set -eu
self=$0
while [ -L "$self" ]; do  # a link to it may lie anywhere
    target=$(readlink "$self")
    case $target in /*) self=$target ;; *) self=$(dirname -- "$self")/$target ;; esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)
slot=${EDGEKIT_SLOT:-$(sed -n 's/.*"slot":"\\([ab]\\)".*/\\1/p' "$here/state.json")}
if [ ! -x "$here/$slot/env/bin/python" ]; then
    echo "run: nothing is installed in $here" >&2
    exit 1
fi
unset PYTHONPATH PYTHONHOME
if [ -z "${EDGEKIT_DEVICE+named}" ]; then
    for profile in "$here/$slot"/device/*.toml; do
        if [ -f "$profile" ]; then export EDGEKIT_DEVICE="$profile"; fi
    done
fi
for word do
    shift
    case $word in :model) word=$here/$slot/model ;; esac
    set -- "$@" "$word"
done
if [ "${1:-}" = edgekit ]; then
    shift
    exec "$here/$slot/env/bin/python" -P -m edgekit "$@"
fi
cat >&2 <<'END_OF_USAGE'
usage: run edgekit COMMAND ...
:model is the folder of the model that is installed here:
    run edgekit inspect :model    what it is and what it can do
    run edgekit serve :model      a server for it
    run edgekit --help            all commands
END_OF_USAGE
exit 2
"""

_POWERSHELL = """\
# Runs what is installed here: run.ps1 edgekit ask :model "..."; :model is the model's folder. EDGEKIT_SLOT=a or b runs
# what is in a slot that is not in use. EDGEKIT_DEVICE names a device whose plan is obeyed in place of the one that the
# bundle was made for.
$ErrorActionPreference = 'Stop'
$slot = $env:EDGEKIT_SLOT
if (-not $slot) { $slot = (Get-Content -Raw (Join-Path $PSScriptRoot 'state.json') | ConvertFrom-Json).slot }
$python = Join-Path $PSScriptRoot "$slot\\env\\Scripts\\python.exe"
if (-not $slot -or -not (Test-Path $python)) {
    [Console]::Error.WriteLine("run: nothing is installed in $PSScriptRoot")
    exit 1
}
if ($args.Count -eq 0 -or $args[0] -ne 'edgekit') {
    [Console]::Error.WriteLine('usage: run edgekit COMMAND ...')
    [Console]::Error.WriteLine(':model is the folder of the model that is installed here: run edgekit inspect :model')
    exit 2
}
foreach ($name in 'PYTHONPATH', 'PYTHONHOME') { Remove-Item "Env:$name" -ErrorAction SilentlyContinue }
$model = Join-Path $PSScriptRoot "$slot\\model"
$words = @($args | Select-Object -Skip 1 | ForEach-Object { if ($_ -eq ':model') { $model } else { $_ } })
$folder = Join-Path $PSScriptRoot "$slot\\device"
$profiles = @(Get-ChildItem -Path $folder -Filter *.toml -ErrorAction SilentlyContinue)
$named = $profiles.Count -gt 0 -and -not (Test-Path Env:EDGEKIT_DEVICE)
if ($named) { $env:EDGEKIT_DEVICE = $profiles[0].FullName }
try {
    & $python -P -m edgekit @words
} finally {
    if ($named) { Remove-Item Env:EDGEKIT_DEVICE }  # a session goes on with the next slot
}
exit $LASTEXITCODE
"""

_CMD = """\
@powershell -NoProfile -ExecutionPolicy Bypass -File "%~dp0run.ps1" %*
"""


def texts(system: str = os.name) -> Mapping[str, str]:
    """The files of a root that run what is installed in it: name -> text.

    Args:
        system: `os.name` where they are for.
    """
    if system == "nt":
        return {name: text.replace("\n", "\r\n") for name, text in (("run.ps1", _POWERSHELL), ("run.cmd", _CMD))}
    return {"run": _POSIX}


def write(root: Path) -> None:
    """Write them where they are not there, or are another edgekit's; each is at every moment a whole one."""
    for name, text in texts().items():
        path, data = root / name, text.encode()
        if not is_file(path) or path.read_bytes() != data:
            with replacing(path) as temporary:
                temporary.write_bytes(data)
                temporary.chmod(0o755)
