"""Scores of resized logits, and resized norms, by kernels that resize what they read: no resized tensor is written.

Columns of the head's rows are resized for a few lines of the image at a time, and rows while they are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...schema.scores import LOG2_FLOOR, SoftmaxRequest
from ..resize import Band, neighbours
from ..threads import empty, in_threads
from .code import LANES, Code, Value, built_once
from .functions import positive_log2
from .logits import blend, label_kernel, workspace

__all__ = ["Lines", "resized_log2_norms", "resized_scores"]

_PIECE = 1 << 18  # numbers for each call of a kernel


class Lines:
    """Lines of a resized image: weighted means of rows of the source, whose columns are resized for a piece at a time.

    Parameters
    ----------
    x : Tensor (N, C, h, w), float32
    band : Band, optional
        Which lines; all of them by default.
    """

    def __init__(self, x: Tensor, size: tuple[int, int], align_corners: bool, band: Band | None = None) -> None:
        height, width = x.shape[2:]
        self.filled = -(-size[1] // LANES) * LANES
        band = band or Band(slice(0, size[0]), height)
        self.above, self.below, self.weight = band.neighbours(size[0], align_corners)
        self.places: list[np.ndarray] = []
        if not width == size[1] == self.filled:
            columns = neighbours(width, size[1], align_corners)
            self.places = [np.pad(part, (0, self.filled - size[1])) for part in columns]
        in_order = x.stride(3) == 1 if self.places else x.stride()[2:] == (width, 1)
        self.x = x if in_order else x.contiguous()
        self.spare: list[Tensor] = []

    def pieces(self, planes: int) -> list[slice]:
        """Ranges of lines."""
        height = len(self.above)
        step = max(1, min(-(-height // torch.get_num_threads()), _PIECE // (planes * self.filled)))
        return [slice(start, min(start + step, height)) for start in range(0, height, step)]

    @contextmanager
    def of(self, image: int, lines: slice) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Address of what the lines are made of, distance of its planes, and a kernel's arguments: rows and weights."""
        first, stop = int(self.above[lines.start]), int(self.below[lines.stop - 1]) + 1
        above, below, weight = self.above[lines], self.below[lines], self.weight[lines]
        above, below = (above - first) * self.filled, (below - first) * self.filled
        arguments = len(weight), above.ctypes.data, below.ctypes.data, weight.ctypes.data
        source = self.x[image, :, first:stop]
        if not self.places:
            yield source.data_ptr(), source.stride(0), arguments
            return
        planes, rows = source.shape[:2]
        try:  # memory that was used before is in the cache
            wide = self.spare.pop()
        except IndexError:
            wide = torch.empty(0)
        if len(wide) < planes * rows * self.filled:
            wide = empty((planes * rows * self.filled,), torch.float32)
        strides = source.stride(0), source.stride(1)
        places = [part.ctypes.data for part in self.places]
        _column_kernel()(source.data_ptr(), *strides, planes, rows, *places, wide.data_ptr(), self.filled)
        yield wide.data_ptr(), rows * self.filled, arguments
        self.spare.append(wide)


@built_once
def _column_kernel() -> Callable[..., None]:
    """Rows whose numbers are weighted means of two numbers of another row."""
    names = {"source": "pointer", "plane_stride": "long", "stride": "long", "planes": "long", "rows": "long"}
    names |= {"left": "pointer", "right": "pointer", "weight": "pointer", "out": "pointer", "width": "long"}
    code = Code("columns", names)
    source, plane_stride, stride, planes, rows, left, right, weight, out, width = code.arguments.values()

    def resize(plane: Value, row: Value, count: int) -> None:
        start, target = plane * plane_stride + row * stride, (plane * rows + row) * width
        with code.loop(width) as column:  # of single numbers: gathering them into vectors is slower
            first, second = code.get(left, column, "int64"), code.get(right, column, "int64")
            part = code.get(weight, column)
            share = 1.0 - part
            for k in range(count):
                at = start + stride * k
                mean = code.get(source, at + first) * share + code.get(source, at + second) * part
                code.put(mean, out, target + width * k + column)

    with code.loop(planes) as plane:
        code.by_fours(rows, partial(resize, plane))
    return code.compiled()


def resized_scores(
    logits: Tensor,
    size: tuple[int, int],
    wanted: Sequence[SoftmaxRequest],
    label: Tensor | None,
    align_corners: bool,
    band: Band | None = None,
) -> tuple[Tensor, Tensor]:
    """Prediction and scores of the softmax family of logits resized to an image.

    Parameters
    ----------
    logits : Tensor (N, C, h, w), float32
    wanted : sequence of SoftmaxRequest
        Scores; the prediction comes without.
    label : Tensor (N, y, x), optional
        Class ids, for the scores that need them.
    band : Band, optional
        Which lines of the image, y in all; all of them by default.

    Returns
    -------
    Tensor (N, y, x), Tensor (N, len(wanted), y, x)
    """
    n, classes = logits.shape[:2]
    lines = Lines(logits, size, align_corners, band)
    height = len(lines.above)
    scores = empty((n, len(wanted), height, lines.filled), torch.float32)
    prediction = empty((n, height, lines.filled), torch.int64)
    truth = None if label is None else F.pad(label.to(torch.int32), (0, lines.filled - size[1])).contiguous()
    kernel = label_kernel((), (), (*wanted, SoftmaxRequest("prediction")), "float32", True)

    def score(at: tuple[int, slice]) -> None:
        image, some = at
        work, first = workspace(classes), some.start * lines.filled
        with lines.of(image, some) as (source, stride, rows):
            kernel(
                source,
                stride,
                classes,
                lines.filled,
                *(0, 0, 0.0, 0, 0),  # no norms
                scores[image].data_ptr() + 4 * first,
                scores.stride(1),
                prediction[image].data_ptr() + 8 * first,
                0 if truth is None else truth[image].data_ptr() + 4 * first,
                work.ctypes.data,
                1 / classes,
                0.0,
                *rows,
            )

    in_threads(score, [(image, some) for image in range(n) for some in lines.pieces(classes)])
    return prediction[..., : size[1]], scores[..., : size[1]]


@built_once
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


def resized_log2_norms(
    norms: Tensor,
    size: tuple[int, int],
    align_corners: bool,
    target: Tensor | None = None,
    band: Band | None = None,
    top: Tensor | None = None,
) -> Tensor:
    """See `gradunc_viz.scores.resizing.resize_log2_norms`; (M, h, w) float32 to (M, y, x)."""
    top = norms.amax((1, 2), keepdim=True) if top is None else top.view(-1, 1, 1)
    lines = Lines((norms - top).exp2_()[:, None], size, align_corners, band)
    whole = target is not None and target.is_contiguous() and lines.filled == size[1]
    shape = len(norms), len(lines.above), lines.filled
    out = target if target is not None and whole else empty(shape, torch.float32)
    tops = top.flatten().tolist()
    kernel = _log2_kernel()

    def resize(at: tuple[int, slice]) -> None:
        norm, some = at
        with lines.of(norm, some) as (source, _, rows):
            kernel(source, lines.filled, tops[norm], out[norm, some].data_ptr(), *rows)

    in_threads(resize, [(norm, some) for norm in range(len(norms)) for some in lines.pieces(1)])
    return out[..., : size[1]] if target is None or whole else target.copy_(out[..., : size[1]])
