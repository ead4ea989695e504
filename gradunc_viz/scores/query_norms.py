r"""Norms of the gradient of a query model's own likelihood.

With class probabilities :math:`P_{qk}`, mask probabilities :math:`s_q = \sigma(a_q)`, :math:`a = M \psi`, and class
scores :math:`S_k = \sum_q P_{qk} s_q`, a pixel's loss is that of the mixture, :math:`L = -\ln S_y` for the predicted
class :math:`y = \arg\max_k S_k`, and :math:`-\frac{1}{K} \sum_k \ln S_k` for the uniform label. With the
responsibilities :math:`r_q^{(k)} = P_{qk} s_q / S_k`, which sum to one over the queries,

.. math:: g_q = \frac{\partial L}{\partial a_q} = -r_q^{(y)} (1 - s_q), \qquad
   g_q = -\frac{1}{K} \sum_k r_q^{(k)} (1 - s_q),

and the gradients by the mask embeddings M, by the last linear layer :math:`W_m` that makes them of H, and by the pixel
decoder's last kernel K, whose input is z, are outer products:

.. math:: \|\nabla_M L\|_p = \|g\|_p \|\psi\|_p, \quad
   \|\nabla_{W_m} L\|_p = \|H^T g\|_p \|\psi\|_p, \quad
   \|\nabla_K L\|_p = \|M^T g\|_p \Big(\sum_{\text{taps}} \sum_d |z_d|^p\Big)^{1/p}.

Each is with respect to one of them, the others held constant. Not the cross-entropy of softmax(S): its gradient carries
:math:`s (1 - s)` and vanishes where every query rejects the pixel, which is where the unknown is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.dispatch import kernels_on
from ..kernels.geometry import Geometry, sum_over_taps, taps
from ..kernels.reference import feature_sums, power, row_tiles
from ..kernels.threads import in_threads
from ..networks.queries import Queries
from ..schema.errors import HeadError, SettingsError
from ..schema.scores import LOG2_FLOOR, NormRequest
from .needs import HeadOutput
from .resized_logits import row_resizer

__all__ = ["query_norms"]

_LEAST = -690.0
"""Logarithms below are taken for this one, whose exponential float64 still holds."""


def query_norms(head: HeadOutput, wanted: Sequence[NormRequest]) -> Tensor:
    """Log2 norms of the gradient of a query model's likelihood, or factors of them, on the grid of its class scores.

    Parameters
    ----------
    head : HeadOutput
        With `queries`.
    wanted : sequence of NormRequest
        Labels ``"oh"`` and ``"uni"``; of layer 1, the mask embeddings, with the factors of its norm, and of the layers
        ``"embedding"`` and ``"decoder"``.

    Returns
    -------
    Tensor (N, len(wanted), h, w)
        float32, or float64 where the masks are.

    Raises
    ------
    HeadError
        If one of them has no meaning for a query model, or the network has not what it is made of; the text says why.
    """
    queries = head.queries
    if queries is None:
        raise HeadError("norms of a query model were asked for, and this network returns logits of pixels")
    for request in wanted:
        _check(request, queries, bias=head.bias)
    n, _, height, width = queries.masks.shape
    out = queries.masks.dtype if queries.masks.dtype == torch.float64 else torch.float32
    norms = torch.empty((n, len(wanted), height, width), dtype=out, device=queries.masks.device)
    for index in range(n):
        for dtype in (torch.float32, torch.float64):
            some = [one for one in dict.fromkeys(wanted) if (torch.float64 if one.p > 2 else out) == dtype]
            if some:
                image = _Image(queries.image(index), some, dtype, bias=head.bias)
                places = [[k for k, other in enumerate(wanted) if other == one] for one in some]
                in_threads(partial(image.fill, norms[index], places), _tiles(image.queries.masks))
    return norms


_MOST = 1 << 24
"""Elements of all queries, or channels, at once: some float64 copies of it fit into any GPU."""


def _tiles(maps: Tensor) -> list[slice]:
    """Rows of maps (1, Q, h, w) that are dealt with at once."""
    if maps.device.type == "cpu":
        return row_tiles(maps)
    step = max(1, _MOST // (maps.shape[1] * maps.shape[3]))
    return [slice(row, min(row + step, maps.shape[2])) for row in range(0, maps.shape[2], step)]


def _check(request: NormRequest, queries: Queries, *, bias: bool) -> None:
    label, p, variant, part, _, layer = request
    if not (p > 0 and math.isfinite(p)):
        raise SettingsError(f"p is {p}; expected a positive finite number")
    if variant != "exact" or (label not in ("oh", "uni") and part != "feature") or layer == 2:
        raise HeadError(
            f"of a query model there are exact norms for the labels oh and uni, of the mask embeddings, their last "
            f"linear layer and the pixel decoder's last layer; not {variant} {part} of {label!r}, layer {layer}"
        )
    if part == "label":
        return
    queries.require("masks" if layer == 1 else str(layer))
    behind = {"embedding": queries.embedding, "decoder": queries.decoder}.get(str(layer))
    if bias and part == "norm" and (behind is None or not behind.geometry.bias):
        what = "mask embeddings are multiplied without one" if behind is None else f"layer {behind.name!r} has none"
        raise HeadError(f"the gradient of the bias was asked for, but {what}")


class _Image:
    """Norms of one image: sums over the features at once, those over the queries some rows at a time.

    Parameters
    ----------
    queries : Queries
        Of one image.
    wanted : sequence of NormRequest
    dtype : torch.float32 or torch.float64
        Of the sums.
    bias : bool
    """

    def __init__(self, queries: Queries, wanted: Sequence[NormRequest], dtype: torch.dtype, *, bias: bool) -> None:
        self.queries, self.wanted, self.dtype = queries, wanted, dtype
        log_p = queries.log_classes[0].double().clamp_min(_LEAST)
        self.shift = log_p.amax(0)
        self.classes = (log_p - self.shift).exp()
        self.sums: dict[int | str, FeatureSums] = {}
        for layer in dict.fromkeys(request.layer for request in wanted if request.part != "label"):
            ps = sorted({one.p for one in wanted if one.layer == layer and one.part != "label"})
            self.sums[layer] = self._sums(layer, ps, bias)
        self.factors: dict[int | str, Tensor] = {}
        if "embedding" in self.sums:
            assert queries.embedding is not None
            rows = queries.embedding.features[0].to(dtype)
            self.factors["embedding"] = torch.cat([rows, torch.ones_like(rows[:, :1])], 1) if bias else rows
        if "decoder" in self.sums:
            assert queries.embeddings is not None
            self.factors["decoder"] = queries.embeddings[0].to(dtype)

    def _sums(self, layer: int | str, ps: Sequence[float], bias: bool) -> FeatureSums:
        """Sums of powers of what the vector of the label is multiplied with."""
        pixels, behind, size = self.queries.pixels, self.queries.decoder, self.queries.masks.shape[2:]
        assert pixels is not None
        maps, geometry = pixels, Geometry(pixels.shape[1], pixels.shape[1])
        if layer == "decoder":
            assert behind is not None
            maps, geometry = behind.features, behind.geometry
        corners = self.queries.align_corners
        return FeatureSums(maps, geometry, pixels.shape[2:], size, corners, ps, self.dtype, bias and layer == "decoder")

    @torch.inference_mode()  # which a thread of its own would be out of
    def fill(self, norms: Tensor, places: Sequence[Sequence[int]], rows: slice) -> None:
        """Put some rows of norms into their places in `norms`, (len, h, w)."""
        labels = dict.fromkeys(one.label for one in self.wanted if one.part != "feature")
        vectors: dict[tuple[str, int | str], tuple[Tensor, Tensor]]
        vectors = {(label, 1): vector for label, vector in self._label_vectors(tuple(labels), rows).items()}
        for request, own in zip(self.wanted, places, strict=True):
            label, p, _, part, _, layer = request
            if part == "feature":
                total, log2 = self.sums[layer].of(p)[:, rows], self.sums[layer].log2_scale
            else:
                if (label, layer) not in vectors:
                    vectors[label, layer] = self._multiplied(layer, *vectors[label, 1])
                vector, log2 = vectors[label, layer]
                groups = self.sums[layer].groups if part == "norm" else 1
                total = power(vector, p).unflatten(0, (groups, -1)).sum(1)
                if part == "norm":
                    total, log2 = total * self.sums[layer].of(p)[:, rows], log2 + self.sums[layer].log2_scale
            found = (total.sum(0).log2() / p + log2).clamp_min(LOG2_FLOOR).to(norms.dtype)
            for place in own:
                norms[place, rows] = found

    def _multiplied(self, layer: int | str, vector: Tensor, log2_factor: Tensor) -> tuple[Tensor, Tensor]:
        """The vector of the label, pulled back to a layer behind the mask embeddings or the pixel embeddings."""
        found = torch.einsum("qd,qhw->dhw", self.factors[layer], vector.to(self.dtype)).abs()
        largest = found.amax(0)
        return found / torch.where(largest > 0, largest, 1), log2_factor + largest.double().log2()

    def _label_vectors(self, labels: Sequence[str], rows: slice) -> dict[str, tuple[Tensor, Tensor]]:
        """-dL/da / factor, (Q, rows, w), of which the largest is 1 at every pixel, and log2 of the factor.

        In float64, and of s and P as shares of the largest at a pixel and of a class: where every query rejects a pixel
        s itself would be no number any more, and small powers of small numbers are not small.
        """
        masks = self.queries.masks[0, :, rows].double()
        log_s = F.logsigmoid(masks).clamp_min(_LEAST)
        s = (log_s - log_s.amax(0)).exp()
        sums = torch.einsum("qk,qhw->khw", self.classes, s).clamp_min(torch.finfo(torch.float64).tiny)
        unclaimed = F.logsigmoid(-masks).exp()
        found = {}
        for label in labels:
            if label == "oh":
                at = (sums.log() + self.shift[:, None, None]).argmax(0)
                shares = self.classes.T[at].movedim(-1, 0) * s / sums.gather(0, at[None])
            else:
                shares = torch.einsum("qk,khw->qhw", self.classes, sums.reciprocal()) * s / len(sums)
            vector = shares * unclaimed
            factor = vector.amax(0)
            found[label] = vector / torch.where(factor > 0, factor, 1), factor.log2().clamp_min(8 * LOG2_FLOOR)
        return found


class FeatureSums:
    """Sums over taps and channels of |psi / scale|^p of a map, for each p, where it is resized bilinearly too.

    Parameters
    ----------
    maps : Tensor (1, D, h', w')
        What enters a layer.
    geometry : Geometry
        Of the layer.
    own : (height, width)
        Of the layer's output.
    size : (height, width)
        That it is resized to: what is resized is what each tap multiplies.
    align_corners : bool
    ps : sequence of float
    dtype : torch.float32 or torch.float64
    bias : bool
        Whether there is one more tap, whose feature is 1.
    """

    def __init__(
        self,
        maps: Tensor,
        geometry: Geometry,
        own: Sequence[int],
        size: Sequence[int],
        align_corners: bool,
        ps: Sequence[float],
        dtype: torch.dtype,
        bias: bool,
    ) -> None:
        self.ps, self.groups = list(ps), geometry.groups
        if tuple(own) == tuple(size):
            fast = kernels_on(maps.device).sums_of(maps, wide=dtype == torch.float64) if self.groups == 1 else None
            summed = partial(feature_sums, groups=self.groups) if fast is None else fast.feature_sums
            scale, sums = summed(maps, self.ps, dtype, at_least=1.0 if bias else 0.0)
            self.sums = sum_over_taps(sums, geometry, own)[0].unflatten(0, (len(self.ps), -1))
        else:
            scale = maps.abs().amax().to(dtype).clamp_min(1.0 if bias else 0.0)
            scale = torch.where(scale > 0, scale, 1)
            self.sums = torch.zeros((len(self.ps), self.groups, *size), dtype=dtype, device=maps.device)
            for tap in taps(maps.to(dtype) / scale, geometry, own):
                rows_of = row_resizer(tap, (int(size[0]), int(size[1])), align_corners)
                for rows in _tiles(maps.new_empty(()).expand(1, maps.shape[1], size[0], size[1])):
                    some = rows_of(0, rows).abs().unflatten(0, (self.groups, -1))
                    for k, p in enumerate(self.ps):
                        self.sums[k, :, rows] += power(some, p).sum(1)
        self.log2_scale = scale.reshape(()).log2()
        if bias:
            self.sums = self.sums + torch.stack([scale.reshape(()) ** -p for p in self.ps])[:, None, None, None]

    def of(self, p: float) -> Tensor:
        """Sums of one p, (groups, h, w)."""
        return self.sums[self.ps.index(p)]
