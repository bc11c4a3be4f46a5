"""Labeled photos drawn by code, for the jobs that calibrate on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.faces.alignment import crop_template


@pytest.fixture(scope="session")
def draw_labeled_photos() -> Callable[[Path, int], Path]:
    """Draw people into a folder: two noisy photos of the same random texture each, landmarks on the template."""

    def draw(root: Path, people: int) -> Path:
        rng = np.random.default_rng(11)
        rows = ["file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy"]
        points = ",".join(f"{value:.3f}" for value in crop_template().reshape(-1))
        for person in range(people):
            texture = cv2.resize(rng.integers(0, 256, (16, 16, 3)).astype(np.uint8), (128, 128))
            for photo in (1, 2):
                name = f"Person_{person:02d}_{photo:04d}.png"
                noisy = np.clip(texture + rng.normal(0, 4, texture.shape), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / name), noisy)
                rows.append(f"{name},{points}")
        (root / "landmarks.csv").write_text("\n".join(rows) + "\n")
        return root

    return draw
