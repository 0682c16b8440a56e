"""Chat templates of others: rendered as transformers does it, in a worker, and never at the cost of this process."""

from __future__ import annotations

import random
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzz import mutators_template
from material import Copy, edit_json, read_json

from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.errors import CheckpointError, EdgekitError
from edgekit.families.gemma3.template_chat import own_template
from edgekit.families.source import open_source
from edgekit.full_precision.processors import processed
from edgekit.inputs import chat_templates as rendering
from edgekit.inputs.chat_templates import render_in_a_worker
from edgekit.inputs.message import Message

transformers = pytest.importorskip("transformers")

TURNS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\u00b5 {{ x }} <b> "}]},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "why?"},
]
HONEST = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{% if m.content is string %}{{ m.content }}{% endif %}"
    "{% endfor %}",
    "{%- for m in messages %}\n  {% if loop.first %}{% continue %}{% endif %}\n{{ m.content | tojson }}\n{%- endfor %}",
    "{% set n = namespace(x='') %}{% for m in messages %}{% set n.x = n.x ~ m.role %}{% endfor %}{{ n.x | upper }}",
    "{% generation %}{{ messages[-1].content }}{% endgeneration %}{{ add_generation_prompt }}{{ eos_token }}",
)


def rendered(template: str) -> str:
    return render_in_a_worker(template, TURNS, {"bos_token": "<bos>", "eos_token": "<eos>"}, "their template")


def tokenizer(source: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)


@pytest.mark.parametrize("template", HONEST, ids=range(len(HONEST)))
def test_it_gives_what_transformers_gives(template: str, medgemma_source: Path) -> None:
    hub = tokenizer(medgemma_source)
    expected = hub.apply_chat_template(TURNS, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert render_in_a_worker(template, TURNS, hub.special_tokens_map, "theirs") == expected
    # ... and by edgekit's own sandbox, for those who have no transformers
    variables = {name: hub.special_tokens_map[name] for name in ("bos_token", "eos_token")}
    ours, end = rendering.rendered(template, [TURNS, TURNS], variables, "theirs")
    assert (ours, end.problem) == ([expected, expected], None)


# Each costs a worker that imports transformers, so the default run has one of each kind.
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
FAILING = [
    ("{{ 'x' * 10**12 }}{{ 'x'.center(10**11) }}", "MemoryError"),
    ("{{ 'x' * 3000000 }}", "3000000 characters"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
    ("{% for %}", "TemplateSyntaxError"),
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
]
MORE_FAILING = [
    (ENDLESS, "more than 5 s"),
    ("{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}", "MemoryError"),
    ("{{ '%*d' % (10**11, 1) }}", "MemoryError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ x.y.z }}", "UndefinedError"),
    ("{{ 1 | length }}", "TypeError"),
    ("{{ 'x' * (1e308 | int) }}", "OverflowError"),
    ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ("{{ '\\ud800' }}", "not valid Unicode"),
]


def fails(template: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=f"^their template: cannot be rendered: .*{reason}"):
        rendered(template)


@pytest.mark.parametrize(("template", "reason"), FAILING, ids=[reason for _, reason in FAILING])
def test_what_fails_or_never_ends_is_one_typed_error(template: str, reason: str) -> None:
    fails(template, reason)


@pytest.mark.slow
@pytest.mark.parametrize(("template", "reason"), MORE_FAILING, ids=range(len(MORE_FAILING)))
def test_more_that_fails_is_one_typed_error(template: str, reason: str) -> None:
    fails(template, reason)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% set n = namespace(_a=1) %}", "SecurityError"),
        ("{{ dict.__globals__.x }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 'x' * 10**12 }}", "MemoryError"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_edgekits_own_sandbox_holds(template: str, reason: str) -> None:
    texts, end = rendering.rendered(template, [TURNS], {}, "theirs")
    assert not texts
    assert reason in str(end.problem)


@pytest.mark.skipif(sys.platform == "win32", reason="a process has no limits of its own there")
def test_one_that_never_ends_is_tried_once() -> None:
    """It is asked for several things, each of which would take as long again."""
    import resource

    def computed() -> float:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime

    before = computed()
    with pytest.raises(CheckpointError, match=r"^theirs: cannot be rendered: .*more than 5 s\n") as caught:
        own_template(ENDLESS, {"bos_token": "<bos>"}, True, "theirs")
    assert "5 s" in str(caught.value.allowed)
    assert "original model" in str(caught.value.remedy)
    assert computed() - before < 9


def test_nothing_is_left_behind(medgemma_source: Path) -> None:
    """Neither state between two renderings, nor a module or a thread in this process."""
    script = "{% set n = namespace(x=0) %}{% set n.x = n.x + 1 %}{{ n.x }}{{ messages.append(1) if false else '' }}"
    before, threads = set(sys.modules), set(threading.enumerate())
    assert rendered(script) == rendered(script) == "1"
    assert not {name for name in set(sys.modules) - before if "jinja2" in name}
    left = set(threading.enumerate()) - threads
    for thread in left:
        thread.join(30)  # the timer of a worker that has just ended
    assert not any(thread.is_alive() for thread in left)


# ---------------------------------------------------------------- a checkpoint's own


def with_template(source: Path, copied: Copy, template: str) -> Path:
    folder = copied(source)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    edit_json(folder / "tokenizer_config.json", {"chat_template": ...})
    return folder


def test_a_checkpoints_own_template_is_what_a_proof_compares_with(medgemma_source: Path, copied: Copy) -> None:
    template = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content[0].text }}{% endfor %}"
    source = open_source(with_template(medgemma_source, copied, template))
    ids = processed(source, [Message("user", "The lungs")])["input_ids"]
    assert ids == tokenizer(medgemma_source)("<bos><|user|>The lungs", add_special_tokens=False)["input_ids"]


