"""Requests as strict schemas: what is not there is ignored, unless it would change the answer.

Clients send parameters that only other servers know. One that would change what is answered is refused by its name;
whoever asked for it would not see that nothing came of it. The rest changes nothing here; a name that nobody knows is
said beside the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekit.errors import InputError
from edgekit.serve.api.known_names import ignored
from edgekit.serve.api.misfits import first_misfit
from edgekit.terminal import shortened

_REMEDY = "leave it out"

# Names that OpenAI's, vLLM's, llama.cpp's and Ollama's servers know, and the values by which they change nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({}, {"enable_thinking": False}, {"thinking": False}),
    "choice": (),
    "constraint": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "function_call": ("none",),
    "enable_thinking": (False,),
    "format": ("",),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "image": (),
    "image_data": ([],),
    "images": ([],),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "lark": (),
    "lora": ([],),
    "max_new_tokens": (),
    "max_output_tokens": (),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "multi_modal_data": ({},),
    "multimodal_data": ([],),
    "n_predict": (-1,),
    "num_ctx": (),
    "num_predict": (-1,),
    "options": ({},),
    "prediction": (),
    "prompt_logprobs": (0,),
    "range": (),
    "raw": (False,),
    "reasoning": (),
    "regex": (),
    "repeat_last_n": (-1,),
    "response_schema": (),
    "samplers": (),
    "skip_special_tokens": (True,),
    "stop_sequences": ([],),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "system": ("",),
    "template": ("",),
    "t_max_predict_ms": (0,),
    "tfs_z": (1,),
    "think": (False,),
    "thinking": (False,),
    "thinking_tokens": (),
    "top_a": (0,),
    "top_n_sigma": (-1,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    "xtc_probability": (0,),
}


class ParameterError(InputError):
    """A parameter of a request is not what it must be.

    Args:
        param: its name, with a path to the place inside.
    """

    def __init__(self, param: str, message: str, *, allowed: str | None = None, remedy: str | None = None) -> None:
        place = shortened(param, 200)
        super().__init__(f"{place}: {message}", allowed=allowed, remedy=remedy, param=place)


class Request(BaseModel):
    """A request's body.

    Attributes:
        refused: names that this route refuses beyond `UNSUPPORTED`, and the values by which they change nothing.
        instead: how what a name asks elsewhere is asked of this route.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    instead: ClassVar[Mapping[str, str]] = {}

    model: str | None = None

    @property
    def notes(self) -> list[str]:
        """What the client must know of its own request."""
        given = {name for name, value in (self.model_extra or {}).items() if value is not None}
        return ignored(given - UNSUPPORTED.keys() - self.refused.keys())


RequestT = TypeVar("RequestT", bound=BaseModel)


def read(schema: type[RequestT], document: Any) -> RequestT:
    """A request as its schema has it.

    Raises:
        ParameterError: a field is missing or wrong, or would change the answer elsewhere and does not here.
    """
    if not isinstance(document, Mapping):
        raise InputError(f"a request that is a {type(document).__name__}", allowed="a JSON object")
    known, instead = UNSUPPORTED, Request.instead
    if issubclass(schema, Request):
        known, instead = {**UNSUPPORTED, **schema.refused}, schema.instead
    for name in document.keys() & known.keys() - schema.model_fields.keys():
        value = document[name]
        if value is not None and not any(value == one and _alike(value, one) for one in known[name]):
            said = "this server does not support it, and it would change the answer"
            raise ParameterError(name, said, remedy=instead.get(name, _REMEDY))
    try:
        return schema.model_validate(document)
    except ValidationError as problem:
        place, wrong, allowed = first_misfit(problem)
        raise ParameterError(place, wrong, allowed=allowed) from problem


def _alike(value: Any, other: Any) -> bool:
    """Python has 1 == True, JSON has not."""
    return isinstance(value, bool) == isinstance(other, bool)
