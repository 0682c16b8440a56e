"""The labels, prompts and questions of the reference models: training, demo and benchmarks share this one list.

A label's `name` is what `index.csv` of the training data calls it and what the model answers. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHEST = "chest x-ray"
BRAIN = "brain mri"
PHANTOM = "phantom"
MODALITIES = (CHEST, BRAIN, PHANTOM)

_NORMAL = ("normal", "healthy", "unremarkable")  # what a class of images without a finding is called

SEVERITIES = ("mild", "moderate", "severe")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Label:
    """One finding.

    Attributes:
        name: the answer to "What is the main finding in this image?".
        modality: `CHEST`, `BRAIN` or `PHANTOM`.
        phrase: the finding with its article, as captions use it.
        question: the yes/no question whose answer is "yes" for this label and "no" for its modality's others.
    """

    name: str
    modality: str
    phrase: str
    question: str


def _present(name: str, modality: str, phrase: str) -> Label:
    return Label(name, modality, phrase, f"Is there {phrase} in this image?")


LABELS: tuple[Label, ...] = (
    Label("normal", CHEST, "normal lungs", "Is this chest x-ray normal?"),
    _present("bacterial pneumonia", CHEST, "bacterial pneumonia"),
    _present("viral pneumonia", CHEST, "viral pneumonia"),
    _present("glioma", BRAIN, "a glioma"),
    _present("meningioma", BRAIN, "a meningioma"),
    _present("pituitary tumor", BRAIN, "a pituitary tumor"),
    Label("no tumor", BRAIN, "no tumor", "Is this brain mri free of tumor?"),
)

PHANTOM_LABELS: tuple[Label, ...] = (
    Label("no finding", PHANTOM, "no finding", "Is this phantom free of findings?"),
    _present("nodule", PHANTOM, "a nodule"),
    _present("pleural effusion", PHANTOM, "a pleural effusion"),
    _present("pneumothorax", PHANTOM, "a pneumothorax"),
    _present("consolidation", PHANTOM, "a consolidation"),
    _present("atelectasis", PHANTOM, "an atelectasis"),
    _present("cardiomegaly", PHANTOM, "cardiomegaly"),
    _present("rib fracture", PHANTOM, "a rib fracture"),
)

ALL_LABELS: tuple[Label, ...] = LABELS + PHANTOM_LABELS

# Questions about a group of labels: (modality, question, names that make the answer "yes").
GROUP_QUESTIONS: tuple[tuple[str, str, frozenset[str]], ...] = (
    (CHEST, "Is there pneumonia in this image?", frozenset({"bacterial pneumonia", "viral pneumonia"})),
    (BRAIN, "Is there a tumor in this image?", frozenset({"glioma", "meningioma", "pituitary tumor"})),
)

FINDING_QUESTIONS: tuple[str, ...] = (
    "What is the main finding in this image?",
    "What does this image show?",
    "What is the diagnosis?",
    "Name the main finding.",
    "Describe the abnormality in this image.",
)
MODALITY_QUESTION = "What kind of image is this?"
SEVERITY_QUESTION = "How severe is the finding?"
SIDE_QUESTION = "On which side is the finding?"
DESCRIBE_QUESTION = "Describe this image in one sentence."

# {modality}, {phrase} and {name} come from the label; MedSigLIP-like classification averages these per class.
CLASS_TEMPLATES: tuple[str, ...] = (
    "{name}",
    "{modality}: {name}",
    "a {modality} showing {phrase}",
    "a {modality} image with {phrase}",
    "{phrase} on {modality}",
)


def class_prompts(label: Label, templates: Sequence[str] = CLASS_TEMPLATES) -> tuple[str, ...]:
    """The prompts whose averaged text embeddings stand for one class."""
    return tuple(t.format(name=label.name, modality=label.modality, phrase=label.phrase) for t in templates)


def description(label: Label, severity: str | None = None, side: str | None = None) -> str:
    """The answer to `DESCRIBE_QUESTION`; phantoms may state severity and side."""
    graded = f"{severity} {label.name}" if severity else label.phrase
    return f"A {label.modality} showing {graded}{f' on the {side} side' if side else ''}."


def label_named(name: str, modality: str) -> Label:
    """The label of that name in that modality; KeyError if there is none."""
    for label in ALL_LABELS:
        if (label.name, label.modality) == (name, modality):
            return label
    raise KeyError(f"no label {name!r} in {modality!r}")


def label_of(name: str, modality: str) -> Label:
    """The label that a user's own name for it stands for: `no ...` is free of something, `normal` of everything.

    Folders and tables write _ where people write a space.
    """
    said = " ".join(name.replace("_", " ").split())
    lower = said.lower()
    if lower in _NORMAL:
        return Label(said, modality, f"a {lower} finding", f"Is this {modality} {lower}?")
    if lower.startswith("no "):
        return Label(said, modality, said, f"Is this {modality} free of {said[3:]}?")
    return Label(said, modality, said, f"Is there {said} in this image?")


def in_modality(modality: str) -> tuple[Label, ...]:
    """All labels of one modality, in their fixed order."""
    return tuple(label for label in ALL_LABELS if label.modality == modality)
