"""Which function computes which entry; all requested scores in one pass; resizing to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..schema.scores import GradientNorm, Score, lookup
from .gradients import gradient_norms_for, norms_and_softmax
from .softmax import softmax_scores

__all__ = ["PixelScores", "head_scores", "pixel_scores", "same_size_scores", "split_scores"]


def split_scores(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split score names into those computed at the head's resolution and those of the resized logits."""
    entries = [lookup(name) for name in names]
    return tuple(e.name for e in entries if e.at_head), tuple(e.name for e in entries if not e.at_head)


def _request(entry: Score) -> tuple[str, float, str]:
    assert isinstance(entry, GradientNorm)
    return entry.request


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
    wanted = [_request(lookup(name)) for name in names]
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
    found = softmax_scores(logits, _softmax_names(names, label), _class_of(label, ignore))
    return _pixel_scores(found, names, logits, label, ignore)


def same_size_scores(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
    at_head: Sequence[str],
    at_pixel: Sequence[str],
    label: Tensor | None = None,
    ignore: int = 255,
    *,
    bias: bool = False,
    channels: Tensor | None = None,
) -> tuple[Tensor, PixelScores]:
    """`head_scores` and `pixel_scores` of logits that have the image's size, in one pass.

    Parameters
    ----------
    logits, features, layer
        Output and input of the head, and the head.
    at_head, at_pixel : sequence of str
        Names of scores as `split_scores` returns them.
    label, ignore
        As for `pixel_scores`.
    bias, channels
        As for `gradunc_viz.scores.gradients.gradient_norms`.

    Returns
    -------
    Tensor (N, len(at_head), h, w), PixelScores
    """
    wanted = [_request(lookup(name)) for name in at_head]
    names, target = _softmax_names(at_pixel, label), _class_of(label, ignore)
    norms, found = norms_and_softmax(logits, features, layer, wanted, names, target, bias=bias, channels=channels)
    return norms, _pixel_scores(found, at_pixel, logits, label, ignore)


def _softmax_names(names: Sequence[str], label: Tensor | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*names, "prediction", *(() if label is None else ("brier", "nll")))))


def _class_of(label: Tensor | None, ignore: int) -> Tensor | None:
    return None if label is None else torch.where(label != ignore, label, 0)


def _pixel_scores(
    found: dict[str, Tensor], names: Sequence[str], logits: Tensor, label: Tensor | None, ignore: int
) -> PixelScores:
    n, _, *size = logits.shape
    scores = torch.stack([found[name] for name in names], 1) if names else logits.new_empty((n, 0, *size)).float()
    if label is None:
        return PixelScores(found["prediction"], scores)
    known = label != ignore
    brier, nll = (found[name].float().where(known, 0) for name in ("brier", "nll"))
    return PixelScores(found["prediction"], scores, brier, nll)
