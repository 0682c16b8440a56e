"""`install.sh` and `install.ps1`: the same for every bundle, so that a copy that came with a key serves for all.

Both find a Python and give it `edgekit.pack.bootstrap` as one text. They are text and no file of Python's, so that one
thing that a person can read and compare is all that is run before the bundle's signature was checked.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from edgekit.pack.bootstrap import environment, form, here, script, trust
from edgekit.pack.contents.base import Content, Gathering

_MODULES: tuple[ModuleType, ...] = (here, form, trust, environment, script)
_LEFT_OUT = ("from edgekit.", "from __future__ ")  # lines that begin so

_POSIX = """\
#!/bin/sh
# Installs a bundle, the one that this lies in or one that is named first:
#     install.sh [BUNDLE] --to ROOT --key FILE [--json]
# It needs Python 3.11 or later ($PYTHON names another than is found) and nothing else, no network.
set -eu
bundle=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
case ${1:-} in '' | -*) ;; *) bundle=$1; shift ;; esac
# Which versions of Python the bundle has wheels for: a hint, of which nothing is believed before it was checked.
hint=
if [ -f "$bundle/bundle.json" ]; then
    hint=$(head -c 8388608 "$bundle/bundle.json" | sed -n 's/.*"python":\\["\\([0-9.",]*\\)"\\].*/\\1/p' | tr '",' '  ')
fi
found=
wanted=
for version in $hint ''; do
    wanted=$wanted${version:+${wanted:+ or }$version}
    name=${PYTHON:-python${version:-3}}
    said=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2] if sys.version_info >= (3, 11) else "")' \\
        2>/dev/null) || continue
    if [ -n "$said" ] && { [ -z "$version" ] || [ "$said" = "$version" ]; }; then found=$name; break; fi
done
if [ -z "$found" ]; then
    echo "install: no Python ${wanted:-3.11 or later} was found; PYTHON=... names one" >&2
    exit 1
fi
exec "$found" -I - "$bundle" "$@" <<'END_OF_PROGRAM'
{program}END_OF_PROGRAM
"""

_POWERSHELL = """\
# Installs a bundle, the one that this lies in or one that is named:
#     powershell -ExecutionPolicy Bypass -File install.ps1 [-Bundle BUNDLE] -To ROOT -Key FILE [-Json]
# It needs Python 3.11 or later ($env:PYTHON names another than is found) and nothing else, no network.
param(
    [string]$Bundle = $PSScriptRoot,
    [Parameter(Mandatory = $true)][string]$To,
    [Parameter(Mandatory = $true)][string]$Key,
    [switch]$Json
)
$OutputEncoding = New-Object System.Text.UTF8Encoding $false
# Which versions of Python the bundle has wheels for: a hint, of which nothing is believed before it was checked.
$hint = @((Get-Content -Raw -ErrorAction Stop (Join-Path $Bundle 'bundle.json') | ConvertFrom-Json).python)
$candidates = @()
if ($env:PYTHON) { $candidates += , @($env:PYTHON) }
foreach ($version in $hint) { $candidates += , @('py', "-$version"); $candidates += , @("python$version") }
$candidates += , @('python')
$test = 'import sys; sys.exit(''.''.join(map(str, sys.version_info[:2])) not in sys.argv[1:])'
$python = $null
foreach ($candidate in $candidates) {
    if (-not (Get-Command $candidate[0] -ErrorAction SilentlyContinue)) { continue }
    $more = @($candidate | Select-Object -Skip 1)
    & $candidate[0] @more -c $test @hint 2>$null
    if ($LASTEXITCODE -eq 0) { $python = $candidate; break }
}
if (-not $python) {
    [Console]::Error.WriteLine("install: no Python $($hint -join ' or ') was found; `$env:PYTHON names one")
    exit 1
}
$more = @($python | Select-Object -Skip 1)
$program = @'
{program}'@
$silent = @(if ($Json) { '--json' })
$program | & $python[0] @more -I - $Bundle --to $To --key $Key @silent
exit $LASTEXITCODE
"""


def program() -> str:
    """The modules of `bootstrap` as one text, which imports the standard library alone."""
    lines = ["from __future__ import annotations"]
    for module in _MODULES:
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines += [line for line in text.splitlines() if not line.startswith(_LEFT_OUT)]
    return "\n".join(lines) + "\n"


def texts() -> dict[str, str]:
    """Both scripts: name -> text, in ASCII, which every shell reads."""
    return {
        "install.sh": _POSIX.replace("{program}", program()),
        "install.ps1": _POWERSHELL.replace("{program}", program()).replace("\n", "\r\n"),
    }


def write(gathering: Gathering) -> None:
    """Write both."""
    for name, text in texts().items():
        gathering.write(name, text, executable=name.endswith(".sh"))


CONTENT = Content("writing the install scripts", 90, write, installs=True)
