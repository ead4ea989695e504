"""Pieces of an image around a region."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageColor
from scipy import ndimage

from ...metrics.arrays.components import EIGHT
from ...metrics.regions import Failure
from ...store.cache import Cache
from ...store.frame import decode_image
from ...style.palette import FAILURE_COLORS
from ..state.memo import remember

__all__ = ["crop"]


def crop(cache: Cache, failure: Failure, pad: float = 0.6, width: int = 240, height: int | None = None) -> bytes:
    """JPEG of the image around a failure, with its outline.

    Parameters
    ----------
    pad : float
        Width of the surroundings on each side, over the larger side of the failure's box; at least 24 pixels.
    width, height : int
        Of the picture in pixels; the height is 3/4 of the width by default.

    Raises
    ------
    CacheError
        If the image cannot be decoded.
    """
    height = height or round(width * 3 / 4)
    key = ("crop", failure.frame, failure.kind, failure.score, failure.threshold, failure.box, pad, width, height)
    return remember(cache, key, lambda: _crop(_image(cache, failure.frame), failure, pad, width, height))


def _image(cache: Cache, frame: str) -> np.ndarray:
    # the failures of a list often come from the same few frames
    return remember(cache, ("decoded", frame), lambda: decode_image(cache[frame]))


def _crop(image: np.ndarray, failure: Failure, pad: float, width: int, height: int) -> bytes:
    tall, wide = failure.bottom - failure.top, failure.right - failure.left
    border = max(24.0, pad * max(tall, wide))
    scale = max((wide + 2 * border) / width, (tall + 2 * border) / height)
    limit = max(image.shape[1] / width, image.shape[0] / height)
    scale = min(scale, limit)
    box_width, box_height = width * scale, height * scale
    left = _shifted((failure.left + failure.right - box_width) / 2, box_width, image.shape[1])
    top = _shifted((failure.top + failure.bottom - box_height) / 2, box_height, image.shape[0])
    box = (left, top, left + box_width, top + box_height)
    inner = (max(left, 0), max(top, 0), min(box[2], image.shape[1]), min(box[3], image.shape[0]))
    size = max(1, round((inner[2] - inner[0]) / scale)), max(1, round((inner[3] - inner[1]) / scale))
    first = int(inner[0]), int(inner[1])
    part = image[first[1] : int(np.ceil(inner[3])), first[0] : int(np.ceil(inner[2]))]
    local = (inner[0] - first[0], inner[1] - first[1], inner[2] - first[0], inner[3] - first[1])
    # resize with a box averages where it shrinks, which transform would not
    picture = np.array(Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.BILINEAR, local))
    _outline(picture, failure, inner[0], inner[1], scale)
    canvas = Image.new("RGB", (width, height), (128, 128, 128))
    canvas.paste(Image.fromarray(picture), ((width - size[0]) // 2, (height - size[1]) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _outline(picture: np.ndarray, failure: Failure, left: float, top: float, scale: float) -> None:
    """Draw the border of a failure, in its colour between two dark lines, just outside of it."""
    ys = np.floor((top + (np.arange(picture.shape[0]) + 0.5) * scale - failure.top) / failure.step).astype(int)
    xs = np.floor((left + (np.arange(picture.shape[1]) + 0.5) * scale - failure.left) / failure.step).astype(int)
    rows, columns = (ys >= 0) & (ys < failure.mask.shape[0]), (xs >= 0) & (xs < failure.mask.shape[1])
    inside = np.zeros(picture.shape[:2], bool)
    inside[np.ix_(rows, columns)] = failure.mask[np.ix_(ys[rows], xs[columns])]
    if not inside.any():  # narrower than a pixel of the picture
        y = round((failure.y + 0.5 - top) / scale - 0.5)
        x = round((failure.x + 0.5 - left) / scale - 0.5)
        inside[np.clip(y, 0, picture.shape[0] - 1), np.clip(x, 0, picture.shape[1] - 1)] = True
    near = ndimage.binary_dilation(inside, EIGHT)
    line = ndimage.binary_dilation(near, EIGHT, 2)
    edge = ndimage.binary_dilation(line, EIGHT)
    picture[edge & ~line] = picture[edge & ~line] // 3
    picture[line & ~near] = ImageColor.getrgb(FAILURE_COLORS[failure.kind])


def _shifted(start: float, length: float, limit: int) -> float:
    return (limit - length) / 2 if length > limit else min(max(start, 0.0), limit - length)
