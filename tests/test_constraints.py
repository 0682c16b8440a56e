"""Constraints: what has no meaning is refused at once; what is sampled under one satisfies it, whatever was sampled."""

from __future__ import annotations

import doctest
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import edgekit
from edgekit.errors import InputError, UsageError
from edgekit.runtime.grammar import constraints
from edgekit.runtime.grammar.constraints import Calls, Choice, Constraint, Function, JsonSchema, Lark, Regex
from edgekit.runtime.grammar.guidance import GrammarTokenizer, Matcher

REFERENCE = Path(edgekit.__file__).parent / "reference_models" / "medgemma-reference"
ENDS = json.loads((REFERENCE / "generation_config.json").read_text())["eos_token_id"]
ROWS = json.loads((REFERENCE / "config.json").read_text())["text_config"]["vocab_size"]

sampled = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(REFERENCE / "tokenizer.json"))


@cache
def grammar_tokenizer() -> GrammarTokenizer:
    return GrammarTokenizer(tokenizer(), ENDS, ROWS)


def matcher(constraint: Constraint) -> Matcher:
    return grammar_tokenizer().matcher(constraint)


def ids(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def takes(constraint: Constraint, text: str) -> bool:
    """Whether a text is an answer, as the tokenizer writes it."""
    tokens = [*ids(text), ENDS[-1]]
    return matcher(constraint).validate(tokens) == len(tokens)


def sample(constraint: Constraint, seed: int, budget: int = 200, end: float = 4.0) -> tuple[str, bool]:
    """The text that random logits make under masks, and whether it ended; end tokens are likelier by `end`."""
    chance = np.random.default_rng(seed)
    following, taken = matcher(constraint), list[int]()
    while not following.ended and len(taken) < budget:
        if forced := following.forced():
            for token in forced:
                following.accept(token)
            taken += forced
            continue
        logits = chance.gumbel(size=ROWS).astype(np.float32)
        logits[ENDS] += end
        logits[ids('"}]')] += end
        following.apply(logits)
        token = int(logits.argmax())
        following.accept(token)
        taken.append(token)
    return tokenizer().decode(taken, skip_special_tokens=True), following.ended


def refused(make: Callable[[], object]) -> InputError:
    """The error with which something is refused, in a time that nobody waits for."""
    with pytest.raises(InputError) as caught:
        make()
    return caught.value


# --- values ---


def test_the_values_are_offered_and_equal_by_content() -> None:
    assert edgekit.Choice("yes", "no") == edgekit.Choice("yes", "no") != edgekit.Choice("no", "yes")
    assert edgekit.Regex("a+") == edgekit.Regex("a+")
    assert hash(edgekit.JsonSchema({"type": "null"})) == hash(edgekit.JsonSchema('{"type": "null"}'))
    assert edgekit.Lark('start: "a"') != edgekit.Lark('start: "b"')


def test_a_schema_is_not_changed_with_the_mapping_it_was_made_of() -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "null"}}}
    made = JsonSchema(schema)
    schema["properties"]["a"]["type"] = "string"
    assert made == JsonSchema({"type": "object", "properties": {"a": {"type": "null"}}})


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"minLenght": 3}, "$.minLenght"),
        ({"type": "object", "properties": {"size": {"type": "integer", "unit": "mm"}}}, "$.properties.size.unit"),
        ({"anyOf": [{}, {"not": {}}]}, "$.anyOf[1].not"),
        ({"items": {"uniqueItems": True}}, "$.items.uniqueItems"),
        ({"$defs": {"a": {"if": {}}}}, "$.$defs.a.if"),
        ({"x-guidance": {"lenient": True}}, "$.x-guidance"),
        ({"type": "object", "minProperties": 1}, "$.minProperties"),
        ({"$dynamicRef": "#"}, "$.$dynamicRef"),
        ({"properties": {"a": {"$id": "https://example.com/a"}}}, "$.properties.a.$id"),
        ({"format": "color"}, "$.format"),
        ({"type": "text"}, "$.type"),
        ({"minimum": True}, "$.minimum"),
        ({"exclusiveMinimum": 1e300}, "$.exclusiveMinimum"),
        ({"minLength": -1}, "$.minLength"),
        ({"maxItems": 10**9}, "$.maxItems"),
        ({"required": "a"}, "$.required"),
        ({"items": [{"type": "null"}]}, "$.items"),
        ({"anyOf": []}, "$.anyOf"),
        ({"properties": {"a": "string"}}, "$.properties.a"),
        ({"const": {"a": ["\x00"]}}, "$.const"),
        ({"properties": {"a\x01": {}}}, "$.properties"),
        ({"$ref": "https://example.com/schema.json"}, "$.$ref"),
        ({"$ref": "#/$defs/none"}, "$.$ref"),
        ({"$ref": "#/title", "title": "a text"}, "$.$ref"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_place(schema: dict[str, Any], where: str) -> None:
    error = refused(lambda: JsonSchema(schema))
    assert f": {where}: " in error.message
    assert error.allowed


def test_many_patterns_are_fine_where_they_meet_no_others() -> None:
    code = {"type": "string", "pattern": "^[A-Z][0-9]{2}$"}
    fields = {f"code {n}": {"$ref": "#/$defs/code", "minLength": 3} for n in range(30)}
    schema = {"type": "object", "properties": fields, "$defs": {"code": code}, "allOf": [{"required": ["code 1"]}]}
    more = {f"word {n}": {"type": "string", "pattern": f"^[a-z]{{{n},9}}$"} for n in range(9)}
    schema["properties"] = fields | more
    assert takes(JsonSchema(schema), '{"code 1":"J93","word 3":"abcd"}')


def test_annotations_change_nothing() -> None:
    plain = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
    said = {
        **plain,
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/a",
        "$comment": "c",
        "title": "t",
        "description": "d",
        "default": {},
        "examples": [1],
        "deprecated": True,
    }
    assert JsonSchema(said) == JsonSchema(plain)


NOTHING: dict[str, Any] = {
    "$ref": "#/$defs/a",
    "$defs": {"a": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}},
}


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "string", "const": 1},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"enum": ["a", "b"], "pattern": "c"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"$ref": "#"},
        NOTHING,
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"type": "object", "properties": {"way": NOTHING["$defs"]["a"] | {"items": {"$ref": "#/properties/way"}}}},
        {
            "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}},
            "$ref": "#/$defs/a",
        },
    ],
)
def test_a_schema_that_no_finite_document_satisfies_is_refused(schema: Any) -> None:
    refused(lambda: JsonSchema(json.dumps(schema)))


