"""Data sets: one file or one row each."""

from edgekit.bench.datasets.radiology import RADIOLOGY, SOURCES, Dataset, Source, load, source

__all__ = ["RADIOLOGY", "SOURCES", "Dataset", "Source", "load", "source"]
