"""From the bytes of an image file to an array, the same for networks, pages, figures and streams."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from ..schema.errors import FrameError
from .catalog import Color
from .image_source import ImageSource, Readable

__all__ = [
    "hash_content",
    "holds_colors",
    "image_size",
    "opened_image",
    "read_bytes",
    "read_image",
    "read_mask",
    "rgb_pixels",
]


_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


_MAX_16_BIT = 65535

_OPAQUE = 255

_BOMB = 6
"""Times Pillow's limit, ``PIL.Image.MAX_IMAGE_PIXELS``, beyond which an image is refused: 537 megapixels."""

_BLOCK = 1 << 22  # pixels that are converted at a time


class _Strict:
    """Hold Pillow's switch for truncated files off while any thread decodes, and its warnings of large images.

    Training code often sets ``ImageFile.LOAD_TRUNCATED_IMAGES`` for the whole process; a half-read image
    would then pass as grey pixels, which look like an anomaly. Aerial images are larger than what Pillow warns of.
    """

    _lock = threading.Lock()
    _depth = 0
    _outside = False
    limit: int | None = None

    def __enter__(self) -> None:
        with _Strict._lock:
            if _Strict._depth == 0:
                _Strict._outside = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
                _Strict.limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            _Strict._depth += 1

    def __exit__(self, *_error: object) -> None:
        with _Strict._lock:
            _Strict._depth -= 1
            if _Strict._depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _Strict._outside
                Image.MAX_IMAGE_PIXELS = _Strict.limit


