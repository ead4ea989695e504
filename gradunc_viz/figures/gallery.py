"""A gallery of failures: crops around confident mistakes, missed objects, false alarms and needless doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import matplotlib.figure
import numpy as np

from ..metrics.regions import FAILURES, Failure, find_failures
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import opened, representative
from ..store.frame import decode_image
from ..store.frame import score as score_map
from ..style.palette import OUTLINE
from ..style.scores import plain, score_title
from .panel import contour, square_around
from .style import BAR, Page, Width, style, width_inches
from .wrong_side import marked_title, wrong_sides

__all__ = ["gallery"]

_HEAD, _TITLE, _GAP = 0.2, 0.3, 0.04
"""Inches: of the heading, of the titles, between pictures."""


class GalleryOptions(TypedDict, total=False):
    """Which failures, as `gradunc_viz.metrics.find_failures` takes it; `score` is the entropy or the first one."""

    score: str | None
    task: str | None
    threshold: float | None
    frames: Sequence[str] | None
    min_pixels: int
    per_frame: int | None


def gallery(
    cache: Cache | str,
    kind: str = "confident_mistakes",
    n: int = 8,
    *,
    columns: int = 4,
    width: Width | None = None,
    **options: Unpack[GalleryOptions],
) -> matplotlib.figure.Figure:
    """Draw the worst failures of one kind: each a crop of the image, and below it the same part of the score.

    Outlined is what fails. They are those that the explorer lists for the same score, task and threshold.

    Parameters
    ----------
    cache : Cache or path
    kind : "confident_mistakes", "missed_objects", "false_alarms" or "needless_doubt"
        Defined in `gradunc_viz.metrics.regions`.
    n : int
        How many at most.
    score : str, optional
        By default the entropy, or the first score.
    task, threshold, frames, min_pixels, per_frame
        As for `gradunc_viz.metrics.find_failures`, which finds them.
    columns : int
        Crops side by side.
    width : str or float, optional
        By default ``"cvpr-double"``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown kind, score, task or frame, a cache without the labels that are needed, or if nothing fails.
    """
    one = opened(cache)
    which: dict[str, Any] = dict(options)
    score = which.pop("score", None)
    if score is None:
        few = representative(one)
        score = "entropy" if "entropy" in few else few[0]
    failures = find_failures(one, kind, score, n=n, **which)
    if not failures:
        failed = FAILURES[kind]
        raise GraduncError(f"{one.path}: found no {failed.title.lower()} of {score} ({failed.meaning})")
    wrong = wrong_sides({"": one}, which.get("task"), [score], frames=which.get("frames"))[""]
    title = marked_title(score, score in wrong)
    columns = min(columns, len(failures))
    rows = -(-len(failures) // columns)
    inches = width_inches(width, "cvpr-double")
    side = (inches - _GAP * (columns - 1)) / columns
    block = _TITLE + 2 * side + _GAP
    quantiles = one.summary["score_quantile"].sel(score=score)
    low, high = float(quantiles.isel(quantile=0).min()), float(quantiles.isel(quantile=-1).max())
    with style():
        page = Page(inches, _HEAD + rows * block + 0.05 + BAR)
        page.figure.text(
            0.5,
            1,
            f"{FAILURES[kind].title}: {title}, threshold {failures[0].threshold:.3g}",
            ha="center",
            va="top",
        )
        image = None
        for i, failure in enumerate(failures):
            dataset = one[failure.frame]
            size = dataset.sizes["y"], dataset.sizes["x"]
            y0, x0, y1, x1 = square_around(failure.box, size, margin=0.3, smallest=0.2, largest=1.0)
            part = slice(y0, y1), slice(x0, x1)
            values = score_map(dataset, score).values[part]
            outline = np.zeros(size, bool)
            outline[failure.top : failure.bottom, failure.left : failure.right] = failure.pixel_mask
            left, top = i % columns * (side + _GAP), _HEAD + i // columns * block + _TITLE
            for down, picture, shades in (
                (0.0, decode_image(dataset)[part], {"interpolation": "antialiased"}),
                (side, values, {"vmin": low, "vmax": high, "interpolation": "nearest"}),
            ):
                axis = page.axes(left, top + down, side, side)
                axis.set_axis_off()
                axis.set_gid(f"{failure.frame}:{failure.box}:{'score' if down else 'image'}")
                image = axis.imshow(picture, aspect="auto", **shades)
                contour(axis, outline[part], OUTLINE)
                if not down:
                    axis.set_title(_text(failure), pad=2)
        page.colorbar(image, inches / 4, _HEAD + rows * block + 0.03, inches / 2, score_title(score))
        return page.figure


def _text(failure: Failure) -> str:
    found = f", {100 * failure.found:.0f} % found" if failure.kind == "missed_objects" else ""
    return f"{plain(_short(failure.classes))}\n{failure.pixels:,} px{found}"


def _short(text: str, longest: int = 30) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
