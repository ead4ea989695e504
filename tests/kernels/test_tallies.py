"""Compiled loops over pixels against plain torch and numpy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("llvmlite")

from gradunc_viz.counts import frame as counts
from gradunc_viz.counts.cells import float_keys
from gradunc_viz.kernels import dispatch as kernels
from gradunc_viz.kernels import tallies
from gradunc_viz.kernels import torch_cpu as gradients_cpu
from gradunc_viz.kernels.llvm import norms as gradients_llvm
from gradunc_viz.kernels.llvm import tallies as tallies_llvm
from gradunc_viz.kernels.threads import in_threads
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.maps import ScoredImage

SIZES = (1, 15, 16, 1000)


@pytest.fixture(params=SIZES)
def values(request) -> torch.Tensor:
    rng = np.random.default_rng(request.param)
    found = np.float32(2.0) ** rng.integers(-140, 100, request.param) * rng.normal(size=request.param)
    found[rng.random(request.param) < 0.2] = -0.0
    return torch.from_numpy(found.astype("f4"))


def both(name: str, *arguments):
    """Result of a function of either module; tensors of whole numbers as the module wants them."""
    results = []
    for module in (tallies, tallies_llvm):
        own = [
            x.to(module.INDEX) if isinstance(x, torch.Tensor) and not x.is_floating_point() else x for x in arguments
        ]
        results.append(getattr(module, name)(*own))
    return results


def test_range_of_finite_numbers(values):
    expected, found = both("finite_range", values)
    assert found == expected
    values[::3], values[1::3] = torch.inf, -torch.inf
    expected, found = both("finite_range", values)
    assert found == expected
    assert both("finite_range", torch.full_like(values, -torch.inf)) == [None, None]
    assert both("finite_range", values[::2])[0] == both("finite_range", values[::2])[1]


@pytest.mark.parametrize("level", [-90, -64, -3, 0, 5])
def test_bins(level):
    step = 64 / 2.0**level
    values = torch.linspace(-7, 9, 1003) / step * 100
    values[::50], values[7::50] = torch.inf, -torch.inf
    expected, found = both("bin_numbers", values, step, -700, 1700)
    assert found.dtype == tallies_llvm.INDEX
    assert torch.equal(found.long(), expected)
    assert found.min() == 0
    assert found.max() == 1700


def test_counts_sums_and_extremes(values):
    rng = np.random.default_rng(1)
    row, number = (torch.from_numpy(rng.integers(0, k, len(values))) for k in (3, 7))
    weight = torch.from_numpy(rng.random(len(values)))
    for name, arguments in {
        "joint_counts": (row, number, 3, 7),
        "joint_sums": (row, number, weight, 3, 7),
        "extremes": (number, values, 8),
    }.items():
        expected, found = both(name, *arguments)
        np.testing.assert_array_equal(found, expected)
    assert both("joint_sums", row[:0], number[:0], weight[:0], 3, 7)[1].dtype == np.float64


@pytest.mark.parametrize("shift", [0, 5, 16])
def test_cells(values, shift):
    values = values if shift else values[:15]  # of many leading bits, and all of the others, there are too many
    expected, found = both("leading_counts", values)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.flatnonzero(found), np.unique((float_keys(values.numpy()) >> 16) + 2**15))
    rank = np.zeros(2**16, "i8")
    tops = np.flatnonzero(found)
    rank[tops] = np.arange(len(tops))
    row = torch.arange(len(values)) % 2
    expected, found = both("cell_counts", values, rank, shift, row, 2)
    assert found.sum() == len(values)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_columns_that_hold_pixels(rows, share):
    rng = np.random.default_rng(0)
    counts_of = (rng.integers(1, 9, (rows, 500)) * (rng.random((rows, 500)) < share)).astype("i4")
    for expected, found in zip(*both("occupied", counts_of), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_frame_is_counted_alike(monkeypatch, threads):
    """All counting variables of a frame, whichever module counts."""
    generator = torch.Generator().manual_seed(0)
    shape = (61, 83)
    names = ("pgn_oh_p0.5", "pgn_uni_p1", "msp", "entropy", "energy")
    entries = [lookup(name) for name in names]
    scores = torch.stack(
        [torch.rand(shape, generator=generator) * (0.9 if e.upper else 60) * e.orientation for e in entries]
    )
    maps = {name: torch.randint(0, 4, shape, generator=generator) for name in ("prediction", "label")}
    maps["label"][:5] = 255
    anomaly = torch.randint(0, 2, shape, generator=generator)
    errors = {name: torch.rand(shape, generator=generator) for name in ("confidence", "brier", "nll")}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = []
    try:
        for module in (tallies, tallies_llvm):
            chosen = kernels.Kernels(None, None, module)
            monkeypatch.setattr(kernels, "_kernels", lambda device, chosen=chosen: chosen)
            image = ScoredImage(maps["prediction"], scores, **errors)
            counted = counts.count_frame(image, entries, 4, label=maps["label"], anomaly=anomaly)
            found.append(counted.arrays)
    finally:
        torch.set_num_threads(before)
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        np.testing.assert_array_equal(found[1][name], expected, err_msg=name)
        assert np.asarray(found[1][name]).dtype == np.asarray(expected).dtype


def test_module_goes_with_the_kernels(monkeypatch):
    for module, expected in ((gradients_llvm, tallies_llvm), (gradients_cpu, tallies)):
        monkeypatch.setattr(kernels, "_for_cpu", lambda module=module: module)
        assert kernels._kernels.__wrapped__("cpu").tallies is expected
    assert kernels._kernels.__wrapped__("meta").tallies is tallies


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_errors_through(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert in_threads(lambda x: x * x, range(20)) == [x * x for x in range(20)]
        assert in_threads(lambda x: x, []) == []
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda x: 1 / x, [1, 0])
    finally:
        torch.set_num_threads(before)
