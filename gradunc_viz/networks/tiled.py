"""A large image in windows that overlap: where they lie, how much each counts where, and how their maps are merged.

A window sees nothing beyond its edges, so what a network says next to them is of less than the whole image would tell.
Where two windows overlap, a *margin*, a quarter of the overlap, therefore counts nothing at either one's inner edge;
between the margins the weight falls linearly from one window to the other. Weights of all windows at a place add up to
one, and at the edges of the image itself they stay there.

Windows begin at multiples of 32 pixels, and of the cells that the logits lie on: so they meet the grids of all layers
of a network at the same places as the whole image does, be they coarser than that of the logits, and the grids of all
windows coincide. Where windows would share less than was asked for, or go further beyond the image than 32 pixels and
an eighth of their size, they begin at multiples of the cells and of the largest power of two with which they do not.

The last window may so go beyond the image. It is cut off there, and ends as the whole image does, if the network takes
an input of that size and gives it as many logits. Others want a multiple of 32 pixels, or one size alone: to them the
image's last row or column is repeated. A window that began elsewhere would be wrong all over, not at its end alone.

What is promised: where windows begin at multiples of all strides of a network, and their size and the image's are such,
or no matter to it, a network whose output at a place is made of what lies within the margin around it says of an image
in windows what it says of the whole, to rounding; where rows or columns were repeated, not as close to them as it
looks. A network that looks further, as far as its input goes (attention, a mean over the image), sees something else in
a window, and no overlap changes that.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..schema.errors import FrameError, ModelError, SettingsError
from ..schema.scores import LOG2_FLOOR
from .network import network_input
from .preprocessing import resized
from .runner import Inference

__all__ = [
    "LARGE",
    "OVERLAP",
    "Axis",
    "Grid",
    "Mosaic",
    "Overlap",
    "Tile",
    "TiledImage",
    "TiledInference",
    "check_overlap",
    "check_tile",
]

LARGE = 1 << 23
"""Pixels beyond which an image is large: 8 megapixels."""

OVERLAP = 0.25
"""How far windows overlap by default, as a share of their size."""

Tile = tuple[int, int] | Literal["auto"]
"""(height, width) of windows; ``"auto"``: whole images, beyond `LARGE` pixels windows of a size the network takes."""

Overlap = int | float
"""How far windows overlap: pixels, or a share of their size below 1."""

_SIDE, _STEP = 1024, 32  # of windows that nobody said anything of; networks halve their input up to five times

_BLOCK = 1 << 24  # numbers that are handed out at a time

_REPEATED = 8  # parts of a window, of which one may lie beyond the image

_MARGIN = 4  # parts of an overlap, of which one counts nothing at each window's edge


def check_tile(tile: object) -> None:
    """Check the size of windows.

    Raises
    ------
    SettingsError
        If it is neither (height, width), nor ``"auto"``, nor None.
    """
    pair = isinstance(tile, Sequence) and not isinstance(tile, str) and len(tile) == 2 and all(map(_is_count, tile))
    if tile is not None and tile != "auto" and not pair:
        raise SettingsError(f"tile is {tile!r}; expected (height, width) or a number of pixels, 1 or more, or 'auto'")


def check_overlap(overlap: object, tile: Tile | None) -> None:
    """Check how far windows overlap.

    Raises
    ------
    SettingsError
        If it is neither a share between 0 and 1 nor a number of pixels, fewer than a window has.
    """
    share = isinstance(overlap, float) and 0 < overlap < 1
    if not share and not _is_count(overlap):
        raise SettingsError(
            f"overlap is {overlap!r}; expected a share of the window between 0 and 1, such as {OVERLAP}, or pixels, "
            "1 or more"
        )
    if tile is not None and tile != "auto" and not share and overlap >= min(tile):  # type: ignore[operator]
        raise SettingsError(
            f"overlap is {overlap} pixels, and windows are {_text(tile)}: expected fewer than {min(tile)}"
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _text(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class Axis:
    """Windows along one axis, in cells.

    Attributes
    ----------
    length : int
        Of the whole.
    size : int
        Of a window, which may be longer than the whole.
    starts : tuple of int
        Where windows begin.
    weights : float32 array (windows, size)
        How much each counts at its cells; those of all windows at a cell add up to 1, also beyond the whole.
    """

    length: int
    size: int
    starts: tuple[int, ...]
    weights: np.ndarray = field(repr=False, compare=False)

    @classmethod
    def covered(cls, length: int, size: int, overlap: int, step: int = 1) -> Axis:
        """Windows that cover an axis, as few as can be where neighbours share `overlap` cells or more.

        They begin at multiples of `step`, at most ``size - overlap``; the last one goes beyond the axis' end, by less
        than `step`, where it cannot end there.
        """
        steps = max(0, -(-(length - size) // step))
        intervals = -(-steps // ((size - overlap) // step))
        count = 1 + intervals
        starts = tuple(step * (place * steps // max(1, intervals)) for place in range(count))
        margin = overlap // _MARGIN
        ramp = ((np.arange(size) + 0.5 - margin) / (overlap - 2 * margin)).clip(0, 1)
        weights = np.ones((count, size))
        total = np.zeros(starts[-1] + size)
        for place, start in enumerate(starts):
            weights[place] *= ramp if place > 0 else 1
            weights[place] *= ramp[::-1] if place < count - 1 else 1
            total[start : start + size] += weights[place]
        for place, start in enumerate(starts):
            weights[place] /= total[start : start + size]
        return cls(length, size, starts, weights.astype("f4"))

    def complete(self, count: int) -> int:
        """Cells, from the first on, to which no window after the first `count` contributes."""
        if count == len(self.starts):
            return self.length
        return self.starts[count] + int(np.flatnonzero(self.weights[count])[0])


@dataclass(frozen=True)
class Grid:
    """Where the windows of an image lie.

    Attributes
    ----------
    down, across : Axis
        In cells.
    stride : (int, int)
        Pixels of a cell.
    """

    down: Axis
    across: Axis
    stride: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the whole, in cells."""
        return self.down.length, self.across.length

    def visible(self, row: int, column: int) -> tuple[int, int]:
        """Cells of a window, (height, width), that are not beyond the image."""
        down, across = self.down, self.across
        return min(down.size, down.length - down.starts[row]), min(across.size, across.length - across.starts[column])

    def places(self, row: int) -> Iterator[tuple[int, int]]:
        """Upper left pixel of each window of a row."""
        top = self.down.starts[row] * self.stride[0]
        return ((top, start * self.stride[1]) for start in self.across.starts)


