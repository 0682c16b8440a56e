"""Known wrong exports are refused at every level of both formats, right ones at none.

Each comparison's own answer to each mistake stands in benchmarks/results/proof.md (`python tests/wrong_exports`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from proofs import Unproven
from wrong_exports import WRONG_EXPORTS, InapplicableError, WrongExport, every
from wrong_exports.entry import Exporter, by
from wrong_exports.report import published, report
from wrong_exports.verdicts import Remembered, verdict

from edgekit.artifacts import manifest as manifests
from edgekit.artifacts.levels import LEVELS
from edgekit.errors import ArtifactError

MODELS = {"decoder": "medgemma_levels", "vision": "medgemma_levels"}  # role -> fixture; MedSigLIP's for others
KINDS_IN_FILES = ("tensors", "header", "graph")


def cases() -> list[Any]:
    """Every mistake once, at the parts and the levels that can have it in turn; at all of them `wrong_exports` does.

    One of four is asked by default: all take five minutes.
    """
    alike: dict[tuple[str, str], list[tuple[WrongExport, str, str]]] = {}
    for wrong in WRONG_EXPORTS:
        of_all_roles = alike.setdefault((wrong.kind, wrong.name), [])
        of_all_roles += [(wrong, role, level) for role in wrong.roles for level in wrong.levels()]
    found = []
    for turn, made in enumerate(alike.values()):
        wrong, role, level = made[turn % len(made)]
        marks = [pytest.mark.slow] if turn % 4 else []
        found.append(pytest.param(role, level, wrong, id=f"{role}-{level}-{wrong}", marks=marks))
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


@pytest.mark.slow
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


def test_a_larger_sample_holds_a_smaller_one_and_something_of_every_kind() -> None:
    one, two, four, few = ([(str(wrong), role) for wrong, role in every(number)] for number in (1, 2, 4, 1000))
    assert {*few} < {*four} < {*two} < {*one}
    assert len(one) == sum(len(wrong.roles) for wrong in WRONG_EXPORTS)
    kinds = {(wrong.kind, wrong.format, role) for wrong in WRONG_EXPORTS for role in wrong.roles}
    assert kinds == {(wrong.kind, wrong.format, role) for wrong, role in every(1000)}


def test_a_mistake_that_a_model_cannot_have_is_not_called_refused(medgemma_levels: Unproven) -> None:
    """What changes no byte would be published, and rightly."""
    stretched = next(wrong for wrong in WRONG_EXPORTS if wrong.name == "the factor is 7" and wrong.format == "onnx")
    same = replace(stretched, change=by(Exporter()))
    with pytest.raises(InapplicableError):
        verdict(medgemma_levels, "decoder", "q4", same, whole=False, remembered=Remembered())


def test_what_right_tensors_measured_hides_no_wrong_one(medgemma_levels: Unproven) -> None:
    """Neither when it is remembered nor while it is measured."""
    remembered = Remembered()
    norm = next(wrong for wrong in WRONG_EXPORTS if wrong.name == "a norm is times 1.01" and wrong.format == "gguf")
    base = next(wrong for wrong in WRONG_EXPORTS if wrong.name == "the global base is 5e5" and wrong.format == "gguf")
    for wrong in (norm, base, norm):
        found = verdict(medgemma_levels, "decoder", "Q4_0", wrong, whole=False, remembered=remembered)
        assert found.refused["audit"]
        assert ("layers.1.input_layernorm" in found.refused["audit"]) == (wrong is norm)


def test_the_report_counts_what_was_published() -> None:
    key = "tensors | a matrix is zero | decoder | gguf"
    record: dict[str, Any] = {
        "command": "python tests/wrong_exports",
        "model": "gemma-3-270m",
        "every": 4,
        "environment": {"cpu": "a CPU", "cores": 2, "versions": {}},
        "commits": [],
        "right": {"decoder Q8_0": None, "decoder Q4_0": "its scale"},
        "figures": {"decoder Q8_0": {"loss_kl": [0.003, 0.03]}},
        "wrong": {key: {"Q8_0": {"audit": "zero"}, "Q4_0": {"audit": None, "wiring": None}}, "none": {}},
        "exact": {},
        "inapplicable": {},
    }
    assert published(record) == [f"{key} | Q4_0"]
    text = report(record)
    assert "1 mistakes, 2 wrong parts at 2 levels: 1 published" in text
    assert "2 right parts: 1 refused" in text
    assert "| decoder Q8_0 | loss_kl 0.003 (0.03) |" in text
    assert "the first of every 4 was made" in text.replace("\n", " ")
    record["inapplicable"][key] = "the model has none"
    assert not published(record)
