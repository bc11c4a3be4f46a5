"""Test T1 on pictures: no oracle may take a candidate for the source, under any view that the gate will ask about.

The test is one conjunction, over oracles and views, reached as a cascade: every candidate is asked about as it is,
and only those that nothing refused yet are asked about under the other views. Most candidates that fail do so at the
first look, so the cascade asks about as many crops as two views of every candidate would, and tests all five.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.interfaces import Ensemble, LandmarkEstimator, Threshold
from models.anonymizer.oracle_views import as_batch, embed, similarities, views
from models.anonymizer.policy import Policy
from models.encoder.levels import Level
from models.faces.alignment import align_face

MARGINS: Final[Mapping[Level, float]] = {"strict": 1.5, "balanced": 0.75, "faithful": 0.75}
"""How far below the threshold of an oracle a candidate must stay at a level, in standard deviations of the similarity
of different people. It keeps what paste and encoder change from crossing the threshold of the gate, and recognizers
that are not asked from seeing what the asked ones nearly see. `strict` tells so little that faces with twice the margin
are still found."""

_NUM_LANDMARKS = 68
_LEFT_EYE, _RIGHT_EYE = slice(36, 42), slice(42, 48)  # contours of the eyes, 300-W order
_NOSE_TIP, _LEFT_MOUTH, _RIGHT_MOUTH = 30, 48, 54
_MIN_EYE_DISTANCE = 4.0  # crop pixels, an eighth of the template's; less is a network that has failed
_DETECTOR_SHIFT = np.array([[-0.4, 1.3], [1.9, 1.1], [1.1, 2.7], [-0.5, 2.5], [1.6, 2.3]])
"""Crop pixels by which the detector's five points lie off those of the 68: the mean over 70 drawn candidates."""


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What the oracles said of n candidates.

    Attributes:
        similarity: oracle name -> (n,) float64, largest over the views asked about; NaN where an oracle gave no vector.
        is_accepted: (n,) bool, whether all views of a candidate stayed below all limits. False also for a candidate
            that was not asked about further because an earlier one of its group was accepted.
    """

    similarity: dict[str, Tensor]
    is_accepted: Tensor


class CandidateTest:
    """Asks the oracles about candidates, in the views of the gate."""

    def __init__(
        self,
        ensemble: Ensemble,
        thresholds: Mapping[str, Threshold],
        *,
        margin: float | None,
        landmarks: LandmarkEstimator | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take the networks.

        Args:
            ensemble: the oracles.
            thresholds: their calibration.
            margin: how far below the thresholds a candidate must stay, in standard deviations of different people; None
                for `MARGINS` of the policy's level.
            landmarks: finds the 68 landmarks by which a candidate is aligned anew, as the gate does with the landmarks
                that the released face shows; without it that view is left to the gate.
            device: where the networks run.
            dtype: format in which the oracles multiply, `torch.float32` or `torch.bfloat16`.
        """
        self._ensemble = ensemble
        self._thresholds = dict(thresholds)
        self._margin = margin
        self._landmarks = landmarks
        self._device = device
        self._dtype = dtype

    def limits(self, policy: Policy) -> dict[str, float]:
        """Give tau_k - m_k, the limit of each oracle for a candidate."""
        margin = MARGINS[policy.level] if self._margin is None else self._margin
        return {
            name: policy.threshold(threshold.privacy_threshold) - margin * threshold.impostor_std
            for name, threshold in self._thresholds.items()
        }

    def judge(
        self,
        crops: Sequence[NDArray[np.uint8]],
        sources: Sequence[Mapping[str, Tensor]],
        limits: Sequence[Mapping[str, float]],
        groups: Sequence[Hashable] | None = None,
    ) -> Judgement:
        """Compare candidates with their sources.

        Args:
            crops: n candidates (128, 128, 3), as they will be pasted.
            sources: for each candidate, oracle name -> embedding of its source (d_k,).
            limits: for each candidate, oracle name -> similarity that it must stay below.
            groups: candidates of one group are alternatives in the order given: after the first accepted one the
                others of its group are not asked about further. Left out, every candidate is.

        Returns:
            Similarities and decisions.

        Raises:
            OracleAnswerError: if an oracle is missing or unknown, or gives no matrix with a row for each crop.
            ValueError: if the landmark network gives no 68 finite points that fix a pose.
        """
        keys = range(len(crops)) if groups is None else groups
        stacked = {name: torch.stack([source[name] for source in sources]) for name in self._thresholds}
        bounds = {name: torch.tensor([limit[name] for limit in limits]).double() for name in self._thresholds}
        seen = self._compare(stacked, as_batch(list(crops)).to(self._device)[None])
        is_open = _below(seen, bounds)
        is_accepted = torch.zeros_like(is_open)
        while bool(is_open.any()):
            # the first open candidate of each group
            first = {keys[row]: row for row in reversed(is_open.nonzero()[:, 0].tolist())}
            rows = torch.tensor(sorted(first.values()))
            further = self._compare({name: source[rows] for name, source in stacked.items()}, self._views(crops, rows))
            for name, values in further.items():
                # maximum keeps a NaN, which no comparison accepts
                seen[name][rows] = torch.maximum(seen[name][rows], values)
            is_accepted[rows] = _below(seen, bounds)[rows]
            settled = {keys[row] for row in rows[is_accepted[rows]].tolist()}
            is_open[rows] = False
            is_open &= torch.tensor([key not in settled for key in keys])
        return Judgement(seen, is_accepted)

    def _compare(self, sources: Mapping[str, Tensor], seen: Tensor) -> dict[str, Tensor]:
        """Largest similarity over the views (v, n, 3, 128, 128), oracle name -> (n,)."""
        is_narrow = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype) if is_narrow else nullcontext():
            answers = embed(self._ensemble, seen.flatten(0, 1), self._thresholds)
        outputs = {name: answer.unflatten(0, seen.shape[:2]) for name, answer in answers.items()}
        return {name: values.amax(dim=0) for name, values in similarities(sources, outputs).items()}

    def _views(self, crops: Sequence[NDArray[np.uint8]], rows: Tensor) -> Tensor:
        """All views but the plain one of some candidates, (v, n, 3, 128, 128)."""
        chosen = [crops[row] for row in rows.tolist()]
        batch = as_batch(chosen).to(self._device)
        seen = views(batch)[1:]
        if self._landmarks is None:
            return seen
        with torch.inference_mode():
            points = five_points(self._landmarks(batch))
        own = [align_face(crop, marks).crop for crop, marks in zip(chosen, points, strict=True)]
        return torch.cat([seen, as_batch(own).to(self._device)[None]])


