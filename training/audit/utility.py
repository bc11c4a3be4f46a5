"""What released faces keep of the face in the clean photo, photo by photo (U1 to U6).

The photo that was sent in may be a degraded copy; read is always against the clean one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.detection import FaceDetector
from models.oracles.networks.landmarks68 import LandmarkNet
from training.audit.expression import EYES_OPEN, Expression, expression_of, rotation_angle
from training.audit.faces import FoundFace, landmark_error, same_face
from training.audit.gaze import read_gaze
from training.audit.light import light_error
from training.audit.photos import AuditedPhoto
from training.audit.statistics import Estimate, mean, rate
from training.audit.subgroups import AGE_EDGES
from training.data.face_crops import to_tensor
from training.objectives.reconstruction import laplacian_energy

Values = NDArray[np.float64]

MEASURES: Final[Mapping[str, int]] = {
    "main face replaced": 1,
    "U1 found again": 1,
    "U2 landmark error": -1,
    "U3 pose error, rad": -1,
    "U4 gaze error, eye widths": -1,
    "U5 mouth open agrees": 1,
    "U5 eyes open agrees": 1,
    "U5 mouth stretched agrees": 1,
    "U5 expression agrees in all three": 1,
    "U6 light error": -1,
    "U6 age group agrees": 1,
    "sharpness over the clean face's": 0,
}
"""Measures and the direction in which they are better; 0 for neither: noise around the face counts as sharpness."""
_SHARES: Final = tuple(name for name in MEASURES if name.endswith(("agrees", "in all three", "again", "replaced")))


@dataclass(frozen=True, slots=True)
class Instruments:
    """What photos are read with.

    Attributes:
        detector: Gives five landmarks; one pass of it reads either side.
        landmark_net: Gives 68 landmarks of crops.
        sex_and_age: Apparent sex and age in decades, (n, 2), of crops (n, 128, 128, 3).
    """

    detector: FaceDetector
    landmark_net: LandmarkNet
    sex_and_age: Callable[[NDArray[np.uint8]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What is read off aligned crops.

    Attributes:
        expression: Pose and openings.
        gaze: Offsets of the irises in eye widths, (n, 2).
        age_groups: Index of the apparent age group, (n,).
    """

    expression: Expression
    gaze: NDArray[np.float64]
    age_groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CleanFaces:
    """Clean photos and what was read off them.

    Attributes:
        photos: The photos.
        before: Their faces as one pass of the detector sees them; None where it does not.
        shapes: What the crops show.
    """

    photos: Sequence[AuditedPhoto]
    before: Sequence[FoundFace | None]
    shapes: Shapes


def read_clean(photos: Sequence[AuditedPhoto], instruments: Instruments) -> CleanFaces:
    """Read clean photos once, for any number of comparisons.

    Args:
        photos: The photos, at least one.
        instruments: What they are read with.

    Returns:
        The readings.

    Raises:
        ValueError: There is no photo.
    """
    if not photos:
        raise ValueError("there is no photo to read")
    before = [same_face(instruments.detector, photo.original, photo.source) for photo in photos]
    return CleanFaces(photos, before, _shapes(np.stack([photo.source.crop for photo in photos]), instruments))


def read_utility(clean: CleanFaces, released: Sequence[AuditedPhoto], instruments: Instruments) -> dict[str, Values]:
    """Read released photos against the clean ones.

    The crops are cut where the clean face lies, so that the comparison sees the face move and not the cut.

    Args:
        clean: The clean photos.
        released: The same photos with what the service gave for them; `pixels` and `found` are set here.
        instruments: What they are read with.

    Returns:
        Measure of `MEASURES` to values (n,); NaN where nothing was released, or where the reading says nothing: the
        landmark error of a face that a pass of the detector missed, the gaze of an eye that is shut in the clean photo.

    Raises:
        ValueError: The numbers of photos differ.
    """
    if len(released) != len(clean.photos):
        raise ValueError(f"expected {len(clean.photos)} released photos, got {len(released)}")
    values = {name: np.full(len(released), np.nan) for name in MEASURES}
    for index, (photo, before) in enumerate(zip(released, clean.before, strict=True)):
        photo.read_release(instruments.detector)
        values["main face replaced"][index] = photo.is_replaced
        if photo.pixels is None:
            continue
        values["U1 found again"][index] = photo.found is not None
        if photo.found is not None:
            energies = laplacian_energy(to_tensor(np.stack([photo.source.crop, photo.found.crop])))
            values["sharpness over the clean face's"][index] = float(energies[1] / energies[0].clamp_min(1e-8))
            if before is not None:
                values["U2 landmark error"][index] = landmark_error(before, photo.found)
    rows = np.array([index for index, photo in enumerate(released) if photo.pixels is not None], dtype=np.int64)
    if len(rows) == 0:
        return values
    crops = np.stack([released[index].source_aligned() for index in rows])
    after, was = _shapes(crops, instruments), clean.shapes
    pose = rotation_angle(was.expression.rotations[rows], after.expression.rotations)
    values["U3 pose error, rad"][rows] = pose
    moved = np.linalg.norm(after.gaze - was.gaze[rows], axis=1)
    values["U4 gaze error, eye widths"][rows] = np.where(was.expression.eyes[rows] >= EYES_OPEN, moved, np.nan)
    same = was.expression.classes()[rows] == after.expression.classes()
    for place, name in enumerate(("mouth open", "eyes open", "mouth stretched")):
        values[f"U5 {name} agrees"][rows] = same[:, place]
    values["U5 expression agrees in all three"][rows] = same.all(axis=1)
    values["U6 light error"][rows] = light_error(np.stack([clean.photos[i].source.crop for i in rows]), crops)
    values["U6 age group agrees"][rows] = was.age_groups[rows] == after.age_groups
    return values


def estimate(name: str, values: Values, rng: np.random.Generator, people: NDArray[np.int64] | None = None) -> Estimate:
    """Estimate a measure over photos: a share with Wilson's interval, any other mean with that of the bootstrap.

    Args:
        name: One of `MEASURES`.
        values: One value per photo, (n,); NaN is left out.
        rng: Draws the resamples.
        people: Person of each photo, (n,); None where each shows somebody else.

    Returns:
        The estimate.
    """
    if name not in _SHARES:
        return mean(values, rng, people)
    finite = np.isfinite(values)
    return rate(values[finite] > 0, None if people is None else people[finite])


@torch.inference_mode()
def _shapes(crops: NDArray[np.uint8], instruments: Instruments) -> Shapes:
    parts = [instruments.landmark_net(to_tensor(crops[i : i + 32])) for i in range(0, len(crops), 32)]
    points = torch.cat(parts).double().numpy()
    years = 10 * instruments.sex_and_age(crops)[:, 1]
    return Shapes(expression_of(points), read_gaze(points, crops), np.digitize(years, AGE_EDGES).astype(np.int64))
