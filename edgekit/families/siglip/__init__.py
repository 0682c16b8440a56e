"""SigLIP: MedSigLIP, and the tower that MedGemma sees with."""

from __future__ import annotations

from edgekit.families.siglip.family import MEDSIGLIP, VISION_ONLY

FAMILIES = (MEDSIGLIP, VISION_ONLY)
