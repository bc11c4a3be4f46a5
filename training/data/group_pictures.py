"""Group pictures of rendered people who do not exist: several heads side by side, everybody in several pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.faces.boxes import Box, Face
from models.pictures import encode_picture
from training.data.rendered_heads.background import draw_background, paint_background
from training.data.rendered_heads.basis import HeadBasis
from training.data.rendered_heads.camera import free_framing
from training.data.rendered_heads.identity import Identity, draw_identity
from training.data.rendered_heads.sampling import SamplingOptions, draw_circumstances
from training.data.rendered_heads.scene import develop, render_layer

_EYE_DISTANCE_M = 0.0625
_CELL = 5.2  # width of a person's part of the picture, in eye distances; faces do not touch, hair may
_BOX = ((1.3, 1.5), (1.3, 2.1))  # reach of the box from between the eyes, in eye distances: left and up, right and down


@dataclass(frozen=True, slots=True, eq=False)
class GroupPicture:
    """One picture: encoded bytes, pixels (h, w, 3), and who stands where, from left to right."""

    data: bytes
    pixels: NDArray[np.uint8]
    people: tuple[int, ...]
    faces: tuple[Face, ...]


def draw_group_pictures(
    people: int, pictures: int, *, per_picture: int, seed: int, eye_distance: float = 40.0, supersampling: int = 1
) -> list[GroupPicture]:
    """Draw pictures of people who stand side by side, everybody equally often.

    Args:
        people: How many people there are.
        pictures: How many pictures.
        per_picture: People in each, at most `people`.
        seed: Decides everything.
        eye_distance: In pixels.
        supersampling: Samples per pixel and axis.

    Returns:
        The pictures, with the true boxes and landmarks.

    Raises:
        ValueError: There are not enough people for a picture.
    """
    if not 1 <= per_picture <= people:
        raise ValueError(f"per_picture must lie in [1, {people}], got {per_picture}")
    basis = HeadBasis.load()
    identities = [draw_identity(np.random.default_rng([seed, number]), basis) for number in range(people)]
    times_shown = np.zeros(people, dtype=np.int64)
    drawn = []
    for number in range(pictures):
        rng = np.random.default_rng([seed, people, number])
        shown = tuple(int(who) for who in np.lexsort((rng.random(people), times_shown))[:per_picture])
        times_shown[list(shown)] += 1
        drawn.append(_draw(rng, [identities[who] for who in shown], shown, eye_distance, supersampling))
    return drawn


def _draw(
    rng: np.random.Generator,
    identities: list[Identity],
    people: tuple[int, ...],
    eye_distance: float,
    supersampling: int,
) -> GroupPicture:
    cell = round(_CELL * eye_distance)
    width, height = cell * len(people), round(1.2 * cell)
    scene = paint_background(draw_background(rng), width, height)
    faces = []
    options = SamplingOptions(yaw_spread=10.0, yaw_limit=20.0, glasses=0.0)
    for place, identity in enumerate(identities):
        around = draw_circumstances(rng, options)
        middle = ((place + 0.5) * cell, 0.45 * height)
        framing = free_framing(middle, eye_distance / _EYE_DISTANCE_M, around.camera, (width, height))
        layer = render_layer(
            identity,
            around.pose,
            around.expression,
            around.gaze,
            around.light,
            around.camera,
            around.attire,
            supersampling=supersampling,
            alignment=framing,
        )
        scene = layer.radiance + scene * (1.0 - layer.coverage[..., None])
        faces.append(Face(_box(layer.landmarks5), 1.0, layer.landmarks5, "truth"))
    pixels = develop(np.asarray(scene, np.float32), around.camera)
    return GroupPicture(encode_picture(pixels, "png"), pixels, people, tuple(faces))


def _box(landmarks: NDArray[np.float64]) -> Box:
    x, y = landmarks[:2].mean(axis=0)
    unit = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    (left, up), (right, down) = _BOX
    return x - left * unit, y - up * unit, x + right * unit, y + down * unit