def five_points(landmarks: Tensor) -> NDArray[np.float64]:
    """Read the five points of the alignment off 68 landmarks, where the detector of the gate would put them.

    Args:
        landmarks: (n, 68, 2) in crop pixels, 300-W order.

    Returns:
        (n, 5, 2) float64: centers of left and right eye, tip of the nose, left and right corner of the mouth, moved by
        what the detector's convention differs from that of the landmarks.

    Raises:
        ValueError: if the landmarks have another shape, or the eyes coincide or are not finite.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (_NUM_LANDMARKS, 2):
        raise ValueError(f"expected landmarks (n, {_NUM_LANDMARKS}, 2), got {tuple(landmarks.shape)}")
    marks = landmarks.detach().double().cpu()
    eyes = torch.stack([marks[:, _LEFT_EYE].mean(dim=1), marks[:, _RIGHT_EYE].mean(dim=1)], dim=1)
    if not bool(((eyes[:, 1] - eyes[:, 0]).norm(dim=-1) >= _MIN_EYE_DISTANCE).all()):
        raise ValueError(f"the eyes of a candidate must lie at least {_MIN_EYE_DISTANCE} pixels apart")
    others = marks[:, [_NOSE_TIP, _LEFT_MOUTH, _RIGHT_MOUTH]]
    return np.asarray(torch.cat([eyes, others], dim=1).numpy()) + _DETECTOR_SHIFT


def _below(seen: Mapping[str, Tensor], bounds: Mapping[str, Tensor]) -> Tensor:
    """Whether each candidate is below the limit of every oracle, (n,); a NaN is not."""
    return torch.stack([seen[name] < bound for name, bound in bounds.items()]).all(dim=0)
