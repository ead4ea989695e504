"""Resizing in numpy against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradunc_viz.kernels.resize import bilinear, bilinear_log2
from gradunc_viz.schema.scores import LOG2_FLOOR
from gradunc_viz.scores.resizing import resize_log2_norms

SIZES = [
    ((4, 6), (16, 24)),
    ((7, 5), (20, 31)),
    ((9, 13), (5, 4)),
    ((6, 6), (6, 11)),
    ((3, 8), (1, 1)),
    ((1, 1), (4, 3)),
    ((1, 7), (5, 7)),
    ((33, 65), (257, 513)),
]


def torch_resize(values, size, align_corners):
    return torch.nn.functional.interpolate(
        torch.from_numpy(values), size, mode="bilinear", align_corners=align_corners
    ).numpy()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bilinear_equals_torch(source, target, align_corners):
    values = np.random.default_rng(0).standard_normal((2, 3, *source), "f4")
    found = bilinear(values, target, align_corners)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, torch_resize(values, target, align_corners), rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize(("low", "high"), [(-140, -90), (-5, 5), (60, 100), (-60, 40)])
def test_bilinear_log2_equals_torch(source, target, align_corners, low, high):
    values = np.random.default_rng(1).uniform(low, high, (3, *source)).astype("f4")
    found = bilinear_log2(values, target, LOG2_FLOOR, align_corners)
    expected = resize_log2_norms(torch.from_numpy(values), target, align_corners).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def test_each_map_keeps_its_own_range():
    values = np.random.default_rng(2).uniform(-1, 1, (2, 4, 4)).astype("f4")
    shifted = values + np.array([0, 120], "f4")[:, None, None]
    np.testing.assert_allclose(
        bilinear_log2(shifted, (8, 8), LOG2_FLOOR)[1], bilinear_log2(values, (8, 8), LOG2_FLOOR)[1] + 120, atol=1e-4
    )


@pytest.mark.parametrize("value", [LOG2_FLOOR, -3.25, 0.0, 90.0])
def test_constant_map_stays_constant(value):
    found = bilinear_log2(np.full((1, 5, 7), value, "f4"), (13, 30), LOG2_FLOOR)
    np.testing.assert_allclose(found, value, rtol=0, atol=1e-5)


def test_vanishing_norm_far_from_others_is_floored():
    values = np.full((1, 1, 9), LOG2_FLOOR, "f4")
    values[..., 0] = 10
    found = bilinear_log2(values, (2, 18), LOG2_FLOOR)
    assert np.isfinite(found).all()
    assert (found[..., 6:] == np.float32(LOG2_FLOOR)).all()


@pytest.mark.parametrize("dtype", ["f2", "f8", "u1"])
def test_any_dtype_comes_back_as_float32(dtype):
    assert bilinear(np.ones((2, 3), dtype), (2, 3)).dtype == np.float32
    assert bilinear(np.ones((2, 3), dtype), (4, 3)).dtype == np.float32


def test_input_stays_untouched():
    values = np.arange(6, dtype="f4").reshape(2, 3)
    bilinear_log2(values, (4, 6), LOG2_FLOOR)
    np.testing.assert_array_equal(values, np.arange(6).reshape(2, 3))
