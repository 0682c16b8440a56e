"""The tables of `onnx_encoders.py`, one function a section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs import cell, table, where


def markdown(result: Mapping[str, Any]) -> str:
    """Everything that was measured so far, each section with the machine that it was measured on."""
    lines = [
        "# ONNX encoders beside llama.cpp, optimum and the machine's limits",
        "",
        "How it was measured stands in benchmarks/peers/onnx_encoders.py, which writes this file.",
        "Median (least-greatest) over rounds.",
    ]
    for name, write in _SECTIONS.items():
        if section := result.get(name):
            lines += ["", *write(section, result), ""]
            if section["slice"]:
                lines.append(f"**A slice of {section['slice']} layers: no result.**")
            measured = where(section["environment"], section.get("others_share"))
            lines.append(f"{measured} Pictures: {section['pictures']}.")
    return "\n".join(lines) + "\n"


def _vision(section: Mapping[str, Any], _: Mapping[str, Any]) -> list[str]:
    flop = section["flop"]
    return [
        "## MedGemma's vision part, one image",
        "",
        f"{sum(flop.values()) / 1e12:.2f} TFLOP, of which attention {flop['attention'] / 1e12:.2f}; "
        f"{section['layers']} layers. Cosine over {section['embeddings']} embeddings of {section['images']} images.",
        "",
        *_encoders(section),
    ]


def _siglip(section: Mapping[str, Any], _: Mapping[str, Any]) -> list[str]:
    return [
        "## MedSigLIP's image encoder, one image",
        "",
        f"{section['layers']} layers. Cosine of the embedding over {section['images']} images.",
        "",
        *_encoders(section),
    ]


def _encoders(section: Mapping[str, Any]) -> list[str]:
    head = [
        "level",
        "runtime",
        "s an image",
        "times as fast",
        "cosine mean",
        "worst",
        "own memory, GB",
        "mapped, GB",
        "load s",
    ]
    rows = [
        [
            row["level"],
            row["runtime"],
            cell(row["seconds"], 2),
            f"**{cell(row['times_as_fast'], 2)}**",
            f"{row['cosine']['mean']:.5f}",
            f"{row['cosine']['worst']:.5f}",
            f"{row['anonymous_bytes'] / 1e9:.2f}",
            f"{row['file_bytes'] / 1e9:.2f}",
            f"{row['load_s']['median']:.1f}",
        ]
        for row in section["rows"]
    ]
    return table(head, rows)


def _conversion(section: Mapping[str, Any], _: Mapping[str, Any]) -> list[str]:
    head = ["model", "tool", "level", "s", "own memory, GB", "mapped, GB", "disk beside, GB", "result, GB"]
    names = ("anonymous_bytes", "file_bytes", "disk_bytes", "bytes")
    rows = [
        [row["model"], row["tool"], row["level"], cell(row["seconds"]), *(f"{row[name] / 1e9:.2f}" for name in names)]
        for row in section["rows"]
    ]
    peer = section["peer"]
    said = ", ".join(f"{name} {version}" for name, version in peer.items()) if peer else "not measured"
    return ["## Conversion", "", *table(head, rows), "", f"optimum-onnx: {said}."]


def _limits(section: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    rows, columns = section["matrix"][0], section["matrix"][1:]
    lines = [
        "## What the machine gives, and what the vision tower takes of it",
        "",
        f"One matrix {columns[0]} x {columns[1]} on {rows} rows; one attention of {section['attention'][0]} patches, "
        f"{section['attention'][1]} heads of {section['attention'][2]}.",
        "",
        *table(
            ["operation", "runtime", "GFLOP/s"],
            [[row["operation"], row["runtime"], cell(row["gflops"], 0)] for row in section["rows"]],
        ),
    ]
    if vision := result.get("vision"):
        lines += ["", *_shares(section, vision)]
    return lines


def _shares(limits: Mapping[str, Any], vision: Mapping[str, Any]) -> list[str]:
    """Where a tower's time goes: its matrices at the rate of one alone, its attentions likewise, and what is left."""
    rate = {(row["operation"], row["runtime"]): row["gflops"]["median"] * 1e9 for row in limits["rows"]}
    found = []
    for row in vision["rows"]:
        operation = {"fp32": "fp32", "int8": "int8"}.get(row["level"])
        if (operation, row["runtime"]) not in rate:  # no matrix of this kind was measured alone
            continue
        seconds = row["seconds"]["median"]
        matrices = vision["flop"]["matrices"] / rate[operation, row["runtime"]]
        attention = vision["flop"]["attention"] / rate["attention", row["runtime"]]
        share = sum(vision["flop"].values()) / seconds / rate[operation, row["runtime"]]
        shown = (seconds, matrices, attention, seconds - matrices - attention)
        found.append([row["level"], row["runtime"], *(f"{value:.2f}" for value in shown), f"{share:.0%}"])
    head = ["level", "runtime", "s an image", "matrices at that rate", "attention at that pace", "the rest"]
    return table([*head, "share of the matrix rate"], found)


def _first_token(section: Mapping[str, Any], _: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            row["path"],
            cell(row["seconds"]),
            f"**{cell(row['sooner'], 2)}**" if "sooner" in row else "-",
            str(row["prompt_tokens"]),
            f"{row['anonymous_bytes'] / 1e9:.2f}",
            f"{row['file_bytes'] / 1e9:.2f}",
        ]
        for row in section["rows"]
    ]
    return [
        f"## First token of an image and {section['question_tokens']} tokens",
        "",
        f"edgekit: vision {section['vision']}, decoder {section['decoder']} in llama.cpp.",
        "",
        *table(["path", "s", "edgekit so many times as soon", "prompt tokens", "own memory, GB", "mapped, GB"], rows),
    ]


_SECTIONS = {
    "vision": _vision,
    "siglip": _siglip,
    "conversion": _conversion,
    "limits": _limits,
    "first_token": _first_token,
}
