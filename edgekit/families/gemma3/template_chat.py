"""Chat templates that render other turns than Gemma's: kept as they are, and rendered by themselves in a sandbox.

`edgekit.families.gemma3.chat` writes what Gemma's template renders. Whether a checkpoint's is that template is seen by
what it renders, for words may differ: conversations of all kinds that a template could treat otherwise which has words
for nothing else (`template_words`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifacts.files import sha256_file, sha256_json
from edgekit.errors import CheckpointError, EdgekitError, InputError
from edgekit.families.composition import ChatFormat, ChatSettings, OwnTemplate
from edgekit.families.gemma3 import chat
from edgekit.families.gemma3.chat import IMAGE, GemmaChat, chat_template, check_roles, check_turn
from edgekit.families.gemma3.template_words import says_only_gemmas
from edgekit.inputs import chat_templates
from edgekit.inputs.chat_templates import Turns, failure, rendered
from edgekit.inputs.message import Image, Message
from edgekit.machine.tried import remember, was_tried

_ANYTHING = "x"  # stands for a text where only what is around it counts
_MARK = re.compile(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{1,32}\]")  # what templates put around turns, whether a token or not
_WHERE = "the model's chat template"
_KEPT = (
    "its chat template renders other turns than the model's architecture is known for: it is kept, and rendered by "
    "itself in a sandbox; no Modelfile is written, for Ollama has another language for templates"
)
_answered: set[str] = set()  # in this process: where the cache cannot be written
_QUESTION, _ANSWER, _NEXT, _SYSTEM = "What is seen here?", "Nothing of note.", "And below?", "You look at phantoms."


def turns(messages: Sequence[Message], parts: bool) -> list[dict[str, Any]]:
    """Messages as a template gets them: as lists of parts, or, for those that know nothing else, as texts."""

    def content(message: Message) -> Any:
        if not parts:
            return message.text
        return [{"type": "image"} if isinstance(p, Image) else {"type": "text", "text": p} for p in message.parts]

    return [{"role": message.role, "content": content(message)} for message in messages]


def own_template(
    text: str, variables: Mapping[str, str], sees: bool, where: str, error: type[EdgekitError] = CheckpointError
) -> OwnTemplate | None:
    """A template that must be rendered by itself; None for Gemma's, in whatever words.

    Args:
        variables: what the template may use beside the messages: `bos_token` and the like.
        sees: whether the vocabulary has an image token; then a template should take images.
        where: what messages begin with.

    Raises:
        error: it cannot be rendered, or drops what is said.
    """
    if renders_gemmas_turns(text, variables, sees, where, error):
        return None

    def takes(parts: bool) -> bool:
        return _known(f"parts {parts}", text, variables, lambda: not _problem(text, variables, parts, where, error))

    parts = sees and takes(True)
    if not parts and not takes(False):
        raise error(
            f"{where}: {_problem(text, variables, False, where, error)}",
            allowed="one that renders all that is said, once and in order",
            remedy="take the template of the original model; this one renders no prompt",
        )
    system = _known(f"system {parts}", text, variables, lambda: _takes_system(text, variables, parts, where, error))
    return OwnTemplate(text=text, variables=dict(variables), parts=parts, system=system)


def notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What users should know of a template that is rendered by itself: see `edgekit.families.base.Family`."""
    if not (stated := settings.get("template")):
        return ()
    template, stops = OwnTemplate.model_validate(stated), settings["stop_tokens"]
    end = _end_of_answers(template)
    if any(end.startswith(stop) for stop in stops):
        return (_KEPT,)
    shown, known = _MARK.match(end), ", ".join(stops)
    return _KEPT, (
        f"its chat template ends an answer with {shown[0] if shown else end[:40]!r}, which is none of the tokens at "
        f"which the model stops ({known}): answers may go on behind it; where it is a token, make it a special one of "
        "the tokenizer and state its id as eos_token_id in generation_config.json"
    )


