"""What of a frame goes to the browser: the part in view, at about the resolution of the screen.

Maps are pooled by their maximum, so that a single uncertain pixel stays visible when zoomed out; class ids are picked,
never blended. Zoomed in, the tile holds every pixel as it is.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...schema.frame import IGNORE

__all__ = [
    "Tile",
    "View",
    "jpeg_url",
    "pick",
    "pool_marks",
    "pool_max",
    "pool_signed",
    "tile_for",
]

View = tuple[float, float, float, float]
"""Visible part of a frame in pixels: left, right, top, bottom."""

_MARGIN = 0.25
"""Share of the view that is sent beyond each of its sides, so that a small pan shows no gap."""

_JPEG_QUALITY = 88


@dataclass(frozen=True)
class Tile:
    """A rectangle of a frame, in blocks of `factor` by `factor` pixels.

    Attributes
    ----------
    left, top, right, bottom : int
        In pixels; right and bottom are exclusive and lie within the frame.
    factor : int
    """

    left: int
    top: int
    right: int
    bottom: int
    factor: int

    @property
    def shape(self) -> tuple[int, int]:
        """Blocks down and across; the last ones may be partial."""
        return math.ceil((self.bottom - self.top) / self.factor), math.ceil((self.right - self.left) / self.factor)

    @property
    def extent(self) -> dict[str, list[int]]:
        """Columns that place the blocks in a figure; partial blocks reach beyond the frame."""
        rows, columns = self.shape
        return {"x": [self.left], "y": [self.top], "dw": [columns * self.factor], "dh": [rows * self.factor]}

    def of(self, array: np.ndarray) -> np.ndarray:
        """Cut the pixels of the tile out of a frame's array."""
        return array[self.top : self.bottom, self.left : self.right]


def tile_for(size: tuple[int, int], view: View | None, across: int) -> Tile:
    """Choose the tile that shows `view` on a pane `across` screen pixels wide; the whole frame for no view.

    Blocks are aligned with the frame, so that they do not jump while panning, and never smaller than a screen pixel:
    whatever the screen then skips, no block is lost.
    """
    height, width = size
    left, right, top, bottom = (0.0, float(width), 0.0, float(height)) if view is None else view
    factor = max(1, math.ceil((right - left) / max(across, 1) - 1e-6))
    reach_x, reach_y = _MARGIN * (right - left), _MARGIN * (bottom - top)

    def snap(value: float, end: int, up: bool) -> int:
        steps = math.ceil(value / factor) if up else math.floor(value / factor)
        return int(min(max(steps * factor, 0), end))

    found = Tile(
        snap(left - reach_x, width, False),
        snap(top - reach_y, height, False),
        snap(right + reach_x, width, True),
        snap(bottom + reach_y, height, True),
        factor,
    )
    # a view beside the frame shows its nearest block
    if found.right <= found.left or found.bottom <= found.top:
        return Tile(0, 0, min(factor, width), min(factor, height), factor)
    return found


def _pool(values: np.ndarray, factor: int, keep: np.ufunc) -> np.ndarray:
    """Reduce blocks by a binary function; those at the right and bottom edge may be partial."""
    if factor == 1:
        return np.ascontiguousarray(values)
    rows = values[::factor].copy()
    for step in range(1, factor):
        part = values[step::factor]
        keep(rows[: len(part)], part, out=rows[: len(part)])
    columns = rows[:, ::factor].copy()
    for step in range(1, factor):
        part = rows[:, step::factor]
        keep(columns[:, : part.shape[1]], part, out=columns[:, : part.shape[1]])
    return columns


def pool_max(values: np.ndarray, tile: Tile) -> np.ndarray:
    """Largest value of each block; NaN only where all of it is NaN."""
    return _pool(tile.of(values), tile.factor, np.fmax if values.dtype.kind == "f" else np.maximum)


def pool_signed(values: np.ndarray, tile: Tile) -> np.ndarray:
    """The value farthest from 0 of each block, with its sign."""
    part = tile.of(values)
    high, low = _pool(part, tile.factor, np.fmax), _pool(part, tile.factor, np.fmin)
    return np.where(-low > high, low, high)


def pool_marks(marks: np.ndarray, tile: Tile) -> np.ndarray:
    """0, 1 or 255 per block: a marked pixel (1) outweighs its block, and so does an ignored one a plain one."""
    if tile.factor == 1:
        return np.ascontiguousarray(tile.of(marks))
    weight = np.array([0, 2, 1], "u1")[np.minimum(tile.of(marks), 2)]
    return np.array([0, IGNORE, 1], "u1")[_pool(weight, tile.factor, np.maximum)]


def pick(labels: np.ndarray, tile: Tile) -> np.ndarray:
    """One pixel of each block: class ids are never blended."""
    return np.ascontiguousarray(tile.of(labels)[:: tile.factor, :: tile.factor])


def jpeg_url(image: np.ndarray, tile: Tile) -> str:
    """Encode the part of an (y, x, 3) uint8 picture as the URL of a JPEG, averaged over blocks."""
    # half the blocks: a picture is smoothed by the browser, and may be a little finer than the screen
    part = Image.fromarray(tile.of(image)).reduce(max(1, tile.factor // 2))
    buffer = io.BytesIO()
    part.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
