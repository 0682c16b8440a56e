"""Labels that a model cannot tell apart, or of which it reads nothing: they would get a score all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction

from edgekit.errors import UsageError


def check_labels(
    labels: Sequence[Sequence[str]], read: Sequence[Sequence[Hashable]], nothing: Hashable, reads: str
) -> None:
    """Compare labels as the model reads them.

    Args:
        labels: the texts of each.
        read: what the model reads of each text.
        nothing: what it reads of an empty one.
        reads: what that is, for messages.

    Raises:
        UsageError: a label has no text, or one of which the model reads nothing, or two labels are the same to it.
    """
    seen: dict[Hashable, int] = {}
    for number, (texts, found) in enumerate(zip(labels, read, strict=True)):
        if not texts:
            raise UsageError("a label without a prompt", allowed="a text, or a list of texts, each")
        for text, one in zip(texts, found, strict=True):
            if one == nothing:
                raise UsageError(f"the label {text!r:.80} holds nothing that the model reads", allowed=reads)
        # Texts are averaged, so their shares are what a label is.
        shares = frozenset((one, Fraction(count, len(found))) for one, count in Counter(found).items())
        if (first := seen.setdefault(shares, number)) != number:
            one, other = labels[first][0], texts[0]
            raise UsageError(
                f"labels {first + 1} and {number + 1} are the same to the model and would score alike: "
                f"{one!r:.80} and {other!r:.80}",
                allowed=f"labels that differ in what it reads: {reads}",
            )