def _end_of_answers(template: OwnTemplate) -> str:
    """What stands behind an answer in a conversation that goes on."""
    messages = [Message("user", _QUESTION), Message("assistant", _ANSWER), Message("user", _NEXT)]
    found, end = rendered(template.text, [turns(messages, template.parts)], template.variables, _WHERE)
    if not found:
        raise failure(end, _WHERE, CheckpointError)
    return found[0].partition(_ANSWER)[2].partition(_NEXT)[0].lstrip()


def renders_gemmas_turns(
    text: str, variables: Mapping[str, str], sees: bool, where: str, error: type[EdgekitError] = CheckpointError
) -> bool:
    """Whether a template is Gemma's, by what it renders, and by what it could.

    Raises:
        CheckpointError: no process can be started to render it in.
        error: it computes for too long.
    """
    if text.replace("\r\n", "\n").rstrip("\n") == chat_template():
        return True

    def same() -> bool:
        if not says_only_gemmas(text):
            return False
        conversations = _conversations(sees)
        found, _ = rendered(text, [turns(messages, sees) for messages in conversations], variables, where, error)
        return found == [chat.chat_text(messages) for messages in conversations]

    return _known(f"Gemma's {sees}", text, variables, same)


def same_turns(one: str, other: str, variables: Mapping[str, str]) -> bool:
    """Whether two templates are both Gemma's, in whatever words: see `renders_gemmas_turns`."""
    return all(renders_gemmas_turns(text, variables, IMAGE in one, "a chat template") for text in (one, other))


def _known(question: str, text: str, variables: Mapping[str, str], find_out: Callable[[], bool]) -> bool:
    """An answer about a template, which is asked for at every open and remembered on this machine."""
    keys = {
        answer: sha256_json([question, answer, text, sorted(variables.items()), _rules()]) for answer in (True, False)
    }
    for answer, key in keys.items():
        if key in _answered or was_tried(key):
            return answer
    found = find_out()
    _answered.add(keys[found])
    remember(keys[found])
    return found


@cache
def _rules() -> list[str]:
    return [sha256_file(Path(str(path))) for path in (chat.__file__, chat_templates.__file__, __file__)]


def _problem(text: str, variables: Mapping[str, str], parts: bool, where: str, error: type[EdgekitError]) -> str | None:
    """Why a template is none for messages in this form: it must render all that is said, and each image once."""
    shown = [Image(_BLANK)] if parts else []
    conversations = [
        [Message("user", _QUESTION)],
        [Message("user", *shown, _QUESTION)],
        [Message("user", *shown, _QUESTION), Message("assistant", _ANSWER), Message("user", *shown, _NEXT)],
    ]
    found, end = rendered(text, [turns(messages, parts) for messages in conversations], variables, where, error)
    if end.problem or len(found) < len(conversations):
        return f"cannot be rendered: {end.problem or 'it gives nothing'!s:.200}"
    for messages, made in zip(conversations, found, strict=True):
        if not _holds(made, messages):
            return "drops a part of what is said, or shows it as something else"
        images = sum(len(message.images) for message in messages)
        if made.count(IMAGE) != images:
            return f"places {IMAGE} {made.count(IMAGE)} times for {images} images"
    return None


def _takes_system(text: str, variables: Mapping[str, str], parts: bool, where: str, error: type[EdgekitError]) -> bool:
    messages = [Message("system", _SYSTEM), Message("user", _QUESTION)]
    found, end = rendered(text, [turns(messages, parts)], variables, where, error)
    return not end.problem and _holds(found[0], messages)


def _holds(made: str, messages: Sequence[Message]) -> bool:
    """Whether a rendered conversation has each of its texts, once and in order, and nothing of how they were given."""
    texts = [message.text for message in messages]
    places = [made.find(text) for text in texts]
    alone = all(made.count(text) == 1 for text in texts)
    return alone and places == sorted(places) and not re.search(r"""["']type["']\s*:""", made)


_BLANK = np.zeros((1, 1, 3), np.uint8)


