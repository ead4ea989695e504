"""The sums behind gradient norms and softmax scores on CUDA: features and logits are read once, by two Triton kernels.

Inputs may be float16, bfloat16 or float32; sums are float32. `gradunc_viz.kernels.reference` says the same in plain
torch. Under ``TRITON_INTERPRET=1`` the kernels run on a CPU, which is how they are tested where there is no GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..schema.scores import LOG2_FLOOR, NormRequest, SoftmaxRequest
from .reference import softmax_formulas

__all__ = ["feature_sums", "label_pass"]


_LOG2_E = tl.constexpr(math.log2(math.e))
_LN_2 = tl.constexpr(math.log(2))
_PIXELS = 128
_CHANNELS = 32
_SCORES = tuple(map(SoftmaxRequest, ("msp", "entropy", "margin", "energy", "max_logit", "brier", "nll")))
_PREDICTION = SoftmaxRequest("prediction")


@triton.jit
def _power(x, log2, tenth, p: tl.constexpr):
    """x^p; the norms of the paper are powers of x^0.1, so that one exponential serves them all."""
    if p == 1.0:
        return x
    if p == 2.0:
        return x * x
    if p == 0.1:
        return tenth
    if p == 0.3:
        return tenth * tenth * tenth
    if p == 0.5:
        square = tenth * tenth
        return square * square * tenth
    return tl.where(x > 0, tl.exp2(p * log2), 0.0)


@triton.jit
def _log2_and_tenth(x):
    """log2 of x >= 0 and x^0.1; the log2 of 0 is any number."""
    log2 = tl.log2(tl.maximum(x * 1.152921504606847e18, 1e-37)) - 60  # 2^60 makes subnormals normal
    return log2, tl.where(x > 0, tl.exp2(0.1 * log2), 0.0)


@triton.jit
def _feature_kernel(
    features,
    sums,
    exponents,
    depth,
    pixels,
    stride_image,
    stride_channel,
    stride_pixel,
    ps: tl.constexpr,
    count: tl.constexpr,
    rows: tl.constexpr,
    block_channels: tl.constexpr,
    block_pixels: tl.constexpr,
):
    """Sum over the channels of |psi / 2^e|^p for every p, with an exponent e of each pixel's own."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)
    inside = pixel < pixels
    row = tl.arange(0, rows)
    source = features + image * stride_image + pixel.to(tl.int64)[None, :] * stride_pixel
    exponent = tl.full((block_pixels,), -126.0, tl.float32)
    total = tl.zeros((rows, block_pixels), tl.float32)
    for first in range(0, depth, block_channels):
        channel = first + tl.arange(0, block_channels)
        known = (channel < depth)[:, None] & inside[None, :]
        x = tl.load(source + channel.to(tl.int64)[:, None] * stride_channel, mask=known, other=0.0)
        x = tl.abs(x.to(tl.float32))
        largest = tl.max(x, 0)
        found = tl.floor(tl.log2(tl.maximum(largest, 1e-37)))
        larger = tl.minimum(tl.maximum(exponent, found), 126.0)
        x = x * tl.exp2(-larger)[None, :]
        log2, tenth = _log2_and_tenth(x)
        for k in tl.static_range(count):
            grown = tl.sum(_power(x, log2, tenth, ps[k]), 0)
            shrink = tl.exp2(tl.maximum((exponent - larger) * ps[k], -126.0))
            total = tl.where((row == k)[:, None], total * shrink[None, :] + grown[None, :], total)
        exponent = larger
    # places in 64 bits: a large batch has more numbers than 32 bits count
    out = (image * count + row[:, None]) * pixels + pixel[None, :]
    tl.store(sums + out, total, mask=(row < count)[:, None] & inside[None, :])
    tl.store(exponents + image * pixels + pixel, exponent, mask=inside)


def _strides(x: Tensor) -> tuple[Tensor, int, int, int]:
    """The tensor with one stride for all its pixels: image, channel, pixel."""
    h, w = x.shape[2:]
    if h > 1 and w > 1 and x.stride(2) != w * x.stride(3):
        x = x.contiguous()
    return x, x.stride(0), x.stride(1), x.stride(3) if w > 1 else x.stride(2)


