"""Whether a chat template has words for nothing but Gemma's turns.

What a template renders of some conversations says nothing of others: one may look for a word, a date or a seventh turn.
One that has no such words in it cannot.
"""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, TemplateError, nodes

_TEXT = re.compile(
    r"(?:<start_of_turn>|<end_of_turn>|<start_of_image>|<bos>|model|user|assistant|system|role|content|type|text|image|\s)*"
)
_NAMES = frozenset({"messages", "bos_token", "add_generation_prompt", "loop", "raise_exception"})
_ATTRIBUTES = frozenset({"role", "content", "type", "text", "index", "index0", "first", "last", "previtem", "nextitem"})
_METHODS = frozenset({"strip", "get"})
_TESTS = frozenset({"string", "iterable", "mapping", "sequence", "defined", "none", "even", "odd"})
_GREATEST = 2  # a number beyond could count turns or images
_PLAIN = (
    nodes.Template, nodes.Output, nodes.If, nodes.For, nodes.Assign, nodes.CondExpr, nodes.Compare, nodes.Operand,
    nodes.And, nodes.Or, nodes.Not, nodes.Getitem, nodes.Slice, nodes.Concat, nodes.Dict, nodes.Pair, nodes.NSRef,
    nodes.Keyword,
)  # fmt: skip


def says_only_gemmas(text: str) -> bool:
    """Whether every literal, name, filter and test of a template is one that Gemma's turns need."""
    try:
        parsed = Environment().parse(text)  # noqa: S701 - it is read, not rendered
        names = _NAMES | {name.name for name in parsed.find_all(nodes.Name) if name.ctx == "store"}
        names |= {place.attr for place in parsed.find_all(nodes.NSRef)}
        return _plain(parsed, names)
    except (TemplateError, RecursionError):
        return False


def _plain(node: Any, names: frozenset[str] | set[str]) -> bool:
    match node:
        case nodes.Call(node=nodes.Name(name="raise_exception")):  # what it complains of reaches no model
            return True
        case nodes.Call(node=nodes.Name(name="namespace")):
            return all(_plain(value, names) for value in node.kwargs) and not node.args
        case nodes.Call(node=nodes.Getattr(attr=method, node=subject)) if method in _METHODS:
            return all(_plain(child, names) for child in (subject, *node.args)) and not node.kwargs
        case nodes.Call():
            return False
    return _is_known(node, names) and all(_plain(child, names) for child in node.iter_child_nodes())


def _is_known(node: Any, names: frozenset[str] | set[str]) -> bool:
    known: bool
    match node:
        case nodes.Const(value=str(text)) | nodes.TemplateData(data=str(text)):
            known = _TEXT.fullmatch(text) is not None
        case nodes.Const(value=value):
            known = value is None or (isinstance(value, bool | int) and abs(value) <= _GREATEST)
        case nodes.Name(name=name):
            known = name in names
        case nodes.Getattr(attr=name):
            known = name in _ATTRIBUTES or name in names
        case nodes.Filter(name=name):
            known = name == "trim"
        case nodes.Test(name=name):
            known = name in _TESTS
        case nodes.Add() | nodes.Mod():  # of texts; of the number of a turn and two
            known = isinstance(node, nodes.Mod) or not any(
                isinstance(side, nodes.Const) and not isinstance(side.value, str) for side in (node.left, node.right)
            )
        case _:
            known = isinstance(node, _PLAIN)
    return known
