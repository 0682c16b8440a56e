"""ONNX: graphs without weights, and their data in files beside them: https://onnx.ai."""

from __future__ import annotations

from edgekit.formats.base import Format
from edgekit.formats.onnx import writer
from edgekit.formats.onnx.codecs import CODECS
from edgekit.formats.onnx.stated import stated
from edgekit.formats.onnx.stored import stored

FORMAT = Format(
    name="onnx",
    codecs=CODECS,
    codec_of=writer.codec_of,
    shape_of=lambda spec, level: spec.shape,
    file_names=writer.file_names,
    content=writer.content,
    requires=writer.requires,
    finish=writer.write_graphs,
    calibration_file=writer.calibration_file,
    stated=stated,
    stored=stored,
    output_of=lambda form: form.output or "",
    libraries=("onnx",),
)
