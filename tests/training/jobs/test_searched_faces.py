"""Searches over identity codes: stand-ins, exhausted faces, the client's verdicts, and slopes from values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.identity.manifold import IdentityManifold
from training.jobs.attack_gate import _Verdicts
from training.jobs.code_repair import principal_directions
from training.jobs.hinge_from_values import HingeFromValuesConfig, _descend, _estimate, _slope_above, _tangent
from training.jobs.repair_codes import Outcome, Rules, exhaust, in_the_service
from training.jobs.searched_faces import SearchedFace, linear_faces
from training.optimizers.derivative_free.zeroth_order_family.probes import orthogonal


@pytest.fixture(scope="module")
def stand_in() -> tuple[SearchedFace, IdentityManifold]:
    faces, manifold = linear_faces(1, dim=12, seed=3)
    return faces[0], manifold


def rules_for(manifold: IdentityManifold, limit: float) -> Rules:
    names = ("fr_feature", "mfn")
    basis = principal_directions(manifold.bank, 6)
    return Rules(manifold, dict.fromkeys(names, limit), dict.fromkeys(names, 0.2), 1.0, 16, basis)


def test_a_differentiable_similarity_is_the_one_that_is_reported(
    stand_in: tuple[SearchedFace, IdentityManifold],
) -> None:
    face, manifold = stand_in
    codes = manifold.bank[:5]
    for name, seen in face.similarities(codes, 4).items():
        assert face.similarity(name, torch.from_numpy(codes).double(), 4).numpy() == pytest.approx(seen)


def test_the_code_of_the_source_is_the_most_similar_to_everybody(
    stand_in: tuple[SearchedFace, IdentityManifold],
) -> None:
    face, manifold = stand_in
    for part in face.heard(np.concatenate([face.code[None], manifold.bank[:50]]), 0):
        assert all(values.argmax() == 0 for values in part.values())


def test_a_face_is_exhausted_only_when_every_try_was_refused(stand_in: tuple[SearchedFace, IdentityManifold]) -> None:
    face, manifold = stand_in
    codes, excesses = exhaust(face, rules_for(manifold, -0.99), 5, np.random.default_rng(0))
    assert codes.shape == (5, 12)
    assert (excesses >= 0).all()
    codes, excesses = exhaust(face, rules_for(manifold, 0.99), 5, np.random.default_rng(0))
    assert codes.shape == (1, 12)
    assert excesses[-1] < 0


def test_values_without_an_end_or_a_picture_are_left_out_of_the_table() -> None:
    good = Outcome(np.zeros(3, np.float32), 4, 2.0, {})
    endless = Outcome(np.zeros(3, np.float32), 4, np.inf, {})
    rows = in_the_service({"repair": [good], "more tries": [good], "CMA-ES": [endless]}, 32)
    assert {row["measure"] for row in rows if "CMA-ES" in str(row["job"])} == {
        "share repaired",
        "oracle calls, all faces",
    }
    assert all(np.isfinite(row[side]) for row in rows for side in ("with", "without"))  # type: ignore[call-overload]


def test_a_client_gets_no_more_verdicts_than_the_budget(stand_in: tuple[SearchedFace, IdentityManifold]) -> None:
    face, _ = stand_in
    asked = []

    class Watched:
        code = face.code

        def heard(self, codes: np.ndarray, noise: int) -> object:
            asked.append(len(codes))
            return face.heard(codes, noise)

    verdicts = _Verdicts(Watched(), {"fr_feature": 2.0, "mfn": 2.0}, np.eye(12), 10)  # type: ignore[arg-type]
    for _ in range(4):
        verdicts(torch.zeros(4, 12))
    assert sum(asked) == 10
    assert verdicts.left == 0
    assert np.isfinite(verdicts.judged(face))


def test_a_refused_code_costs_more_than_any_that_passes(stand_in: tuple[SearchedFace, IdentityManifold]) -> None:
    face, _ = stand_in
    points = torch.zeros(1, 12)
    passed = _Verdicts(face, {"fr_feature": 2.0, "mfn": 2.0}, np.eye(12), 1)(points)
    verdicts = _Verdicts(face, {"fr_feature": 0.1, "mfn": 0.1}, np.eye(12), 1)
    assert float(verdicts(points)) > float(passed)
    assert np.isnan(verdicts.judged(face))


def test_the_judge_hears_only_the_face_that_is_most_like_the_source_to_the_client(
    stand_in: tuple[SearchedFace, IdentityManifold],
) -> None:
    face, manifold = stand_in
    heard = []

    class Judge:
        def heard(self, codes: np.ndarray, noise: int) -> object:
            heard.append(codes)
            return face.heard(codes, noise)

    verdicts = _Verdicts(face, {"fr_feature": 2.0, "mfn": 2.0}, np.eye(12), 6)
    points = torch.from_numpy(manifold.bank[:6]).double()
    energies = torch.cat([verdicts(points[:4]), verdicts(points[4:])])
    similarity = verdicts.judged(Judge())  # type: ignore[arg-type]
    codes = face.code + points.numpy()
    best = (codes / np.linalg.norm(codes, axis=1, keepdims=True))[int(energies.argmin())]
    assert [part.shape for part in heard] == [(1, 12)]
    assert heard[0][0] == pytest.approx(best, abs=1e-6)
    assert similarity == pytest.approx(float(face.heard(best[None].astype(np.float32), 0)[1]["faceres"][0]))


def test_below_its_limit_an_oracle_has_no_slope(stand_in: tuple[SearchedFace, IdentityManifold]) -> None:
    face, manifold = stand_in
    code = torch.from_numpy(manifold.bank[0]).double()
    seen = float(face.similarity("mfn", code[None], 0)[0])
    assert float(_slope_above(face, "mfn", code, seen + 1e-9).norm()) == 0.0
    assert float(_slope_above(face, "mfn", code, seen - 1e-9).norm()) > 0.0


def test_as_many_orthogonal_probes_as_dimensions_give_the_slope(
    stand_in: tuple[SearchedFace, IdentityManifold],
) -> None:
    face, manifold = stand_in
    code = torch.from_numpy(manifold.bank[0]).double()
    estimate = _estimate(face, "mfn", code, 12, orthogonal, 1e-3, torch.Generator().manual_seed(0))
    assert torch.allclose(estimate, _tangent(_slope_above(face, "mfn", code, -1.0), code), atol=1e-5)


def test_ignoring_the_hidden_oracle_leaves_it_higher_than_its_gradient_does(
    stand_in: tuple[SearchedFace, IdentityManifold],
) -> None:
    face, manifold = stand_in
    start = torch.from_numpy(face.code + 0.5 * manifold.bank[0]).double()
    start = start / start.norm()
    config = HingeFromValuesConfig(linear=True, descent_steps=6, step=0.15)
    ends = {
        arm: _descend(face, start, "mfn", {"fr_feature": 0.6, "mfn": 0.1}, arm, orthogonal, config, 0)["mfn"]
        for arm in ("true gradient", "from values", "ignored")
    }
    assert max(ends["true gradient"], ends["from values"]) < ends["ignored"]
