"""When adversarial training has come to nothing, as seen from its losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

RECENT = 300
"""Steps that are looked at."""
_SOLVED, _DEAD, _LOST = 0.01, 1e-4, 0.25


def collapsed(recent: Sequence[dict[str, float]], undecided: float = 2.0) -> str | None:
    """What went wrong, or None.

    Args:
        recent: losses of the last steps, at most `RECENT`: "discriminator", "content" (mean
            difference of the low band), and others, which must be finite.
        undecided: the discriminator's loss where it gives all photos the same score.
    """
    if not all(math.isfinite(value) for value in recent[-1].values()):
        return "a loss is not finite"
    if len(recent) < RECENT:
        return None
    typical = means(recent)
    if typical["discriminator"] < _SOLVED:
        return "the discriminator tells all photos apart, so the generator learns nothing"
    if all(abs(one["discriminator"] - undecided) < _DEAD for one in recent):
        return "the discriminator gives all photos the same score"
    if typical["content"] > _LOST:
        return "the generator does not keep what the photo shows"
    return None


def means(recent: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means of losses over steps, rounded; empty without steps."""
    names = recent[0] if recent else ()
    return {name: round(sum(losses[name] for losses in recent) / len(recent), 5) for name in names}
