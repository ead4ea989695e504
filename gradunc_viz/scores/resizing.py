"""Logits and norms at the image's size, all of it or a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.resize import Band
from ..schema.scores import LOG2_FLOOR

__all__ = ["resize_log2_norms", "resize_logits", "row_resizer"]


def row_resizer(
    logits: Tensor, size: tuple[int, int], align_corners: bool, band: Band | None = None
) -> Callable[[int, slice], Tensor]:
    """(image, rows) -> those rows of the image's resized logits, (C, rows, x); of a band, rows of its lines.

    Columns are resized at once, at the head's few rows; rows when they are asked for. Those may be a view of `logits`.
    """
    height = logits.shape[2]
    band = band or Band(slice(0, size[0]), height)
    own, first = band.height == size[0], band.own().start
    wide = logits
    if logits.shape[3] != size[1]:
        wide = F.interpolate(logits, (height, size[1]), mode="bilinear", align_corners=align_corners)
    if own:
        return lambda image, rows: wide[image, :, first + rows.start : first + rows.stop]
    places = band.neighbours(size[0], align_corners)
    above, below, weight = (torch.from_numpy(part).to(logits.device) for part in places)
    weight = weight.view(1, -1, 1)
    share = 1 - weight

    def resized(image: int, rows: slice) -> Tensor:
        top, bottom = wide[image].index_select(1, above[rows]), wide[image].index_select(1, below[rows])
        return top.mul_(share[:, rows]).add_(bottom.mul_(weight[:, rows]))

    return resized


def resize_logits(logits: Tensor, size: Sequence[int], align_corners: bool = False, band: Band | None = None) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the image's size in float32; the same tensor where the size is right.

    Of a `band` those lines alone, where `logits` are the rows that they are made of.
    """
    if band is not None:
        rows_of, lines = row_resizer(logits.float(), (size[0], size[1]), align_corners, band), slice(0, _count(band))
        return torch.stack([rows_of(image, lines) for image in range(len(logits))])
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=align_corners)


def resize_log2_norms(
    norms: Tensor,
    size: Sequence[int],
    align_corners: bool = False,
    out: Tensor | None = None,
    kernels: Kernels | None = None,
    band: Band | None = None,
    top: Tensor | None = None,
) -> Tensor:
    """Bilinear resize of log2 norms: the norm is resized, not its logarithm.

    The maximum of each map is factored out first, so that norms of 2^100 and of 2^-100 alike stay in range. A pixel
    more than 2^126 below the maximum of its map may come out as `LOG2_FLOOR`.

    Parameters
    ----------
    norms : Tensor (..., h, w)
    out : Tensor (M, *size), float32, optional
        Where the maps are put, for norms of shape (M, h, w).
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.
    band, top : Band, Tensor (M,), optional
        Which lines are wanted, where norms (M, r, w) are the rows that they are made of; and the maxima of the whole
        maps, which then are those of `norms`.

    Returns
    -------
    Tensor (..., *size), float32
    """
    if band is not None:
        return _band_of_norms(norms, (size[0], size[1]), align_corners, kernels or kernels_on(norms.device), band, top)
    same_size = tuple(norms.shape[-2:]) == tuple(size)
    fast = None if same_size else (kernels or kernels_on(norms.device)).resizing_of(norms)
    if fast is None and out is not None:
        return out.copy_(resize_log2_norms(norms, size, align_corners, kernels=kernels))
    if same_size:
        return norms.float()
    if fast is not None:
        maps = norms.reshape(-1, *norms.shape[-2:]).float()
        resized = fast.resized_log2_norms(maps, tuple(size), align_corners, out)
        return resized.unflatten(0, norms.shape[:-2]) if norms.ndim != 3 else resized
    flat = norms.reshape(-1, 1, *norms.shape[-2:]).float()
    top = flat.amax((1, 2, 3), keepdim=True)
    linear = F.interpolate((flat - top).exp2_(), tuple(size), mode="bilinear", align_corners=align_corners)
    result = linear.log2_().add_(top).clamp_min_(LOG2_FLOOR)
    return result.view(*norms.shape[:-2], *size)


def _band_of_norms(
    norms: Tensor, size: tuple[int, int], align_corners: bool, kernels: Kernels, band: Band, top: Tensor | None
) -> Tensor:
    if (band.height, norms.shape[2]) == tuple(size):
        return norms[:, band.own()].float()
    top = norms.float().amax((1, 2)) if top is None else top
    fast = kernels.resizing_of(norms)
    if fast is not None:
        found: Tensor = fast.resized_log2_norms(norms.float(), size, align_corners, None, band, top)
        return found
    top = top.view(1, -1, 1, 1)
    linear = resize_logits((norms[None].float() - top).exp2_(), size, align_corners, band)
    return linear.log2_().add_(top).clamp_min_(LOG2_FLOOR)[0]


def _count(band: Band) -> int:
    return int(band.lines.stop - band.lines.start)
