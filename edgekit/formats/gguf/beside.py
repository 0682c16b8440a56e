"""What a GGUF file holds beside its tensors' data, in bytes: known before it is written, and without `gguf`.

By the format's specification: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from edgekit.formats.gguf.form import GgufForm
from edgekit.formats.gguf.writer import ALIGNMENT
from edgekit.formats.plan import PartPlan

_HEAD_BYTES = 24  # magic, version, numbers of tensors and of keys
_TENSOR_BYTES = 8 + 4 + 4 + 8  # length of its name, number of sides, type, offset
_SIDE_BYTES = 8
_KEYS_BYTES = 1650  # names and values of a decoder's keys without its vocabulary; a projector has fewer


def beside(plan: PartPlan, stem: str) -> int:
    """The header, and zeros up to the next multiple of the alignment behind it and behind each tensor."""
    form: GgufForm = plan.form
    names = form.tensors(plan.config)
    head = _HEAD_BYTES + _KEYS_BYTES + form.vocabulary_bytes(plan)
    for planned in plan.tensors:
        head += _TENSOR_BYTES + len(names[planned.name].name) + _SIDE_BYTES * len(planned.shape)
    return head + -head % ALIGNMENT + sum(-planned.bytes % ALIGNMENT for planned in plan.tensors)
