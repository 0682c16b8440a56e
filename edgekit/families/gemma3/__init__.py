"""Gemma 3: MedGemma, and the decoder alone."""
