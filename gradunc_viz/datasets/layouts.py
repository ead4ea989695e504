"""Where the conventions of published data sets keep their files.

A `Layout` lists the files of each frame and looks into none of them. Every mask comes with the `Conversion`
that says what the ids stored in it mean. A layout of one's own takes its place among them with `register_layout`.
"""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from ..schema.errors import FrameError
from ..schema.file_names import is_foreign, natural_key
from ..schema.registry import Registry
from .bands import BANDS_SUFFIX
from .conventions import (
    ANOMALY_IDS,
    CAMVID_IDS,
    CITY_IDS,
    CITY_TRAIN_IDS,
    CLASS_IDS,
    LAF_IDS,
    LAF_TRAIN_IDS,
    ROAD_ANOMALY_IDS,
    VESSEL_IDS,
    Conversion,
    read_json,
    some,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "MASK_SUFFIXES",
    "FrameFiles",
    "Layout",
    "Mask",
    "images_in",
    "masks_of",
    "register_layout",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Suffixes, in lower case, of the files that count as images; ``.npy`` does in folders without any."""

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
"""Suffixes, in lower case, of the files that masks are read from; of several of one name the first counts."""

_LOSSY = frozenset({".jpg", ".jpeg"})


class Mask(NamedTuple):
    """A mask file and what its ids mean."""

    path: Path
    conversion: Conversion


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; `label` and `anomaly` are ``None`` where there is no such mask.

    Where there is a `region`, pixels that are 0 in it are ignored, whatever the masks say.
    """

    id: str
    image: Path
    label: Mask | None = None
    anomaly: Mask | None = None
    region: Path | None = None


@dataclass(frozen=True)
class Layout:
    """A convention for arranging images and masks in a folder.

    Attributes
    ----------
    name, description
        For lists of layouts; the description is one line and states the meaning of the ids.
    tree
        The files that are looked for, ``{split}`` standing for the split.
    find
        Lists the frames below a folder, of one split; nothing if the folder is arranged in another way.
    split
        The split that is taken if none is named, ``None`` if the layout has no splits.
    classes
        Label convention of the catalogue that the class ids follow, ``None`` if there are no class labels or
        their meaning is not fixed.
    """

    name: str
    description: str
    tree: str
    find: Callable[[Path, str], list[FrameFiles]]
    split: str | None = None
    classes: str | None = None

    def files(self, root: Path, split: str | None = None) -> tuple[FrameFiles, ...]:
        """List the frames below `root`, sorted as people count, without opening an image.

        Raises
        ------
        FrameError
            If `root` is no folder, is not arranged like this layout, or `split` does not apply.
        """
        one_folder = split is None or (split != ".." and bool(split) and Path(split).name == split)
        if not one_folder or (split is not None and self.split is None):
            expected = "no split" if self.split is None else f"the name of one folder such as {self.split!r}"
            raise FrameError(f"{root}: split is {split!r}, layout {self.name!r} expects {expected}")
        if not root.is_dir():
            problem = "is a file" if root.exists() else "does not exist"
            raise FrameError(f"{root}: {problem}, expected a folder of frames")
        split = split or self.split or ""
        try:
            frames = self.find(root, split)
            found = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not is_foreign(entry.name))
        except OSError as error:
            raise FrameError(f"{error.filename or root}: cannot be listed ({error.strerror or error})") from error
        if not frames:
            tree = self.tree.format(split=split)
            inside = some("entry", found) if found else "nothing"
            raise FrameError(f"{root}: no images in layout {self.name!r}, expected {tree}; found {inside}")
        return tuple(frames)


# ----------------------------------------------------------------------------------------------------------
# finding files


def _walk(folder: Path, deep: bool) -> Iterator[Path]:
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
    files = sorted(_walk(folder, deep), key=lambda path: natural_key(path.as_posix())) if folder.is_dir() else []
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
        self.all = sorted(_walk(folder, deep=True))
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
        masked = {_folded(name): mask.path for name, mask in masks.items()}
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


def _one_of(root: Path, *names: str) -> Path:
    """The folder of one of these names, in any case; the first of them where there is none."""
    there = [entry for entry in sorted(root.iterdir()) if entry.name.lower() in names and entry.is_dir()]
    if len(there) > 1:
        raise FrameError(f"{root}: holds {some('folder', [entry.name for entry in there])}, expected only one of them")
    return there[0] if there else root / names[0]


_MASKS = re.compile(r"label|mask|annot|anomal|truth|segm|^gt", re.IGNORECASE)
"""What folders of masks are called."""


