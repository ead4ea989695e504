"""Calibration and segmentation quality against direct computation and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from gradunc_viz.metrics.arrays import reliability as kernels
from gradunc_viz.metrics.segmentation import accuracy, iou
from gradunc_viz.schema.frame import CONFIDENCE_BINS


@pytest.fixture
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Confidence, some of it exactly 1 or on an edge, and whether the prediction is right."""
    random = np.random.default_rng(0)
    confidence = random.beta(4, 1, 4000)
    confidence[:50], confidence[50:80] = 1, 0.5
    return confidence, random.random(4000) < confidence**1.5


def counted(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    place = np.minimum((confidence * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    return tuple(np.bincount(place, w, CONFIDENCE_BINS) for w in (right, ~right, confidence))  # type: ignore[return-value]


def gaps(confidence: np.ndarray, right: np.ndarray, bins: int) -> list[tuple[float, float]]:
    """Share of pixels and |accuracy - confidence| of each bin [a, b), the last one closed."""
    found = []
    for b in range(bins):
        inside = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            found.append((inside.mean(), abs(right[inside].mean() - confidence[inside].mean())))
    return found


@pytest.mark.parametrize("bins", [1, 10, 15, 20, 100, 300])
def test_calibration_errors(pixels, bins):
    diagram = kernels.reliability(*counted(*pixels), bins)
    found = gaps(*pixels, bins)
    assert kernels.ece(*diagram) == pytest.approx(sum(share * gap for share, gap in found), abs=1e-12)
    assert kernels.mce(*diagram) == pytest.approx(max(gap for _, gap in found), abs=1e-12)


def test_certainty_is_in_the_last_bin():
    count, confidence, accuracy = kernels.reliability(*counted(np.ones(8), np.arange(8) < 6), 10)
    assert count.tolist() == [0] * 9 + [8]
    assert (confidence[-1], accuracy[-1]) == (1, 0.75)
    assert np.isnan(confidence[:-1]).all()
    assert np.isnan(accuracy[:-1]).all()


def test_nothing_to_calibrate():
    diagram = kernels.reliability(*np.zeros((3, 2, CONFIDENCE_BINS)))
    assert np.isnan(kernels.ece(*diagram)).all()
    assert np.isnan(kernels.mce(*diagram)).all()


@pytest.mark.parametrize("bins", [0, 7, 16, 301])
def test_bins_have_to_divide(bins):
    with pytest.raises(ValueError, match=rf"bins is {bins}; expected a divisor of the 300 cached bins: \[1, 2, 3"):
        kernels.rebin(np.zeros(CONFIDENCE_BINS), bins)


def test_segmentation_against_sklearn():
    random = np.random.default_rng(0)
    label = random.integers(0, 5, 3000)
    prediction = np.where(random.random(3000) < 0.6, label, random.integers(0, 5, 3000))
    matrix = sk.confusion_matrix(label, prediction, labels=range(7))
    found = iou(matrix)
    np.testing.assert_allclose(found[:5], sk.jaccard_score(label, prediction, average=None))
    assert np.isnan(found[5:]).all()
    assert accuracy(matrix) == pytest.approx(sk.accuracy_score(label, prediction))
    both = np.stack([matrix, 2 * matrix.T])
    np.testing.assert_allclose(iou(both), np.stack([found, found]))
    assert accuracy(both).shape == (2,)


def test_class_that_is_only_predicted_has_no_overlap():
    np.testing.assert_array_equal(iou(np.array([[3, 1], [0, 0]])), [0.75, 0])


def test_nothing_to_segment():
    assert np.isnan(accuracy(np.zeros((3, 3))))
