"""Counts of a frame against numpy, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradunc_viz.counts.cells import float_keys
from gradunc_viz.counts.frame import count_frame
from gradunc_viz.counts.lattice import lattice_axis
from gradunc_viz.kernels import dispatch as kernels
from gradunc_viz.kernels import tallies
from gradunc_viz.schema.frame import (
    BINS_PER_UNIT,
    BRIER_BINS,
    CONFIDENCE_BINS,
    MAX_BINS,
    POOLED_OUTCOMES,
    QUANTILES,
    VARIABLES,
)
from gradunc_viz.schema.scores import LOG2_FLOOR, lookup
from gradunc_viz.scores.maps import ScoredImage

N_CLASSES = 4
SHAPE = (13, 17)


@pytest.fixture(params=["torch", "compiled"], autouse=True)
def tally(request, monkeypatch):
    """Whichever module counts."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_kernels", lambda device: kernels.Kernels(None, None, tallies))
    elif kernels.kernels_on("cpu").tallies is tallies:
        pytest.skip("no compiled kernels: llvmlite is missing, or not wanted")


def rng():
    return np.random.default_rng(0)


def label_map(low=0, high=N_CLASSES, ignored=0.2):
    generator = rng()
    values = generator.integers(low, high, SHAPE)
    values[generator.random(SHAPE) < ignored] = 255
    return values


SCORES = {
    "pgn_oh_p0.5": rng().normal(5, 10, SHAPE),
    "pgn_uni_p1": -rng().normal(-3, 2, SHAPE),
    "msp": rng().beta(0.3, 2, SHAPE) * 0.75,
    "entropy": rng().random(SHAPE) * np.log(N_CLASSES),
    "energy": rng().normal(-20, 8, SHAPE),
    "max_logit": -rng().normal(12, 5, SHAPE),
}


def count(scores=SCORES, label=None, anomaly=None, **errors):
    generator = rng()
    prediction = generator.integers(0, N_CLASSES, SHAPE)
    oriented = torch.from_numpy(np.stack(list(scores.values())).astype("f4"))
    errors = {name: torch.from_numpy(values) for name, values in errors.items()}
    counted = count_frame(
        ScoredImage(torch.from_numpy(prediction), oriented, **errors),
        [lookup(name) for name in scores],
        N_CLASSES,
        label=None if label is None else torch.from_numpy(label),
        anomaly=None if anomaly is None else torch.from_numpy(anomaly),
    )
    return counted, prediction


def bin_edges(arrays, s):
    """Lower edges of the inner bins of score s on its axis, and the upper edge of the last."""
    width = arrays["bin_min"].shape[1]
    return (arrays["bin_start"][s] + np.arange(width - 1)) * 2.0 ** arrays["bin_level"][s] / BINS_PER_UNIT


def expected_bins(arrays, scores, s):
    """Bin of every pixel by searching the edges."""
    name = list(scores)[s]
    axis = lattice_axis(torch.tensor(scores[name].astype("f4")), lookup(name), N_CLASSES).numpy().astype("f8")
    width = arrays["bin_min"].shape[1]
    found = np.searchsorted(bin_edges(arrays, s), axis, side="right")
    return np.where(np.isposinf(axis), width - 1, np.where(np.isneginf(axis), 0, found))


def assert_bins_hold_their_pixels(arrays, scores):
    for s, values in enumerate(scores.values()):
        values = values.astype("f4")
        place = expected_bins(arrays, scores, s)
        low, high = arrays["bin_min"][s], arrays["bin_max"][s]
        assert (low[place] <= values).all()
        assert (values <= high[place]).all()
        used = np.zeros(len(low), bool)
        used[place.ravel()] = True
        assert (np.isnan(low) == ~used).all()
        assert (np.isnan(high) == ~used).all()
        order = np.flatnonzero(used)
        assert (high[order[:-1]] < low[order[1:]]).all()
        assert set(low[used]) | set(high[used]) <= set(values.ravel())


