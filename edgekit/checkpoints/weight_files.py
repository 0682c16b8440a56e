"""Which files of a checkpoint folder hold the weights. A folder that holds two answers is refused.

transformers looks for `model.safetensors` first and for an index of shards after; it says nothing of what else lies
there, so a fine-tune saved over a sharded original, or shards of two generations, load as whichever comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from edgekit.artifacts.documents import is_file
from edgekit.checkpoints.json_files import read_json
from edgekit.checkpoints.tensors import Tensor, read_header, same_bytes
from edgekit.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_WEIGHTS, _INDICES = "*.safetensors", "*.safetensors.index.json"
_ADAPTERS = (ADAPTER, "adapter_model.safetensors", "adapter_model.bin")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_KEEP_ONE = "move the one that you do not mean out of the folder"


def open_weights(root: Path) -> tuple[tuple[Path, ...], dict[str, Tensor]]:
    """The files that transformers loads, and the tensors in them by stored name.

    Raises:
        CheckpointError: there are no weights, a file is damaged or missing, or the folder holds two answers: several
            indices, or files that are not loaded and hold something else.
    """
    indices = _named(root, _INDICES)
    if len(indices) > 1:
        raise CheckpointError(
            f"{root}: two answers: {indices[0].name} and {indices[1].name} each list shards", remedy=_KEEP_ONE
        )
    indexed = _indexed(root / INDEX) if (root / INDEX).is_file() else []
    loaded = [root / SINGLE] if (root / SINGLE).is_file() else indexed
    if not loaded:
        raise _no_weights(root)
    tensors = _tensors(loaded)
    if loaded == indexed:
        _check_index(root, tensors)
    for other in _named(root, _WEIGHTS):
        if other not in loaded:
            _check_repeats(root, other, loaded, tensors)
    return tuple(loaded), tensors


def left_unread(root: Path) -> list[str]:
    """Names of pickled weights that lie beside safetensors: neither transformers nor anybody here reads them."""
    return [path.name for path in _named(root, "pytorch_model*") if path.suffix in _PICKLE_SUFFIXES]


def check_adapter(root: Path) -> None:
    """Check that no adapter lies in the folder, beside a model or alone.

    Raises:
        CheckpointError: one does; the message names it and the model.
    """
    adapter = next((name for name in _ADAPTERS if is_file(root / name)), None)
    if adapter is None:
        return
    merged = "merge it (peft: merge_and_unload(), then save_pretrained) and export the folder that this writes"
    weights = next((name for name in (SINGLE, INDEX) if is_file(root / name)), None)
    if weights is None:
        raise CheckpointError(
            f"{root}: an adapter ({adapter}) without the model it belongs to", allowed="a whole model", remedy=merged
        )
    raise CheckpointError(
        f"{root}: two answers: {weights} is a model and {adapter} an adapter beside it; transformers loads the adapter "
        f"too where peft is installed, and the model alone where it is not",
        allowed="a whole model",
        remedy=f"{merged}; or, to export the model without it, move {adapter} out of the folder",
    )


def _named(root: Path, pattern: str) -> list[Path]:
    """Files of the folder itself; hidden ones are an archive's or an interrupted download's."""
    return [path for path in sorted(root.glob(pattern)) if is_file(path) and not path.name.startswith(".")]


def _indexed(index: Path) -> list[Path]:
    """The shards that an index lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map from tensor names to file names")
    root, names = index.parent, sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: {name!r} is no safetensors file of this folder")
        if not is_file(root / name):
            complete = f"; or, if {SINGLE} is the whole model, remove {index.name}" if is_file(root / SINGLE) else ""
            raise CheckpointError(
                f"{root}: shard {name} is missing, though the index lists it", remedy=f"download it again{complete}"
            )
    return [root / name for name in names]


def _tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for tensor in read_header(file):
            if tensor.name in tensors:
                raise CheckpointError(f"{file}: {tensor.name} stands in {tensors[tensor.name].path.name} too")
            tensors[tensor.name] = tensor
    return tensors


def _check_index(root: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that the index lists each tensor where it is; transformers loads also those that it leaves out."""
    listed = read_json(root / INDEX)["weight_map"]
    for name, shard in listed.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise CheckpointError(
                f"{root}: {name} is not in {shard}, though the index says so", remedy="download it again"
            )
    for name, tensor in tensors.items():
        if name not in listed:
            raise CheckpointError(
                f"{root}: two answers: {tensor.path.name} holds {name}, and {INDEX} leaves it out",
                allowed="an index that lists every tensor of its shards",
                remedy="download both again, or load the model and save it anew",
            )


def _check_repeats(root: Path, other: Path, loaded: list[Path], tensors: Mapping[str, Tensor]) -> None:
    """Check that a file that is not loaded holds nothing but what is: then it does not matter which one counts."""
    for tensor in read_header(other):
        twin = tensors.get(tensor.name)
        if twin is None or not same_bytes(tensor, twin):
            name = twin.path.name if twin else loaded[0].name
            how = "another" if twin else "a"
            raise CheckpointError(
                f"{root}: two answers: {name} and {other.name}, which holds {how} {tensor.name}; transformers loads "
                f"{loaded[0].name}{' and its shards' if len(loaded) > 1 else ''} without a word",
                allowed="the weights of one model",
                remedy=_KEEP_ONE,
            )


def _no_weights(root: Path) -> CheckpointError:
    if found := [path.name for path in _named(root, _WEIGHTS)]:
        return CheckpointError(
            f"{root}: {', '.join(found[:3])} without {INDEX}, which says what belongs together",
            allowed=f"{SINGLE}, or shards with {INDEX}",
            remedy="download the index too, or load the model and save it anew",
        )
    pickles = sorted(path.name for path in root.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        return CheckpointError(
            f"{root}: {', '.join(pickles[:3])}: pickle files can run code when they are read and are refused",
            allowed=f"{SINGLE}, or shards with {INDEX}",
            remedy="download the safetensors version of this model",
        )
    return CheckpointError(f"{root}: no {SINGLE}", allowed=f"{SINGLE}, or shards with an index")
