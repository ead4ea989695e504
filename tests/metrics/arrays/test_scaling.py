"""Temperature and vector scaling: known ones are found again, optima are optima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from gradunc_viz.metrics.arrays.scaling import fit_temperature, fit_vector_scaling, nll


def drawn(n: int = 20_000, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax: calibrated as they are."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(n, classes)) + random.normal(size=classes)
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(1)


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 20.0])
def test_a_known_temperature_is_found(factor):
    logits, label = drawn()
    found = fit_temperature(factor * logits, label)
    assert found == pytest.approx(factor, rel=0.03)
    assert found == pytest.approx(factor * fit_temperature(logits, label), rel=1e-9)
    assert fit_temperature((factor * logits + 7).astype("f4"), label) == pytest.approx(found, rel=1e-5)


def test_nll_is_that_of_torch():
    logits, label = drawn(500)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label))
    assert nll(logits, label) == pytest.approx(expected.item(), rel=1e-12)


def test_the_derivative_vanishes_at_the_temperature():
    logits, label = drawn()
    temperature = torch.tensor(fit_temperature(logits, label), dtype=torch.float64, requires_grad=True)
    value = torch.nn.functional.cross_entropy(torch.from_numpy(logits) / temperature, torch.from_numpy(label))
    value.backward()
    assert abs(temperature.grad) < 1e-10
    for other in (0.99, 1.01):
        assert nll(logits / (other * temperature.item()), label) > value.item()


def test_known_weights_and_biases_are_found():
    logits, label = drawn(200_000)
    weight, bias = np.array([0.5, 1.0, 1.5, 2.0, 0.8]), np.array([1.0, -1.0, 0.5, 0.0, -0.5])
    found = fit_vector_scaling((logits - bias) / weight, label)
    np.testing.assert_allclose(found[0], weight, rtol=0.05)
    np.testing.assert_allclose(found[1], bias, atol=0.08)
    assert found[1].sum() == pytest.approx(0, abs=1e-12)


def test_the_derivative_vanishes_at_weights_and_biases():
    logits, label = drawn()
    logits = logits * [1, 3, 0.3, 1, 10] + [5, 0, 0, -5, 0]
    temperature = fit_temperature(logits, label)
    weight, bias = (torch.from_numpy(part).requires_grad_() for part in fit_vector_scaling(logits, label, temperature))
    scaled = torch.from_numpy(logits) * weight + bias
    value = torch.nn.functional.cross_entropy(scaled, torch.from_numpy(label))
    value.backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-5
    # never worse on the pixels that it was fitted on
    assert value.item() < nll(logits / temperature, label) < nll(logits, label)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_likelihood_never_shrinks(factor):
    for seed in range(5):
        logits, label = drawn(300, 4, seed)
        temperature = fit_temperature(factor * logits, label)
        weight, bias = fit_vector_scaling(factor * logits, label, temperature)
        plain, tempered = nll(factor * logits, label), nll(factor * logits / temperature, label)
        assert nll(factor * logits * weight + bias, label) <= tempered <= plain


def test_a_class_that_never_occurs_stays_as_the_temperature_leaves_it():
    logits, label = drawn()
    kept = label != 2
    weight, bias = fit_vector_scaling(logits[kept], label[kept], 1.25)
    assert (weight[2], bias[2]) == (0.8, 0)
    assert np.isfinite([weight, bias]).all()
    assert (np.abs(bias[[0, 1, 3, 4]]) > 1e-3).all()


def test_no_temperature_is_best_where_all_is_right_or_nothing_is_said():
    logits, _ = drawn()
    with pytest.raises(ValueError, match=r"smaller the temperature the better.*100\.0000% of the pixels"):
        fit_temperature(logits, logits.argmax(1))
    with pytest.raises(ValueError, match="say nothing of the labels"):
        fit_temperature(logits, logits.argmin(1))


def test_a_temperature_makes_a_confidence_that_comes_true():
    logits, label = drawn(100_000)
    overconfident = 2 * logits
    confidence = softmax(overconfident / fit_temperature(overconfident, label), 1).max(1)
    assert confidence.mean() == pytest.approx((logits.argmax(1) == label).mean(), abs=0.005)