def test_counts_equal_brute_force():
    label, anomaly = label_map(), label_map(0, 2)
    counted, prediction = count(label=label, anomaly=anomaly)
    arrays = counted.arrays
    assert counted.outcomes == ("right", "wrong", "missed", "normal", "anomaly")
    assert_bins_hold_their_pixels(arrays, SCORES)
    known, wrong = label != 255, (label != 255) & (label != prediction)
    rows = {
        "right": (known & ~wrong, prediction),
        "wrong": (wrong, prediction),
        "missed": (wrong, label),
        "normal": (anomaly == 0, prediction),
        "anomaly": (anomaly == 1, prediction),
    }
    width = arrays["bin_min"].shape[1]
    for s in range(len(SCORES)):
        place = expected_bins(arrays, SCORES, s)
        for o, (pixels, classes) in enumerate(rows.values()):
            expected = np.zeros((N_CLASSES, width), int)
            np.add.at(expected, (classes[pixels], place[pixels]), 1)
            np.testing.assert_array_equal(arrays["counts"][o, :, s], expected)
    assert arrays["anomaly_count"] == (anomaly == 1).sum()
    assert arrays["known_count"] == (anomaly == 0).sum()


def test_errors_and_confidence_equal_brute_force():
    label = label_map()
    generator = rng()
    confidence, brier, nll = (generator.random(SHAPE).astype("f4") * top for top in (1, 2, 9))
    confidence[0, :3], brier[0, :2] = 1, [2, 0]
    label[0, :3] = [0, 1, 2]
    counted, prediction = count(label=label, confidence=torch.from_numpy(confidence).numpy(), brier=brier, nll=nll)
    arrays, known = counted.arrays, label != 255
    confusion = np.zeros((N_CLASSES, N_CLASSES), int)
    np.add.at(confusion, (label[known], prediction[known]), 1)
    np.testing.assert_array_equal(arrays["confusion"], confusion)
    right = (label == prediction)[known]

    value = confidence[known].astype("f8")
    place = np.minimum((value * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    expected = np.zeros((2, N_CLASSES, CONFIDENCE_BINS))
    np.add.at(expected, ((~right).astype(int), prediction[known], place), 1)
    np.testing.assert_array_equal(arrays["confidence_count"], expected)
    expected = np.zeros((N_CLASSES, CONFIDENCE_BINS))
    np.add.at(expected, (prediction[known], place), value)
    np.testing.assert_allclose(arrays["confidence_sum"], expected, rtol=1e-12)

    value = brier[known].astype("f8")
    place = np.minimum((value * BRIER_BINS / 2).astype(int), BRIER_BINS - 1)
    expected = np.zeros((2, N_CLASSES, BRIER_BINS))
    np.add.at(expected[0], (prediction[known], place), 1)
    np.add.at(expected[1], (prediction[known], place), value)
    np.testing.assert_array_equal(arrays["brier_count"], expected[0])
    np.testing.assert_allclose(arrays["brier_bin_sum"], expected[1], rtol=1e-12)
    for s in range(len(SCORES)):
        expected = np.zeros((N_CLASSES, arrays["bin_min"].shape[1]))
        np.add.at(expected, (prediction[known], expected_bins(arrays, SCORES, s)[known]), value)
        np.testing.assert_allclose(arrays["brier_sum"][:, s], expected, rtol=1e-6)

    expected = np.bincount(label[known], nll[known].astype("f8"), N_CLASSES)
    np.testing.assert_allclose(arrays["nll_sum"], expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_mean_and_quantiles_are_those_of_all_pixels(name):
    values = SCORES[name].astype("f4")
    arrays = count({name: values}, label=np.full(SHAPE, 255))[0].arrays
    assert arrays["score_mean"][0] == pytest.approx(values.astype("f8").mean(), rel=1e-12)
    for q, found in zip(QUANTILES, arrays["score_quantile"][:, 0], strict=True):
        lower, upper = (np.quantile(values, q, method=method) for method in ("lower", "higher"))
        slack = 1e-5 * abs(upper)
        assert lower - slack <= found <= upper + slack


@pytest.mark.parametrize("values", [[3.0, 7.0], [1.0, 1.0, 5.0], [-2.0], [0.0, 10.0, 20.0, 30.0]])
def test_quantiles_of_few_separate_values_are_exact(values):
    scores = torch.tensor(values)[None, None]
    prediction = torch.zeros(1, len(values), dtype=torch.long)
    arrays = count_frame(ScoredImage(prediction, scores), [lookup("energy")], 2).arrays
    np.testing.assert_allclose(arrays["score_quantile"][:, 0], np.quantile(values, QUANTILES), rtol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# which annotations there are


@pytest.mark.parametrize(
    ("label", "anomaly", "outcomes"),
    [
        (False, False, ()),
        (True, False, ("right", "wrong", "missed")),
        (False, True, ("normal", "anomaly")),
        (True, True, ("right", "wrong", "missed", "normal", "anomaly")),
    ],
)
def test_rows_follow_the_annotations(label, anomaly, outcomes):
    brier = rng().random(SHAPE) if label else None
    counted, _ = count(
        label=label_map() if label else None,
        anomaly=label_map(0, 2) if anomaly else None,
        **({} if brier is None else {"brier": brier}),
    )
    assert counted.outcomes == outcomes
    assert ("counts" in counted.arrays) == bool(outcomes)
    assert ("confusion" in counted.arrays) == ("brier_sum" in counted.arrays) == label
    assert ("anomaly_count" in counted.arrays) == anomaly
    for name, array in counted.arrays.items():
        assert np.asarray(array).ndim == len(VARIABLES[name].dims)
        assert np.asarray(array).dtype.kind in VARIABLES[name].kinds


def test_ignored_frame_counts_nothing():
    ignored, zeros = np.full(SHAPE, 255), np.zeros(SHAPE)
    arrays = count(label=ignored, anomaly=ignored, confidence=zeros, brier=zeros, nll=zeros)[0].arrays
    for name in ("counts", "confusion", "confidence_count", "brier_count", "brier_sum", "nll_sum", "anomaly_count"):
        assert np.sum(arrays[name]) == 0
    assert_bins_hold_their_pixels(arrays, SCORES)


# --------------------------------------------------------------------------------------------------------------------
# values at the edge


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("msp", 0.0, 1.0),
        ("margin", 0.0, 1.0),
        ("entropy", 0.0, np.log(N_CLASSES)),
        ("pgn_oh_p1", LOG2_FLOOR, None),
        ("pgn_uni_p1", None, -LOG2_FLOOR),
    ],
)
def test_ends_of_the_range_have_bins_of_their_own(name, lowest, highest):
    values = SCORES[name].copy() if name in SCORES else rng().uniform(0.1, 0.9, SHAPE)
    for row, end in enumerate((lowest, highest)):
        if end is not None:
            values[row] = end
    arrays = count({name: values}, anomaly=np.zeros(SHAPE, int))[0].arrays
    counts = arrays["counts"].sum((0, 1))[0]
    for place, end in ((0, lowest), (-1, highest)):
        assert counts[place] == (0 if end is None else SHAPE[1])
        if end is not None:
            assert arrays["bin_min"][0, place] == arrays["bin_max"][0, place] == np.float32(end)
    assert counts.sum() == values.size
    assert_bins_hold_their_pixels(arrays, {name: values})


@pytest.mark.parametrize(
    "values",
    [
        rng().uniform(-100, 100, SHAPE),
        rng().uniform(-1, 1, SHAPE) * 1e30,
        rng().choice([-1e30, 1e30], SHAPE),
        rng().choice([-1e30, 0.0, 1.0], SHAPE),
        rng().uniform(1e6, 1e6 + 3, SHAPE),
        rng().choice([1e-40, 3e-42, 1e-45], SHAPE),
        rng().choice([1e-40, 1e30], SHAPE),
        np.full(SHAPE, 7.25),
        np.full(SHAPE, 0.0),
        np.full(SHAPE, -1e30),
    ],
    ids=["wide", "1e30", "±1e30", "mixed", "far from zero", "subnormal", "subnormal to 1e30", "7.25", "0", "-1e30"],
)
def test_window_fits_any_values(values):
    arrays = count({"energy": values, "msp": SCORES["msp"]}, anomaly=np.zeros(SHAPE, int))[0].arrays
    counts = arrays["counts"].sum((0, 1))
    assert counts.shape[1] <= MAX_BINS
    assert (counts.sum(1) == values.size).all()
    assert_bins_hold_their_pixels(arrays, {"energy": values, "msp": SCORES["msp"]})
    assert arrays["bin_level"][1] == 0


@pytest.mark.parametrize(("width", "level"), [(63.9, 0), (64.1, 1), (127.8, 1), (128.1, 2), (1000, 4)])
def test_wide_windows_raise_the_level_just_enough(width, level):
    arrays = count({"energy": np.linspace(0, width, np.prod(SHAPE)).reshape(SHAPE)})[0].arrays
    assert arrays["bin_level"][0] == level
    assert arrays["bin_min"].shape[1] <= MAX_BINS


def test_finer_bins_unite_to_coarser_ones():
    """Bin b of a level is in bin b // 2 of the next, so frames of different levels add up."""
    fine = np.concatenate([SCORES["energy"][:-1], np.zeros((1, SHAPE[1]))])
    coarse = fine.copy()
    coarse[-1] = 1000
    a, b = (count({"energy": values}, anomaly=np.zeros(SHAPE, int))[0].arrays for values in (fine, coarse))
    factor = 2 ** (b["bin_level"][0] - a["bin_level"][0])
    assert factor > 1
    shared = slice(None, -1)
    place = {}
    for key, arrays, values in (("a", a, fine), ("b", b, coarse)):
        place[key] = expected_bins(arrays, {"energy": values}, 0)[shared] - 1 + arrays["bin_start"][0]
    np.testing.assert_array_equal(place["a"] // factor, place["b"])


def test_bins_of_two_frames_lie_on_one_lattice():
    a, b = (count({"energy": SCORES["energy"] + shift})[0].arrays for shift in (0, 0.5))
    assert b["bin_start"][0] - a["bin_start"][0] == BINS_PER_UNIT // 2


# --------------------------------------------------------------------------------------------------------------------
# cells of float32 numbers


@pytest.mark.parametrize("outcomes", [("right", "wrong"), ("normal", "anomaly"), POOLED_OUTCOMES])
def test_cell_counts_equal_brute_force(outcomes):
    label = label_map() if "right" in outcomes else None
    anomaly = label_map(0, 2) if "normal" in outcomes else None
    counted, prediction = count(label=label, anomaly=anomaly)
    arrays = counted.arrays
    pixels = {
        "right": label is not None and (label != 255) & (label == prediction),
        "wrong": label is not None and (label != 255) & (label != prediction),
        "normal": anomaly is not None and anomaly == 0,
        "anomaly": anomaly is not None and anomaly == 1,
    }
    assert arrays["cell_counts"].shape == (len(outcomes), len(SCORES), arrays["cell"].shape[1])
    for s, values in enumerate(SCORES.values()):
        numbers, shift = arrays["cell"][s], int(arrays["cell_shift"][s])
        size = np.unique(numbers).size
        assert (np.diff(numbers[:size]) > 0).all()
        assert (numbers[size:] == numbers[-1]).all()
        keys = float_keys(values) >> shift
        np.testing.assert_array_equal(np.unique(keys), numbers[:size])
        for row, name in enumerate(outcomes):
            expected = [(keys[pixels[name]] == number).sum() for number in numbers[:size]]
            np.testing.assert_array_equal(arrays["cell_counts"][row, s, :size], expected)
            assert not arrays["cell_counts"][row, s, size:].any()


def test_cells_are_united_until_few_are_left(monkeypatch):
    whole = count({"energy": SCORES["energy"]}, anomaly=np.zeros(SHAPE, int))[0].arrays
    monkeypatch.setattr("gradunc_viz.counts.frame.MAX_CELLS", 50)
    few = count({"energy": SCORES["energy"]}, anomaly=np.zeros(SHAPE, int))[0].arrays
    by = int(few["cell_shift"][0] - whole["cell_shift"][0])
    assert 25 <= few["cell"].shape[1] <= 50 < whole["cell"].shape[1]
    numbers, place, children = np.unique(whole["cell"][0] >> by, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(few["cell"][0], numbers)
    np.testing.assert_array_equal(few["cell_counts"][0, 0], np.bincount(place, whole["cell_counts"][0, 0]))
    np.testing.assert_array_equal(few["cell_single"][0] == 1, children == 1)
    assert whole["cell_single"].all()


@pytest.mark.parametrize("few", [[1e30], [-1e30, 1e30], [1e-40, 1e30, -1e-40]])
def test_numbers_far_away_cost_no_resolution(few):
    values = SCORES["energy"].copy()
    near = count({"energy": values}, anomaly=np.zeros(SHAPE, int))[0].arrays
    values[0, : len(few)] = few
    far = count({"energy": values}, anomaly=np.zeros(SHAPE, int))[0].arrays
    assert far["cell_shift"][0] <= near["cell_shift"][0] + 1
