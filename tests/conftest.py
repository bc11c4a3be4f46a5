"""Fixtures shared by every test: seeded generators and the artifact store."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240517)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240517)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The devices on which a test's body must hold; a CUDA device multiplies in float32 as exactly as the CPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here: `make gpu-check` runs this on a machine that has one")
        torch.backends.cudnn.allow_tf32 = False
    return torch.device(request.param)


@pytest.fixture(scope="session")
def artifacts_root() -> Path:
    """The artifact store of this checkout (third-party weights are fetched into it by `make models`)."""
    return Path(os.environ.get("DOPPEL_ARTIFACTS", REPOSITORY / "artifacts"))


@pytest.fixture(scope="session")
def upstream_store(artifacts_root: Path) -> Path:
    """The store when the third-party weights are there; `make test` fetches them, a bare pytest run may lack them."""
    if not (artifacts_root / "upstream-dlib").is_dir():
        pytest.skip("third-party weights are not fetched: run `make models`")
    return artifacts_root
