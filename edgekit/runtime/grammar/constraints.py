"""What an answer may be: a JSON document of a schema, one of several texts, a regular expression's, a grammar's.

Each is checked when it is made, without a model: whoever has one has one that some text satisfies. Whatever is sampled
under it (see `edgekit.runtime.grammar.guidance`) satisfies it, once it has ended.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgekit.errors import InputError
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
# The library asks itself what must come, and never stops where that has no end.
_UNFORCED = '%llguidance {"no_forcing": true}'
_FUNCTION = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PLAIN = r"TEXT: /[^{\[`\s](.|\n)*/"  # no beginning of a call, nor of what often stands around one
_LEXER_STATES = 50_000  # about 100 MB at most


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
        text = self.schema if isinstance(self.schema, str) else _dumped(self.schema)
        _check_text(text, "the JSON schema", MOST_TEXT)
        read = _dumped(checked_schema(text))
        _check_text(read, "the JSON schema", MOST_TEXT)  # again, for what escapes may hide
        object.__setattr__(self, "schema", read)
        _check_grammar(self)

    def grammar(self) -> str:
        """As llguidance reads it.

        Where a schema holds itself and every way out turns out to be closed, what must come has no end.
        """
        if self.recursive:
            return _lark(f"start: %json {_dumped(self.asked())}\n{_UNFORCED}")
        return _dumped({"grammars": [{"json_schema": self.asked()}]})

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
            _check_text(text, f"choice {number}", MOST_TEXT)
        if (total := sum(map(len, texts))) > MOST_TEXT:
            raise InputError(f"choices of {total} characters", allowed=f"at most {MOST_TEXT} together")
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise InputError(f"the choice {twice!r:.80} is given twice", allowed="texts that differ")
        _check_grammar(self)

    def grammar(self) -> str:
        """As llguidance reads it: one terminal, whose cost does not grow with their number as that of rules would."""
        return _lark("start: TEXT\nTEXT: " + " | ".join(map(json.dumps, self.texts)))


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
        _check_text(self.pattern, "the regular expression", MOST_REGEX)
        _check_grammar(self)

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
        _check_text(self.rules, "the Lark grammar", MOST_RULES)
        check_lark(self.rules)
        _check_grammar(self)

    def grammar(self) -> str:
        """As llguidance reads it.

        Terminals are greedy, so after `/xa+/ "a"` has begun, what must come has no end.
        """
        return _lark(f"{self.rules}\n{_UNFORCED}")


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
        _check_grammar(self)

    def grammar(self) -> str:
        """As llguidance reads it."""
        rules = [f"start: calls{'' if self.required else ' | TEXT'}"]
        rules += [f'calls: call ("\\n" call){{0,{self.most - 1}}}' if self.most > 1 else "calls: call"]
        rules += ["call: " + " | ".join(f"call_{i}" for i in range(len(self.functions)))]
        for i, function in enumerate(self.functions):
            head = json.dumps(f'{{"name": "{function.name}", "parameters": ')
            rules += [f'call_{i}: {head} given_{i} "}}"', f"given_{i}: %json {_dumped(function.parameters.asked())}"]
        rules += [] if self.required else [_PLAIN]
        rules += [_UNFORCED] if any(function.parameters.recursive for function in self.functions) else []
        return _lark("\n".join(rules))


Constraint = JsonSchema | Choice | Regex | Lark | Calls

_WHAT = {
    Calls: "the functions",
    JsonSchema: "the JSON schema",
    Choice: "the choices",
    Regex: "the regular expression",
    Lark: "the Lark grammar",
}


def limits() -> Any:
    """What a grammar may take: it ends in an error within a second or two, not in a full memory."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=_LEXER_STATES, verbose_errors=False)


def complaint(text: str) -> str:
    """The line that says what is wrong, of one of llguidance's messages: it quotes the grammar around it."""
    lines = text.splitlines() or ["nothing satisfies it"]
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return "llguidance fails on it" if said.startswith("panic") else said.split("compile JSON schema: ")[-1]


def _lark(rules: str) -> str:
    return _dumped({"grammars": [{"lark_grammar": rules}]})


def _dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # no JSON, NaN, or a value that holds itself
        raise InputError(f"the JSON schema is no JSON: {error}") from error


def _check_text(text: object, what: str, most: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} is a {type(text).__name__}", allowed="text")
    if not 0 < len(text) <= most:
        raise InputError(f"{what} has {len(text)} characters", allowed=f"1 to {most}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode at character {error.start}", allowed="UTF-8") from error


@cache
def _bytes() -> Any:
    """A tokenizer of single bytes: enough to see that a grammar can begin, whatever the model."""
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _check_grammar(constraint: Constraint) -> None:
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes(), constraint.grammar(), log_level=0, limits=limits())
    first = 0
    if not matcher.is_error():
        first = int.from_bytes(matcher.compute_bitmask(), "little") & ~(1 << _bytes().eos_token)
    if matcher.is_error():
        said = complaint(matcher.get_error())
        said = "nothing satisfies it" if said.startswith("NoExtension") else said
        raise InputError(f"{_WHAT[type(constraint)]} cannot be used: {said}")
    if not first:
        raise InputError(f"{_WHAT[type(constraint)]} cannot be used: nothing but the empty text satisfies it")
