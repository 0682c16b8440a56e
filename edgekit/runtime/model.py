"""What stands above the parts: an open model, and the answers that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast, get_args

from edgekit.checkpoints.tensors import Float
from edgekit.errors import InputError, UsageError
from edgekit.inputs.message import Message
from edgekit.runtime.generation.answer import Piece, Stop
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.sampling import Chosen
from edgekit.runtime.ownership import Owned

Scores = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class Generation:
    """A finished answer: an item of `Model.generate`'s stream, behind all of the answer's pieces.

    Attributes:
        text: the answer, special tokens removed.
        prompt_tokens, output_tokens: counts; an image counts with all its tokens, thoughts count as output.
        truncated: something else than the model, or a stop text, ended it.
        first_token_s: from the call to the first token, image encoding included.
        decode_s: from the first token to the last.
        warnings: what the user must know: a cut prompt, a budget hit, a stand-in model.
        stopped: what ended it: the model (`end`), a `stop` text, the output `budget`, a full `context`, the `deadline`,
            who asked (`cancelled`), or that it only repeated itself (`loop`: see
            `edgekit.runtime.generation.repetition`).
        thoughts: what it thought before, where it did.
        thinking_tokens: of its output tokens, how many were thoughts.
        cached_tokens: of the prompt's tokens, how many had been computed for an earlier one.
        drafted_tokens, accepted_tokens: how many were copied from the context, and how many of them were right.
        number: of the answer, where several were asked for.
        seed: of what was drawn; None where nothing was.
        tokens: with log probabilities where they were asked for.

    Examples:
        >>> answer = Generation("No acute findings.", 301, 5, False, first_token_s=20.6, decode_s=0.4)
        >>> answer.stopped, answer.output_tokens
        ('end', 5)
        >>> answer.tokens_per_s
        10.0
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    truncated: bool
    first_token_s: float
    decode_s: float
    warnings: tuple[str, ...] = field(default=())
    stopped: Stop = "end"
    thoughts: str = ""
    thinking_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    number: int = 0
    seed: int | None = None
    tokens: tuple[Chosen, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Speed of decoding: of the tokens behind the first, which came with the prompt; 0 where there are none."""
        return (self.output_tokens - 1) / self.decode_s if self.output_tokens > 1 and self.decode_s > 0 else 0.0


class Model(Owned):
    """An open model, as `edgekit.open` gives it: what tasks and users see, whatever runs it.

    A model that lacks an ability says so; `abilities` lists what it has. It gives as many answers at once as it was
    opened with `slots`, one by default; for anything else it has one user at a time: while an answer is under way,
    another thread waits for up to `wait_s` seconds, and the thread that reads the answer is refused until that is read
    to its end or closed. In a fork of the process, and when closed, it refuses everything.

    Attributes:
        warnings: what the user must know.
        hints: those of them that are for whoever runs this machine, and are about no answer.
        runtimes: role -> the library that runs it, with its version and options: part of what a figure depends on.
        parts: role -> the id of the part in it, a hash of its files.

    Whoever makes a kind of model implements the methods with an underscore; whose turn it is has been settled then.

    Examples:
        >>> import edgekit
        >>> with edgekit.open("medsiglip") as model:
        ...     scores = model.classify(["chest.png"], ["no finding", "pneumothorax"])
        >>> scores.shape
        (1, 2)
    """

    abilities: frozenset[str] = frozenset()
    title: str = ""
    warnings: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    runtimes: Mapping[str, str] = {}
    parts: Mapping[str, str] = {}

    @property
    def wait_s(self) -> float:
        """Seconds that another thread waits for its turn before it is refused; may be set."""
        return self.ownership.wait_s

    @wait_s.setter
    def wait_s(self, seconds: float) -> None:
        """Of all its parts, too."""
        self.ownership.wait_s = seconds

    def generate(
        self, messages: Sequence[Message], options: GenerationOptions | None = None, *, max_tokens: int | None = None
    ) -> Iterator[Piece | Generation]:
        """Stream an answer, or several, decoded greedily unless the options say otherwise.

        Args:
            messages: a conversation, of which the user's turn is the last.
            options: how it is decoded.
            max_tokens: the output budget, for who wants no other option.

        Yields:
            pieces of text, each a `str`, and behind each answer's last piece the finished `Generation`. The pieces of
            thoughts say that they are.

        Raises:
            InputError: no conversation, one that does not fit the context, or an option that the model cannot have;
                said when the first piece is asked for.
            UsageError: the model cannot generate, is closed, or another answer is under way.

        Examples:
            >>> import edgekit
            >>> from edgekit import GenerationOptions, Image, Message
            >>> with edgekit.open("medgemma") as model:
            ...     *pieces, answer = model.generate([Message("user", Image("chest.png"), "What is it?")], max_tokens=8)
            >>> answer.text == "".join(pieces)
            True
            >>> with edgekit.open("medgemma") as model:
            ...     drawn = GenerationOptions(max_tokens=8, temperature=1, seed=3, stop=("Impression:",))
            ...     *pieces, answer = model.generate([Message("user", "What is a cough?")], drawn)
            >>> answer.seed
            3
        """
        if options is not None and max_tokens is not None:
            raise UsageError("max_tokens beside options", remedy="GenerationOptions(max_tokens=...)")
        chosen = options or (GenerationOptions() if max_tokens is None else GenerationOptions(max_tokens=max_tokens))
        return self._answering(lambda: self._generate(_conversation(messages), chosen))

    def complete(self, text: str, options: GenerationOptions | None = None) -> Iterator[Piece | Generation]:
        """Go on with a text as it is, without the format of a conversation; otherwise as `generate`.

        Raises:
            InputError: the text does not fit the context or holds control tokens, or an option that the model cannot
                have; said when the first piece is asked for.
            UsageError: the model cannot generate, is closed, or another answer is under way.
        """
        chosen = options or GenerationOptions()
        return self._answering(lambda: self._complete(_texts([text], "text")[0], chosen))

    def prepare(self, messages: Sequence[Message]) -> int:
        """Do what can be done before the question is there: encode the images of its turn, and decode up to the last.

        Who then asks with the same beginning waits for the tokens of the question alone.

        Returns:
            how many tokens are held.

        Raises:
            InputError: no conversation, or one that does not fit the context.
            UsageError: the model cannot generate, is closed, or another answer is under way.
        """
        return self._prepare(_conversation(messages))

    def score(self, messages: Sequence[Message], options: Sequence[str]) -> Float:
        """Log-probability of each option as the answer, [len(options)] float32.

        Raises:
            InputError: no conversation, or an option without a token.
            UsageError: the model cannot score, is closed, or another answer is under way.
        """
        with self._using("scores"):
            return self._score(_conversation(messages), _texts(options, "options"))

    def score_text(self, text: str, options: Sequence[str]) -> Float:
        """As `score`, but of options behind a text as it is, without the format of a conversation; see `complete`."""
        with self._using("scores"):
            return self._score_text(_texts([text], "text")[0], _texts(options, "options"))

    def embed_image(self, images: Sequence[Any]) -> Float:
        """Unit vectors [n, hidden] of images.

        Raises:
            InputError: something is no image.
            UsageError: the model embeds no images, is closed, or another call is under way.
        """
        with self._using("embeddings of images"):
            return self._embed_image(_several(images, "images"))

    def embed_text(self, texts: Sequence[str]) -> Float:
        """Unit vectors [n, hidden] of texts. A text that is cut to the model's length is said as a warning.

        Raises:
            UsageError: the model embeds no texts, is closed, or another call is under way.
        """
        with self._using("embeddings of texts"):
            return self._embed_text(_texts(texts, "texts"))

    def classify(
        self, images: Sequence[Any], labels: Sequence[str | Sequence[str]], scores: Scores | None = None
    ) -> Float:
        """Score of each label for each image, [len(images), len(labels)] float32.

        Args:
            labels: a text each, or several whose meaning is averaged; of a model that chats one text each. A text that
                is cut to the model's length is said as a warning.
            scores: `sigmoid`, each label by itself, or `softmax`, which add up to one over the labels; None for what
                the model was trained on. A model that chats has softmax alone.

        Raises:
            InputError: something is no image.
            UsageError: a label has nothing that the model could read, or two are the same to it; the model cannot
                classify, is closed, or another call is under way.
        """
        with self._using("scores of labels"):
            return self._classify(_several(images, "images"), _labels(labels), _scores(scores))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what the libraries hold, as soon as none of them computes; twice does no harm.

        What is under way in other threads ends at its next step with a UsageError. In a fork nothing is freed.
        """
        self.ownership.ended = True
        super().close()

    def _answering(self, answers: Callable[[], Iterator[Piece | Generation]]) -> Iterator[Piece | Generation]:
        """Answers as they are read; who can give several at once says so here."""
        return self._streaming("an answer", answers)

    def _generate(self, messages: Sequence[Message], options: GenerationOptions) -> Iterator[Piece | Generation]:
        raise self._lacks("generate")

    def _complete(self, text: str, options: GenerationOptions) -> Iterator[Piece | Generation]:
        raise self._lacks("generate")

    def _prepare(self, messages: Sequence[Message]) -> int:
        raise self._lacks("generate")

    def _score(self, messages: Sequence[Message], options: Sequence[str]) -> Float:
        raise self._lacks("score")

    def _score_text(self, text: str, options: Sequence[str]) -> Float:
        raise self._lacks("score")

    def _embed_image(self, images: Sequence[Any]) -> Float:
        raise self._lacks("embed_image")

    def _embed_text(self, texts: Sequence[str]) -> Float:
        raise self._lacks("embed_text")

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]], scores: Scores | None) -> Float:
        raise self._lacks("classify")

    def _lacks(self, ability: str) -> UsageError:
        return UsageError(f"{self.title or 'this model'} cannot {ability}", allowed=", ".join(sorted(self.abilities)))


def _several(given: Any, what: str) -> Sequence[Any]:
    """A list of things: one alone, a text in particular, would be taken for a list of its letters."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UsageError(f"{what}: {type(given).__name__}", allowed=f"a list of {what}")
    return list(given)


def _texts(given: Any, what: str) -> Sequence[str]:
    texts = _several(given, what)
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise UsageError(f"{what}: {wrong[0]!r:.60}", allowed="texts")
    return texts


def _labels(given: Any) -> Sequence[Sequence[str]]:
    labels = _several(given, "labels")
    if not labels:
        raise UsageError("no labels", allowed="one or more")
    return [[label] if isinstance(label, str) else _texts(label, "labels") for label in labels]


def _scores(given: Any) -> Scores | None:
    if given is not None and given not in get_args(Scores):
        raise UsageError(f"scores of {given!r:.40}", allowed=", ".join(get_args(Scores)))
    return cast("Scores | None", given)


def _conversation(given: Any) -> Sequence[Message]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise InputError(f"messages: {type(given).__name__}", allowed="a list of Message")
    messages = list(given)
    if wrong := [message for message in messages if not isinstance(message, Message)]:
        raise InputError(f"messages: {type(wrong[0]).__name__}", allowed="a list of Message")
    return messages
