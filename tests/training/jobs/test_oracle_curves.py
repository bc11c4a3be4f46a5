"""The curve of one oracle: which number stands on which side of a comparison, and what it claims."""

import math
from dataclasses import replace

import numpy as np
import pytest

from training.jobs.match_curves import Pairs, log_loss
from training.jobs.oracle_curves import fit_curve, reliability_figure, service_rows


def pairs(seed):
    rng = np.random.default_rng(seed)
    return Pairs(rng.normal(0.4, 0.12, 300), rng.normal(0.05, 0.12, 2000))


@pytest.fixture(scope="module")
def curve():
    return fit_curve("fr_feature", pairs(0), pairs(1), 1e-4)


def test_a_curve_is_judged_on_the_held_out_pairs(curve):
    assert curve.loss == log_loss(curve.ours, curve.held) != log_loss(curve.ours, curve.fitted)
    assert curve.metrics()["fr_feature_log_loss"] == curve.loss
    claims = {check.claim: check for check in curve.checks(0.35)}
    assert all(check.holds for check in claims.values())
    refused = curve.checks(0.5 * curve.loss)
    assert [check.claim for check in refused if not check.holds] == ["fr_feature: held-out balanced log loss"]


def test_the_plain_way_stands_under_without(curve):
    peer = replace(curve.peer, slope=0.0, intercept=0.0, evaluations=1000)
    rows = service_rows([replace(curve, peer=peer, milliseconds=(1.0, 7.0))])
    by_measure = {row["measure"]: row for row in rows}
    loss = by_measure["held-out balanced log loss, nats"]
    assert (loss["without"], loss["with"]) == (pytest.approx(math.log(2)), curve.loss)
    time = by_measure["shortest processor time of a fit, ms"]
    assert (time["without"], time["with"]) == (7.0, 1.0)
    steps = by_measure["evaluations (plain: iterations) of a fit"]
    assert (steps["without"], steps["with"]) == (1000, curve.ours.evaluations)
    assert by_measure["evaluations of a fit"]["without"] == curve.bare.evaluations
    assert {row["n"] for row in rows} == {2300}


def test_steps_that_ran_away_are_said_to_have_no_end(curve):
    lost = replace(curve, bare=replace(curve.bare, gradient_norm=math.nan))
    assert lost.bare_evaluations == math.inf
    assert lost.row(0.3)["unguarded Newton"] == "does not end"
    assert curve.row(0.3)["unguarded Newton"] == curve.bare.evaluations


def test_the_reliability_of_a_true_curve_lies_near_the_diagonal(curve, tmp_path):
    figure = reliability_figure(tmp_path, curve)
    assert (tmp_path / "figures" / "reliability_fr_feature.svg").is_file()
    assert "fr_feature" in figure.caption
