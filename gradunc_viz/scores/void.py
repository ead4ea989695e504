"""What a network says of channels that are no class."""

from __future__ import annotations

import torch
from torch import Tensor

from .needs import ForwardPass

__all__ = ["void"]


def void(run: ForwardPass) -> Tensor:
    """Probability of the channels that are no class in a softmax over all, (N, y, x); larger is more uncertain.

    Logits of all channels are resized to the image first, as for every score of the softmax. The network has to have
    such channels, trained on what is unlabelled, and somebody to have said which they are (``drop_channels``).

    Source: the void classifier of Blum et al., "The Fishyscapes Benchmark" (arXiv:1904.03215).
    """
    logits = run.at_image(run.all_channels)
    kept = run.output.channels
    assert kept is not None
    is_void = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    is_void[kept.to(logits.device)] = False
    return logits.softmax(1)[:, is_void].sum(1).clamp_max(1)
