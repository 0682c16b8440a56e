"""One measurement in a process of its own, and what several of them say together."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from processes import measure

QUIET = 0.05  # of the cores, for other work


def run_job(script: Path, job: Mapping[str, Any], python: str | Path = sys.executable) -> dict[str, Any]:
    """What `python script JOB ANSWER` writes into ANSWER, with `anonymous_bytes`, `file_bytes` and
    `others_share` of that process (see `processes.Cost`).

    Raises:
        SystemExit: it failed; its last output is shown.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(job), encoding="utf-8")
        cost = asdict(measure([python, script, asked, answer], Path(folder), answer))
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return found | {name: cost[name] for name in ("anonymous_bytes", "file_bytes", "others_share")}


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Least, median and greatest of several rounds, and how many there were."""
    found = {"min": min(values), "median": median(values), "max": max(values)}
    return {**{name: round(value, digits) for name, value in found.items()}, "n": len(values)}


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, float]:
    """The spread of quotients, round by round."""
    return spread([o / u for o, u in zip(over, under, strict=True)])


def cell(found: Mapping[str, float], digits: int = 1) -> str:
    """A spread for a table."""
    return f"{found['median']:.{digits}f} ({found['min']:.{digits}f}-{found['max']:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def versions(python: str | Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of an environment's Python and packages."""
    ask = "import importlib.metadata as m, sys; print(sys.version.split()[0], *map(m.version, sys.argv[1:]))"
    done = subprocess.run([str(python), "-c", ask, *packages], capture_output=True, text=True, check=True)
    return dict(zip(("python", *packages), done.stdout.split(), strict=True))


def disturbed(samples: Iterable[Mapping[str, Any]]) -> float | None:
    """The greatest share of the cores that other work took while one of these was measured, None if unknown."""
    shares = [sample.get("others_share") for sample in samples]
    return None if None in shares else max(map(float, filter(None, shares)), default=0.0)


def where(environment: Mapping[str, Any], others_share: float | None = None) -> str:
    """The line that says on what a section was measured, and whether the machine did anything else meanwhile."""
    named = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    commit, changed = (environment["commit"] or "none")[:12], "+" * str(environment["commit"]).endswith("+")
    return (
        f"{environment['cpu']}, {environment['cores']} cores, {' '.join(environment['features'])}. "
        f"{named}. Commit {commit}{changed}. {_meanwhile(others_share)}"
    )


def _meanwhile(others_share: float | None) -> str:
    if others_share is None:
        return "What else ran meanwhile was not recorded."
    disturbed = "**Disturbed:** other" if others_share > QUIET else "Other"
    return f"{disturbed} work took up to {others_share:.0%} of the cores during a sample."
