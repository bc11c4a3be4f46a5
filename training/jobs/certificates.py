"""What the looks at small-gain certificates along a training say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def summarize_looks(looks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Summarize the answers of `training.optimizers.games.step_watch.StepWatch.look`.

    Args:
        looks: The answers, in any order.

    Returns:
        ``looks``: their number; ``share_certified``: how many found a certificate; ``certified_step``: median of those;
        ``damping_needed``: median curvature that both players lack for one. NaN where there is nothing to take from.
    """
    steps = [look["certified_step"] for look in looks if look["certified"]]
    return {
        "looks": float(len(looks)),
        "share_certified": len(steps) / len(looks) if looks else math.nan,
        "certified_step": float(np.median(steps)) if steps else math.nan,
        "damping_needed": float(np.median([look["damping_needed"] for look in looks])) if looks else math.nan,
    }
