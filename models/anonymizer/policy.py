"""What the caller may ask for; every field can only keep or tighten the privacy of the server's own settings."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from models.anonymizer.errors import PolicyError
from models.encoder.levels import LEVELS, Level

Mode = Literal["generate", "redact"]
Scope = Literal["fresh", "pseudonym"]
OnFailure = Literal["redact", "withhold"]
Media = Literal["jpeg", "png", "webp"]

_MAX_TRIES = 256
_MAX_RESYNTHESES = 8
_SIDE_RANGE = (64, 4096)
_GUIDANCE_RANGE = (1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """Treatment of every face of one picture.

    There is no mode that leaves a face as it is.

    Attributes:
        mode: `generate` replaces each face by a synthetic one, `redact` covers it with a solid ellipse.
        level: what the attribute code may tell of a face: `strict` its light, and of its landmarks what pose and
            expression explain; `balanced` its light and its landmarks; `faithful` all that the encoder tells.
            Candidates of `strict` also stay further below the thresholds.
        steps: denoising steps of the generator, 1 to 4.
        guidance: guidance weight on the identity code, 1 to 4.
        scope: `fresh` draws a new identity for each face and request; `pseudonym` keeps one per subject and epoch.
        on_failure: what happens to a face that no try could anonymize: covered, or the picture is withheld.
        max_similarity: cap on the cosine similarity of source and output, in [-1, 1]; applied with `min`, so it
            can tighten the calibrated privacy threshold of an oracle and never loosen it.
        max_tries: identity candidates per face and synthesis, at most.
        max_resyntheses: how often a face may be synthesized again after all candidates of a round were refused.
        seed: fixes every random draw; for tests and demonstrations, since a known seed makes a known identity.
        media: encoding of the released picture.
        max_side: longer side of the released picture in pixels, at most.
    """

    mode: Mode = "generate"
    level: Level = "balanced"
    steps: int = 4
    guidance: float = 2.0
    scope: Scope = "fresh"
    on_failure: OnFailure = "redact"
    max_similarity: float | None = None
    max_tries: int = 32
    max_resyntheses: int = 3
    seed: int | None = None
    media: Media = "jpeg"
    max_side: int = 4096

    def __post_init__(self) -> None:
        """Refuse every value outside its range.

        Raises:
            PolicyError: if a field is outside its range.
        """
        _one_of("mode", self.mode, get_args(Mode))
        _one_of("level", self.level, LEVELS)
        _one_of("scope", self.scope, get_args(Scope))
        _one_of("on_failure", self.on_failure, get_args(OnFailure))
        _one_of("media", self.media, get_args(Media))
        _within("steps", self.steps, 1, 4)
        _within("guidance", self.guidance, *_GUIDANCE_RANGE)
        _within("max_tries", self.max_tries, 1, _MAX_TRIES)
        _within("max_resyntheses", self.max_resyntheses, 0, _MAX_RESYNTHESES)
        _within("max_side", self.max_side, *_SIDE_RANGE)
        if self.max_similarity is not None:
            _within("max_similarity", self.max_similarity, -1.0, 1.0)
        if self.seed is not None:
            _within("seed", self.seed, 0, 2**63 - 1)

    def threshold(self, privacy_threshold: float) -> float:
        """Give the similarity that must not be reached: the calibrated one, or the caller's where it is lower."""
        return privacy_threshold if self.max_similarity is None else min(privacy_threshold, self.max_similarity)

    def digest(self) -> str:
        """Hash every field but the seed: 16 hexadecimal digits for provenance records."""
        fields = {name: value for name, value in asdict(self).items() if name != "seed"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PolicyError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _within(name: str, value: float, lower: float, upper: float) -> None:
    # a bool is an int to Python, and a NaN fails every comparison: both are refused here
    if isinstance(value, bool) or not math.isfinite(value) or not lower <= value <= upper:
        raise PolicyError(f"{name} must be in [{lower}, {upper}], got {value!r}")
