"""Every combination of a few people, expressions, poses and lights, all else fixed: sets that tell factors apart.

What a sampled set mixes is told apart here by design: in a balanced factorial set the effects are orthogonal, so that
`training.audit.factor_shares` divides the variance of a code without a remainder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.data.rendered_heads.attire import Attire
from training.data.rendered_heads.background import draw_background
from training.data.rendered_heads.basis import HeadBasis
from training.data.rendered_heads.camera import Camera, Pose
from training.data.rendered_heads.expression import Gaze, mixture
from training.data.rendered_heads.identity import draw_identity
from training.data.rendered_heads.light import Light
from training.data.rendered_heads.sampling import Circumstances, SamplingOptions, render_sample
from training.data.rendered_heads.scene import RenderedFace

FACTORS: Final = ("identity", "expression", "pose", "light")
EXPRESSIONS: Final = ("neutral", "laugh", "anger", "surprise", "sad", "pucker", "disgust", "smile")
"""Mixtures in the order in which a set takes them: the first few are far apart."""

_STREAM = 1  # beside that of `sample_faces`: nobody of a set that networks were fitted to
_YAW = 28.0  # degrees of the outermost poses
_AZIMUTH = 65.0  # degrees of the outermost key lights


@dataclass(frozen=True, slots=True)
class Design:
    """Levels of each factor, at least two of each.

    Attributes:
        identities: People.
        expressions: Named mixtures at full strength, at most eight.
        poses: Turns of the head, evenly spread.
        lights: Directions of the key light, evenly spread.
    """

    identities: int = 20
    expressions: int = 4
    poses: int = 3
    lights: int = 3

    def __post_init__(self) -> None:
        """Refuse a design that tells nothing.

        Raises:
            ValueError: A factor has fewer than two levels, or there are not as many expressions.
        """
        if min(self.shape) < 2:
            raise ValueError(f"each factor needs at least two levels, got {self.shape}")
        if self.expressions > len(EXPRESSIONS):
            raise ValueError(f"there are {len(EXPRESSIONS)} expressions, got {self.expressions}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Levels in the order of `FACTORS`."""
        return self.identities, self.expressions, self.poses, self.lights


@dataclass(frozen=True, slots=True)
class FactorialSample:
    """A rendered face and the level of each factor, by its name."""

    levels: Mapping[str, int]
    face: RenderedFace


def sample_factorial(design: Design, seed: int, options: SamplingOptions | None = None) -> Iterator[FactorialSample]:
    """Render all combinations, the last factor fastest.

    Args:
        design: Levels of each factor.
        seed: Decides the people and the one background.
        options: Size and supersampling; the rest does not matter here.

    Yields:
        Samples in the order of `FACTORS`, the identity in the outer loop.
    """
    chosen = options if options is not None else SamplingOptions()
    basis = HeadBasis.load()
    background = draw_background(np.random.default_rng([seed, _STREAM]))
    yaws = np.linspace(-_YAW, _YAW, design.poses)
    azimuths = np.linspace(-_AZIMUTH, _AZIMUTH, design.lights)
    for number in range(design.identities):
        identity = draw_identity(np.random.default_rng([seed, number, _STREAM]), basis)
        for expression, pose, light in itertools.product(*map(range, design.shape[1:])):
            circumstances = Circumstances(
                Pose(yaw=float(yaws[pose]), body_yaw=0.45 * float(yaws[pose])),
                mixture(EXPRESSIONS[expression]),
                Gaze(),
                Light(key_azimuth=float(azimuths[light]), fill_azimuth=float(azimuths[light]) + 120.0),
                Camera(),
                background,
                Attire(),
            )
            levels = dict(zip(FACTORS, (number, expression, pose, light), strict=True))
            yield FactorialSample(levels, render_sample(identity, circumstances, chosen))
