"""Settings of the jobs that fit on the labeled people of one half and test on those of the other."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from models.oracles.ensemble import SERVING_ORACLES
from training.jobs.calibrate_oracles import Half
from training.runs.config import JobConfig


class CalibrationHalvesConfig(JobConfig):
    """Which photos, whose, and for which oracles; what is left out is the job's own."""

    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    domain: str = Field("photo", min_length=1, description="what sort of pictures the calibrators are for")
    fit_half: Half = Field("calibration", description="people that the curves are fitted on")
    held_out_half: Half = Field("test", description="people that they are tested on")
    oracles: tuple[str, ...] = Field(SERVING_ORACLES, min_length=1)
    batch: int = Field(32, ge=1, description="crops per pass of an oracle")
