"""An artifact as lm_eval's tasks see it: log-likelihoods of texts behind texts, and greedy or drawn answers.

Without `--apply_chat_template` texts are continued as they are, behind <bos>. With it a conversation is written as
edgekit writes it, from messages and not from a text: what stands in a question can then claim no turn.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401 - its own: it looks for them only where it knows of none
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from edgekit.errors import UsageError
from edgekit.inputs.message import Image, Message
from edgekit.runtime.base import Tokens
from edgekit.runtime.chat_model import ChatModel
from edgekit.runtime.generation.options import LONGEST_STOP, MOST_STOPS, GenerationOptions
from edgekit.runtime.model import Generation
from edgekit.runtime.opening import open_model
from edgekit.runtime.tuning_results import DEFAULT

_LOG = logging.getLogger(__name__)
_IMAGE = "<image>"  # where lm_eval's tasks have an image in their texts
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
_IGNORED = ("until", "max_gen_toks", "do_sample")


class Conversation(str):
    """Messages as JSON, which is what lm_eval carries from `apply_chat_template` to a request: a text."""

    __slots__ = ()


@register_model("edgekit")
class EdgekitLM(TemplateLM):
    """One level of an artifact.

    Args:
        artifact: its folder.
        level: a variant's name; the recipe's default for None.
        context: tokens of prompt and answer together; edgekit's own default for None. Longer texts lose their
            beginning, as with lm_eval's other models.
        max_gen_toks: the output budget of tasks that state none.
        batch_size, max_batch_size, device: what lm_eval hands to every model; one request is computed at a time, on
            whatever the level runs on here.

    Raises:
        EdgekitError: the artifact does not open, or is none of a model that answers.
    """

    MULTIMODAL = True

    def __init__(
        self,
        artifact: str,
        level: str | None = None,
        context: int | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        # What `edgekit tune` found on this machine must not decide what a figure says.
        model = open_model(Path(artifact), level, context=context, runtime=DEFAULT)
        if not isinstance(model, ChatModel):
            model.close()
            raise UsageError(f"{artifact}: {model.title} has no decoder, so no task of texts can be asked")
        self.model, self.max_gen_toks, self.batch_size = model, max_gen_toks, 1
        self.parts = dict(model.parts)

    @property
    def max_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.decoder.context

    @property
    def eot_token_id(self) -> int:
        """The first of the tokens that end an answer."""
        return self.model.settings.stop_token_ids[0]

    @property
    def prefix_token_id(self) -> int:
        """<bos>, which stands before every text."""
        return self.model.format.continued("")[0]

    @property
    def tokenizer_name(self) -> str:
        """What lm_eval's cache of requests is kept under."""
        return f"edgekit:{'+'.join(self.parts.values())}"

    def get_model_info(self) -> dict[str, Any]:
        """What lm_eval writes into its results: parts by their hashes, and what runs them."""
        return {"title": self.model.title, "parts": self.parts, "runtimes": dict(self.model.runtimes)}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **others: Any) -> list[int]:
        """The ids of a text, <bos> before them unless `add_special_tokens` is False."""
        ids = list(self.model.format.continued(string))
        return ids[1:] if add_special_tokens is False else ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation, rendered where it is read; a last turn of the model's is how its answer begins."""
        return Conversation(json.dumps([[turn["role"], turn["content"]] for turn in chat_history]))

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not isinstance(context, Conversation):
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        messages, begun = _messages(context, ())
        segments = self.model.segments(messages, begun or None)
        return [i for s in segments if isinstance(s, Tokens) for i in s.ids], self.model.tokenize(continuation)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **others: Any,
    ) -> list[tuple[float, bool]]:
        found = []
        for pair, context, continuation in tqdm(requests, disable=disable_tqdm, desc="edgekit: log-likelihoods"):
            whole = (context + continuation)[-(self.max_length + 1) :]  # the last token is never decoded
            answer = continuation[-(len(whole) - 1) :] if continuation else []
            if len(whole) < len(context) + len(continuation):
                _LOG.warning("a text of %d tokens loses its beginning", len(context) + len(continuation))
            result = self.model.continuation(whole[: len(whole) - len(answer)], answer)
            found.append(result)
            if pair is not None:
                self.cache_hook.add_partial("loglikelihood", pair, result)
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows of the context's length; each token is predicted once."""
        found = []
        for (text,) in tqdm([request.args for request in requests], disable=disable_tqdm, desc="edgekit: texts"):
            ids = self.tok_encode(text, add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            rows = [(None, *make_disjoint_window(window)) for window in windows]
            total = sum(score for score, _ in self._loglikelihood_tokens(rows, disable_tqdm=True))
            found.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, greedy unless the task asks for others, each up to the first of its stop texts."""
        found = []
        for context, settings, *more in tqdm([r.args for r in requests], disable=disable_tqdm, desc="edgekit: answers"):
            stops = _stops(settings)
            options = _options(settings, stops, self.max_gen_toks)
            *_, answer = self._answer(context, options, more[0].get("visual", ()) if more else ())
            assert isinstance(answer, Generation), "the last item of a stream is the finished answer"
            text = answer.text
            for stop in stops:
                text = text.split(stop)[0]
            found.append(text)
            self.cache_hook.add_partial("generate_until", (context, settings), text)
        return found

    def _answer(self, context: str, options: GenerationOptions, images: Sequence[Any]) -> Iterator[Any]:
        if isinstance(context, Conversation) or images:
            messages, begun = _messages(context, images)
            if begun:
                raise UsageError(
                    "an answer that the task begins itself (gen_prefix), in a conversation",
                    remedy="leave out --apply_chat_template for this task",
                )
            return self.model.generate(messages, options)
        ids, room = self.tok_encode(context, add_special_tokens=False), self.max_length - options.max_tokens - 1
        if len(ids) > max(room, 1):
            _LOG.warning("a prompt of %d tokens loses its beginning", len(ids))
            context = self.model.detokenize(ids[-max(room, 1) :])
        return self.model.complete(context, options)


def _messages(context: str, images: Sequence[Any]) -> tuple[list[Message], str]:
    """A conversation with its images in their places, and how the task begins the answer to it.

    Raises:
        UsageError: the texts have places for another number of images.
    """
    turns: list[Any] = json.loads(context) if isinstance(context, Conversation) else [["user", context]]
    begun = turns.pop()[1] if turns[-1][0] == "assistant" else ""
    left: list[Any] = list(images)
    messages: list[Message] = []
    for role, text in turns:
        parts: list[str | Image] = []
        pieces = text.split(_IMAGE) if images else [text]
        for place, piece in enumerate(pieces):
            if place:
                if not left:
                    raise _missing(images)
                parts.append(Image(left.pop(0)))
            if piece or len(pieces) == 1:
                parts.append(piece)
        messages.append(Message(role, *parts))
    if left:
        raise _missing(images)
    return messages, begun


def _missing(images: Sequence[Any]) -> UsageError:
    return UsageError(f"{len(images)} images of a task whose texts have another number of places for one")


def _stops(settings: Mapping[str, Any]) -> list[str]:
    stops = settings.get("until") or []
    return [stop for stop in ([stops] if isinstance(stops, str) else stops) if stop]


def _options(settings: Mapping[str, Any], stops: Sequence[str], budget: int) -> GenerationOptions:
    """How an answer is decoded; what is not drawn is greedy, whatever temperature stands beside it."""
    for name in set(settings) - {*_SAMPLING, *_IGNORED}:
        _LOG.warning("the task's %s = %r is nothing that edgekit knows, and is left out", name, settings[name])
    drawn = bool(settings.get("do_sample")) and settings.get("temperature") != 0
    given = {name: settings[name] for name in _SAMPLING if drawn and settings.get(name) is not None}
    if drawn:
        given = {"temperature": 1.0, **given}
    return GenerationOptions(
        max_tokens=int(settings.get("max_gen_toks") or budget),
        stop=tuple(stop for stop in stops if len(stop) <= LONGEST_STOP)[:MOST_STOPS],
        **given,
    )
