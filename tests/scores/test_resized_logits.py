"""Resizing and scoring in tiles gives what resizing first and scoring then does."""

from __future__ import annotations

import pytest
import torch

from gradunc_viz.kernels import dispatch, tallies
from gradunc_viz.scores import resized_logits
from gradunc_viz.scores.pixelwise import pixel_scores
from gradunc_viz.scores.resized_logits import resized_pixel_scores
from gradunc_viz.scores.resizing import resize_logits

NAMES = (
    *("entropy", "msp", "margin", "energy", "max_logit", "gini", "variation_ratio", "gen", "kl_uniform"),
    *("entropy_T1.5", "msp_T1000", "energy_T0.5", "gen_g0.3_m4"),
)


@pytest.fixture(params=["torch", "compiled"], autouse=True)
def way(request, monkeypatch):
    """Tiles in torch, or kernels that resize what they read."""
    if request.param == "torch":
        monkeypatch.setattr(dispatch, "_kernels", lambda device: dispatch.Kernels(None, None, tallies))
    elif dispatch.kernels_on("cpu").resizing is None:
        pytest.skip("no compiled kernels: llvmlite is missing, or not wanted")


def logits_of(shape, scale=6.0, dtype=torch.float32):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)


def labels_of(n, size, classes):
    label = torch.randint(0, classes, (n, *size), generator=torch.Generator().manual_seed(1))
    label[:, ::3, ::2] = 255
    return label


@pytest.mark.parametrize("tile", [1, 1000, 1 << 19])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 13), (36, 52), (17, 13), (9, 40), (5, 7)])
def test_equals_the_plain_formulation(monkeypatch, size, align_corners, tile):
    monkeypatch.setattr(resized_logits, "_TILE", tile)
    logits, label = logits_of((2, 7, 9, 13)), labels_of(2, size, 7)
    expected = pixel_scores(resize_logits(logits, size, align_corners), NAMES, label)
    found = resized_pixel_scores(logits, size, NAMES, label, align_corners)
    assert (found.prediction == expected.prediction).all()
    for name in ("scores", "probability_error", "nll"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(dtype):
    logits = logits_of((1, 5, 6, 8), dtype=dtype)
    found = resized_pixel_scores(logits, (12, 16), NAMES)
    assert found.scores.dtype == torch.float32
    assert found.nll is None
    torch.testing.assert_close(found.scores, resized_pixel_scores(logits.float(), (12, 16), NAMES).scores)


def test_layout_does_not_matter():
    logits = logits_of((1, 5, 6, 8))
    expected = resized_pixel_scores(logits, (12, 16), NAMES).scores
    for other in (logits.contiguous(memory_format=torch.channels_last), logits.transpose(2, 3).contiguous().mT):
        torch.testing.assert_close(resized_pixel_scores(other, (12, 16), NAMES).scores, expected)


@pytest.mark.parametrize("size", [(96, 160), (97, 155), (40, 160)])
def test_pieces_and_threads_change_nothing(monkeypatch, size):
    """Several pieces of lines, more rows than are resized together, with and without filling at the end of a line."""
    resized = pytest.importorskip("gradunc_viz.kernels.llvm.resized")
    logits, label = logits_of((2, 5, 40, 160)), labels_of(2, size, 5)
    expected = pixel_scores(resize_logits(logits, size), NAMES, label)
    monkeypatch.setattr(resized, "_PIECE", 5 * 160 * 11)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = resized_pixel_scores(logits, size, NAMES, label)
    finally:
        torch.set_num_threads(before)
    assert (found.prediction == expected.prediction).all()
    for name in ("scores", "probability_error", "nll"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=5e-6, rtol=1e-5)


def test_logits_that_are_views_are_scored():
    logits = logits_of((2, 9, 20, 24))
    expected = pixel_scores(resize_logits(logits[:, 1:6], (33, 48)), NAMES)
    found = resized_pixel_scores(logits[:, 1:6], (33, 48), NAMES)
    torch.testing.assert_close(found.scores, expected.scores, atol=5e-6, rtol=1e-5)


def test_ties_go_to_the_first_class():
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0]).view(1, 4, 1, 1)
    assert resized_pixel_scores(logits, (1, 1), ()).prediction.item() == 1
    assert resized_pixel_scores(torch.zeros(1, 4, 1, 1), (1, 1), ()).prediction.item() == 0


def test_certain_pixels_keep_their_digits():
    logits = torch.tensor([40.0, 0.0, -1e30]).view(1, 3, 1, 1)
    label = torch.zeros(1, 1, 1, dtype=torch.long)
    found = resized_pixel_scores(logits, (1, 1), ("msp", "entropy"), label)
    rest = torch.tensor(-40.0).double().exp().item()
    assert found.scores[0, 0].item() == pytest.approx(rest, rel=1e-5)
    assert found.scores[0, 1].item() == pytest.approx(41 * rest, rel=1e-5)
    assert found.probability_error.item() == pytest.approx(2 * rest**2, rel=1e-4, abs=1e-44)
    assert found.nll.item() == pytest.approx(rest, rel=1e-5)


def test_one_class_is_certain():
    found = resized_pixel_scores(torch.full((1, 1, 2, 2), 3.0), (2, 2), NAMES)
    assert found.scores[0, :3].abs().max() == 0
    assert found.prediction.max() == 0


def test_an_unknown_score_is_refused():
    with pytest.raises(ValueError, match="'pgn_oh_p1' is none of logits alone"):
        resized_pixel_scores(torch.zeros(1, 2, 2, 2), (2, 2), ("pgn_oh_p1",))
