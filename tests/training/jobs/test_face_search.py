"""What the searches over identity codes share: settings, limits, faces served on demand, and the versions they saw."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from models.oracles.thresholds import OracleThreshold
from training.jobs import face_search as module
from training.jobs import repair_codes
from training.jobs.attack_gate import AttackGateConfig
from training.jobs.face_search import FaceSearchConfig, load_face_search
from training.jobs.hinge_from_values import HingeFromValuesConfig
from training.jobs.repair_codes import RepairCodesConfig
from training.jobs.searched_faces import linear_faces

THRESHOLD = OracleThreshold("", 1e-3, 0.4, 0.01, 0.38, 0.95, 100, 1, 1000, 0.0, 0.1)


@pytest.fixture
def served(monkeypatch):
    """A store whose networks are stand-ins, of two oracles; notes crops, seed and auditors of every block encoded."""
    stand_ins, manifold = linear_faces(20, seed=0)
    blocks = []

    def serve(crops, assembly, store, auditors, *, steps, seed):
        blocks.append((tuple(crops), seed, tuple(auditors)))
        return [stand_ins[crop] for crop in crops]

    thresholds = SimpleNamespace(
        at=lambda far, names: {name: replace(THRESHOLD, oracle=name, far=far) for name in names if name != "dlib"},
        centers={},
    )
    versions = {"face-generator": "0123456789abcdef", "face-encoder": "fedcba9876543210"}
    assembly = SimpleNamespace(thresholds=thresholds, manifold=manifold, versions=versions)
    monkeypatch.setattr(module, "assemble", lambda store: assembly)
    monkeypatch.setattr(module, "source_crops", lambda folder, landmarks, half, count, *rest: list(range(count)))
    monkeypatch.setattr(module, "served_faces", serve)
    monkeypatch.setattr(module, "load_oracle", lambda store, name, center: name)
    return blocks


@pytest.mark.parametrize("config", [AttackGateConfig, RepairCodesConfig, HingeFromValuesConfig])
def test_the_three_searches_share_frozen_settings(config):
    assert issubclass(config, FaceSearchConfig)
    shared = {"folder", "landmarks", "half", "linear", "far", "subspace"}
    assert not shared & set(config.__annotations__)
    with pytest.raises(ValidationError, match="frozen"):
        config().folder = None


def test_limits_are_thresholds_less_a_margin_and_scales_are_deviations(served, make_run_context, tmp_path):
    context = make_run_context(tmp_path)
    search = load_face_search(
        FaceSearchConfig(), context, np.random.default_rng(0), judges=("faceres",), stand_in_limit=9.0
    )
    assert search.limits(1.5) == pytest.approx(dict.fromkeys(("fr_feature", "mfn"), 0.4 - 0.15))
    assert search.scales() == pytest.approx(dict.fromkeys(("fr_feature", "mfn"), 0.1))
    assert search.at_far["faceres"].privacy_threshold == 0.4


def test_faces_are_encoded_in_blocks_when_asked_for_each_with_its_own_seed(served, make_run_context, tmp_path):
    config = FaceSearchConfig(faces=20, seed=7)
    search = load_face_search(config, make_run_context(tmp_path), np.random.default_rng(0), stand_in_limit=0.0)
    faces = search.serve(("mobileface",))
    assert served == []
    first = next(faces)
    assert served == [(tuple(range(8)), 7, ("mobileface",))]
    rest = list(faces)
    assert [(crops[0], seed) for crops, seed, _ in served] == [(0, 7), (8, 15), (16, 23)]
    again = list(search.serve(()))
    assert [id(face) for face in again] == [id(face) for face in (first, *rest)]


def test_a_report_says_which_versions_were_loaded_and_stand_ins_load_none(served, make_run_context, tmp_path):
    context = make_run_context(tmp_path)
    small = {"faces": 4, "max_tries": 1, "budget": 3}
    report = repair_codes.run(RepairCodesConfig(**small), context)
    assert report.tables["artifacts"] == [
        {"artifact": "face-encoder", "version": "fedcba9876543210"},
        {"artifact": "face-generator", "version": "0123456789abcdef"},
    ]
    assert repair_codes.run(RepairCodesConfig(**small, linear=True), context).tables["artifacts"] == []


def test_no_further_face_is_repaired_once_the_calls_are_spent(make_run_context, tmp_path):
    def found(max_calls):
        config = RepairCodesConfig(linear=True, faces=60, max_tries=2, max_calls=max_calls, budget=8)
        return repair_codes.run(config, make_run_context(tmp_path)).metrics

    few, many = found(40), found(10_000)
    assert 40 <= few["calls"] < 40 + 2 + 3 * 8
    assert few["exhausted"] < many["exhausted"]
