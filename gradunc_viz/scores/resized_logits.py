"""Logits to prediction and scores of every image pixel, resized and scored in tiles that stay in a core's cache.

`gradunc_viz.scores.resizing.resize_logits` and `gradunc_viz.scores.pixelwise.pixel_scores` say the same in plain torch,
with several maps of all classes at the image's size in memory; here there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.dispatch import SOFTMAX, Kernels, kernels_on
from ..kernels.resize import neighbours
from ..schema.frame import IGNORE
from .pixelwise import PixelScores, pixel_scores

__all__ = ["resized_pixel_scores"]

_TILE = 1 << 19  # logits of a tile: a few float32 copies of it stay in a core's cache

_LOWEST = -200.0
"""exp of it is 0 in float32 and its product with that is 0, where -inf would give NaN."""

_STEEP = 1e38
"""Times a difference of logits, it outweighs any number of classes: equal logits are those within 1e-36."""


def resized_pixel_scores(
    logits: Tensor,
    size: tuple[int, int],
    names: Sequence[str],
    label: Tensor | None = None,
    align_corners: bool = False,
    kernels: Kernels | None = None,
) -> PixelScores:
    """Bilinear resize of logits to the image's size, and what the resized ones tell.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
        Finite, at the head's resolution.
    size : (height, width)
        Size of the image.
    names : sequence of str
        Names in `gradunc_viz.kernels.dispatch.SOFTMAX`.
    label : LongTensor (N, y, x), optional
        Class ids, 255 = ignore; with it the Brier score and the negative log-likelihood are computed too.
    align_corners : bool
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.

    Returns
    -------
    PixelScores
        In float32. The prediction is the first of equal largest logits.
    """
    for name in names:
        if name not in SOFTMAX:
            raise ValueError(f"score {name!r} is none of logits alone")
    fast = (kernels or kernels_on(logits.device)).resizing_of(logits)
    if fast is not None:
        return _in_one_pass(fast, logits, size, names, label, align_corners)
    n, n_classes = logits.shape[:2]
    rows_of = _row_resizer(logits.float(), size, align_corners)
    countdown = torch.arange(n_classes, 0, -1, dtype=torch.float32, device=logits.device).view(-1, 1, 1)
    found = PixelScores(
        torch.empty((n, *size), dtype=torch.long, device=logits.device),
        torch.empty((n, len(names), *size), device=logits.device),
    )
    if label is not None:
        found.probability_error, found.nll = (torch.empty((n, *size), device=logits.device) for _ in range(2))
    on_cpu = logits.device.type == "cpu"
    step = max(1, _TILE // (n_classes * size[1])) if on_cpu else size[0]
    for image in range(n):
        for start in range(0, size[0], step):
            rows = slice(start, min(start + step, size[0]))
            _score_tile(rows_of(image, rows), countdown, names, found, image, rows, label)
    return found


def _in_one_pass(
    fast: ModuleType,
    logits: Tensor,
    size: tuple[int, int],
    names: Sequence[str],
    label: Tensor | None,
    align_corners: bool,
) -> PixelScores:
    if tuple(logits.shape[2:]) == tuple(size):
        return pixel_scores(logits, names, label)
    known = None if label is None else label != IGNORE
    target = None if label is None or known is None else label.where(known, 0)
    errors = () if label is None else ("brier", "nll")
    asked = (*dict.fromkeys(names), *errors)
    prediction, found = fast.resized_scores(logits.float(), size, asked, target, align_corners)
    scores = found[:, : len(names)]
    if known is None:
        return PixelScores(prediction, scores)
    brier, nll = (plane.where(known, 0) for plane in found[:, len(names) :].unbind(1))
    return PixelScores(prediction, scores, brier, nll)


def _row_resizer(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Callable[[int, slice], Tensor]:
    """(image, rows) -> those rows of the image's resized logits, (C, rows, x).

    Columns are resized at once, at the head's few rows; rows when they are asked for.
    """
    if tuple(logits.shape[2:]) == tuple(size):
        return lambda image, rows: logits[image, :, rows]
    height = logits.shape[2]
    wide = logits
    if logits.shape[3] != size[1]:
        wide = F.interpolate(logits, (height, size[1]), mode="bilinear", align_corners=align_corners)
    if height == size[0]:
        return lambda image, rows: wide[image, :, rows]
    places = neighbours(height, size[0], align_corners)
    above, below, weight = (torch.from_numpy(part).to(logits.device) for part in places)
    weight = weight.view(1, -1, 1)
    share = 1 - weight

    def resized(image: int, rows: slice) -> Tensor:
        top, bottom = wide[image].index_select(1, above[rows]), wide[image].index_select(1, below[rows])
        return top.mul_(share[:, rows]).add_(bottom.mul_(weight[:, rows]))

    return resized


def _score_tile(
    phi: Tensor,
    countdown: Tensor,
    names: Sequence[str],
    found: PixelScores,
    image: int,
    rows: slice,
    label: Tensor | None,
) -> None:
    """Score (C, rows, x) logits; no quantity near 1 is formed and subtracted (see `gradunc_viz.scores.softmax`)."""
    n_classes = len(phi)
    top = phi.amax(0)
    shifted = phi - top
    # the first place of the largest logit, by a maximum: several times faster on a CPU than argmax or a comparison
    first = n_classes - torch.add(countdown, shifted, alpha=_STEEP).amax(0).long()
    found.prediction[image, rows] = first
    shifted.clamp_min_(_LOWEST).scatter_(0, first.unsqueeze(0), _LOWEST)  # all but the prediction
    exps = shifted.exp()
    rest = exps.sum(0)
    log_total, total = rest.log1p(), rest + 1
    for place, name in enumerate(names):
        out = found.scores[image, place, rows]
        if name == "msp":
            torch.div(rest, total, out=out)
        elif name == "entropy":
            torch.sub(log_total, (exps * shifted).sum(0).div_(total), out=out).clamp_min_(0)
        elif name == "margin":
            out.copy_(((rest + exps.amax(0)) / total).clamp_max_(1) if n_classes > 1 else torch.zeros_like(rest))
        elif name == "energy":
            torch.add(log_total, top, out=out).neg_()
        else:
            out.copy_(top)
    if label is not None:
        _score_labels(phi, top, first, exps, rest, label[image, rows], found, image, rows)


def _score_labels(
    phi: Tensor,
    top: Tensor,
    first: Tensor,
    exps: Tensor,
    rest: Tensor,
    label: Tensor,
    found: PixelScores,
    image: int,
    rows: slice,
) -> None:
    """Brier score and negative log-likelihood of a tile, 0 on ignored pixels."""
    assert found.probability_error is not None
    assert found.nll is not None
    known = label != IGNORE
    index = torch.where(known, label, 0).unsqueeze(0)
    at_label = phi.gather(0, index)[0]
    found.nll[image, rows] = torch.where(known, rest.log1p() + (top - at_label), 0.0)
    right = index[0] == first
    # sum_{c != label} of pi_c and of its square; the prediction's numerator is 1, so taking the label's away from a
    # sum that holds it costs no digits
    squares, at_label = exps.square().sum(0), exps.gather(0, index)[0]
    others = torch.where(right, rest, 1 + rest - at_label)
    squares = torch.where(right, squares, 1 + squares - at_label.square())
    found.probability_error[image, rows] = torch.where(known, (squares + others.square()) / (1 + rest).square(), 0.0)
