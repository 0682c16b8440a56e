"""What is said of an answer beside its text: why it ended, what it took, how likely its tokens were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekit.serve.api.tools import CallReader

# What a finished generation `stopped` at, in OpenAI's words. Whatever cut the answer is a length: it is not whole.
_REASONS = {"end": "stop", "stop": "stop"}

Answer = Mapping[str, Any]  # the body of an `answer` event


def finish_reason(answer: Answer, reader: CallReader | None = None) -> str:
    """Why it ended: `stop`, `length`, or `tool_calls` where it called functions and none of the calls was cut.

    Args:
        reader: what has read the answer, where functions could be called.
    """
    reason = _REASONS.get(answer["stopped"], "length")
    if reader is None or reader.is_plain:
        return reason
    return "tool_calls" if reader.is_whole and reason == "stop" else "length"


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Tokens of a request's answers, which share one prompt."""
    prompt, output = answers[0]["prompt_tokens"], sum(answer["output_tokens"] for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": answers[0]["cached_tokens"]},
        "completion_tokens_details": {"reasoning_tokens": sum(answer["thinking_tokens"] for answer in answers)},
    }


def timings(answers: Sequence[Answer]) -> dict[str, Any]:
    """What reading the prompt and writing took, by the names of llama.cpp's server, which clients show.

    The prompt's time has everything up to the first token in it: images, and waiting for others.
    """
    cached = answers[0]["cached_tokens"]
    read, read_s = answers[0]["prompt_tokens"] - cached, answers[0]["first_token_s"]
    wrote, wrote_s = sum(answer["output_tokens"] for answer in answers), sum(answer["decode_s"] for answer in answers)
    behind_the_first = sum(max(answer["output_tokens"] - 1, 0) for answer in answers)
    return {
        "cache_n": cached,
        "prompt_n": read,
        "prompt_ms": 1000 * read_s,
        "prompt_per_second": _rate(read, read_s),
        "predicted_n": wrote,
        "predicted_ms": 1000 * wrote_s,
        "predicted_per_second": _rate(behind_the_first, wrote_s),
    }


def warnings(answers: Iterable[Answer]) -> list[str]:
    """What the user must know."""
    return [text for answer in answers for text in answer["warnings"]]


def logprobs(tokens: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens as chat and responses have them."""
    return [{**_token(token), "top_logprobs": [_token(other) for other in token["top"]]} for token in tokens]


def written(token: Mapping[str, Any]) -> str:
    """A token as text, also one that is a part of a character."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token["bytes"]) if "bytes" in token else str(token["text"])


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    said = list(token["bytes"]) if "bytes" in token else list(token["text"].encode())
    return {"token": written(token), "logprob": token["logprob"], "bytes": said}


def _rate(count: int, seconds: float) -> float | None:
    """None where nothing was measured, as behind the first token of an answer that has one."""
    return count / seconds if count and seconds > 0 else None
