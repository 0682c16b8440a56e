"""edgekit: MedGemma and MedSigLIP on the edge: convert, prove, serve, measure.

    >>> import edgekit
    >>> from edgekit import Image, Message
    >>> with edgekit.open("medgemma") as model:
    ...     question = Message("user", Image("chest.png"), "What is the main finding in this image?")
    ...     for piece in model.generate([question]):  # text, and at last a Generation
    ...         print(piece if isinstance(piece, str) else piece.stopped)
    pneumothorax
    end

Whatever goes wrong is an `EdgekitError`, whose text says what, where, what is allowed and what to do. Importing this
costs nothing: libraries are loaded when a model is opened.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.artifacts.version import __version__
from edgekit.errors import (
    ArtifactError,
    BundleError,
    CheckpointError,
    EdgekitError,
    EdgekitWarning,
    GateError,
    HubError,
    InputError,
    MissingDependencyError,
    NoSpaceError,
    RegistryError,
    SnapshotError,
    TooLongError,
    UsageError,
    WorkerError,
)
from edgekit.machine import privacy

privacy.keep()  # before any library is imported that would report to its makers

if TYPE_CHECKING:
    from edgekit.inputs.message import Image, Message
    from edgekit.runtime.generation.options import GenerationOptions
    from edgekit.runtime.grammar.constraints import Choice, JsonSchema, Lark, Regex
    from edgekit.runtime.model import Generation, Model

__all__ = [
    "ArtifactError",
    "BundleError",
    "CheckpointError",
    "Choice",
    "EdgekitError",
    "EdgekitWarning",
    "GateError",
    "Generation",
    "GenerationOptions",
    "HubError",
    "Image",
    "InputError",
    "JsonSchema",
    "Lark",
    "Message",
    "MissingDependencyError",
    "Model",
    "NoSpaceError",
    "Regex",
    "RegistryError",
    "SnapshotError",
    "TooLongError",
    "UsageError",
    "WorkerError",
    "__version__",
    "open",
]

# What needs numpy is imported when it is asked for.
_LATER = {
    "Choice": "edgekit.runtime.grammar.constraints",
    "Generation": "edgekit.runtime.model",
    "GenerationOptions": "edgekit.runtime.generation.options",
    "Image": "edgekit.inputs.message",
    "JsonSchema": "edgekit.runtime.grammar.constraints",
    "Lark": "edgekit.runtime.grammar.constraints",
    "Message": "edgekit.inputs.message",
    "Model": "edgekit.runtime.model",
    "Regex": "edgekit.runtime.grammar.constraints",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def open(  # noqa: A001
    artifact: str | Path,
    level: str | None = None,
    device: str | None = None,
    runtime: str | None = None,
    context: int | None = None,
    slots: int = 1,
    keep: bool = False,
) -> Model:
    """Open one level of an artifact folder.

    Args:
        artifact: a folder that `edgekit export` or `edgekit adopt` wrote.
        level: the name of one of its levels, such as `Q4_0`; the artifact's default for None.
        device: the name of a device profile whose cores, context and memory limit are obeyed; this machine for None.
        runtime: the library that runs encoders in ONNX: `onnxruntime`, `openvino` or `openvino-bf16`; `default` for
            the first, whatever was measured here; for None what `$EDGEKIT_RUNTIME` says, else what `edgekit tune`
            found to be the fastest.
        context: tokens that a prompt and its answer may take together, each image with all of its own, up to what the
            model was made for; the device's, or 4096, for None.
        slots: answers that can be under way at once, each with the whole context; a step for all of them costs less
            than one for each.
        keep: whether embeddings of images stay on this disk, for you alone, so that no image is encoded twice; they
            derive from patients. `edgekit cache` shows and clears them.

    Returns:
        the model, which a `with` statement or `close()` closes. See `Model` for who may use it when.

    Raises:
        ArtifactError: the folder, its manifest or a file is not what it must be.
        UsageError: there is no such level, device or runtime, the model has no such context, or memory is too small.
        MissingDependencyError: a library that runs it is not installed.

    Examples:
        >>> import edgekit
        >>> with edgekit.open("medsiglip", level="fp32") as model:
        ...     ((finding, none),) = model.classify(["chest.png"], ["pneumothorax", "no finding"])
        >>> print(f"{finding:.2f}, {none:.2f}")
        0.26, 0.31
        >>> edgekit.open("medgemma", context=10_000_000)
        Traceback (most recent call last):
            ...
        edgekit.errors.UsageError: a context of 10000000 tokens
        allowed: 1 to 8192, which this model was made for
    """
    from edgekit.runtime import open_model
    from edgekit.runtime.use import Use

    return open_model(Path(artifact), level, device, context, runtime, use=Use(slots=slots, keep=keep))
