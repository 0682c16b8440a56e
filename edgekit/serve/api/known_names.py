"""Parameters that this server passes over in silence, and what to use in place of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgekit.terminal import printable, shortened

_MOST_SAID, _MOST_LENGTH = 5, 40

# What clients send of themselves, of their bookkeeping or of how fast they are served: no answer depends on it.
HARMLESS: frozenset[str] = frozenset(
    {
        "background_tasks",
        "cache_prompt",
        "cache_salt",
        "chat_id",
        "client_metadata",
        "features",
        "id",
        "id_slot",
        "include",
        "keep_alive",
        "message_id",
        "metadata",
        "n_keep",
        "parallel_tool_calls",
        "priority",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_format",
        "request_id",
        "return_progress",
        "safety_identifier",
        "service_tier",
        "session_id",
        "slot_id",
        "spaces_between_special_tokens",
        "store",
        "stream",
        "stream_options",
        "timings_per_token",
        "user",
    }
)

_FORM = 'response_format: {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}'
_CHOICE = f'{_FORM}, with the schema {{"enum": [...]}}'
_BUDGET = "max_tokens"
_THOUGHT = "reasoning_effort"
_SHOWN = "images as parts of a message's content"

# A name that others know, or edgekit in Python -> how the same is asked of an answer here.
INSTEAD: Mapping[str, str] = {
    "choice": _CHOICE,
    "constraint": _FORM,
    "enable_thinking": _THOUGHT,
    "format": _FORM,
    "guided_choice": _CHOICE,
    "guided_json": _FORM,
    "image": _SHOWN,
    "image_data": _SHOWN,
    "images": _SHOWN,
    "json_schema": _FORM,
    "max_new_tokens": _BUDGET,
    "max_output_tokens": _BUDGET,
    "multi_modal_data": _SHOWN,
    "n_predict": _BUDGET,
    "num_ctx": "--context, where the server is started",
    "num_predict": _BUDGET,
    "range": '"range": [LOW, HIGH] or "auto" beside an image\'s url',
    "reasoning": _THOUGHT,
    "response_schema": _FORM,
    "stop_sequences": "stop",
    "structured_outputs": _FORM,
    "system": "a message of the role system",
    "think": _THOUGHT,
    "thinking": _THOUGHT,
    "thinking_tokens": _THOUGHT,
}


def ignored(names: Iterable[str]) -> list[str]:
    """A warning of parameters that nobody here knows: who misspelled one would not see that nothing came of it."""
    unknown = sorted(set(names) - HARMLESS)
    if not unknown:
        return []
    said = ", ".join(shortened(printable(name), _MOST_LENGTH) for name in unknown[:_MOST_SAID])
    more = f" and {len(unknown) - _MOST_SAID} more" if len(unknown) > _MOST_SAID else ""
    return [f"ignored, as parameters that are not known here: {said}{more}"]
