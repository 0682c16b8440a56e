"""Answers kept to a `Constraint` while they are sampled: what may come next, of a model's own tokens.

A `GrammarTokenizer` belongs to a model and is built once; a `Matcher` follows one answer. Nothing here runs a model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from threading import Lock, Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit.checkpoints.tensors import Float
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.runtime.grammar.compiled import complaint, limits
from edgekit.runtime.grammar.constraints import Constraint

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from tokenizers import Tokenizer

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space in its pieces
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_TRIAL = " a  b\n\n\t<b>é 😀\x01 "


def piece_bytes(piece: str) -> bytes:
    """The UTF-8 that one of SentencePiece's pieces stands for."""
    byte = _BYTE.fullmatch(piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace(_SPACE, " ").encode()


class GrammarTokenizer:
    """A model's tokens as llguidance wants them: by their bytes, in a tree.

    The tree of Gemma's 262,144 tokens takes over a second and the interpreter's lock. It is built when it is first
    needed, or in the background while a library works outside the lock, and cannot be kept on a disk.

    Attributes:
        vocabulary: length of a row of logits.
        end_ids: the tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int], vocabulary: int) -> None:
        """Nothing is built yet.

        Args:
            tokenizer: one whose pieces are SentencePiece's: a space is `▁`, a byte `<0x41>`.
            vocabulary: may be more than the tokenizer has, for rows are padded; what is beyond is forbidden.

        Raises:
            UsageError: there is no end token, or one has no row.
        """
        if not end_ids or not all(0 <= token < vocabulary for token in end_ids):
            raise UsageError(f"end tokens {sorted(end_ids)}", allowed=f"one or more of 0 to {vocabulary - 1}")
        self.vocabulary = vocabulary
        self.end_ids = frozenset(end_ids)
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._built: LLTokenizer | None = None

    def prepare(self) -> None:
        """Begin to build in the background; whoever needs it meanwhile waits for it."""
        if self._built is None:
            Thread(target=self._prepare, name="grammar-tokenizer", daemon=True).start()

    def matcher(self, constraint: Constraint) -> Matcher:
        """What follows one answer from its first token.

        Raises:
            InputError: the constraint is too complex with these tokens.
            UsageError: the tokenizer is of another kind.
        """
        from llguidance import LLMatcher

        matcher = Matcher(self, LLMatcher(self._tree(), constraint.grammar(), log_level=0, limits=limits()))
        matcher.mask()  # what is too complex is often so at once, and a prompt takes longer than this
        return matcher

    def _prepare(self) -> None:
        with suppress(EdgekitError):  # said to whoever asks for a matcher
            self._tree()

    def _tree(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        with self._lock:
            if self._built is None:
                pieces = _Pieces(self._tokenizer, self.end_ids, self.vocabulary)
                ends = sorted(self.end_ids)
                slices = LLTokenizer.json_slices()
                self._built = LLTokenizer(pieces, n_vocab=self.vocabulary, eos_token=ends, slices=slices)  # type: ignore[arg-type]
            return self._built


class _Pieces:
    """A tokenizer in the form that llguidance asks for: its attributes have that library's names.

    It could read the tokenizer's JSON itself, which takes twice the time and a second tokenizer's memory.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int], vocabulary: int) -> None:
        self._tokenizer = tokenizer
        control = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._control = control | set(end_ids)
        self.special_token_ids = sorted(self._control)
        self.eos_token_id = min(end_ids)
        self.tokens = [b""] * vocabulary
        self._byte_ids: dict[int, int] = {}
        for piece, index in tokenizer.get_vocab(with_added_tokens=True).items():
            if index >= vocabulary:
                continue
            self.tokens[index] = piece_bytes(piece)
            if _BYTE.fullmatch(piece):
                self._byte_ids[self.tokens[index][0]] = index
        if len(self._byte_ids) < 256 or not self._written(_TRIAL):
            raise UsageError("constraints need a tokenizer with SentencePiece's pieces and byte fallback")

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text, which llguidance hands over as it likes.

        A text may hold what the tokenizer takes for something else: `<eos>` for the end, `▁` for a space. It is written
        in single characters then, and those in bytes where they must be.
        """
        text = text if isinstance(text, str) else text.decode()
        return self._written(text) or [token for one in text for token in self._written(one) or self._in_bytes(one)]

    def _written(self, text: str) -> list[int]:
        """The tokens of a text where they are that text again."""
        ids = list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        plain = all(token < len(self.tokens) and token not in self._control for token in ids)
        return ids if plain and b"".join(self.tokens[token] for token in ids) == text.encode() else []

    def _in_bytes(self, character: str) -> list[int]:
        return [self._byte_ids[byte] for byte in character.encode()]


class Matcher:
    """Follows one answer: says which tokens may come next, and takes them.

    Whatever is taken, the answer satisfies its constraint once it has `ended`; one that is cut off before is a
    beginning of such an answer. It is not for several threads.

    Attributes:
        ended: an end token was taken, and nothing comes after it.
    """

    def __init__(self, tokenizer: GrammarTokenizer, matcher: LLMatcher) -> None:
        self.ended = False
        self._vocabulary = tokenizer.vocabulary
        self._end_ids = tokenizer.end_ids
        self._matcher = matcher
        self._taken = 0
        self._check()

    @property
    def may_end(self) -> bool:
        """Whether the answer so far satisfies the constraint."""
        return bool(self._matcher.is_accepting())

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]; the end tokens where the answer may end.

        Where only one text can come, it is the token with which the tokenizer begins that text, and no shorter one.

        Raises:
            InputError: the constraint has grown too complex, or has led where nothing can follow.
            UsageError: the answer has ended.
        """
        return ~self._forbidden()

    def apply(self, logits: Float) -> None:
        """Set logits [vocabulary] of what may not come next to minus infinity, in place.

        Raises:
            InputError, UsageError: see `mask`; or the logits are of another length.
        """
        if logits.shape != (self._vocabulary,):
            raise UsageError(f"logits of shape {list(logits.shape)}", allowed=f"[{self._vocabulary}]")
        logits[self._forbidden()] = -np.inf

    def accept(self, token: int) -> None:
        """Take the next token.

        Raises:
            InputError: it is not allowed here; nothing is taken then.
            UsageError: the answer has ended.
        """
        self._check_going()
        if self.validate([token]) != 1:
            raise InputError(f"the token {token} is not allowed by the constraint here", allowed="those of its mask")
        self._taken += 1
        self.ended = token in self._end_ids
        if not self.ended:  # llguidance goes back over an end in one case and not in another, so it hears of none
            self._matcher.consume_token(token)
            self._check()

    def forced(self) -> list[int]:
        """The tokens that must come next, as the tokenizer writes them; none where there is a choice, or at the end.

        A caller may take them without asking the model. The text after them may change how it writes the last one, so
        less may be given than is settled.
        """
        if self.ended:
            return []
        tokens = self._matcher.compute_ff_tokens()
        self._check()
        return list(tokens[: self.validate(tokens)])

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, drafted by whatever guesses them, may be taken one after the other from here."""
        known = next((n for n, token in enumerate(tokens) if not 0 <= token < self._vocabulary), len(tokens))
        if self.ended or not known:
            return 0
        if self._matcher.is_stopped():  # nothing can come but an end, of which the library says that it cannot either
            return int(tokens[0] in self._end_ids)
        count = self._matcher.validate_tokens(list(tokens[:known]))
        self._check()
        return int(count)

    def rollback(self, count: int) -> None:
        """Go back by so many tokens, as if they had never been taken.

        Raises:
            UsageError: fewer were taken.
        """
        if not 0 <= count <= self._taken:
            raise UsageError(f"{count} tokens back", allowed=f"0 to {self._taken}")
        if back := count - (count > 0 and self.ended):
            self._matcher.rollback(back)
            self._check()
        self._taken -= count
        self.ended = self.ended and not count

    def _forbidden(self) -> NDArray[np.bool_]:
        self._check_going()
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(~bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def _check_going(self) -> None:
        if self.ended:
            raise UsageError("the answer has ended", remedy="begin another one")

    def _check(self) -> None:
        """Raise InputError where llguidance has given up, which it does for good."""
        if self._matcher.is_error():
            said = complaint(self._matcher.get_error())
            raise InputError(f"the constraint leads no further: {said}", remedy="make it simpler")
