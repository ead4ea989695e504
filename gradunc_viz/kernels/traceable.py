"""Scores as expressions without loops over pixels, branches on values or in-place writes, for compilers and exporters.

`gradunc_viz.scores.gradients` and `gradunc_viz.scores.softmax` define the scores and compute them faster in a Python
process; the two agree to the rounding of float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..schema.scores import LOG2_FLOOR, NormRequest, SoftmaxRequest
from .geometry import Geometry

__all__ = ["traceable_norms", "traceable_softmax"]

_LOG2_E = math.log2(math.e)
_LOWEST = torch.finfo(torch.float32).min


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1 for x <= 0, to the last digits also where a runtime has no such function."""
    half = torch.tanh(x / 2)
    return 2 * half / (1 - half)


def _power(x: Tensor, p: float) -> Tensor:
    if p == 1:
        return x
    if p == 2:
        return x * x
    return x.sqrt() if p == 0.5 else (x.log2() * p).exp2()


def _is_top(phi: Tensor) -> Tensor:
    classes = torch.arange(phi.shape[1], device=phi.device).view(1, -1, 1, 1)
    return classes == phi.argmax(1, keepdim=True)


def traceable_softmax(logits: Tensor, wanted: Sequence[SoftmaxRequest]) -> Tensor:
    """Scores of the softmax and logit families, (N, S, h, w), not oriented; see `gradunc_viz.scores.softmax`."""
    phi = logits.float()
    n_classes = phi.shape[1]
    is_top, top = _is_top(phi), phi.amax(1, keepdim=True)

    def scored(request: SoftmaxRequest) -> Tensor:
        kind, temperature = request.kind, request.temperature
        if kind == "max_logit":
            return top[:, 0]
        below = (phi - top) / temperature
        shifted = below.clamp_min(-200.0)
        exps = torch.where(is_top, 0.0, shifted.exp())
        rest = exps.sum(1)
        log_total = rest.log1p()
        if kind == "msp":
            return rest / (1 + rest)
        if kind == "entropy":
            return (log_total - (exps * shifted).sum(1) / (1 + rest)).clamp_min(0)
        if kind == "margin":
            return ((rest + exps.amax(1)) / (1 + rest)).clamp_max(1)
        if kind == "energy":
            return -(top[:, 0] + temperature * log_total)
        if kind == "gini":
            return (rest * (2 + rest) - exps.square().sum(1)) / (1 + rest).square()
        if kind == "kl_uniform":
            mean = (1 + rest) / n_classes
            # where the softmax is flat, digits remain in exp - 1 only
            log_mean = torch.where(mean > 0.6, _expm1(shifted).mean(1).log1p(), mean.log())
            return (log_mean - below.mean(1)).clamp_min(0)
        assert kind == "gen"
        log_pi = below - log_total[:, None]
        # 1 - pi of the prediction is the sum of the others, relative to the largest of them
        others = torch.where(is_top, _LOWEST, phi)
        second = others.amax(1, keepdim=True)
        relative = torch.where(is_top, 0.0, (others - second).clamp_min(-200.0).exp()).sum(1, keepdim=True)
        log_others = relative.log() + second - top - log_total[:, None]
        not_pi = torch.where(is_top, 1.0, 1 - log_pi.exp())
        terms = ((log_pi + torch.where(is_top, log_others, not_pi.log())) * request.gamma).exp()
        if request.largest < n_classes:
            terms = terms.gather(1, phi.topk(request.largest, 1).indices)
        return terms.sum(1)

    return torch.stack([scored(request) for request in wanted], 1)


