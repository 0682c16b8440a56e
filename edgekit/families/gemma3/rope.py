"""Gemma 3's two rotary embeddings in config.json, in either spelling, as transformers 5 reads them.

Hub files have `rope_theta`, `rope_local_base_freq` and, for the global layers, `rope_scaling`; transformers 5 writes
`rope_parameters` with an object for each kind of layer. What two versions of transformers read differently, and what
they leave unread, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq")
GLOBAL, LOCAL = "full_attention", "sliding_attention"

_IN_GLOBAL, _IN_LOCAL = f"rope_parameters.{GLOBAL}", f"rope_parameters.{LOCAL}"
_KNOWN = {"rope_type", "type", "factor", "rope_theta"}


def rope_fields(text: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta`, `rope_local_base_freq`, `rope_type` and `rope_factor` (of the global layers), unvalidated; those
    that nothing states are left out.

    Args:
        text: the text model's part of config.json.

    Raises:
        ValueError: the keys contradict each other, or say what Gemma 3 in transformers does not read.
    """
    parameters = _object(text, "rope_parameters")
    if unread := sorted(set(parameters) - {GLOBAL, LOCAL}):
        raise ValueError(f"rope_parameters.{unread[0]}: transformers reads {GLOBAL} and {LOCAL} there alone")
    full, local = _object(parameters, GLOBAL), _object(parameters, LOCAL)
    if (local_kind := _kind(local, _IN_LOCAL)) != "default":
        raise ValueError(f"{_IN_LOCAL}.rope_type {local_kind!r:.40} of local layers is not default")
    scaling = _object(text, "rope_scaling")
    if "rope_parameters" not in text or text["rope_parameters"] is None:
        if "type" in scaling and "rope_type" not in scaling:
            raise ValueError(
                f"rope_scaling.type is {scaling['type']!r:.40} and rope_scaling.rope_type is absent: transformers 5 "
                "reads the second alone"
            )
        full = scaling
    else:
        for key, value in scaling.items():
            _agree(f"rope_scaling.{key}", value, f"{_IN_GLOBAL}.{key}", full.get(key))
    if text.get("partial_rotary_factor") not in (None, 1.0):
        raise ValueError(f"partial_rotary_factor {text['partial_rotary_factor']!r:.40}: Gemma 3 turns whole heads")
    kind = _kind(full, _IN_GLOBAL)
    factor = {"rope_factor": full.get("factor")} if kind == "linear" else {}
    return {
        "rope_type": kind,
        **factor,
        **_base(text, "rope_theta", full, _IN_GLOBAL),
        **_base(text, "rope_local_base_freq", local, _IN_LOCAL),
    }


def _base(text: Mapping[str, Any], key: str, inner: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The base under its older name, its newer one, or both where they agree."""
    if "rope_theta" not in inner:
        return {key: text[key]} if key in text else {}
    if text.get(key) is not None:
        _agree(key, text[key], f"{where}.rope_theta", inner["rope_theta"])
    return {key: inner["rope_theta"]}


def _kind(rope: Mapping[str, Any], where: str) -> Any:
    """The type of one rotary embedding, whose other keys must belong to it."""
    if "rope_type" in rope and rope.get("type") is not None:
        _agree(f"{where}.rope_type", rope["rope_type"], f"{where}.type", rope["type"])
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise ValueError(f"{where}: rope type {kind!r:.40} is not one of default, linear")
    known = _KNOWN if kind == "linear" else _KNOWN - {"factor"}
    if unknown := sorted(key for key, value in rope.items() if key not in known and value is not None):
        raise ValueError(f"{where}.{unknown[0]} is {rope[unknown[0]]!r:.40}, which a rope of type {kind} does not have")
    return kind


def _agree(one: str, first: Any, other: str, second: Any) -> None:
    if first != second:
        raise ValueError(f"two answers: {one} is {first!r:.40}, {other} is {second!r:.40}")


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict | None):
        raise ValueError(f"{key}: {found!r:.80} is no JSON object")  # noqa: TRY004 - pydantic reports ValueError only
    return found or {}
