"""Chat templates that no model has: programs that never end, fill memory, recurse, or are no templates at all."""

from __future__ import annotations

import random

from edgekit.errors import EdgekitError
from edgekit.families.gemma3.chat import chat_template
from edgekit.inputs.chat_templates import render_in_a_worker

_TURNS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A {{ phantom }}."}]},
    {"role": "user", "content": [{"type": "text", "text": "<b>{% raw %}"}]},
]
_NUMBERS = ("0", "-1", "3", "99999", "100000", "10**9", "10**12", "1" + "0" * 5000, "1e308", "true", "none", "messages")
_PROGRAMS = (
    "{% for a in range(N) %}{% for b in range(N) %}x{% endfor %}{% endfor %}",
    "{% for a in range(N) %}{% for b in range(N) %}{% endfor %}{% endfor %}",
    "{{ 'x' * N }}",
    "{{ [messages] * N }}",
    "{{ 'x'.center(N) }}",
    "{{ 'x'|center(N) }}",
    "{{ 'a\nb'|indent(N) }}",
    "{{ '%*d' % (N, 1) }}",
    "{{ '{:>N}'.format(1) }}",
    "{{ 'x'.ljust(N).replace('', 'y') }}",
    "{{ messages|tojson(indent=N) }}",
    "{{ lipsum(n=N) }}",
    "{{ range(N)|batch(N)|list }}",
    "{{ N ** N ** N }}",
    "{{ N|round(N) }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set n = namespace(x='ab') %}{% for i in range(N) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ self.__init__ }}",
    "{{ messages[N].content }}",
    "{{ raise_exception('no\nway') }}",
    "{{ strftime_now('%' * N) }}",
    "{{ undefined.attribute.of }}",
    "{% include 'other' %}",
    "{% extends 'other' %}",
    "{% import 'os' as os %}",
    "{% set messages = N %}",
    "{% generation %}x",
    "{{ '\\ud800' }}",
    "{{ ('<' * N)|striptags }}",
    "{{ ('a@' * N)|urlize }}",
)


def seeds() -> list[bytes]:
    """Gemma 3's own template, and one of another family."""
    others = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    return [chat_template().encode(), others.encode()]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Another template; the same for the same state of `rng`."""
    text = data.decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind, at = rng.randrange(8), rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.randrange(1, 40))
        if kind < 3:
            program = rng.choice(_PROGRAMS).replace("N", rng.choice(_NUMBERS))
            text = rng.choice((program, text + program, program + text, text[:at] + program + text[at:]))
        elif kind == 3:
            deep = rng.choice((20, 2000, 50_000))
            opening, closing = rng.choice(
                (("{% if 1 %}", "{% endif %}"), ("{{ (", ") }}"), ("{{ [", "] }}"), ("{#", "#}"))
            )
            text = opening * deep + text + closing * deep
        elif kind == 4:
            text = text[:at] + text[end:]
        elif kind == 5:
            text = text[:at] + text[at:end] * rng.choice((2, 9, 3000)) + text[end:]
        elif kind == 6:
            text = (
                text[:at] + rng.choice(("{{", "}}", "{%", "%}", "|", "'", "(", "\0", "\u2028", "-", "**")) + text[at:]
            )
        else:
            words = ("messages", "message", "content", "loop", "is", "not", "%}", "{{", "if", "for", "set", "role")
            text = text.replace(rng.choice(words), rng.choice(words), rng.choice((1, 1, -1)))
    return text.encode("utf-8", "replace")


def differential(data: bytes) -> str | None:
    """What escaped when a template was rendered; None where it gave a text or a typed error."""
    try:
        render_in_a_worker(data.decode("utf-8", "replace"), _TURNS, {"bos_token": "<bos>"}, "a template")
    except EdgekitError:
        return None
    except Exception as error:  # noqa: BLE001 - what escapes is the answer
        return repr(error)
    return None
