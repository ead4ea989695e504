"""Finding images and the masks that belong to them in folders."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ...schema.errors import FrameError
from ...schema.file_names import is_foreign, natural_key
from ...schema.frame import nested_id
from ..bands import BANDS_SUFFIX
from ..conventions import Conversion, some
from .layout import FrameFiles, Mask

__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_SUFFIXES",
    "anomaly_frames",
    "files_below",
    "images_in",
    "label_frames",
    "masks_of",
    "one_of",
    "place_with",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Suffixes, in lower case, of the files that count as images; ``.npy`` does in folders without any."""

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
"""Suffixes, in lower case, of the files that masks are read from; of several of one name the first counts."""

_LOSSY = frozenset({".jpg", ".jpeg"})


def files_below(folder: Path, deep: bool) -> Iterator[Path]:
    """Yield the files of a folder, with `deep` also of those below it, through links but never in circles."""

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen or not deep:
            folders.clear()
        folders[:] = [name for name in folders if not is_foreign(name)]
        if real not in seen:
            yield from (Path(parent, name) for name in names if not is_foreign(name))
        seen.add(real)


def images_in(folder: Path, ending: str = "", deep: bool = False) -> dict[str, Path]:
    """Map the names of a folder's images, relative and without `ending` and suffix, to the images, as people count.

    Parameters
    ----------
    folder
        One that is absent holds none.
    ending
        What the names of the images end in before their suffix.
    deep
        Whether folders in it are looked through as well.

    Raises
    ------
    FrameError
        If two files have one name.
    """
    images: dict[str, Path] = {}
    files = sorted(files_below(folder, deep), key=lambda path: natural_key(path.as_posix())) if folder.is_dir() else []
    pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    for path in pictures or [path for path in files if path.suffix.lower() == BANDS_SUFFIX]:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name.endswith(ending):
            name = name.removesuffix(ending)
            if name in images:
                raise FrameError(f"{images[name]} and {path}: two images of the same name, expected one")
            images[name] = path
    return images


def masks_of(names: Iterable[str], folder: Path, conventions: Mapping[str, Conversion]) -> dict[str, Mask]:
    """Find the masks of the images called `names`.

    Masks that lie there and are not used are named in a warning, with the reason.

    Parameters
    ----------
    names
        As from `images_in`.
    folder
        Where the masks are; where it is absent there are none.
    conventions
        File name of the mask, ``{}`` standing for the image's, -> its conversion; the first that exists
        counts. The suffix may be another of `MASK_SUFFIXES`, and names may differ in case and Unicode form where no
        other image has the very name.

    Raises
    ------
    FrameError
        If the folder exists and belongs to none of the images: two sets were mixed up, or the names do not
        agree.
    """
    if not folder.is_dir():
        return {}
    names = list(names)
    files = _MaskFiles(folder)
    masks: dict[str, Mask] = {}
    for fold in (_composed, _folded):
        for name in names:
            for template, conversion in conventions.items() if name not in masks else ():
                path = files.take(template.format(name), fold)
                if path is not None:
                    masks[name] = Mask(path, conversion)
                    break
    if names and not masks:
        expected = " or ".join(template.format(names[0]) for template in conventions)
        raise FrameError(
            f"{folder}: no mask fits any image: expected {expected} (or another of {', '.join(MASK_SUFFIXES)}) for "
            f"image {names[0]!r}; found {some('file', files.shown()) if files.all else 'nothing'}"
        )
    left = files.left_over(names, masks, list(conventions))
    if left:
        warnings.warn(f"{folder}: {some('mask', left)} not used", stacklevel=2)
    return masks


def _composed(text: str) -> str:
    """A name in one Unicode form: file systems store accents either with their letter or behind it."""
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    """A name whatever its case and Unicode form."""
    return unicodedata.normalize("NFC", text).casefold()


