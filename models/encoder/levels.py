"""Names of the levels by which a policy limits what the attribute code tells (`models.encoder.attribute_levels`)."""

from __future__ import annotations

from typing import Final, Literal, get_args

Level = Literal["strict", "balanced", "faithful"]

LEVELS: Final[tuple[Level, ...]] = get_args(Level)
"""From the least told to the most."""
