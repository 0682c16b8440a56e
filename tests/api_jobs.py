"""What an engine of the API's tests does where no reference model can: it thinks first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edgekit.runtime.model import Generation
from edgekit.serve.jobs import Event, Job


def think(model: Any, job: Job, cancelled: threading.Event) -> Iterator[Event]:
    """Says how it was asked to think, and thinks so."""
    options = job.body["options"]
    thought = f"{options.get('thinking')} {options.get('thinking_tokens')}"
    finished = Generation("Yes.", 9, 7, False, 0.5, 0.25, thoughts=thought, thinking_tokens=5)
    for thinking, text in ((True, thought[:3]), (True, thought[3:]), (False, "Yes.")):
        yield Event("piece", {"text": text, "number": 0, "thinking": thinking})
    yield Event("answer", vars(replace(finished, warnings=("a warning",))))
