"""Logits to prediction and scores of every image pixel, resized and scored in tiles that stay in a core's cache.

`gradunc_viz.scores.resizing.resize_logits` and `gradunc_viz.scores.pixelwise.pixel_scores` say the same in plain torch,
with several maps of all classes at the image's size in memory; here there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.resize import Band
from .pixelwise import PixelScores, asked_of_logits, class_of, labelled, pixel_scores, pixel_scores_from
from .resizing import row_resizer
from .softmax import softmax_request, softmax_scores

__all__ = ["resized_pixel_scores"]

_TILE = 1 << 19  # logits of a tile: a few float32 copies of it stay in a core's cache


def resized_pixel_scores(
    logits: Tensor,
    size: tuple[int, int],
    names: Sequence[str],
    label: Tensor | None = None,
    align_corners: bool = False,
    kernels: Kernels | None = None,
    band: Band | None = None,
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
    band : Band, optional
        Which lines of the image are wanted, y in all, where `logits` are the rows that they are made of.

    Returns
    -------
    PixelScores
        In float32. The prediction is the first of equal largest logits.
    """
    kernels = kernels or kernels_on(logits.device)
    fast = kernels.resizing_of(logits)
    if fast is not None:
        return _in_one_pass(fast, logits, size, names, label, align_corners, band)
    n, n_classes = logits.shape[:2]
    known = labelled(label, n_classes)
    target = class_of(label, known)
    rows_of = row_resizer(logits.float(), size, align_corners, band)
    asked = asked_of_logits(names, label)
    height = size[0] if band is None else band.lines.stop - band.lines.start
    found = {
        name: torch.empty(
            (n, height, size[1]), dtype=torch.long if name == "prediction" else None, device=logits.device
        )
        for name in asked
    }
    on_cpu = logits.device.type == "cpu"
    step = max(1, _TILE // (n_classes * size[1])) if on_cpu else height
    for image in range(n):
        for start in range(0, height, step):
            rows = slice(start, min(start + step, height))
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
    band: Band | None,
) -> PixelScores:
    if (logits.shape[2] if band is None else band.height, logits.shape[3]) == tuple(size):
        return pixel_scores(logits if band is None else logits[:, :, band.own()], names, label)
    known = labelled(label, logits.shape[1])
    target = class_of(label, known)
    errors = () if label is None else ("brier", "nll")
    asked = [softmax_request(name) for name in (*names, *errors)]
    prediction, found = fast.resized_scores(logits.float(), size, asked, target, align_corners, band)
    scores = found[:, : len(names)]
    if known is None:
        return PixelScores(prediction, scores)
    brier, nll = (plane.where(known, 0) for plane in found[:, len(names) :].unbind(1))
    return PixelScores(prediction, scores, brier, nll)
