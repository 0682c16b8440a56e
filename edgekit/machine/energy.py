"""Energy, where the machine says what it takes: RAPL's counters of a CPU, else a battery that is being discharged.

RAPL (Linux's `powercap`) counts microjoules of each CPU package, and of its memory where that has a counter of its own.
Since 2020 most systems let root alone read it (CVE-2020-8694). A battery says what the whole machine draws now, its
screen included; the mean of both ends of a measurement times its seconds is taken.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Spent:
    """What a measurement took.

    Attributes:
        joules: None where the machine does not say.
        source: `rapl` or `battery`; empty where neither says anything.
    """

    joules: float | None = None
    source: str = ""


@contextmanager
def spent(root: Path = Path("/")) -> Iterator[Spent]:
    """Measure what this machine takes meanwhile, all its programs together; `joules` is there behind the block.

    Args:
        root: where /sys lies.
    """
    found = Spent()
    zones = _zones(root / "sys/class/powercap")
    before, watts, started = [_number(zone / "energy_uj") for zone in zones], _watts(root), time.perf_counter()
    yield found
    seconds, after = time.perf_counter() - started, [_number(zone / "energy_uj") for zone in zones]
    if zones and None not in (*before, *after):
        found.joules, found.source = _counted(zones, before, after), "rapl"
    elif watts is not None and (later := _watts(root)) is not None:
        found.joules, found.source = (watts + later) / 2 * seconds, "battery"


def _zones(powercap: Path) -> list[Path]:
    """CPU packages, and the memory beside them; what lies within a package is counted with it."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's have the same name
        named = _text(zone / "name")
        if named.startswith("package") or named == "dram":
            found.append(zone)
    return found


def _counted(zones: Sequence[Path], before: Sequence[float | None], after: Sequence[float | None]) -> float:
    joules = 0.0
    for zone, start, end in zip(zones, before, after, strict=True):
        assert start is not None, "looked at before"
        assert end is not None, "looked at before"
        around = _number(zone / "max_energy_range_uj") or 0.0 if end < start else 0.0  # the counter began anew
        joules += (end - start + around) / 1e6
    return joules


def _watts(root: Path) -> float | None:
    """What batteries give now; None where none is being discharged, or does not say."""
    drawn = []
    for battery in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(battery / "type") == "Battery" and _text(battery / "status") == "Discharging":
            power, current, volts = (_number(battery / f"{name}_now") for name in ("power", "current", "voltage"))
            if power is None and current is not None and volts is not None:
                power = current * volts / 1e6  # microamperes times microvolts
            drawn.append(power)
    known = [abs(power) / 1e6 for power in drawn if power is not None]
    return sum(known) if known and len(known) == len(drawn) else None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if re.fullmatch(r"-?\d+", text) else None


def _text(path: Path) -> str:
    """A file of the kernel; empty where there is none, or it is not for us to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
