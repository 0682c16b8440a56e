"""Lists of materials in CycloneDX 1.6: finished, made the same every time, and validated before they are written."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.artifacts.version import __version__
from edgekit.errors import ArtifactError
from edgekit.pack.extras import needed

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License


def finished(bom: Bom, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    """A list as JSON. Its serial number follows from what it says, and it names no time: both of the library's change.

    Args:
        change: puts in what the library has no words for.

    Raises:
        ArtifactError: it breaks CycloneDX's strict schema: what the artifact says of itself cannot be said in it.
        MissingDependencyError: the library is not installed.
    """
    with needed("pack"):
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

    bom.metadata.tools.components.add(_edgekit())
    data = json.loads(JsonV1Dot6(bom).output_as_string())
    del data["metadata"]["timestamp"], data["serialNumber"]
    if change:
        change(data)
    data["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(data, sort_keys=True))}"
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ArtifactError(f"the list of materials would be no CycloneDX 1.6: {problem}")
    return text


def licenses(said: str) -> list[License]:
    """What a package says of its licence: an SPDX identifier or expression, or a name in its own words."""
    with needed("pack"):
        from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(said)] if said else []


def _edgekit() -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(name="edgekit", version=__version__, type=ComponentType.APPLICATION)
