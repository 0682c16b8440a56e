"""Measure what runs an artifact fastest on this machine."""
