from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from gradunc_viz.schema.errors import HeadError
from gradunc_viz.scores.gradients import gradient_norms
from gradunc_viz.scores.mean_norms import mean_norms
from gradunc_viz.scores.needs import HeadOutput

PS = (0.3, 0.5, 1.0, 2.0, 3.0)
WANTED = [(label, p) for label in ("oh", "uni") for p in PS]
LAYERS = {
    "1x1": lambda: nn.Conv2d(4, 5, 1),
    "3x3": lambda: nn.Conv2d(4, 5, 3, padding=1, dilation=1, padding_mode="reflect"),
    "strided": lambda: nn.Conv2d(4, 5, 3, stride=2, padding=1),
    "groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 5, 3, stride=2, padding=1, output_padding=1),
}


def output_of(layer, seed, mirrored=False, bias=False, dtype=torch.float64):
    features = torch.randn(1, layer.in_channels, 5, 6, generator=torch.Generator().manual_seed(seed)).relu().to(dtype)
    layer = layer.to(dtype)
    with torch.no_grad():
        return HeadOutput(3 * layer(features), features, layer, mirrored=mirrored, bias=bias)


def by_autograd(passes, label, p, bias):
    """The norm at every pixel, of a derivative by each kernel that passes have."""
    kernels = list({id(one.layer): one.layer for one in passes}.values())
    leaves = [weight for layer in kernels for weight in ((layer.weight, layer.bias) if bias else (layer.weight,))]
    probabilities = []
    for one in passes:
        # logits are three times the layer's output; so is their derivative by its kernel
        logits = 3 * one.layer(one.features)
        probabilities.append((logits.flip(-1) if one.mirrored else logits).softmax(1))
    mean = torch.stack(probabilities).mean(0)[0].flatten(1)
    norms = []
    for pixel in range(mean.shape[1]):
        log_p = mean[:, pixel].log()
        loss = -log_p.max() if label == "oh" else -log_p.mean()
        found = torch.autograd.grad(loss, leaves, retain_graph=True)
        norms.append(sum(part.abs().div(3).pow(p).sum() for part in found).pow(1 / p).log2())
    return torch.stack(norms).view(passes[0].logits.shape[2:])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shared", [True, False], ids=["one kernel", "kernels"])
def test_norms_are_those_of_automatic_differentiation(name, shared, bias):
    torch.manual_seed(0)
    first = LAYERS[name]()
    passes = [output_of(first if shared else LAYERS[name](), seed, bias=bias) for seed in range(3)]
    found = mean_norms(passes, WANTED)[0]
    for norm, (label, p) in zip(found, WANTED, strict=True):
        torch.testing.assert_close(norm, by_autograd(passes, label, p, bias), atol=1e-8, rtol=1e-8)


def test_mirrored_passes_meet_at_the_pixel_that_they_are_of():
    torch.manual_seed(1)
    for name in ("1x1", "3x3", "transposed"):
        layer = LAYERS[name]()
        passes = [output_of(layer, seed, mirrored=bool(seed % 2)) for seed in range(4)]
        for norm, (label, p) in zip(mean_norms(passes, WANTED)[0], WANTED, strict=True):
            torch.testing.assert_close(norm, by_autograd(passes, label, p, False), atol=1e-8, rtol=1e-8)


def test_members_of_which_two_share_a_kernel():
    torch.manual_seed(2)
    layer, other = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3, padding=1)
    passes = [output_of(layer, 0), output_of(other, 1), output_of(layer, 2)]
    for norm, (label, p) in zip(mean_norms(passes, WANTED)[0], WANTED, strict=True):
        torch.testing.assert_close(norm, by_autograd(passes, label, p, False), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("shared", [True, False])
def test_passes_that_are_alike_have_the_norm_of_one(shared):
    torch.manual_seed(3)
    layer = nn.Conv2d(4, 5, 3, padding=1)
    one = output_of(layer, 0)
    single = gradient_norms(one.logits, one.features, layer, p=PS)
    passes = [one] * 4 if shared else [one, replace(one, layer=nn.Conv2d(4, 5, 3, padding=1))]
    found = mean_norms(passes, WANTED)
    if not shared:  # two kernels, each of which gets half: 2 (x/2)^p under the root
        single = single + (1 / torch.tensor(PS * 2) - 1)[None, :, None, None]
    torch.testing.assert_close(found, single)


def test_float32_and_channels_that_are_no_class():
    torch.manual_seed(4)
    layer = nn.Conv2d(8, 6, 3, padding=1, groups=2)
    kept = torch.tensor([0, 2, 3, 5])
    wide = [output_of(layer, seed).only(kept) for seed in range(3)]
    exact = mean_norms(wide, WANTED)
    narrow = [replace(one, logits=one.logits.float(), features=one.features.float()) for one in wide]
    found = mean_norms(narrow, WANTED)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)
    rows = [torch.autograd.grad(_loss(wide, pixel), layer.weight)[0] for pixel in (0, 17)]
    for row, pixel in zip(rows, (0, 17), strict=True):
        torch.testing.assert_close(exact[0, 2].flatten()[pixel], (row.abs().sum() / 3).log2())


def _loss(passes, pixel):
    mean = torch.stack([3 * one.layer(one.features)[:, one.channels] for one in passes]).softmax(2).mean(0)
    return -mean[0].flatten(1)[:, pixel].log().max()


def test_sure_passes_have_small_norms_and_no_infinite_ones():
    layer = nn.Conv2d(2, 3, 1)
    logits = torch.tensor([0.0, 30.0, 200.0]).view(1, 1, 1, 3) * torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    passes = [HeadOutput(logits, torch.ones(1, 2, 1, 3), layer)] * 2
    found = mean_norms(passes, [("oh", 1.0), ("uni", 2.0)])
    assert bool(found.isfinite().all())
    # 2 (1 - pi) ||psi||_1, 1 - pi = 2 e^-30
    assert float(found[0, 0, 0, 1]) == pytest.approx(3 - 30 * 1.442695, abs=1e-4)


def test_what_cannot_be_put_together():
    layer = nn.Conv2d(4, 5, 1)
    one = output_of(layer, 0)
    small = replace(one, logits=one.logits[:, :, :4, :4])
    with pytest.raises(HeadError, match="heads of one grid; these have 5x6 and 4x4"):
        mean_norms([one, small], [("oh", 1.0)])
    with pytest.raises(HeadError, match="of other corners"):
        mean_norms([one, replace(one, align_corners=True)], [("oh", 1.0)])
    with pytest.raises(HeadError, match="without the features"):
        mean_norms([one, replace(one, features=None)], [("oh", 1.0)])
    with pytest.raises(HeadError, match="has no bias"):
        mean_norms([replace(one, layer=nn.Conv2d(4, 5, 1, bias=False), bias=True)] * 2, [("oh", 1.0)])
    assert mean_norms([one, small], []).shape == (1, 0, 5, 6)
