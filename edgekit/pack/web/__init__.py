"""A classifier as a web app that needs no network once it was opened: a folder for any static file server."""

from __future__ import annotations

from edgekit.pack.web.build import WebApp, build

__all__ = ["WebApp", "build"]
