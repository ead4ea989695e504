"""How much of the features lies in the principal directions of in-distribution ones, and of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..schema.errors import FitError
from ..schema.scores import LOG2_FLOOR
from .fitted import DrawnPixels, at_logits, by_pixel, length_of, principal
from .gradients import norms_and_softmax
from .needs import ForwardPass

__all__ = ["EXPLAINED", "GradOrth", "Neco"]

EXPLAINED = 0.9
"""Share of the variance that the principal directions explain together, at least."""


def _directions(pixels: DrawnPixels, score: str) -> Tensor:
    """The fewest principal directions that explain `EXPLAINED` of the variance, a row each.

    Raises
    ------
    FitError
        If there are fewer pixels than features, or these do not vary.
    """
    pixels.require_dimensions(score)
    directions, values = principal(pixels.scatter)
    if not float(values[0]) > 0:
        raise FitError(f"score {score!r}: none of the {len(values)} features varies")
    explained = values.cumsum(0) / values.sum()
    count = int((explained < EXPLAINED).sum()) + 1
    return directions[:, :count].T


def _ratio(run: ForwardPass, directions: Tensor) -> Tensor:
    """||V^T psi|| / ||psi|| at the logits' places; 0 where the features vanish."""

    def ratio(psi: Tensor) -> Tensor:
        length = length_of(psi)
        return torch.where(length > 0, length_of(directions @ psi) / length, 0).clamp_max_(1)

    return at_logits(run, by_pixel(run.features, ratio, directions.shape[1]))


class Neco:
    r""":math:`-\|V^T \psi\| / \|\psi\|`, in [-1, 0]; larger is more uncertain.

    The columns of :math:`V` are the first principal directions of the drawn features, as many as explain 90 % of their
    variance about the mean; :math:`\psi` itself is not centred. Where it vanishes the score is 0.

    Source: Ben Ammar et al., "NECO: Neural Collapse Based Out-of-Distribution Detection" (arXiv:2310.06823).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """The principal directions."""
        return {"directions": _directions(pixels, self.name)}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Negative shares at the logits' places."""
        return -_ratio(run, state["directions"])


class GradOrth:
    r"""Log2 of `pgn_oh_p2` times :math:`\|V^T \psi\| / \|\psi\|` of `Neco`; smaller is more uncertain.

    For a 1 x 1 convolution it is the length of the gradient's projection on the subspace. As published, a *small*
    projection tells an unknown object. With the one-hot label of the prediction it is small as well where the network
    is certain, which is why it may rank worse than chance.

    Source: Behpour et al., "GradOrth: A Simple yet Efficient Out-of-Distribution Detection with Orthogonal Projection
    of Gradients" (arXiv:2308.00310).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """The principal directions.

        Raises
        ------
        FitError
            If the features are not the head's.
        """
        pixels.require_head(self.name)
        return {"directions": _directions(pixels, self.name)}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Log2 of the norms at the logits' places."""
        output, tail = run.output, run.output.tail
        if tail is not None:  # the map goes that way later
            output = replace(output, tail=replace(tail, steps=()))
        norm = norms_and_softmax(output, [("oh", 2.0, "exact")])[0][:, 0]
        return (norm + _ratio(run, state["directions"]).log2()).clamp_min(LOG2_FLOOR)
