"""Windows cover an image, count as much as they are said to, and are merged into what the whole would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyNet

from gradunc_viz.networks import tiled
from gradunc_viz.networks.network import Network
from gradunc_viz.networks.preprocessing import Preprocessing
from gradunc_viz.networks.tiled import LARGE, Axis, Grid, Mosaic, TiledImage, TiledInference
from gradunc_viz.run.settings import Settings
from gradunc_viz.schema.errors import FrameError, ModelError, SettingsError
from gradunc_viz.schema.scores import LOG2_FLOOR


@st.composite
def axes(draw) -> Axis:
    size = draw(st.integers(2, 40))
    return Axis.covered(draw(st.integers(size, 200)), size, draw(st.integers(1, size - 1)))


def overlaps(axis: Axis) -> list[int]:
    return [start + axis.size - after for start, after in zip(axis.starts, axis.starts[1:], strict=False)]


@settings(deadline=None)
@given(axes(), st.data())
def test_windows_cover_the_axis_and_their_weights_add_up_to_one(axis, data):
    total = np.zeros(axis.length)
    for start, weights in zip(axis.starts, axis.weights, strict=True):
        assert 0 <= start <= axis.length - axis.size
        total[start : start + axis.size] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert axis.starts[0] == 0
    assert axis.starts[-1] == axis.length - axis.size
    # as few as can be: one fewer could not overlap as much
    asked = data.draw(st.integers(1, axis.size - 1))
    other = Axis.covered(axis.length, axis.size, asked)
    assert all(shared >= asked for shared in overlaps(other))
    step = data.draw(st.integers(1, axis.size - asked))
    stepped = Axis.covered(axis.length, axis.size, asked, step)
    assert all(start % step == 0 for start in stepped.starts)
    assert all(shared >= asked for shared in overlaps(stepped))
    assert 0 <= stepped.starts[-1] + axis.size - axis.length < step
    assert len(stepped.starts) == 1 + -(-max(0, axis.length - axis.size) // ((axis.size - asked) // step * step))
    count = len(other.starts)
    assert count == 1 or axis.length > axis.size + (count - 2) * (axis.size - asked)


@pytest.mark.parametrize("overlap", [8, 16, 9])
def test_a_quarter_of_the_overlap_counts_nothing_at_inner_edges(overlap):
    axis = Axis.covered(90, 32, overlap)
    first, *_, last = axis.weights
    margin = overlap // 4
    assert (first[-margin:] == 0).all()
    assert (last[:margin] == 0).all()
    assert (first[:4] == 1).all()
    assert (last[-4:] == 1).all()
    assert first[32 - overlap // 2 - 1] > first[32 - overlap // 2 + 1] > 0


def test_weights_where_two_windows_overlap_as_asked():
    axis = Axis.covered(12, 8, 4)
    np.testing.assert_allclose(axis.weights[0], [1, 1, 1, 1, 1, 0.75, 0.25, 0])
    np.testing.assert_allclose(axis.weights[1], [0, 0.25, 0.75, 1, 1, 1, 1, 1])
    assert axis.complete(1) == 5
    assert axis.complete(2) == 12


@pytest.mark.parametrize(
    ("down", "across"),
    [
        ((43, 24, 6, 8), (50, 32, 8, 16)),
        ((20, 32, 1, 16), (50, 32, 8)),
        ((40, 40, 1), (41, 12, 3)),
        ((57, 20, 19), (64, 32, 8)),
        ((33, 2, 1), (17, 16, 8)),
        ((90, 31, 17), (50, 7, 4)),
    ],
)
def test_parts_of_maps_make_the_maps(down, across):
    down, across, seed = Axis.covered(*down), Axis.covered(*across), 0
    whole = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, down.length, across.length)).astype("f4"))
    whole[3] *= 100
    mosaic = Mosaic(Grid(down, across, (1, 1)), [False, False, True, True], torch.device("cpu"))
    rows = [
        block
        for row, top in enumerate(down.starts)
        for block in mosaic.put(
            row, [whole[:, top : top + down.size, left : left + across.size] for left in across.starts]
        )
    ]
    torch.testing.assert_close(torch.cat(rows, 1), whole.clamp_min(LOG2_FLOOR), rtol=1e-5, atol=1e-5)


def test_logits_are_averaged_and_norms_as_norms():
    down, across = Axis.covered(2, 2, 1), Axis.covered(3, 2, 1)
    mosaic = Mosaic(Grid(down, across, (1, 1)), [False, True], torch.device("cpu"))
    left, right = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    right[0], right[1] = 4.0, 4.0
    (rows,) = mosaic.put(0, [left, right])
    np.testing.assert_allclose(rows[0, 0], [0, 2, 4])
    mosaic = Mosaic(Grid(down, across, (1, 1)), [True], torch.device("cpu"))
    (rows,) = mosaic.put(0, [left[1:], right[1:]])
    np.testing.assert_allclose(rows[0, 0], [0, np.log2((1 + 16) / 2), 4], rtol=1e-6)
    mosaic = Mosaic(Grid(down, across, (1, 1)), [True], torch.device("cpu"))
    none = torch.full((1, 2, 2), LOG2_FLOOR)
    np.testing.assert_allclose(next(mosaic.put(0, [none, none])), LOG2_FLOOR)


def test_rows_of_windows_are_held_no_longer_than_needed(monkeypatch):
    monkeypatch.setattr(tiled, "_BLOCK", 90)
    down, across = Axis.covered(400, 20, 6), Axis.covered(30, 20, 6)
    mosaic = Mosaic(Grid(down, across, (1, 1)), [False], torch.device("cpu"))
    done = 0
    for row, top in enumerate(down.starts):
        blocks = [block.shape[1] for block in mosaic.put(row, [torch.zeros(1, 20, 20)] * len(across.starts))]
        done += sum(blocks)
        assert max(blocks) == 3
        assert done >= top + 20 - 6 or row == len(down.starts) - 1
    assert done == 400


# ----------------------------------------------------------------------------------------------------------------------
# what an image is shown as


def runner(tile, overlap=0.25, size=None, input_size=None) -> TiledInference:
    network = Network(TinyNet().eval(), preprocessing=Preprocessing(size=size))
    return TiledInference(network, torch.device("cpu"), input_size=input_size, tile=tile, overlap=overlap)


def blank(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), "u1")


@pytest.mark.parametrize(
    ("image", "options", "window"),
    [
        ((64, 64), {}, None),
        ((3000, 2700), {}, None),
        ((3000, 2800), {}, (1024, 1024)),
        ((300, 30000), {}, (320, 1024)),
        ((20, 500000), {}, (32, 1024)),
        ((400, 30000), {"size": (512, 512)}, (416, 512)),
        ((30000, 490), {"size": (500, 500)}, (500, 500)),
        ((3000, 2800), {"size": (512, 768)}, (512, 768)),
        ((3000, 2800), {"size": (512, 768), "input_size": (64, 64)}, None),
        ((3000, 2800), {"size": (4000, 500)}, (3008, 500)),
        ((3000, 2800), {"size": (4000, 2800)}, None),
        ((64, 64), {"input_size": (3000, 2800)}, (1024, 1024)),
    ],
)
def test_windows_that_nobody_gave_a_size(image, options, window):
    found = runner("auto", **options).prepare(blank(*image), "f")
    assert (found.window if isinstance(found, TiledImage) else None) == window
    assert image[0] * image[1] <= LARGE or window is not None or options


def test_images_keep_their_size_where_windows_have_one():
    own = runner((32, 32), size=(16, 16)).prepare(blank(48, 64), "f")
    assert own.image.shape == (48, 64, 3)
    assert own.overlap == (8, 8)
    resized = runner((32, 32), size=(16, 16), input_size=(40, 40), overlap=5).prepare(blank(48, 64), "f")
    assert resized.image.shape == (40, 40, 3)
    assert resized.overlap == (5, 5)
    assert resized.at(0, 8).shape == (1, 3, 32, 32)
    whole = runner((48, 64), size=(16, 16)).prepare(blank(48, 64), "f")
    assert whole.shape == (1, 3, 48, 64)


def test_beyond_the_image_its_last_row_and_column_are_repeated():
    image = np.random.default_rng(0).integers(0, 256, (33, 35, 3), "u1")
    shown = runner((32, 32)).prepare(image, "f")
    grid = shown.grid((8, 8))
    assert grid.size == (9, 9)
    assert grid.stride == (4, 4)
    x = shown.at(4, 4)[0].permute(1, 2, 0) * 255
    np.testing.assert_allclose(x[:29, :31].numpy(), image[4:, 4:], atol=1e-3)
    np.testing.assert_allclose(x[31, :31].numpy(), image[32, 4:], atol=1e-3)
    np.testing.assert_allclose(x[:29, 31].numpy(), image[4:, 34], atol=1e-3)


@pytest.mark.parametrize(
    ("size", "overlap", "stride", "step"),
    [
        (512, 128, 4, 32),
        (64, 16, 1, 32),
        (64, 40, 1, 16),
        (1152, 288, 3, 96),
        (518, 130, 14, 56),  # a longer one would repeat too much of the image
        (66, 40, 33, 33),
        (128, 1, 64, 64),
    ],
)
def test_windows_begin_where_the_strides_of_a_network_do(size, overlap, stride, step):
    assert tiled._step(stride, size, overlap) == step


def test_images_seen_at_two_scales_are_told(monkeypatch):
    monkeypatch.setattr(tiled, "LARGE", 64 * 64)
    network = runner("auto", size=(32, 32))
    for size in ((32, 32), (80, 64), (32, 32)):
        network.prepare(blank(*size), "f")
    with pytest.warns(UserWarning, match="beyond 4096 pixels are seen in windows.* resized to 32x32"):
        network.prepare(blank(64, 64), "f")
    network.prepare(blank(64, 64), "f")  # told once
    asked = runner("auto", size=(32, 32), input_size=(80, 64))
    for size in ((64, 64), (80, 64)):
        assert isinstance(asked.prepare(blank(*size), "f"), TiledImage)


@pytest.mark.parametrize(
    ("tile", "overlap", "words"),
    [
        ("all", 0.25, ("tile is 'all'", "'auto'")),
        ((0, 5), 0.25, ("tile is (0, 5)",)),
        ((5, 5, 5), 0.25, ("tile is (5, 5, 5)",)),
        ((True, 5), 0.25, ("tile is",)),
        ((32, 32), 0, ("overlap is 0", "between 0 and 1")),
        ((32, 32), 1.5, ("overlap is 1.5",)),
        ((32, 32), -3, ("overlap is -3",)),
        ((32, 32), float("nan"), ("overlap is nan",)),
        ((32, 32), "much", ("overlap is 'much'",)),
        ((64, 32), 32, ("overlap is 32 pixels", "64x32", "fewer than 32")),
    ],
)
def test_what_is_no_window(tile, overlap, words):
    with pytest.raises(SettingsError) as caught:
        Settings(tile=tile, overlap=overlap)
    assert all(word in str(caught.value) for word in words)


def test_windows_larger_than_the_image_are_told():
    with pytest.raises(FrameError, match=r"frame 'f': windows of 100x32 .* 64x64, too high; choose a smaller --tile"):
        runner((100, 32)).prepare(blank(64, 64), "f")
    with pytest.raises(FrameError, match="overlap is 1300 pixels, and windows are 320x1024"):
        runner("auto", overlap=1300).prepare(blank(300, 30000), "f")
    assert runner("auto", overlap=400).prepare(blank(300, 30000), "f").overlap == (1, 400)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ((5, 8), r"32 / 5 is no whole number.* another --tile, such as 30 pixels"),
        ((64, 64), r"32 / 64 is no whole number.*, such as 64 pixels"),
        ((13, 13), r"32 / 13 is no whole number.*, such as 26 pixels"),
        ((2, 2), "an overlap of 20 pixels leaves nothing of a window's height of 32.* 16 or fewer"),
    ],
)
def test_logits_that_do_not_fit_together_are_told(cells, words):
    with pytest.raises(ModelError, match=words):
        runner((32, 32), overlap=20).prepare(blank(64, 64), "f").grid(cells)
