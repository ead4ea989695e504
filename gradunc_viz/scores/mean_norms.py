r"""Gradient norms of the mean prediction of several passes.

With the softmax :math:`\pi_m` of each pass's logits :math:`\phi_m` at the head, :math:`p = \frac{1}{M} \sum_m \pi_m`, a
pixel's loss is :math:`-\ln p_y` for the predicted class y = arg max p, and :math:`-\frac{1}{C} \sum_c \ln p_c` for the
uniform label. With the share :math:`r_m^c = \pi_{m,c} / \sum_n \pi_{n,c}` of a pass in a class,

.. math:: g_m = \partial L / \partial \phi_m = r_m^y (\pi_m - e_y), \qquad
   g_{m,k} = \frac{1}{C} \Big( \pi_{m,k} \sum_c r_m^c - r_m^k \Big).

Passes of different networks have a kernel each, and their gradients lie side by side:
:math:`\|\nabla L\|_p^p = \sum_m \|g_m\|_p^p \sum_{\text{taps}} \sum_d |\psi_{m,d}|^p`. Passes of one network share a
kernel, in which their outer products add up: :math:`\nabla_K L = \sum_m g_m \psi_m^T`. This is no outer product and its
norm does not factorise: the matrix of every pixel and tap is formed, some pixels at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..kernels.dispatch import kernels_on
from ..kernels.geometry import Geometry, sum_over_taps, taps
from ..kernels.reference import feature_sums, power, row_tiles
from ..kernels.threads import in_threads
from ..networks.head import geometry_of
from ..schema.errors import HeadError
from ..schema.scores import LOG2_FLOOR
from .needs import HeadOutput

__all__ = ["mean_norms"]

_BLOCK = 1 << 19  # elements of the matrices that are formed at once


def mean_norms(passes: Sequence[HeadOutput], wanted: Sequence[tuple[str, float]]) -> Tensor:
    """Log2 norms of the gradient of the mean prediction's loss with respect to the last layers' kernels.

    Parameters
    ----------
    passes : sequence of HeadOutput
        Of one image, with features.
    wanted : sequence of (label, p)
        Labels ``"oh"``, one-hot of the mean's prediction, and ``"uni"``.

    Returns
    -------
    Tensor (1, len(wanted), h, w)
        At the heads' resolution.

    Raises
    ------
    HeadError
        If heads have different grids, or a network does more behind its head than resize the logits.

    Notes
    -----
    Passes that share a kernel cost C D operations for each of them at every pixel and tap that meets a feature, and as
    many powers for each p; of other passes the cost is that of a single one's norm.
    """
    first = passes[0]
    wide = any(one.logits.dtype == torch.float64 for one in passes)
    norms = first.logits.new_empty(
        (1, len(wanted), *first.logits.shape[2:]), dtype=torch.float64 if wide else torch.float32
    )
    if not wanted:
        return norms
    _check(passes)
    kernels: dict[int, list[int]] = {}
    for place, one in enumerate(passes):
        kernels.setdefault(id(one.layer), []).append(place)
    # in float32 powers above the second would underflow
    for dtype, ps in (
        (norms.dtype, {p for _, p in wanted if p <= 2}),
        (torch.float64, {p for _, p in wanted if p > 2}),
    ):
        some = {(label, p): place for place, (label, p) in enumerate(wanted) if p in ps}
        if not some:
            continue
        parts = [_Kernel(passes, shared, sorted(ps), dtype) for shared in kernels.values()]
        tiles = row_tiles(first.logits.expand(len(passes), -1, -1, -1))
        in_threads(partial(_fill, norms, some, passes, parts, dtype), tiles)
    return norms


@torch.inference_mode()  # which a thread of its own would be out of
def _fill(
    norms: Tensor,
    wanted: Mapping[tuple[str, float], int],
    passes: Sequence[HeadOutput],
    kernels: Sequence[_Kernel],
    dtype: torch.dtype,
    rows: slice,
) -> None:
    """Put some rows of norms into their places in `norms`."""
    scale = max(kernel.scale for kernel in kernels)
    logits = torch.cat([_aligned(one, one.logits)[:, :, rows] for one in passes]).to(dtype)
    for label in dict.fromkeys(label for label, _ in wanted):
        vectors, log2_factor = _label_vectors(logits, label, passes[0])
        ps = [p for other, p in wanted if other == label]
        totals = [kernel.totals(vectors, ps, rows) for kernel in kernels]
        for p, *of_kernels in zip(ps, *totals, strict=True):
            parts = [one * (kernel.scale / scale) ** p for one, kernel in zip(of_kernels, kernels, strict=True)]
            norm = torch.stack(parts).sum(0).log2() / p + log2_factor + math.log2(scale)
            norms[0, wanted[label, p], rows] = norm.clamp_min(LOG2_FLOOR).to(norms.dtype)


def _check(passes: Sequence[HeadOutput]) -> None:
    first = passes[0]
    for one in passes:
        if one.tail is not None:
            raise HeadError(
                "gradient norms of the mean of several passes were asked for, but the network does more behind its "
                "head than resize the logits: expected scores at the pixel alone"
            )
        if one.features is None:
            raise HeadError("gradient norms were asked for without the features that enter the last layer")
        if one.logits.shape != first.logits.shape or one.align_corners != first.align_corners:
            sizes = " and ".join("x".join(map(str, each.logits.shape[2:])) for each in (first, one))
            corners = ", of other corners" if one.align_corners != first.align_corners else ""
            raise HeadError(
                f"gradient norms of the mean of several passes need heads of one grid; these have {sizes}{corners}: "
                "expected members and scales of one output size, or scores at the pixel alone"
            )
        if one.bias and not geometry_of(one.layer).bias:
            raise HeadError("the gradient of the bias was asked for, but the last layer has no bias")


def _aligned(output: HeadOutput, maps: Tensor) -> Tensor:
    """Maps of a pass where the image's pixels are."""
    return maps.flip(-1) if output.mirrored else maps


