"""Logits and norms at the image's size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ..kernels.dispatch import Kernels, kernels_on
from ..schema.scores import LOG2_FLOOR

__all__ = ["resize_log2_norms", "resize_logits"]


def resize_logits(logits: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear resize of (N, C, h, w) to the image's size in float32; the same tensor where the size is right."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=align_corners)


def resize_log2_norms(
    norms: Tensor,
    size: Sequence[int],
    align_corners: bool = False,
    out: Tensor | None = None,
    kernels: Kernels | None = None,
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

    Returns
    -------
    Tensor (..., *size), float32
    """
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
