"""Calibrators in blocks: what their scores mean, strata by apparent sex and age, and when they are published."""

import numpy as np
import pytest
import torch

from training.jobs import strata as module
from training.jobs.fit_block_calibrators import FitBlockCalibratorsConfig, _stratum, run
from training.jobs.match_curves import Fit, Pairs, calibration_error, log_loss
from training.jobs.strata import Strata, Stratum, draw_strata, fold, is_clearly_less, pool, score, thin
from training.problems.block_calibration import BlockPairs


def test_the_score_of_a_block_is_that_of_its_curve():
    rng = np.random.default_rng(0)
    pairs = Pairs(rng.normal(0.5, 0.2, 300), rng.normal(0.0, 0.2, 900))
    block = BlockPairs(torch.from_numpy(pairs.genuine), torch.from_numpy(pairs.impostor))
    found = score(torch.tensor([[8.0, -2.0]], dtype=torch.float64), [block])
    fit = Fit(8.0, -2.0, 0.0, 0.0, 0)
    assert found.loss == pytest.approx(log_loss(fit, pairs))
    assert found.error == pytest.approx(calibration_error(fit, pairs))


def test_better_has_to_be_clear():
    theirs = np.array([0.10, 0.20, 0.30, 0.15])
    assert is_clearly_less(theirs - 0.01, theirs)
    assert not is_clearly_less(theirs, theirs)
    assert not is_clearly_less(theirs - np.array([0.10, -0.03, -0.02, -0.01]), theirs)


def test_strata_are_named_by_sex_and_age():
    labels = np.array([[-0.9, 3.0], [0.4, 3.0], [-0.2, 4.6], [0.1, 9.0]])
    assert _stratum(labels, (45.0,)).tolist() == [
        "apparent women 0 to 45",
        "apparent men 0 to 45",
        "apparent women 45 and older",
        "apparent men 45 and older",
    ]


def test_tied_blocks_beat_one_curve_where_strata_differ_and_nothing_drawn_is_published(make_run_context, tmp_path):
    report = run(FitBlockCalibratorsConfig(drawn_blocks=12, steps=600, draws=1), make_run_context(tmp_path))
    ways = {row["way"]: row["held-out log loss"] for row in report.tables["ways"]}
    assert ways["tied blocks, BSVRB"] < ways["one curve per oracle"]
    assert report.artifacts == ()
    assert {row["method"] for row in report.tables["in the service"]} == {"bsvrb"}


def test_the_pairs_of_some_people_are_theirs_alone():
    stratum = Stratum(np.array([0.5, 0.6, 0.7]), np.array([[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]))
    pairs = stratum.pairs(np.array([True, False, True]))
    assert (pairs.genuine.tolist(), pairs.impostor.tolist()) == ([0.5, 0.7], [0.2])
    assert stratum.pairs().impostor.tolist() == [0.1, 0.2, 0.3]


def test_every_person_is_set_aside_once(monkeypatch):
    strata, seen = draw_strata(3, seed=5), {}

    def note(fitting, validation, pooled, groups):
        seen.update(fitting=fitting, validation=validation, pooled=pooled, groups=groups)

    monkeypatch.setattr(module, "block_calibration", note)
    fold(strata, 4, torch.tensor([[0.0, 1.0]], dtype=torch.float64), np.random.default_rng(0))
    assert seen["groups"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for index, stratum in enumerate(strata.fitting):
        aside = torch.cat([seen["validation"][index + 3 * number].genuine for number in range(4)])
        assert sorted(aside.tolist()) == sorted(stratum.own.tolist())
        for number in range(4):
            block = 3 * number + index
            left = set(seen["fitting"][block].genuine.tolist())
            assert left == set(stratum.own.tolist()) - set(seen["validation"][block].genuine.tolist())
    alone = pool(seen["fitting"][3:6], strata.oracles)
    torch.testing.assert_close(seen["pooled"][1:2], alone)


def test_a_draw_takes_the_same_people_for_every_oracle():
    own, across = np.arange(8.0), np.arange(64.0).reshape(8, 8)
    strata = Strata([Stratum(own, across)] * 2, [Stratum(own, across)] * 2, ["a, x", "b, x"], torch.arange(2))
    drawn = thin(strata, 0.75, np.random.default_rng(0))
    for first, second in (drawn.fitting, drawn.held_out):
        assert len(first.own) == 6
        assert (first.own == second.own).all()
        rows = first.own.astype(int)
        assert (first.across == across[np.ix_(rows, rows)]).all()


def test_drawn_strata_are_the_same_for_a_seed():
    first, second = (draw_strata(4, seed=5) for _ in range(2))
    assert (first.fitting[1].own == second.fitting[1].own).all()
    assert [len(stratum.own) for stratum in first.fitting] == [80, 16, 80, 16]
