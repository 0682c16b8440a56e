"""What optimum makes of a checkpoint and of our files; run by the Python of an environment that has it.

    python tests/optimum_peer.py export CHECKPOINT FOLDER
    python tests/optimum_peer.py load ARTIFACT INPUTS.npz ANSWERS.npz

`load` gives every file to every class and prints, as JSON, class -> file -> the outputs that come back, or the error.
The outputs' values go into ANSWERS.npz, by `class/file/output`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

TASK = "zero-shot-image-classification"


def export(source: str, folder: str) -> None:
    """optimum's own export: one graph of both towers and their match."""
    from optimum.exporters.onnx import main_export

    main_export(source, output=folder, task=TASK, local_files_only=True, do_validation=False)


def load(artifact: str, inputs: str, answers: str) -> dict[str, dict[str, Any]]:
    """Every class on every file."""
    import optimum.onnxruntime as optimum

    given = {name: torch.from_numpy(array) for name, array in np.load(inputs).items()}
    values: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for kind in sorted(name for name in dir(optimum) if name.startswith("ORTModel")):
        found[kind] = {}
        for path in sorted((Path(artifact) / "onnx").glob("*.onnx")):
            role = "pixel_values" if path.stem.startswith("vision") else "input_ids"
            try:
                model = getattr(optimum, kind).from_pretrained(
                    artifact, subfolder="onnx", file_name=path.name, local_files_only=True
                )
                outputs = {name: value.numpy() for name, value in model(**{role: given[role]}).items()}
            except Exception as error:  # noqa: BLE001  # whatever it is, it is the answer
                found[kind][path.name] = f"{type(error).__name__}: {error}"
                continue
            found[kind][path.name] = sorted(outputs)
            values |= {f"{kind}/{path.name}/{name}": value for name, value in outputs.items()}
    np.savez(answers, **values)
    return found


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    print(json.dumps({"export": export, "load": load}[verb](*arguments)))
