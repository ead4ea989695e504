"""Curves from counts per bin against scikit-learn on the pixels themselves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from gradunc_viz.counts.cell_sums import CellCounts, CellSum
from gradunc_viz.counts.frame import count_frame
from gradunc_viz.counts.histogram import Histogram, HistogramSum
from gradunc_viz.metrics.arrays import thresholds as curves
from gradunc_viz.schema.frame import MAX_BINS
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.maps import ScoredImage

DATA = Path(__file__).parents[2] / "data"
N = 120_000


def counted(values: np.ndarray, positive: np.ndarray, name: str) -> dict[str, np.ndarray]:
    shape = (1, values.size)
    return count_frame(
        ScoredImage(torch.zeros(shape, dtype=torch.long), torch.from_numpy(values.astype("f4").reshape(1, *shape))),
        [lookup(name)],
        2,
        anomaly=torch.from_numpy(positive.astype("i8").reshape(shape)),
    ).arrays


def binned(values: np.ndarray, positive: np.ndarray, name: str) -> Histogram:
    """Counts of (positive or negative, bins) as a frame keeps them by class."""
    arrays = counted(values, positive, name)
    counts = arrays["counts"].sum(1)[::-1, 0].astype("i8")  # anomaly, normal
    level, start = int(arrays["bin_level"][0]), int(arrays["bin_start"][0])
    return Histogram(start, level, {"counts": counts}, arrays["bin_min"][0], arrays["bin_max"][0])


def celled(values: np.ndarray, positive: np.ndarray, name: str) -> Histogram:
    """Counts of (positive or negative, cells) as a frame keeps them over all classes."""
    return cells(values, positive, name).histogram()


def cells(values: np.ndarray, positive: np.ndarray, name: str) -> CellCounts:
    arrays = counted(values, positive, name)
    counts = arrays["cell_counts"][::-1, 0].astype("i8")
    return CellCounts(arrays["cell"][0], int(arrays["cell_shift"][0]), counts, arrays["cell_single"][0] == 1)


def ours(histogram: Histogram) -> dict[str, float]:
    positive, negative = histogram.weights["counts"]
    return {
        "auroc": float(curves.auroc(positive, negative)),
        "auprc": float(curves.average_precision(positive, negative, histogram.tied)),
        "fpr95": float(curves.fpr_at_tpr(positive, negative, histogram.tied)),
        "f1": float(curves.best_f1(positive, negative, histogram.low)[0]),
    }


def exact(values: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    values = values.astype("f4").astype("f8")
    fpr, tpr, _ = sk.roc_curve(positive, values, drop_intermediate=False)
    precision, recall, _ = sk.precision_recall_curve(positive, values)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return {
        "auroc": sk.roc_auc_score(positive, values),
        "auprc": sk.average_precision_score(positive, values),
        "fpr95": float(fpr[(tpr >= 0.95).argmax()]),
        "f1": float(f1.max()),
    }


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def sample(n: int = N, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Normal scores, larger for the 15 % positives."""
    random = np.random.default_rng(seed)
    positive = random.random(n) < 0.15
    return random.normal(size=n) + 1.2 * positive, positive, random


