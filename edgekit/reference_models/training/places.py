"""An auxiliary task of training: say at the patch where a phantom's finding lies which one it is, and elsewhere none.

A small tower without it takes very long to notice a nodule of five pixels. The head is dropped after training.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional

from edgekit.inputs.labels import LABELS, PHANTOM_LABELS

_FAR = 3  # patches; closer ones may still show the finding


class PlaceHead(torch.nn.Linear):
    """From a patch's features to the findings of phantoms, "no finding" first."""

    def __init__(self, width: int) -> None:
        super().__init__(width, len(PHANTOM_LABELS))

    def loss(
        self, patches: torch.Tensor, labels: np.ndarray, points: np.ndarray, rng: np.random.Generator
    ) -> torch.Tensor:
        """Cross-entropy at the finding's patch and at a random one far from it; images without a point are left out.

        Args:
            patches: features of all patches, (n, side * side, width).
            labels: positions in `edgekit.inputs.labels.ALL_LABELS`, (n,). points: x and y in -1..1, (n, 2), or NaN.
        """
        side = int(patches.shape[1] ** 0.5)
        here = np.floor((points + 1) / 2 * side)
        known = ((here >= 0) & (here < side)).all(1)
        rows = np.flatnonzero(known)
        places = here[rows].astype(int)
        elsewhere = rng.integers(side, size=places.shape)
        far = np.abs(elsewhere - places).max(1) >= _FAR
        row = torch.from_numpy(np.concatenate([rows, rows[far]]))
        place = torch.from_numpy(np.concatenate([places, elsewhere[far]]))
        wanted = np.concatenate([labels[rows] - len(LABELS), np.zeros(int(far.sum()), int)])
        outputs = self(patches.float()[row, place[:, 1] * side + place[:, 0]])
        return functional.cross_entropy(outputs, torch.from_numpy(wanted))