def test_a_hostile_template_of_a_checkpoint(medgemma_source: Path, copied: Copy) -> None:
    source = open_source(with_template(medgemma_source, copied, "{{ 'x' * 10**12 }}"))
    with pytest.raises(CheckpointError, match="chat template: cannot be rendered: MemoryError"):
        processed(source, [Message("user", "a")])


def test_a_template_that_claims_an_image(medgemma_source: Path, copied: Copy) -> None:
    source = open_source(with_template(medgemma_source, copied, "<start_of_image>"))
    with pytest.raises(CheckpointError, match="refuses what its chat template gives"):
        processed(source, [Message("user", "a")])


def test_its_size_is_bounded(medgemma_source: Path, copied: Copy) -> None:
    folder = with_template(medgemma_source, copied, "x" * (1 << 17))
    assert open_checkpoint(folder).chat_template() == "x" * (1 << 17)
    with (folder / "chat_template.jinja").open("a") as file:
        file.write("x")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: 131073 bytes"):
        open_checkpoint(folder).chat_template()
    (folder / "chat_template.jinja").unlink()
    for template, message in (("\u00b5" * (1 << 17), "262144 bytes"), ("\ud800", "half a character")):
        edit_json(folder / "tokenizer_config.json", {"chat_template": template})
        assert read_json(folder / "tokenizer_config.json")["chat_template"] == template
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder).chat_template()


# ---------------------------------------------------------------- damaged at random


def mutants(start: int, count: int) -> list[str]:
    seeds = mutators_template.seeds()
    made = (mutators_template.mutate(random.Random(i), seeds[i % len(seeds)]) for i in range(start, start + count))
    return [template.decode("utf-8", "replace") for template in made]


def rendered_or_refused(template: str) -> None:
    with suppress(EdgekitError):
        assert isinstance(rendered(template), str)


@pytest.mark.parametrize("template", mutants(0, 2), ids=range(2))
def test_a_damaged_template_is_rendered_or_refused(template: str) -> None:
    rendered_or_refused(template)


@pytest.mark.slow
def test_many_damaged_templates_are_rendered_or_refused() -> None:
    for template in mutants(1000, 300):
        rendered_or_refused(template)
