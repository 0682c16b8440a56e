"""The limits by which a proof refuses: these, unless a recipe says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from edgekit.artifacts.validation import Name, StrictModel

_Limit = Annotated[float, Field(ge=0, le=1e6)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Cosine = Annotated[float, Field(ge=-1, le=1)]


class Gates(StrictModel):
    """What a proof demands before an artifact is published.

    Wiring compares the artifact with float32 transformers that hold the file's own dequantized weights.
    """

    decoder_kl: _Limit = 0.01  # the mean of each prompt
    # The top token may change only where full precision's two best logits are nearly tied.
    clear_margin: _Limit = 0.1
    # Runtimes multiply quantized matrices by activations of 8 bits, which no float32 model follows: in right files
    # of the real Gemma 3 270M this moves logits by 0.08 (root mean square) and changed one top token in 288 beyond 0.5.
    # The known wrong exports change a tenth and more.
    clear_margin_quantized: _Limit = 0.5
    changed_share_quantized: _Share = 0.01
    encoder_cosine: _Cosine = 0.9999
    # Levels whose activations are quantized have no exact original; the recipe states what it accepts.
    encoder_cosine_at: Mapping[Name, _Cosine] = Field(default_factory=dict)
    # Loss is reported; it refuses only where a limit is named here: level -> largest mean KL or least mean cosine.
    loss_kl_at: Mapping[Name, _Limit] = Field(default_factory=dict)
    loss_cosine_at: Mapping[Name, _Cosine] = Field(default_factory=dict)
