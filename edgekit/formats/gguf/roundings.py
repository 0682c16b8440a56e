"""How far each of ggml's types may move a tensor; see `edgekit.formats.rounding.Rounding`."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.formats.rounding import EXACT, Rounding

_LATTICE = 1.5  # grids of signs and few sizes, whose scale is searched: they may stretch as well as shrink

# Steps: products of a type's levels and those of its scales' scale.
ROUNDINGS: Mapping[str, Rounding] = {
    "F32": EXACT,
    "F16": Rounding(0.0003),
    "BF16": Rounding(0.002, steps=0),
    "Q8_0": Rounding(0.014, 127),
    "Q6_K": Rounding(0.042, 32 * 128, shrinks=6.0, block=16),
    "Q5_K": Rounding(0.07, 31 * 63, shrinks=3.0, block=32),
    "Q5_1": Rounding(0.062, 31),
    "Q5_0": Rounding(0.093, 16, grows=0.5),
    "Q4_K": Rounding(0.122, 15 * 63, block=32),
    "Q4_1": Rounding(0.136, 15),
    "Q4_0": Rounding(0.156, 8),
    "IQ4_NL": Rounding(0.127, 127, shrinks=1.8, block=32),
    "IQ4_XS": Rounding(0.127, 127 * 32, shrinks=1.8, block=32),
    "MXFP4": Rounding(0.21, 0, shrinks=3.0, block=32),
    "NVFP4": Rounding(0.12, 0, shrinks=3.0),
    "Q3_K": Rounding(0.224, 4 * 32, block=16),
    "IQ3_S": Rounding(0.378, 15 * 31, grows=_LATTICE),
    "IQ3_XXS": Rounding(0.427, 62 * 16, grows=_LATTICE),
    "Q2_K": Rounding(0.43, 3 * 15, block=16),
    "IQ2_S": Rounding(0.8, 43 * 8, grows=_LATTICE),
    "IQ2_XS": Rounding(0.735, 43 * 8, grows=_LATTICE),
    "IQ2_XXS": Rounding(0.95, 43 * 8, grows=_LATTICE),
    "IQ1_M": Rounding(0.651, 17, grows=_LATTICE),
    "IQ1_S": Rounding(0.854, 17, grows=_LATTICE),
    "TQ2_0": Rounding(0.953, 1, grows=_LATTICE),
    "TQ1_0": Rounding(0.953, 1, grows=_LATTICE),
}
