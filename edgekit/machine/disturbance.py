"""What else happened on the machine while something was measured: other programs, a slow clock, heat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

QUIET = 0.05  # of the cores' time, for other work
_CPUS = Path("sys/devices/system/cpu")


@dataclass
class Conditions:
    """Under which something was measured; complete behind `watched`'s block.

    Attributes:
        others_share: of all cores' time, what went to other programs, or to other machines of the same host.
        governor: how the system sets the clock, `performance` for instance; empty where it does not say.
        temperature_c: the hottest sensor at the end; None where there is none.
        throttled: how often heat slowed the CPU down meanwhile; 0 where nobody counts.
        on_battery: whether the machine ran on one, which slows many down.
    """

    others_share: float = 0.0
    governor: str = ""
    temperature_c: float | None = None
    throttled: int = 0
    on_battery: bool = False

    @property
    def disturbed(self) -> str | None:
        """Why its figures are doubtful; None where nothing speaks against them."""
        reasons = []
        if self.others_share > QUIET:
            reasons.append(f"other work took {self.others_share:.0%} of the cores")
        if self.throttled:
            reasons.append(f"heat slowed the CPU {self.throttled} times")
        if self.on_battery:
            reasons.append("on battery")
        return ", ".join(reasons) or None


@contextmanager
def watched(root: Path = Path("/")) -> Iterator[Conditions]:
    """Watch the machine during a block. Work of this process, and of children that it has waited for, is its own.

    Args:
        root: where /sys lies.
    """
    found = Conditions()
    busy, whole, own, throttled = *_machine(), _own(), _throttled(root)
    yield found
    later_busy, later_whole = _machine()
    others = later_busy - busy - (_own() - own)
    found.others_share = round(min(1.0, max(0.0, others / max(later_whole - whole, 1e-9))), 3)
    found.governor = ", ".join(sorted({_text(path) for path in (root / _CPUS).glob("cpu*/cpufreq/scaling_governor")}))
    found.temperature_c = _hottest()
    found.throttled = max(0, _throttled(root) - throttled)
    found.on_battery = on_battery()


def on_battery() -> bool:
    """Whether this machine runs on a battery now; not where the system does not say."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return bool(battery and battery.power_plugged is False)


def _machine() -> tuple[float, float]:
    """Seconds of all cores since the start: busy, and altogether. A guest's are in the user's already."""
    times = psutil.cpu_times()._asdict()
    whole = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    return whole - times["idle"] - times.get("iowait", 0.0), whole


def _own() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _throttled(root: Path) -> int:
    counts = (_text(path) for path in (root / _CPUS).glob("cpu*/thermal_throttle/core_throttle_count"))
    return sum(int(count) for count in counts if count.isdigit())


def _hottest() -> float | None:
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((float(one.current) for several in sensors.values() for one in several), default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
