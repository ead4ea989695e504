"""Distance of features to those of in-distribution pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..schema.errors import FitError
from .fitted import DrawnPixels, at_logits, by_pixel
from .needs import ForwardPass

__all__ = ["BANK", "Knn"]

BANK = 20_000
"""Drawn pixels that neighbours are looked for among, at most."""

_GROUP = 16


class Knn:
    r"""Distance of :math:`\psi / \|\psi\|` to its k-th neighbour among drawn pixels; larger is more uncertain.

    The search is exact: all distances are computed, in float32, which makes those below 0.001 uncertain in their
    second digit. A vanishing feature stays 0, at distance 1 from all others. It is by far the slowest of these scores:
    a pixel among 20,000 takes some 40 microseconds of one core for 16 features, 160 for 256, which for a map of
    256 x 512 and of 128 x 256 is more than ten and some five times a small network's own time.

    Source: Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors" (arXiv:2204.06507).
    """

    def __init__(self, name: str, k: int) -> None:
        self.name, self.k = name, k

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """Normalised features of `BANK` of the pixels, evenly taken of all frames.

        Raises
        ------
        FitError
            If there are fewer than k.
        """
        n = min(len(pixels), BANK)
        if n < self.k:
            raise FitError(f"score {self.name!r}: k is {self.k}, but {n} pixels were drawn; expected {self.k} or more")
        taken = torch.linspace(0, len(pixels) - 1, n, dtype=torch.float64).round().long()
        return {"bank": F.normalize(pixels.features[taken].double())}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Distances at the logits' places."""
        bank = state["bank"]
        squares = bank.square().sum(1)

        def distance(psi: Tensor) -> Tensor:
            psi = F.normalize(psi, dim=0, eps=1e-30).T
            # less the square of psi itself, which orders nothing
            distances = torch.addmm(squares, psi, bank.T, alpha=-2)
            return (_kth_smallest(distances, self.k) + psi.square().sum(1)).clamp_min_(0).sqrt_()

        return at_logits(run, by_pixel(run.features, distance, len(bank)))


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest number of each row.

    The k smallest lie in the k groups whose own smallest are the smallest, so that most are never sorted.
    """
    groups = values.shape[1] // _GROUP
    if groups < 2 * k:
        return values.topk(k, 1, largest=False).values[:, -1]
    whole, rest = values[:, : groups * _GROUP].unflatten(1, (_GROUP, groups)), values[:, groups * _GROUP :]
    near = whole.amin(1).topk(k, 1, largest=False, sorted=False).indices
    candidates = whole.gather(2, near[:, None].expand(-1, _GROUP, -1)).flatten(1)
    return torch.cat([candidates, rest], 1).kthvalue(k, 1).values