def _conversations(sees: bool) -> list[list[Message]]:
    """What templates are compared on: turns, system texts, images, white space, and texts that look like more."""
    texts = (
        _QUESTION,
        "",
        " \t two  spaces\n\n and a line \n",
        "na\u00efve \u00b5 \u80ba\u708e \u0635\u062f\u0631 \U0001fa7b e\u0301",
        "{{ bos_token }} {% if x %} <b>&amp;</b> \\n 'quoted' \"twice\"",
        "[INST] <|im_start|>system\nno<|im_end|> </think> <think>a</think>",
        "a" * 3000,
    )
    shown = Image(_BLANK)
    made = [[Message("user", text)] for text in texts]
    made += [[Message("system", text), Message("user", f" {text} b")] for text in texts]
    for text in texts:
        answers = [Message("assistant", f"{text} so"), Message("user", _NEXT)]
        made.append([Message("user", _QUESTION), *answers])
        made.append([Message("system", _SYSTEM), Message("user", _QUESTION), *answers, Message("assistant", text)])
        made[-1].append(Message("user", text))
    if sees:
        made += [[Message("user", shown, text)] for text in texts]
        made += [
            [Message("user", "Before: ", shown, " after: ", shown, " what has changed?")],
            [Message("user", shown)],
            [Message("system", _SYSTEM), Message("user", shown, shown, _QUESTION)],
            [Message("user", shown, _QUESTION), Message("assistant", _ANSWER), Message("user", _NEXT, shown)],
            [Message("user", *(part for _ in range(5) for part in (shown, _QUESTION)))],
        ]
    long = [Message("assistant" if number % 2 else "user", f"{number}") for number in range(17)]
    made += [long, [Message("system", _SYSTEM), *long]]
    return made


class TemplateChat(GemmaChat):
    """Conversations by a template of the model's own: `edgekit.families.composition.ChatFormat`."""

    def _written(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The prompt, and that of the same conversation with other texts.

        Raises:
            InputError: the template cannot render it, or a text claims to be more than text.
        """
        template = self.settings.template
        assert template is not None, "others are Gemma's"
        said = list(messages)
        if said and said[0].role == "system":
            if not template.system:
                raise InputError("a system message, which this model's chat template does not take")
            said.pop(0)
        check_roles(said)
        if not template.parts and any(message.images for message in messages):
            raise InputError("an image, which this model's chat template does not take", allowed="text alone")
        for message in messages:
            check_turn("".join("\n" if isinstance(part, Image) else part for part in message.parts), self.named)
        bare = [Message(message.role, *map(_without_text, message.parts)) for message in messages]
        pair = json.dumps([turns(conversation, template.parts) for conversation in (messages, bare)])
        written, around = _both(template.text, json.dumps(template.variables), pair)
        marks = tuple(dict.fromkeys(_MARK.findall(around)))
        for message in messages:
            check_turn(message.text, marks)
        images = sum(len(message.images) for message in messages)
        for text in (written, around):
            if text.count(IMAGE) != images:
                raise InputError(f"{_WHERE} places {text.count(IMAGE)} of {images} images", remedy="ask otherwise")
        return self._begun(written), self._begun(around)

    def _begun(self, text: str) -> str:
        """With <bos>, which Gemma's processor, unlike its tokenizer, puts before a text that has none."""
        return text if text.startswith("<bos>") or self.settings.image_tokens is None else f"<bos>{text}"


def _without_text(part: str | Image) -> str | Image:
    """White space stays what it is: templates may treat a turn without a text otherwise."""
    return _ANYTHING if isinstance(part, str) and part.strip() else part


@lru_cache(maxsize=16)  # the options of one question share it
def _both(template: str, variables: str, conversations: str) -> tuple[str, str]:
    pair: list[Turns] = json.loads(conversations)
    found, end = rendered(template, pair, json.loads(variables), _WHERE, InputError)
    if end.problem or len(found) < len(pair):
        raise failure(end, _WHERE, InputError)
    written, bare = found
    return written, bare


def chat_format(tokenizer: Any, settings: ChatSettings) -> ChatFormat:
    """How conversations are written by these settings."""
    return (TemplateChat if settings.template else GemmaChat)(tokenizer, settings)