SHAPES = {
    "uniform": ("msp", lambda z, r: sigmoid(z) ** 0.7),
    "logit-normal": ("msp", lambda z, r: sigmoid(2 * z - 4)),
    "confident": ("msp", lambda z, r: sigmoid(6 * z - 14)),
    "narrow": ("msp", lambda z, r: sigmoid(0.05 * z)),
    "close to 1": ("margin", lambda z, r: 1 - 1e-3 * sigmoid(-z)),
    "entropy": ("entropy", lambda z, r: np.log(2) * sigmoid(z - 1)),
    "entropy down to subnormal": ("entropy", lambda z, r: np.log(2) * sigmoid(z) ** 40),
    "norms around 66": ("pgn_oh_p0.1", lambda z, r: 66 + z),
    "norms close to 66": ("pgn_oh_p0.1", lambda z, r: 66 + 0.005 * z),
    "norms around -100": ("pgn_oh_p2", lambda z, r: -100 + 10 * z),
    "norms at the floor": ("pgn_oh_p2", lambda z, r: np.maximum(-149, -100 + 30 * z)),
    "falling norms at the floor": ("pgn_uni_p2", lambda z, r: np.minimum(149, 100 + 30 * z)),
    "bimodal": ("energy", lambda z, r: np.where(r.random(z.size) < 0.5, z - 50, z + 50)),
    "logits": ("max_logit", lambda z, r: 10 + 3 * z),
    "small logits": ("energy", lambda z, r: 1e-3 * z),
    "subnormal logits": ("energy", lambda z, r: 1e-40 * z),
    "±1e30": ("energy", lambda z, r: 2e29 * z),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_cells_against_sklearn(shape):
    name, transform = SHAPES[shape]
    z, positive, random = sample()
    values = transform(z, random)
    found, wanted = ours(celled(values, positive, name)), exact(values, positive)
    assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_against_sklearn(shape):
    name, transform = SHAPES[shape]
    z, positive, random = sample()
    values = transform(z, random)
    found, wanted = ours(binned(values, positive, name)), exact(values, positive)
    # FPR95 is read off one bin and the best F1 is a maximum: what they leave is the order of a bin's own few pixels,
    # some 1e-4 for 1e5 pixels, where the areas average it out
    limits = {"auroc": 3e-5, "auprc": 2e-4, "fpr95": 1e-3, "f1": 6e-4}
    assert {k for k in wanted if abs(found[k] - wanted[k]) > limits[k]} == set()


def test_a_few_huge_scores_leave_the_others_apart():
    z, positive, _ = sample()
    values = z - 20
    values[:3] = [1e30, -1e30, 1e20]
    assert ours(celled(values, positive, "energy")) == pytest.approx(exact(values, positive), abs=1e-4)


@pytest.mark.slow
def test_a_million_pixels_against_sklearn():
    z, positive, _ = sample(1_000_000)
    values = sigmoid(2 * z - 4)
    wanted = exact(values, positive)
    assert ours(binned(values, positive, "msp")) == pytest.approx(wanted, abs=1e-4)
    assert ours(celled(values, positive, "msp")) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_of_auroc_holds(shape):
    name, transform = SHAPES[shape]
    z, positive, random = sample(20_000, seed=1)
    values = transform(z, random)
    h = binned(values, positive, name)
    bound = float(curves.auroc_bound(*h.weights["counts"], h.tied))
    assert abs(ours(h)["auroc"] - exact(values, positive)["auroc"]) <= bound + 1e-12
    assert bound < 2e-3


def test_the_bound_of_auroc_is_reached():
    """All positives of a bin above all of its negatives."""
    one = np.array([5]), np.array([7])
    assert curves.auroc(*one) == 0.5
    assert curves.auroc_bound(*one, np.array([False])) == 0.5
    assert curves.auroc_bound(*one, np.array([True])) == 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("msp", np.linspace(0, 1, 10)),
        ("msp", np.r_[0, 1e-30, 1e-7, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1]),
        ("entropy", np.linspace(0, np.log(2), 10)),
        ("pgn_oh_p0.1", np.linspace(-149, 100, 10)),
        ("pgn_uni_p0.1", np.linspace(-100, 149, 10)),
        ("energy", np.linspace(-1e30, 1e30, 10)),
        ("energy", np.linspace(1, 10, 10) * 1e-40),
        ("max_logit", np.full(10, 7.0)),
        ("msp", np.zeros(10)),
        ("msp", np.ones(10)),
    ],
    ids=["tenths", "with 0 and 1", "entropy", "norms", "falling norms", "1e30", "subnormal", "equal", "all 0", "all 1"],
)
def test_ties_are_exact(name, values):
    random = np.random.default_rng(3)
    index = random.integers(0, 10, 5000)
    positive = random.random(5000) < 0.05 + 0.05 * index
    pixels = values[index]
    h = binned(pixels, positive, name)
    assert h.tied[~np.isnan(h.low)].all()
    for histogram in (h, celled(pixels, positive, name)):
        assert ours(histogram) == pytest.approx(exact(pixels, positive), abs=1e-12)


def test_many_pixels_at_the_ends_of_the_range():
    """Probability exactly 1 (score 0) and exactly 0 among continuous scores."""
    z, positive, random = sample()
    values = sigmoid(2 * z - 1)
    values[random.random(N) < 0.4] = 0
    values[random.random(N) < 0.1] = 1
    wanted = exact(values, positive)
    assert ours(celled(values, positive, "msp")) == pytest.approx(wanted, abs=1e-4)
    assert ours(binned(values, positive, "msp")) == pytest.approx(wanted, abs=2e-4)


