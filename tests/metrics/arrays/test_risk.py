"""Sparsification and risk-coverage against sorting, with ties in random order."""

from __future__ import annotations

import numpy as np
import pytest

from gradunc_viz.metrics.arrays import risk


def sorted_risks(score: np.ndarray, error: np.ndarray, orders: int = 1, seed: int = 0) -> np.ndarray:
    """Mean error of the most certain 1, 2, ... pixels, averaged over orders of ties."""
    random = np.random.default_rng(seed)
    found = np.zeros(len(score))
    for _ in range(orders):
        order = np.lexsort((random.random(len(score)), score))
        found += np.cumsum(error[order]) / np.arange(1, len(score) + 1)
    return found / orders


def bins(score: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A bin for each value."""
    _, index = np.unique(score, return_inverse=True)
    return np.bincount(index, error), np.bincount(index)


@pytest.fixture(params=["rate", "brier"])
def error(request) -> np.ndarray:
    random = np.random.default_rng(1)
    return (random.random(3000) < 0.2) * 1.0 if request.param == "rate" else random.beta(0.5, 2, 3000) * 2


@pytest.fixture
def score(error) -> np.ndarray:
    return error + np.random.default_rng(2).normal(size=len(error))


def test_aurc_against_sorting(score, error):
    assert risk.aurc(*bins(score, error)) == pytest.approx(sorted_risks(score, error).mean(), abs=2e-3)


def test_aurc_of_ties_is_expected_over_their_orders(score, error):
    tied = np.round(score)
    assert len(np.unique(tied)) < 12
    wanted = sorted_risks(tied, error, orders=50).mean()
    assert risk.aurc(*bins(tied, error)) == pytest.approx(wanted, abs=3e-3)


def test_aurc_of_a_constant_score_is_the_mean(error):
    assert risk.aurc([error.sum()], [len(error)]) == pytest.approx(error.mean(), abs=1e-12)


def test_aurc_integrates_the_curve(score, error):
    errors, pixels = bins(np.round(score, 1), error)
    thin = 500
    kept = np.cumsum(np.repeat(pixels / thin, thin))
    fine = np.cumsum(np.repeat(errors / thin, thin)) / kept
    wanted = (fine * np.repeat(pixels / thin, thin)).sum() / kept[-1]
    assert risk.aurc(errors, pixels) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.003, 0.2, 0.5, 0.999, 1.0])
def test_oracle_drops_wrong_pixels_first(rate):
    wrong = round(1000 * rate)
    found = risk.oracle_aurc(rate)
    assert found == pytest.approx(float(risk.aurc([0, wrong], [1000 - wrong, wrong])), abs=1e-12)
    error = np.r_[np.zeros(1000 - wrong), np.ones(wrong)]
    assert found == pytest.approx(sorted_risks(error, error).mean(), abs=1e-3)


def test_ause_against_sorting(score, error):
    mine, best = sorted_risks(score, error), sorted_risks(error, error)
    wanted = (mine - best).mean() / error.mean()
    oracle = risk.aurc(*bins(error, error))
    assert risk.ause(*bins(score, error), oracle) == pytest.approx(wanted, abs=5e-3)
    assert risk.ause(*bins(error, error), oracle) == pytest.approx(0, abs=1e-12)
    assert risk.ause(*bins(-error, error), oracle) > risk.ause(*bins(score, error), oracle)


def test_sparsification_curve_against_sorting(score, error):
    dropped = np.array([0, 0.1, 0.25, 0.5, 0.9, 0.99])
    kept = np.rint((1 - dropped) * len(score)).astype(int)
    risks = sorted_risks(score, error)[kept - 1]
    errors, pixels = bins(score, error)
    np.testing.assert_allclose(risk.sparsification_curve(errors, pixels, dropped, normalise=False), risks, atol=1e-9)
    np.testing.assert_allclose(risk.sparsification_curve(errors, pixels, dropped), risks / error.mean(), atol=1e-9)


def test_sparsification_curve_through_ties(score, error):
    """Dropping a part of the pixels of one score drops their mean error."""
    tied = np.round(score)
    dropped = np.arange(100) / 100
    kept = np.rint((1 - dropped) * len(score)).astype(int)
    wanted = sorted_risks(tied, error, orders=200)[kept - 1]
    found = risk.sparsification_curve(*bins(tied, error), dropped, normalise=False)
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_risk_coverage_against_sorting(score, error):
    coverage, risks = risk.risk_coverage(*bins(score, error))
    np.testing.assert_allclose(coverage, np.arange(1, len(score) + 1) / len(score))
    np.testing.assert_allclose(risks, sorted_risks(score, error))


def test_empty_bins_change_nothing(score, error):
    errors, pixels = bins(np.round(score), error)
    at = np.repeat(np.arange(len(pixels)), 2)
    padded = np.insert(errors, at, 0), np.insert(pixels, at, 0)
    assert risk.aurc(*padded) == pytest.approx(float(risk.aurc(errors, pixels)), abs=1e-12)
    for found, wanted in zip(risk.risk_coverage(*padded), risk.risk_coverage(errors, pixels), strict=True):
        np.testing.assert_allclose(found, wanted)


def test_leading_axes_are_looped_over():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 9, (3, 4, 20))
    errors = pixels * random.random((3, 4, 20))
    for row in np.ndindex(3, 4):
        assert risk.aurc(errors, pixels)[row] == risk.aurc(errors[row], pixels[row])
        assert risk.ause(errors, pixels, 0.1)[row] == risk.ause(errors[row], pixels[row], 0.1)


def test_nothing_to_rank():
    none = np.zeros(5)
    assert np.isnan(risk.aurc(none, none))
    assert np.isnan(risk.ause(none, none, 0.0))
    assert np.isnan(risk.ause(none, none + 3, 0.0))  # no error to find
    assert risk.aurc(none, none + 3) == 0
    assert len(risk.risk_coverage(none, none)[0]) == 0
    assert np.isnan(risk.sparsification_curve(none, none, np.array([0, 0.5]))).all()
