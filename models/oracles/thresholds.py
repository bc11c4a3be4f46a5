"""Thresholds of the oracles, with the safe side that each use needs.

Impostor scores are cosines of two different people. The two uses of a threshold at false-accept rate F need opposite
safe sides. *Privacy*: our threshold must not exceed the attacker's true one, so we take the largest t whose lower
Clopper-Pearson limit of the exceedance rate is still at least F. *Leakage*: the rejection rate of an innocent proposal
must not be understated, so the law of the rejection sampler uses the upper limit at the same t. Both limits hold for
independent scores only: each person occurs in one pair. The curve and the point estimate use all pairs.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from scipy import stats
from torch import Tensor

from models.oracles.ensemble import ORACLES
from models.registry.manifest import ArtifactError, Gate, Manifest
from models.registry.store import ArtifactStore

ARTIFACT = "oracle-thresholds"
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
CONFIDENCE = 0.95

Scores = NDArray[np.float64]


class CalibrationError(ValueError):
    """There are too few pairs, or the scores are unusable."""


class ThresholdsMismatchError(ArtifactError):
    """The thresholds were calibrated with other oracle weights than the promoted ones, or lack an entry."""


@dataclass(frozen=True, slots=True)
class OracleThreshold:
    """Threshold of one oracle at one false-accept rate.

    Attributes:
        oracle: name of the oracle.
        far: false-accept rate F the threshold is for.
        privacy_threshold: certified similarity; with the given confidence not above the true threshold at F. The
            rank-th largest disjoint score, or the point estimate where an unlucky draw of pairs put it above that.
        leakage_threshold: upper confidence limit of the false-match rate at `privacy_threshold`.
        point_estimate: threshold at F over all pairs; no certificate.
        confidence: one-sided confidence of each of the two limits.
        num_pairs: disjoint pairs behind the limits.
        rank: the rank-th largest of their scores is certified.
        num_all_pairs: pairs behind the point estimate, mean and standard deviation.
        impostor_mean: mean similarity of different people.
        impostor_std: its standard deviation.
    """

    oracle: str
    far: float
    privacy_threshold: float
    leakage_threshold: float
    point_estimate: float
    confidence: float
    num_pairs: int
    rank: int
    num_all_pairs: int
    impostor_mean: float
    impostor_std: float

    def limit(self, margin: float) -> float:
        """Similarity that lies a margin below the privacy threshold, in standard deviations of different people."""
        return self.privacy_threshold - margin * self.impostor_std


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Calibration of several oracles in one domain.

    Attributes:
        domain: which sort of pictures the scores come from.
        entries: one per oracle and false-accept rate.
        centers: mean unit-norm embedding (dim,) of the centered oracles.
        correlations: correlation of impostor scores, keyed `first|second`.
        true_accept_rates: share of genuine pairs at or above the point estimate, by oracle and rate (`mfn@0.001`).
        oracle_versions: versions of the oracle artifacts.
    """

    domain: str
    entries: tuple[OracleThreshold, ...]
    centers: Mapping[str, Tensor]
    correlations: Mapping[str, float] = field(default_factory=dict)
    true_accept_rates: Mapping[str, float] = field(default_factory=dict)
    oracle_versions: Mapping[str, str] = field(default_factory=dict)

    def get(self, oracle: str, far: float) -> OracleThreshold:
        """Return one entry.

        Args:
            oracle: name of the oracle.
            far: false-accept rate.

        Returns:
            The entry.

        Raises:
            ThresholdsMismatchError: the calibration lacks it.
        """
        for entry in self.entries:
            if entry.oracle == oracle and math.isclose(entry.far, far, rel_tol=1e-9):
                return entry
        raise ThresholdsMismatchError(f"no threshold of {oracle} at false-accept rate {far:g} in domain {self.domain}")

    def at(self, far: float, oracles: Iterable[str]) -> dict[str, OracleThreshold]:
        """Return the entries of several oracles at one false-accept rate; an entry that is missing is an error."""
        return {name: self.get(name, far) for name in oracles}


def certified_rank(num_pairs: int, far: float, confidence: float = CONFIDENCE) -> int:
    """Find how many exceedances prove a rate of at least F.

    The smallest k with `lower(k, n) >= F`, where `lower` is the one-sided Clopper-Pearson limit, the
    (1 - confidence) quantile of Beta(k, n - k + 1). The k-th largest of n independent scores is then, with that
    confidence, at most the true threshold at F.

    Args:
        num_pairs: n, disjoint pairs.
        far: F in (0, 1).
        confidence: one-sided confidence.

    Returns:
        k, from 1 to n.

    Raises:
        CalibrationError: no k of n pairs proves the rate, or an argument is out of range.
    """
    if num_pairs < 1 or not 0 < far < 1 or not 0 < confidence < 1:
        raise CalibrationError(f"need n >= 1, 0 < F < 1, 0 < confidence < 1, got {num_pairs}, {far}, {confidence}")
    if lower_limit(num_pairs, num_pairs, confidence) < far:
        raise CalibrationError(f"{num_pairs} pairs cannot certify a rate of {far} with confidence {confidence}")
    low, high = 1, num_pairs
    while low < high:
        middle = (low + high) // 2
        if lower_limit(middle, num_pairs, confidence) >= far:
            high = middle
        else:
            low = middle + 1
    return low


