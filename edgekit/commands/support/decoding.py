"""How an answer is decoded, and what stays of it: options that all verbs have which answer questions."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.commands.support.options import add_opening, add_pictures
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.runtime.generation.options import GenerationOptions
    from edgekit.runtime.grammar.constraints import Constraint

KEEP = "EDGEKIT_KEEP"
_MOST_BYTES = 1 << 20  # of a schema or a grammar


def add_answering(parser: ArgumentParser) -> None:
    """Everything but the question: how images are read, what is opened, how it answers, and what stays."""
    add_pictures(parser)
    add_opening(parser)
    add_cache_type(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system instruction; MedGemma was evaluated without one")
    add_decoding(parser)
    add_keep(parser)
    add_conversation(parser)


def add_cache_type(parser: ArgumentParser) -> None:
    """`--cache-type`, as `edgekit.runtime.parts.CacheType` has it."""
    parser.add_argument(
        "--cache-type",
        choices=("f16", "q8_0"),
        help="what the context's keys and values are rounded to: q8_0 takes half the memory of f16 (GGUF alone); "
        "without the option f16, or what a --device has room for",
    )


def add_decoding(parser: ArgumentParser) -> None:
    """`--max-tokens` and all that `GenerationOptions` has for one answer."""
    add = parser.add_argument
    add("--max-tokens", type=int, default=512, metavar="N", help="the output budget (default: 512)")
    add("--think", action="store_true", help="tell the model that it may think first; MedGemma 1.5 was trained to")
    add("--thinking-tokens", type=int, metavar="N", help="a budget for thoughts alone (default: the answer's)")
    add("--temperature", type=float, default=0.0, metavar="T", help="draw tokens; 0, the default, takes the likeliest")
    add("--top-k", type=int, default=0, metavar="N", help="draw from so many of the likeliest tokens")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that together are so likely")
    add("--min-p", type=float, default=0.0, metavar="P", help="draw from those so likely, as a share of the likeliest")
    add("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: say less what was said")
    add("--seed", type=int, metavar="N", help="of what is drawn; by chance without it, and said")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--json-schema", type=Path, metavar="FILE", help="an answer in JSON that this schema allows")
    kept.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts; may be repeated")
    kept.add_argument("--regex", metavar="PATTERN", help="an answer that this regular expression matches as a whole")
    kept.add_argument("--grammar", type=Path, metavar="FILE", help="an answer by this grammar, in Lark")
    add("--stop", action="append", default=[], metavar="TEXT", help="end the answer before this text; may be repeated")
    add("--deadline", type=float, metavar="S", help="end the answer after so many seconds")


def add_keep(parser: ArgumentParser) -> None:
    """`--keep`: whether anything of patients stays on disk."""
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep what was computed of the images on disk, for you alone, so that the same image costs nothing again "
        f"(edgekit cache shows and clears it); {KEEP}=1 for always",
    )


def add_conversation(parser: ArgumentParser) -> None:
    """`--conversation`: what is said goes on under a name."""
    parser.add_argument(
        "--conversation",
        metavar="NAME",
        help="go on with the conversation of this name, or begin it; it stays on disk, for you alone, with its images "
        "and what was computed of them (edgekit cache shows and clears it)",
    )


def keeps(options: Namespace) -> bool:
    """Whether the user said that it may stay."""
    return options.keep or os.environ.get(KEEP, "") not in ("", "0")


def generation_options(options: Namespace) -> GenerationOptions:
    """What the options say.

    Raises:
        InputError: a value is none that it can have.
        UsageError: one says how to draw where nothing is drawn.
    """
    from edgekit.runtime.generation.options import GenerationOptions

    drawing = {"--top-k": options.top_k, "--top-p": options.top_p != 1, "--min-p": options.min_p}
    drawing["--seed"] = options.seed is not None
    if not options.temperature and (given := [name for name, value in drawing.items() if value]):
        raise UsageError(f"{', '.join(given)} without --temperature, which draws nothing", remedy="--temperature 1")
    if options.thinking_tokens is not None and not options.think:
        raise UsageError("--thinking-tokens without --think, which asks for no thoughts", remedy="--think")
    return GenerationOptions(
        max_tokens=options.max_tokens,
        thinking=options.think,
        thinking_tokens=options.thinking_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        constraint=_constraint(options),
        stop=tuple(options.stop),
        deadline_s=options.deadline,
    )


def _constraint(options: Namespace) -> Constraint | None:
    """What the answer is kept to. Raises InputError where a file cannot be read, or what it says cannot be kept."""
    from edgekit.runtime.grammar.constraints import Choice, JsonSchema, Lark, Regex

    if options.json_schema:
        return JsonSchema(_text(options.json_schema))
    if options.choice:
        return Choice(*options.choice)
    if options.regex is not None:
        return Regex(options.regex)
    return Lark(_text(options.grammar)) if options.grammar else None


def _text(path: Path) -> str:
    from edgekit.artifacts.documents import read_bounded
    from edgekit.errors import InputError

    try:
        return read_bounded(path, InputError, _MOST_BYTES).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from error
