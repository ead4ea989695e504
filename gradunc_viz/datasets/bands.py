"""Images of any number of channels: grey, with depth or opacity, of many spectral bands."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from ..schema.errors import FrameError
from .decoding import image_size, opened_image
from .image_source import ImageSource, Readable

__all__ = ["BANDS_SUFFIX", "as_picture", "frame_channels", "frame_size", "read_bands"]

BANDS_SUFFIX = ".npy"
"""Suffix of arrays that are images, of any number of channels; no other program shows them."""

_PICTURES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_MAX_16_BIT = 65535
_BLOCK = 1 << 22  # numbers that are converted at a time
_TIFF = (".tif", ".tiff")
_SAMPLES_PER_PIXEL = 277  # tag of TIFF
_PILLOW_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_bands(path: Readable, channels: int) -> np.ndarray:
    """Read an image as a network of so many channels takes it.

    Parameters
    ----------
    path
        ``.npy``, (y, x, channels), (channels, y, x) or (y, x); TIFF of that many bands or pages; or an image of another
        format that has that many channels. RGB is turned into grey for one channel.
    channels
        How many there are to be.

    Returns
    -------
    array (y, x, channels)
        uint8 or uint16 as stored, everything else as float32.

    Raises
    ------
    FrameError
        If the file cannot be read, or has another number of channels.
    """
    pixels = _array(path) if _is_array(path) else _decoded(path, channels)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim == 3 and pixels.shape[2] != channels == pixels.shape[0]:
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim != 3 or pixels.shape[2] != channels or not pixels.size:
        raise FrameError(f"{path}: an image of shape {pixels.shape}, expected (height, width, {channels})")
    if pixels.dtype.kind not in "uif":
        raise FrameError(f"{path}: holds {pixels.dtype}, expected numbers")
    kept = pixels.dtype in (np.uint8, np.uint16)
    pixels = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("=") if kept else np.float32)
    if not kept and not np.isfinite(pixels).all():
        raise FrameError(f"{path}: holds NaN or infinity, expected finite numbers")
    return pixels


def frame_size(path: Readable) -> tuple[int, int]:
    """(height, width) in pixels of an image of any number of channels, of which there are fewer than rows or columns.

    Raises
    ------
    FrameError
        If the file cannot be read.
    """
    try:
        shape = _array(path, "r").shape if _is_array(path) else (*image_size(path), 1)
    except FrameError:
        if path.suffix.lower() not in _TIFF:
            raise
        shape = _tiff_shape(path)
    if len(shape) == 3 and shape[0] < shape[2]:
        shape = shape[1:]
    if len(shape) < 2:
        raise FrameError(f"{path}: an array of shape {shape}, expected (height, width, channels)")
    return int(shape[0]), int(shape[1])


def frame_channels(path: Readable) -> int:
    """How many channels an image has, of which there are fewer than rows or columns; 3 of any picture, as it is shown.

    Raises
    ------
    FrameError
        If the file cannot be read.
    """
    if _is_array(path):
        shape = _array(path, "r").shape
    elif isinstance(path, ImageSource) or _is_picture(path):
        return 3
    else:
        shape = _tiff_shape(path)
    return 1 if len(shape) < 3 else min(int(shape[0]), int(shape[2]))


def as_picture(path: Readable, pixels: np.ndarray) -> tuple[np.ndarray, bytes, str] | None:
    """What is shown of an image that is no picture itself.

    Parameters
    ----------
    path
        A file that Pillow opens as grey or colours is a picture.
    pixels
        (y, x, channels) as from `read_bands`.

    Returns
    -------
    array (y, x, 3) uint8, bytes, str; or None
        The first three channels, or the first one in grey, as an array and encoded, and the name of the encoding;
        ``None`` for a picture.
    """
    if _is_picture(path):
        return None
    shown = pixels[:, :, :3] if pixels.shape[2] >= 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        scale = 255 / (high - low) if high > low else 0
        scaled = np.empty(shown.shape, np.uint8)
        step = max(1, _BLOCK // shown[0].size)
        for first in range(0, len(shown), step):  # no copy of a whole image in float64
            rows = slice(first, first + step)
            scaled[rows] = np.rint((shown[rows].astype(np.float64) - low) * scale)
        shown = scaled
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, "PNG")
    return shown, buffer.getvalue(), "png"


def _is_array(path: Readable) -> TypeGuard[Path]:
    return path.suffix.lower() == BANDS_SUFFIX


def _array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode, allow_pickle=False)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file makes numpy raise almost anything
        raise FrameError(f"{path}: cannot be read, expected an array ({error})") from error
    return array


def _decoded(path: Readable, channels: int) -> np.ndarray:
    try:
        with opened_image(path) as image:
            if _partly(image):
                return _tiff(path)
            if image.format != "TIFF":  # Pillow turns that one itself
                image = ImageOps.exif_transpose(image)
            if getattr(image, "n_frames", 1) == channels != 1:
                return np.stack([np.array(page) for page in ImageSequence.Iterator(image)], axis=2)
            wanted = _PILLOW_MODES.get(channels)
            if image.mode == "P":
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            if channels == 1 and image.mode in ("1", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
                image = image.convert("L")
            if (wanted is not None and len(image.getbands()) == channels) or channels == 1:
                pixels = np.array(image)
                deep = pixels.dtype.kind == "i" and pixels.min() >= 0 and pixels.max() <= _MAX_16_BIT
                return pixels.astype(np.uint16) if deep else pixels
            found = len(image.getbands())
    except FrameError:
        if path.suffix.lower() not in _TIFF:
            raise
        return _tiff(path)
    raise FrameError(f"{path}: an image of {found} channels, expected {channels} as the network takes")


def _is_picture(path: Readable) -> bool:
    """Whether Pillow opens a file as grey or colours, all of it."""
    try:
        with opened_image(path) as image:
            return image.mode in _PICTURES and getattr(image, "n_frames", 1) == 1 and not _partly(image)
    except FrameError:
        return False


def _partly(image: Image.Image) -> bool:
    """Whether it is a TIFF of more bands than Pillow shows: of bands that are stored one by one it takes the first."""
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
    return int(samples) > len(image.getbands())


def _tiff(path: Readable) -> np.ndarray:
    """TIFF of more bands than Pillow knows."""
    with _opened_tiff(path) as file:
        pixels: np.ndarray = file.asarray()
    return pixels


def _tiff_shape(path: Readable) -> tuple[int, ...]:
    """Its shape, of which only the header is read."""
    with _opened_tiff(path) as file:
        return tuple(file.series[0].shape)


@contextmanager
def _opened_tiff(path: Readable) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError as error:
        raise FrameError(
            f"{path}: Pillow cannot decode it; TIFF of many bands needs tifffile: pip install tifffile; or save the "
            f"image as {BANDS_SUFFIX}"
        ) from error
    try:
        with tifffile.TiffFile(io.BytesIO(path.encoded()) if isinstance(path, ImageSource) else path) as file:
            yield file
    except Exception as error:  # a damaged file may raise anything
        raise FrameError(f"{path}: cannot be decoded, expected a TIFF ({error})") from error
