"""Sizes that a last layer makes of sizes, beside torch."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from gradunc_viz.networks.head import geometry_of


def test_sizes_are_those_of_torch() -> None:
    for kernel, stride, padding, dilation in itertools.product((1, (2, 3)), (1, (2, 3)), (0, (1, 0)), (1, (1, 2))):
        if kernel == 1 and padding:
            continue
        for size in ((7, 9), (8, 6)):
            made = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
            geometry, of = geometry_of(made), torch.zeros(1, 1, *size)
            own = tuple(made(of).shape[2:])
            assert geometry.output_size(size) == own
            assert geometry.makes(own, size)
            assert not geometry.makes((own[0] + 1, own[1]), size)
            for extra in (0, 1):
                if extra and stride == 1:
                    continue
                made = nn.ConvTranspose2d(1, 1, kernel, stride, padding, extra, dilation=dilation)
                geometry, own = geometry_of(made), tuple(made(of).shape[2:])
                assert geometry.output_size(size) == (own[0] - extra, own[1] - extra)
                assert geometry.makes(own, size)
                assert not geometry.makes((own[0], own[1] + 3), size)
    assert not geometry_of(nn.Conv2d(1, 1, 5)).makes((0, 1), (4, 5))
