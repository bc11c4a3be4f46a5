"""How jobs publish networks: half-precision safetensors in the `save_pretrained` layout."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray

from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.figures import Figure

WEIGHTS_LICENSE = "Apache-2.0"
PROVENANCE = "trained only on synthetic photographs and renders of people who do not exist"


def publish_module(
    context: RunContext,
    name: str,
    module: ModelMixin,
    *,
    metrics: Mapping[str, float],
    config: JobConfig,
    parents: Sequence[str] = (),
) -> str:
    """Publish one network as an artifact.

    Args:
        context: Run that made it.
        name: Artifact name.
        module: Network with a registered configuration.
        metrics: What was measured on held-out people.
        config: Settings of the run.
        parents: Names of promoted artifacts it was trained with; their versions are recorded.

    Returns:
        `name@version`.
    """
    return publish_modules(context, name, {"": module}, metrics=metrics, config=config, parents=parents)


def publish_modules(
    context: RunContext,
    name: str,
    modules: Mapping[str, ModelMixin],
    *,
    metrics: Mapping[str, float],
    config: JobConfig,
    parents: Sequence[str] = (),
) -> str:
    """Publish several networks as one artifact, each in its own folder, and make it the promoted version.

    Args:
        context: Run that made them.
        name: Artifact name.
        modules: Networks by folder name; an empty name is the artifact's root.
        metrics: What was measured on held-out people.
        config: Settings of the run.
        parents: Names of promoted artifacts they were trained with.

    Returns:
        `name@version`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for folder, module in modules.items():
            copy.deepcopy(module).cpu().half().save_pretrained(root / folder, safe_serialization=True)
        files: dict[str, bytes | Path] = {
            path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()
        }
        versions = {parent: str(context.store.promoted(parent)) for parent in parents}
        reference = context.publish(
            name,
            "weights",
            files,
            config={"settings": json.loads(config.model_dump_json())},
            metrics=dict(metrics),
            parents=versions,
            license=WEIGHTS_LICENSE,
            provenance={"data": PROVENANCE},
        )
    context.store.set_promoted(name, reference.partition("@")[2])
    return reference


def write_sheet(context: RunContext, name: str, pixels: NDArray[np.uint8], caption: str = "") -> Figure:
    """Write a contact sheet to the run's figures.

    Args:
        context: Run.
        name: File name without suffix.
        pixels: Picture, (h, w, 3) uint8 RGB.
        caption: What it shows.

    Returns:
        The figure for the report.
    """
    folder = context.directory / "figures"
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / f"{name}.png"), pixels[..., ::-1])
    return Figure(path=f"figures/{name}.png", caption=caption or name)
