"""Chat templates of others, rendered in a process of its own.

A template is a program. jinja2's sandbox keeps it from the machine, but not from filling memory or never ending, and
what is compiled may be kept. A worker has limits, and takes everything with it when it ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from edgekit.errors import CheckpointError, EdgekitError, InputError
from edgekit.inputs.text import MAX_TEXT, check_text
from edgekit.machine import worker
from edgekit.machine.limits import limit_this_process

Turns = Sequence[Mapping[str, Any]]  # of one conversation, as transformers takes them

_SECONDS = 5  # of computing
_TOO_LONG = "SIGXCPU"  # what ends a process that computed for as long
_MEMORY = 256 << 20
_WAIT_S = 300.0  # imports included, on a busy machine


def render_in_a_worker(template: str, turns: Turns, variables: Mapping[str, Any], where: str) -> str:
    """The text that transformers makes of a conversation by a template, up to where the model answers.

    Args:
        variables: what the template may use beside the turns: `bos_token` and the like.
        where: what messages begin with.

    Raises:
        CheckpointError: it is no template, fails, takes too long or too much memory, or gives no text of a fair length.
    """
    results, end = _rendered(render_by_transformers, template, [turns], variables, where)
    if end.problem or not results:
        raise failure(end, where, CheckpointError)
    return results[0]


def rendered(
    template: str,
    conversations: Sequence[Turns],
    variables: Mapping[str, Any],
    where: str,
    error: type[EdgekitError] = CheckpointError,
) -> tuple[list[str], worker.End]:
    """The texts that edgekit makes of conversations by a template, and how that ended: none follows one that fails.

    Raises:
        CheckpointError: no process can be started, or the machine is too busy for it.
        error: it computes for too long; to ask it otherwise would take as long again.
    """
    results, end = _rendered(render, template, conversations, variables, where)
    if end.died == _TOO_LONG:
        raise failure(end, where, error)
    return results, end


def failure(end: worker.End, where: str, error: type[EdgekitError]) -> EdgekitError:
    """The error for a template that gave nothing."""
    reason = f"{end.problem or 'it gives nothing'!s:.200}"
    if end.died == _TOO_LONG:
        reason = f"it computes for more than {_SECONDS} s"
    return error(
        f"{where}: cannot be rendered: {reason}",
        allowed=f"{_SECONDS} s, {_MEMORY >> 20} MB and {MAX_TEXT} characters",
        remedy=None if error is InputError else "take the template of the original model",
    )


def _rendered(
    render: Callable[[Mapping[str, Any]], Iterator[str]],
    template: str,
    conversations: Sequence[Turns],
    variables: Mapping[str, Any],
    where: str,
) -> tuple[list[str], worker.End]:
    job = {"template": template, "conversations": list(map(list, conversations)), "variables": dict(variables)}
    try:
        results, end = worker.run(render, job, limit_s=_WAIT_S)
    except OSError as error:
        raise CheckpointError(f"{where}: no process can be started to render it in: {error}") from error
    if end.stopped_after_s is not None:  # of waiting, not of computing: it says nothing of the template
        raise CheckpointError(f"{where}: not rendered within {_WAIT_S:.0f} s", remedy="try again later")
    return results, end


# ---------------------------------------------------------------- in the worker: what jinja2 raises is its last line


def render_by_transformers(job: Mapping[str, Any]) -> Iterator[str]:
    """Yields the text of each conversation, as transformers renders it: what a proof compares with."""
    from transformers.utils.chat_template_utils import render_jinja_template

    limit_this_process(_MEMORY, _SECONDS)
    for turns in job["conversations"]:
        texts, _ = render_jinja_template(
            conversations=[turns], chat_template=job["template"], add_generation_prompt=True, **job["variables"]
        )
        check_text(texts[0])
        yield texts[0]


def render(job: Mapping[str, Any]) -> Iterator[str]:
    """Yields the text of each conversation, without transformers, which those who only use a model do not have."""
    environment = _environment()
    limit_this_process(_MEMORY, _SECONDS)
    template = environment.from_string(job["template"])
    for turns in job["conversations"]:
        text = template.render(
            messages=turns, tools=None, documents=None, add_generation_prompt=True, **job["variables"]
        )
        check_text(text)
        yield text


def _environment() -> Any:
    """jinja2's sandbox with what transformers puts into it for chat templates."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks what a model said, for training alone."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's own attribute

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class TemplateNamespace(Namespace):
        """No way to Python's own attributes."""

        def __init__(self, *items: Any, **named: Any) -> None:
            super().__init__(*items, **named)
            if any(str(name).startswith("_") for name in dict(*items, **named)):
                raise SecurityError("a namespace's name that begins with _")

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise SecurityError("a namespace's name that begins with _")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(form: str) -> str:
        return datetime.now().astimezone().strftime(form)

    # A prompt is no HTML: what it quotes must not be escaped.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": lambda *items, **named: dict(*items, **named),
        "namespace": TemplateNamespace,
    }
    return environment