def _label_vectors(logits: Tensor, label: str, output: HeadOutput) -> tuple[Tensor, Tensor]:
    """Derivative of each pixel's loss by the logits (M, C, h, w) of all passes, with a factor taken out.

    Returns
    -------
    Tensor (M, C, h, w), Tensor (h, w)
        g / factor, the largest of which is 1 at every pixel, and log2 of the factor.
    """
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    shares = log_p.softmax(0)
    if label == "uni":
        vector = (p * shares.sum(1, keepdim=True) - shares) / logits.shape[1]
    else:
        mean = p.mean(0, keepdim=True)
        predicted = output.predicted(mean.clamp_min(torch.finfo(mean.dtype).tiny).log())
        at = mean.argmax(1) if predicted is None else predicted
        at = at[:, None].expand(len(logits), -1, -1, -1)
        # 1 - pi of the predicted class is the sum of the others: no cancellation where the passes are sure
        others = p.scatter(1, at, 0.0)
        vector = others.scatter(1, at, -others.sum(1, keepdim=True)) * shares.gather(1, at)
    factor = vector.abs().amax((0, 1))
    return vector / torch.where(factor > 0, factor, 1), factor.log2().nan_to_num(neginf=LOG2_FLOOR)


class _Kernel:
    """What the kernel of one last layer contributes to the p-th powers of norms.

    Parameters
    ----------
    passes : sequence of HeadOutput
        All of them.
    places : sequence of int
        Which of them share this kernel.
    ps : sequence of float
    dtype : torch.dtype
        Of the sums.
    """

    def __init__(
        self, passes: Sequence[HeadOutput], places: Sequence[int], ps: Sequence[float], dtype: torch.dtype
    ) -> None:
        self.places, first = list(places), passes[places[0]]
        self.layer, self.bias, self.size = geometry_of(first.layer), first.bias, first.logits.shape[2:]
        self.groups = _groups(first, self.layer)
        own = [passes[place] for place in places]
        features = [one.features.to(dtype) for one in own if one.features is not None]
        largest = max(float(one.abs().amax()) for one in features)
        self.scale = max(largest, 1.0) if self.bias else largest or 1.0
        self.sums: dict[float, Tensor] = {}
        self.maps: list[list[Tensor]] = []
        if len(own) == 1:
            self.sums = self._feature_sums(own[0], features[0], ps)
        else:  # what each tap multiplies: views of one map
            self.maps = [
                [_aligned(one, tap)[0] for tap in taps(values / self.scale, self.layer, self.size)]
                for one, values in zip(own, features, strict=True)
            ]

    def _feature_sums(self, output: HeadOutput, features: Tensor, ps: Sequence[float]) -> dict[float, Tensor]:
        """Sums over taps and the channels of each group of |psi / scale|^p, (groups, h, w)."""
        groups, dtype = self.layer.groups, features.dtype
        fast = kernels_on(features.device).sums_of(features, wide=dtype == torch.float64) if groups == 1 else None
        summed = partial(feature_sums, groups=groups) if fast is None else fast.feature_sums
        found, sums = summed(features, ps, dtype)
        sums = _aligned(output, sum_over_taps(sums, self.layer, self.size))[0].unflatten(0, (len(ps), -1))
        ratio = float(found) / self.scale
        return {p: one * ratio**p + (self.scale**-p if self.bias else 0) for p, one in zip(ps, sums, strict=True)}

    def totals(self, vectors: Tensor, ps: Sequence[float], rows: slice) -> list[Tensor]:
        """Sums of the p-th powers of the gradient, (rows, w), of derivatives (M, C, rows, w) by all passes' logits."""
        own = vectors[self.places]
        if len(own) == 1:
            size, found = own[0].abs(), []
            for p in ps:
                powers = power(size, p)
                of_groups = torch.stack([powers[some].sum(0) for some, _ in self.groups])
                found.append((of_groups * self.sums[p][:, rows]).sum(0))
            return found
        flat = own.flatten(2)
        sums = own.new_zeros((len(ps), flat.shape[2]))
        if self.bias:  # a tap whose feature is 1
            gradient = (flat.sum(0) / self.scale).abs()
            sums += torch.stack([power(gradient, p).sum(0) for p in ps])
        for maps in zip(*self.maps, strict=True):
            features = torch.stack([one[:, rows] for one in maps]).flatten(2)
            for some, channels in self.groups:
                _add_products(sums, flat[:, some], features[:, channels], ps)
        return list(sums.view(len(ps), *own.shape[2:]))


