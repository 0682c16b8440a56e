"""GGUF, llama.cpp's file format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

from edgekit.artifacts.levels import Level
from edgekit.formats.base import Exactness, Format
from edgekit.formats.gguf import writer
from edgekit.formats.gguf.audit import audit
from edgekit.formats.gguf.beside import beside
from edgekit.formats.gguf.codecs import CODECS
from edgekit.formats.gguf.form import stated
from edgekit.formats.gguf.stored import stored

FORMAT = Format(
    name="gguf",
    codecs=CODECS,
    codec_of=writer.codec_of,
    shape_of=writer.shape_of,
    file_names=writer.file_names,
    content=writer.content,
    beside=beside,
    requires=writer.requires,
    activations=lambda level: "as llama.cpp does",
    notes=writer.notes,
    stated=stated,
    stored=stored,
    # ggml's GELU and exponential are tables in half precision: right files of the reference models measure a KL of 4e-8
    # and errors of 2e-4, of the real Gemma 3 270M, whose activations are larger, 4.2e-6 and 1.8e-3.
    exactness=Exactness(Level("F32", "gguf", "F32"), kl=2e-5, error=5e-3),
    audit=audit,
    # Levels other than F16 and BF16 are quantized by the library inside llama-cpp-python.
    libraries=("gguf", "sentencepiece", "llama_cpp_python"),
)