def traceable_norms(
    logits: Tensor,
    features: Tensor,
    layer: Geometry,
    wanted: Sequence[NormRequest],
    channels: Tensor | None = None,
) -> Tensor:
    """Log2 gradient norms and factors of them, (N, S, h, w); see `gradunc_viz.scores.gradients.norms_and_softmax`.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
        At least two classes.
    features : Tensor (N, D, h', w')
    layer : Geometry
    channels : LongTensor (C,), optional
        Which of the layer's output channels the logits are.
    """
    dtype = torch.float64 if any(w.p > 2 for w in wanted) else torch.float32
    groups = layer.groups
    n, depth, height, width = features.shape
    psi = features.to(dtype).abs()
    scale = psi.amax((1, 2, 3), keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    psi = (psi / scale).reshape(n, groups, depth // groups, height, width)
    size = logits.shape[2:]
    feature_sums = {p: _sum_over_taps(_power(psi, p).sum(2), layer, size) for p in sorted({w.p for w in wanted})}
    of_labels = [w for w in wanted if w.part != "feature"]
    found = _label_sums(logits.to(dtype), of_labels, _group_matrix(layer, logits, channels, dtype))
    label_sums = dict(zip(of_labels, found, strict=True))
    of_none = torch.ones_like(logits[:, :1], dtype=dtype), torch.zeros_like(scale)
    norms = []
    for request in wanted:
        total, log2_factor = label_sums.get(request, of_none)
        if request.part != "label":
            total, log2_factor = total * feature_sums[request.p], log2_factor + scale.log2()
        norm = total.sum(1).log2() / request.p + log2_factor[:, 0]
        norms.append((norm.clamp_min(LOG2_FLOOR) * request.power).clamp_min(LOG2_FLOOR).float())
    return torch.stack(norms, 1)


def _group_matrix(layer: Geometry, logits: Tensor, channels: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(groups, C) with 1 where a logit is of a group; None where there is one group."""
    groups = layer.groups
    if groups == 1:
        return None
    index = torch.arange(logits.shape[1], device=logits.device) if channels is None else channels.to(logits.device)
    of_logit = index // (layer.outputs // groups)
    return (torch.arange(groups, device=logits.device)[:, None] == of_logit[None]).to(dtype)


def _label_sums(phi: Tensor, wanted: Sequence[NormRequest], matrix: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Sums over a group's classes of (|pi_c - y_c| / factor)^p, (N, groups, h, w); log2 of factors, (N, 1, h, w)."""

    def over_classes(x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True) if matrix is None else torch.einsum("gc,nchw->nghw", matrix, x)

    n_classes = phi.shape[1]
    is_top = _is_top(phi)
    top = phi.amax(1, keepdim=True)
    # the other classes relative to the largest of them: digits remain where the network is all but certain
    others = torch.where(is_top, _LOWEST, phi)
    second = others.amax(1, keepdim=True)
    log2_others = torch.where(is_top, -torch.inf, (phi - second) * _LOG2_E)
    rest = log2_others.exp2().sum(1, keepdim=True)
    log2_ratio = (second - top) * _LOG2_E
    log2_total = (rest * log2_ratio.exp2()).log1p() * _LOG2_E

    def at_prediction(x: Tensor) -> Tensor:
        return x if matrix is None else over_classes(torch.where(is_top, x, 0.0))

    found = []
    log2_unit = log2_ratio - log2_total
    unlike = 1 - (log2_others + log2_unit).exp2()  # 1 - pi of every class but the predicted one
    for label, p, variant, *_ in wanted:
        if label == "exp":
            # pi^p (1 - pi) + pi (1 - pi)^p, what all terms have in common taken out
            least = min(p, 1.0)
            first, second = (log2_unit * (p - least)).exp2(), (log2_unit * (1 - least)).exp2()
            own = first * (log2_others * p).exp2() * unlike + second * log2_others.exp2() * _power(unlike, p)
            at_top = first * (-log2_total).exp2() * _power(rest, p) + second * rest * (-log2_total * p).exp2()
            found.append((over_classes(own) + at_prediction(at_top), log2_unit * (least / p)))
            continue
        if (label, variant) == ("uni", "exact"):
            above = _expm1(phi - top)
            above = (above - above.mean(1, keepdim=True)).abs()
            found.append((over_classes(_power(above, p)), -log2_total))
            continue
        shared = over_classes((log2_others * p).exp2())
        if label == "oh":
            exact = shared + at_prediction(_power(rest, p)) if variant == "exact" else shared
            found.append((exact, log2_unit))
        else:
            ratio = (log2_ratio * p).exp2()
            paper = shared * ratio + at_prediction(torch.ones_like(ratio))
            found.append((paper, math.log2((n_classes - 1) / n_classes) - log2_total))
    return found


def _sum_over_taps(planes: Tensor, layer: Geometry, size: Sequence[int]) -> Tensor:
    """The layer's geometry with a kernel of ones, of (N, groups, h', w'), as sums of shifted slices."""
    if layer.pointwise:
        return planes
    stride: Sequence[int] = (1, 1)
    if layer.transposed:
        planes = _spread(planes, layer, size)
    else:
        stride, planes = layer.stride, layer.padded(planes)
    for axis in (0, 1):
        kernel, dilation, step, count = layer.kernel_size[axis], layer.dilation[axis], stride[axis], size[axis]
        slices = []
        for tap in range(kernel):
            part = slice(tap * dilation, tap * dilation + (count - 1) * step + 1, step)
            slices.append(planes[:, :, part] if axis == 0 else planes[:, :, :, part])
        total = slices[0]
        for part_of in slices[1:]:
            total = total + part_of
        planes = total
    return planes


def _spread(planes: Tensor, layer: Geometry, size: Sequence[int]) -> Tensor:
    """Zeros between and around the features, so that a convolution of them is the transposed one."""
    n, groups, height, width = planes.shape
    down, right = layer.stride
    # every feature becomes the corner of a block of zeros
    planes = F.pad(planes.reshape(n, groups, height, 1, width, 1), (0, right - 1, 0, 0, 0, down - 1))
    planes = planes.reshape(n, groups, height * down, width * right)
    edges: list[int] = []
    for axis in (1, 0):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        before = reach - layer.before(axis)
        # so that the slices of all taps are as long as the logits
        edges += [before, size[axis] + reach - before - planes.shape[2 + axis]]
    return F.pad(planes, edges)
