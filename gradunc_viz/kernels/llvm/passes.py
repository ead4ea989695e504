"""The mean of several passes' softmax at the image's size, and how far the passes are from it, compiled.

`gradunc_viz.scores.mean_prediction` words the same in torch. Logits are resized while they are read; the mean and the
sums of squares about it are brought up to date pass by pass (Welford, 1962), for a few lines of the image at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..threads import in_threads
from .code import LANES, Code, Value, built_once
from .functions import exp, log1p, positive_log2
from .logits import LABEL_TILE, blend, workspace
from .resized import Lines

__all__ = ["mean_softmax"]

_LN_2 = math.log(2)
_TINY = 2.0**-126  # what a probability of 0 is taken for, so that its logarithm is finite


@built_once
def _pass_kernel() -> Callable[..., None]:
    """Add a pass to the mean: `share` is one part of all passes so far."""
    names = {"logits": "pointer", "stride": "long", "classes": "long", "pixels": "long"}
    names |= {"mean": "pointer", "mean_stride": "long", "entropy": "pointer", "spread": "pointer"}
    names |= {"prediction": "pointer", "work": "pointer", "share": "float"}
    names |= {"lines": "long", "above": "pointer", "below": "pointer", "weight": "pointer"}
    code = Code("add_pass", names)
    given = code.arguments
    tops, places = code.room(LABEL_TILE), code.room(LABEL_TILE)
    share, zero, one = code.vector(given["share"]), code.vector(0.0), code.vector(1.0)

    def find_largest(first: Value, count: Value, logit: Callable[[Value, Value], Value]) -> None:
        with code.loop(count, step=LANES) as place:
            code.store(code.vector(-math.inf), tops, place)
            code.store(zero.bits(), places, place)

        def go_on(index: Value, classes: int) -> None:
            with code.loop(count, step=LANES) as place:
                top, best = code.load(tops, place), code.load(places, place, "int32")
                for k in range(classes):
                    x = logit(index + k, first + place)
                    code.store(x, given["work"], (index + k) * LABEL_TILE + place)
                    best = code.vector((index + k).to_int()).where(x > top, best)
                    top = x.where(x > top, top)
                code.store(top, tops, place)
                code.store(best, places, place, "int32")

        code.by_fours(given["classes"], go_on)

    def add(place: Value, pixel: Value) -> None:
        top, best = code.load(tops, place), code.load(places, place, "int32")
        # the largest is 1 beside the others, which are summed without it
        others, weighted, spread = (code.variable(zero) for _ in range(3))
        with code.loop(given["classes"]) as index:
            at = index * LABEL_TILE + place
            below = top - code.load(given["work"], at)
            part = exp(-below)
            code.store(part, given["work"], at)
            others.add(zero.where(best.equals(code.vector(index.to_int())), part))
            weighted.add(part * below.at_most(256.0))  # so that 0 times it is 0
        inverse = one / (others.value + 1.0)
        with code.loop(given["classes"]) as index:
            at = given["mean_stride"] * index + pixel
            p, mean = code.load(given["work"], index * LABEL_TILE + place) * inverse, code.load(given["mean"], at)
            gap = p - mean
            mean = mean + gap * share
            code.store(mean, given["mean"], at)
            spread.add(gap * (p - mean))
        entropy = log1p(others.value) + weighted.value * inverse
        code.store(code.load(given["entropy"], pixel) + entropy, given["entropy"], pixel)
        code.store(code.load(given["spread"], pixel) + spread.value, given["spread"], pixel)
        code.store(best, given["prediction"], pixel, "int32")

    with code.loop(given["lines"]) as line:
        resized, start = blend(code, line), line * given["pixels"]
        with code.loop(given["pixels"] + (LABEL_TILE - 1), step=LABEL_TILE) as first:
            count = (given["pixels"] - first).at_most(LABEL_TILE)
            find_largest(first, count, lambda index, at: resized(given["logits"], given["stride"] * index + at))
            with code.loop(count, step=LANES) as place:
                add(place, start + first + place)
    return code.compiled()


@built_once
def _log_kernel() -> Callable[..., None]:
    """Natural logarithms in place of planes of numbers."""
    code = Code("logarithms", {"values": "pointer", "stride": "long", "planes": "long", "pixels": "long"})
    values, stride, planes, pixels = code.arguments.values()
    with code.loop(planes) as plane, code.loop(pixels, step=LANES) as place:
        at = plane * stride + place
        code.store(positive_log2(code.load(values, at).at_least(_TINY)) * _LN_2, values, at)
    return code.compiled()


def mean_softmax(
    logits: Sequence[Tensor], size: tuple[int, int], align_corners: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean over passes of the softmax of their logits, resized to the image.

    Parameters
    ----------
    logits : sequence of Tensor (1, C, h, w), float32
        Of every pass, on the CPU.
    size : (height, width)
    align_corners : sequence of bool
        How each is resized.

    Returns
    -------
    Tensor (1, C, y, x), (1, y, x), (1, y, x), int32 (M, y, x)
        ln of the mean, mean over passes of the entropy, sum over classes of the variance over passes, and the class
        that each pass predicts.
    """
    n_passes, classes = len(logits), logits[0].shape[1]
    sources = [Lines(one, size, align) for one, align in zip(logits, align_corners, strict=True)]
    width = sources[0].filled
    mean = np.empty((1, classes, size[0], width), "f4")
    entropy, spread = (np.empty((1, size[0], width), "f4") for _ in range(2))
    predictions = np.empty((n_passes, size[0], width), "i4")
    plane = size[0] * width
    add_pass, logarithms = _pass_kernel(), _log_kernel()

    def run(some: slice) -> None:
        work, first, pixels = workspace(classes), some.start * width, (some.stop - some.start) * width
        for sums in (mean, entropy, spread):  # in the cache from here on
            sums[..., some, :] = 0
        for number, source in enumerate(sources):
            with source.of(0, some) as (start, stride, rows):
                add_pass(
                    start,
                    stride,
                    classes,
                    width,
                    mean.ctypes.data + 4 * first,
                    plane,
                    entropy.ctypes.data + 4 * first,
                    spread.ctypes.data + 4 * first,
                    predictions.ctypes.data + 4 * (number * plane + first),
                    work.ctypes.data,
                    1 / (number + 1),
                    *rows,
                )
        logarithms(mean.ctypes.data + 4 * first, plane, classes, pixels)
        for sums in (entropy, spread):
            sums[..., some, :] /= n_passes

    in_threads(run, sources[0].pieces(classes))
    mean_map, entropy_map, spread_map, predicted = (
        torch.from_numpy(array[..., : size[1]]) for array in (mean, entropy, spread, predictions)
    )
    return mean_map, entropy_map, spread_map, predicted
