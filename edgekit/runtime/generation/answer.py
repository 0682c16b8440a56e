"""One answer as it grows: from rows of logits to tokens, from tokens to text, until something ends it.

It knows no decoder. Who has one decodes what `ahead` names, and hands over the rows behind it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgekit.checkpoints.tensors import Float
from edgekit.families.composition import ChatFormat
from edgekit.runtime.generation.lookup import Lookup
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.repetition import Repetition
from edgekit.runtime.generation.sampling import Chosen, Sampler
from edgekit.runtime.generation.streaming import TextStream
from edgekit.runtime.grammar.guidance import Matcher

Stop = Literal["end", "budget", "context", "loop", "stop", "deadline", "cancelled"]


class Piece(str):
    """A piece of an answer's text.

    Attributes:
        number: of the answer, where several were asked for.
        thinking: whether it is a piece of the model's thoughts, which are no part of the answer.
        tokens: those of the answer that came since its last piece, with log probabilities where these were asked for;
            the text of a token may come with a later piece. The last piece may be tokens alone.
    """

    number: int
    thinking: bool
    tokens: tuple[Chosen, ...]

    def __new__(cls, text: str, number: int = 0, *, thinking: bool = False, tokens: tuple[Chosen, ...] = ()) -> Piece:
        made = super().__new__(cls, text)
        made.number, made.thinking, made.tokens = number, thinking, tokens
        return made


@dataclass(frozen=True)
class Limits:
    """What a decoder allows an answer.

    Attributes:
        context: positions that prompt and answer may take together.
        vocabulary: length of a row of logits.
        drafts: whether what is looked up can be verified in one call.
    """

    context: int
    vocabulary: int
    drafts: bool = False


@dataclass
class _Text:
    """What the tokens of the thoughts, or of the answer, say, and how many of them have been told with a piece."""

    stream: TextStream
    tokens: list[Chosen] = field(default_factory=list)
    told: int = 0


class Answer:
    """An answer under way.

    Attributes:
        ids: all of its tokens so far, thoughts included.
        stopped: what ended it; None while it goes on.
        seed: of what is drawn.
        number: of the answer, where several were asked for.
        began: when it was asked for.
        lookup: where its drafts come from; None for no drafts.
    """

    def __init__(
        self,
        options: GenerationOptions,
        chat: ChatFormat,
        prompt: Sequence[int],
        limits: Limits,
        *,
        seed: int,
        number: int = 0,
        began: float | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        """Begin.

        Args:
            prompt: its token ids; -1 for each that stands for a part of an image.
            began: when it was asked for, by `time.perf_counter`.
            matcher: what it is kept to; None for nothing.

        Raises:
            InputError: a bias is of no token.
        """
        self.options, self.number, self.seed = options, number, seed
        self.ids: list[int] = []
        self.stopped: Stop | None = None
        self.lookup = Lookup(prompt) if limits.drafts and options.lookup else None
        self._ends, self._thoughts, self._tokenizer = {*chat.settings.stop_token_ids}, chat.thoughts, chat.tokenizer
        self._sampler = Sampler(options, [token for token in prompt if token >= 0], limits.vocabulary, seed)
        self._repetition, self._room = Repetition(), limits.context - len(prompt)
        self._said = {False: _Text(TextStream(chat.tokenizer, options.stop)), True: _Text(TextStream(chat.tokenizer))}
        self._thinking, self._heading = False, ""
        self._ahead: list[int] = []
        self._looked_up = False
        self._matcher, self._limits = matcher, limits
        self.began = time.perf_counter() if began is None else began

    @property
    def text(self) -> str:
        """All that was said, without thoughts."""
        return self._said[False].stream.text

    @property
    def thoughts(self) -> str:
        """All that was thought."""
        return self._said[True].stream.text.removeprefix(self._thoughts.heading if self._thoughts else "")

    @property
    def tokens(self) -> tuple[Chosen, ...]:
        """The answer's own, without thoughts and without what ended it."""
        return tuple(self._said[False].tokens)

    @property
    def thinking_tokens(self) -> int:
        """How many were thought, those around the thoughts included."""
        return len(self.ids) - len(self._said[False].tokens)

    def ahead(self, most: int, *, drafts: bool) -> list[int]:
        """What is to be decoded next: the last token, and at most so many that may follow it, with a row behind each.

        Args:
            drafts: whether what is only likely is worth a try.
        """
        left = max(0, min(most, self._room - len(self.ids), self._left() - 1))
        forced = self._settled(left)
        self._looked_up = bool(self.lookup) and drafts and not forced
        self._ahead = [self.ids[-1], *(self._likely(left) if self._looked_up else forced)]
        return self._ahead

    def _settled(self, most: int) -> list[int]:
        """What can be nothing else by a grammar."""
        if self._matcher is None or self._thinking or not self._limits.drafts:
            return []
        return self._matcher.forced()[:most]

    def _likely(self, most: int) -> list[int]:
        """What followed the last tokens before, as far as a grammar allows it."""
        assert self.lookup is not None, "whoever asks has looked"
        found = self.lookup.draft(most)
        return found[: self._matcher.validate(found)] if self._matcher and not self._thinking else found

    def take(self, rows: Sequence[Float], seconds: float = 0.0) -> tuple[list[Piece], int]:
        """Go on with the rows [vocabulary] behind what `ahead` named, or at first with the one behind the prompt.

        Args:
            seconds: that they took, by which drafts are judged.

        Returns:
            pieces to show, and how many of the decoded tokens belong to the answer: what is behind them was a draft
            that it did not follow.
        """
        pieces: list[Piece] = []
        drafted, kept = self._ahead[1:], 0
        for row in rows:
            kept += 1
            token = self._choose(row, pieces)
            if self.stopped or kept > len(drafted) or token != drafted[kept - 1]:
                break
        if self.lookup and self._looked_up:
            self.lookup.told(len(drafted), kept - 1, seconds)
        if self.stopped:
            self._finish(pieces)
        return pieces, kept

    def check(self) -> list[Piece]:
        """End it where its time is over, or nobody wants it any more; what there is to show then."""
        options, pieces = self.options, list[Piece]()
        if options.cancelled is not None and options.cancelled.is_set():
            self.stopped = "cancelled"
        elif options.deadline_s is not None and time.perf_counter() - self.began >= options.deadline_s:
            self.stopped = "deadline"
        if self.stopped:
            self._finish(pieces)
        return pieces

    def _left(self) -> int:
        """Tokens of the budget that counts now."""
        options = self.options
        if options.thinking_tokens is None:
            return options.max_tokens - len(self.ids)
        thought = self.thinking_tokens
        return options.thinking_tokens - thought if self._thinking else options.max_tokens - (len(self.ids) - thought)

    def _choose(self, row: Float, pieces: list[Piece]) -> int:
        kept = self._matcher if not self._thinking else None
        chosen = self._sampler.choose(row, self._allow if kept else None, self._forced())
        token = chosen.token
        if kept and not self._turns_to_thoughts(token):
            kept.accept(token)
        if token in self._ends:
            self.stopped = "end"
            return token
        self.ids.append(token)
        self._sampler.took(token)
        if self.lookup:
            self.lookup.add(token)
        if not self._turns(token):
            self._say(chosen, pieces)
        if self.stopped is None:
            self._check_limits(token)
        return token

    def _allow(self, logits: Float) -> None:
        """Forbid what the answer cannot go on with; thoughts may come before it where they were asked for."""
        assert self._matcher is not None, "else everything is allowed"
        begin = self._thoughts.begin if self._thoughts and self.options.thinking and not self.ids else None
        thought = logits[begin] if begin is not None else None
        self._matcher.apply(logits)
        if begin is not None:
            logits[begin] = thought

    def _turns_to_thoughts(self, token: int) -> bool:
        return self._thoughts is not None and token == self._thoughts.begin and self.options.thinking and not self.ids

    def _forced(self) -> int | None:
        """The end of thoughts whose own budget is spent."""
        if not self._thinking or self.options.thinking_tokens is None or self._left() > 1:
            return None
        assert self._thoughts is not None, "who thinks has tokens for it"
        return self._thoughts.end

    def _turns(self, token: int) -> bool:
        """Whether it is one of the tokens around thoughts."""
        if self._thoughts is None or token != (self._thoughts.end if self._thinking else self._thoughts.begin):
            return False
        if self._matcher and not self._thinking and len(self.ids) > 1:
            return False  # a text that a grammar allowed
        self._thinking = not self._thinking
        self._heading = self._thoughts.heading
        return True

    def _say(self, chosen: Chosen, pieces: list[Piece]) -> None:
        said = self._said[self._thinking]
        if not self._thinking:
            said.tokens.append(chosen)
        self._show(said.stream.add(chosen.token), pieces, thinking=self._thinking)
        if said.stream.stopped is not None:
            self.stopped = "stop"

    def _show(self, text: str, pieces: list[Piece], *, thinking: bool) -> None:
        if thinking and self._heading:
            met = self._heading[: len(text)]
            text, self._heading = (text[len(met) :], self._heading[len(met) :]) if text.startswith(met) else (text, "")
        said = self._said[False]
        measured = self.options.top_logprobs is not None and not thinking
        tokens = tuple(said.tokens[said.told :]) if measured else ()
        if text or (tokens and self.stopped):
            said.told += len(tokens)
            pieces.append(Piece(text, self.number, thinking=thinking, tokens=tokens))

    def _check_limits(self, token: int) -> None:
        if self._repetition.add(token):
            self.stopped = "loop"
        elif len(self.ids) >= self._room:
            self.stopped = "context"
        elif self._left() <= 0:
            self.stopped = "budget"

    def _finish(self, pieces: list[Piece]) -> None:
        for thinking in (True, False):
            self._show(self._said[thinking].stream.finish(), pieces, thinking=thinking)
