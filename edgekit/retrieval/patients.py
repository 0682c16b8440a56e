"""What a patient is known by in an index: no number of theirs is kept."""

from __future__ import annotations

import hashlib


def patient_key(salt: bytes, patient: str) -> str:
    """A hash of a patient's number, as `sources.patient_of` makes it; "" where there is none."""
    own = patient.strip().encode("utf-8", "replace")
    return hashlib.sha256(salt + own).hexdigest() if own else ""
