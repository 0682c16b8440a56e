"""Chat templates of others, rendered by transformers in a process of its own.

A template is a program. jinja2's sandbox keeps it from the machine, but not from filling memory or never ending, and
what transformers compiles it keeps. A worker has limits, and takes everything with it when it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgekit.errors import CheckpointError
from edgekit.inputs.text import MAX_TEXT, check_text
from edgekit.machine import worker
from edgekit.machine.limits import limit_this_process

_SECONDS = 5  # of computing
_MEMORY = 256 << 20
_WAIT_S = 300.0  # imports included, on a busy machine


def render_in_a_worker(
    template: str, turns: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], where: str
) -> str:
    """The text that a template makes of a conversation, up to where the model answers.

    Args:
        turns: messages as transformers takes them.
        variables: what the template may use beside them: `bos_token` and the like.
        where: what messages begin with.

    Raises:
        CheckpointError: it is no template, fails, takes too long or too much memory, or gives no text of a fair length.
    """
    job = {"template": template, "turns": list(turns), "variables": dict(variables)}
    try:
        results, end = worker.run(render, job, limit_s=_WAIT_S)
    except OSError as error:
        raise CheckpointError(f"{where}: no process can be started to render it in: {error}") from error
    if end.problem or not results:
        raise CheckpointError(
            f"{where}: cannot be rendered: {_reason(end)}",
            allowed=f"{_SECONDS} s, {_MEMORY >> 20} MB and {MAX_TEXT} characters",
            remedy="take the template of the original model",
        )
    return str(results[0])


def _reason(end: worker.End) -> str:
    if end.died == "SIGXCPU":
        return f"it computes for more than {_SECONDS} s"
    return f"{end.problem or 'it gives nothing'!s:.200}"


def render(job: Mapping[str, Any]) -> Iterator[str]:
    """In the worker: yields the text. Whatever jinja2 raises ends the process, and is its last line."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_this_process(_MEMORY, _SECONDS)
    rendered, _ = render_jinja_template(
        conversations=[job["turns"]],
        chat_template=job["template"],
        add_generation_prompt=True,
        **job["variables"],
    )
    check_text(rendered[0])
    yield rendered[0]
