"""ONNX: graphs without weights, and their data in files beside them: https://onnx.ai."""

from __future__ import annotations

from edgekit.artifacts.levels import LEVELS
from edgekit.formats.base import Exactness, Format
from edgekit.formats.onnx import piece, writer
from edgekit.formats.onnx.audit import audit
from edgekit.formats.onnx.beside import beside
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
    beside=beside,
    finish=writer.write_graphs,
    calibration_file=writer.calibration_file,
    stated=stated,
    stored=stored,
    audit=audit,
    # Right files of the reference models measure a KL of 1e-12 and errors of 7e-7, of Gemma 3 270M 1e-10 and 1.3e-5.
    exactness=Exactness(LEVELS["fp32"], kl=1e-8, error=5e-5),
    check_piece=piece.check,
    output_of=lambda form: form.output or "",
    libraries=("onnx",),
)
