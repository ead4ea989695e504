"""Scores of resized logits, and resized norms, by kernels that resize what they read: no resized tensor is written.

Columns are resized before, at the head's few rows, by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .gradients_llvm import blend, label_kernel, positive_log2, workspace
from .hardware import empty, in_threads
from .resize import neighbours
from .schema import LOG2_FLOOR
from .vector_code import LANES, Code

__all__ = ["resized_log2_norms", "resized_scores"]

_PIECE = 1 << 18  # numbers for each call of a kernel


class _Lines:
    """Rows of the resized image as weighted means of rows of `wide`, whose columns are resized and filled up."""

    def __init__(self, x: Tensor, size: tuple[int, int], align_corners: bool) -> None:
        height, width = x.shape[2:]
        if width != size[1]:
            x = F.interpolate(x, (height, size[1]), mode="bilinear", align_corners=align_corners)
        self.wide = F.pad(x, (0, -size[1] % LANES)).contiguous()
        self.filled = self.wide.shape[3]
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