def _folder(root: Path, _split: str) -> list[FrameFiles]:
    folder = _one_of(root, "images")
    deep = folder.is_dir()
    images = images_in(folder if deep else root, deep=deep)
    labels = masks_of(images, _one_of(root, "labels", "masks", "annotations"), {"{}.png": CLASS_IDS})
    anomalies = masks_of(images, _one_of(root, "anomalies"), {"{}.png": ANOMALY_IDS})
    alike = [entry.name for entry in sorted(root.iterdir()) if _MASKS.search(entry.name) and entry.is_dir()]
    if images and alike and not labels and not anomalies:
        warnings.warn(
            f"{root}: {some('folder', alike)} not used; class labels are looked for in labels, masks or annotations, "
            "and anomaly masks in anomalies",
            stacklevel=2,
        )
    return [
        FrameFiles(name.replace("/", "__"), image, labels.get(name), anomalies.get(name))
        for name, image in images.items()
    ]


def _flat(images: Mapping[str, Path], folder: Path, conventions: Mapping[str, Conversion]) -> list[FrameFiles]:
    """Frames of one folder of images with anomaly masks in another."""
    masks = masks_of(images, folder, conventions)
    return [FrameFiles(name, image, anomaly=masks.get(name)) for name, image in images.items()]


def _smiyc(root: Path, _split: str) -> list[FrameFiles]:
    conventions = {"{}_labels_semantic.png": ANOMALY_IDS, "{}.png": ANOMALY_IDS}  # the latter in copies for courses
    return _flat(images_in(root / "images"), root / "labels_masks", conventions)


def _camvid(root: Path, split: str) -> list[FrameFiles]:
    folder = root / f"{split}annot"
    images = images_in(root / split) if folder.is_dir() else {}
    masks = masks_of(images, folder, {"{}.png": CAMVID_IDS})
    return [FrameFiles(name, image, masks.get(name)) for name, image in images.items()]


def _city_tree(
    root: Path, split: str, truth: str, kind: str, conventions: Mapping[str, Conversion]
) -> list[FrameFiles]:
    """Frames of the Cityscapes tree: a folder per city or sequence, file names ending in what they hold."""
    folder = root / truth / split
    images = images_in(root / "leftImg8bit" / split, "_leftImg8bit", deep=True) if folder.is_dir() else {}
    masks = masks_of(images, folder, {f"{{}}_{truth}_{ending}.png": ids for ending, ids in conventions.items()})
    frames = []
    for name, image in images.items():
        mask = masks.get(name)
        given = (mask, None) if kind == "label" else (None, mask)
        frames.append(FrameFiles(name.rpartition("/")[2], image, *given))
    return frames


def _fishyscapes(root: Path, split: str) -> list[FrameFiles]:
    pairs = next((place for place in (root / split, root) if (place / "original").is_dir()), None)
    if pairs:
        return _flat(images_in(pairs / "original"), pairs / "labels", {"{}.png": ANOMALY_IDS})
    masks = images_in(root / "fishyscapes_lostandfound", "_labels") or images_in(root, "_labels")
    places = ("laf_images", "images", "leftImg8bit", "lostandfound/leftImg8bit")
    folder = next((root / place for place in places if (root / place).is_dir()), None)
    if not (masks and folder):
        return []
    # 0000_04_Maurener_Weg_8_000000_000030_labels.png counts the masks and belongs to this image of Lost and
    # Found: 04_Maurener_Weg_8/04_Maurener_Weg_8_000000_000030_leftImg8bit.png. The masks say which images are
    # in the set.
    images = {
        name.rpartition("/")[2].removesuffix("_leftImg8bit"): path
        for name, path in images_in(folder, deep=True).items()
    }
    frames = []
    for name, mask in masks.items():
        scene = name.partition("_")[2]
        image = images.get(scene) or images.get(name)
        if image is None:
            raise FrameError(f"{mask}: its image is missing, expected {scene}_leftImg8bit.png below {folder}")
        frames.append(FrameFiles(scene, image, anomaly=Mask(mask, ANOMALY_IDS)))
    return frames


def _roadanomaly(root: Path, _split: str) -> list[FrameFiles]:
    if (root / "original").is_dir():
        images = images_in(root / "original") if (root / "labels").is_dir() else {}
        return _flat(images, root / "labels", {"{}.png": ANOMALY_IDS})
    images = images_in(root / "frames")
    masks = masks_of(images, root / "frames", {"{}.labels/labels_semantic.png": ROAD_ANOMALY_IDS})
    index = root / "frame_list.json"
    if index.is_file():
        listed = read_json(index)
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise FrameError(f"{index}: expected a list of file names")
        missing = [name for name in listed if Path(name).stem not in images]
        if missing:
            raise FrameError(f"{index}: lists {some('image', missing)}, not found in {root / 'frames'}")
        images = {Path(name).stem: images[Path(name).stem] for name in sorted(listed, key=natural_key)}
    return [FrameFiles(name, image, anomaly=masks.get(name)) for name, image in images.items()]