def test_recursion_that_can_end_is_fine() -> None:
    tree = {
        "type": "object",
        "properties": {"finding": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["finding"],
        "additionalProperties": False,
    }
    assert takes(JsonSchema(tree), '{"finding":"mass","parts":[{"finding":"rim"},{"finding":"core","parts":[]}]}')
    assert not takes(JsonSchema(tree), '{"finding":"mass","parts":[{"parts":[]}]}')


def chain(length: int) -> dict[str, Any]:
    links = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{length}": {"type": "null"}}}


def itself() -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    schema["items"] = schema
    return schema


def rules(length: int) -> str:
    return "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(length)) + f'\nr{length}: "a"'


HOSTILE: dict[str, Callable[[], object]] = {
    "no JSON": lambda: JsonSchema('{"type":'),
    "no schema": lambda: JsonSchema("[]"),
    "a name twice": lambda: JsonSchema('{"type": "null", "type": "string"}'),
    "not a number": lambda: JsonSchema({"const": float("nan")}),
    "an infinite number": lambda: JsonSchema('{"const": 1e999}'),
    "a set": lambda: JsonSchema({"enum": {1}}),
    "a schema in itself": lambda: JsonSchema(itself()),
    "deep brackets": lambda: JsonSchema("[" * 200_000),
    "deep schemas": lambda: JsonSchema('{"items":' * 65 + "{}" + "}" * 65),
    "deep values": lambda: JsonSchema('{"const":' + "[" * 65 + "]" * 65 + "}"),
    "a long schema": lambda: JsonSchema({"const": "a" * 256_001}),
    "many schemas": lambda: JsonSchema({"properties": {str(n): {} for n in range(2_000)}}),
    "a chain of references": lambda: JsonSchema(chain(3_000)),
    "a schema that applies itself": lambda: JsonSchema({"anyOf": [{"$ref": "#"}, {"type": "string"}]}),
    "a lone surrogate": lambda: JsonSchema({"const": "\ud800"}),
    "an escaped lone surrogate": lambda: JsonSchema('{"const": "\\ud800"}'),
    "a wrong pattern": lambda: JsonSchema({"pattern": "("}),
    "looking ahead": lambda: JsonSchema({"type": "string", "pattern": "^(?=a)"}),
    "patterns together": lambda: JsonSchema({"allOf": [{"pattern": f"(.*a{n}){{3}}"} for n in range(16)]}),
    "many patterns of names": lambda: JsonSchema(
        {"patternProperties": {f"^{n}(.*[a-c].{{9}}){{5}}": {} for n in range(300)}}
    ),
    "alternatives that overlap": lambda: JsonSchema({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    "an unfinished regex": lambda: Regex("("),
    "an empty regex": lambda: Regex(""),
    "a regex of nothing": lambda: Regex(r"a[^\s\S]"),
    "a back-reference": lambda: Regex(r"(a)\1"),
    "a deep regex": lambda: Regex("(" * 4_000 + "a" + ")" * 4_000),
    "a long regex": lambda: Regex("a" * 10_001),
    "bytes of no text": lambda: Regex(r"(?-u:\xff)"),
    "a surrogate in a regex": lambda: Regex("\udfff"),
    "no text": lambda: Regex(5),  # type: ignore[arg-type]
    "no rule": lambda: Lark("\n"),
    "no start": lambda: Lark('begin: "a"'),
    "an unknown rule": lambda: Lark("start: a"),
    "the empty text": lambda: Lark("start: "),
    "a rule twice": lambda: Lark('start: "a"\nstart: "b"'),
    "an open bracket": lambda: Lark('start: ("a"'),
    "a bracket too much": lambda: Lark('start: "a")'),
    "a rule of itself": lambda: Lark("start: start"),
    "a rule without an end": lambda: Lark('start: "a" start'),
    "rules without an end": lambda: Lark('start: "a" | "b" a\na: b+\nb: "c" (a | b)'),
    "a token by name": lambda: Lark("start: <end_of_turn>"),
    "a token by number": lambda: Lark("start: <[1]>"),
    "a rule's attributes": lambda: Lark("start[temperature=1]: /a/"),
    "settings": lambda: Lark('%llguidance {"no_forcing": true}\nstart: "a"'),
    "a schema in a grammar": lambda: Lark('start: %json {"minLenght": 3}'),
    "an intersection": lambda: Lark("start: A\nA: /a.*/ & /.*b/"),
    "deep grammar": lambda: Lark("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "a chain of rules": lambda: Lark(rules(5_000)),
    "a long grammar": lambda: Lark('start: "' + "a" * 64_000 + '"'),
    "a long expression": lambda: Lark("start: /" + "(a|b)*" * 5_000 + "/"),
    "many times": lambda: Lark('start: "a"{99999999999999999999}'),
    "a NUL in a grammar": lambda: Lark('start: "\x00"'),
    "no choice": lambda: Choice(),
    "an empty choice": lambda: Choice("a", ""),
    "a choice twice": lambda: Choice("a", "b", "a"),
    "too many choices": lambda: Choice(*map(str, range(2_001))),
    "long choices": lambda: Choice("a" * 200_000, "b" * 200_000),
    "a choice of no text": lambda: Choice("\ud800"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_has_no_meaning_is_refused(name: str) -> None:
    assert refused(HOSTILE[name]).message


HEAVY: dict[str, Callable[[], Constraint]] = {
    "a chain of references": lambda: JsonSchema(chain(400)),
    "references to and fro": lambda: JsonSchema(
        {
            "$defs": {
                f"a{n}": {
                    "anyOf": [
                        {"type": "null"},
                        *({"items": {"$ref": f"#/$defs/a{m}"}, "type": "array"} for m in range(12)),
                    ]
                }
                for n in range(12)
            },
            "$ref": "#/$defs/a0",
        }
    ),
    "a chain of rules": lambda: Lark(rules(400)),
    "brackets": lambda: Lark("start: " + "(" * 20 + '"a"' + ")*" * 20),
    "repetitions of repetitions": lambda: Regex("(((a{100}){100}){100}){100}"),
    "ambiguous repetition": lambda: Regex("(x+x+)+y"),
    "overlapping repetition": lambda: Regex("(.*a){500}"),
    "many states": lambda: Regex("(.*[ab].{30}){5}c"),
    "a large class often": lambda: Regex(r"(\p{L}{1,1000}){1,500}"),
    "many properties": lambda: JsonSchema({"properties": {f"p{n}": {"type": "string"} for n in range(1_000)}}),
    "a long enum": lambda: JsonSchema({"enum": [f"v{n}" for n in range(10_000)]}),
    "many items": lambda: JsonSchema({"type": "array", "minItems": 100_000, "items": {"type": "array"}}),
    "a NUL": lambda: Regex("a\x00b"),
    "a greedy terminal": lambda: Lark('start: "x" /a+/ "a"'),
    "recursion whose ways out are closed": lambda: JsonSchema(
        {"type": "array", "minItems": 1, "items": {"type": "array", "anyOf": [{"$ref": "#"}, {"type": "string"}]}}
    ),
    "recursion that is never empty": lambda: JsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [{"$ref": "#"}, {"minLength": 2, "maxLength": 1, "type": "string"}]},
        }
    ),
    "ambiguity": lambda: Lark('start: s\ns: s s | s s s | "a" | "aa"'),
    "many choices": lambda: Choice(*(f"choice {n}" for n in range(2_000))),
}


@pytest.mark.parametrize("name", HEAVY)
def test_what_is_heavy_ends_in_an_answer_or_an_error(name: str) -> None:
    """Neither a crash, nor a hang, nor an exception of another kind."""
    with suppress(InputError):
        sample(HEAVY[name](), seed=0, budget=60)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "items",
                        "properties",
                        "$ref",
                        "anyOf",
                        "allOf",
                        "enum",
                        "const",
                        "required",
                        "minItems",
                        "pattern",
                        "minimum",
                        "$defs",
                        "a",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
@settings(max_examples=150, deadline=None)
def test_any_value_is_a_schema_or_an_input_error(value: Any) -> None:
    with suppress(InputError):
        JsonSchema(value)


@given(st.text('ab(){}[]|*+?.^$\\&~:<>/"%#,019 \nstr', max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_regex_and_a_grammar_or_an_input_error(text: str) -> None:
    for make in (Regex, Lark, lambda text: Lark(f"start: {text}")):
        with suppress(InputError):
            make(text)


def test_examples_do_what_they_say() -> None:
    said = doctest.testmod(constraints)
    assert said.attempted > 4
    assert not said.failed


# --- what is sampled ---


def leaf(chance: st.DrawFn) -> dict[str, Any]:
    low = chance(st.integers(-50, 50))
    return chance(
        st.sampled_from(
            [
                {"type": "null"},
                {"type": "boolean"},
                {"type": "string", "maxLength": 6},
                {"type": "string", "minLength": 2, "maxLength": 9},
                {"type": "string", "pattern": "^[a-zé 😀]{1,4}$"},
                {"type": "string", "format": "ipv4"},
                {"type": "integer", "minimum": low, "maximum": low + chance(st.integers(0, 99))},
                {"type": "integer", "exclusiveMinimum": low, "maximum": low + 100, "multipleOf": 7},
                {"type": "number", "minimum": low / 4, "exclusiveMaximum": low / 4 + 1},
                {"enum": ["pneumothorax", "no finding", 3, -1.5, None, {"a": ["b c", '\n\t"\\/é']}]},
                {"const": {"text": "ä\n", "list": [1, 2.5, True]}},
                {"type": ["integer", "null"], "minimum": 0},
            ]
        )
    )


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    kind = draw(st.sampled_from(["leaf", "object", "open", "array", "tuple", "any", "all"])) if depth else "leaf"
    inner = [draw(schemas(depth=depth - 1)) for _ in range(draw(st.integers(1, 3)))] if kind != "leaf" else []
    names = draw(st.lists(st.sampled_from(["a", "b c", "é", 'a"b', "c\n", "/~"]), min_size=3, max_size=3, unique=True))
    properties = dict(zip(names, inner, strict=False))
    required = [name for name in properties if draw(st.booleans())]
    base = {"type": "object", "properties": properties, "required": required}
    match kind:
        case "object":
            return {**base, "additionalProperties": False}
        case "open":
            more = draw(st.sampled_from([{}, {"additionalProperties": {"type": "null"}}]))
            return {**base, **more}
        case "array":
            return {"type": "array", "items": inner[0], "minItems": len(inner) - 1, "maxItems": len(inner) + 1}
        case "tuple":
            return {"type": "array", "prefixItems": inner, "items": False, "minItems": draw(st.integers(0, len(inner)))}
        case "any":
            return {"anyOf": inner}
        case "all":
            return {**base, "allOf": [{"properties": {str(name): True for name in names}}, {"required": required}]}
    return leaf(draw)


@given(schemas(), st.integers(0, 2**32))
@sampled
def test_what_is_sampled_under_a_schema_satisfies_it(schema: dict[str, Any], seed: int) -> None:
    text, ended = sample(JsonSchema(schema), seed)
    if ended:
        checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        checker.validate(json.loads(text))
        assert not re.search(r"[ \n\r\t]{9}", re.sub(r'"(\\.|[^"\\])*"', "text", text))


@given(
    st.sampled_from(
        [
            "[0-9]+ mm",
            "(yes|no)( or (yes|no))*",
            "[^a]{1,8}b",
            ".{0,5}x?",
            "(?i:ct|mri) +[a-z]+",
            "[😀-😂é\\n ]{2,9}",
            "a\x00?",
        ]
    ),
    st.integers(0, 2**32),
)
@sampled
def test_what_is_sampled_under_a_regex_matches_it(pattern: str, seed: int) -> None:
    text, ended = sample(Regex(pattern), seed)
    if ended:
        assert re.fullmatch(pattern, text)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=8, unique=True
    ),
    st.integers(0, 2**32),
)
@sampled
def test_what_is_sampled_of_choices_is_one_of_them(texts: list[str], seed: int) -> None:
    text, ended = sample(Choice(*texts), seed, end=0)
    assert ended
    assert text in texts


@pytest.mark.parametrize("seed", range(15))
def test_what_is_sampled_under_a_grammar_is_of_its_language(seed: int) -> None:
    sums = Lark('start: sum\nsum: NUMBER | "(" sum " + " sum ")"\nNUMBER: /[0-9]{1,3}/\n')
    text, ended = sample(sums, seed)
    while ended and "(" in text:
        text, count = re.subn(r"\([0-9]{1,3} \+ [0-9]{1,3}\)", "1", text)
        assert count
    assert not ended or re.fullmatch("[0-9]{1,3}", text)


def test_a_property_cannot_be_written_again_by_another_spelling() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert takes(JsonSchema(schema), '{"a":1,"b":"x"}')
    for again in ('{"a":1,"a":"x"}', r'{"a":1,"\u0061":"x"}'):
        assert not takes(JsonSchema(schema), again)


def test_white_space_between_tokens_is_bounded() -> None:
    schema = JsonSchema({"type": "array", "items": {"type": "null"}})
    for character in " \n\r\t":
        for text in ("[{}null]", "[null{}]", "[null,{}null]", "[null{},null]"):
            assert takes(schema, text.format(character * 8))
            assert not takes(schema, text.format(character * 9))
    assert not takes(schema, " []")
    assert not takes(schema, "[] ")


# --- tokens ---

TEXTS = [
    " a  b ",
    "\n\n\n x\t",
    "é ü ß",
    "😀👩‍⚕️",
    "日本",
    "e\u0301",
    "\x00\x7f",
    "a▁b",
    "<b>&amp;",
    "\u2028",
    "<eos>",
    "<0x41>",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_written_as_they_are(text: str) -> None:
    for constraint in (Choice(text), Choice(text, text + "!"), Regex(f"[{re.escape(text)}]+")):
        for seed in range(3):
            written, ended = sample(constraint, seed, budget=400, end=6)
            assert ended
            assert written in (text, text + "!") or (set(written) <= set(text) and isinstance(constraint, Regex))


@pytest.mark.parametrize(
    "constraint", [Regex("(?s:.*)"), JsonSchema({}), Choice("<eos>", "<bos>"), Lark("start: /(?s:.)+/")]
)
def test_control_tokens_and_rows_without_a_token_are_never_allowed(constraint: Constraint) -> None:
    control = {n for n, token in tokenizer().get_added_tokens_decoder().items() if token.special}
    chance, following = np.random.default_rng(0), matcher(constraint)
    for _ in range(30):
        mask = following.mask()
        assert mask.shape == (ROWS,)
        assert not mask[tokenizer().get_vocab_size() :].any()
        assert not mask[sorted(control - set(ENDS))].any()
        assert mask[ENDS].all() == mask[ENDS].any() == following.may_end
        going = [*set(np.flatnonzero(mask).tolist()) - set(ENDS)]
        if not going:
            break
        following.accept(int(chance.choice(going)))


@given(
    st.sampled_from([Regex("[ab ]{3,5}"), Choice("no", "no finding"), JsonSchema({"type": "object"})]),
    st.integers(0, 99),
)
@sampled
def test_a_mask_says_of_each_token_whether_it_is_taken(constraint: Constraint, seed: int) -> None:
    following, chance = matcher(constraint), np.random.default_rng(seed)
    for _ in range(seed % 6):
        following.accept(int(chance.choice(np.flatnonzero(following.mask()))))
        if following.ended:
            return
    mask = following.mask()
    some = {*chance.integers(0, ROWS, 150).tolist(), *np.flatnonzero(mask)[:50].tolist()}
    taken = {token for token in some if following.validate([token])}
    assert {token for token in some if mask[token]} <= taken
    assert following.forced() or not any(not mask[token] for token in taken)
    assert np.array_equal(following.mask(), mask), "asking changes nothing"


def test_logits_are_changed_in_place_and_only_where_forbidden() -> None:
    following = matcher(Choice("yes", "no"))
    logits = np.arange(ROWS, dtype=np.float32)
    following.apply(logits)
    mask = following.mask()
    assert np.array_equal(logits[mask], np.flatnonzero(mask))
    assert (logits[~mask] == -np.inf).all()
    with pytest.raises(UsageError, match=r"logits of shape \[5\]"):
        following.apply(np.zeros(5, np.float32))


def test_what_must_come_is_forced_as_the_tokenizer_writes_it() -> None:
    following = matcher(Regex("The finding is (a|b)"))
    forced = following.forced()
    text = tokenizer().decode(forced)
    assert "The finding is".startswith(text)
    assert forced == ids("The finding is a")[: len(forced)]
    for token in forced:
        assert following.mask()[token]
        following.accept(token)
    assert len(text) > 5


def test_a_token_that_is_not_allowed_is_refused_and_changes_nothing() -> None:
    following = matcher(Choice("yes", "no"))
    for token in (*ids("q"), ENDS[0], 2, ROWS - 1, ROWS, -1, 2**40):
        with pytest.raises(InputError, match="not allowed"):
            following.accept(token)
    for token in ids("yes"):
        following.accept(token)
    assert following.may_end
    following.accept(ENDS[0])
    assert following.ended
    assert following.forced() == []
    assert following.validate([ENDS[0]]) == 0
    with pytest.raises(UsageError, match="ended"):
        following.accept(ENDS[0])
    with pytest.raises(UsageError, match="ended"):
        following.mask()


def test_drafts_are_validated_without_moving() -> None:
    following = matcher(Regex("[a-z]+ [0-9]"))
    draft = [*ids("abc 7"), ENDS[1], *ids("x")]
    before = following.mask()
    assert following.validate(draft) == len(draft) - 1
    assert following.validate([*ids("abc"), *ids("Q")]) == len(ids("abc"))
    assert following.validate([]) == following.validate([ROWS]) == following.validate([ENDS[0]]) == 0
    assert following.validate([*ids("a"), ROWS + 5, *ids("a")]) == 1
    assert np.array_equal(following.mask(), before)


@given(st.integers(0, 2**32), st.integers(1, 40))
@sampled
def test_going_back_is_as_if_nothing_had_been_taken(seed: int, count: int) -> None:
    schema = JsonSchema(
        {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "integer"}}
    )
    following, chance = matcher(schema), np.random.default_rng(seed)
    seen: list[tuple[np.ndarray[Any, Any], bool]] = []
    while len(seen) < count and not following.ended:
        seen.append((following.mask(), following.may_end))
        following.accept(int(chance.choice(np.flatnonzero(seen[-1][0]))))
    back = int(chance.integers(1, len(seen) + 1))
    following.rollback(back)
    mask, may_end = seen[-back]
    assert np.array_equal(following.mask(), mask)
    assert (following.may_end, following.ended) == (may_end, False)
    with pytest.raises(UsageError, match="tokens back"):
        following.rollback(len(seen) - back + 1)


def test_matchers_of_one_tokenizer_do_not_disturb_each_other() -> None:
    one, other = matcher(Choice("yes")), matcher(Choice("no"))
    for token in ids("yes"):
        one.accept(token)
    assert one.may_end
    assert not other.may_end
    assert other.validate(ids("no")) == len(ids("no"))


def test_it_is_built_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance

    built: list[threading.Thread] = []
    real = llguidance.LLTokenizer

    class Slow:
        json_slices = staticmethod(real.json_slices)

        def __new__(cls, *given: Any, **named: Any) -> Any:
            built.append(threading.current_thread())
            time.sleep(0.05)
            return real(*given, **named)

    constraint = Choice("yes")
    monkeypatch.setattr(llguidance, "LLTokenizer", Slow)
    fresh = GrammarTokenizer(tokenizer(), ENDS, ROWS)
    assert not built
    fresh.prepare()
    fresh.prepare()
    assert fresh.matcher(constraint).validate(ids("yes")) == len(ids("yes"))
    assert fresh.matcher(constraint).validate(ids("no")) == 0
    assert len(built) == 1


def words() -> Tokenizer:
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({"a": 0, "b": 1, "<unk>": 2}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    return made


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GrammarTokenizer(tokenizer(), [], ROWS), "end tokens"),
        (lambda: GrammarTokenizer(tokenizer(), [ROWS], ROWS), "end tokens"),
        (lambda: GrammarTokenizer(words(), [2], 3).matcher(Choice("a")), "byte fallback"),
    ],
)
def test_a_tokenizer_without_ends_or_bytes_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()


def test_a_tokenizer_may_have_more_tokens_than_there_are_rows() -> None:
    few = GrammarTokenizer(tokenizer(), ENDS, 2048)  # without the image's token
    assert few.matcher(Regex("(?s:.*)")).mask().shape == (2048,)


def test_a_constraint_that_grows_too_complex_says_so() -> None:
    following, chance = matcher(Regex(r"(\p{L}{1,1000}){1,500}")), np.random.default_rng(0)

    def go_on() -> None:
        for _ in range(400):
            going = np.setdiff1d(np.flatnonzero(following.mask()), ENDS)
            following.accept(int(chance.choice(going)))

    with pytest.raises(InputError, match="leads no further"):
        go_on()


def follow(constraint: Constraint, tokens: Sequence[int]) -> Matcher:
    following = matcher(constraint)
    for token in tokens:
        following.accept(token)
    return following


def test_a_choice_that_begins_another_may_end_or_go_on() -> None:
    following = follow(Choice("no", "no finding"), ids("no"))
    assert following.may_end
    assert following.mask()[ENDS].all()
    assert not following.mask()[ids("x")].any()
    following = follow(Choice("no", "no finding"), ids("no finding"))
    assert following.may_end
    assert np.flatnonzero(following.mask()).tolist() == sorted(ENDS)


CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
WEATHER = Function("weather", JsonSchema({**CITY, "additionalProperties": False}))
TREE = {"type": "object", "properties": {"inner": {"$ref": "#"}}, "additionalProperties": False}
GROW = Function("grow", JsonSchema(TREE))
ROME = '{"name": "weather", "parameters": {"city": "Rome"}}'
LEAF = '{"name": "grow", "parameters": {"inner": {}}}'


def test_calls_are_lines_and_a_text_is_none() -> None:
    free, bound = Calls((WEATHER, GROW), most=2), Calls((WEATHER, GROW), required=True)
    for text in (ROME, LEAF):
        assert takes(free, text)
        assert takes(bound, text)
    assert takes(free, f"{ROME}\n{LEAF}")
    assert not takes(free, f"{ROME}\n{LEAF}\n{ROME}")
    assert not takes(bound, f"{ROME}\n{LEAF}")
    assert takes(free, f"It is {ROME}")
    assert not takes(bound, "It is")
    for text in (ROME.replace("Rome", "Paris"), ROME.replace("weather", "storm"), '{"name": 1}', "[1]", "```", " a"):
        assert not takes(free, text)


@sampled
@given(st.integers(0, 1 << 32), st.booleans())
def test_sampled_calls_satisfy_their_schemas(seed: int, required: bool) -> None:
    text, ended = sample(Calls((WEATHER, GROW), required, 2), seed, budget=300)
    if not ended or not text.startswith("{"):
        assert not (ended and required)
        return
    calls, place = 0, 0
    while place < len(text):
        call, place = json.JSONDecoder().raw_decode(text, place)
        jsonschema.validate(call["parameters"], {"weather": CITY, "grow": TREE}[call["name"]])
        calls, place = calls + 1, place + 1  # behind the line break
    assert 1 <= calls <= 2


@pytest.mark.parametrize(
    "made",
    [
        lambda: Function("two words", WEATHER.parameters),
        lambda: Function("", WEATHER.parameters),
        lambda: Function("f" * 65, WEATHER.parameters),
        lambda: Function("f", JsonSchema({"type": "array"})),
        lambda: Function("f", JsonSchema({"anyOf": [CITY]})),
        lambda: Calls(()),
        lambda: Calls((WEATHER, WEATHER)),
        lambda: Calls((WEATHER,), most=0),
        lambda: Calls(tuple(Function(f"f{n}", WEATHER.parameters) for n in range(65))),
        lambda: Calls(tuple(Function(f"f{n}", long_schema()) for n in range(3))),
    ],
)
def test_functions_that_are_none_are_refused(made: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        made()


def long_schema() -> JsonSchema:
    names = [f"a rather long name {n}" for n in range(4000)]
    return JsonSchema({"type": "object", "properties": {"one": {"enum": names}}, "additionalProperties": False})
