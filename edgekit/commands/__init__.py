"""The verbs: one file each, with its options and what it does. A module of this folder that has a VERB is a command.

A verb imports heavy libraries inside its functions, so that `--help` stays instant. What several verbs share stands in
`support`.
"""

from __future__ import annotations

import importlib
import pkgutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One command; its name is its module's, with hyphens.

    Attributes:
        summary: one line, without a capital and a full stop.
        examples: command lines for `--help`, without the program's name.
        add_options: adds its options to a parser; `--json` is there already.
        run: does it and returns the exit code. Raises EdgekitError.
        go_on: what to do where it was interrupted, as one line after the word; empty for what nothing is lost of.
        order: where help lists it; those without a place of their own come last, by name.
    """

    summary: str
    examples: tuple[str, ...]
    run: Callable[[Namespace], int]
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    go_on: str = ""
    order: int = 1000


def verbs() -> dict[str, Verb]:
    """All commands by name, in the order of the help: found in this folder, written down nowhere."""
    modules = [info.name for info in pkgutil.iter_modules(__path__) if not info.ispkg]
    loaded = {name: getattr(importlib.import_module(f"{__name__}.{name}"), "VERB", None) for name in modules}
    known = {name.replace("_", "-"): verb for name, verb in loaded.items() if isinstance(verb, Verb)}
    return dict(sorted(known.items(), key=lambda item: (item[1].order, item[0])))
