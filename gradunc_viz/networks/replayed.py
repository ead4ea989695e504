"""A last layer that ran elsewhere: what entered and left it is known, its weights are not.

It takes part in a forward pass like a layer of torch's, so that its network is searched, followed and scored like any.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

from torch import Tensor, nn

from ..kernels.geometry import Geometry
from .head import HeadKind, register_head

__all__ = ["ReplayedLayer", "unknown_layer"]


class ReplayedLayer(nn.Module):
    """Hands on logits that another runtime has made of features.

    Parameters
    ----------
    geometry : Geometry
        How they are connected. One without inputs, as of `unknown_layer`, is of logits alone: scores that need no
        features can be computed of them.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry

    def forward(self, input: Tensor, output: Tensor) -> Tensor:
        """The output, as it is."""
        return output

    def __repr__(self) -> str:
        return self.geometry.name


register_head(HeadKind(ReplayedLayer, attrgetter("geometry"), listed=False))


def unknown_layer(outputs: int, why: str) -> Geometry:
    """Of a last layer of which the output alone is known, and why."""
    return replace(Geometry(0, outputs), name=f"a layer of which only the output is known ({why})")