def _drive(root: Path, split: str) -> list[FrameFiles]:
    place = root / split if (root / split / "images").is_dir() else root
    images = images_in(place / "images", f"_{split}")
    vessels = masks_of(images, place / "1st_manual", {"{}_manual1.gif": VESSEL_IDS})
    views = masks_of(images, place / "mask", {f"{{}}_{split}_mask.gif": VESSEL_IDS})
    return [
        FrameFiles(f"{name}_{split}", image, vessels.get(name), region=views[name].path if name in views else None)
        for name, image in images.items()
    ]


LAYOUTS: Registry[Layout] = Registry(
    Layout,
    attrgetter("name"),
    "layout",
    "gradunc_viz.layouts",
    (
        Layout(
            "folder",
            "your own images; labels/ holds class ids, anomalies/ 0 known, 1 anomaly; 255 ignore in both",
            "images/**/NAME.jpg|png|webp|... or NAME.jpg|... directly, optional labels/**/NAME.png "
            "(or masks/, annotations/), anomalies/**/NAME.png, classes.json",
            _folder,
        ),
        Layout(
            "smiyc",
            "SegmentMeIfYouCan: RoadAnomaly21, RoadObstacle21; 0 known, 1 anomaly, 255 ignore",
            "images/NAME.jpg|png|webp, labels_masks/NAME_labels_semantic.png (or NAME.png)",
            _smiyc,
        ),
        Layout(
            "camvid",
            "CamVid in the SegNet release; class ids 0..10, 11 void",
            "{split}/NAME.png, {split}annot/NAME.png",
            _camvid,
            split="val",
            classes="camvid",
        ),
        Layout(
            "cityscapes",
            "Cityscapes; ids become the 19 train ids, everything else is ignored",
            "leftImg8bit/{split}/CITY/*_leftImg8bit.png, gtFine/{split}/CITY/*_gtFine_labelIds.png (or labelTrainIds)",
            partial(
                _city_tree,
                truth="gtFine",
                kind="label",
                conventions={"labelIds": CITY_IDS, "labelTrainIds": CITY_TRAIN_IDS},
            ),
            split="val",
            classes="cityscapes",
        ),
        Layout(
            "lostandfound",
            "Lost and Found; free road is known, every object on it an anomaly, the rest ignored",
            "leftImg8bit/{split}/SEQUENCE/*_leftImg8bit.png, "
            "gtCoarse/{split}/SEQUENCE/*_gtCoarse_labelIds.png (or labelTrainIds)",
            partial(
                _city_tree,
                truth="gtCoarse",
                kind="anomaly",
                conventions={"labelIds": LAF_IDS, "labelTrainIds": LAF_TRAIN_IDS},
            ),
            split="test",
        ),
        Layout(
            "fishyscapes",
            "Fishyscapes Lost & Found, validation; 0 known, 1 anomaly, 255 ignore",
            "fishyscapes_lostandfound/0000_SCENE_labels.png with SCENE_leftImg8bit.png below laf_images/, "
            "images/, leftImg8bit/ or lostandfound/leftImg8bit/; "
            "or {split}/original/NAME.png, {split}/labels/NAME.png",
            _fishyscapes,
            split="LostAndFound",
        ),
        Layout(
            "roadanomaly",
            "Road Anomaly (2019); 2 is an anomaly in the release, 1 in the copies with original/ and labels/",
            "frames/NAME.jpg|webp, frames/NAME.labels/labels_semantic.png, frame_list.json; "
            "or original/NAME.jpg, labels/NAME.png",
            _roadanomaly,
        ),
        Layout(
            "drive",
            "DRIVE, retinal vessels: 0 background, 255 vessel; what lies outside the field of view is ignored",
            "{split}/images/NN_{split}.tif, {split}/1st_manual/NN_manual1.gif, {split}/mask/NN_{split}_mask.gif; "
            "or the same without {split}/",
            _drive,
            split="test",
            classes="drive",
        ),
    ),
    FrameError,
)
"""Every layout by name, registered ones too."""


def register_layout(layout: Layout) -> Layout:
    """Add a layout: `open_frames` and the command line know it by its name from then on.

    Packages bring theirs through the entry point group ``gradunc_viz.layouts``.

    Raises
    ------
    FrameError
        If the name is taken.
    """
    return LAYOUTS.register(layout)