def _groups(output: HeadOutput, layer: Geometry) -> list[tuple[Tensor, slice]]:
    """Logits of each group of a layer, and the features that they are made of."""
    channels = torch.arange(output.logits.shape[1]) if output.channels is None else output.channels.cpu()
    group, depth = channels // (layer.outputs // layer.groups), layer.inputs // layer.groups
    return [
        ((group == g).nonzero()[:, 0].to(output.logits.device), slice(g * depth, (g + 1) * depth))
        for g in range(layer.groups)
    ]


def _add_products(sums: Tensor, vectors: Tensor, features: Tensor, ps: Sequence[float]) -> None:
    """Add sum_cd |sum_m g_mc psi_md|^p for each p: `vectors` (M, C, pixels), `features` (M, D, pixels)."""
    met = (features != 0).any(1).any(0).nonzero()[:, 0]  # a tap that is strided or reaches padding meets few
    step = max(1, _BLOCK // max(1, vectors.shape[1] * features.shape[1]))
    for start in range(0, len(met), step):
        at = met[start : start + step]
        # with pixels last the products are several times as quick as matrices of each pixel
        g, psi = vectors.index_select(2, at)[:, :, None], features.index_select(2, at)[:, None]
        gradient = g[0] * psi[0]
        for one, other in zip(g[1:], psi[1:], strict=True):
            gradient.addcmul_(one, other)
        gradient.abs_()
        for row, p in zip(sums, ps, strict=True):
            row.index_add_(0, at, power(gradient, p).sum((0, 1)))
