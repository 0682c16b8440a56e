"""Exporters: each only writes, into a staging folder; `edgekit.prove` judges what they wrote."""
