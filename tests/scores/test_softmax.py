"""Scores of logits against their formulas in float64, and where probabilities are 0 and 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from gradunc_viz.schema.errors import UnknownScoreError
from gradunc_viz.schema.scores import SCORES, SoftmaxScore, lookup, resolve_scores
from gradunc_viz.scores.softmax import (
    energy,
    entropy,
    gen,
    gini,
    kl_uniform,
    margin,
    max_logit,
    msp,
    softmax_request,
    softmax_scores,
)  # fmt: skip

NAMED = tuple(name for name, entry in SCORES.items() if isinstance(entry, SoftmaxScore))
COOLED = ("msp", "entropy", "margin", "energy")
NAMES = (*NAMED, "msp_T2", "entropy_T1.5", "margin_T0.5", "energy_T3", "gen_g0.4", "gen_g0.1_m3", "gen_g1")


def reference(logits: Tensor, name: str) -> Tensor:
    """Evaluate a formula as written, in float64, by functions of scipy where there are any."""
    kind, _, number = name.partition("_T")
    temperature = float(number or 1)
    phi = logits.double().numpy()
    if kind == "energy":
        return torch.from_numpy(-temperature * scipy.special.logsumexp(phi / temperature, 1))
    if kind == "max_logit":
        return torch.from_numpy(phi.max(1))
    pi = scipy.special.softmax(phi / temperature, 1)
    n_classes = pi.shape[1]
    ordered = np.sort(pi, 1)[:, ::-1]
    if kind.startswith("gen"):
        gamma, largest = (0.1, 100) if kind == "gen" else {
            "gen_g0.4": (0.4, 100), "gen_g0.1_m3": (0.1, 3), "gen_g1": (1.0, 100)
        }[kind]  # fmt: skip
        some = ordered[:, :largest]
        return torch.from_numpy((some**gamma * (1 - some) ** gamma).sum(1))
    found = {
        "msp": lambda: 1 - ordered[:, 0],
        "variation_ratio": lambda: 1 - ordered[:, 0],
        "entropy": lambda: scipy.stats.entropy(pi, axis=1),
        "margin": lambda: 1 - (ordered[:, 0] - ordered[:, 1]),
        "gini": lambda: 1 - (pi**2).sum(1),
        "kl_uniform": lambda: scipy.stats.entropy(np.full_like(pi, 1 / n_classes), pi, axis=1),
    }
    return torch.from_numpy(found[kind]())


def pixel(*logits: float, dtype=torch.float32) -> Tensor:
    return torch.tensor(logits, dtype=dtype)[None, :, None, None]


@pytest.fixture
def logits():
    return 4 * torch.randn(2, 7, 5, 3, generator=torch.Generator().manual_seed(0))


def test_the_registry_knows_every_function_by_its_name():
    assert set(NAMED) == {*COOLED, "max_logit", "gini", "variation_ratio", "gen", "kl_uniform"}
    assert {"gini", "gen", "kl_uniform", "variation_ratio"} <= set(resolve_scores("all"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.float16, 2e-6), (torch.bfloat16, 2e-6)],
)
def test_score_equals_its_formula(logits, name, dtype, tolerance):
    rounded = logits.to(dtype)
    found = lookup(name).function(rounded)
    assert found.shape == (2, 5, 3)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), reference(rounded, name), rtol=tolerance, atol=tolerance)


def test_all_at_once_equals_one_by_one(logits):
    found = softmax_scores(logits, NAMES[::-1])
    assert tuple(found) == NAMES[::-1]
    for name in NAMES:
        # powers of a softmax follow from each other where several are asked for
        torch.testing.assert_close(found[name], lookup(name).function(logits), rtol=2e-6, atol=2e-7)
    assert softmax_scores(logits, ()) == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [-50.0, 50.0])
def test_adding_a_constant_changes_only_the_scores_of_logits(logits, name, shift):
    change = {"max_logit": shift, "energy": -shift}.get(name.partition("_T")[0], 0.0)
    function = lookup(name).function
    torch.testing.assert_close(function(logits + shift), function(logits) + change, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("logits", [(0.0, -1000.0), (200.0, 0.0), (0.0, -math.inf), (-1e4, 1e4, -1e4), (5.0,)])
def test_certain_pixel_scores_exactly_zero(logits):
    for function in (msp, entropy, margin, gini):
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
    assert gini(x).item() == pytest.approx(2 * small / total**2, rel=1e-5)
    expected = math.log1p(small) + small * exponent * math.log(10) / total
    assert entropy(x).item() == pytest.approx(expected, rel=1e-5)


def test_generalised_entropy_of_probabilities_that_float32_cannot_hold():
    x = pixel(0.0, -200.0, -300.0)  # e^-200 = 1e-87
    assert gen(x).item() == pytest.approx(2 * math.exp(-20) + math.exp(-30), rel=1e-4)
    assert gen(pixel(5.0)).item() == 0


def test_divergence_of_a_flat_softmax_keeps_its_digits():
    """Near the uniform distribution it is half the variance of the logits, far below what rounds ln C."""
    x = 1e-3 * torch.randn(1, 19, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.float()
    expected = reference(x, "kl_uniform")
    assert expected.max() < 2e-6
    torch.testing.assert_close(kl_uniform(x).double(), expected, rtol=0, atol=4e-9)


def test_divergence_of_logits_that_are_far_apart():
    assert kl_uniform(pixel(0.0, -4000.0)).item() == pytest.approx(2000 - math.log(2), rel=1e-6)


def test_gini_is_the_brier_score_that_the_softmax_expects_of_itself(logits):
    pi = logits.double().softmax(1)
    expected = sum(pi[:, k] * (pi - torch.eye(7)[k].view(1, 7, 1, 1)).square().sum(1) for k in range(7))
    torch.testing.assert_close(gini(logits).double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gen(logits, 1.0), gini(logits))


def test_variation_ratio_of_one_pass_is_msp(logits):
    assert torch.equal(softmax_scores(logits, ("msp", "variation_ratio"))["variation_ratio"], msp(logits))
    assert "of one forward pass this is msp" in lookup("variation_ratio").formula


@pytest.mark.parametrize("largest", [1, 2, 99, 100, 149, 150, 151])
def test_only_the_largest_probabilities_enter_the_generalised_entropy(largest):
    x = 3 * torch.randn(1, 150, 4, 9, generator=torch.Generator().manual_seed(0))
    x[:, 40:60] = x[:, 39:40]  # ties at the end of what is taken
    pi = x.double().softmax(1).sort(1, descending=True).values[:, :largest]
    found = gen(x, 0.3, largest)
    torch.testing.assert_close(found.double(), (pi * (1 - pi)).pow(0.3).sum(1), rtol=2e-6, atol=1e-6)


# --------------------------------------------------------------------------------------------------------------------
# parameters in names


@pytest.mark.parametrize("temperature", [1e-6, 0.01, 0.5, 1.37, 2, 30, 1000, 1e6])
@pytest.mark.parametrize("function", [msp, entropy, margin, energy])
def test_temperature_divides_the_logits(logits, function, temperature):
    x = logits.double()
    expected = function(x / temperature)
    found = function(x, temperature=temperature)
    torch.testing.assert_close(found, expected * (temperature if function is energy else 1), rtol=1e-12, atol=1e-15)
    narrow = function(logits, temperature=temperature)
    assert narrow.isfinite().all()
    torch.testing.assert_close(narrow.double(), found, rtol=2e-6, atol=2e-6)


def test_names_tell_parameters():
    assert softmax_request("entropy_T1.5") == ("entropy", 1.5, 0.1, 100)
    assert softmax_request("gen_g0.2_m7") == ("gen", 1.0, 0.2, 7)
    assert lookup("energy_T1000").parameters == {"temperature": 1000.0}
    assert lookup("gen_g0.2_m7").parameters == {"gamma": 0.2, "largest": 7}
    assert lookup("entropy").parameters == lookup("gen").parameters == {}
    entry = lookup("entropy_T1.5")
    assert (entry.units, entry.upper, entry.orientation, entry.family) == ("nats", "log C", 1, "softmax")
    assert entry.title == r"entropy $H(\pi)$ at $T = 1.5$"
    assert "1706.04599" in entry.source
    assert lookup("energy_T2").formula == "-2 ln sum_c exp(phi_c / 2)"
    assert lookup("msp_T2").upper == lookup("margin_T2").upper == "1"
    assert lookup("kl_uniform").orientation == -1


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("entropy_T1", "entropy"),
        ("msp_T1.0", "msp"),
        ("energy_T1.50", "energy_T1.5"),
        ("margin_T02", "margin_T2"),
        ("gen_g0.1", "gen"),
        ("gen_g0.1_m100", "gen"),
        ("gen_g0.20", "gen_g0.2"),
        ("gen_g0.2_m100", "gen_g0.2"),
        ("gen_g0.1_m050", "gen_g0.1_m50"),
    ],
)
def test_a_score_has_one_name(name, written):
    with pytest.raises(UnknownScoreError, match=f"'{name}': write it '{written}'"):
        lookup(name)


@pytest.mark.parametrize(
    "name", ["entropy_T0", "msp_T0.00", "energy_T0.0000001", "margin_T10000001", "gen_g0", "gen_g1.1", "gen_g0.5_m0"]
)
def test_parameters_without_meaning_are_refused(name):
    with pytest.raises(UnknownScoreError, match=rf"'{name}'.*expected"):
        lookup(name)


@pytest.mark.parametrize("name", ["entropy_T", "entropy_T-1", "entropy_Tinf", "max_logit_T2", "gini_T2", "gen_m3"])
def test_what_matches_no_pattern_is_unknown(name):
    with pytest.raises(UnknownScoreError, match="unknown score"):
        lookup(name)


@pytest.mark.parametrize("n_classes", [2, 3, 19])
@pytest.mark.parametrize("level", [-80.0, 0.0, 80.0])
def test_flat_softmax_reaches_the_upper_ends(n_classes, level):
    x = torch.full((1, n_classes, 1, 1), level)
    assert margin(x).item() == 1
    assert msp(x).item() == pytest.approx(1 - 1 / n_classes, rel=1e-6)
    assert entropy(x).item() == pytest.approx(math.log(n_classes), rel=1e-6)
    assert gini(x).item() == pytest.approx(1 - 1 / n_classes, rel=1e-6)
    assert kl_uniform(x).item() == pytest.approx(0, abs=1e-7)
    assert gen(x).item() == pytest.approx(n_classes * ((n_classes - 1) / n_classes**2) ** 0.1, rel=1e-6)


def test_tie_of_two_classes_has_margin_one_less_nothing():
    assert margin(pixel(3.0, 3.0, -300.0)).item() == 1
    assert margin(pixel(1.0, 1.0, 0.0)).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_logits_stay_untouched(logits, name):
    for dtype in (torch.float32, torch.float64):
        x = logits.to(dtype)
        before = x.clone()
        lookup(name).function(x)
        assert torch.equal(x, before)