def test_few_positives():
    random = np.random.default_rng(0)
    z, positive = random.normal(size=N), np.zeros(N, bool)
    positive[:50] = True
    z[:50] += 2
    wanted = exact(z, positive)
    assert ours(celled(z, positive, "energy")) == pytest.approx(wanted, abs=1e-4)
    found = ours(binned(z, positive, "energy"))
    assert found["auroc"] == pytest.approx(wanted["auroc"], abs=5e-4)
    # what is left is the order of a positive among the few negatives of its bin
    assert found["auprc"] == pytest.approx(wanted["auprc"], abs=5e-3)


@pytest.mark.parametrize("rate", [0, 1])
def test_one_class(rate):
    positive, negative = np.array([[0, 3, 2], [0, 0, 0]])[:: 1 if rate else -1]
    tied = np.zeros(3, bool)
    assert np.isnan(curves.auroc(positive, negative))
    assert np.isnan(curves.fpr_at_tpr(positive, negative, tied))
    area, (f1, threshold) = curves.average_precision(positive, negative, tied), curves.best_f1(positive, negative, tied)
    if rate:
        assert (area, f1) == (1, 1)
    else:
        assert np.isnan([area, f1, threshold]).all()


def test_no_pixel():
    none = np.zeros((2, 4))
    low = np.full(4, np.nan)
    found = [curves.auroc(*none), curves.average_precision(*none, low == low), curves.fpr_at_tpr(*none, low == low)]
    assert np.isnan([*found, *curves.best_f1(*none, low)]).all()


@pytest.mark.parametrize("tied", [False, True])
def test_leading_axes_are_looped_over(tied):
    counts = np.random.default_rng(0).integers(0, 5, (2, 3, 4, 9))
    bins = np.full(9, tied)
    low = np.arange(9.0)
    for row in np.ndindex(3, 4):
        p, n = counts[0][row], counts[1][row]
        assert curves.auroc(*counts)[row] == curves.auroc(p, n)
        assert curves.average_precision(*counts, bins)[row] == curves.average_precision(p, n, bins)
        assert curves.fpr_at_tpr(*counts, bins)[row] == curves.fpr_at_tpr(p, n, bins)
        assert [x[row] for x in curves.best_f1(*counts, low)] == list(curves.best_f1(p, n, low))


@pytest.mark.parametrize("p", [[1, 2, 0], [3, 1, 2], [0, 4, 1]])
def test_average_precision_is_the_mean_over_all_orders(p):
    """Of pixels inside their bins, for few of them exactly; AuROC as well."""
    n = [2, 1, 3]
    score = np.repeat([3, 2, 1], np.add(p, n))
    truths = []
    for orders in itertools.product(
        *(set(itertools.permutations([1] * i + [0] * j)) for i, j in zip(p, n, strict=True))
    ):
        truths.append(np.concatenate(orders))
    ranks = -np.arange(len(score))
    spread = np.zeros(3, bool)
    positive, negative = np.array(p[::-1]), np.array(n[::-1])
    mean = np.mean([sk.average_precision_score(truth, ranks) for truth in truths])
    assert curves.average_precision(positive, negative, spread) == pytest.approx(mean, abs=1e-12)
    mean = np.mean([sk.roc_auc_score(truth, ranks) for truth in truths])
    assert curves.auroc(positive, negative) == pytest.approx(mean, abs=1e-12)


HISTOGRAMS = pytest.mark.parametrize("histogram", [binned, celled])


@HISTOGRAMS
@pytest.mark.parametrize("shape", ["logit-normal", "close to 1", "entropy", "norms around 66", "logits"])
def test_threshold_of_the_best_f1_finds_these_pixels(shape, histogram):
    name, transform = SHAPES[shape]
    z, positive, random = sample()
    values = transform(z, random).astype("f4")
    h = histogram(values, positive, name)
    f1, threshold = curves.best_f1(*h.weights["counts"], h.low)
    assert sk.f1_score(positive, values >= threshold) == pytest.approx(float(f1), abs=1e-12)