class _MaskFiles:
    """Files below a folder of masks, and which of them were taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all = sorted(files_below(folder, deep=True))
        self._taken: set[Path] = set()
        self._by_stem: dict[Callable[[str], str], dict[str, list[Path]]] = {}

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _stem(self, path: Path) -> str:
        return path.relative_to(self.folder).with_suffix("").as_posix()

    def shown(self) -> list[str]:
        """Names of the files, below the folder."""
        return [self._name(path) for path in self.all]

    def take(self, name: str, fold: Callable[[str], str]) -> Path | None:
        """The file of a name, whatever its suffix; None where there is none that nobody took, or no telling which."""
        if fold not in self._by_stem:
            stems = self._by_stem[fold] = {}
            for path in self.all:
                if path.suffix.lower() in MASK_SUFFIXES:
                    stems.setdefault(fold(self._stem(path)), []).append(path)
        stem, _, suffix = name.rpartition(".")
        found = [path for path in self._by_stem[fold].get(fold(stem), ()) if path not in self._taken]
        if not found:
            return None
        best = min(found, key=lambda path: (path.suffix != f".{suffix}", MASK_SUFFIXES.index(path.suffix.lower())))
        if len({_composed(self._stem(path)) for path in found}) > 1:
            return None  # they differ in case, and none is the image's
        self._taken.add(best)
        return best

    def left_over(self, names: Sequence[str], masks: Mapping[str, Mask], templates: Sequence[str]) -> list[str]:
        """Files that are named like masks of these templates and were not taken, each with the reason."""
        stems = "|".join(
            re.escape(_folded(template.rpartition(".")[0])).replace(r"\{\}", "(.+)") for template in templates
        )
        masked = {_folded(name): mask.path for name, mask in masks.items() if isinstance(mask.path, Path)}
        images = {_folded(name) for name in names}
        left = []
        for path in self.all:
            stem = _folded(self._stem(path))
            match = re.fullmatch(stems, stem)
            if path in self._taken or match is None:
                continue
            name = next(group for group in match.groups() if group is not None)
            readable = path.suffix.lower() in MASK_SUFFIXES
            if name in masked:
                reason = (
                    f"{self._name(masked[name])} is" if readable and _folded(self._stem(masked[name])) == stem else ""
                )
            elif name not in images:
                # what stands beside a mask, such as its picture in colour, is no mask of another image
                beside = any(name[:end] in masked for end in range(len(name)) if not name[end].isalnum())
                reason = f"no image {name!r}" if readable and not beside else ""
            elif readable:
                reason = "several whose names differ in case"
            else:
                lossy = path.suffix.lower() in _LOSSY
                reason = "JPEG changes ids" if lossy else f"expected one of {', '.join(MASK_SUFFIXES)}"
            if reason:
                left.append(f"{self._name(path)} ({reason})")
        return left


def one_of(root: Path, *names: str) -> Path:
    """The folder of one of these names, in any case; the first of them where there is none."""
    there = [entry for entry in sorted(root.iterdir()) if entry.name.lower() in names and entry.is_dir()]
    if len(there) > 1:
        raise FrameError(f"{root}: holds {some('folder', [entry.name for entry in there])}, expected only one of them")
    return there[0] if there else root / names[0]


def place_with(root: Path, inside: str, *below: str) -> Path:
    """The folder that holds `inside`: `root`, or one of those `below` it; `root` where none does."""
    places = (root, *(root / name for name in below))
    return next((place for place in places if (place / inside).is_dir()), root)


def label_frames(
    images: Path, masks: Path, conventions: Mapping[str, Conversion], deep: bool = False
) -> list[FrameFiles]:
    """Frames of one folder of images with class labels in another; none where there is no folder of labels.

    Parameters
    ----------
    images, masks, deep
        As of `images_in` and `masks_of`; ids hold the folders of nested images.
    conventions
        As of `masks_of`.
    """
    found = images_in(images, deep=deep) if masks.is_dir() else {}
    labels = masks_of(found, masks, conventions)
    return [FrameFiles(nested_id(name), image, labels.get(name)) for name, image in found.items()]


def anomaly_frames(images: Mapping[str, Path], folder: Path, conventions: Mapping[str, Conversion]) -> list[FrameFiles]:
    """Frames of one folder of images with anomaly masks in another."""
    masks = masks_of(images, folder, conventions)
    return [FrameFiles(name, image, anomaly=masks.get(name)) for name, image in images.items()]
