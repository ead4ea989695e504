"""Which function computes which entry, resizing of norms, and what resized logits tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradunc_viz.kernels import dispatch, tallies
from gradunc_viz.kernels.dispatch import Kernels
from gradunc_viz.schema.scores import DEFAULT_SCORES, LOG2_FLOOR, PAPER_SCORES, SCORES, lookup
from gradunc_viz.scores.gradients import gradient_norms, norms_and_softmax
from gradunc_viz.scores.needs import ForwardPass, HeadOutput
from gradunc_viz.scores.pixelwise import pixel_scores, split_scores
from gradunc_viz.scores.resizing import resize_log2_norms, resize_logits


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["torch", "compiled"])
def way(request, monkeypatch):
    """Norms are resized by torch, or by a kernel."""
    if request.param == "torch":
        monkeypatch.setattr(dispatch, "_kernels", lambda device: dispatch.Kernels(None, None, tallies))
    elif dispatch.kernels_on("cpu").resizing is None:
        pytest.skip("no compiled kernels: llvmlite is missing, or not wanted")


def interpolate(values, size, align_corners):
    return nn.functional.interpolate(values, size, mode="bilinear", align_corners=align_corners)


def test_split_keeps_the_order():
    assert split_scores(["entropy", "pgn_uni_p2", "energy", "pgn_oh_p0.7_paper"]) == (
        ("pgn_uni_p2", "pgn_oh_p0.7_paper"),
        ("entropy", "energy"),
    )
    assert split_scores([]) == ((), ())
    assert [len(part) for part in split_scores(PAPER_SCORES)] == [20, 2]


def test_head_scores_are_the_norms_of_their_entries_in_order():
    names = ("pgn_uni_p2_paper", "pgn_oh_p0.1", "pgn_oh_p3", "pgn_uni_p0.5", "pgn_oh_p1_paper")
    layer, logits, features = nn.Conv2d(4, 3, 1), torch.randn(2, 3, 5, 6), torch.randn(2, 4, 5, 6)
    head = HeadOutput(logits, features, layer, bias=True)
    found = norms_and_softmax(head, [lookup(name).request for name in names])[0]
    assert found.shape == (2, 5, 5, 6)
    for i, name in enumerate(names):
        entry = lookup(name)
        one = gradient_norms(logits, features, layer, p=entry.p, labels=entry.label, variant=entry.variant, bias=True)
        torch.testing.assert_close(found[:, i : i + 1], one)


def test_channels_reach_the_norms():
    layer, logits, features = nn.Conv2d(4, 4, 1, groups=2), torch.randn(1, 2, 3, 3), torch.randn(1, 4, 3, 3)
    channels = torch.tensor([0, 3])
    found = norms_and_softmax(HeadOutput(logits, features, layer, channels), [("oh", 1.0, "exact")])[0]
    assert torch.equal(found, gradient_norms(logits, features, layer, p=1, labels="oh", channels=channels))


# --------------------------------------------------------------------------------------------------------------------
# resizing


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(20, 33), (3, 4), (5, 14)])
@pytest.mark.parametrize("level", [-100.0, 0.0, 66.0, 100.0])
def test_norms_are_resized_as_norms(way, size, align_corners, level):
    norms = level + 3 * torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    found = resize_log2_norms(norms, size, align_corners)
    expected = interpolate(norms.double().exp2(), size, align_corners).log2()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("value", [LOG2_FLOOR, -100.0, 0.0, 66.0, 100.0])
def test_constant_norms_stay_constant(way, value):
    found = resize_log2_norms(torch.full((2, 4, 4), value), (9, 9))
    torch.testing.assert_close(found, torch.full((2, 9, 9), value), rtol=0, atol=1e-5)


def test_norms_far_below_the_largest_are_finite(way):
    norms = torch.tensor([[[100.0, LOG2_FLOOR, LOG2_FLOOR, LOG2_FLOOR]]])
    found = resize_log2_norms(norms, (1, 8))
    assert found.isfinite().all()
    assert found[0, 0, -1] == LOG2_FLOOR


@pytest.mark.parametrize("resize", [resize_logits, resize_log2_norms])
def test_right_size_is_returned_as_it_is(resize):
    values = torch.randn(2, 3, 4, 5)
    assert torch.equal(resize(values, (4, 5)), values)
    assert resize(values.half(), (4, 5)).dtype == torch.float32


def test_no_norm_at_all_is_resized_too():
    assert resize_log2_norms(torch.empty(0, 4, 5), (8, 10)).shape == (0, 8, 10)


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_resized_in_float32(align_corners):
    logits = torch.randn(1, 3, 4, 5).half()
    found = resize_logits(logits, (9, 9), align_corners)
    torch.testing.assert_close(found, interpolate(logits.float(), (9, 9), align_corners), rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------------------
# what resized logits tell


@pytest.fixture
def logits():
    return 3 * torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def test_pixel_scores_come_in_the_order_asked_for(logits):
    names = ("energy", "msp", "max_logit", "margin", "entropy")
    found = pixel_scores(logits, names)
    assert torch.equal(found.prediction, logits.argmax(1))
    assert torch.equal(found.scores, torch.stack([lookup(name).function(logits) for name in names], 1))
    assert found.probability_error is None
    assert found.nll is None


def test_no_pixel_score_gives_the_prediction_alone(logits):
    found = pixel_scores(logits, ())
    assert found.scores.shape == (2, 0, 6, 5)
    assert torch.equal(found.prediction, logits.argmax(1))


def test_errors_equal_their_formulas_and_are_zero_where_ignored(logits):
    label = torch.randint(0, 4, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    label[0, :2] = 255
    found = pixel_scores(logits, ("msp",), label)
    known = label != 255
    one_hot = nn.functional.one_hot(label.where(known, 0), 4).movedim(-1, 1)
    brier = (logits.double().softmax(1) - one_hot).square().sum(1) * known
    nll = nn.functional.cross_entropy(logits.double(), label, ignore_index=255, reduction="none")
    torch.testing.assert_close(found.probability_error.double(), brier, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.nll.double(), nll, rtol=1e-5, atol=1e-6)


def test_errors_of_certain_pixels_are_exact():
    logits = torch.tensor([0.0, -1000.0, -1000.0])[None, :, None, None].expand(1, 3, 1, 2)
    found = pixel_scores(logits, (), torch.tensor([[[0, 2]]]))
    assert found.probability_error.flatten().tolist() == [0, 2]
    assert found.nll.flatten().tolist() == [0, 1000]


def test_every_entry_has_a_function():
    at_head, at_pixel = split_scores([name for name, entry in SCORES.items() if "fit" not in entry.needs])
    assert {name for name in at_pixel if Kernels.know(lookup(name))} >= {"msp", "entropy", "gini"}
    run = ForwardPass(HeadOutput(torch.randn(1, 3, 2, 2), torch.randn(1, 4, 2, 2), nn.Conv2d(4, 3, 1)))
    for name in at_head:
        if not lookup(name).needs <= {"logits", "features"}:
            continue
        found = lookup(name).function(run)
        assert found.shape == (1, 2, 2)
        assert found.isfinite().all()
    assert set(DEFAULT_SCORES) <= set(at_head) | set(at_pixel)