@HISTOGRAMS
@pytest.mark.parametrize("values", [np.linspace(-3, 3, 12), None], ids=["ties", "continuous"])
def test_points_of_curves_are_points_of_sklearn(values, histogram):
    z, positive, random = sample(5000)
    pixels = (z if values is None else values[random.integers(0, 12, 5000)]).astype("f4").astype("f8")
    h = histogram(pixels, positive, "energy")
    fpr, tpr, threshold = curves.roc_curve(*h.weights["counts"], h.low)
    assert (fpr[0], tpr[0], threshold[0], fpr[-1], tpr[-1]) == (0, 0, np.inf, 1, 1)
    assert (np.diff(threshold) < 0).all()
    recall, precision, again = curves.pr_curve(*h.weights["counts"], h.low)
    np.testing.assert_array_equal(again, threshold[1:])
    for i in range(0, len(again), max(1, len(again) // 20)):
        called = pixels >= again[i]
        assert tpr[i + 1] == recall[i] == pytest.approx(called[positive].mean())
        assert fpr[i + 1] == pytest.approx(called[~positive].mean())
        assert precision[i] == pytest.approx(positive[called].mean())
    assert sk.auc(fpr, tpr) == pytest.approx(ours(h)["auroc"], abs=1e-12)


@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["spread", "both", "tied"])
def test_metrics_in_one_go_are_those_of_the_kernels(share):
    random = np.random.default_rng(0)
    counts = random.integers(0, 5, (2, 60))
    counts[:, 20:30] = 0
    tied, low = random.random(60) < share, np.arange(60.0)
    for p, n in (counts, counts * [[1], [0]], counts * [[0], [1]], np.zeros((2, 60), int)):
        f1, threshold = curves.best_f1(p, n, low)
        expected = {
            "auroc": curves.auroc(p, n),
            "auprc": curves.average_precision(p, n, tied),
            "fpr95": curves.fpr_at_tpr(p, n, tied),
            "f1": f1,
            "bin": threshold,
        }
        found = curves.all_metrics(p, n, tied)
        assert found == pytest.approx({k: float(v) for k, v in expected.items()}, abs=1e-14, nan_ok=True)


def test_narrow_frames_are_resolved_and_merge_with_wide_ones():
    z, positive, _ = sample()
    narrow, wide = 66 + 0.01 * z, 66 + 20 * z
    first, second = (binned(v, positive, "pgn_oh_p0.1") for v in (narrow, wide))
    assert first.level < 0 <= second.level
    both = HistogramSum()
    for h in (first, second):
        both.add(h)
    assert both.total is not None
    assert both.total.inner <= MAX_BINS
    wanted = exact(np.r_[narrow, wide], np.r_[positive, positive])
    # the narrow frame has two or three bins left: its own order is lost, and the bound says how much that matters
    bound = float(curves.auroc_bound(*both.total.weights["counts"], both.total.tied))
    assert abs(ours(both.total)["auroc"] - wanted["auroc"]) <= bound


def test_benchmark_maps_of_smiyc():
    maps, golden = np.load(DATA / "smiyc_maps.npz"), json.loads((DATA / "smiyc_metrics.json").read_text())
    coarse, fine = HistogramSum(), CellSum()
    for scores, labels in zip(maps["scores"], maps["labels"], strict=True):
        valid = labels != 255
        coarse.add(binned(scores[valid], labels[valid] == 1, "msp"))
        fine.add(cells(scores[valid], labels[valid] == 1, "msp"))
    assert coarse.total is not None
    assert fine.total is not None
    valid = maps["labels"] != 255
    wanted = exact(maps["scores"][valid], maps["labels"][valid] == 1)
    assert wanted["auprc"] == pytest.approx(golden["sklearn_pooled"]["average_precision"], abs=1e-9)
    assert wanted["auroc"] == pytest.approx(golden["sklearn_pooled"]["roc_auc"], abs=1e-9)
    assert ours(fine.total.histogram()) == pytest.approx(wanted, abs=1e-4)
    found = ours(coarse.total)
    assert found["auprc"] == pytest.approx(wanted["auprc"], abs=1e-4)
    assert found["auroc"] == pytest.approx(wanted["auroc"], abs=1e-4)
    # both are read off single bins of a score that is smooth in space, so that a bin's pixels are few and alike
    assert found["fpr95"] == pytest.approx(wanted["fpr95"], abs=2e-3)
    assert found["f1"] == pytest.approx(wanted["f1"], abs=5e-4)
