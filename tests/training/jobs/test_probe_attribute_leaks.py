"""Sparse leak probes: planted channels, the optimum of scikit-learn, an honest score; labels spread by trees."""

import numpy as np
import pytest

from training.jobs.leak_probes import audit_list, lasso, ridge_score, sparse_probe
from training.jobs.probe_attribute_leaks import JOB, ProbeAttributeLeaksConfig, run
from training.jobs.subject_clusters import neighbor_graph, pair_scores, spread_labels
from training.runs.config import ConfigError, resolve_config


def test_both_solvers_end_at_the_same_probe_and_a_weight_above_the_largest_chooses_nothing():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(60, 90))
    target = codes[:, :3] @ np.array([1.0, -2.0, 0.5]) + 0.1 * rng.normal(size=60)
    largest = float(np.abs(codes.T @ target).max())
    effort = {"block": 10, "max_steps": 200, "tolerance": 1e-7}
    ours, peer = sparse_probe(codes, target, 0.1 * largest, **effort), lasso(codes, target, 0.1 * largest)
    assert ours.value == pytest.approx(peer.value, rel=1e-9)
    assert ours.weights == pytest.approx(peer.weights, abs=1e-5)
    assert set(np.flatnonzero(ours.weights)) >= {0, 1, 2}
    assert not sparse_probe(codes, target, 1.01 * largest, **effort).weights.any()


def test_the_audit_list_orders_channels_by_what_the_probes_chose():
    weights = np.zeros((2, 3, 4))
    weights[0, 2] = 1.0
    weights[1, 0, 0] = -1.0
    rows = audit_list(weights.reshape(2, 12), 3)
    assert [row["channel"] for row in rows] == [2, 0, 1]
    assert [row["share of the chosen"] for row in rows] == pytest.approx([0.8, 0.2, 0.0])
    assert [row["probes"] for row in rows] == [1, 1, 0]
    assert sum(row["share of the chosen"] for row in audit_list(np.zeros((2, 12)), 3)) == 0


def test_people_held_out_are_not_predicted_from_codes_that_say_nothing_of_them():
    rng = np.random.default_rng(1)
    held = np.arange(400) % 2 == 1
    codes, noise = rng.normal(size=(400, 20)), rng.normal(size=(400, 2))
    assert ridge_score(codes, noise, held) < 0.05
    assert ridge_score(codes, codes[:, :2] + 0.1 * noise, held) > 0.9


def test_a_run_lists_the_planted_channels_first(make_run_context, tmp_path):
    config = resolve_config(ProbeAttributeLeaksConfig, preset=JOB.preset("smoke"))
    report = run(config, make_run_context(tmp_path))
    assert [check.claim for check in report.checks if not check.holds] == []
    assert {row["channel"] for row in report.tables["Audit list"][:2]} == {2, 9}
    rows = report.tables["in the service"]
    assert {tuple(row) for row in rows} == {("method", "job", "measure", "without", "with", "n")}
    shares = [row for row in rows if row["measure"] == "held-out R2 of identity components"]
    assert shares[0]["with"] > 0.6
    assert shares[1]["with"] < 0.1 < shares[1]["without"]


def test_people_without_a_second_picture_are_no_probe(make_run_context, tmp_path):
    np.save(tmp_path / "crops.npy", np.zeros((9, 128, 128, 3), np.uint8))
    (tmp_path / "index.csv").write_text("group\n" + "\n".join(f"person-{index}" for index in range(9)) + "\n")
    with pytest.raises(ConfigError, match="got 0 of 9"):
        run(ProbeAttributeLeaksConfig(faces=tmp_path), make_run_context(tmp_path))


def test_the_graph_joins_a_picture_to_its_nearest_and_is_symmetric():
    angles = np.array([0.0, 0.1, 1.0, 1.15])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    weights = neighbor_graph(embeddings, 1).numpy()
    assert weights == pytest.approx(weights.T)
    assert (np.argwhere(weights > 0) == [[0, 1], [1, 0], [2, 3], [3, 2]]).all()
    assert weights[0, 1] == pytest.approx(np.cos(0.1))
    with pytest.raises(ValueError, match="neighbors"):
        neighbor_graph(embeddings, 4)


def test_one_label_reaches_the_whole_chain_of_a_person_where_the_nearest_label_misleads():
    # Person 0 is an arc of pictures; its far end is closer to the label of person 1 than to its own.
    angles = np.concatenate([np.linspace(0, 1.5, 16), np.array([2.2, 2.25, 2.3])])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    people = np.repeat([0, 1], [16, 3])
    labeled = np.isin(np.arange(19), [0, 16])
    found = spread_labels(embeddings, people, labeled, neighbors=2, steps=60)
    assert (found.named["trees"] == people).all()
    assert (found.named["conjugate gradients"] == people).all()
    assert not (found.named["nearest neighbor"] == people).all()
    assert found.residuals["conjugate gradients"] < 1e-9
    assert found.residuals["trees"] < 1e-2


def test_pair_scores_are_counted_over_pairs():
    precision, recall = pair_scores(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6]))
    assert precision == pytest.approx(1 / 2)
    assert recall == pytest.approx(1 / 3)
    assert np.isnan(pair_scores(np.array([0, 1]), np.array([0, 1]))[0])
