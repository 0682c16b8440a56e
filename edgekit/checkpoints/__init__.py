"""Checkpoints: safetensors, read with bounds and in slices, and the hub."""
