"""Names that trainers put around a model's own: torch.compile, data parallelism, adapters, modules that hold a model.

transformers loads none of them, and begins with random weights instead; the tensors are the model's all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

# No model has parts of these names, so that they mean nothing wherever they stand.
_WRAPPED = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
# These mean nothing where they stand before every tensor and the model has no such names.
_AROUND = ("module.", "base_model.", "model.", "language_model.")
_DEEPEST = 8


def unwrapped(names: Sequence[str], recognised: Callable[[str], bool]) -> list[str]:
    """The names without what stands around all of them: as little is taken off as lets most of them be recognised.

    Args:
        recognised: whether the model has a tensor of such a name.
    """
    plain = [_WRAPPED.sub("", name) for name in names]
    best, most, prefix = 0, -1, ""
    for _ in range(_DEEPEST):
        count = sum(recognised(name[len(prefix) :]) for name in plain)
        if count > most:
            best, most = len(prefix), count
        step = next((word for word in _AROUND if all(name.startswith(prefix + word) for name in plain)), None)
        if step is None:
            break
        prefix += step
    return [name[best:] for name in plain]
