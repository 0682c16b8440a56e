"""edgekit's own version, which every artifact and every record states."""

__version__ = "0.1.0"
