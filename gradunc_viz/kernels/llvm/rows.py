"""What compiled functions read and write: rows of pixels of tensors of any layout."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .code import LANES

__all__ = ["PixelRows", "ResultRows", "address"]

_SLAB = 1 << 18  # elements for each call of a kernel: long beside what Python does between two calls


class PixelRows:
    """(N, C, h, w) as rows of pixels, read where they stand if neighbours in a row are neighbours in memory."""

    def __init__(self, x: Tensor) -> None:
        self.kind = str(x.dtype).removeprefix("torch.")
        self.array = x.detach().view(torch.int16 if x.element_size() == 2 else torch.int32).numpy()
        self.channels, self.height, self.width = x.shape[1:]
        self.pixels = self.height * self.width
        _, _, down, right = (stride // x.element_size() for stride in self.array.strides)
        self.flat = None
        if self.width == 1 or (right == 1 and (self.height == 1 or down == self.width)):
            self.flat = self.array.reshape(len(self.array), self.channels, self.pixels)

    def slabs(self, tile: int) -> list[tuple[int, int]]:
        """Ranges of pixels: a few tiles, and as many ranges at least as there are threads."""
        step = min(_SLAB // self.channels, -(-self.pixels // torch.get_num_threads()))
        step = max(1, -(-step // tile)) * tile
        return [(start, min(start + step, self.pixels)) for start in range(0, self.pixels, step)]

    def rows(self, image: int, slab: slice) -> np.ndarray:
        """Channels of some pixels, at least as many as a multiple of LANES."""
        count = slab.stop - slab.start
        if self.flat is not None and count % LANES == 0 and self.flat.strides[2] == self.flat.itemsize:
            return self.flat[image, :, slab]
        copy = np.zeros((self.channels, -(-count // LANES) * LANES), self.array.dtype)
        if self.flat is not None:
            copy[:, :count] = self.flat[image, :, slab]
        else:
            above, below = slab.start // self.width, -(-slab.stop // self.width)
            first = slab.start - above * self.width
            copy[:, :count] = self.array[image, :, above:below].reshape(self.channels, -1)[:, first : first + count]
        return copy


class ResultRows:
    """Rows for some pixels of a result: its own, or as many as a kernel fills, of which it takes those it has."""

    def __init__(self, result: np.ndarray, slab: slice) -> None:
        self.own, count = result[:, slab], slab.stop - slab.start
        self.rows = self.own
        if count % LANES:
            self.rows = np.empty((len(result), -(-count // LANES) * LANES), result.dtype)

    def finish(self) -> None:
        """Take what was written."""
        if self.rows is not self.own:
            self.own[:] = self.rows[:, : self.own.shape[1]]


def address(rows: np.ndarray) -> tuple[int, int]:
    """Address and distance of rows, in elements."""
    return rows.ctypes.data, rows.strides[0] // rows.itemsize
