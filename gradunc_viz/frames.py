"""Folders of images with their masks, as a lazy sequence of frames.

Opening lists files; an image or mask is decoded each time it is asked for and never kept, so a set of any
size takes the memory of its file names.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from .conventions import class_table, read_mapping
from .layouts import LAYOUTS, FrameFiles, Mask
from .schema.errors import FrameError, SchemaError
from .schema.frame import IGNORE, check_frame_id

__all__ = ["LAYOUTS", "Frame", "Frames", "check_classes", "open_frames", "read_image"]

_DEEP_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_MAX_16_BIT = 65535


# ----------------------------------------------------------------------------------------------------------
# decoding


class _Strict:
    """Hold Pillow's switch for truncated files off while any thread decodes.

    Training code often sets ``ImageFile.LOAD_TRUNCATED_IMAGES`` for the whole process; a half-read image
    would then pass as grey pixels, which look like an anomaly.
    """

    _lock = threading.Lock()
    _depth = 0
    _outside = False

    def __enter__(self) -> None:
        with _Strict._lock:
            if _Strict._depth == 0:
                _Strict._outside = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            _Strict._depth += 1

    def __exit__(self, *_error: object) -> None:
        with _Strict._lock:
            _Strict._depth -= 1
            if _Strict._depth == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _Strict._outside


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file and turn whatever goes wrong with it into an error that names it."""
    try:
        with _Strict(), Image.open(path) as image:
            yield image
    except (FrameError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FrameError(f"{path}: too large to decode ({error})") from error
    except Exception as error:  # a damaged file makes decoders raise almost anything, SyntaxError included
        if isinstance(error, OSError) and error.strerror:
            raise FrameError(f"{path}: cannot be read ({error.strerror})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrameError(f"{path}: cannot be decoded, expected a whole image file ({reason})") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
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


def _size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        width, height = image.size
        sideways = _orientation(image) in (5, 6, 7, 8)
    return (width, height) if sideways else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB; opacity is dropped, 16-bit grey is scaled to 8 bits."""
    with _opened(path) as image:
        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP_GREY:
            grey = np.asarray(image).astype(np.int64)
            if grey.min() < 0 or grey.max() > _MAX_16_BIT:
                raise FrameError(f"{path}: grey values {grey.min()}..{grey.max()}, expected 8 or 16 bits")
            grey = (grey * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        if image.mode == "F":
            raise FrameError(f"{path}: holds floating-point pixels, expected an image of 8 or 16 bits")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        return np.array(image.convert("RGB"))


def _decode_mask(path: Path, grey_rgb: bool) -> np.ndarray:
    """Decode to the ids as stored, (H, W) integers: palette indices, not colours."""
    with _opened(path) as image:
        # Pillow stretches 2- and 4-bit grey to 0..255, which is right for a picture and wrong for ids.
        tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
        stretch = {"L;2": 85, "L;4": 17}.get(str(tiles[0].args), 1) if tiles and image.format == "PNG" else 1
        mode, pixels = image.mode, np.array(image)
    if mode in ("L", "P", "1", *_DEEP_GREY):
        return pixels.astype(np.uint8) if mode == "1" else pixels // pixels.dtype.type(stretch)
    if grey_rgb and mode == "RGB" and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0]
    coloured = ", or RGB with equal channels" if grey_rgb else ""
    raise FrameError(f"{path}: mask is of mode {mode}, expected one channel of ids (8 or 16 bits){coloured}")


# ----------------------------------------------------------------------------------------------------------
# frames


@dataclass(frozen=True)
class Frame:
    """One image with what belongs to it. Arrays are read from the files each time they are asked for."""

    files: FrameFiles
    classes: tuple[str, ...] | None = None

    @property
    def id(self) -> str:
        """Name of the frame, unique in its set and usable as a group of the cache."""
        return self.files.id

    @property
    def image_path(self) -> Path:
        """File of the image."""
        return self.files.image

    @property
    def label_path(self) -> Path | None:
        """File of the class labels, if there is one."""
        return self.files.label.path if self.files.label else None

    @property
    def anomaly_path(self) -> Path | None:
        """File of the anomaly labels, if there is one."""
        return self.files.anomaly.path if self.files.anomaly else None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright, from the header of the image file."""
        return _size(self.image_path)

    @property
    def image(self) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB, turned upright as its EXIF data says.

        Raises
        ------
        FrameError
            If the file is missing, damaged, too large or of an unsupported kind.
        """
        return read_image(self.image_path)

    @property
    def label(self) -> np.ndarray | None:
        """Class ids, (H, W) uint8, 255 = ignore; ``None`` without a mask.

        Raises
        ------
        FrameError
            If the mask cannot be read, differs in size from the image, or holds ids unknown to the layout, to
            the mapping of `open_frames` or to ``classes.json``.
        """
        label = self._mask(self.files.label)
        if label is not None and self.classes is not None:
            check_classes(label, len(self.classes), self)
        return label

    @property
    def anomaly(self) -> np.ndarray | None:
        """Where unknown objects are, (H, W) uint8: 0 known, 1 unknown, 255 = ignore; ``None`` without a mask.

        Raises
        ------
        FrameError
            If the mask cannot be read, differs in size from the image or holds ids unknown to the layout.
        """
        return self._mask(self.files.anomaly)

    def _mask(self, mask: Mask | None) -> np.ndarray | None:
        if mask is None:
            return None
        stored = _decode_mask(mask.path, mask.conversion.grey_rgb)
        if stored.shape != self.size:
            expected = f"expected {_text(self.size)} as {self.image_path.name} is"
            raise FrameError(f"{mask.path}: mask is {_text(stored.shape)}, {expected}")
        return mask.conversion(stored, mask.path)

    @property
    def image_bytes(self) -> bytes:
        """The image file as it is, encoded; EXIF orientation is not applied to it."""
        return _read_bytes(self.image_path)

    @property
    def image_format(self) -> str:
        """How `image_bytes` is encoded, from the header: ``"jpeg"``, ``"png"``, ``"webp"`` ..."""
        with _opened(self.image_path) as image:
            name = (image.format or "").lower()
        return "jpeg" if name == "mpo" else name  # a JPEG file with further pictures appended

    def digest(self) -> str:
        """Hash of what the frame holds: bytes of its files and the conversions of its masks, 32 hex digits.

        Names and places of the files do not count, so moving a set keeps its hashes.
        """
        digest = blake2b(digest_size=16)
        parts: list[tuple[str, bytes]] = [("image", self.image_bytes)]
        for name, mask in (("label", self.files.label), ("anomaly", self.files.anomaly)):
            if mask:
                parts += [(name, _read_bytes(mask.path)), ("ids", mask.conversion.key.encode())]
        for name, content in parts:
            digest.update(f"{name} {len(content)}\n".encode())  # lengths keep the parts apart
            digest.update(content)
        return digest.hexdigest()


class Frames(Sequence[Frame]):
    """An immutable sequence of frames, by position, by id and by slice. `open_frames` makes it."""

    __slots__ = ("_by_id", "_classes", "_colors", "_frames", "_layout", "_path")

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        path: Path,
        layout: str,
        classes: tuple[str, ...] | None = None,
        colors: tuple[tuple[int, int, int], ...] | None = None,
    ) -> None:
        self._frames = tuple(frames)
        self._by_id = {frame.id: frame for frame in self._frames}
        self._path, self._layout, self._classes, self._colors = path, layout, classes, colors

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def layout(self) -> str:
        """Name of the layout."""
        return self._layout

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the frames, in order."""
        return tuple(self._by_id)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the class ids 0..n-1 in labels, if they are known."""
        return self._classes

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...] | None:
        """Colours of the classes, (red, green, blue) of 0..255 each, if they are known."""
        return self._colors

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Frame: ...
    @overload
    def __getitem__(self, key: slice) -> Frames: ...
    def __getitem__(self, key: SupportsIndex | str | slice) -> Frame | Frames:
        """Return a frame by position or id, or a part of the sequence.

        Raises
        ------
        FrameError
            If no frame has this id.
        IndexError
            If there is no such position.
        """
        if isinstance(key, slice):
            return Frames(
                self._frames[key],
                path=self.path,
                layout=self.layout,
                classes=self.classes,
                colors=self.colors,
            )
        if not isinstance(key, str):
            return self._frames[operator.index(key)]
        if key not in self._by_id:
            known = f"{self.ids[0]!r} .. {self.ids[-1]!r}" if self._frames else "none"
            raise FrameError(f"{self.path}: no frame {key!r}, expected one of {len(self)} ids: {known}")
        return self._by_id[key]

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, item: object) -> bool:
        return item in self._by_id if isinstance(item, str) else item in self._frames

    def __repr__(self) -> str:
        return f"<Frames {str(self.path)!r}, layout {self.layout!r}, {len(self)} frames>"


def open_frames(
    path: str | os.PathLike[str],
    layout: str = "folder",
    *,
    labels: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    split: str | None = None,
) -> Frames:
    """Open a folder of images and masks; nothing is decoded.

    Parameters
    ----------
    path
        The folder.
    layout
        How it is arranged and what the ids in its masks mean: a name in `gradunc_viz.layouts.LAYOUTS`.
    labels
        Mapping ``{id stored in label masks: class id}``, or the path of a JSON file of it, in place of the
        layout's own. An id that occurs and is not listed is an error when the label is read; 255 stays 255.
    split
        For layouts with splits, the one to open; by default ``"val"``, ``"test"`` for Lost and Found.

    Raises
    ------
    FrameError
        If there is no such folder or layout, no image, two frames of one id, or the mapping is no mapping.
    """
    if layout not in LAYOUTS:
        raise FrameError(f"unknown layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    root = Path(path)
    files = LAYOUTS[layout].files(root, split)
    if labels is not None:
        conversion = read_mapping(labels)
        if not any(frame.label for frame in files):
            raise FrameError(f"{root}: a label mapping is given, but layout {layout!r} found no class labels here")
        files = tuple(
            replace(frame, label=Mask(frame.label.path, conversion)) if frame.label else frame for frame in files
        )
    first: dict[str, FrameFiles] = {}
    for frame in files:
        try:
            check_frame_id(frame.id)
        except SchemaError as error:
            raise FrameError(f"{frame.image}: {error}") from error
        if frame.id in first:
            raise FrameError(f"{first[frame.id].image} and {frame.image}: both are frame {frame.id!r}, expected one")
        first[frame.id] = frame
    classes, colors = class_table(root, LAYOUTS[layout].classes if labels is None else None)
    return Frames([Frame(frame, classes) for frame in files], path=root, layout=layout, classes=classes, colors=colors)


def check_classes(label: np.ndarray, n_classes: int, frame: Frame) -> None:
    """Check that a label fits a network.

    Parameters
    ----------
    label
        Class ids, (H, W), 255 = ignore.
    n_classes
        Number of classes the network tells apart.
    frame
        Where the label is from.

    Raises
    ------
    FrameError
        If an id is `n_classes` or more and not 255.
    """
    present = np.unique(label)
    outside = present[(present >= n_classes) & (present != IGNORE)]
    if outside.size:
        found = ", ".join(map(str, outside.tolist()))
        known = f"0..{n_classes - 1} or {IGNORE} (ignore)"
        raise FrameError(f"{frame.label_path}: label holds class id {found}, expected {known}")


def _text(size: tuple[int, ...]) -> str:
    height, width = size[0], size[1]
    return f"{height} x {width} (height x width)"
