"""The bill of materials of the model (CycloneDX 1.6, an ML-BOM): what it is, made from what, its figures and limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekit.artifacts.manifest import Part
from edgekit.pack.bundle import PAPERS
from edgekit.pack.contents.base import Content, Gathering
from edgekit.pack.extras import needed
from edgekit.pack.figures import figures
from edgekit.pack.limits import LIMITS, TRADEOFF, task_of, uses
from edgekit.pack.materials import finished
from edgekit.terminal import stripped_line

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

FILE_NAME = "mlbom.cdx.json"


def write(gathering: Gathering) -> None:
    """List the model and its parts, with hashes, ancestry and a model card."""
    with needed("pack"):
        from cyclonedx.model.bom import Bom

    bom = Bom()
    bom.metadata.component = model = _model(gathering)
    parts = [_part(part) for part in gathering.manifest.parts]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(model, parts)

    def with_card(data: dict[str, Any]) -> None:
        data["metadata"]["component"]["modelCard"] = _card(gathering)

    gathering.write(gathering.staging / PAPERS / FILE_NAME, finished(bom, with_card))


def _model(gathering: Gathering) -> Component:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    manifest = gathering.manifest
    source = Component(
        name=gathering.base_model or stripped_line(manifest.source.name),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=(manifest.source.revision or "").partition("@")[2] or None,
        bom_ref="source",
        hashes=_hashes(manifest.source.sha256),
    )
    agreement = gathering.license
    pages = [ExternalReference(type=ExternalReferenceType.LICENSE, url=XsUri(agreement.url))] if agreement else []
    return Component(
        name=manifest.title,
        version=", ".join(manifest.variants),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        description=manifest.stand_in and stripped_line(manifest.stand_in),
        licenses=[_license(gathering)],
        external_references=pages,
        pedigree=Pedigree(ancestors=[source], notes=stripped_line(manifest.modified, 2000)),
    )


def _license(gathering: Gathering) -> License:
    from cyclonedx.model.license import DisjunctiveLicense

    agreement = gathering.license
    return DisjunctiveLicense(name=agreement.title if agreement else stripped_line(gathering.manifest.license))


def _part(part: Part) -> Component:
    """One part; its files stand in it."""
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    files = [
        Component(name=file.path, type=ComponentType.FILE, bom_ref=f"file {file.path}", hashes=_hashes(file.sha256))
        for file in part.files
    ]
    facts = {
        "format": part.format,
        "weights": part.weights,
        "bits_per_weight": part.bits_per_weight,
        "calibrated_on": part.calibrated_on,
        **{f"tensor_types:{name}": count for name, count in part.tensor_types.items()},
        **{f"tool:{name}": version for name, version in part.tools.items()},
    }
    return Component(
        name=part.role,
        version=part.level,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"part {part.id}",
        components=files,
        properties=[
            Property(name=f"edgekit:{name}", value=stripped_line(value)) for name, value in facts.items() if value
        ],
    )


def _hashes(sha256: str) -> list[Any]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _card(gathering: Gathering) -> dict[str, Any]:
    """What the library has no words for: CycloneDX's `modelCard`."""
    manifest = gathering.manifest
    outputs = {part.output for part in gathering.parts.values()}
    takes = [*(["image"] if outputs & {"image_tokens", "pooled"} else []), *(["text"] if manifest.tokenizer else [])]
    gives = "text" if "logits" in outputs else "vector"
    limits = [*(stripped_line(said) for said in (manifest.stand_in, manifest.provenance) if said), *LIMITS]
    considerations: dict[str, Any] = {
        "useCases": list(uses(manifest)),
        "technicalLimitations": limits,
        "performanceTradeoffs": [TRADEOFF],
    }
    if gathering.license:
        forbids = f"{gathering.license.title}, section 3.2: {gathering.license.forbids}"
        considerations["ethicalConsiderations"] = [{"name": "use restrictions", "mitigationStrategy": forbids}]
    return {
        "modelParameters": {
            "task": task_of(gathering.parts.values()),
            "architectureFamily": manifest.family,
            "modelArchitecture": manifest.title,
            "inputs": [{"format": one} for one in takes],
            "outputs": [{"format": gives}],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_proofs(gathering), *_measured(gathering)]},
        "considerations": considerations,
    }


def _proofs(gathering: Gathering) -> Iterator[dict[str, Any]]:
    for part in gathering.manifest.parts:
        if part.parity:
            name = "KL divergence" if part.parity.metric == "kl" else "cosine"
            yield {
                "type": f"{name} to full precision, mean",
                "value": f"{part.parity.loss['mean']:g}",
                "slice": stripped_line(f"{part.role} {part.level}, on {part.parity.inputs}"),
            }


def _measured(gathering: Gathering) -> Iterator[dict[str, Any]]:
    for figure in figures(gathering.manifest, gathering.records):
        metric: dict[str, Any] = {
            "type": figure.name,
            "value": f"{figure.estimate.value:g}",
            "slice": ", ".join(filter(None, (figure.level, figure.task, f"n = {figure.counted}", figure.machine))),
        }
        low, high = figure.estimate.low, figure.estimate.high
        if low <= high:  # false where nothing is known of an interval
            metric["confidenceInterval"] = {"lowerBound": f"{low:g}", "upperBound": f"{high:g}"}
        yield metric


CONTENT = Content("listing what the model is", 50, write)
