"""A model that chats: a decoder, with an encoder of images in front of it or without."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.artifacts.manifest import Preprocessing
from edgekit.errors import ArtifactError, InputError, TooLongError, UsageError
from edgekit.families.composition import ChatFormat
from edgekit.inputs import image as images_
from edgekit.inputs.message import Image, Message, read_all, with_pictures
from edgekit.machine.kept import Kept
from edgekit.metrics import log_softmax
from edgekit.runtime import wanted
from edgekit.runtime.base import MOST_ROWS, Decoder, Embeddings, Encoder, Float, Segment, SupportsSnapshot, Tokens
from edgekit.runtime.embedded import EmbeddedImages
from edgekit.runtime.generation.answer import Answer, Limits, Piece
from edgekit.runtime.generation.engine import Engine, Running
from edgekit.runtime.generation.held import HeldSequence, ahead_of, common_length, ids_of, image_places, keys_of
from edgekit.runtime.generation.options import GenerationOptions
from edgekit.runtime.generation.saved import restore, saved
from edgekit.runtime.generation.sharing import Member, Shared
from edgekit.runtime.grammar.guidance import GrammarTokenizer, piece_bytes
from edgekit.runtime.labels import check_labels
from edgekit.runtime.model import Generation, Model, Scores
from edgekit.runtime.owned_parts import join
from edgekit.runtime.ownership import Stream

_Prompt = tuple[list[Segment], tuple[str, ...]]  # and what to know about its images


class ChatModel(Model):
    """A decoder, with a vision encoder in front of it or without: images and text, or text alone, to text.

    Attributes:
        sees: whether it takes images.
        format: how conversations are written.
        made_by: names what encodes its images.
        cache_bytes: what its decoder's contexts take in memory; 0 where that is not known.
    """

    abilities = frozenset({"generate", "score", "classify"})
    sees = True

    @classmethod
    def abilities_of(cls, *, sees: bool) -> frozenset[str]:
        """What one with a vision encoder can do, or one without, which has no images to classify."""
        return cls.abilities if sees else cls.abilities - {"classify"}

    def __init__(
        self, decoder: Decoder, vision: Encoder | None, chat_format: ChatFormat, preprocessing: Preprocessing | None
    ) -> None:
        self.decoder, self.vision, self.format, self.preprocessing = decoder, vision, chat_format, preprocessing
        self.tokenizer, self.settings = chat_format.tokenizer, chat_format.settings
        self.warnings = () if self.settings.chat else ("this model has no chat template: texts are continued",)
        self.sees = vision is not None
        self.abilities = self.abilities_of(sees=self.sees)
        self.ownership = join(decoder, vision)
        self._embedded = EmbeddedImages(self.settings.image_tokens or 1)
        self.made_by, self.cache_bytes = "", 0
        self._engine = Engine(decoder)
        self._grammar = GrammarTokenizer(self.tokenizer, self.settings.stop_token_ids, decoder.vocabulary)
        self._shared = Shared(self, len(self._engine.sequences))

    def keep(self, made_by: str, kept: Kept) -> None:
        """Have embeddings of images stay on disk, where the user said so; see `edgekit.runtime.embedded`."""
        self._embedded = EmbeddedImages(self.settings.image_tokens or 1, made_by, kept)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a plain text, without <bos>. An answer under way does not mind."""
        self.check_usable()
        return self.format.encode(text)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids, as it would stand in an answer: control tokens say nothing.

        Raises:
            InputError: an id is no token.
        """
        self.check_usable()
        known = range(self.decoder.vocabulary)
        if wrong := [token for token in ids if token not in known or self.tokenizer.id_to_token(token) is None]:
            raise InputError(f"{wrong[0]} is no token", allowed=f"0 to {self.tokenizer.get_vocab_size() - 1}")
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """The UTF-8 of each token by itself, of which some are parts of a character; empty for what is no token."""
        self.check_usable()
        return [piece_bytes(self.tokenizer.id_to_token(token) or "") for token in ids]

    def encode_images(self, images: Sequence[images_.ImageLike]) -> Float:
        """float32 [n, image tokens, hidden]; the same picture is encoded once as long as it is remembered."""
        with self._using("embeddings of images"):
            pictures, known = read_all(images)
            images_.say(known)
            return self._encode_pixels(self._pixels(pictures))

    def _pixels(self, images: Sequence[images_.ImageLike]) -> NDArray[np.uint8]:
        if self.preprocessing is None or self.vision is None:
            raise InputError(f"{self.title or 'this model'} cannot see images", allowed="text alone", param="prompt")
        return images_.to_pixels(images, self.preprocessing)

    def _encode_pixels(self, pixels: NDArray[np.uint8]) -> Float:
        assert self.vision is not None, "only a model with a vision encoder makes pixels"
        if not len(pixels):
            raise InputError("no images", allowed="one or more")
        return np.stack(
            [self._embedded.of(images_.content_hash(image), partial(self._encode_one, image)) for image in pixels]
        )

    def _encode_one(self, pixels: NDArray[np.uint8]) -> Float:
        assert self.vision is not None, "only a model with a vision encoder makes pixels"
        row: Float = self.vision.encode(pixels[None])[0]
        if len(row) != self.settings.image_tokens:
            raise ArtifactError(
                f"the vision part gives {len(row)} tokens an image",
                allowed=f"{self.settings.image_tokens}, by the manifest's settings",
            )
        return row

    def segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        """The prompt as the decoder takes it, images encoded, followed by the model's answer where one is given."""
        with self._using("a prompt"):
            messages, known = with_pictures(messages)
            images_.say(known)
            return self._segments(messages, answer)

    def _segments(self, messages: Sequence[Message], answer: str | None = None) -> list[Segment]:
        images = [image for message in messages for image in message.images]
        pixels = self._pixels(images) if images else np.empty(0, np.uint8)
        runs = self.format.runs(messages, answer)
        self._check_length(sum(run if isinstance(run, int) else len(run) for run in runs))
        embedded = iter(self._encode_pixels(pixels)) if images else iter(())
        hashes = iter([images_.content_hash(image) for image in pixels])
        segments: list[Segment] = []
        for run in runs:
            if isinstance(run, tuple):
                segments.append(Tokens(run))
            else:
                segments.append(Embeddings(next(embedded), next(hashes)))
        return segments

    def _check_length(self, tokens: int) -> None:
        """Raise TooLongError where a prompt does not fit: before its images are encoded, which takes longest."""
        context, limit = self.decoder.context, self.settings.context
        if tokens > context:
            opened = f"--context {tokens} or more where it is opened or served, in Python context="
            wider = f"{opened}, and leave room for an answer"
            remedy = wider if context < tokens < limit else "a shorter prompt"
            allowed = f"1 to {context}, the context it was opened with; the model was made for {limit}"
            said = f"a prompt of {tokens} tokens, {tokens - context} too many"
            raise TooLongError(said, allowed=allowed, remedy=remedy, param="prompt")

    def _answering(self, answers: Callable[[], Iterator[Piece | Generation]]) -> Iterator[Piece | Generation]:
        return Stream(_from_first(answers), "an answer", self)

    def _generate(self, messages: Sequence[Message], options: GenerationOptions) -> Iterator[Piece | Generation]:
        if messages and not messages[-1].images and not messages[-1].text.strip():
            raise InputError("an empty question", allowed="a text, an image, or both", param="prompt")

        def prompt() -> _Prompt:
            pictured, known = with_pictures(self._asked_to_think(messages) if options.thinking else messages)
            return self._segments(pictured), known

        return self._answers(prompt, options)

    def _complete(self, text: str, options: GenerationOptions) -> Iterator[Piece | Generation]:
        if options.thinking:
            raise InputError("thoughts before a text that is continued", allowed="thinking in a conversation")

        def prompt() -> _Prompt:
            ids = self.format.continued(text)
            self._check_length(len(ids))
            return [Tokens(ids)], ()

        return self._answers(prompt, options)

    def _answers(self, prompt: Callable[[], _Prompt], options: GenerationOptions) -> Iterator[Piece | Generation]:
        began = time.perf_counter()
        if options.constraint:
            self._grammar.prepare()  # while the prompt is read
        member = self._shared.enter("an answer")
        try:
            with self._shared.turn(member):
                segments, known = prompt()
            seed = secrets.randbits(32) if options.seed is None else options.seed
            for number in range(options.n):
                answer = Answer(
                    options,
                    self.format,
                    [token for segment in segments for token in ids_of(segment)],
                    Limits(self.decoder.context, self.decoder.vocabulary, self._engine.verifies_drafts),
                    seed=seed + number,
                    number=number,
                    began=began,
                    matcher=self._grammar.matcher(options.constraint) if options.constraint else None,
                )
                yield from self._answered(member, answer, segments, known)
        finally:
            self._shared.leave(member)

    def _answered(
        self, member: Member, answer: Answer, segments: Sequence[Segment], known: Sequence[str]
    ) -> Iterator[Piece | Generation]:
        running = self._started(member, segments, answer)
        while True:
            done = running.done  # before the pieces are looked at: another thread may be adding the last
            while running.pieces:
                yield running.pieces.popleft()
            if done:
                break
            with self._shared.turn(member):
                if not running.pieces and not running.done:  # nobody else has made this step meanwhile
                    self._engine.step()
        self._engine.end(running)
        if running.failed:
            raise running.failed
        yield self._finished(running, answer, sum(map(len, segments)), known)

    def _started(self, member: Member, segments: Sequence[Segment], answer: Answer | None) -> Running:
        with self._shared.turn(member):
            running = self._engine.start(segments, answer)
            member.release = partial(self._engine.end, running)
            return running

    def _prepare(self, messages: Sequence[Message]) -> int:
        messages, known = with_pictures(messages)
        images_.say(known)
        member = self._shared.enter("an image before its question")
        try:
            with self._shared.turn(member):
                segments = self._segments(messages)
            last = max((end for _, end in image_places(segments)), default=sum(map(len, segments)))
            running = self._started(member, ahead_of(segments, last), None)
            while not running.done:
                with self._shared.turn(member):
                    if not running.done:
                        self._engine.step()
            if running.failed:
                raise running.failed
            return last
        finally:
            self._shared.leave(member)

    @property
    def embeddings_bytes(self) -> int:
        """What the embeddings of images that it remembers take in memory."""
        return self._embedded.held_bytes

    def save(self, messages: Sequence[Message]) -> bytes:
        """What was computed of a conversation whose last turn is the model's answer: all that a next question begins
        with, for `load`, at another time. It derives from what was said and shown.

        Raises:
            InputError: no such conversation.
            UsageError: the decoder cannot give it, the model is closed, or an answer is under way.
        """
        with self._using("a conversation"):
            self._require_snapshots()
            pictured, _ = with_pictures(messages)
            one, other = (self._segments([*pictured, Message("user", text)]) for text in ("a", "b"))
            common = common_length(keys_of(one), keys_of(other))
            sequence = self._free_for(one)
            _, left = sequence.begin(ahead_of(one, common), most=common)
            if left:
                sequence.extend(left, want=False)
            return saved(sequence, self.made_by)

    def load(self, data: bytes) -> None:
        """Hold what `save` gave; who goes on with that conversation waits for what is new.

        Raises:
            SnapshotError: the bytes are damaged, another model's, or too long for this context.
            UsageError: the decoder cannot take it, the model is closed, or an answer is under way.
        """
        with self._using("a conversation"):
            self._require_snapshots()
            restore(self._free_for([]), data, self.made_by)

    def _require_snapshots(self) -> None:
        if not isinstance(self.decoder, SupportsSnapshot):
            raise UsageError(f"{self.title or 'this model'} cannot keep conversations", allowed="ask again")

    def _free_for(self, segments: Sequence[Segment]) -> HeldSequence:
        """A sequence, while no answer is under way."""
        self._shared.drop_lost()
        sequence = self._engine.free(keys_of(segments))
        assert sequence is not None, "no answer is under way beside this"
        return sequence

    def _asked_to_think(self, messages: Sequence[Message]) -> list[Message]:
        """With the system text that asks for thoughts, before what it says else."""
        if self.format.thoughts is None:
            said = f"{self.title or 'this model'} cannot think: its vocabulary has no tokens for it"
            raise InputError(said, remedy="ask without it: leave it out", param="thinking")
        instruction = self.format.thoughts.instruction
        if messages and messages[0].role == "system":
            return [Message("system", f"{instruction} {messages[0].text}"), *messages[1:]]
        return [Message("system", instruction), *messages]

    def _finished(self, running: Running, answer: Answer, prompt_tokens: int, known: Sequence[str]) -> Generation:
        now = time.perf_counter()
        first = running.first or now
        assert answer.stopped is not None, "only what ended is finished"
        return Generation(
            answer.text,
            prompt_tokens,
            len(answer.ids),
            truncated=answer.stopped not in ("end", "stop"),
            first_token_s=first - answer.began,
            decode_s=now - first,
            warnings=(*self.warnings, *known, *self._cut(answer)),
            stopped=answer.stopped,
            thoughts=answer.thoughts,
            thinking_tokens=answer.thinking_tokens,
            cached_tokens=running.cached,
            drafted_tokens=answer.lookup.drafted if answer.lookup else 0,
            accepted_tokens=answer.lookup.taken if answer.lookup else 0,
            number=answer.number,
            seed=answer.seed if answer.options.temperature else None,
            tokens=answer.tokens if answer.options.top_logprobs is not None else (),
        )

    def _cut(self, answer: Answer) -> Iterator[str]:
        """What is said of an answer that the model did not end."""
        cut = f"the answer was cut off at {len(answer.ids)} tokens"
        context, limit = self.decoder.context, self.settings.context
        wider = f", of {limit} that the model was made for (--context)" if context < limit else ""
        why = {
            "budget": "",
            "loop": ": it only repeated itself",
            "context": f": the context of {context} is full{wider}",
            "deadline": f": its {answer.options.deadline_s} s were over",
            "cancelled": ": it was cancelled",
        }
        if answer.stopped in why:
            yield cut + why[answer.stopped]
            if answer.thinking_tokens == len(answer.ids) > 0:
                yield "all of it was thought, nothing answered: a larger budget, or one for thoughts alone"

    def _score(self, messages: Sequence[Message], options: Sequence[str]) -> Float:
        _check_options(options)
        messages, known = with_pictures(messages)  # once, not for every option
        images_.say(known)
        return self._scored(lambda: self._segments(messages), options)

    def _score_text(self, text: str, options: Sequence[str]) -> Float:
        _check_options(options)
        return self._scored(lambda: [Tokens(self.format.continued(text))], options)

    def _scored(self, prompt: Callable[[], list[Segment]], options: Sequence[str]) -> Float:
        """The sum over each option's tokens behind a prompt that is decoded once.

        Options of one token need nothing else; longer ones are appended to it where the decoder can take them back.
        """
        segments, scores = prompt(), []
        behind: NDArray[np.float64] | None = None  # log probabilities of what an option may begin with
        for option in options:
            wanted.check()
            ids = self.format.encode(option)
            if not ids:
                raise InputError("an empty option cannot be scored")
            if behind is not None and len(ids) == 1:
                scores.append(float(behind[ids[0]]))
                continue
            found = [log_softmax(row) for row in self._rows_of(segments, ids)]
            behind = found[0]
            scores.append(sum(float(row[token]) for row, token in zip(found, ids, strict=True)))
        return np.asarray(scores, np.float32)

    def _rows_of(self, segments: Sequence[Segment], answer: Sequence[int]) -> Sequence[Float]:
        """Logits in the place of each token of an answer behind a prompt, given those before it."""
        whole = [*segments, Tokens(tuple(answer[:-1]))] if len(answer) > 1 else segments
        first = sum(map(len, segments)) - 1
        self._check_length(first + len(answer))
        return self._free_for(whole).rows(whole, range(first, first + len(answer)))

    def answer_logits(self, messages: Sequence[Message], answer: Sequence[int]) -> Float:
        """Logits [len(answer), vocabulary] float32 in the place of each token of an answer, given those before it.

        Args:
            answer: token ids, at most `MOST_ROWS`.

        Raises:
            InputError: no answer or too long a one, an id that is no token, or more of them than the context holds.
            UsageError: the model is closed, or an answer is under way.
        """
        if not 0 < len(answer) <= MOST_ROWS:
            raise InputError(f"an answer of {len(answer)} tokens", allowed=f"1 to {MOST_ROWS}")
        with self._using("scores"):
            messages, known = with_pictures(messages)
            images_.say(known)
            return np.stack(self._rows_of(self._segments(messages), answer))

    def continuation(self, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, bool]:
        """The log-probability of token ids behind others, and whether greedy decoding would give them.

        What prompts one after the other have in common is decoded once.

        Raises:
            InputError: no prompt, an id that is no token, or more of them than the context holds.
            UsageError: the model is closed, or an answer is under way.
        """
        with self._using("scores"):
            total, greedy, done = 0.0, True, 0
            while part := answer[done : done + MOST_ROWS]:
                before = len(prompt) + done
                ids = (*prompt, *answer[: done + len(part) - 1])  # of the last token alone the probability is wanted
                segments: list[Segment] = [Tokens(ids)]
                rows = self._free_for(segments).rows(segments, range(before - 1, len(ids)))
                for row, token in zip(rows, part, strict=True):
                    total += float(log_softmax(row)[token])
                    greedy = greedy and int(row.argmax()) == token
                done += len(part)
            return total, greedy

    def _classify(self, images: Sequence[Any], labels: Sequence[Sequence[str]], scores: Scores | None) -> Float:
        """Probability of each label as the answer to a question that lists them, normalized over the labels."""
        if self.vision is None:
            raise self._lacks("classify")
        if scores == "sigmoid":
            raise UsageError("sigmoid scores of a model that chats, whose labels compete", allowed="softmax")
        if several := next((label for label in labels if len(label) > 1), None):
            said = f"a label of {len(several)} texts, of a model that chats: it chooses between texts, not sets of them"
            raise UsageError(said, allowed="one text for each label, or a model that embeds")
        names = [label[0] for label in labels if label]
        read = [[tuple(self.format.encode(text.strip())) for text in label] for label in labels]
        check_labels(labels, read, (), "the first text of each")
        question = f"Which of these does the image show: {', '.join(names)}?"
        rows = []
        for place, image in enumerate(images):
            (picture,), known = read_all([image], place, len(images))
            images_.say(known)
            rows.append(self._score([Message("user", Image(picture), question)], names))
        return np.reshape([np.exp(log_softmax(row)) for row in rows], (len(rows), len(names))).astype(np.float32)

    def _free(self) -> None:
        """The encoder first, it may lean on the decoder."""
        if self.vision:
            self.vision.close()
        self.decoder.close()


def _check_options(options: Sequence[str]) -> None:
    if not options or len(set(options)) < len(options):
        raise InputError(f"{len(options)} options, {len(set(options))} of them different", allowed="different ones")


def _from_first(items: Callable[[], Iterator[Piece | Generation]]) -> Generator[Piece | Generation, None, None]:
    """Nothing begins before the first is asked for."""
    yield from items()
