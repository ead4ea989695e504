"""Which function computes which entry; all requested scores in one pass; resizing to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gradients import gradient_norms_for
from .schema import LOG2_FLOOR, ScoreEntry, score_entry
from .softmax import softmax_scores

__all__ = ["PixelScores", "head_scores", "pixel_scores", "resize_log2_norms", "resize_logits", "split_scores"]


def split_scores(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split score names into those computed at the head's resolution and those of the resized logits."""
    entries = [score_entry(name) for name in names]
    return tuple(e.name for e in entries if e.at_head), tuple(e.name for e in entries if not e.at_head)


def _request(entry: ScoreEntry) -> tuple[str, float, str]:
    assert entry.label is not None
    assert entry.p is not None
    assert entry.variant is not None
    return entry.label, entry.p, entry.variant


def head_scores(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
    names: Sequence[str],
    *,
    bias: bool = False,
    channels: Tensor | None = None,
) -> Tensor:
    """Gradient norms as log2, not oriented, at the head's resolution: (N, len(names), h, w)."""
    wanted = [_request(score_entry(name)) for name in names]
    return gradient_norms_for(logits, features, layer, wanted, bias=bias, channels=channels)


@dataclass
class PixelScores:
    """What the resized logits of a batch tell.

    Attributes
    ----------
    prediction : Tensor (N, y, x), int64
    scores : Tensor (N, len(names), y, x), not oriented
    probability_error : Tensor (N, y, x) or None
        Brier score of each pixel, sum_c (pi_c - y_c)^2 in [0, 2], where labels were given; 0 on ignored pixels.
    nll : Tensor (N, y, x) or None
        -ln pi of the label, likewise.
    """

    prediction: Tensor
    scores: Tensor
    probability_error: Tensor | None = None
    nll: Tensor | None = None


def pixel_scores(logits: Tensor, names: Sequence[str], label: Tensor | None = None, ignore: int = 255) -> PixelScores:
    """Prediction and scores of logits that already have the image's size.

    Parameters
    ----------
    logits : Tensor (N, C, y, x)
    names : sequence of str
        Scores of the softmax and logit families.
    label : LongTensor (N, y, x), optional
        Class ids and `ignore`; with it the Brier score and the negative log-likelihood are computed too.
    """
    found = softmax_scores(logits, tuple(names))
    prediction = logits.argmax(1)
    scores = (
        torch.stack([found[name] for name in names], 1)
        if names
        else logits.new_empty((logits.shape[0], 0, *logits.shape[2:]), dtype=torch.float32)
    )
    if label is None:
        return PixelScores(prediction, scores)
    known = label != ignore
    index = torch.where(known, label, 0).unsqueeze(1)
    log_pi = torch.log_softmax(logits.float(), 1)
    at_label = log_pi.gather(1, index)[:, 0]
    pi = log_pi.exp_()
    # sum_c (pi_c - y_c)^2 = sum_{c != label} pi_c^2 + (sum_{c != label} pi_c)^2, free of cancellation
    pi.scatter_(1, index, 0.0)
    brier = pi.square().sum(1) + pi.sum(1).square()
    return PixelScores(prediction, scores, torch.where(known, brier, 0.0), torch.where(known, -at_label, 0.0))


def resize_logits(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the image's size in float32; the same tensor where the size is right."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=align_corners)


def resize_log2_norms(norms: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of log2 norms: the norm is resized, not its logarithm.

    The maximum of each map is factored out first, so that norms of 2^100 and of 2^-100 alike stay in range. A pixel
    more than 2^126 below the maximum of its map may come out as `LOG2_FLOOR`.

    Parameters
    ----------
    norms : Tensor (..., h, w)

    Returns
    -------
    Tensor (..., *size), float32
    """
    if tuple(norms.shape[-2:]) == tuple(size):
        return norms.float()
    flat = norms.reshape(-1, 1, *norms.shape[-2:]).float()
    top = flat.amax((1, 2, 3), keepdim=True)
    linear = F.interpolate((flat - top).exp2_(), tuple(size), mode="bilinear", align_corners=align_corners)
    result = linear.log2_().add_(top).clamp_min_(LOG2_FLOOR)
    return result.view(*norms.shape[:-2], *size)
