"""Distributions of scores per class, what should score low against what should score high."""

from __future__ import annotations

from typing import Unpack

import matplotlib.figure
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ..metrics.distributions import score_distributions
from ..schema.errors import GraduncError
from ..schema.scores import lookup
from ..schema.tasks import find_task
from ..store.choice import Caches, Choice, chosen, default_task
from ..style.palette import GROUPS
from ..style.scores import plain, units_label
from .options import Place, PlotOptions, parted
from .style import canvas
from .wrong_side import marked_title, wrong_sides

__all__ = ["distributions"]

_ROW = 0.26
"""Inches per class: text of 8 pt and both halves of a distribution."""


def distributions(
    caches: Caches,
    task: str | None = None,
    *,
    min_pixels: int = 500,
    **options: Unpack[PlotOptions],
) -> matplotlib.figure.Figure:
    """Distributions of scores for every predicted class: right against wrong, or normal against unknown pixels.

    Each class has a row: upwards, blue, the pixels that should score low; downwards, orange and hatched, those that
    should score high. Every half is as high at its peak, whatever its number of pixels; a tick marks its
    median. The first row holds all classes.

    Parameters
    ----------
    caches, task, frames, ax, width
        As for `gradunc_viz.figures.roc`; one plot per score and cache.
    scores : optional
        Names; by default one gradient norm and the entropy, or the first score.
    classes : optional
        Names of predicted classes; by default all that occur.
    min_pixels : int
        Groups of fewer pixels are not drawn.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown task, score, frame or class, or a cache without labels of the task.

    See Also
    --------
    gradunc_viz.metrics.distributions.score_distributions : what is drawn.
    """
    choice, place = parted(options, Choice, Place)
    scores = choice.pop("scores", None)
    opened, names = chosen(caches, scores)
    which, own = find_task(task or default_task(opened)), place.get("ax") is None
    if scores is None:
        names = tuple(n for n in ("pgn_oh_p0.5", "entropy") if n in names) or names[:1]
    if not names:
        raise GraduncError("no score is chosen; choose at least one")
    pairs = [(name, cache, score) for name, cache in opened.items() for score in names]
    found = {}
    for name, cache, score in pairs:
        if score not in cache.scores:
            raise GraduncError(f"{cache.path}: score {score!r} is not cached, which this figure needs in every cache")
        found[name, score] = score_distributions(cache, which.name, scores=score, **choice)
    wrong = wrong_sides(opened, which.name, names, **choice)
    rows = max(len(_drawn(one, min_pixels)) for one in found.values())
    height = 0.55 + _ROW * rows + (0.18 if len(opened) > 1 else 0)
    with canvas(**place, shape=(1, len(pairs)), height=height, sharey=len(opened) == 1) as (figure, axes):
        if own:
            figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.02)
        for axis, (name, _, score) in zip(axes.flat, pairs, strict=True):
            _rows(axis, found[name, score], min_pixels, (score, score in wrong[name]))
            if len(opened) > 1:
                axis.set_title(plain(name))
        handles = [
            Patch(facecolor=GROUPS[group], alpha=0.85, hatch=hatch, edgecolor="white", label=group)
            for group, hatch in zip(reversed(which.outcomes), ("", "/////"), strict=True)
        ]
        if own:
            figure.legend(handles=handles, loc="outside upper center", ncols=2)
        else:
            axes.flat[-1].legend(handles=handles, loc="upper right")
        return figure


_LONG = 28
"""Characters of a score's name below a plot in one line."""


def _drawn(one: xr.Dataset, min_pixels: int) -> list[str]:
    """Classes of which either group has enough pixels."""
    enough = (one["pixels"] >= min_pixels).any("outcome").values
    drawn = [str(name) for name, found in zip(one["class"].values, enough, strict=True) if found]
    return drawn[:1] if drawn == ["all", "all"] else drawn  # imported maps have one class, of that name


def _rows(axis: Axes, one: xr.Dataset, min_pixels: int, marked: tuple[str, bool]) -> None:
    score, is_wrong = marked
    high, low = (str(name) for name in one["outcome"].values)
    edges = one["edges"].isel(score=0).values
    drawn = _drawn(one, min_pixels)
    for row, name in enumerate(drawn):
        axis.axhline(row, color="0.75", linewidth=0.4, zorder=1)
        # the first axis of `class` may repeat a name only if a network has a class "all"
        own = one.isel({"score": 0, "class": list(map(str, one["class"].values)).index(name)})
        for group, side, hatch in ((low, -1, ""), (high, +1, "/////")):
            part = own.sel(outcome=group)
            if int(part["pixels"]) < min_pixels:
                continue
            share = part["share"].values
            density = 0.46 * share / max(share.max(), 1e-12)
            axis.stairs(
                row + side * density, edges, baseline=row, fill=True, facecolor=GROUPS[group], alpha=0.85,
                hatch=hatch, edgecolor="white", linewidth=0, zorder=2, gid=f"{name}:{group}",
            )  # fmt: skip
            median = float(part["quantiles"].sel(quantile=0.5))
            axis.plot(
                [median, median],
                [row, row + side * 0.4],
                color="black",
                linewidth=0.9,
                zorder=3,
                gid=f"{name}:{group}:median",
            )
    axis.set(yticks=range(len(drawn)), ylim=(len(drawn) - 0.45, -0.6), xlim=(edges[0], edges[-1]))
    axis.set_yticklabels([plain(name) for name in drawn])
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    units = units_label(score)
    sign = r"$-$" if lookup(score).orientation < 0 else ""
    axis.set_xlabel(sign + marked_title(score, is_wrong, _LONG) + (f" [{units}]" if units else ""))
