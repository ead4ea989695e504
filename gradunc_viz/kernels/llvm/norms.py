"""The sums behind gradient norms and softmax scores on a CPU, compiled for the very scores that are asked for.

Features and logits are read once, in tiles that stay in the first cache, and nothing is written but the result.
float16, bfloat16 and float32 inputs; sums are float32, those in float64 take `gradunc_viz.kernels.torch_cpu`, whose
formulas these are. Compiling a kernel takes about 0.1 s, once per process and set of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...schema.scores import NormRequest, SoftmaxRequest
from .. import torch_cpu as gradients_cpu
from ..threads import in_threads
from .code import LANES, Code, Value, built_once
from .functions import powers_of
from .logits import LABEL_TILE, label_kernel, workspace
from .rows import PixelRows, ResultRows, address

__all__ = ["feature_sums", "label_pass"]


_FEATURE_TILE = 512  # pixels whose sums stay in the first cache
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _tree_sum(values: Sequence[Value]) -> Value:
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + list(values[len(values) // 2 * 2 :])
    return values[0]


# --------------------------------------------------------------------------------------------------------------------
# features


@built_once
def _feature_kernel(ps: tuple[float, ...], kind: str, scaled: bool) -> Callable[..., None]:
    """Sums over channels of |psi / scale|^p; `pixels` is a multiple of LANES."""
    names = {"features": "pointer", "stride": "long", "depth": "long", "pixels": "long", "out": "pointer"}
    names |= {"out_stride": "long", "largest": "pointer", "scale": "float"}
    code = Code("feature_sums", names)
    features, stride, depth, pixels, out, out_stride, largest, scale = code.arguments.values()
    sums = code.room(len(ps) * _FEATURE_TILE)
    found = code.variable(code.vector(0.0))
    divisor = code.vector(scale)

    def add_up(first: Value, count: Value, channel: Value, channels: int) -> None:
        with code.loop(count, step=LANES) as place:
            powers = []
            for k in range(channels):
                x = code.load(features, (channel + k) * stride + first + place, kind).abs()
                found.set(x.where(x > found.value, found.value))
                x = x / divisor if scaled else x
                powers.append(powers_of(ps, x))
            for row, p in enumerate(ps):
                at = place + row * _FEATURE_TILE
                code.store(code.load(sums, at) + _tree_sum([power[p] for power in powers]), sums, at)

    tiles = pixels + (_FEATURE_TILE - 1)
    with code.loop(tiles, step=_FEATURE_TILE) as first:
        count = (pixels - first).at_most(_FEATURE_TILE)
        for row in range(len(ps)):
            with code.loop(count, step=LANES) as place:
                code.store(code.vector(0.0), sums, place + row * _FEATURE_TILE)
        code.by_fours(depth, lambda channel, channels: add_up(first, count, channel, channels))
        for row in range(len(ps)):
            with code.loop(count, step=LANES) as place:
                code.store(code.load(sums, place + row * _FEATURE_TILE), out, out_stride * row + first + place)
    code.store(found.value, largest, code.long(0))
    return code.compiled()


def feature_sums(
    features: Tensor, ps: Sequence[float], dtype: torch.dtype, *, at_least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """See `gradunc_viz.kernels.torch_cpu.feature_sums`."""
    if dtype != torch.float32 or features.dtype not in _DTYPES or not ps:
        return gradients_cpu.feature_sums(features, ps, dtype, at_least=at_least)
    n, depth, height, width = features.shape
    planes = PixelRows(features)
    slabs = planes.slabs(_FEATURE_TILE)
    result = np.empty((n, len(ps), planes.pixels), "f4")
    scales, zero = np.ones((n, len(slabs))), np.zeros((n, len(slabs)), bool)
    asked = tuple(float(p) for p in ps)

    def add_up(at: tuple[int, int]) -> None:
        image, index = at
        slab = slice(*slabs[index])
        source, out = planes.rows(image, slab), ResultRows(result[image], slab)
        largest = np.empty(LANES, "f4")

        def run(scale: float) -> float:
            kernel = _feature_kernel(asked, planes.kind, scale != 1)
            kernel(*address(source), depth, source.shape[1], *address(out.rows), largest.ctypes.data, scale)
            return float(largest.max())

        found = run(1.0)
        # near 1 every square is in the range of float32
        if 0 < found < math.inf and not 2.0**-10 <= found <= 2.0**30:
            scales[image, index] = 2.0 ** math.floor(math.log2(found))
            run(scales[image, index])
        zero[image, index] = found == 0
        out.finish()

    in_threads(add_up, [(image, index) for image in range(n) for index in range(len(slabs))])
    common = np.maximum(np.where(zero, at_least, scales).max(1), at_least)
    common[common == 0] = 1
    for image, index in np.argwhere(scales != common[:, None]):
        ratio = scales[image, index] / common[image]
        result[image, :, slice(*slabs[index])] *= np.array([[ratio**p] for p in asked], "f4")
    return torch.from_numpy(common), torch.from_numpy(result).view(n, len(ps), height, width)


# --------------------------------------------------------------------------------------------------------------------
# logits


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
    """See `gradunc_viz.kernels.torch_cpu.label_pass`."""
    if dtype != torch.float32 or logits.dtype not in _DTYPES:
        return gradients_cpu.label_pass(logits, wanted, sums, ps, log2_scale, softmax, dtype, label)
    n, classes, height, width = logits.shape
    planes = PixelRows(logits)
    slabs = planes.slabs(LABEL_TILE)
    plain = [request for request in softmax if request.kind != "prediction"]
    norms = np.empty((n, len(wanted), planes.pixels), "f4")
    scores = np.empty((len(plain), n, planes.pixels), "f4")
    prediction = np.empty((n, 1, planes.pixels), "i8")
    features = PixelRows(sums) if wanted and sums is not None else None
    labels = None if label is None else PixelRows(label[:, None].to(torch.int32))
    sources = tuple(None if w.part == "label" else list(ps).index(w.p) for w in wanted)
    kernel = label_kernel(tuple(wanted), sources, tuple(softmax), planes.kind)
    paper = math.log2((classes - 1) / classes) if classes > 1 else -math.inf

    def score(at: tuple[int, int]) -> None:
        image, index = at
        slab = slice(*slabs[index])
        source = planes.rows(image, slab)
        own = source if features is None else features.rows(image, slab)
        truth = source if labels is None else labels.rows(image, slab)
        targets = [ResultRows(rows, slab) for rows in (norms[image], scores[:, image], prediction[image])]
        work = workspace(classes)
        kernel(
            *address(source),
            classes,
            source.shape[1],
            *address(own),
            0.0 if log2_scale is None else float(log2_scale[image]),
            *address(targets[0].rows),
            *address(targets[1].rows),
            targets[2].rows.ctypes.data,
            truth.ctypes.data,
            work.ctypes.data,
            1 / classes,
            paper,
        )
        for target in targets:
            target.finish()

    in_threads(score, [(image, index) for image in range(n) for index in range(len(slabs))])
    shape = (n, height, width)
    found = dict.fromkeys(softmax, torch.from_numpy(prediction).view(shape))
    found |= {request: torch.from_numpy(plane).view(shape) for request, plane in zip(plain, scores, strict=True)}
    return torch.from_numpy(norms).view(n, len(wanted), height, width), found


# --------------------------------------------------------------------------------------------------------------------
# what kernels are given
