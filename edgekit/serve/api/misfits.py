"""What does not fit a request's schema, in our words: what is wrong, and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

# In a misfit's place: which of several possible types was tried.
_TYPES = ("str", "int", "bool", "float")
_KINDS = ("list[", "dict[", "function-", "literal[", "tagged-union")

# What pydantic calls it -> what is wrong, and what is allowed.
_WORDS: Mapping[str, tuple[str, str]] = {
    "bool_type": ("no truth value", "true or false"),
    "dict_type": ("no object", "an object"),
    "finite_number": ("no finite number", "a finite number"),
    "float_type": ("no number", "a number"),
    "greater_than_equal": ("too small", "{ge} or more"),
    "int_from_float": ("no whole number", "a whole number"),
    "int_type": ("no whole number", "a whole number"),
    "less_than_equal": ("too large", "{le} or less"),
    "list_type": ("no list", "a list"),
    "literal_error": ("none of its values", "{expected}"),
    "missing": ("missing", "a value, which is needed here"),
    "model_attributes_type": ("no object", "an object"),
    "model_type": ("no object", "an object"),
    "string_type": ("no text", "a text"),
    "string_unicode": ("no text in UTF-8", "a text"),
    "too_long": ("{actual_length} entries", "up to {max_length}"),
    "too_short": ("empty", "one or more"),
}


def first_misfit(problem: ValidationError) -> tuple[str, str, str]:
    """The first thing that does not fit: its place, what is wrong with it, and what is allowed there."""
    found = problem.errors(include_url=False, include_input=False)
    place = _place(found[0])
    here = [_said(one) for one in found if _place(one) == place]
    wrong = here[0][0] if len({wrong for wrong, _ in here}) == 1 else "of another type"
    return place, wrong, ", or ".join(dict.fromkeys(allowed for _, allowed in here))


def _place(misfit: Mapping[str, Any]) -> str:
    parts = [str(part) for part in misfit["loc"]]
    return ".".join(part for part in parts if part not in _TYPES and not part.startswith(_KINDS)) or "body"


def _said(misfit: Mapping[str, Any]) -> tuple[str, str]:
    wrong, allowed = _WORDS.get(misfit["type"], ("not what it must be", "what the documentation says"))
    context = misfit.get("ctx", {})
    return wrong.format_map(context), allowed.format_map(context)
