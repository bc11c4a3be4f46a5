"""The part of the assembly that a store may lack: match calibrators are optional, but never unsound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.anonymizer import assembly
from models.anonymizer.assembly import OPTIONAL_ARTIFACTS, OWN_ARTIFACTS, check_parents, load_curves, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.oracles.calibrators import (
    ARTIFACT,
    CalibratorsMismatchError,
    MatchCalibrator,
    MatchCalibrators,
    calibrators_files,
)
from models.oracles.ensemble import SERVING_ORACLES
from models.registry.manifest import ArtifactError
from models.registry.store import ArtifactCorruptError, ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def put(store: ArtifactStore, oracles: tuple[str, ...] = SERVING_ORACLES, **parents: str) -> MatchCalibrators:
    curves = tuple(MatchCalibrator(name, 20.0, -5.0, 100, 4950, 0.1) for name in oracles)
    calibrators = MatchCalibrators("photo", curves, {}, parents.get("thresholds", "0" * 16))
    version = store.publish(ARTIFACT, "calibrators", dict(calibrators_files(calibrators))).version
    store.set_promoted(ARTIFACT, version)
    return calibrators


def test_a_store_may_lack_calibrators_and_needs_everything_else(store: ArtifactStore) -> None:
    assert load_curves(store) is None
    assert not set(OPTIONAL_ARTIFACTS) & set(OWN_ARTIFACTS)
    for name in OWN_ARTIFACTS:
        with pytest.raises(ArtifactError, match=name):
            check_parents(store, (name,))


def test_calibrators_of_all_serving_oracles_are_loaded(store: ArtifactStore) -> None:
    calibrators = put(store)
    assert load_curves(store) == calibrators


def test_calibrators_that_lack_an_oracle_stop_the_start(store: ArtifactStore) -> None:
    put(store, SERVING_ORACLES[1:])
    with pytest.raises(CalibratorsMismatchError, match=SERVING_ORACLES[0]):
        load_curves(store)


def test_damaged_calibrators_stop_the_start(store: ArtifactStore) -> None:
    put(store)
    path = next((store.root / ARTIFACT).glob("*/calibrators.json"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"20.0", b"21.0"))
    with pytest.raises(ArtifactCorruptError):
        load_curves(store)
    with pytest.raises(ArtifactCorruptError):
        check_parents(store, OPTIONAL_ARTIFACTS)
    (store.root / ARTIFACT / "promoted").write_text("nonsense")
    with pytest.raises(ArtifactCorruptError):
        load_curves(store)


def test_calibrators_of_replaced_thresholds_stop_the_start(store: ArtifactStore) -> None:
    old = store.publish("oracle-thresholds", "test", {"x": b"old"}).version
    new = store.publish("oracle-thresholds", "test", {"x": b"new"}).version
    store.set_promoted("oracle-thresholds", old)
    put(store, thresholds=old)
    assert load_curves(store) is not None
    store.set_promoted("oracle-thresholds", new)
    with pytest.raises(CalibratorsMismatchError, match="oracle-thresholds"):
        load_curves(store)


def test_an_autoencoder_of_larger_crops_than_the_service_cuts_stops_the_start(
    upstream_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(store: ArtifactStore, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "face-autoencoder":
            return LatentAutoencoder(encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8), crop_size=256)
        return load_network(store, name, *arguments, **options)

    monkeypatch.setattr(assembly, "load_network", load)
    with pytest.raises(ArtifactError, match="256 px, the service cuts them at 128 px"):
        assembly.assemble(ArtifactStore(upstream_store))
