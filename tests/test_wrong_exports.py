"""Known wrong exports are refused at every level of both formats, right ones at none.

Each comparison's own answer to each mistake stands in benchmarks/results/proof.md (`python tests/wrong_exports`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from proofs import Unproven
from wrong_exports import WRONG_EXPORTS, WrongExport

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS
from edgekit.errors import ArtifactError

MODELS = {"decoder": "medgemma_levels", "vision": "medgemma_levels"}  # role -> fixture; MedSigLIP's for others
KINDS_IN_FILES = ("tensors", "header", "graph")


def cases() -> list[Any]:
    """Every wrong export of every part at every level; by default each mistake once, at all levels in turn."""
    alike: dict[tuple[str, str, str], list[tuple[WrongExport, str]]] = {}
    for wrong in WRONG_EXPORTS:
        for role in wrong.roles:
            alike.setdefault((wrong.kind, wrong.name, role), []).extend((wrong, level) for level in wrong.levels())
    found = []
    for turn, ((_, _, role), made) in enumerate(alike.items()):
        for number, (wrong, level) in enumerate(made):
            marks = () if number == turn % len(made) else pytest.mark.slow
            found.append(pytest.param(role, level, wrong, marks=marks, id=f"{role}-{level}-{wrong}"))
    return found


@pytest.mark.parametrize(("role", "level", "wrong"), cases())
def test_a_known_wrong_export_is_refused(
    request: pytest.FixtureRequest, role: str, level: str, wrong: WrongExport
) -> None:
    model: Unproven = request.getfixturevalue(MODELS.get(role, "medsiglip_levels"))
    with wrong.refusal(role):
        model.prove(role, level, wrong.change)


def test_the_list_is_long_and_every_entry_has_a_name_of_its_own() -> None:
    assert len({wrong.name for wrong in WRONG_EXPORTS}) >= 100
    counts = Counter((wrong.name, wrong.format, wrong.kind, role) for wrong in WRONG_EXPORTS for role in wrong.roles)
    assert not [key for key, count in counts.items() if count > 1]


def test_what_a_wrong_export_changed_is_right_again(medgemma_levels: Unproven, medsiglip_levels: Unproven) -> None:
    """Each really changes the file that it is made in; and leaves it as it was, else a later test would refuse that."""
    for wrong in (wrong for wrong in WRONG_EXPORTS if wrong.kind in KINDS_IN_FILES):
        for role in wrong.roles:
            model = medgemma_levels if role in MODELS else medsiglip_levels
            right = model.trial(role, wrong.levels()[-1])
            with wrong.change(right), pytest.raises(ArtifactError, match=r"SHA-256|bytes"):
                manifests.verify(model.folder, right.part.files)
    for model in (medgemma_levels, medsiglip_levels):
        manifests.verify(model.folder, model.manifest.files)


def test_every_level_has_known_wrong_exports() -> None:
    for level in LEVELS:
        assert sum(level in wrong.levels() for wrong in WRONG_EXPORTS) > 100
