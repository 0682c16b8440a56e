"""What an answer may be: a JSON document of a schema, one of several texts, a regular expression's, a grammar's.

Each is checked when it is made, without a model: whoever has one has one that some text satisfies. Whatever is sampled
under it (see `edgekit.runtime.grammar.guidance`) satisfies it, once it has ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.errors import InputError
from edgekit.runtime.grammar.compiled import UNFORCED, check_grammar, check_text, dumped, lark
from edgekit.runtime.grammar.lark_checks import check_lark
from edgekit.runtime.grammar.schema_checks import MOST_REGEX, checked_schema, is_recursive

MOST_TEXT = 256_000  # characters of a schema or of all choices
MOST_RULES = 64_000  # of a Lark grammar
MOST_CHOICES = 2_000
MOST_FUNCTIONS = 64

# White space between two tokens of JSON: without a bound, a model may write it until its budget is gone.
_WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,8}"
# One way to write each character, or a name could be written again in another way, which JSON's readers take for it.
_ESCAPES = '"\\bfnrt'
_FUNCTION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN = r"TEXT: /[^{\[`\s](.|\n)*/"  # no beginning of a call, nor of what often stands around one


@dataclass(frozen=True)
class JsonSchema:
    """JSON that satisfies a schema (draft 2020-12), at most eight white space characters between its tokens.

    Keywords that cannot be enforced are refused, never ignored. Properties come in the schema's order. A `format` is
    held as far as a regular expression can tell: February 29 is a `date` in every year. `additionalProperties` are
    allowed where the schema does not forbid them, as the standard says, so most schemas want it `false`.

    Attributes:
        schema: as a mapping or as JSON; afterwards as JSON, without what is only said to readers.

    Raises:
        InputError: it is no schema, too large, recursive without an end, unsatisfiable, or says what is not enforced.

    Examples:
        >>> answer = JsonSchema({"type": "object", "properties": {"finding": {"type": "string"}}})
        >>> JsonSchema({"type": "text"})
        Traceback (most recent call last):
            ...
        edgekit.errors.InputError: the JSON schema: $.type: "text"
        allowed: one or several of null, boolean, integer, number, string, array, object
    """

    schema: Mapping[str, Any] | str

    def __post_init__(self) -> None:
        text = self.schema if isinstance(self.schema, str) else dumped(self.schema)
        check_text(text, "the JSON schema", MOST_TEXT)
        read = dumped(checked_schema(text))
        check_text(read, "the JSON schema", MOST_TEXT)  # again, for what escapes may hide
        object.__setattr__(self, "schema", read)
        check_grammar(self.grammar(), "the JSON schema")

    def grammar(self) -> str:
        """As llguidance reads it.

        Where a schema holds itself and every way out turns out to be closed, what must come has no end.
        """
        if self.recursive:
            return lark(f"start: %json {dumped(self.asked())}\n{UNFORCED}")
        return dumped({"grammars": [{"json_schema": self.asked()}]})

    def asked(self) -> dict[str, Any]:
        """The schema with what llguidance is told beside it."""
        assert isinstance(self.schema, str)
        options = {"whitespace_pattern": _WHITE_SPACE, "json_allowed_escapes": _ESCAPES}
        return {**json.loads(self.schema), "x-guidance": options}

    @property
    def recursive(self) -> bool:
        """Whether the schema may hold itself."""
        assert isinstance(self.schema, str)
        return is_recursive(json.loads(self.schema))


@dataclass(frozen=True, init=False)
class Choice:
    """One of several texts, and nothing else.

    Raises:
        InputError: there is none, one is empty or no Unicode, two are equal, or they are too many.

    Examples:
        >>> Choice("yes", "no").texts
        ('yes', 'no')
    """

    texts: tuple[str, ...]

    def __init__(self, *texts: str) -> None:
        object.__setattr__(self, "texts", texts)
        if not 0 < len(texts) <= MOST_CHOICES:
            raise InputError(f"{len(texts)} choices", allowed=f"1 to {MOST_CHOICES}")
        for number, text in enumerate(texts, 1):
            check_text(text, f"choice {number}", MOST_TEXT)
        if (total := sum(map(len, texts))) > MOST_TEXT:
            raise InputError(f"choices of {total} characters", allowed=f"at most {MOST_TEXT} together")
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise InputError(f"the choice {twice!r:.80} is given twice", allowed="texts that differ")
        check_grammar(self.grammar(), "the choices")

    def grammar(self) -> str:
        """As llguidance reads it: one terminal, whose cost does not grow with their number as that of rules would."""
        return lark("start: TEXT\nTEXT: " + " | ".join(map(json.dumps, self.texts)))


@dataclass(frozen=True)
class Regex:
    """A text of which the whole matches a regular expression, in the dialect of Rust's `regex`.

    That has no look-around and no back-references, and takes time in proportion to the text, whatever it is.

    Raises:
        InputError: it is no such expression, nothing matches it, or it is too large.

    Examples:
        >>> Regex("[0-9]+ mm").pattern
        '[0-9]+ mm'
        >>> Regex("(")
        Traceback (most recent call last):
            ...
        edgekit.errors.InputError: the regular expression cannot be used: unclosed group
    """

    pattern: str

    def __post_init__(self) -> None:
        check_text(self.pattern, "the regular expression", MOST_REGEX)
        check_grammar(self.grammar(), "the regular expression")

    def grammar(self) -> str:
        """As llguidance reads it."""
        from llguidance import LLMatcher

        return LLMatcher.grammar_from_regex(self.pattern)


@dataclass(frozen=True)
class Lark:
    """A text of a context-free grammar: rules and terminals as Lark writes them, beginning with the rule `start`.

    Attributes:
        rules: names, `"texts"`, `/expressions/`, `( )`, `[ ]`, `|`, `*`, `+`, `?`, `{m,n}`, `%import common.NAME`,
            `%ignore`; what else llguidance has, tokens by name and attributes of rules, is refused. A terminal takes
            all that it can, as everywhere in Lark, and an answer that this leaves without an end is cut off.

    Raises:
        InputError: it does not parse, a rule has no end, or it is too large.

    Examples:
        >>> grammar = Lark('''start: size (", " size)*
        ... size: /[0-9]+/ " mm"''')
    """

    rules: str

    def __post_init__(self) -> None:
        check_text(self.rules, "the Lark grammar", MOST_RULES)
        check_lark(self.rules)
        check_grammar(self.grammar(), "the Lark grammar")

    def grammar(self) -> str:
        """As llguidance reads it.

        Terminals are greedy, so after `/xa+/ "a"` has begun, what must come has no end.
        """
        return lark(f"{self.rules}\n{UNFORCED}")


@dataclass(frozen=True)
class Function:
    """One that a model may ask its caller to call.

    Attributes:
        parameters: a JSON schema of an object.

    Raises:
        InputError: it has no such name, or its schema is none that can be held.
    """

    name: str
    parameters: JsonSchema

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _FUNCTION.fullmatch(self.name):
            raise InputError(f"a function named {self.name!r:.80}", allowed="1 to 64 letters, digits, _ and -")
        assert isinstance(self.parameters.schema, str)
        if json.loads(self.parameters.schema).get("type") != "object":
            raise InputError(f"the parameters of {self.name} are no object", allowed='a schema of "type": "object"')


@dataclass(frozen=True)
class Calls:
    """Calls of functions, a line each: `{"name": "NAME", "parameters": {...}}`, white space exactly so between these.

    Attributes:
        functions: which there are.
        required: whether the answer must be calls; else it may be a text, which begins with none of `{`, `[`, a
            backtick or white space, so that it is never taken for a call.
        most: so many calls at once.

    Raises:
        InputError: no function, too many, two of one name, or together they are too large.
    """

    functions: tuple[Function, ...]
    required: bool = False
    most: int = 1

    def __post_init__(self) -> None:
        names = [function.name for function in self.functions]
        if not 0 < len(names) <= MOST_FUNCTIONS or len(set(names)) < len(names):
            raise InputError(f"{len(names)} functions", allowed=f"1 to {MOST_FUNCTIONS}, each with a name of its own")
        if not isinstance(self.most, int) or not 0 < self.most <= MOST_FUNCTIONS:
            raise InputError(f"{self.most!r:.40} calls at once", allowed=f"1 to {MOST_FUNCTIONS}")
        if (total := sum(len(str(function.parameters.schema)) for function in self.functions)) > MOST_TEXT:
            raise InputError(f"functions of {total} characters", allowed=f"at most {MOST_TEXT} together")
        check_grammar(self.grammar(), "the functions")

    def grammar(self) -> str:
        """As llguidance reads it."""
        rules = [f"start: calls{'' if self.required else ' | TEXT'}"]
        rules += [f'calls: call ("\\n" call){{0,{self.most - 1}}}' if self.most > 1 else "calls: call"]
        rules += ["call: " + " | ".join(f"call_{i}" for i in range(len(self.functions)))]
        for i, function in enumerate(self.functions):
            head = json.dumps(f'{{"name": "{function.name}", "parameters": ')
            rules += [f'call_{i}: {head} given_{i} "}}"', f"given_{i}: %json {dumped(function.parameters.asked())}"]
        rules += [] if self.required else [_PLAIN]
        rules += [UNFORCED] if any(function.parameters.recursive for function in self.functions) else []
        return lark("\n".join(rules))


Constraint = JsonSchema | Choice | Regex | Lark | Calls
