"""Gemma 3: MedGemma, and the decoder alone."""

from __future__ import annotations

from edgekit.families.gemma3.family import MEDGEMMA, TEXT_ONLY

FAMILIES = (MEDGEMMA, TEXT_ONLY)
