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

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.resize import neighbours
from .pixelwise import PixelScores, asked_of_logits, class_of, labelled, pixel_scores, pixel_scores_from
from .softmax import softmax_request, softmax_scores

__all__ = ["resized_pixel_scores", "row_resizer"]

_TILE = 1 << 19  # logits of a tile: a few float32 copies of it stay in a core's cache


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
        Names of scores of logits that `gradunc_viz.kernels.dispatch.Kernels.know`.
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
    kernels = kernels or kernels_on(logits.device)
    fast = kernels.resizing_of(logits)
    if fast is not None:
        return _in_one_pass(fast, logits, size, names, label, align_corners)
    n, n_classes = logits.shape[:2]
    known = labelled(label, n_classes)
    target = class_of(label, known)
    rows_of = row_resizer(logits.float(), size, align_corners)
    asked = asked_of_logits(names, label)
    found = {
        name: torch.empty((n, *size), dtype=torch.long if name == "prediction" else None, device=logits.device)
        for name in asked
    }
    on_cpu = logits.device.type == "cpu"
    step = max(1, _TILE // (n_classes * size[1])) if on_cpu else size[0]
    for image in range(n):
        for start in range(0, size[0], step):
            rows = slice(start, min(start + step, size[0]))
            truth = None if target is None else target[image : image + 1, rows]
            tile = rows_of(image, rows)[None]
            for name, values in softmax_scores(tile, asked, truth, kernels).items():
                found[name][image, rows] = values[0]
    return pixel_scores_from(found, names, known)


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
    known = labelled(label, logits.shape[1])
    target = class_of(label, known)
    errors = () if label is None else ("brier", "nll")
    asked = [softmax_request(name) for name in (*names, *errors)]
    prediction, found = fast.resized_scores(logits.float(), size, asked, target, align_corners)
    scores = found[:, : len(names)]
    if known is None:
        return PixelScores(prediction, scores)
    brier, nll = (plane.where(known, 0) for plane in found[:, len(names) :].unbind(1))
    return PixelScores(prediction, scores, brier, nll)


def row_resizer(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Callable[[int, slice], Tensor]:
    """(image, rows) -> those rows of the image's resized logits, (C, rows, x).

    Columns are resized at once, at the head's few rows; rows when they are asked for. Those may be a view of `logits`.
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
