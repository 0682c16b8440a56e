"""`edgekit chat`: a conversation in the terminal."""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from edgekit.commands import Verb
from edgekit.commands.support.answers import answered, begun, check_form, check_system, claiming, kept, shown
from edgekit.commands.support.decoding import add_answering, generation_options, keeps
from edgekit.commands.support.options import add_artifact
from edgekit.commands.support.pictures import parts_of
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.machine.interrupts import ctrl_c_calls
from edgekit.terminal import say, show

_HELP = """\
/image PATH   show an image, or a series, with the next question; it is looked at now
/held         what the model holds of this conversation, and what the last answer cost
/new          begin anew
/quit         end; so does Ctrl-D
Ctrl-C stops an answer. Anything else is a question."""


def add_options(parser: ArgumentParser) -> None:
    """The model, and how it answers."""
    add_artifact(parser)
    add_answering(parser)


def run(options: Namespace) -> int:
    """Open the model, and answer line by line."""
    from edgekit.commands.support.uses import check_ability
    from edgekit.progress import on_stderr
    from edgekit.runtime import open_model
    from edgekit.runtime.use import Use

    check_ability(options.folder, options.level, "generate", shown=False)
    decoding = generation_options(options)
    keep = keeps(options) or options.conversation is not None
    use = Use(sees="later", keep=keep, cache_type=options.cache_type)
    opening = (options.folder, options.level, options.device, options.context, options.runtime)
    with claiming(options.conversation), open_model(*opening, progress=on_stderr(), use=use) as model:
        chat = _Chat(model, decoding, options)
        with ctrl_c_calls(chat.stop):
            for line in _lines("> " if sys.stdin.isatty() and not options.json else ""):
                if not chat.takes(line):
                    break
    return 0


def _lines(prompt: str) -> Iterator[str]:
    """What is typed, line by line, with the editing and the history that Python's readline gives to a terminal."""
    if prompt:
        with suppress(ModuleNotFoundError):  # on Windows
            importlib.import_module("readline")  # which input() then uses
        say("a question, or /help")
    while True:
        try:
            yield input(prompt)
        except EOFError:
            if prompt:
                show()
            return


class _Chat:
    """A conversation under way."""

    def __init__(self, model: Any, decoding: Any, options: Namespace) -> None:
        self._model, self._decoding, self._options = model, decoding, options
        self._conversation = begun(options.conversation, model)
        self._turns = list(self._conversation.messages) if self._conversation else []
        check_system(options.system, self._turns)
        if not model.settings.chat:
            raise UsageError("a conversation with a model that has no chat template", allowed="edgekit ask")
        self._images: list[Any] = []
        self._last: Any = None
        self._cancelled: Event | None = None
        self._interactive = sys.stdin.isatty()

    def stop(self) -> None:
        """Ctrl-C."""
        if self._cancelled:
            self._cancelled.set()
        else:
            say("/quit or Ctrl-D ends the conversation")

    def takes(self, line: str) -> bool:
        """Do what a line says; whether the conversation goes on. At a terminal, what cannot be done is only said.

        Raises:
            EdgekitError: it cannot be done, and no person types.
        """
        name, _, rest = line.strip().partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/held": lambda rest: self._held(),
            "/new": lambda rest: self._new(),
            "/help": lambda rest: say(_HELP, lines=True),
        }
        if name == "/quit":
            return False
        try:
            if name in commands:
                commands[name](rest.strip())
            elif name.startswith("/"):
                raise InputError(f"{name:.40} is no command", allowed=", ".join([*commands, "/quit"]))
            elif line.strip() or self._images:
                self._ask(line)
        except EdgekitError as error:
            if not self._interactive:  # whoever reads only the answers would take the next for one about this image
                raise
            say(error, lines=True)
        return True

    def _image(self, name: str) -> None:
        path = Path(name)
        with suppress(RuntimeError):  # nobody's home: then there is no such file
            path = path.expanduser()
        parts = parts_of([path], self._options)
        held = self._model.prepare(self._asked("", *parts))
        self._images += parts
        say(f"looked at {name}; {held} tokens are ready for the question")

    def _asked(self, question: str, *more: Any) -> list[Any]:
        from edgekit.inputs.message import Message

        begun_with = [Message("system", self._options.system)] if self._options.system and not self._turns else []
        return [*begun_with, *self._turns, Message("user", *self._images, *more, question)]

    def _ask(self, question: str) -> None:
        self._cancelled = Event()
        turns = self._asked(question)
        try:
            decoding = replace(self._decoding, cancelled=self._cancelled)
            answers = self._model.generate(turns, decoding)
            known = self._model.warnings if self._last else ()
            self._last = shown(answers, self._model, 0, as_json=self._options.json, indent=None, known=known)
        finally:
            self._cancelled = None
        check_form(self._last, self._decoding)
        if gone_on := answered(turns, self._last, self._model):
            self._turns, self._images = gone_on, []
            if self._conversation:
                kept(self._conversation, self._turns, self._model)

    def _new(self) -> None:
        self._turns, self._images, self._last = [], [], None
        say("a new conversation" + ("; its first answer replaces what is kept" if self._conversation else ""))

    def _held(self) -> None:
        model = self._model
        context = f"{model.decoder.context} tokens, {model.cache_bytes / 1e6:.0f} MB of memory"
        images = f"{model.embeddings_bytes / 1e6:.0f} MB of embeddings of images"
        say(f"{len(self._turns)} turns; the context is {context}; {images}")
        if one := self._last:
            speed = f" at {one.tokens_per_s:.1f} a second" if one.tokens_per_s else ""
            say(
                f"the last answer: {one.prompt_tokens} tokens read, {one.cached_tokens} of them held before, first "
                f"token after {one.first_token_s:.2f} s, {one.output_tokens} written{speed}"
            )
        if self._images:
            say(f"{len(self._images)} images wait for their question")


VERB = Verb(
    "hold a conversation in the terminal, about images or without",
    ("chat ./medgemma", "chat ./medgemma --conversation case-12 --temperature 0.7"),
    run,
    add_options,
    order=71,
)
