"""The release criteria of the service, as checks of an audit."""

from __future__ import annotations

from collections.abc import Mapping

from models.oracles.ensemble import SERVING_ORACLES
from training.audit.statistics import Estimate
from training.runs.report import Check

MIN_SAMPLE = 50
"""Photos from which on a share of 2 % can show; the criteria that are such shares are claims of larger runs only."""


def release_criteria(
    privacy: Mapping[str, Estimate], released: Mapping[str, Estimate], landmark_ratio: float, people: int
) -> tuple[Check, ...]:
    """Check what a release has to keep.

    Args:
        privacy: Estimates with `P1.recognizer`.
        released: Estimates of `released_rates`.
        landmark_ratio: Landmark error over the autoencoder's own.
        people: People that the run was asked for; of few only what no single photo may miss is claimed.

    Returns:
        The criteria.
    """
    serving = max(privacy[f"P1.{name}"].value for name in SERVING_ORACLES)
    auditor = 1 - privacy["P1.faceres"].value
    not_replaced = released["main face not replaced"].value
    without_exception = (
        Check("largest share of released faces at a serving oracle's threshold (P1)", 0.0, serving, relation="at_most"),
        Check(
            "photos whose pixels outside the masks are equal (U8)",
            1.0,
            released["U8 outside equal"].value,
            relation="at_least",
        ),
    )
    if people < MIN_SAMPLE:
        return without_exception
    return (
        *without_exception,
        Check("main faces redacted or withheld", 0.05, not_replaced, relation="at_most"),
        Check("released faces that the auditor calls different (PSR)", 0.98, auditor, relation="at_least"),
        Check("released faces found again (U1)", 0.98, released["U1 found again"].value, relation="at_least"),
        Check("landmark error over the autoencoder's own (U2)", 1.5, landmark_ratio, relation="at_most"),
    )