@dataclass
class TiledImage:
    """An image that a network is shown in windows: what `TiledInference` makes of it.

    Attributes
    ----------
    image : array (y, x, channels)
        Resized, where the network's input is to have another size.
    window : (height, width)
        Of a window, in pixels.
    overlap : (height, width)
        Pixels that neighbours share at least.
    cut : bool
        Whether windows end where the image does; else its last row and column are repeated beyond.
    inference : TiledInference
    frame_id : str
    """

    image: np.ndarray
    window: tuple[int, int]
    overlap: tuple[int, int]
    inference: TiledInference = field(repr=False)
    frame_id: str
    cut: bool = False

    @property
    def shape(self) -> tuple[object, ...]:
        """As of an input: this one is like no other."""
        return self.frame_id, *self.image.shape

    @property
    def large(self) -> bool:
        """Whether it is not to be in memory beside others."""
        return self.image.shape[0] * self.image.shape[1] > LARGE

    def at(self, top: int, left: int) -> Tensor:
        """Input of the network for the window at a pixel."""
        height, width = self.window
        part = self.image[top : top + height, left : left + width]
        missing = height - part.shape[0], width - part.shape[1]
        if any(missing) and not self.cut:
            part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        x = network_input(np.ascontiguousarray(part), self.inference.network, None)
        return x.pin_memory() if self.inference.device.type == "cuda" else x

    def refit(self, cells: Sequence[int]) -> bool:
        """Give windows that nobody gave a size another, where their logits would not coincide; whether it was done.

        The output of some heads has one size whatever the window's: of Mask2Former 384 x 384.

        Parameters
        ----------
        cells : (height, width)
            Of the logits of one window.
        """
        window = _fitting(self.window[0], cells[0]), _fitting(self.window[1], cells[1])
        larger = any(side > _rounded(pixels) for side, pixels in zip(window, self.image.shape[:2], strict=True))
        if self.inference.tile != "auto" or window == self.window or larger:
            return False
        self.window = window
        self.overlap = self.inference.shared(window, self.image.shape[:2], self.frame_id)
        return True

    def grid(self, cells: Sequence[int]) -> Grid:
        """Where windows lie if the logits of one have `cells` (height, width).

        Raises
        ------
        ModelError
            If windows cannot be laid out so that their logits coincide.
        """
        axes, strides = [], []
        for axis, name in enumerate(("height", "width")):
            size, count, pixels = self.window[axis], int(cells[axis]), self.image.shape[axis]
            if count > size or size % count:
                fit = _fitting(size, count)
                such = f", such as {fit} pixels" if fit != size else ""
                larger = ", of a larger image (--input-size)" if fit > pixels else ""
                raise ModelError(
                    f"frame {self.frame_id!r}: of windows of {_text(self.window)} the head's output is {_text(cells)}: "
                    f"{size} / {count} is no whole number, so that those of neighbours do not fit together; choose "
                    f"another --tile{such}{larger}"
                )
            stride = size // count
            length = -(-pixels // stride)
            overlap = -(-self.overlap[axis] // stride)
            if overlap >= count and length > count:
                raise ModelError(
                    f"frame {self.frame_id!r}: an overlap of {self.overlap[axis]} pixels leaves nothing of a window's "
                    f"{name} of {size}, whose logits are {stride} pixels apart; expected {size - stride} or fewer"
                )
            axes.append(Axis.covered(length, count, overlap, _step(stride, size, overlap * stride) // stride))
            strides.append(stride)
        return Grid(axes[0], axes[1], (strides[0], strides[1]))


def _rounded(pixels: int) -> int:
    """Up to what a network that halves its input five times takes."""
    return -(-pixels // _STEP) * _STEP


def _fitting(size: int, count: int) -> int:
    """A window's size whose logits are whole pixels apart, near one that has `count` along it; that one if none is."""
    if count > size:
        return count
    stride = round(size / count)
    if abs(size - stride * count) <= stride:  # the last cell is cut off, or there is one more
        return size // stride * stride
    return size // count * count


def _step(stride: int, size: int, overlap: int) -> int:
    """Of what windows' starts are multiples, in pixels."""
    most = min(size - overlap, max(_STEP, size // _REPEATED))
    powers = (lcm(stride, _STEP >> halvings) for halvings in range(_STEP.bit_length()))
    return next((pixels for pixels in powers if pixels <= most), stride)


@dataclass
class TiledInference(Inference):
    """Runs a network on images, large ones in windows.

    Of those `prepare` makes a `TiledImage`, whose windows are inputs of this runner.

    Parameters
    ----------
    tile : (height, width) or "auto"
        Size of windows. With a size, images keep their own where no `input_size` is asked for: the network's own
        is that of what it was trained on, which windows now are. ``"auto"``: images of `LARGE` pixels or fewer are
        seen whole, as without windows; larger ones at their own scale, in windows of the network's own size or 1024 x
        1024, and no larger than the image, but for what it lacks to a multiple of 32 pixels.
    overlap : int or float
        Pixels that neighbours share, or their share of a window.

    Attributes
    ----------
    logits_of_cut : dict
        Of sizes that windows at the end of an image have where they are cut off there: that of their logits, or None
        where the network does not take them.

    Raises
    ------
    SettingsError
        As for `Inference`; also for `tile` and `overlap`.

    Warns
    -----
    UserWarning
        Where ``"auto"`` shows some images at their own scale and resizes others.
    """

    tile: Tile = "auto"
    overlap: Overlap = OVERLAP
    logits_of_cut: dict[tuple[int, int], tuple[int, int] | None] = field(default_factory=dict, repr=False)
    _scales: set[str] = field(default_factory=set, repr=False)

    size_option = "--tile or --input-size"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tile(self.tile)
        check_overlap(self.overlap, self.tile)
        if self.tile == "auto":
            return
        self.size = None if self.input_size is None else self.size
        if self.size is not None and any(side > own for side, own in zip(self.tile, self.size, strict=True)):
            raise SettingsError(
                f"tile is {_text(self.tile)}, and images are resized to {_text(self.size)} (input_size); expected "
                "windows that are no larger"
            )

    def prepare(self, image: np.ndarray, frame_id: str) -> Tensor | TiledImage:  # type: ignore[override]
        """Input of the network for an image, in windows where it is larger than they are.

        Raises
        ------
        FrameError
            If a window is larger than the image.
        """
        asked = self.size if self.tile != "auto" or self.input_size is not None else None
        height, width = asked or (int(image.shape[0]), int(image.shape[1]))
        window = self._window(height, width, frame_id)
        if window is None:
            if asked is None and self.size not in (None, (height, width)):
                self._note("resized")
            return super().prepare(image, frame_id)
        if asked is None and self.size is not None:
            self._note("own")
        if asked is not None and image.shape[:2] != tuple(asked):
            image = resized(image, asked, self.network.preprocessing.resample)
        overlap = self.shared(window, image.shape[:2], frame_id)
        return TiledImage(image, window, overlap, self, frame_id)

    def shared(self, window: tuple[int, int], size: tuple[int, ...], frame_id: str) -> tuple[int, int]:
        """Pixels that windows of an image share with their neighbours at least; 1 where one covers the image.

        Raises
        ------
        FrameError
            If they are as many as a window has.
        """
        found = []
        for side, pixels in zip(window, size, strict=True):
            overlap = max(1, round(self.overlap * side)) if isinstance(self.overlap, float) else self.overlap
            if pixels > side and overlap >= side:
                raise FrameError(
                    f"frame {frame_id!r}: overlap is {self.overlap} pixels, and windows are {_text(window)}; expected "
                    "fewer"
                )
            found.append(overlap if pixels > side else 1)
        return found[0], found[1]

    def _window(self, height: int, width: int, frame_id: str) -> tuple[int, int] | None:
        """Size of the windows of an image; None if it is seen whole."""
        if self.tile != "auto":
            window = self.tile
            larger = [
                name for name, side, own in zip(("high", "wide"), window, (height, width), strict=True) if side > own
            ]
            if larger:
                raise FrameError(
                    f"frame {frame_id!r}: windows of {_text(window)} are larger than the image of "
                    f"{_text((height, width))}, too {' and too '.join(larger)}; choose a smaller --tile, 'auto', or a "
                    "larger --input-size"
                )
        elif height * width <= LARGE:
            return None
        else:
            own = self.network.preprocessing.size or (_SIDE, _SIDE)
            window = min(own[0], _rounded(height)), min(own[1], _rounded(width))
        return window if window[0] < height or window[1] < width else None

    def takes(self, x: Tensor) -> bool:
        """Whether the network runs on inputs of that size."""
        return self._runs(x.to(self.device), (x.shape[-2], x.shape[-1]))

    def _note(self, scale: str) -> None:
        """Take down at which scale an image is seen, and warn of the first that differs."""
        alike = len(self._scales) == 2
        self._scales.add(scale)
        if not alike and len(self._scales) == 2:
            assert self.size is not None
            warnings.warn(
                f"images beyond {LARGE} pixels are seen in windows, at their own scale, and smaller ones resized to "
                f"{_text(self.size)}: what is of one size in both is not to the network; a --tile shows it all images "
                "at their own scale, an --input-size all at one size",
                stacklevel=3,
            )


class Mosaic:
    """Maps of the windows of an image put together, from its first row on, as soon as rows are complete.

    It holds as many rows as a window has: memory grows with the width of the image, not with its height.

    Parameters
    ----------
    grid : Grid
    log2 : sequence of bool
        Of each map, whether its values are logarithms: these are averaged as what they are logarithms of, and come
        behind all others.
    device : torch.device
    """

    def __init__(self, grid: Grid, log2: Sequence[bool], device: torch.device) -> None:
        self.grid = grid
        first = len(log2) - sum(log2)
        if any(log2[:first]):
            raise ValueError("expected maps of logarithms behind all others")
        self._linear, self._log2 = slice(0, first), slice(first, len(log2))
        self._held = self._cleared(torch.empty(len(log2), grid.down.size, grid.across.length, device=device))
        self._done = 0  # rows that were handed out

    def _cleared(self, maps: Tensor) -> Tensor:
        maps[self._linear], maps[self._log2] = 0, -torch.inf
        return maps

    def put(self, row: int, maps: Iterable[Tensor]) -> Iterator[Tensor]:
        """Add the maps (K, h, w) of a row of windows, from left to right: rows (K, r, x) that are complete, in blocks.

        All of them are to be taken before the next row of windows is put.
        """
        down, across, held = self.grid.down, self.grid.across, self._held
        counted = self._done - down.starts[row]  # cells whose weight is nothing, of rows that are complete
        open_rows = self.grid.visible(row, 0)[0] - counted
        for start, weights, own in zip(across.starts, across.weights, maps, strict=True):
            weight = torch.from_numpy(np.outer(down.weights[row, counted:], weights)).to(held.device)
            target = held[:, :open_rows, start : start + across.size]
            width = target.shape[2]  # a window may go beyond the image
            weight, inner = weight[:open_rows, :width], own[:, counted : counted + open_rows, :width]
            target[self._linear] += inner[self._linear] * weight
            norms = target[self._log2]
            norms.copy_(torch.logaddexp2(norms, inner[self._log2] + weight.log2()))
        complete = down.complete(row + 1) - self._done
        step = max(1, _BLOCK // held[:, 0].numel())
        for first in range(0, complete, step):
            block = held[:, first : min(first + step, complete)].clone()
            block[self._log2] = block[self._log2].clamp_min(LOG2_FLOOR)
            yield block
        rest = open_rows - complete
        held[:, :rest] = held[:, complete:open_rows].clone()
        self._cleared(held[:, rest:])
        self._done += complete
