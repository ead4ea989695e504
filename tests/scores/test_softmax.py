"""Scores of logits against their formulas in float64, and where probabilities are 0 and 1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gradunc_viz.kernels.dispatch import SOFTMAX
from gradunc_viz.schema.scores import SCORES
from gradunc_viz.scores.softmax import energy, entropy, margin, max_logit, msp, softmax_scores


def reference(logits: Tensor) -> dict[str, Tensor]:
    """Evaluate every formula as written, in float64."""
    phi = logits.double()
    pi = phi.softmax(1)
    first, second = pi.topk(2, 1).values.unbind(1)
    return {
        "msp": 1 - first,
        "entropy": -torch.special.xlogy(pi, pi).sum(1),
        "margin": 1 - (first - second),
        "energy": -phi.exp().sum(1).log(),
        "max_logit": phi.max(1).values,
    }


def pixel(*logits: float, dtype=torch.float32) -> Tensor:
    return torch.tensor(logits, dtype=dtype)[None, :, None, None]


@pytest.fixture
def logits():
    return 4 * torch.randn(2, 7, 5, 3, generator=torch.Generator().manual_seed(0))


def test_functions_are_the_softmax_and_logit_entries_of_the_schema():
    assert set(SOFTMAX) == {name for name, entry in SCORES.items() if entry.of_logits}


@pytest.mark.parametrize("name", sorted(SOFTMAX))
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.float16, 2e-6), (torch.bfloat16, 2e-6)],
)
def test_score_equals_its_formula(logits, name, dtype, tolerance):
    rounded = logits.to(dtype)
    found = SCORES[name].function(rounded)
    assert found.shape == (2, 5, 3)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), reference(rounded)[name], rtol=tolerance, atol=tolerance)


def test_all_at_once_equals_one_by_one(logits):
    names = ("margin", "energy", "msp", "max_logit", "entropy")
    found = softmax_scores(logits, names)
    assert tuple(found) == names
    for name in names:
        assert torch.equal(found[name], SCORES[name].function(logits))
    assert softmax_scores(logits, ()) == {}


@pytest.mark.parametrize("name", sorted(SOFTMAX))
@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_adding_a_constant_changes_only_the_scores_of_logits(logits, name, shift):
    change = {"max_logit": shift, "energy": -shift}.get(name, 0.0)
    torch.testing.assert_close(
        SCORES[name].function(logits + shift), SCORES[name].function(logits) + change, rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("logits", [(0.0, -1000.0), (200.0, 0.0), (0.0, -math.inf), (-1e4, 1e4, -1e4), (5.0,)])
def test_certain_pixel_scores_exactly_zero(logits):
    for function in (msp, entropy, margin):
        assert function(pixel(*logits)).item() == 0
    assert max_logit(pixel(*logits)).item() == max(logits)
    assert energy(pixel(*logits)).item() == -max(logits)


@pytest.mark.parametrize("exponent", [1, 10, 30, 37])
def test_tiny_probabilities_keep_their_digits(exponent):
    x = pixel(0.0, -exponent * math.log(10))
    small = math.exp(x[0, 1].item())
    total = 1 + small
    assert msp(x).item() == pytest.approx(small / total, rel=1e-5)
    assert margin(x).item() == pytest.approx(2 * small / total, rel=1e-5)
    expected = math.log1p(small) + small * exponent * math.log(10) / total
    assert entropy(x).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3, 19])
@pytest.mark.parametrize("level", [-80.0, 0.0, 80.0])
def test_flat_softmax_reaches_the_upper_ends(n_classes, level):
    x = torch.full((1, n_classes, 1, 1), level)
    assert margin(x).item() == 1
    assert msp(x).item() == pytest.approx(1 - 1 / n_classes, rel=1e-6)
    assert entropy(x).item() == pytest.approx(math.log(n_classes), rel=1e-6)


def test_tie_of_two_classes_has_margin_one_less_nothing():
    assert margin(pixel(3.0, 3.0, -300.0)).item() == 1
    assert margin(pixel(1.0, 1.0, 0.0)).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", sorted(SOFTMAX))
def test_logits_stay_untouched(logits, name):
    for dtype in (torch.float32, torch.float64):
        x = logits.to(dtype)
        before = x.clone()
        SCORES[name].function(x)
        assert torch.equal(x, before)
