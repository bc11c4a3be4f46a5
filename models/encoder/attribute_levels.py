"""How much of a face its attribute code may tell: the levels `strict`, `balanced` and `faithful` of a policy.

The code of `models.encoder.attributes` has a learned part and landmarks, and both tell some identity. A level replaces
their means before the noise is added, by maps that are fixed and affine, so what a level lets through is counted:

| level | learned part | landmarks |
|---|---|---|
| `faithful` | as encoded | as encoded |
| `balanced` | a function of 27 numbers, the light of the face (`models.encoder.light_code`) | as encoded |
| `strict` | the same | what pose and expression explain of them |

With the covariance S of what pose and expression do to landmarks and the covariance I of what sets people apart, both
from rendered heads where each is known, the landmarks of `strict` are m + M (x - m), M = S (S + k I)^-1: the Wiener
filter for k = 1, and a stronger one above.

Differs: the specification reduces channels and cells and raises the noise floor. Fewer channels of one trained encoder
still tell what its loss put there; a function of the light tells nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from models.encoder.landmark_code import LANDMARK_CHANNELS, NUM_LANDMARKS, from_sheets, to_sheets
from models.encoder.levels import LEVELS, Level
from models.encoder.light_code import NUM_LIGHT, light_numbers
from models.registry.manifest import ArtifactError
from models.registry.store import ArtifactStore

ARTIFACT_NAME: Final = "attribute-levels"
TENSORS_FILE: Final = "attribute-levels.safetensors"

_SIDE = 8  # of the attribute code
_SIZE = 2 * NUM_LANDMARKS


@dataclass(frozen=True, slots=True, eq=False)
class AttributeLevels:
    """Limits the means of attribute codes.

    Attributes:
        light_weights: from the light to the learned part, (27, c * 64).
        light_bias: its value without light, (c * 64,).
        landmark_mean: m, the scaled landmark offsets that the map leaves where they are, (102,).
        landmark_map: M for row vectors, (102, 102).
    """

    light_weights: Tensor
    light_bias: Tensor
    landmark_mean: Tensor
    landmark_map: Tensor

    def __post_init__(self) -> None:
        """Refuse maps that do not fit.

        Raises:
            ValueError: if a shape is wrong or a number is not finite.
        """
        width = self.light_bias.shape[0] if self.light_bias.ndim == 1 else 0
        if width == 0 or width % _SIDE**2:
            raise ValueError(f"light_bias must have {_SIDE**2} numbers per channel, got {tuple(self.light_bias.shape)}")
        shapes = {
            "light_weights": (NUM_LIGHT, width),
            "light_bias": (width,),
            "landmark_mean": (_SIZE,),
            "landmark_map": (_SIZE, _SIZE),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} must be finite of shape {shape}, got {tuple(value.shape)}")

    def __call__(self, level: Level, crops: Tensor, mean: Tensor) -> Tensor:
        """Limit codes.

        Args:
            level: what they may tell.
            crops: the aligned crops they were encoded from, (n, 3, 128, 128) in [-1, 1].
            mean: means of the attribute codes, (n, c + 2, 8, 8), the landmarks in the last two channels.

        Returns:
            Limited means of the same shape, on the device of `mean`.

        Raises:
            ValueError: if the level is unknown or the code has another shape.
        """
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        channels = self.light_bias.shape[0] // _SIDE**2
        if tuple(mean.shape[1:]) != (channels + LANDMARK_CHANNELS, _SIDE, _SIDE) or len(crops) != len(mean):
            raise ValueError(f"expected codes of {channels} channels and landmarks, got {tuple(mean.shape)}")
        if level == "faithful":
            return mean
        place = mean.device
        learned = light_numbers(crops).to(place) @ self.light_weights.to(place) + self.light_bias.to(place)
        sheets = mean[:, channels:]
        if level == "strict":
            center = self.landmark_mean.to(place)
            offsets = from_sheets(sheets).flatten(1) - center
            sheets = to_sheets((offsets @ self.landmark_map.to(place) + center).unflatten(1, (NUM_LANDMARKS, 2)))
        return torch.cat([learned.unflatten(1, (channels, _SIDE, _SIDE)), sheets], dim=1)

    def to_files(self) -> dict[str, bytes]:
        """Serialize as the files of an artifact."""
        tensors = {part.name: getattr(self, part.name).float().contiguous() for part in fields(self)}
        return {TENSORS_FILE: write_tensors(tensors)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> AttributeLevels:
        """Read what `to_files` wrote.

        Args:
            files: file name to content.

        Returns:
            The levels.

        Raises:
            ValueError: if a tensor is missing or misshapen.
        """
        tensors = read_tensors(files[TENSORS_FILE])
        names = [part.name for part in fields(cls)]
        if missing := sorted(set(names) - set(tensors)):
            raise ValueError(f"attribute levels lack the tensors {missing}")
        return cls(*(tensors[name] for name in names))


def load_attribute_levels(store: ArtifactStore) -> AttributeLevels:
    """Load the promoted levels.

    Args:
        store: artifact store.

    Returns:
        The levels.

    Raises:
        ArtifactError: they are missing or damaged.
    """
    artifact = store.resolve(ARTIFACT_NAME)
    try:
        return AttributeLevels.from_files({TENSORS_FILE: artifact.read_bytes(TENSORS_FILE)})
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"{ARTIFACT_NAME}@{artifact.manifest.version} does not fit this code: {error}") from error
