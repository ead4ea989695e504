"""Scores of resized logits, and resized norms, by kernels that resize what they read: no resized tensor is written.

Columns are resized before, at the head's few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .gradients_llvm import blend, label_kernel, positive_log2, workspace
from .hardware import empty, in_threads
from .resize import neighbours
from .schema import LOG2_FLOOR
from .vector_code import LANES, Code, Value

__all__ = ["resized_log2_norms", "resized_scores"]

_ROWS = 4  # resized together: places and weights are the same
_PIECE = 1 << 18  # numbers for each call of a kernel


class _Lines:
    """Rows of the resized image as weighted means of rows of `wide`, whose columns are resized and filled up."""

    def __init__(self, x: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        height, width = x.shape[2:]
        self.filled = -(-size[1] // LANES) * LANES
        self.wide = x.contiguous() if width == self.filled == size[1] else _wide(x, size[1], self.filled, align_corners)
        above, below, self.weight = neighbours(height, size[0], align_corners)
        self.above, self.below = above * self.filled, below * self.filled
        self.size = size

    def pieces(self, planes: int) -> list[slice]:
        """Ranges of lines."""
        lines = -(-self.size[0] // torch.get_num_threads())
        step = max(1, min(lines, _PIECE // (planes * self.filled)))
        return [slice(start, min(start + step, self.size[0])) for start in range(0, self.size[0], step)]

    def of(self, lines: slice) -> tuple[int, ...]:
        """Arguments of a kernel: how many lines, and their places and weights."""
        count = len(self.weight[lines])
        return count, *(array[lines].ctypes.data for array in (self.above, self.below, self.weight))


@cache
def _column_kernel() -> Callable[..., None]:
    """Rows whose numbers are weighted means of two numbers of another row."""
    names = {"source": "pointer", "source_stride": "long", "rows": "long", "left": "pointer", "right": "pointer"}
    code = Code("columns", names | {"weight": "pointer", "out": "pointer", "width": "long"})
    source, stride, rows, left, right, weight, out, width = code.arguments.values()

    def resize(row: Value, count: int) -> None:
        with code.loop(width) as column:  # of single numbers: gathering them into vectors is slower
            first, second = code.get(left, column, "int64"), code.get(right, column, "int64")
            part = code.get(weight, column)
            share = 1.0 - part
            for k in range(count):
                start = (row + k) * stride
                mean = code.get(source, start + first) * share + code.get(source, start + second) * part
                code.put(mean, out, (row + k) * width + column)

    with code.loop(rows, step=_ROWS) as row:
        resize(row, _ROWS)
    with code.loop(rows, start=rows.shifted(-2).shifted(2)) as row:
        resize(row, 1)
    return code.compiled()


def _wide(x: Tensor, width: int, filled: int, align_corners: bool) -> Tensor:
    """(N, C, h, w) float32 with columns resized to `width`, and any numbers behind them."""
    n, planes, height = x.shape[:3]
    x = x if x.stride(3) == 1 else x.contiguous()
    out = empty((n, planes, height, filled), torch.float32)
    left, right, weight = (np.pad(part, (0, filled - width)) for part in neighbours(x.shape[3], width, align_corners))
    kernel, places = _column_kernel(), (left.ctypes.data, right.ctypes.data, weight.ctypes.data)

    def resize(at: tuple[int, int]) -> None:
        kernel(x[at].data_ptr(), x.stride(2), height, *places, out[at].data_ptr(), filled)

    in_threads(resize, [(image, plane) for image in range(n) for plane in range(planes)])
    return out


def resized_scores(
    logits: Tensor, size: tuple[int, int], names: Sequence[str], label: Tensor | None, align_corners: bool
) -> tuple[Tensor, Tensor]:
    """Prediction and scores of the softmax family of logits resized to an image.

    Parameters
    ----------
    logits : Tensor (N, C, h, w), float32
    names : sequence of str
        As in `gradunc_viz.softmax.softmax_scores`, none twice.
    label : Tensor (N, y, x), optional
        Class ids, for the scores that need them.

    Returns
    -------
    Tensor (N, y, x), Tensor (N, len(names), y, x)
    """
    n, classes = logits.shape[:2]
    lines = _Lines(logits, size, align_corners)
    scores = empty((n, len(names), size[0], lines.filled), torch.float32)
    prediction = empty((n, size[0], lines.filled), torch.int64)
    truth = None if label is None else F.pad(label.to(torch.int32), (0, lines.filled - size[1])).contiguous()
    kernel = label_kernel((), (), (*names, "prediction"), "float32", True)

    def score(at: tuple[int, slice]) -> None:
        image, some = at
        first = some.start * lines.filled
        source, label_of_image = lines.wide[image], None if truth is None else truth[image]
        work = workspace(classes)
        kernel(
            source.data_ptr(),
            source.stride(0),
            classes,
            lines.filled,
            *(0, 0, 0.0, 0, 0),  # no norms
            scores[image].data_ptr() + 4 * first,
            scores.stride(1),
            prediction[image].data_ptr() + 8 * first,
            0 if label_of_image is None else label_of_image.data_ptr() + 4 * first,
            work.ctypes.data,
            1 / classes,
            0.0,
            *lines.of(some),
        )

    in_threads(score, [(image, some) for image in range(n) for some in lines.pieces(classes)])
    return prediction[..., : size[1]], scores[..., : size[1]]


@cache
def _log2_kernel() -> Callable[..., None]:
    names = {"values": "pointer", "pixels": "long", "top": "float", "out": "pointer", "lines": "long"}
    code = Code("resized_log2", names | {"above": "pointer", "below": "pointer", "weight": "pointer"})
    given = code.arguments
    top = code.vector(given["top"])
    with code.loop(given["lines"]) as line:
        mean, start = blend(code, line), line * given["pixels"]
        with code.loop(given["pixels"], step=LANES) as place:
            x = mean(given["values"], place)
            none = code.vector(LOG2_FLOOR).where(x.equals(0.0), x)  # of no number none is made
            found = (positive_log2(x) + top).at_least(LOG2_FLOOR).where(x > 0.0, none)
            code.store(found, given["out"], start + place)
    return code.compiled()


def resized_log2_norms(norms: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """See `gradunc_viz.scores.resize_log2_norms`; (M, h, w) float32 to (M, y, x)."""
    top = norms.amax((1, 2), keepdim=True)
    lines = _Lines((norms - top).exp2_()[:, None], size, align_corners)
    out = empty((len(norms), size[0], lines.filled), torch.float32)
    tops = top.flatten().tolist()
    kernel = _log2_kernel()

    def resize(at: tuple[int, slice]) -> None:
        row, some = at
        target = out[row, some]
        kernel(lines.wide[row].data_ptr(), lines.filled, tops[row], target.data_ptr(), *lines.of(some))

    in_threads(resize, [(row, some) for row in range(len(norms)) for some in lines.pieces(1)])
    return out[..., : size[1]]
