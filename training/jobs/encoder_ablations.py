"""Ways to train the attribute encoder: terms of its loss left out or added, all else equal.

The weights of the added terms were set once, so that each costs about as much as the adversary does at the start
(0.02 to 0.04 beside a reconstruction of 0.2); none is tuned. A term that buys nothing here may do so at another weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from training.jobs.encoder_trial import HAND_SET
from training.objectives.disentangling_terms import NO_TERMS, TermWeights
from training.objectives.encoder_loss import LossWeights


@dataclass(frozen=True, slots=True)
class Arm:
    """Weights of a training: rate and adversary, and the optional terms."""

    weights: LossWeights = HAND_SET
    extra: TermWeights = NO_TERMS


AS_TRAINED: Final = "as trained: rate and adversary"
ARMS: Final[Mapping[str, Arm]] = {
    AS_TRAINED: Arm(),
    "without rate": Arm(LossWeights(0.0, HAND_SET.leak)),
    "without adversary": Arm(LossWeights(HAND_SET.rate, 0.0)),
    "neither": Arm(LossWeights(0.0, 0.0)),
    "+ vCLUB penalty": Arm(extra=TermWeights(mutual_information=0.005)),
    "+ G1 to G4": Arm(extra=TermWeights(overlap=1.0, probe_gradient=20.0, identity_drift=0.4, landmark_drift=1e-6)),
    "+ swap-cycle": Arm(extra=TermWeights(cycle=0.4)),
    "+ G1 overlap": Arm(extra=TermWeights(overlap=1.0)),
    "+ G2 probe gradient": Arm(extra=TermWeights(probe_gradient=20.0)),
    "+ G3 identity drift": Arm(extra=TermWeights(identity_drift=0.4)),
    "+ G4 landmark drift": Arm(extra=TermWeights(landmark_drift=1e-6)),
}
