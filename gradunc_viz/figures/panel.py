"""The qualitative panel: frames by columns of image, label, prediction, error and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from ..schema.errors import CacheError, GraduncError, UnknownFrameError
from ..schema.frame import IGNORE, ignored
from ..schema.scores import GradientScore, lookup
from ..store.cache import Cache
from ..store.choice import Caches, named_caches
from ..store.frame import decode_image, score
from ..style.palette import OUTLINE, WRONG
from ..style.scores import plain, units_label
from .style import BAR, Page, Width, style, width_inches
from .wrong_side import marked_title, wrong_sides

__all__ = ["DEFAULT_COLUMNS", "contour", "panel"]

DEFAULT_COLUMNS = ("image", "label", "prediction", "error", "entropy", "pgn_oh_p0.5")

INSET = "#ffe14d"

_FEW, _LONG = 4, 22
"""Scores that are shown where none was asked for, and characters of their names in one line."""

_KNOWN = "#c9ced6"
_TITLE, _LINE, _GAP, _ENTRY = 0.15, 0.142, 0.03, 0.95
"""Inches: of the titles, of a line of the legend, between pictures, of an entry of the legend."""

_WIDEST, _TALLEST = 40, 8
"""Width over height, and height over width, beyond which a frame is stretched to be seen."""

_INSET = 0.55
"""Share of the picture's height, or width, that an enlarged part takes."""

_PICTURES = ("image", "label", "prediction", "error")


Box = tuple[int, int, int, int]


class PanelOptions(TypedDict, total=False):
    """What may be said of the pictures, see `panel`."""

    insets: str | Mapping[str, Box] | None
    contours: bool
    limits: Mapping[str, tuple[float, float]] | None
    crop: Box | None
    legend: bool
    dpi: int


@dataclass(frozen=True)
class _Look:
    """`PanelOptions`, with what is usual where nothing was said."""

    insets: str | Mapping[str, Box] | None = None
    contours: bool = True
    limits: Mapping[str, tuple[float, float]] | None = None
    crop: Box | None = None
    legend: bool = True
    dpi: int = 300


