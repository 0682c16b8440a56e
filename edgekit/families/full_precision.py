"""What a family says of transformers' model of it, and of Hugging Face's processors: what exports are compared with.

transformers and torch are imported by the functions that need them, never by these modules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from edgekit.artifacts.files import copy
from edgekit.checkpoints.checkpoint import SOURCE_FILES, Checkpoint
from edgekit.errors import CheckpointError
from edgekit.inputs.image import ImageLike
from edgekit.inputs.message import Message
from edgekit.inputs.tokenizer_trial import ensure_tried
from edgekit.machine.temporary import temporary_folder

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class EncoderModules:
    """One encoder.

    Attributes:
        inputs: checkpoint, configuration, images (uint8 arrays) and texts -> what Hugging Face's processors make of
            those that it reads: pixels float32 [n, 3, size, size] or ids int64 [n, length].
        outputs: transformers' model and a tensor of such inputs -> all that it gives, tensors by transformers' names.
        output: the name of the one that models are composed of.
    """

    inputs: Callable[[Checkpoint, Any, Sequence[ImageLike], Sequence[str]], NDArray[Any]]
    outputs: Callable[[Any, Any], Mapping[str, Any]]
    output: str

    def forward(self, model: Any, batch: Any) -> Any:
        """The one output that models are composed of, as a tensor."""
        return self.outputs(model, batch)[self.output]


@dataclass(frozen=True)
class FullPrecision:
    """A family's model in transformers.

    Attributes:
        architecture: transformers' class.
        stated: validated configuration -> what edgekit takes the model for: dotted names of transformers' own
            configuration object, and values. Every field that changes the model stands here.
        fixed: dotted names and values that transformers' configuration gets whatever config.json says, since they add
            modules whose output nothing reads.
        encoders: role -> encoder.
        processed: checkpoint, configuration and messages -> `input_ids` and `token_type_ids` (1 for an image's tokens)
            as lists, `pixel_values` float32 [n, 3, size, size] or None; None for a family that does not chat.
        canonical: what edgekit makes of a text before its tokenizer reads it.
        token_ids: names of a tokenizer's attributes, and dotted names of transformers' configuration that must have
            the same value.
        settings: names of a manifest's settings, and dotted names of transformers' configuration that they must equal.
        scalars: settings that are weights, by their names in the checkpoint.
        scores: `scalars` by name, vectors of images [n, width] and of texts [m, width] -> how well each fits each, as
            transformers has it; None for a family that does not match them.
        ends: texts of the tokens that end every answer.
        sliced: config.json -> that of a piece of the model whose layers are of every kind and whose matrices are those
            of the model or the beginnings of them; the same where nothing is to be left out.
    """

    architecture: str
    stated: Callable[[Any], Mapping[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    encoders: Mapping[str, EncoderModules] = field(default_factory=dict)
    processed: Callable[[Checkpoint, Any, Sequence[Message]], dict[str, Any]] | None = None
    canonical: Callable[[str], str] = str
    token_ids: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    scalars: tuple[str, ...] = ()
    scores: Callable[[Mapping[str, float], Vectors, Vectors], Vectors] | None = None
    ends: tuple[str, ...] = ()
    sliced: Callable[[Mapping[str, Any]], dict[str, Any]] = dict


# What says how a model is loaded or run, never what it is; some of it could name code.
_NO_PART_OF_A_MODEL = frozenset(
    {"auto_map", "quantization_config", "return_dict", "output_attentions", "output_hidden_states"}
)
_KERNELS = ("attn_implementation", "experts_implementation", "_implementation_internal")


@contextmanager
def hub_folder(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder of what transformers gets to read of a checkpoint, while it is open: its tokenizer's and its
    processors' files, and config.json, which its family has accepted, without what could name code (CVE-2026-4372).

    Raises:
        CheckpointError: its tokenizer.json is not what it must be, or transformers refuses what it reads there.
    """
    if path := checkpoint.path("tokenizer.json"):
        ensure_tried(path, path.read_bytes())
    with temporary_folder("checkpoint") as folder:
        for name in SOURCE_FILES:  # by name: their hashes would take as long as all weights do
            if (checkpoint.root / name).is_file() and name != "config.json":
                copy(checkpoint.root / name, folder / name)
        _write_config(checkpoint, folder)
        with refused_by_transformers(checkpoint, folder):
            yield folder


@contextmanager
def refused_by_transformers(checkpoint: Checkpoint, folder: Path | None = None) -> Iterator[None]:
    """What transformers raises of a checkpoint's files becomes a CheckpointError.

    Args:
        folder: where it reads them, which nobody else knows.
    """
    from huggingface_hub.errors import StrictDataclassError

    # What its classes raise of values that they cannot use: each its own, none documented.
    wrong_values = (ValueError, TypeError, LookupError, AttributeError, AssertionError, StrictDataclassError)
    try:
        yield
    except (*wrong_values, RuntimeError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of a disk, not of what lies on it
            raise
        said = " ".join(str(error).replace(str(folder), str(checkpoint.root)).split())
        raise CheckpointError(
            f"{checkpoint.root}: reading: transformers refuses it: {type(error).__name__}: {said:.400}",
            allowed="a checkpoint that transformers loads",
        ) from error


def hub_config(checkpoint: Checkpoint, full_precision: FullPrecision) -> Any:
    """transformers' own configuration object, from config.json alone.

    Raises:
        CheckpointError: transformers refuses the file.
    """
    import transformers

    with temporary_folder("config") as folder:
        _write_config(checkpoint, folder)
        with refused_by_transformers(checkpoint, folder):
            if "model_type" in checkpoint.config:
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            else:  # then only the class itself reads it
                own = getattr(transformers, full_precision.architecture).config_class
                config = own.from_pretrained(folder, local_files_only=True)
            for dotted, value in full_precision.fixed.items():
                *parents, last = dotted.split(".")
                setattr(reduce(getattr, parents, config), last, value)
            return config


def hub_tokenizer(checkpoint: Checkpoint) -> Any:
    """transformers' own tokenizer.

    Raises:
        CheckpointError: its tokenizer.json is not what it must be, or transformers refuses its files.
    """
    from transformers import AutoTokenizer

    with hub_folder(checkpoint) as folder:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def hub_processor(checkpoint: Checkpoint) -> Any:
    """transformers' own processor of images and texts; its image processor is the one that Pillow is behind.

    Raises:
        CheckpointError: its tokenizer.json is not what it must be, or transformers refuses its files.
    """
    from transformers import AutoProcessor

    with hub_folder(checkpoint) as folder:
        made = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    if not hasattr(made, "image_processor"):  # it falls back to a tokenizer where it knows no such class
        raise CheckpointError(
            f"{checkpoint.root}: reading: to transformers, its processor is a {type(made).__name__:.100}",
            allowed="a processor of images and texts",
            remedy="take processor_config.json and preprocessor_config.json of the original model",
        )
    return made


def hub_image_processor(checkpoint: Checkpoint) -> Any:
    """transformers' own processor of images alone, the one that Pillow is behind.

    Raises:
        CheckpointError: transformers refuses its files.
    """
    from transformers import AutoImageProcessor

    with hub_folder(checkpoint) as folder:
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")


def hub_eos(checkpoint: Checkpoint, config: Any) -> tuple[int, ...]:
    """Tokens at which transformers' `generate` stops, by generation_config.json or else by the configuration.

    Args:
        config: from `hub_config`.

    Raises:
        CheckpointError: transformers refuses the file.
    """
    from transformers import GenerationConfig

    with hub_folder(checkpoint) as folder:
        if (folder / "generation_config.json").is_file():
            stated = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        else:
            stated = GenerationConfig.from_model_config(config).eos_token_id
    return () if stated is None else tuple(stated) if isinstance(stated, list) else (int(stated),)


def _write_config(checkpoint: Checkpoint, folder: Path) -> None:
    """Read from the file once more: what edgekit took it for is no witness of what it says."""
    path = checkpoint.root / "config.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    if stated != checkpoint.config:
        raise CheckpointError(f"{path}: reading: it says something else than edgekit read in it")
    (folder / "config.json").write_text(json.dumps(_data(stated)), encoding="utf-8")


def _data(value: Any) -> Any:
    """config.json without what is no part of a model, at any depth."""
    if isinstance(value, Mapping):
        left = {key: held for key, held in value.items() if key not in _NO_PART_OF_A_MODEL}
        return {key: _data(held) for key, held in left.items() if not key.endswith(_KERNELS)}
    return value


def rgb(image: ImageLike) -> PIL.Image.Image:
    """For processors, which convert to RGB only where their configuration says so; models take RGB."""
    assert isinstance(image, np.ndarray), "what is compared comes as arrays"
    return PIL.Image.fromarray(image).convert("RGB")


def at_most(config: Mapping[str, Any], most: Mapping[str, int]) -> dict[str, Any]:
    """config.json with numbers (by dotted key) that are no greater than these."""
    made: dict[str, Any] = deepcopy(dict(config))
    for key, limit in most.items():
        *path, last = key.split(".")
        place = made
        for name in path:
            place = place.get(name) or {}
        if isinstance(place.get(last), int):
            place[last] = min(place[last], limit)
    return made
