"""Tables of the hub alone, for which no file lies in a data folder."""

from __future__ import annotations

from edgekit.bench.datasets.base import Reader
from edgekit.bench.datasets.table import read_table

READER = Reader("hub", read_table)
