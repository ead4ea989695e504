"""Gradient norms and scores of logits in plain torch: one formula after the other, on any device, for any layer.

What every faster path is tested against. Every sum has its largest factor taken out before powers are formed, so that
nothing leaves the range of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from ..schema.scores import NormRequest, SoftmaxRequest

__all__ = ["feature_sums", "label_sums", "label_vectors", "power", "row_tiles", "softmax_formulas"]

_LOG2_E = math.log2(math.e)

_TILE = 1 << 18  # elements per row tile: a few float32 copies of it stay in a core's cache


def row_tiles(tensor: Tensor) -> list[slice]:
    """Rows of (N, C, h, w) in tiles small enough for the cache on a CPU, all at once elsewhere."""
    n, c, h, w = tensor.shape
    step = h if tensor.device.type != "cpu" else max(1, _TILE // max(1, n * c * w))
    return [slice(row, min(row + step, h)) for row in range(0, h, step)]


def power(x: Tensor, p: float) -> Tensor:
    """x^p for x >= 0, by the cheapest operation."""
    return _powers(x)(p)


def _powers(x: Tensor, log2: Tensor | None = None) -> Callable[[float], Tensor]:
    """Return p -> x^p for x >= 0, taking the logarithm, where it is not known, once for all p that need it."""
    log = [] if log2 is None else [log2]

    def power(p: float) -> Tensor:
        if p == 1:
            return x
        if p == 2:
            return x * x
        if p == 0.5:
            return x.sqrt()
        if not log:
            log.append(x.log2())
        return (log[0] * p).exp2_()

    return power


def feature_sums(
    features: Tensor, ps: Sequence[float], dtype: torch.dtype, *, groups: int = 1, at_least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum over the channels of |psi / scale|^p, per p and group of channels.

    Parameters
    ----------
    features : Tensor (N, D, h, w)
    ps : sequence of float
    dtype : torch.float32 or torch.float64
        Of the sums.
    groups : int
        Of the layer.
    at_least : float
        Smallest scale that may be chosen.

    Returns
    -------
    scale : Tensor (N,)
        The largest |psi| of each image; dividing by it keeps every power in range.
    sums : Tensor (N, len(ps) * groups, h, w), groups fastest
    """
    n, d, height, width = features.shape
    scale = features.abs().amax((1, 2, 3), keepdim=True).to(dtype).clamp_min(at_least)
    scale = torch.where(scale > 0, scale, 1)
    sums = features.new_empty((n, len(ps), groups, height, width), dtype=dtype)
    for rows in row_tiles(features):
        x = features[:, :, rows].to(dtype).abs() / scale
        power = _powers(x.unflatten(1, (groups, d // groups)))
        for k, p in enumerate(ps):
            sums[:, k, :, rows] = power(p).sum(2)
    return scale.flatten(), sums.flatten(1, 2)


def label_sums(
    logits: Tensor,
    wanted: Sequence[NormRequest],
    group: Tensor | None,
    n_groups: int,
    dtype: torch.dtype,
) -> dict[NormRequest, tuple[Tensor, Tensor]]:
    """Sum over classes of |pi_c - y_c|^p (or the paper's variant), per request, with a factor taken out.

    Of the expected label, where y is the one-hot of class c with probability pi_c, it is the expected sum: every class
    adds pi^p (1 - pi) + pi (1 - pi)^p.

    Returns
    -------
    dict of request -> (Tensor (N, groups, rows, w), Tensor (N, rows, w))
        Sum of (|pi_c - y_c| / factor)^p over the group's classes, and log2 of the factor.
    """
    phi = logits.to(dtype)
    n_classes = phi.shape[1]

    def over_classes(x: Tensor) -> Tensor:
        if group is None:
            return x.sum(1, keepdim=True)
        return x.new_zeros((x.shape[0], n_groups, *x.shape[2:])).index_add_(1, group, x)

    def at_prediction(x: Tensor) -> Tensor:
        if group is None:
            return x
        return x.new_zeros((x.shape[0], n_groups, *x.shape[2:])).scatter_(1, group[predicted], x)

    top, predicted = phi.max(1, keepdim=True)
    # The other classes relative to the largest of them, however far it is below the prediction. 1 - pi of the
    # predicted class is their sum: no cancellation where the network is sure.
    others = phi.scatter(1, predicted, -torch.inf)
    second = others.amax(1, keepdim=True)
    log2_others = others.sub_(second.clamp_min(torch.finfo(dtype).min)).mul_(_LOG2_E)
    others = log2_others.exp2()
    rest = others.sum(1, keepdim=True)
    log2_ratio = (second - top) * _LOG2_E
    log2_total = (rest * log2_ratio.exp2()).log1p() * _LOG2_E

    others_power, rest_power = _powers(others, log2_others), _powers(rest)
    sums: dict[NormRequest, tuple[Tensor, Tensor]] = {}
    for p in sorted({w.p for w in wanted if w.label == "oh" or w.variant == "paper"}):
        shared = over_classes(others_power(p))
        for request in (w for w in wanted if w.p == p):
            if request.label == "oh":
                found = shared + at_prediction(rest_power(p)) if request.variant == "exact" else shared
                sums[request] = found, (log2_ratio - log2_total)[:, 0]
            elif request.variant == "paper":
                ratio = (log2_ratio * p).exp2()
                factor = math.log2((n_classes - 1) / n_classes) if n_classes > 1 else -math.inf
                sums[request] = (
                    shared * ratio + at_prediction(torch.ones_like(ratio)),
                    factor - log2_total[:, 0],
                )
    if any(w.label == "exp" for w in wanted):
        # pi_c = u e_c of every class but the predicted one, with the e_c that are known already and u at most 1/2
        log2_unit = (log2_ratio - log2_total).clamp_min(torch.finfo(dtype).min)
        unlike = 1 - others * log2_unit.exp2()
        log2_sure, log2_rest, log2_unlike = -log2_total, rest.log2(), unlike.log2()
        for request in (w for w in wanted if w.label == "exp"):
            p, least = request.p, min(request.p, 1.0)
            # the power of u that all terms have in common is taken out
            first, second = (log2_unit * (p - least)).exp2(), (log2_unit * (1 - least)).exp2()
            own = first * others_power(p) * unlike + second * others * (log2_unlike * p).exp2()
            at_top = first * (log2_sure + log2_rest * p).exp2() + second * (log2_rest + log2_sure * p).exp2()
            sums[request] = over_classes(own) + at_prediction(at_top), log2_unit[:, 0] * (least / p)
    uniform = [w for w in wanted if (w.label, w.variant) == ("uni", "exact")]
    if uniform:
        # pi_c - 1/C = (a_c - mean a) / total with a = exp(phi - max phi) - 1: digits remain where the softmax is flat
        above = (phi - top).expm1_()
        power = _powers(above.sub_(above.mean(1, keepdim=True)).abs_())
        for request in uniform:
            sums[request] = over_classes(power(request.p)), -log2_total[:, 0]
    return sums


def label_vectors(logits: Tensor, label: str, variant: str, predicted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Derivative of each pixel's loss by its logits, pi - y (or the paper's variant), with a factor taken out.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
    label, variant : str
        As of `label_sums`, one-hot or uniform.
    predicted : LongTensor (N, h, w), optional
        Class that a one-hot label stands for, where it is not that of the largest logit.

    Returns
    -------
    Tensor (N, C, h, w), Tensor (N, h, w)
        (pi - y) / factor, and log2 of the factor.
    """
    top, largest = logits.max(1, keepdim=True)
    at = largest if predicted is None else predicted[:, None]
    exps = (logits - top).exp()
    total = exps.scatter(1, largest, 0.0).sum(1).log1p() * _LOG2_E  # the largest itself is 1
    if label == "uni":
        if variant == "paper":
            n_classes = logits.shape[1]
            return exps, math.log2((n_classes - 1) / n_classes) - total
        above = (logits - top).expm1()
        return above - above.mean(1, keepdim=True), -total
    # the other classes relative to the largest of them: digits remain where the network is all but certain
    others = logits.scatter(1, at, -torch.inf)
    second = others.amax(1, keepdim=True)
    relative = (others - second.clamp_min(torch.finfo(logits.dtype).min)).exp()
    vector = relative if variant == "paper" else relative.scatter(1, at, -relative.sum(1, keepdim=True))
    return vector, ((second - top) * _LOG2_E)[:, 0] - total


@dataclass(frozen=True)
class _Softmax:
    """Softmax over the classes at a temperature, every exponential relative to that of the largest logit, 1.

    Attributes
    ----------
    shifted : Tensor (N, C, h, w)
        (phi - max phi) / T.
    others : Tensor (N, C, h, w)
        Its exponentials, 0 at the prediction: the others are summed without it.
    predicted : LongTensor (N, 1, h, w)
    """

    shifted: Tensor
    others: Tensor
    predicted: Tensor

    @cached_property
    def rest(self) -> Tensor:
        """Sum of the exponentials of all classes but the predicted one."""
        return self.others.sum(1)

    @property
    def total(self) -> Tensor:
        """Sum of all exponentials."""
        return 1 + self.rest

    def msp(self) -> Tensor:
        return self.rest / self.total

    def entropy(self) -> Tensor:
        # H = ln Z - sum_c e_c s_c / Z with s = phi - max; e s -> 0 as e -> 0, where s may be -inf
        weighted = torch.where(self.others > 0, self.others * self.shifted, torch.zeros_like(self.others)).sum(1)
        return (torch.log1p(self.rest) - weighted / self.total).clamp_min(0)

    def margin(self) -> Tensor:
        # 1 - (pi_1 - pi_2) = (sum of the others + pi_2's numerator) / total; of one class there is no second
        return ((self.rest + self.others.amax(1)) / self.total).clamp_max(1)

    def gini(self) -> Tensor:
        # with r and q the sum of the others and of their squares, 1 - (1 + q) / (1 + r)^2 = (2 r + r^2 - q) / (1 + r)^2
        return (self.rest * (2 + self.rest) - self.others.square().sum(1)) / self.total.square()

    def kl_uniform(self) -> Tensor:
        # ln of the mean exponential less the mean logarithm; of a flat softmax digits remain in exp - 1 only
        flat = torch.log1p(self.shifted.expm1().mean(1))
        mean = torch.where(self.total > 0.6 * self.shifted.shape[1], flat, (self.total / self.shifted.shape[1]).log())
        return (mean - self.shifted.mean(1)).clamp_min(0)

    def gen(self, gamma: float, largest: int) -> Tensor:
        # pi_c and 1 - pi_c as logarithms: a small power of what is too small for a float is not small
        log_total = torch.log1p(self.rest)[:, None]
        log_pi = self.shifted - log_total
        log_others = self.shifted.scatter(1, self.predicted, -torch.inf).logsumexp(1, keepdim=True) - log_total
        log_not_pi = (-log_pi.exp()).log1p().scatter(1, self.predicted, log_others)
        terms = ((log_pi + log_not_pi) * gamma).exp()
        if largest < terms.shape[1]:
            terms = terms.gather(1, log_pi.topk(largest, 1).indices)
        return terms.sum(1)


def softmax_formulas(
    logits: Tensor, wanted: Sequence[SoftmaxRequest], label: Tensor | None = None
) -> dict[SoftmaxRequest, Tensor]:
    """Scores of logits, prediction and errors, as `gradunc_viz.scores.softmax.softmax_scores` describes them."""
    phi = logits if logits.dtype == torch.float64 else logits.float()
    top, predicted = phi.max(1, keepdim=True)

    @cache
    def at(temperature: float) -> _Softmax:
        shifted = (phi - top) / temperature
        return _Softmax(shifted, shifted.exp().scatter(1, predicted, 0.0), predicted)

    @cache
    def log_pi() -> Tensor:
        return torch.log_softmax(phi, 1)

    def brier(index: Tensor) -> Tensor:
        # sum_c (pi_c - y_c)^2 = sum_{c != label} pi_c^2 + (sum_{c != label} pi_c)^2, free of cancellation
        pi = log_pi().exp().scatter(1, index, 0.0)
        return pi.square().sum(1) + pi.sum(1).square()

    formulas: dict[str, Callable[[SoftmaxRequest], Tensor]] = {
        "prediction": lambda _: predicted[:, 0],
        "max_logit": lambda _: top[:, 0],
        "msp": lambda r: at(r.temperature).msp(),
        "entropy": lambda r: at(r.temperature).entropy(),
        "margin": lambda r: at(r.temperature).margin(),
        "energy": lambda r: -(top[:, 0] + r.temperature * at(r.temperature).rest.log1p()),
        "gini": lambda _: at(1.0).gini(),
        "kl_uniform": lambda _: at(1.0).kl_uniform(),
        "gen": lambda r: at(1.0).gen(r.gamma, r.largest),
    }
    if label is not None:
        index = label.unsqueeze(1)
        formulas |= {
            "nll": lambda _: -log_pi().gather(1, index)[:, 0],
            "brier": lambda _: brier(index),
        }
    return {request: formulas[request.kind](request) for request in wanted}
