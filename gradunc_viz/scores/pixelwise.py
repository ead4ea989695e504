"""What logits of the image's size tell of every pixel: prediction, scores, and how far off they are from the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schema.frame import id_type, ignore_id
from ..schema.scores import lookup
from .softmax import softmax_scores

__all__ = [
    "PixelScores",
    "asked_of_logits",
    "class_of",
    "labelled",
    "pixel_scores",
    "pixel_scores_from",
    "split_scores",
]


def split_scores(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split score names into those computed at the head's resolution and those of the resized logits."""
    entries = [lookup(name) for name in names]
    return tuple(e.name for e in entries if e.at_head), tuple(e.name for e in entries if not e.at_head)


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


def pixel_scores(logits: Tensor, names: Sequence[str], label: Tensor | None = None) -> PixelScores:
    """Prediction and scores of logits that already have the image's size.

    Parameters
    ----------
    logits : Tensor (N, C, y, x)
    names : sequence of str
        Names of scores that `gradunc_viz.kernels.dispatch.Kernels.know`.
    label : LongTensor (N, y, x), optional
        Class ids, 255 = ignore; with it the Brier score and the negative log-likelihood are computed too.
    """
    known = labelled(label, logits.shape[1])
    found = softmax_scores(logits, asked_of_logits(names, label), class_of(label, known))
    return pixel_scores_from(found, names, known)


def asked_of_logits(names: Sequence[str], label: Tensor | None) -> tuple[str, ...]:
    """What `gradunc_viz.scores.softmax.softmax_scores` is asked for, so that it gives `PixelScores`."""
    return tuple(dict.fromkeys((*names, "prediction", *(() if label is None else ("brier", "nll")))))


def labelled(label: Tensor | None, n_classes: int) -> Tensor | None:
    """Where the label of one of `n_classes` classes is not ignored."""
    return None if label is None else label != ignore_id(id_type(n_classes))


def class_of(label: Tensor | None, known: Tensor | None) -> Tensor | None:
    """The label with a class where it is ignored, not `known`: any would do."""
    return None if label is None or known is None else label.where(known, 0)


def pixel_scores_from(found: Mapping[str, Tensor], names: Sequence[str], known: Tensor | None) -> PixelScores:
    """Put together what `gradunc_viz.scores.softmax.softmax_scores` gave for `asked_of_logits`."""
    prediction = found["prediction"]
    n, *size = prediction.shape
    scores = torch.stack([found[name] for name in names], 1) if names else prediction.new_empty((n, 0, *size)).float()
    if known is None:
        return PixelScores(prediction, scores)
    brier, nll = (found[name].float().where(known, 0) for name in ("brier", "nll"))
    return PixelScores(prediction, scores, brier, nll)
