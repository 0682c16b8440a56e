"""Bundles in registries of containers, and in folders laid out like them: pushed, mirrored, pulled by difference.

A bundle is an OCI image whose configuration is `bundle.json` and that has a layer for each file, as it is, under its
path (`edgekit.pack.registry.image`), so whatever mirrors containers mirrors bundles, and a file that two of them have
is stored and moved once. Who serves an image is not trusted: what is pulled is held against `bundle.json`, file by
file, and that against its signature.
"""
