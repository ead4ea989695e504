from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gradunc_viz.kernels.dispatch import Kernels, kernels_on
from gradunc_viz.scores.mean_prediction import STATISTICS, MeanPrediction
from gradunc_viz.scores.needs import HeadOutput

LAYER = nn.Conv2d(3, 5, 1)
TORCH = Kernels(None, None, kernels_on("cpu").tallies)
SIZE = (21, 37)


def passes_of(count=3, classes=5, sizes=((11, 19),), scale=3.0, dtype=torch.float64, mirrored=False):
    generator = torch.Generator().manual_seed(count)
    return [
        HeadOutput(
            torch.randn(1, classes, *sizes[number % len(sizes)], generator=generator, dtype=torch.float64).to(dtype)
            * scale,
            None,
            LAYER,
            align_corners=number == 1,
            mirrored=mirrored and number % 2 == 1,
        )
        for number in range(count)
    ]


def expected(passes, size=SIZE):
    """Each statistic by its definition, in float64."""
    p = []
    for one in passes:
        logits = F.interpolate(one.logits.double(), size, mode="bilinear", align_corners=one.align_corners)
        p.append((logits.flip(-1) if one.mirrored else logits).softmax(1))
    p = torch.cat(p)
    mean = p.mean(0)
    entropy, entropies = (-torch.special.xlogy(x, x).sum(-3) for x in (mean, p))
    counts = F.one_hot(p.argmax(1), p.shape[1]).sum(0).amax(-1)
    found = {
        "entropy": entropy,
        "expected_entropy": entropies.mean(0),
        "mutual_information": (p * (p / mean).log()).sum(1).mean(0),
        "msp": 1 - mean.amax(0),
        "variance": p.var(0, correction=0).sum(0),
        "variation_ratio": 1 - counts.double() / len(p),
        "prediction": mean.argmax(0),
    }
    return {name: values[None] for name, values in found.items()}, mean


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sizes", [((11, 19),), (SIZE,), ((11, 19), (6, 10), SIZE)])
def test_every_statistic_is_what_its_definition_says(sizes, mirrored):
    near = 1e-12 if sizes == (SIZE,) else 3e-6  # a resize has weights of float32
    passes = passes_of(sizes=sizes, mirrored=mirrored)
    wanted, mean = expected(passes)
    found = MeanPrediction(passes, SIZE)
    found.sweep([*STATISTICS, "prediction"])
    for name, values in wanted.items():
        torch.testing.assert_close(found[name].double(), values.double(), atol=near, rtol=near, msg=name)
    torch.testing.assert_close(found["logits"].softmax(1)[0], mean, atol=near, rtol=near)


@pytest.mark.parametrize("kernels", [TORCH, kernels_on("cpu")], ids=["torch", "compiled"])
@pytest.mark.parametrize("size", [SIZE, (16, 32)])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_float32_keeps_its_digits(kernels, size, count):
    passes = passes_of(count, classes=7, sizes=((11, 19), (16, 32)), dtype=torch.float32, mirrored=True)
    wanted, _ = expected(passes, size)
    found = MeanPrediction(passes, size, kernels)
    found.sweep([*STATISTICS, "prediction"])
    for name, values in wanted.items():
        assert found[name].shape == (1, *size)
        torch.testing.assert_close(found[name].double(), values.double(), atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kernels", [TORCH, kernels_on("cpu")], ids=["torch", "compiled"])
def test_where_passes_are_sure_small_values_are_right(kernels):
    gaps = torch.tensor([5.0, 20.0, 40.0, 80.0, 150.0]).view(1, 1, 1, 5)
    logits = torch.cat([gaps, torch.zeros(1, 3, 1, 5)], 1)
    found = MeanPrediction([HeadOutput(logits, None, LAYER)] * 2, (1, 5), kernels)
    found.sweep(STATISTICS)
    rest = 3 * torch.exp(-gaps.double())[0, 0]
    torch.testing.assert_close(found["msp"].double()[..., :4], (rest / (1 + rest))[None, ..., :4], rtol=1e-5, atol=0)
    assert 0 <= float(found["msp"][..., 4]) < 1e-36
    entropy = rest.log1p() + rest * gaps.double()[0, 0] / (1 + rest)
    torch.testing.assert_close(found["expected_entropy"].double()[..., :4], entropy[None, ..., :4], rtol=1e-5, atol=0)
    assert float(found["variance"].abs().max()) == 0
    assert float(found["mutual_information"].min()) >= 0


def test_passes_that_agree_share_no_information_and_those_that_do_not_share_all():
    one, other = (torch.full((1, 2, 4, 4), 0.0, dtype=torch.float64) for _ in range(2))
    one[:, 0], other[:, 1] = 50, 50
    alike = MeanPrediction([HeadOutput(one, None, LAYER)] * 4, (4, 4))
    opposed = MeanPrediction([HeadOutput(one, None, LAYER), HeadOutput(other, None, LAYER)], (4, 4))
    assert float(alike["mutual_information"].max()) == 0
    torch.testing.assert_close(opposed["mutual_information"], torch.full((1, 4, 4), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(opposed["variance"], torch.full((1, 4, 4), 0.5, dtype=torch.float64))
    assert float(opposed["variation_ratio"].max()) == 0.5


def test_a_threshold_decides_what_a_pass_predicts():
    logits = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)  # the second class has 73 %
    passes = [HeadOutput(x, None, LAYER, threshold=0.8) for x in (logits, logits, 5 * logits)]
    assert float(MeanPrediction(passes, (1, 1))["variation_ratio"]) == pytest.approx(1 / 3)
    assert float(MeanPrediction([HeadOutput(x.logits, None, LAYER) for x in passes], (1, 1))["variation_ratio"]) == 0
