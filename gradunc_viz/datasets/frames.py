"""Folders of images with their masks, as a lazy sequence of frames.

Opening lists files; an image or mask is decoded each time it is asked for and never kept, so a set of any
size takes the memory of its file names.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from ..schema.errors import FrameError, SchemaError
from ..schema.frame import IGNORE, IGNORE_16, check_frame_id, id_type, ignore_id, ignored
from .bands import frame_size
from .catalog import Color
from .class_files import NamedClasses, folder_classes
from .conventions import ANOMALY_IDS, Conversion, class_ids, read_mapping, reduced, some
from .decoding import hash_content, holds_colors, opened_image, read_bytes, read_image, read_mask
from .fits import fitting_layouts
from .image_source import ImageSource, Readable
from .layouts import LAYOUTS, FrameFiles, Layout, Mask, NoFramesError

__all__ = ["LAYOUTS", "Frame", "Frames", "check_classes", "checked_label", "framed", "open_frames"]


@dataclass(frozen=True)
class Frame:
    """One image with what belongs to it. Arrays are read from the files each time they are asked for."""

    files: FrameFiles
    classes: tuple[str, ...] | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None

    @property
    def id(self) -> str:
        """Name of the frame, unique in its set and usable as a group of the cache."""
        return self.files.id

    @property
    def image_path(self) -> Readable:
        """File of the image, or where else it is read from."""
        return self.files.image

    @property
    def label_path(self) -> Readable | None:
        """File of the class labels, or where else they are read from, if there are any."""
        return _path(self.files.label)

    @property
    def anomaly_path(self) -> Readable | None:
        """File of the anomaly labels, if there is one; that of the class labels where some of their ids are those."""
        if self.files.anomaly_ids:
            return self.label_path
        return _path(self.files.anomaly)

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file that it is read from."""
        masks = (mask.path for mask in (self.files.label, self.files.anomaly) if mask is not None)
        read = (self.files.image, *masks, self.files.region, self.files.ignore)
        files = (one.file if isinstance(one, ImageSource) else one for one in read)
        return tuple(file for file in files if file is not None)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright, from the header of the image file."""
        return frame_size(self.image_path)

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
        """Class ids, (H, W); ``None`` without a mask.

        They are uint8, and 255 is ignored; where an id is larger than 254 they are uint16, and 65535 is ignored.

        Raises
        ------
        FrameError
            If the mask cannot be read, differs in size from the image, or holds ids or colours unknown to the layout,
            to the mapping of `open_frames` or to ``classes.json``.
        """
        label = self._mask(self.files.label)
        return label if label is None or self.classes is None else checked_label(label, len(self.classes), self)

    @property
    def anomaly(self) -> np.ndarray | None:
        """Where unknown objects are, (H, W) uint8: 0 known, 1 unknown, 255 = ignore; ``None`` without a mask.

        Raises
        ------
        FrameError
            If the mask cannot be read, differs in size from the image or holds ids unknown to the layout.
        """
        label = self.files.label
        if not self.files.anomaly_ids or label is None:
            return self._mask(self.files.anomaly)
        if _absent(label):
            return None
        stored = self._stored(label.path, label.conversion.grey_rgb)
        unknown = np.isin(stored, list(self.files.anomaly_ids))
        known = ~ignored(self._converted(label, stored))
        return self._cut(np.where(known | unknown, unknown, IGNORE).astype(np.uint8))

    def _mask(self, mask: Mask | None) -> np.ndarray | None:
        if mask is None or _absent(mask):
            return None
        stored = self._stored(mask.path, mask.conversion.grey_rgb, mask.conversion.colors)
        return self._cut(self._converted(mask, stored))

    def _converted(self, mask: Mask, stored: np.ndarray) -> np.ndarray:
        """Ids of what is stored in a mask; those that mean unknown objects are ignored."""
        conversion = mask.conversion
        if conversion.as_stored and stored.dtype != np.uint8:
            n_classes = _count(stored) if self.classes is None else len(self.classes)
            conversion = replace(class_ids(n_classes), expected=conversion.expected)
        return conversion(stored, mask.path, self.files.anomaly_ids)

    def _cut(self, ids: np.ndarray) -> np.ndarray:
        """The ids, ignored where other files say so."""
        if self.files.region is not None:
            ids[self._stored(self.files.region, True) == 0] = ignore_id(ids.dtype)
        if self.files.ignore is not None:
            ids[self._stored(self.files.ignore, True) != 0] = ignore_id(ids.dtype)
        return ids

    def _stored(self, path: Readable, grey_rgb: bool, colors: Mapping[Color, int | None] | None = None) -> np.ndarray:
        """A mask of the image's size, as `read_mask` gives it."""
        stored = read_mask(path, grey_rgb, colors)
        if stored.shape[:2] != self.size:
            expected = f"expected {_text(self.size)} as {self.image_path.name} is"
            raise FrameError(f"{path}: mask is {_text(stored.shape)}, {expected}")
        return stored

    @property
    def image_bytes(self) -> bytes:
        """The image file as it is, encoded; EXIF orientation is not applied to it. PNG where it is no file."""
        return read_bytes(self.image_path)

    @property
    def image_format(self) -> str:
        """How `image_bytes` is encoded, from the header: ``"jpeg"``, ``"png"``, ``"webp"`` ..."""
        with opened_image(self.image_path) as image:
            name = (image.format or "png").lower()
        return "jpeg" if name == "mpo" else name  # a JPEG file with further pictures appended

    def digest(self) -> str:
        """Hash of what the frame holds: bytes of its files and the conversions of its masks, 32 hex digits.

        Names and places of the files do not count, so moving a set keeps its hashes.
        """
        digest = blake2b(digest_size=16)

        def take(name: str, content: bytes) -> None:
            digest.update(f"{name} {len(content)}\n".encode())  # lengths keep the parts apart
            digest.update(content)

        hash_content(self.image_path, digest, "image")
        for name, mask in (("label", self.files.label), ("anomaly", self.files.anomaly)):
            if mask:
                hash_content(mask.path, digest, name)
                take("ids", mask.conversion.key.encode())
                if mask.conversion.colors and not _absent(mask) and holds_colors(mask.path):
                    take("colors", mask.conversion.color_key.encode())
        for name, path in (("region", self.files.region), ("ignore", self.files.ignore)):
            if path is not None:
                hash_content(path, digest, name)
        if self.files.anomaly_ids:
            take("anomaly ids", str(sorted(self.files.anomaly_ids)).encode())
        return digest.hexdigest()