def feature_sums(
    features: Tensor, ps: Sequence[float], dtype: torch.dtype, *, at_least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """See `gradunc_viz.kernels.torch_cpu.feature_sums`; `dtype` is float32."""
    n, depth, height, width = features.shape
    sums = torch.empty((n, len(ps), height, width), dtype=dtype, device=features.device)
    exponents = torch.empty((n, height, width), dtype=dtype, device=features.device)
    if not ps:
        return torch.ones(n, dtype=torch.float64, device=features.device), sums
    features, *strides = _strides(features)
    with torch.cuda.device_of(features):  # a kernel is launched on the current device, whichever its tensors are on
        _feature_kernel[(triton.cdiv(height * width, _PIXELS), n)](
            features,
            sums,
            exponents,
            depth,
            height * width,
            *strides,
            ps=tuple(float(p) for p in ps),
            count=len(ps),
            rows=triton.next_power_of_2(len(ps)),
            block_channels=_CHANNELS,
            block_pixels=_PIXELS,
        )
    # taps add pixels up, so that all of an image need one scale
    common = exponents.amax((1, 2), keepdim=True)
    if at_least > 0:
        common = common.clamp_min(math.log2(at_least))
    for k, p in enumerate(ps):
        sums[:, k] *= ((exponents - common) * p).exp2_()
    return common.flatten().double().exp2(), sums


@triton.jit
def _expm1(x):
    """exp(x) - 1 for x <= 0 with the digits of small x."""
    series = 1 + x / 8
    for k in tl.static_range(7, 1, -1):
        series = 1 + x / k * series
    return tl.where(x > -0.4, x * series, tl.exp2(x * _LOG2_E) - 1)


@triton.jit
def _label_kernel(
    logits,
    sums,
    log2_scale,
    label,
    norms,
    scores,
    prediction,
    classes,
    pixels,
    n_sums,
    stride_image,
    stride_channel,
    stride_pixel,
    requests: tl.constexpr,  # ((label or -1, exact, p, place of p among the sums or -1), ...)
    n_requests: tl.constexpr,
    floor: tl.constexpr,
    with_scores: tl.constexpr,
    with_label: tl.constexpr,
    block_classes: tl.constexpr,
    block_pixels: tl.constexpr,
):
    """Every wanted norm, and all scores of the softmax family, of a block of pixels."""
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * block_pixels + tl.arange(0, block_pixels)
    inside = pixel < pixels
    index = tl.arange(0, block_classes)
    known = (index < classes)[:, None] & inside[None, :]
    source = logits + image * stride_image + pixel.to(tl.int64)[None, :] * stride_pixel
    phi = tl.load(source + index.to(tl.int64)[:, None] * stride_channel, mask=known, other=-float("inf")).to(tl.float32)
    phi = tl.where(inside[None, :], phi, 0.0)  # a pixel outside has finite numbers, which nobody reads
    top = tl.max(phi, 0)
    predicted = tl.argmax(phi, 0)
    other = (index[:, None] != predicted[None, :]) & (index < classes)[:, None] & (phi > -float("inf"))
    second = tl.max(tl.where(other, phi, -3.0e38), 0)
    second = tl.where(second > -3.0e38, second, top)
    gap = top - second
    ratio = tl.exp2(-gap * _LOG2_E)
    log2 = tl.where(other, tl.maximum((phi - second[None, :]) * _LOG2_E, -1200.0), -1200.0)
    tenth = tl.where(other, tl.exp2(0.1 * log2), 0.0)
    exps = tl.where(other, tl.exp2(log2), 0.0)
    rest = tl.sum(exps, 0)
    log2_rest, tenth_rest = _log2_and_tenth(rest)
    total = rest * ratio
    # ln(1 + t) keeps the digits of a small t
    log_total = tl.where(total < 1e-3, total * (1 - total * (0.5 - total / 3)), tl.log2(1 + total) * _LN_2)
    # pi_c - 1/C = (a_c - mean a) / total with a = exp(phi - top) - 1
    valid = (index < classes)[:, None]
    above = tl.where(valid, _expm1(tl.maximum(phi - top[None, :], -200.0)), 0.0)
    flat = tl.sum(above, 0) / classes
    own = tl.where(index[:, None] == predicted[None, :], 1.0, exps * ratio[None, :])
    mean = (1 + total) / classes
    spread = tl.where(mean[None, :] > 0.6, above - flat[None, :], own - mean[None, :])
    spread = tl.where(valid, tl.abs(spread), 0.0)
    log2_spread, tenth_spread = _log2_and_tenth(spread)
    scale = tl.load(log2_scale + image) if n_requests > 0 else 0.0
    log2_sure = -log_total * _LOG2_E
    shrunk = tl.log2((classes - 1.0) / classes + 1e-45) if n_requests > 0 else 0.0
    log2_unit = -(log_total + gap) * _LOG2_E  # pi_c is 2^log2_unit times exps, but for the prediction
    unlike = tl.where(other, 1 - exps * tl.exp2(log2_unit)[None, :], 1.0)
    log2_unlike, tenth_unlike = _log2_and_tenth(unlike)
    for k in tl.static_range(n_requests):
        if requests[k][0] == -1:
            part = tl.full((block_pixels,), 1.0, tl.float32)
            offset = tl.zeros((block_pixels,), tl.float32)
        elif requests[k][0] == 2:
            # sum_c pi^p (1 - pi) + pi (1 - pi)^p, what all terms have in common taken out
            least = min(requests[k][2], 1.0)
            part = tl.sum(tl.where(other, _power(exps, log2, tenth, requests[k][2]) * unlike, 0.0), 0)
            part += _power(rest, log2_rest, tenth_rest, requests[k][2]) * tl.exp2(-log_total * _LOG2_E)
            part *= tl.exp2(log2_unit * (requests[k][2] - least))
            likely = tl.sum(exps * _power(unlike, log2_unlike, tenth_unlike, requests[k][2]), 0)
            likely += rest * tl.exp2(-log_total * (_LOG2_E * requests[k][2]))
            part += likely * tl.exp2(log2_unit * (1.0 - least))
            offset = log2_unit * (least / requests[k][2])
        elif requests[k][0] == 1:
            part = tl.sum(tl.where(other, _power(exps, log2, tenth, requests[k][2]), 0.0), 0)
            offset = log2_unit
            if requests[k][1]:
                part += _power(rest, log2_rest, tenth_rest, requests[k][2])
        elif requests[k][1]:
            part = tl.sum(_power(spread, log2_spread, tenth_spread, requests[k][2]), 0)
            offset = log2_sure
        else:
            part = tl.sum(tl.where(other, _power(exps, log2, tenth, requests[k][2]), 0.0), 0)
            part = part * tl.exp2(-gap * (_LOG2_E * requests[k][2])) + 1
            offset = tl.where(classes > 1, log2_sure + shrunk, -float("inf"))
        value = part
        if requests[k][3] >= 0:
            value *= tl.load(sums + (image * n_sums + requests[k][3]) * pixels + pixel, mask=inside, other=1.0)
            offset += scale
        norm = tl.log2(tl.maximum(value, 1e-37)) / requests[k][2] + offset
        norm = tl.where(value >= 1e-37, tl.maximum(norm, floor), floor)
        tl.store(norms + (image * n_requests + k) * pixels + pixel, norm, mask=inside)
    if with_scores:
        first = image * 7  # places in 64 bits
        whole = 1 + total
        below = tl.where(other, gap[None, :] + second[None, :] - phi, 0.0)
        entropy = log_total + ratio * tl.sum(exps * below, 0) / whole
        beside = tl.where(rest > 0, ratio, 0.0)
        tl.store(scores + first * pixels + pixel, total / whole, mask=inside)
        tl.store(scores + (first + 1) * pixels + pixel, tl.maximum(entropy, 0.0), mask=inside)
        tl.store(scores + (first + 2) * pixels + pixel, tl.minimum((total + beside) / whole, 1.0), mask=inside)
        tl.store(scores + (first + 3) * pixels + pixel, -(top + log_total), mask=inside)
        tl.store(scores + (first + 4) * pixels + pixel, top, mask=inside)
        tl.store(prediction + image * pixels + pixel, predicted.to(tl.int64), mask=inside)
        if with_label:
            truth = tl.load(label + image * pixels + pixel, mask=inside, other=0)
            at_truth = tl.where(valid & (index[:, None] == truth[None, :]), 1.0, 0.0)
            pi = own / whole[None, :]
            missed = tl.sum(tl.where(at_truth > 0, 0.0, tl.where(valid, pi, 0.0)), 0)
            squares = tl.sum(tl.where(at_truth > 0, 0.0, tl.where(valid, pi * pi, 0.0)), 0)
            distance = tl.sum(tl.where(at_truth > 0, top[None, :] - phi, 0.0), 0)
            tl.store(scores + (first + 5) * pixels + pixel, squares + missed * missed, mask=inside)
            tl.store(scores + (first + 6) * pixels + pixel, distance + log_total, mask=inside)


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
    """See `gradunc_viz.kernels.torch_cpu.label_pass`; `dtype` is float32.

    Scores with parameters, and those that few ask for, take plain torch, one formula after the other.
    """
    n, classes, height, width = logits.shape
    device = logits.device
    norms = torch.empty((n, len(wanted), height, width), dtype=dtype, device=device)
    scores = torch.empty((n, len(_SCORES) if softmax else 0, height, width), dtype=dtype, device=device)
    prediction = torch.empty((n, height, width) if softmax else (0, 0, 0), dtype=torch.int64, device=device)
    others = softmax_formulas(logits, [one for one in softmax if one not in (*_SCORES, _PREDICTION)])
    logits, *strides = _strides(logits)
    block_classes = triton.next_power_of_2(classes)
    labels = ("uni", "oh", "exp")
    requests = tuple(
        (
            -1 if w.part == "feature" else labels.index(w.label),
            w.variant == "exact",
            float(w.p),
            -1 if w.part == "label" else list(ps).index(w.p),
        )
        for w in wanted
    )
    with torch.cuda.device_of(logits):
        _label_kernel[(triton.cdiv(height * width, _PIXELS), n)](
            logits,
            norms if sums is None else sums.contiguous(),
            norms if log2_scale is None else log2_scale.to(dtype),
            prediction if label is None else label.contiguous(),
            norms,
            scores,
            prediction,
            classes,
            height * width,
            len(ps),
            *strides,
            requests=requests,
            n_requests=len(wanted),
            floor=LOG2_FLOOR,
            with_scores=bool(softmax),
            with_label=label is not None,
            block_classes=block_classes,
            block_pixels=_PIXELS,
        )
    found = others | {_PREDICTION: prediction} | dict(zip(_SCORES, scores.unbind(1), strict=bool(softmax)))
    return norms, {request: found[request] for request in softmax}