def panel(
    caches: Caches,
    frames: Sequence[str | int | tuple[str, str | int]] | str | int | None = None,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    *,
    width: Width | None = None,
    **options: Unpack[PanelOptions],
) -> matplotlib.figure.Figure:
    """Draw frames as rows, and image, label, prediction, error and scores as columns.

    Every score has one colour range and one colour bar for all frames; bright is uncertain. Unknown objects are
    outlined. A frame more than 40 times as wide as high, or 8 times as high as wide, is stretched to that.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    frames : optional
        Ids or positions; ``(cache name, frame)`` where there are several caches. By default the first three of every
        cache.
    columns : sequence of str
        ``"image"``, ``"label"``, ``"prediction"``, ``"error"`` or names of scores. Columns of the default that no frame
        has are left out; where that leaves no score, the first ones that are cached are shown. Where there are no class
        labels, ``"label"`` shows the annotation of unknown objects.
    insets : optional
        Parts to enlarge: ``"auto"`` (the largest unknown object, else the largest error) or a mapping from frame ids
        to (top, left, bottom, right) in pixels.
    contours : bool
        Whether unknown objects are outlined.
    limits : mapping, optional
        Colour range of scores, (low, high), oriented; by default from the 5 % to the 99 % quantile of these frames.
    crop : (top, left, bottom, right), optional
        Part of every frame to show, in pixels.
    legend : bool
        Whether classes and marks are explained below.
    width : str or float, optional
        By default ``"cvpr-double"``.
    dpi : int
        Resolution the photographs are shrunk to, which is that of the figure when it is saved.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown frame, column or crop, or a column that no frame has.
    """
    look = _Look(**options)
    opened = named_caches(caches)
    rows = _rows(opened, frames)
    shown = _columns(rows, columns)
    rights = {name: _limits(rows, name, look.limits or {}) for name in shown if name not in _PICTURES}
    wrong = frozenset().union(*wrong_sides(opened, None, list(rights)).values())
    parts = [_slices(dataset, look.crop) for _, _, dataset in rows]
    shapes = [(p[0].stop - p[0].start, p[1].stop - p[1].start) for p in parts]
    inches = width_inches(width, "cvpr-double")
    cell = (inches - _GAP * (len(shown) - 1)) / len(shown)
    heights = [cell * min(max(h / w, 1 / _WIDEST), _TALLEST) for h, w in shapes]
    handles = _handles(rows, shown, look.contours) if look.legend else []
    in_line = max(1, min(len(handles), int(inches / _ENTRY)))
    titles = {name: marked_title(name, name in wrong, _LONG) if name in rights else name for name in shown}
    head = _TITLE * max(title.count("\n") + 1 for title in titles.values())
    bottom = head + sum(heights) + _GAP * (len(rows) - 1) + 0.04
    below = bottom + (BAR if rights else 0.0)
    height = below + (0.03 + _LINE * -(-len(handles) // in_line) if handles else 0.0)
    with style():
        page = Page(inches, height)
        images: dict[str, Any] = {}
        for r, (cache, _, dataset) in enumerate(rows):
            boxes = _boxes(dataset, look.insets)
            unknown = dataset["anomaly"].values[parts[r]] == 1 if look.contours and "anomaly" in dataset else None
            for c, name in enumerate(shown):
                top = head + sum(heights[:r]) + _GAP * r
                axis = page.axes(c * (cell + _GAP), top, cell, heights[r])
                _bare(axis)
                axis.set_gid(f"{dataset.attrs['frame_id']}:{name}")
                if r == 0:
                    axis.set_title(titles[name], pad=2, linespacing=1)
                photo = max(1, round(cell * look.dpi)), max(1, round(heights[r] * look.dpi))
                picture, shades = _picture(cache, dataset, name, rights, parts[r], photo)
                if picture is None:
                    axis.text(0.5, 0.5, "not labelled", ha="center", va="center", transform=axis.transAxes, color="0.4")
                    continue
                shown_image = _show(axis, picture, shades, shapes[r])
                outline = None if name == "label" else unknown
                if outline is not None:
                    contour(axis, outline)
                for box in boxes:
                    _inset(axis, picture, shades, outline, box, parts[r])
                if name in rights:
                    images[name] = shown_image
        for name, image in images.items():
            left = shown.index(name) * (cell + _GAP)
            page.colorbar(image, left + 0.04 * cell, bottom, 0.92 * cell, _units(name)).set_gid(f"colorbar:{name}")
        if handles:
            page.legend(handles, below + 0.03, in_line)
        return page.figure


# --------------------------------------------------------------------------------------------------------------------
# what is shown


Row = tuple[Cache, str, xr.Dataset]


def _rows(opened: dict[str, Cache], frames: Any) -> list[Row]:
    if frames is None:
        wanted: list[Any] = [(name, frame) for name, cache in opened.items() for frame in cache.ids[:3]]
    else:
        wanted = []
        for frame in [frames] if isinstance(frames, (str, int)) else frames:
            if isinstance(frame, tuple):
                wanted.append(frame)
            else:
                owners = [n for n, c in opened.items() if frame in c] if isinstance(frame, str) else list(opened)
                wanted.append((owners[0] if owners else next(iter(opened)), frame))
    rows = []
    for name, frame in wanted:
        if name not in opened:
            raise GraduncError(f"no cache {name!r}; expected one of {', '.join(opened)}")
        cache = opened[name]
        if isinstance(frame, (int, np.integer)):
            if not -len(cache) <= frame < len(cache):
                raise GraduncError(f"{cache.path}: no frame at position {frame}, it has {len(cache)}")
            frame = cache.ids[frame]
        if frame not in cache:
            raise UnknownFrameError(cache.path, frame, cache.ids)
        rows.append((cache, name, cache[frame]))
    if not rows:
        raise GraduncError(f"{', '.join(str(c.path) for c in opened.values())}: no frame to show")
    return rows


def _has(cache: Cache, dataset: xr.Dataset, name: str) -> bool:
    if name == "label":
        return "label" in dataset or "anomaly" in dataset
    if name == "error":
        return "label" in dataset
    if name in ("image", "prediction"):
        return True
    entry = lookup(name)
    # what is a function of the logits is computed from them where it was not cached
    of_logits = not entry.at_head and entry.needs == {"logits"} and bool(entry.compute)
    return name in cache.scores or (of_logits and "logits" in dataset)


def _columns(rows: list[Row], columns: Sequence[str]) -> list[str]:
    names = [columns] if isinstance(columns, str) else list(columns)
    shown = []
    for name in names:
        if name not in _PICTURES:
            lookup(name)
        if any(_has(cache, dataset, name) for cache, _, dataset in rows):
            shown.append(name)
        elif tuple(columns) != DEFAULT_COLUMNS:
            raise GraduncError(f"column {name!r}: none of the frames has it (in {rows[0][0].path})")
    if tuple(columns) == DEFAULT_COLUMNS:
        if all(len(cache.classes) == 1 for cache, _, _ in rows):
            shown.remove("prediction")  # of imported maps, which say of all pixels the same
        if all(name in _PICTURES for name in shown):
            shown += list(dict.fromkeys(name for cache, _, _ in rows for name in cache.scores))[:_FEW]
    return shown


def _limits(rows: list[Row], name: str, given: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Colour range that all rows share."""
    if name in given:
        low, high = given[name]
        return float(low), float(high)
    ends = []
    for cache, _, dataset in rows:
        if name in cache.scores:
            quantiles = cache.summary["score_quantile"].sel(frame=dataset.attrs["frame_id"], score=name).values
            ends.append((quantiles[0], quantiles[-1]))
        elif _has(cache, dataset, name):
            ends.append(tuple(np.quantile(score(dataset, name).values, (0.05, 0.99))))
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _slices(dataset: xr.Dataset, crop: tuple[int, int, int, int] | None) -> tuple[slice, slice]:
    size = dataset.sizes["y"], dataset.sizes["x"]
    if crop is None:
        return slice(0, size[0]), slice(0, size[1])
    top, left, bottom, right = crop
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise GraduncError(
            f"crop {tuple(crop)} (top, left, bottom, right) lies not inside {size[0]} x {size[1]} pixels"
        )
    return slice(top, bottom), slice(left, right)


def _picture(
    cache: Cache,
    dataset: xr.Dataset,
    name: str,
    rights: Mapping[str, tuple[float, float]],
    part: tuple[slice, slice],
    photo: tuple[int, int],
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Pixels of one cell, RGB or values, and how to show them; None where the frame lacks them.

    `photo` is the size, (width, height), that photographs are shrunk to.
    """
    if not _has(cache, dataset, name):
        return None, {}
    if name == "image":
        return decode_image(dataset)[part], {"photo": photo}
    if name == "prediction":
        return _class_colors(cache, dataset["prediction"].values[part]), {}
    if name == "label":
        if "label" in dataset:
            return _class_colors(cache, dataset["label"].values[part]), {}
        return _coded(dataset["anomaly"].values[part], {0: _KNOWN, 1: WRONG}), {}
    if name == "error":
        label, prediction = dataset["label"].values[part], dataset["prediction"].values[part]
        wrong = np.where(ignored(label), IGNORE, label != prediction)
        return _coded(wrong, {0: _KNOWN, 1: WRONG}), {}
    low, high = rights[name]
    try:
        return score(dataset, name).values[part], {"vmin": low, "vmax": high}
    except CacheError:
        return None, {}


def _class_colors(cache: Cache, ids: np.ndarray) -> np.ndarray:
    """Colours of class ids; ignored pixels are white."""
    table = np.full((len(cache.colors) + 1, 3), 255, "u1")
    table[:-1] = cache.colors
    return table[np.minimum(ids.astype("i4"), len(cache.colors))]


def _coded(ids: np.ndarray, colors: Mapping[int, str]) -> np.ndarray:
    """Colours of a few codes; ignored pixels are white."""
    table = np.full((256, 3), 255, "u1")
    for code, color in colors.items():
        table[code] = [round(255 * v) for v in ListedColormap([color])(0)[:3]]
    return table[ids]


# --------------------------------------------------------------------------------------------------------------------
# drawing


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def _show(axis: Axes, picture: np.ndarray, options: dict[str, Any], shape: tuple[int, int]) -> Any:
    options = dict(options)
    photo = options.pop("photo", None)
    if photo and photo[0] < picture.shape[1]:
        # a photograph is averaged when it shrinks; maps are never blended
        picture = np.asarray(Image.fromarray(picture).resize(photo, Image.Resampling.LANCZOS))
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    return axis.imshow(picture, extent=extent, interpolation="nearest", aspect="auto", **options)


def contour(axis: Axes, mask: np.ndarray, color: str = OUTLINE) -> None:
    """Outline the true pixels of a mask, (y, x), in the coordinates of `imshow`."""
    if not mask.any():
        return
    # a frame of zeros closes the outline of what touches the border
    padded = np.pad(mask, 1).astype("f4")
    height, width = mask.shape
    x, y = np.arange(-1, width + 1), np.arange(-1, height + 1)
    found = axis.contour(x, y, padded, levels=[0.5], colors=[color], linewidths=0.6)
    found.set_gid("contour")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _boxes(dataset: xr.Dataset, insets: Any) -> list[tuple[int, int, int, int]]:
    if insets is None:
        return []
    if insets != "auto":
        if isinstance(insets, str):
            raise GraduncError(f"insets is {insets!r}; expected 'auto' or a mapping from frame ids to boxes")
        box = insets.get(str(dataset.attrs["frame_id"]))
        if box is None:
            return []
        top, left, bottom, right = box
        if not (0 <= top < bottom <= dataset.sizes["y"] and 0 <= left < right <= dataset.sizes["x"]):
            raise GraduncError(f"inset {tuple(box)} (top, left, bottom, right) lies not inside the frame")
        return [(int(top), int(left), int(bottom), int(right))]
    from ..metrics.regions import largest_region

    mask = dataset["anomaly"].values == 1 if "anomaly" in dataset else None
    if mask is None and "label" in dataset:
        mask = ~ignored(dataset["label"].values) & (dataset["label"].values != dataset["prediction"].values)
    region = None if mask is None else largest_region(mask)
    height = dataset.sizes["y"]
    if region is None or max(region[2] - region[0], region[3] - region[1]) > 0.4 * height:
        return []  # nothing, or large enough to be seen
    return [square_around(region, (dataset.sizes["y"], dataset.sizes["x"]), margin=0.35, smallest=0.12, largest=0.4)]


def square_around(
    box: tuple[int, int, int, int], size: tuple[int, int], *, margin: float, smallest: float, largest: float
) -> tuple[int, int, int, int]:
    """A square with the middle of a box, inside the frame; bounds are shares of the frame's height."""
    top, left, bottom, right = box
    side = max(bottom - top, right - left) * (1 + 2 * margin)
    side = round(min(max(side, smallest * size[0], 8), largest * size[0], *size))
    y = round(min(max((top + bottom - side) / 2, 0), size[0] - side))
    x = round(min(max((left + right - side) / 2, 0), size[1] - side))
    return y, x, y + side, x + side


def _inset(
    axis: Axes,
    picture: np.ndarray,
    options: dict[str, Any],
    outline: np.ndarray | None,
    box: tuple[int, int, int, int],
    part: tuple[slice, slice],
) -> None:
    """An enlarged part, in the corner that is farthest from it."""
    shape = part[0].stop - part[0].start, part[1].stop - part[1].start
    top, left = max(box[0] - part[0].start, 0), max(box[1] - part[1].start, 0)
    bottom, right = min(box[2] - part[0].start, shape[0]), min(box[3] - part[1].start, shape[1])
    if bottom - top < 2 or right - left < 2:
        return
    middle_x, middle_y = (left + right) / 2 / shape[1], (top + bottom) / 2 / shape[0]
    wide_of_tall = shape[0] / shape[1] * (right - left) / (bottom - top)
    tall = min(_INSET, _INSET / wide_of_tall)
    wide = tall * wide_of_tall
    if tall * shape[0] <= bottom - top:
        return  # nothing would be enlarged
    x0 = 0.0 if middle_x > 0.5 else 1 - wide
    y0 = 1 - tall if middle_y > 0.5 else 0.0
    inset = axis.inset_axes((x0, y0, wide, tall))
    inset.set_gid("inset")
    _bare(inset)
    cut = picture[top:bottom, left:right]
    inset.imshow(cut, interpolation="nearest", aspect="auto", **{k: v for k, v in options.items() if k != "photo"})
    if outline is not None:
        contour(inset, outline[top:bottom, left:right])
    inset.spines[:].set(visible=True, color=INSET, linewidth=0.8)
    axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=INSET, linewidth=0.6))


def _units(name: str) -> str:
    entry = lookup(name)
    return units_label(name) + (" of the norm" if isinstance(entry, GradientScore) and entry.request.power == 1 else "")


def _present(rows: list[Row], shown: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that the pictures hold, of all caches."""
    found: dict[str, tuple[int, int, int]] = {}
    for cache, _, dataset in rows:
        ids: set[int] = set()
        for name in ("prediction", "label"):
            if name in shown and name in dataset:
                # a class of a few pixels cannot be seen in print
                counts = np.bincount(dataset[name].values.ravel())
                shown_ids = np.flatnonzero(counts[: len(cache.classes)] > 0.002 * counts.sum())
                ids |= set(shown_ids.tolist())
        for i in sorted(ids):
            found.setdefault(cache.classes[i], cache.colors[i])
    return list(found.items())


def _handles(rows: list[Row], shown: Sequence[str], contours: bool) -> list[Patch]:
    handles = [Patch(facecolor=[v / 255 for v in color], label=plain(name)) for name, color in _present(rows, shown)]
    coded = "error" in shown or ("label" in shown and any("label" not in d for _, _, d in rows))
    if "error" in shown:
        handles.append(Patch(facecolor=WRONG, label="wrong"))
    if "label" in shown and any("label" not in d for _, _, d in rows):
        handles.append(Patch(facecolor=WRONG, label="unknown object"))
    if coded:
        handles.append(Patch(facecolor="white", edgecolor="0.6", label="ignored"))
    if contours and any("anomaly" in d for _, _, d in rows):
        handles.append(Patch(facecolor="none", edgecolor=OUTLINE, label="outline of unknown"))
    return handles
