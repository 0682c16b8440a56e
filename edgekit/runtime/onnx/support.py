"""Whether the installed ONNX Runtime has what a file needs: asked before the file is opened.

ONNX Runtime itself refuses what it lacks, but neither says which version has it nor names an operator set plainly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from edgekit.errors import ArtifactError, MissingDependencyError
from edgekit.formats.onnx.header import OnnxHeader
from edgekit.formats.onnx.requirements import (
    NEWEST,
    OTHER_OPSETS,
    RELEASES,
    Version,
    first_release,
    release_row,
    spelled,
)


def check(header: OnnxHeader) -> None:
    """Refuse what the installed ONNX Runtime lacks.

    A release that is newer than edgekit knows is given the benefit of the doubt for opsets and IR versions.

    Raises:
        ArtifactError: an opset, IR version or operator; says what this release has, and which release has more.
        MissingDependencyError: there is no ONNX Runtime.
    """
    version, installed = installed_version()
    row = release_row(installed)
    if installed <= NEWEST:
        opset, ir = RELEASES[row] if row else (19, 8)
        for what, found, most in (
            ("opset", header.opsets.get("", 1), opset),
            ("IR version", header.ir_version, ir),
        ):
            if found > most:
                raise _lacks(header, f"{what} {found}", f"{what}s up to {most}", version)
    for domain, most in OTHER_OPSETS.items():
        if domain in header.domains and header.opsets[domain] > most:
            raise _lacks(header, f"opset {header.opsets[domain]} of {domain}", f"up to {most}", version)
    known = operators()
    for domain, name in sorted(header.operators):
        since = known.get((domain, name))
        full = f"{domain or 'ai.onnx'}.{name}"
        if since is None:
            raise _lacks(header, f"the operator {full}", "no such operator", version)
        if since > header.opsets[domain]:
            raise ArtifactError(
                f"{header.path}: the operator {full} came with opset {since}, the file says {header.opsets[domain]}",
                remedy="export the file again",
            )


def refused(path: Path, error: Exception, verb: Literal["load", "run"] = "load") -> ArtifactError:
    """What ONNX Runtime's own refusal to load or run a file means."""
    version, text = installed_version()[0], str(error)
    update = "pip install -U onnxruntime"
    if missing := re.search(r"Could not find an implementation for (\S+?)\((\d+)\)", text):
        return ArtifactError(
            f"{path}: ONNX Runtime {version} cannot compute the operator {missing[1]} (of opset {missing[2]}) with "
            "these types on a CPU",
            remedy=f"{update}, or another level of this model",
        )
    if opset := re.search(r"Opset (\d+) is under development.*for domain (\S+) is till opset (\d+)", text, re.DOTALL):
        return ArtifactError(
            f"{path}: needs opset {opset[1]} of {opset[2]}; ONNX Runtime {version} has opsets up to {opset[3]}",
            remedy=update,
        )
    return ArtifactError(f"{path}: ONNX Runtime {version} cannot {verb} it: {text:.600}")


def installed_version() -> tuple[str, Version]:
    """ONNX Runtime's version as it is spelled, and its first two numbers. Raises MissingDependencyError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("ONNX Runtime is not installed", remedy="pip install onnxruntime") from error
    major, minor = str(onnxruntime.__version__).split(".")[:2]
    return onnxruntime.__version__, (int(major), int(minor))


@cache
def operators() -> Mapping[tuple[str, str], int]:
    """Domain and name of every operator that the installed release describes -> the opset that brought it."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    first: dict[tuple[str, str], int] = {}
    for schema in state.get_all_operator_schema():
        key = (schema.domain, schema.name)
        first[key] = min(schema.since_version, first.get(key, schema.since_version))
    return first


def _lacks(header: OnnxHeader, what: str, has: str, version: str) -> ArtifactError:
    first = first_release(header)
    newer = first and first > installed_version()[1]
    return ArtifactError(
        f"{header.path}: needs {what}; ONNX Runtime {version} has {has}",
        allowed=f"ONNX Runtime {spelled(first)} or newer" if first and newer else None,
        remedy=f"pip install 'onnxruntime>={spelled(first)}'"
        if first and newer
        else "export the file again, for an older opset and with ONNX Runtime's own operators",
    )
