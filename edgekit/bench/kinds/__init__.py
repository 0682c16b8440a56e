"""Task kinds: one file of this folder each, which holds everything that is particular to it; a file added is found.

file               asks                                                          figure
labels             which of the data set's labels fits an image best             accuracy, balanced accuracy
finding            a question, answered freely, parsed                           accuracy, balanced accuracy
yesno              yes/no questions, as many of either answer, parsed            accuracy, balanced accuracy
text_fidelity      running text                                                  perplexity, KL, top-1 agreement
decoder_fidelity   full precision's own answers, forced                          KL divergence, changed answers
encoder_fidelity   full precision's embeddings of images and prompts             cosine
latency            how long it takes and how much memory                         medians over rounds
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import get_args

from edgekit.bench.kinds.base import Task

__all__ = ["Task", "kinds", "of_machine"]


@cache
def kinds() -> Mapping[str, type[Task]]:
    """Name -> the class of its tasks, by the files' alphabet: every class in them whose `kind` is a `Literal`."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__, f"{__name__}."))
    values = [value for name in names for value in vars(importlib.import_module(name)).values()]
    classes = [value for value in values if isinstance(value, type) and issubclass(value, Task)]
    return MappingProxyType({kind: task for task in classes for kind in get_args(task.model_fields["kind"].annotation)})


def of_machine(kind: str) -> bool:
    """Whether the figures of this kind's tasks are times and memory; those of a kind that nobody knows may be."""
    known = kinds().get(kind)
    return known is None or known.in_rounds
