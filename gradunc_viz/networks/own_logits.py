"""Logits with a derivative by the input: those that a network returns, as far as they are what left its head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .tail import logarithm, logit, two_classes

__all__ = ["own_logits"]

_ROUGH = 2e-2  # by how much probabilities of the same logits may differ
_SPOTS = 16


def own_logits(returned: Tensor, logits: Tensor, align_corners: bool) -> Tensor | None:
    """Logits of what a network returns, or None where they are others than those of its prediction.

    Parameters
    ----------
    returned : Tensor (1, C, y, x)
        From `gradunc_viz.networks.outputs.logits_of`: logits, probabilities, or the one of a sigmoid.
    logits : Tensor (1, C, h, w)
        What left the head in the same pass.
    align_corners : bool
        How they are resized.
    """
    ways: tuple[Callable[[Tensor], Tensor], ...] = (lambda x: x, logarithm)
    if returned.shape[1] == 1:
        ways = (two_classes, lambda x: two_classes(logit(x)))
    size = returned.shape[2:]
    with torch.no_grad():
        resized = F.interpolate(logits.float(), size, mode="bilinear", align_corners=align_corners)
        down, across = (torch.linspace(0, length - 1, _SPOTS, device=logits.device).long() for length in size)
        expected = resized[:, :, down][..., across].softmax(1)
        some = returned[:, :, down][..., across].float()

    def agrees(way: Callable[[Tensor], Tensor]) -> bool:
        with torch.no_grad():
            found = way(some)
            return found.shape == expected.shape and bool(((found.softmax(1) - expected).abs() <= _ROUGH).all())

    way = next(filter(agrees, ways), None)
    return None if way is None else way(returned)
