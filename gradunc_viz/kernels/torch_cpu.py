"""The sums behind gradient norms and softmax scores on a CPU: one pass over features and logits.

The pass goes through blocks that stay in the caches, in buffers that are allocated once, so that nothing larger than
the result is. `gradunc_viz.kernels.reference` says the same one formula after the other; the two agree to the
rounding of their dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..schema.scores import LOG2_FLOOR, NormRequest, SoftmaxRequest
from .powers import PowerStep, drawn_powers, power_plan
from .threads import empty

__all__ = ["feature_sums", "label_pass"]


_LOG2_E = math.log2(math.e)
_LIFT = 60  # log2 of a factor that makes every subnormal normal, whatever the dtype
_BLOCK = 1 << 18  # elements for each thread: large beside the cost of starting an operation, small beside the caches


def _block_size() -> int:
    return _BLOCK * min(4, torch.get_num_threads())


class _Buffers:
    """Memory for the intermediate values of a block, used again for every block."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.free: list[Tensor] = []
        self.lent: dict[int, Tensor] = {}

    def take(self, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        flat = self.free.pop() if self.free else torch.empty(size, dtype=self.dtype)
        if len(flat) < size:
            flat = torch.empty(size, dtype=self.dtype)
        self.lent[flat.data_ptr()] = flat
        return flat[:size].view(tuple(shape))

    def give(self, *tensors: Tensor | None) -> None:
        self.free += [self.lent.pop(tensor.data_ptr()) for tensor in tensors if tensor is not None]

    def powers(
        self,
        plan: Sequence[PowerStep],
        log2: Tensor | None,
        *,
        unit: float = 1.0,
        offset: float = 0.0,
        zero: float | None = None,
        given: Tensor | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """Yield (p, x^p) for every wanted p; a tensor is only valid until the next one.

        The logarithm of x is `log2` times `unit` plus `offset`, and that of 0 is put as `zero`; there may be none
        where no step is an exponential. `given` is x.
        """
        held: dict[int, Tensor] = {}
        for k, step in enumerate(plan):
            if step.kind == "given":
                assert given is not None
                power = given
            elif step.kind == "exponential":
                assert log2 is not None
                power = self.take(log2.shape)
                start = torch.tensor(offset * step.p, dtype=self.dtype)
                torch.add(start, log2, alpha=unit * step.p, out=power).exp2_()
                if zero is not None:
                    F.threshold(power, 2.0 ** ((zero + 0.5) * step.p), 0.0, inplace=True)
            else:
                factors = [held[i] for i in step.factors]
                # the last use of a factor, but for x itself, leaves its place to the product
                over = [i for i in step.last if i in step.factors and held[i] is not given]
                power = held.pop(over[0]) if over else self.take(factors[0].shape)
                if step.kind == "root":
                    torch.sqrt(factors[0], out=power)
                else:
                    torch.mul(*factors, out=power)
            held[k] = power
            if step.wanted:
                yield step.p, power
            self.give(*(held.pop(i) for i in step.last if i in held and held[i] is not given))


def _slabs(tensor: Tensor, pixels: int) -> list[tuple[int, slice]]:
    """Images and rows of (N, C, h, w) in slabs of about so many pixels."""
    n, _, height, width = tensor.shape
    rows = max(1, pixels // max(1, width))
    return [(image, slice(row, min(row + rows, height))) for image in range(n) for row in range(0, height, rows)]


def _needs_log(plan: Sequence[PowerStep]) -> bool:
    return any(step.kind == "exponential" for step in plan)


# --------------------------------------------------------------------------------------------------------------------
# features


def feature_sums(
    features: Tensor, ps: Sequence[float], dtype: torch.dtype, *, at_least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum over the channels of |psi / scale|^p, reading the features once.

    Parameters
    ----------
    features : Tensor (N, D, h, w)
    ps : sequence of float
    dtype : torch.float32 or torch.float64
        Of the sums.
    at_least : float
        Smallest scale that may be chosen.

    Returns
    -------
    scale : Tensor (N,)
        A power of two for each image that keeps every power in range.
    sums : Tensor (N, len(ps), h, w)
    """
    n, depth, height, width = features.shape
    plan = power_plan(tuple(ps), True)
    row = {p: k for k, p in enumerate(ps)}
    buffers = _Buffers(dtype)
    result = empty((n, len(ps), height, width), dtype)
    tiny = torch.finfo(dtype).tiny
    # a slab has all channels of some pixels, a block some of the channels
    channels = min(depth, 128)

    def add_up(x: Tensor, out: Tensor, scale: float | None) -> float:
        """Fill `out` (len(ps), pixels) and return the largest |psi|."""
        largest = 0.0
        for first in range(0, depth, channels):
            part = x[first : first + channels]
            given = buffers.take(part.shape)
            torch.abs(part if part.dtype == dtype else given.copy_(part), out=given)
            if scale is None:
                largest = max(largest, float(given.amax()))
            else:
                given.div_(scale)
            log2 = None
            if _needs_log(plan):
                # of normal numbers only: the logarithms of 0, frequent among features, and of subnormals are slow
                log2 = torch.mul(given, 2.0**_LIFT, out=buffers.take(given.shape)).clamp_min_(tiny).log2_()
            for p, power in buffers.powers(plan, log2, offset=-_LIFT, zero=math.log2(tiny) - _LIFT, given=given):
                if first == 0:
                    torch.sum(power, 0, out=out[row[p]])
                else:
                    out[row[p]] += power.sum(0)
            buffers.give(given, log2)
        return largest

    scales = torch.ones(n, height, dtype=torch.float64)
    zero = torch.zeros(n, height, dtype=torch.bool)
    for image, rows in _slabs(features, _block_size() // max(1, channels)):
        x, out = features[image, :, rows].flatten(1), result[image, :, rows].flatten(1)
        largest = add_up(x, out, None)
        # near 1 every square is in the range of float32
        if 0 < largest < math.inf and not 2.0**-10 <= largest <= 2.0**30:
            scale = 2.0 ** math.floor(math.log2(largest))
            add_up(x, out, scale)
            scales[image, rows] = scale
        zero[image, rows] = largest == 0
    common = scales.masked_fill(zero, at_least).amax(1).clamp_min(at_least)
    common[common == 0] = 1
    if bool((scales != 1).any()) or bool((common != 1).any()):
        for k, p in enumerate(ps):
            result[:, k] *= (scales / common[:, None]).pow(p)[..., None]
    return common, result


# --------------------------------------------------------------------------------------------------------------------
# logits


@dataclass
class _Softmax:
    """What one pass over the classes of a block found; every plane has one entry per pixel."""

    top: Tensor  # largest logit
    second: Tensor  # how far the second largest is below it
    sums: dict[float, Tensor]  # p -> sum over the other classes of exp(phi - second largest)^p
    log_total: Tensor  # ln of the sum over all classes of exp(phi - top)
    weighted: dict[float, Tensor]  # p -> sum over the other classes of (second largest - phi) exp(phi - second)^p
    prediction: Tensor | None
    truth: Tensor | None  # how far the label's logit is below the largest
    uniform: dict[float, Tensor]  # p -> sum over all classes of |exp(phi - top) - mean|^p
    expected: dict[float, Tensor]  # p -> sum over the classes of the expected |pi - y|^p, see `_expected_sums`
    whole: dict[SoftmaxRequest, Tensor]  # scores that took a pass of their own

    def ratio(self, p: float = 1.0) -> Tensor:
        """exp(phi - top)^p of the second largest."""
        return torch.exp(self.second * -p)

    def score(self, request: SoftmaxRequest) -> Tensor:
        """Values of one score of the softmax family, or the predicted classes."""
        kind, temperature = request.kind, request.temperature
        if request in self.whole:
            return self.whole[request]
        if kind == "max_logit":
            return self.top
        if kind == "prediction":
            assert self.prediction is not None
            return self.prediction
        # of the softmax at the temperature, where the prediction has 1: the other classes' sum
        p = 1 / temperature
        ratio = self.ratio(p)
        rest = self.sums[p] * ratio
        if kind == "msp":
            return rest / (1 + rest)
        if kind == "entropy":
            weighted = ratio * (self.weighted[p] + self.second * self.sums[p]) * p
            return (rest.log1p() + weighted / (1 + rest)).clamp_min_(0)
        if kind == "margin":
            return ((rest + ratio.where(rest > 0, 0)) / (1 + rest)).clamp_max_(1)
        if kind == "energy":
            return -(self.top + temperature * rest.log1p())
        if kind == "nll":
            assert self.truth is not None
            return self.truth + self.log_total
        squares = self.sums[2.0] * self.ratio(2.0)
        if kind == "gini":
            return (rest * (2 + rest) - squares) / (1 + rest).square()
        assert kind == "brier"
        assert self.truth is not None
        at_truth, right = torch.exp(-self.truth), self.truth == 0
        # without cancellation: where the label is the prediction nothing is subtracted, elsewhere the sum exceeds 1
        others = torch.where(right, squares, 1 + squares - at_truth.square())
        missed = torch.where(right, rest, 1 + rest - at_truth)
        return (others + missed.square()) / (1 + rest).square()


def _divergence(x: Tensor, top: Tensor, log_total: Tensor, buffers: _Buffers) -> Tensor:
    """KL(u || pi) of (C, pixels) logits: ln of the mean exponential less the mean logarithm, both below the top."""
    below = torch.sub(x, top, out=buffers.take(x.shape))
    mean = below.mean(0)
    log_mean = log_total - math.log(len(x))
    flat = log_mean > math.log(0.6)
    if bool(flat.any()):  # where the softmax is flat, digits remain in exp - 1 only
        log_mean = torch.where(flat, below.expm1_().mean(0).log1p_(), log_mean)
    buffers.give(below)
    return (log_mean - mean).clamp_min_(0)


def _generalised_entropy(
    x: Tensor, top: Tensor, log_total: Tensor, log_others: Tensor, request: SoftmaxRequest, buffers: _Buffers
) -> Tensor:
    """Sum of pi_c^gamma (1 - pi_c)^gamma; `log_others` is ln of 1 - pi of the prediction."""
    if request.largest < len(x):
        x = x.topk(request.largest, 0).values
    log_pi = torch.sub(x, top, out=buffers.take(x.shape)).sub_(log_total)
    log_not_pi = torch.exp(log_pi, out=buffers.take(x.shape)).neg_().log1p_()
    torch.where(x == top, log_others, log_not_pi, out=log_not_pi)
    found = log_not_pi.add_(log_pi).mul_(request.gamma).exp_().sum(0)
    buffers.give(log_pi, log_not_pi)
    return found


def _two_largest(x: Tensor, buffers: _Buffers) -> tuple[Tensor, Tensor]:
    """Largest and second largest of the rows of (C, pixels), by halves; of one row the second is minus infinity."""
    tops, seconds = x, torch.full_like(x[:1], -math.inf).expand_as(x)
    spare: list[tuple[Tensor, Tensor]] = []
    while len(tops) > 1:
        half = len(tops) // 2
        if len(tops) % 2:
            spare.append((tops[-1].clone(), seconds[-1].clone()))
        a, b = tops[:half], tops[half : 2 * half]
        lower = torch.minimum(a, b, out=buffers.take(a.shape))
        if tops is x:
            higher = torch.maximum(a, b, out=buffers.take(a.shape))
        else:
            torch.maximum(seconds[:half], seconds[half : 2 * half], out=seconds[:half])
            torch.maximum(lower, seconds[:half], out=lower)
            higher = torch.maximum(a, b, out=a)
            buffers.give(seconds)
        tops, seconds = higher, lower
    top, second = tops[0].clone(), seconds[0].clone()
    if tops is not x:
        buffers.give(tops, seconds)
    for a, c in spare:
        second = torch.maximum(torch.maximum(second, c), torch.minimum(top, a))
        top = torch.maximum(top, a)
    return top, second


def _softmax_block(
    x: Tensor,
    buffers: _Buffers,
    ps: tuple[float, ...],
    uniform_ps: tuple[float, ...],
    expected_ps: tuple[float, ...],
    softmax: Sequence[SoftmaxRequest],
    label: Tensor | None,
) -> _Softmax:
    """Pass over (C, pixels) logits. `ps` contains 1, and whatever powers the scores take."""
    classes = len(x)
    top, runner_up = _two_largest(x, buffers)
    runner_up = torch.where(runner_up.isneginf(), top, runner_up)  # no second class: nothing remains but the prediction
    second = top - runner_up
    ratio = torch.exp(-second)
    prediction = None
    kinds = {request.kind for request in softmax}
    weighted_ps = {1 / request.temperature for request in softmax if request.kind == "entropy"}
    if "prediction" in kinds:
        small = torch.uint8 if classes <= 255 else torch.int32
        rank = torch.arange(classes, 0, -1, dtype=small)[:, None]
        prediction = classes - ((x == top) * rank).amax(0).long()
    # Relative to the second largest no sum is too small for its dtype. The prediction itself is put beside the second
    # class, so that it adds 1 to every sum and is taken off without loss, for the others add 1 at least.
    plan = power_plan(ps, False)
    below = torch.sub(runner_up, x, out=buffers.take(x.shape))
    # finite, so that 0 times it is 0
    limits = torch.finfo(x.dtype)
    below.clamp_(0, min(-2 * math.log2(limits.tiny) / min(step.p for step in plan), limits.max))
    sums = {p: torch.empty_like(top) for p in ps}
    weighted: dict[float, Tensor] = {}
    exps = relative = None
    for p, power in buffers.powers(plan, below, unit=-_LOG2_E):
        torch.sum(power, 0, out=sums[p]).sub_(1)
        if p in weighted_ps:
            product = torch.mul(power, below, out=buffers.take(x.shape))
            weighted[p] = product.sum(0)
            buffers.give(product)
        if p == 1 and uniform_ps:
            exps = torch.mul(power, ratio, out=buffers.take(x.shape))
        if p == 1 and expected_ps:
            relative = buffers.take(x.shape).copy_(power)
    buffers.give(below)
    total = sums[1.0] * ratio
    expected = {}
    if relative is not None:
        expected = _expected_sums(relative, second, total.log1p(), sums, buffers, expected_ps)
        buffers.give(relative)
    uniform = {}
    if exps is not None:
        uniform = _uniform_sums(x, top, ratio, exps, (1 + total) / classes, buffers, uniform_ps)
        buffers.give(exps)
    truth = None if label is None else top - x.gather(0, label[None])[0]
    log_total = total.log1p()
    whole = {}
    for request in softmax:
        if request.kind == "kl_uniform":
            whole[request] = _divergence(x, top, log_total, buffers)
        if request.kind == "gen":
            log_others = sums[1.0].log() - second - log_total
            whole[request] = _generalised_entropy(x, top, log_total, log_others, request, buffers)
    return _Softmax(top, second, sums, log_total, weighted, prediction, truth, uniform, expected, whole)


def _uniform_sums(
    x: Tensor, top: Tensor, ratio: Tensor, exps: Tensor, mean: Tensor, buffers: _Buffers, ps: tuple[float, ...]
) -> dict[float, Tensor]:
    """Sum over the classes of |exp(phi - top) - mean|^p; `exps`, where the prediction has `ratio`, is overwritten."""
    exps.sub_(mean)
    # what stands there for the prediction, and what should
    at_top = torch.stack([ratio, torch.ones_like(ratio)]).sub_(mean)
    flat = mean > 0.6
    if bool(flat.any()):  # where the softmax is flat, digits remain in exp - 1 only
        above = torch.sub(x, top, out=buffers.take(x.shape)).expm1_()
        torch.where(flat, above.sub_(above.mean(0)), exps, out=exps)
        at_top.masked_fill_(flat, 0)
        buffers.give(above)
    plan = power_plan(ps, True)
    found = {}
    for tensor in (exps.abs_(), at_top.abs_()):
        log2 = torch.log2(tensor, out=buffers.take(tensor.shape)) if _needs_log(plan) else None
        for p, power in buffers.powers(plan, log2, given=tensor):
            if tensor is exps:
                found[p] = power.sum(0)
            else:
                found[p] += power[1] - power[0]
        buffers.give(log2)
    return found


def _expected_sums(
    relative: Tensor,
    second: Tensor,
    log_total: Tensor,
    sums: dict[float, Tensor],
    buffers: _Buffers,
    ps: tuple[float, ...],
) -> dict[float, Tensor]:
    """Sum over the classes of pi^p (1 - pi) + pi (1 - pi)^p, divided by u^min(p, 1), pi = u e but for the prediction.

    `relative` is e, and overwritten; the prediction stands there beside the second class, with 1. u is at most 1/2, so
    that nothing cancels in 1 - pi.
    """
    log2_unit = (second + log_total).mul_(-_LOG2_E)
    unit, log2_sure, log2_rest = log2_unit.exp2(), log_total * -_LOG2_E, sums[1.0].log2()
    found = {p: (sums[1.0] - unit * sums[2.0] + torch.exp2(log2_rest + log2_sure)) * (2 / p) for p in ps if p in (1, 2)}
    others = [p for p in ps if p not in found]
    if not others:
        return found
    log2_unlike = torch.mul(relative, unit, out=buffers.take(relative.shape)).neg_().add_(1).log2_()
    log2_at_top = (1 - unit).log2_()
    for p in others:
        least = min(p, 1.0)
        powers = torch.mul(log2_unlike, p, out=buffers.take(relative.shape)).exp2_().mul_(relative)
        likely = powers.sum(0).sub_(torch.exp2(log2_at_top * p)).add_(torch.exp2(log2_rest + log2_sure * p))
        unlikely = sums[p] - unit * sums[p + 1] + torch.exp2(log2_sure + log2_rest * p)
        found[p] = likely.mul_(torch.exp2(log2_unit * (1 - least))).add_(
            unlikely.mul_(torch.exp2(log2_unit * (p - least)))
        )
        buffers.give(powers)
    buffers.give(log2_unlike)
    return found


def label_pass(
    logits: Tensor,
    wanted: Sequence[NormRequest],
    sums: Tensor | None,
    ps: Sequence[float],
    log2_scale: Tensor | None,
    softmax: Sequence[SoftmaxRequest],
    dtype: torch.dtype,
    label: Tensor | None = None,
) -> tuple[Tensor, dict[SoftmaxRequest, Tensor]]:
    """Norms and scores of the softmax family in one pass over the logits.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
    wanted : sequence of NormRequest
        Norms, and factors of them, to be computed; not their powers.
    sums : Tensor (N, len(ps), h, w), ps, log2_scale : Tensor (N,)
        The features' part of the norms: sums over channels and taps, in `dtype`.
    softmax : sequence of SoftmaxRequest
        What `gradunc_viz.scores.softmax.softmax_scores` asks for.
    dtype : torch.float32 or torch.float64
        In which sums are taken.
    label : LongTensor (N, h, w), optional
        Class ids, for the scores that need them.

    Returns
    -------
    Tensor (N, len(wanted), h, w), dict of request -> Tensor (N, h, w)
        log2 norms and scores, in `dtype`; predictions are int64.
    """
    n, classes, height, width = logits.shape
    others = {w.p for w in wanted if w.label == "oh" or w.variant == "paper"} | {1.0}
    uniform_ps, expected_ps, rest_ps = (
        tuple(sorted({w.p for w in wanted if (w.label, w.variant) == (name, "exact")})) for name in ("uni", "exp", "oh")
    )
    of_softmax = {p for request in softmax for p in request.powers}
    all_ps = tuple(sorted(others | drawn_powers(expected_ps) | of_softmax))
    norms = empty((n, len(wanted), height, width), dtype)
    scores = {
        request: empty((n, height, width), torch.int64 if request.kind == "prediction" else dtype)
        for request in softmax
    }
    feature_rows = [None if w.part == "label" else list(ps).index(w.p) for w in wanted]
    inverse = torch.tensor([1 / w.p for w in wanted], dtype=dtype)[:, None]
    buffers = _Buffers(dtype)

    def put_together(found: _Softmax, feature: Sequence[Tensor | None], scale: float, out: Tensor) -> None:
        """Put the parts of every wanted norm together: (len(wanted), pixels)."""
        rest = {}
        if rest_ps:
            one = found.sums[1.0]
            rest = {p: x.clone() for p, x in buffers.powers(power_plan(rest_ps, True), one.log2(), given=one)}
        parts = buffers.take((len(wanted), len(found.top)))
        for part, own, (name, p, variant, kind, *_) in zip(parts, feature, wanted, strict=True):
            if kind == "feature":
                part.fill_(1)
            elif name == "exp":
                part.copy_(found.expected[p])
            elif name == "uni" and variant == "exact":
                part.copy_(found.uniform[p])
            elif name == "uni":
                torch.exp2(found.second * (-_LOG2_E * p), out=part).mul_(found.sums[p]).add_(1)
            elif variant == "exact":
                torch.add(found.sums[p], rest[p], out=part)
            else:
                part.copy_(found.sums[p])
            if own is not None:
                part.mul_(own)
        parts.log2_().mul_(inverse)
        uniform = found.log_total * -_LOG2_E
        one_hot = uniform - found.second * _LOG2_E
        paper = math.log2((classes - 1) / classes) if classes > 1 else -math.inf
        for part, own, row, (name, p, variant, kind, *_) in zip(parts, feature, out, wanted, strict=True):
            row.copy_(part)
            if kind != "feature":
                row.add_(one_hot if name == "oh" else one_hot * min(1.0, 1 / p) if name == "exp" else uniform)
                row.add_(paper if (name, variant) == ("uni", "paper") else 0.0)
            row.add_(0.0 if own is None else scale)
        out.clamp_min_(LOG2_FLOOR)
        buffers.give(parts)

    for image, rows in _slabs(logits, _block_size() // max(1, classes)):
        x = logits[image, :, rows].flatten(1)
        copied = None
        if x.dtype != dtype or x.stride(1) != 1:
            x = copied = buffers.take(x.shape).copy_(x)
        truth = None if label is None else label[image, rows].flatten()
        found = _softmax_block(x, buffers, all_ps, uniform_ps, expected_ps, softmax, truth)
        for request, target in scores.items():
            target[image, rows].view(-1).copy_(found.score(request))
        if wanted:
            own = [None if k is None or sums is None else sums[image, k, rows].flatten() for k in feature_rows]
            scale = 0.0 if log2_scale is None else float(log2_scale[image])
            put_together(found, own, scale, norms[image, :, rows].flatten(1))
        buffers.give(copied)
    return norms, scores
