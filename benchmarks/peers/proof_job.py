"""One proof in a process of its own: python proof_job.py JOB ANSWER.

`folder`, `source`, `level`: proves one variant that is not proven yet, and gives what the manifest says of its parts
then, with seconds of wall and CPU time and the peak of its own memory for each phase that the proof reports.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edgekit.progress import Progress
from edgekit.prove.publish import prove

_POLL_SECONDS = 0.05


class Phases(Progress):
    """Phases as they come, with what each took. The time before the first is its own: opening and hashing."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self._ended = threading.Event()
        self._begin("opening")
        self._watch = threading.Thread(target=self._poll, daemon=True)
        self._watch.start()

    def start(self, label: str, total: int) -> None:
        """The one before is done."""
        self._end()
        self._begin(label)

    def stop(self) -> list[dict[str, Any]]:
        """All phases."""
        self._end()
        self._ended.set()
        self._watch.join()
        return self.found

    def _begin(self, label: str) -> None:
        self._since = time.perf_counter(), time.process_time()
        self.found.append({"phase": label, "seconds": 0.0, "cpu_seconds": 0.0, "anonymous_bytes": _anonymous()})

    def _end(self) -> None:
        now = time.perf_counter(), time.process_time()
        for name, late, early in zip(("seconds", "cpu_seconds"), now, self._since, strict=True):
            self.found[-1][name] = round(late - early, 2)

    def _poll(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            phase = self.found[-1]
            phase["anonymous_bytes"] = max(phase["anonymous_bytes"], _anonymous())


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Prove, and say what it took."""
    phases, folder = Phases(), Path(job["folder"])
    manifest = prove(folder, Path(job["source"]), levels=[job["level"]], progress=phases).manifest
    parts = manifest.variant(job["level"])[1].values()
    return {
        "phases": phases.stop(),
        "parts": [
            part.model_dump(mode="json", include={"role", "level", "format", "bits_per_weight", "parity"})
            for part in parts
        ],
    }


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(asked)), encoding="utf-8")
