"""What the audit's released photos keep, beside the floor of the autoencoder alone (U1 to U9).

The floor is the same photo with its main face passed through the generator's autoencoder and pasted back: what one pass
of one detector, the landmark network and the autoencoder alone do to a reading. A second floor needs no release at all:
mouth and eyes of a face and of its mirror picture are equally open, so a difference between both readings is the
instrument's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.diffusion.autoencoder import LatentAutoencoder
from models.faces.alignment import align_face, face_mask
from models.faces.compositing import paste_face
from training.audit.expression import read_expressions
from training.audit.faces import changed_region, same_face, treated_boxes
from training.audit.kernel_distance import kernel_distance
from training.audit.photos import AuditedPhoto
from training.audit.probes import Probes
from training.audit.seam import seam_ratio
from training.audit.statistics import Estimate
from training.audit.utility import MEASURES, Instruments, Values, estimate, read_clean, read_utility
from training.data.face_crops import to_tensor

Crops = NDArray[np.uint8]

FLOOR = "autoencoder only"
_NAMES = {
    name: name.replace("the clean face's", "the source's") for name in MEASURES if not name.startswith(("U1", "main"))
}
_OPENINGS = ("U5 mouth open agrees", "U5 eyes open agrees", "U5 mouth stretched agrees")


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Readings of released photos.

    Attributes:
        released: Measure to values, (n,); NaN where nothing was released.
        floor: The same of the photos that went through the autoencoder only, (n,).
        decoded: Aligned crops of those photos, (n, 128, 128, 3).
        mirrored: Measure to whether a clean face and its mirror picture are read alike, (n,).
    """

    released: dict[str, Values]
    floor: dict[str, Values]
    decoded: Crops
    mirrored: dict[str, Values]

    def estimates(self, probes: Probes, rng: np.random.Generator) -> dict[str, Estimate]:
        """Estimate every measure over the probes; the floors are `name, autoencoder only` and `name, mirrored`."""
        parts = (("", self.released), (f", {FLOOR}", self.floor), (", mirrored", self.mirrored))
        return {
            _NAMES.get(name, name) + suffix: estimate(name, values[probes.places], rng, probes.people)
            for suffix, readings in parts
            for name, values in readings.items()
            if name in _NAMES or name not in MEASURES
        }


def read_fidelity(photos: Sequence[AuditedPhoto], instruments: Instruments, autoencoder: LatentAutoencoder) -> Fidelity:
    """Read the releases of photos and set `pixels`, `found` and `measures` of each.

    Args:
        photos: Photos with their releases, at least one.
        instruments: What they are read with.
        autoencoder: The generator's.

    Returns:
        The readings.
    """
    clean = read_clean(photos, instruments)
    released = read_utility(clean, photos, instruments)
    decoded = [_through(photo, autoencoder, instruments) for photo in photos]
    floor = read_utility(clean, decoded, instruments)
    sources = np.stack([photo.source.crop for photo in photos])
    crops = np.stack([photo.source_aligned() for photo in decoded])
    is_out = np.array([photo.pixels is not None for photo in photos])
    released["U9 gradient at the seam, ratio"] = np.full(len(photos), np.nan)
    if is_out.any():
        shown = np.stack([photo.source_aligned() for photo in photos if photo.pixels is not None])
        released["U9 gradient at the seam, ratio"][is_out] = seam_ratio(sources[is_out], shown)
    floor["U9 gradient at the seam, ratio"] = seam_ratio(sources, crops)
    for index, photo in enumerate(photos):
        photo.measures["landmark_error"] = float(released["U2 landmark error"][index])
        if photo.pixels is not None and photo.release is not None and photo.main_face is not None:
            photo.measures["outside_equal"] = float(_is_equal_outside(photo))
            photo.measures["attempts"] = float(photo.main_face.attempts)
    attempts = [photo.measures.get("attempts", np.nan) for photo in photos]
    released["identities tried"] = np.array(attempts)
    return Fidelity(released, floor, crops, _mirrored(sources, instruments))


def kernel_distances(
    photos: Sequence[AuditedPhoto],
    fidelity: Fidelity,
    embed: Callable[[Crops], NDArray[np.float32]],
    limit: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Distance of released crops from other photos of the people (U7), with the autoencoder's and the photos' own.

    Args:
        photos: The photos read in `fidelity`, in the same order; one for each person.
        fidelity: Their readings.
        embed: Unit features (d,) of one crop (128, 128, 3).
        limit: Released photos used, at most.
        rng: Draws the halves.

    Returns:
        Three estimates.
    """
    rows = [index for index, photo in enumerate(photos) if photo.pixels is not None][:limit]
    if not rows:
        return {}
    chosen = [photos[row] for row in rows]

    def features(crops: Sequence[Crops]) -> NDArray[np.float64]:
        return np.stack([embed(crop) for crop in crops]).astype(np.float64)

    others = features([photo.mate for photo in chosen])
    sets = {
        "released": [photo.source_aligned() for photo in chosen],
        FLOOR: [fidelity.decoded[row] for row in rows],
        "as sent in": [photo.source.crop for photo in chosen],
    }
    return {
        f"U7 kernel distance, {name}": kernel_distance(features(crops), others, rng) for name, crops in sets.items()
    }


@torch.inference_mode()
def _through(photo: AuditedPhoto, autoencoder: LatentAutoencoder, instruments: Instruments) -> AuditedPhoto:
    """The photo whose face went through the autoencoder only."""
    aligned = align_face(photo.original, photo.source.landmarks)
    decoded = autoencoder.decode(autoencoder.encode(to_tensor(aligned.crop[None]))).clamp(-1, 1)
    pixels = ((decoded[0] + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
    copy = photo.again()
    copy.pixels = paste_face(photo.original, pixels, aligned.matrix, face_mask()).pixels
    copy.found = same_face(instruments.detector, copy.pixels, photo.source)
    return copy


def _is_equal_outside(photo: AuditedPhoto) -> bool:
    """Whether no pixel changed outside the masks and the boxes that the verdict names (U8)."""
    shape = photo.original.shape[0], photo.original.shape[1]
    region = changed_region([photo.source.face], shape)
    if photo.release is None or photo.pixels is None:
        return False
    region |= treated_boxes([face.box for face in photo.release.verdict.faces], shape)
    return bool(np.array_equal(photo.pixels[~region], photo.original[~region]))


def _mirrored(sources: Crops, instruments: Instruments) -> dict[str, Values]:
    """Whether the openings of faces and of their mirror pictures fall on the same side of the thresholds."""
    seen, flipped = (read_expressions(instruments.landmark_net, c) for c in (sources, sources[:, :, ::-1].copy()))
    same = seen.classes() == flipped.classes()
    alike = {name: same[:, place].astype(np.float64) for place, name in enumerate(_OPENINGS)}
    return alike | {"U5 expression agrees in all three": same.all(axis=1).astype(np.float64)}
