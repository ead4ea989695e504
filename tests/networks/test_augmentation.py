from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn

import gradunc_viz as gv
from gradunc_viz.networks.augmentation import AugmentedPasses
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import DeviceError, ModelError, SettingsError

CPU = torch.device("cpu")
IMAGE = np.random.default_rng(3).integers(0, 256, (24, 32, 3), "u1")


def runner_of(net, input_size=None, **options):
    return AugmentedPasses(Inference(gv.load_model(net), CPU, input_size=input_size), **options)


def test_passes_over_mirror_images_and_other_sizes():
    runner = runner_of(TinyNet().eval(), flips=True, scales=(0.5, 1, 1.25))
    x = runner.prepare(IMAGE, "a")
    assert [tuple(one.shape[2:]) for one in x.images] == [(12, 16), (24, 32), (30, 40)]
    passes = runner(x, "it").passes
    assert [one.mirrored for one in passes] == [False, True] * 3
    assert [tuple(one.head.logits.shape[2:]) for one in passes[::2]] == [(6, 8), (12, 16), (15, 20)]
    with torch.no_grad():
        plain = Inference(gv.load_model(TinyNet().eval()), CPU)
        for one, image in ((passes[3], x.images[1].flip(-1)), (passes[4], x.images[2])):
            assert torch.equal(one.head.logits, plain(image, "it").logits)


def test_scales_are_of_the_size_that_the_network_is_asked_for():
    x = runner_of(TinyNet().eval(), (16, 20), scales=(1, 2)).prepare(IMAGE, "a")
    assert [tuple(one.shape[2:]) for one in x.images] == [(16, 20), (32, 40)]


def test_one_pass_is_none():
    with pytest.raises(SettingsError, match="make one pass; expected flips, or two scales"):
        runner_of(TinyNet(), flips=False)
    assert len(runner_of(TinyNet(), flips=False, scales=(1, 0.5)).scales) == 2


class Whole(nn.Module):
    """Takes multiples of 8 alone."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        if x.shape[-1] % 8:
            raise ValueError("sizes must be multiples of 8")
        if x.shape[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")
        return self.classifier(x)


def test_a_size_that_the_network_does_not_take():
    runner = runner_of(Whole().eval(), scales=(1, 0.4))
    with pytest.raises(ModelError, match=r"multiples of 8.*scale 0.4 makes inputs of 10x13, see --scales"):
        runner(runner.prepare(IMAGE, "a"), "it")
    runner = runner_of(Whole().eval(), scales=(1, 4))
    with pytest.raises(DeviceError, match="out of memory"):
        runner(runner.prepare(IMAGE, "a"), "it")