class Frames(Sequence[Frame]):
    """An immutable sequence of frames, by position, by id and by slice. `open_frames` makes it."""

    __slots__ = ("_by_id", "_classes", "_colors", "_frames", "_layout", "_path", "_whole")

    def __init__(
        self,
        frames: Sequence[Frame],
        *,
        path: Path,
        layout: str,
        classes: tuple[str, ...] | None = None,
        colors: tuple[tuple[int, int, int], ...] | None = None,
        whole: Frames | None = None,
    ) -> None:
        self._whole = whole
        self._frames = tuple(frames)
        self._by_id = {frame.id: frame for frame in self._frames}
        self._path, self._layout, self._classes, self._colors = path, layout, classes, colors

    @property
    def path(self) -> Path:
        """The folder or file; a name, where the frames are from elsewhere."""
        return self._path

    @property
    def whole(self) -> Frames:
        """The set that these are a part of."""
        return self if self._whole is None else self._whole

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
                whole=self.whole,
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
    layout: str | Layout = "folder",
    *,
    labels: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomalies: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomaly_ids: Iterable[int] = (),
    reduce_zero_label: bool = False,
    split: str | None = None,
) -> Frames:
    """Open a folder of images and masks; nothing is decoded.

    Parameters
    ----------
    path
        The folder; or a video, a table of paths (.csv), or a pattern of numbered images (``frame_%05d.png``).
    layout
        How it is arranged and what the ids in its masks mean: a name in `gradunc_viz.datasets.layouts.LAYOUTS`, or a
        layout of one's own, such as `gradunc_viz.datasets.layouts.pattern_layout` makes.
    labels
        Mapping ``{id stored in label masks: class id}``, or the path of a JSON file of it, in place of the
        layout's own. An id that occurs and is not listed is an error when the label is read; 255 stays ignored.
    anomalies
        Likewise from ids stored in anomaly masks to 0 known, 1 unknown object, 255 or ``null`` ignored:
        ``{0: 0, 255: 1}`` where they are black and white.
    anomaly_ids
        Ids, as they are stored in label masks, that mean unknown objects, in place of any that the layout names: they
        are ignored in labels, and make up the anomaly masks of frames with labels.
    reduce_zero_label
        As in MMSegmentation: ids in label masks count from 1, and 0 is ignored.
    split
        For layouts with splits, the one to open; by default ``"val"``, ``"test"`` for Lost and Found.

    Raises
    ------
    FrameError
        If there is no such folder or layout, no image, two frames of one id, a mapping is no mapping, or something is
        said of labels that are not there or mean something else.

    Warns
    -----
    UserWarning
        Naming masks that lie there and are not used, with the reason; naming a layout that finds masks where this one
        finds none.

    Notes
    -----
    A mask is a lossless file of one channel of ids, of 8 or 16 bits. Where the classes have colours (``classes.json``
    or the layout's convention) a label may hold these instead; any other colour is an error.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise FrameError(f"{type(path).__name__} is no path of a folder; frames of an object: gv.frames_from(...)")
    root = Path(path).absolute()  # the process may go to another folder
    arrangement = layout if isinstance(layout, Layout) else LAYOUTS.find(layout)
    if layout == "folder" and not root.is_dir():
        arrangement = next((each for each in LAYOUTS.values() if each.takes(root)), arrangement)
    layout = arrangement.name
    try:
        files = arrangement.files(root, split)
    except NoFramesError as error:
        fits = fitting_layouts(root)
        hint = f"; layout {fits[0].layout!r} finds {fits[0].frames} frames here ({fits[0].options})" if fits else ""
        raise FrameError(f"{error}{hint}") from error
    if root.is_dir() and not any(frame.label or frame.anomaly for frame in files):
        others = [fit for fit in fitting_layouts(root) if fit.masks and fit.layout != layout]
        if others:
            fit = others[0]
            other = f"{fit.layout!r} finds {fit.masks} here ({fit.options})"
            warnings.warn(f"{root}: layout {layout!r} finds no masks, layout {other}", stacklevel=2)
    return framed(
        files,
        root,
        layout,
        folder_classes(root, arrangement.classes if labels is None else None),
        labels=labels,
        anomalies=anomalies,
        anomaly_ids=anomaly_ids,
        reduce_zero_label=reduce_zero_label,
    )


def framed(
    files: Sequence[FrameFiles],
    root: Path,
    layout: str,
    named: NamedClasses | None,
    *,
    labels: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomalies: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    anomaly_ids: Iterable[int] = (),
    reduce_zero_label: bool = False,
) -> Frames:
    """Frames of files that a layout or an adapter listed.

    Parameters
    ----------
    files
    root
        Where they are from, for messages.
    layout
        The name of whatever listed them.
    named
        Names and colours of the class ids that labels hold in the end, if they are known.
    labels, anomalies, anomaly_ids, reduce_zero_label
        As of `open_frames`.

    Raises
    ------
    FrameError
        As of `open_frames`.
    """
    if reduce_zero_label:
        if labels is not None or any(frame.label and not frame.label.conversion.as_stored for frame in files):
            given = "a mapping" if labels is not None else f"layout {layout!r}"
            raise FrameError(f"{root}: {given} says what ids in labels mean, expected no reduce_zero_label beside it")
        files = _mapped(files, "label", reduced(IGNORE - 1, "class ids 1..254, or 0 or 255 (ignore)"), root, layout)
    if labels is not None:
        files = _mapped(files, "label", read_mapping(labels), root, layout)
    if anomalies is not None:
        files = _mapped(files, "anomaly", read_mapping(anomalies, ANOMALY_IDS), root, layout)
    if unknown := frozenset(anomaly_ids):
        files = _with_anomaly_ids(files, unknown, root, layout)
    first: dict[str, FrameFiles] = {}
    for frame in files:
        try:
            check_frame_id(frame.id)
        except SchemaError as error:
            raise FrameError(f"{frame.image}: {error}") from error
        if frame.id in first:
            raise FrameError(f"{first[frame.id].image} and {frame.image}: both are frame {frame.id!r}, expected one")
        first[frame.id] = frame
    if named is None:
        return Frames([Frame(frame) for frame in files], path=root, layout=layout)
    by_color = named.by_color
    framed = [Frame(_with_colors(frame, by_color), named.names, named.colors) for frame in files]
    return Frames(framed, path=root, layout=layout, classes=named.names, colors=named.colors)


def _mapped(
    files: Sequence[FrameFiles], kind: str, conversion: Conversion, root: Path, layout: str
) -> tuple[FrameFiles, ...]:
    """Frames whose masks of a kind, "label" or "anomaly", mean what a mapping says."""
    if not any(getattr(frame, kind) for frame in files):
        what = "class labels" if kind == "label" else "anomaly masks"
        raise FrameError(f"{root}: a mapping of {what} is given, but layout {layout!r} found no {what} here")

    def mapped(frame: FrameFiles) -> FrameFiles:
        mask: Mask | None = getattr(frame, kind)
        return frame if mask is None else replace(frame, **{kind: mask._replace(conversion=conversion)})  # type: ignore[arg-type]

    return tuple(map(mapped, files))


def _with_anomaly_ids(
    files: Sequence[FrameFiles], unknown: frozenset[int], root: Path, layout: str
) -> tuple[FrameFiles, ...]:
    """Frames some of whose label ids mean unknown objects."""
    if not any(frame.label for frame in files):
        raise FrameError(f"{root}: ids of anomalies are given, but layout {layout!r} found no class labels here")
    for frame in files:
        if frame.anomaly is not None:
            raise FrameError(
                f"{frame.anomaly.path}: an anomaly mask beside ids of anomalies in labels; expected one of them"
            )
    return tuple(replace(frame, anomaly_ids=unknown) for frame in files)


def _with_colors(frame: FrameFiles, by_color: Mapping[Color, int | None]) -> FrameFiles:
    if frame.label is None or not by_color:
        return frame
    return replace(frame, label=frame.label._replace(conversion=replace(frame.label.conversion, colors=by_color)))


def _absent(mask: Mask) -> bool:
    """Whether a mask that might have been there is not."""
    return isinstance(mask.path, ImageSource) and mask.path.absent


def _path(mask: Mask | None) -> Readable | None:
    return None if mask is None or _absent(mask) else mask.path


def _count(stored: np.ndarray) -> int:
    """How many classes ids are of that nobody counted; 255 alone is no class but ignored."""
    largest = int(stored[stored != IGNORE_16].max(initial=0))
    return largest + (largest > IGNORE)


def checked_label(label: np.ndarray, n_classes: int, frame: Frame) -> np.ndarray:
    """The label in the type of ids of `n_classes` classes, if it fits them: see `check_classes`."""
    check_classes(label, n_classes, frame)
    dtype = id_type(n_classes)
    if label.dtype == dtype:
        return label
    fitted = label.astype(dtype)
    fitted[ignored(label)] = ignore_id(dtype)
    return fitted


def check_classes(label: np.ndarray, n_classes: int, frame: Frame) -> None:
    """Check that a label fits a network.

    Parameters
    ----------
    label
        Class ids, (H, W), the largest number of their type = ignore.
    n_classes
        Number of classes the network tells apart.
    frame
        Where the label is from.

    Raises
    ------
    FrameError
        If an id is `n_classes` or more and not ignored.
    """
    present = np.unique(label)
    outside = present[(present >= n_classes) & ~ignored(present)]
    if outside.size:
        known = f"0..{n_classes - 1} or {ignore_id(id_type(n_classes))} (ignore)"
        raise FrameError(f"{frame.label_path}: label holds {some('class id', outside.tolist())}, expected {known}")


def _text(size: tuple[int, ...]) -> str:
    height, width = size[0], size[1]
    return f"{height} x {width} (height x width)"