@contextmanager
def opened_image(path: Readable, content: BinaryIO | None = None) -> Iterator[Image.Image]:
    """Open an image file and turn whatever goes wrong with it into an error that names it.

    Parameters
    ----------
    path : Path or ImageSource
    content : binary file, optional
        What the file holds, where that lies elsewhere.
    """
    try:
        with _Strict(), _opened(path, content) as image:
            pixels, most = image.width * image.height, _BOMB * (_Strict.limit or 0)
            if pixels > most > 0:
                raise FrameError(
                    f"{path}: too large to decode, {pixels} pixels; expected {most} at most, {_BOMB} times "
                    "PIL.Image.MAX_IMAGE_PIXELS"
                )
            yield image
    except (FrameError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes decoders raise almost anything, SyntaxError included
        if isinstance(error, OSError) and error.strerror:
            raise FrameError(f"{path}: cannot be read ({error.strerror})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrameError(f"{path}: cannot be decoded, expected a whole image file ({reason})") from error


def _opened(path: Readable, content: BinaryIO | None) -> Image.Image:
    if isinstance(path, ImageSource):
        return path.open()
    return Image.open(path if content is None else content)


def read_bytes(path: Readable) -> bytes:
    """Read a file; a `FrameError` names it if that fails."""
    if isinstance(path, ImageSource):
        return path.encoded()
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error


def hash_content(path: Readable, digest: Any, name: str) -> None:
    """Let a digest take a name, and length and content of a file, or the key of what is none.

    Raises
    ------
    FrameError
        Naming the file, if it cannot be read.
    """
    if isinstance(path, ImageSource):
        key = path.key()
        digest.update(f"{name} {len(key)}\n".encode() + key)
        return
    try:
        with path.open("rb") as file:
            digest.update(f"{name} {os.fstat(file.fileno()).st_size}\n".encode())
            while part := file.read(1 << 22):
                digest.update(part)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation as far as the header tells, 1 (upright) otherwise."""
    # Pillow turns TIFF by itself, and would decode a whole PNG to find an EXIF chunk behind the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF data, in whatever way: the pixels may be whole, and viewers show them as stored
        return 1


def image_size(path: Readable) -> tuple[int, int]:
    """(height, width) in pixels, upright, from the header of an image file."""
    with opened_image(path) as image:
        width, height = image.size
        sideways = _orientation(image) in (5, 6, 7, 8)
    return (width, height) if sideways else (height, width)


def read_image(path: Readable) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, see `rgb_pixels`."""
    with opened_image(path) as image:
        return rgb_pixels(image, path)


def rgb_pixels(image: Image.Image, path: Readable) -> np.ndarray:
    """Pixels of an opened image, (H, W, 3) uint8 RGB, turned upright as its EXIF data says.

    Opacity is dropped. Grey of 16 bits is scaled to 8, and so is grey in floating point, of which 1 is white.

    Raises
    ------
    FrameError
        Naming `path`, if grey values are of another range.
    """
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_GREY:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > _MAX_16_BIT:
            raise FrameError(f"{path}: grey values {grey.min()}..{grey.max()}, expected 8 or 16 bits")
        return _grey((grey * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT)
    if image.mode == "F":
        shades = np.asarray(image)
        if not (shades.min() >= 0 and shades.max() <= 1):  # NaN neither
            raise FrameError(
                f"{path}: floating-point grey values {shades.min():g}..{shades.max():g}, expected 0 to 1 (white), "
                "or an image of 8 or 16 bits"
            )
        return _grey(np.rint(shades * 255))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, _BLOCK // image.width)
    for top in range(0, image.height, step):  # no further copies of a whole image
        part = image.crop((0, top, image.width, min(top + step, image.height)))
        pixels[top : top + step] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return pixels


def _grey(shades: np.ndarray) -> np.ndarray:
    return np.repeat(shades.astype(np.uint8)[:, :, None], 3, axis=2)


def holds_colors(path: Readable) -> bool:
    """Whether a mask may hold colours that stand for ids, from the header."""
    with opened_image(path) as image:
        return image.mode not in ("L", "LA", "1", *_DEEP_GREY)


def read_mask(path: Readable, grey_rgb: bool, colors: Mapping[Color, int | None] | None = None) -> np.ndarray:
    """Decode to the ids as stored, (H, W) integers, or to the colours that stand for ids, (H, W, 3) uint8.

    Parameters
    ----------
    path
    grey_rgb
        Whether RGB whose three channels are equal holds ids.
    colors
        Colours that stand for an id, and which; without any, a mask of colours is an error. A palette gives ids by its
        indices, whatever its colours are, unless these are the colours of other ids. In a GIF, whose writers number
        palettes anew, it gives colours, and shades of grey are ids.

    Raises
    ------
    FrameError
        If the file cannot be decoded, is a JPEG, whose pixels are not those that were stored, or holds neither.
    """
    with opened_image(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise FrameError(f"{path}: mask is a JPEG, which changes ids; expected a lossless file such as PNG")
        # Pillow stretches 2- and 4-bit grey to 0..255, which is right for a picture and wrong for ids.
        tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
        stretch = {"L;2": 85, "L;4": 17}.get(str(tiles[0].args), 1) if tiles and image.format == "PNG" else 1
        mode, kind, pixels = image.mode, image.format, np.array(image)
        palette = np.array(image.getpalette() or (), np.uint8).reshape(-1, 3)
    if mode == "P":
        return _of_palette(path, pixels, palette, kind == "GIF", colors or {})
    if mode in ("L", "1", *_DEEP_GREY):
        return pixels.astype(np.uint8) if mode == "1" else pixels // pixels.dtype.type(stretch)
    if mode in ("LA", "RGBA") and (pixels[..., -1] == _OPAQUE).all():
        mode, pixels = mode[:-1], pixels[..., 0] if mode == "LA" else pixels[..., :3]
        if mode == "L":
            return pixels
    if mode == "RGB" and colors:
        return pixels
    if grey_rgb and mode == "RGB" and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0]
    coloured = ", or RGB with equal channels" if grey_rgb else ""
    raise FrameError(
        f"{path}: mask is of mode {mode}, expected one channel of ids (8 or 16 bits){coloured}; colours are read where "
        "classes.json says whose they are"
    )


def _of_palette(
    path: Readable, indices: np.ndarray, palette: np.ndarray, renumbered: bool, colors: Mapping[Color, int | None]
) -> np.ndarray:
    used = np.unique(indices)
    if used[-1] >= len(palette):
        raise FrameError(f"{path}: mask holds index {used[-1]} of a palette of {len(palette)} colours")
    shown = [_rgb(color) for color in palette[used]]
    known = {int(index): colors[color] for index, color in zip(used, shown, strict=True) if color in colors}
    grey = all(len(set(color)) == 1 for color in shown)
    # black or white alone may stand in any palette
    telling = len(known) > 1 or any(len(set(_rgb(palette[index]))) > 1 for index in known)
    if renumbered and grey and not (telling and len(known) == len(used)):
        ids: np.ndarray = palette[:, 0][indices]
        return ids
    if renumbered and not colors:
        raise FrameError(
            f"{path}: mask is a GIF with a palette of colours, whose numbers mean nothing; expected shades of grey, or "
            "classes.json to say whose the colours are"
        )
    if renumbered or (telling and any(id not in (index, None) for index, id in known.items())):
        return palette[indices]
    return indices


def _rgb(color: np.ndarray) -> Color:
    red, green, blue = color.tolist()
    return red, green, blue