def lower_limit(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """One-sided lower Clopper-Pearson limit of a rate observed as count of total."""
    return 0.0 if count == 0 else float(stats.beta.ppf(1 - confidence, count, total - count + 1))


def upper_limit(count: int, total: int, confidence: float = CONFIDENCE) -> float:
    """One-sided upper Clopper-Pearson limit of a rate observed as count of total."""
    return 1.0 if count == total else float(stats.beta.ppf(confidence, count + 1, total - count))


def calibrate_scores(
    oracle: str,
    disjoint_scores: Scores,
    all_scores: Scores,
    *,
    fars: Sequence[float] = FALSE_ACCEPT_RATES,
    confidence: float = CONFIDENCE,
) -> tuple[OracleThreshold, ...]:
    """Compute the thresholds of one oracle from impostor scores.

    Args:
        oracle: name of the oracle.
        disjoint_scores: (n,) scores in which each person occurs once.
        all_scores: (m,) scores of all pairs of different people.
        fars: false-accept rates.
        confidence: one-sided confidence.

    Returns:
        One entry per rate.

    Raises:
        CalibrationError: too few scores, or a score is not finite.
    """
    if not (np.isfinite(disjoint_scores).all() and np.isfinite(all_scores).all()):
        raise CalibrationError(f"impostor scores of {oracle} contain values that are not finite")
    descending = np.sort(disjoint_scores)[::-1]
    num_pairs = len(descending)
    entries = []
    for far in fars:
        rank = certified_rank(num_pairs, far, confidence)
        estimate = _empirical_threshold(all_scores, far)
        threshold = min(float(descending[rank - 1]), estimate)
        exceeding = int(np.count_nonzero(disjoint_scores >= threshold))
        entries.append(
            OracleThreshold(
                oracle=oracle,
                far=far,
                privacy_threshold=threshold,
                leakage_threshold=upper_limit(exceeding, num_pairs, confidence),
                point_estimate=estimate,
                confidence=confidence,
                num_pairs=num_pairs,
                rank=rank,
                num_all_pairs=len(all_scores),
                impostor_mean=float(all_scores.mean()),
                impostor_std=float(all_scores.std()),
            )
        )
    return tuple(entries)


def calibrate(
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    *,
    domain: str,
    rng: np.random.Generator,
    centered: Iterable[str] = (),
    genuine: Mapping[str, tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]] | None = None,
    fars: Sequence[float] = FALSE_ACCEPT_RATES,
    confidence: float = CONFIDENCE,
    oracle_versions: Mapping[str, str] | None = None,
) -> Thresholds:
    """Calibrate several oracles on the same people.

    Args:
        embeddings: for each oracle raw unit-norm embeddings (n, dim), one photo of each of n people, same order.
        domain: name of the sort of pictures.
        rng: draws the disjoint pairs; one draw for all oracles.
        centered: oracles whose mean embedding is subtracted.
        genuine: for each oracle two arrays (m, dim): photos of the same m people; for true-accept rates.
        fars: false-accept rates.
        confidence: one-sided confidence.
        oracle_versions: versions of the oracle artifacts, to be stored.

    Returns:
        The calibration.

    Raises:
        CalibrationError: oracles disagree about the number of people, or there are fewer than four.
    """
    counts = {len(array) for array in embeddings.values()}
    if len(counts) != 1 or min(counts) < 4:
        raise CalibrationError(f"need embeddings of the same four or more people, got counts {sorted(counts)}")
    people = counts.pop()
    order = rng.permutation(people)
    first, second = order[: people // 2], order[people // 2 : 2 * (people // 2)]
    upper = np.triu_indices(people, 1)
    entries: list[OracleThreshold] = []
    centers: dict[str, Tensor] = {}
    accepted: dict[str, float] = {}
    scores: dict[str, Scores] = {}
    for name, array in embeddings.items():
        # rounded before it is used, so that what is stored is what was calibrated
        center = array.mean(0).astype(np.float32) if name in set(centered) else None
        if center is not None:
            centers[name] = torch.from_numpy(center)
        unit = _center(array, center)
        everyone = (unit @ unit.T)[upper]
        found = calibrate_scores(name, (unit[first] * unit[second]).sum(1), everyone, fars=fars, confidence=confidence)
        entries.extend(found)
        scores[name] = everyone
        if genuine is not None and len(genuine[name][0]):
            left, right = (_center(side, center) for side in genuine[name])
            same = (left * right).sum(1)
            for entry in found:
                accepted[f"{name}@{entry.far:g}"] = float((same >= entry.point_estimate).mean())
    return Thresholds(
        domain=domain,
        entries=tuple(entries),
        centers=centers,
        correlations={f"{a}|{b}": _correlation(scores[a], scores[b]) for a, b in combinations(scores, 2)},
        true_accept_rates=accepted,
        oracle_versions=dict(oracle_versions or {}),
    )


def thresholds_files(thresholds: Thresholds) -> dict[str, bytes]:
    """Serialize a calibration to the files of its artifact: numbers in JSON, centers in safetensors."""
    payload = {
        "domain": thresholds.domain,
        "entries": [asdict(entry) for entry in thresholds.entries],
        "correlations": dict(thresholds.correlations),
        "true_accept_rates": dict(thresholds.true_accept_rates),
        "oracle_versions": dict(thresholds.oracle_versions),
    }
    return {
        "thresholds.json": (json.dumps(payload, indent=2, allow_nan=False) + "\n").encode(),
        "centers.safetensors": save({name: center.contiguous() for name, center in thresholds.centers.items()}),
    }


def accuracy_gates(thresholds: Thresholds, oracles: Iterable[str], minimum: float) -> tuple[Gate, ...]:
    """Gates for promotion: each oracle has to recognize people at false-accept rate 1e-3, else its port is broken.

    Args:
        thresholds: the calibration.
        oracles: oracles that the gates are for.
        minimum: smallest acceptable true-accept rate.

    Returns:
        One gate per oracle.
    """
    rates = thresholds.true_accept_rates
    return tuple(
        Gate(f"true_accept_rate.{name}", threshold=minimum, value=rates.get(f"{name}@0.001"), comparison=">=")
        for name in oracles
    )


def publish_thresholds(store: ArtifactStore, thresholds: Thresholds, **description: Any) -> Manifest:
    """Publish a calibration without promoting it.

    Args:
        store: the artifact store.
        thresholds: the calibration.
        **description: more manifest fields, such as gates and provenance.

    Returns:
        The manifest.
    """
    parents = {ORACLES[name].artifact: version for name, version in thresholds.oracle_versions.items()}
    return store.publish(ARTIFACT, "thresholds", dict(thresholds_files(thresholds)), parents=parents, **description)


def load_thresholds(store: ArtifactStore, version: str | None = None) -> Thresholds:
    """Load a calibration and check that it belongs to the promoted oracles.

    Args:
        store: the artifact store.
        version: exact version; None for the promoted one.

    Returns:
        The calibration.

    Raises:
        ThresholdsMismatchError: malformed, or an oracle was replaced since it was calibrated.
    """
    artifact = store.resolve(ARTIFACT, version)
    try:
        payload = json.loads(artifact.read_bytes("thresholds.json"))
        thresholds = Thresholds(
            domain=payload["domain"],
            entries=tuple(OracleThreshold(**entry) for entry in payload["entries"]),
            centers=load(artifact.read_bytes("centers.safetensors")),
            correlations=payload["correlations"],
            true_accept_rates=payload["true_accept_rates"],
            oracle_versions=payload["oracle_versions"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ThresholdsMismatchError(f"{ARTIFACT}@{artifact.manifest.version} is malformed: {error}") from error
    for name, calibrated in thresholds.oracle_versions.items():
        promoted = store.promoted(ORACLES[name].artifact) if name in ORACLES else None
        if promoted is not None and promoted != calibrated:
            raise ThresholdsMismatchError(
                f"thresholds were calibrated with {name}@{calibrated}, the store promotes {promoted}"
            )
    return thresholds


def _empirical_threshold(scores: Scores, far: float) -> float:
    """Smallest observed t with `Pr(s >= t) <= far`; with too few scores the largest one."""
    rank = max(1, math.floor(far * len(scores)))
    return float(np.partition(scores, len(scores) - rank)[len(scores) - rank])


def _center(array: NDArray[np.floating[Any]], center: NDArray[np.float32] | None) -> Scores:
    unit = array.astype(np.float64)
    if center is not None:
        unit = unit - center
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    if not np.all(norms > 0):
        raise CalibrationError("an embedding has no direction")
    result: Scores = unit / norms
    return result


def _correlation(first: Scores, second: Scores) -> float:
    return float(np.corrcoef(first, second)[0, 1])
