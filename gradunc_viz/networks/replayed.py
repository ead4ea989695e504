"""A last layer that ran elsewhere: what entered and left it is known, its weights are not.

It takes part in a forward pass like a layer of torch's, so that its network is searched, followed and scored like any.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.geometry import Geometry
from .head import HeadKind, register_head

__all__ = ["ReplayedLayer", "are_probabilities", "unknown_layer"]


class ReplayedLayer(nn.Module):
    """Hands on logits that another runtime has made of features.

    Parameters
    ----------
    geometry : Geometry
        How they are connected. One without inputs, as of `unknown_layer`, is of logits alone: scores that need no
        features can be computed of them.
    weight, bias : Tensor or array, optional
        Of the layer, where they are known: some fitted scores are made of them.
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, geometry: Geometry, weight: Any = None, bias: Any = None) -> None:
        super().__init__()
        self.geometry = geometry
        for name, values in (("weight", weight), ("bias", bias)):
            known = values if values is None or isinstance(values, Tensor) else torch.tensor(values)
            self.register_buffer(name, None if known is None or known.is_meta else known.detach().float().clone())

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        """The output, as it is."""
        return output

    def __repr__(self) -> str:
        return self.geometry.name


register_head(HeadKind(ReplayedLayer, attrgetter("geometry"), listed=False))


def are_probabilities(values: Tensor) -> bool:
    """Whether maps (N, C, h, w) hold probabilities: all in [0, 1], of several channels with sums of 1."""
    low, high = torch.aminmax(values)
    if not (float(low) >= 0 and float(high) <= 1 + 1e-3):  # nor does NaN
        return False
    return values.shape[1] == 1 or bool(((values.sum(1) - 1).abs() < 1e-2).all())


def unknown_layer(outputs: int, why: str) -> Geometry:
    """Of a last layer of which the output alone is known, and why."""
    return replace(Geometry(0, outputs), name=f"a layer of which only the output is known ({why})")
