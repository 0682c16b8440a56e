"""What an image costs: edgekit's ONNX encoders beside llama.cpp, optimum and this machine's own limits.

Five sections, each from one run on one machine, each written as soon as it is done; `--only` measures one anew and
keeps the others' figures in the file.

    vision        MedGemma's vision part, one image at a time: llama.cpp's own image path (a GGUF part, flash attention
                  on) against every ONNX level in every runtime. Cosine of the image's embeddings to transformers in
                  float32 with the original weights: mean and worst over embeddings.
    siglip        MedSigLIP's image encoder likewise, against its own fp32 file in ONNX Runtime.
    conversion    each level: `edgekit export --no-prove`, and optimum-onnx's export of the same MedSigLIP (float32)
    limits        what one large matrix reaches here (float32, bf16, int8) and one attention over an image's patches,
                  and so which share of it the vision tower reaches, and where the rest of its time goes
    first_token   a question of 40 tokens about one image: the fastest ONNX vision part of `vision` in front of a GGUF
                  decoder, against llama-cpp-python's own image handler with the GGUF vision part and that decoder,
                  with its defaults and with flash attention

Seconds of wall time; bytes of the process's own memory and of mapped files, peaks. Every sample is a process of its own
that looks at all images, the first of which is a warm-up; its figure is the median of the others. Rounds go through all
contenders in turn, so a ratio compares what was measured within minutes; a ratio is taken round by round.
Weights are random, of the model's full shape; pictures are phantoms, or a folder's (`--images`).

    python3.11 -m venv /tmp/optimum && /tmp/optimum/bin/pip install torch==2.13.0 'transformers>=4.57,<4.58' \\
        'optimum>=2,<2.2' 'optimum-onnx[onnxruntime]==0.1.0' pillow
    python benchmarks/peers/onnx_encoders.py --work ./stand-ins --peer /tmp/optimum/bin/python
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import encoder_sections as sections
import encoder_tables
from encoder_sections import ONNX_LEVELS, Bench

from edgekit.bench.environment import environment
from edgekit.inputs.samples import given_inputs
from edgekit.runtime.backends import usable

SECTIONS = ("vision", "siglip", "conversion", "limits", "first_token")


def planned(bench: Bench, found: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What can be measured, in order; the first token takes what `vision` found fastest."""
    yield "vision", lambda: sections.vision(bench)
    yield "siglip", lambda: sections.siglip(bench)
    yield "conversion", lambda: sections.conversion(bench)
    yield "limits", lambda: sections.limits(bench)
    yield "first_token", lambda: sections.first_token(bench, sections.fastest(found.get("vision")))


def main() -> None:
    """Measure, write after every section, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="the file keeps the others' figures"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, help="of every tower and the decoder, for a quick look; all for none")
    parser.add_argument("--levels", nargs="+", default=list(ONNX_LEVELS), choices=ONNX_LEVELS)
    parser.add_argument("--runtimes", nargs="+", default=[backend.name for backend in usable("onnx", "encoder")])
    parser.add_argument("--images", type=Path, help="a folder; phantoms for none")
    parser.add_argument("--count", type=int, default=3, help="how many images, the warm-up among them")
    parser.add_argument("--peer", type=Path, help="the Python of an environment with optimum-onnx")
    parser.add_argument(
        "--work", type=Path, help="a folder for stand-ins and artifacts, kept (default: a temporary one)"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/onnx-encoders.json"))
    parser.add_argument("--json", action="store_true", help="print the record, not the tables")
    options = parser.parse_args()
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    result |= {"what": __doc__}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    inputs = given_inputs(options.images, None)
    images = inputs.images[: options.count]
    bench = Bench(
        work.resolve(),
        options.layers,
        tuple(options.levels),
        tuple(options.runtimes),
        options.rounds,
        images,
        options.peer,
    )
    try:
        for name, measured in planned(bench, result):
            if name in options.only:
                here = {"environment": asdict(environment()), "pictures": inputs.name, "slice": options.layers}
                result[name] = here | measured()
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                options.out.with_suffix(".md").write_text(encoder_tables.markdown(result), encoding="utf-8")
    finally:
        if not options.work:
            shutil.rmtree(work)
    print(json.dumps(result) if options.json else encoder_tables.markdown(result))


if __name__ == "__main__":
    main()
