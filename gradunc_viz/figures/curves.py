"""ROC, precision-recall and sparsification curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Unpack

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..metrics import evaluate, threshold_curves
from ..metrics import sparsification as sparsification_curves
from ..metrics.threshold_curves import log_start
from ..metrics.wrong_side import TURNED
from ..schema.errors import GraduncError
from ..schema.tasks import find_task
from ..store.choice import Caches, Choice, chosen
from ..style.scores import plain, score_title
from .options import CurveOptions, Place, Subset, SubsetCurveOptions, split
from .style import canvas, score_style
from .wrong_side import marked_title, wrong_sides

__all__ = ["pr", "roc", "sparsification"]

_PERCENT = 100

_LONG = 36
"""Characters of a score's name in one line of a legend."""

_ENTRY, _LETTER = 0.4, 0.05
"""Inches of an entry of a legend beside its text, and of a letter."""

_FORMULA = re.compile(r"(?<!\\)\$.*?(?<!\\)\$")

LEAST_RECALL = 0.005
"""From where precision is drawn: before, it is that of a handful of pixels and jumps between 0 and 1."""


def roc(
    caches: Caches,
    task: str | None = None,
    *,
    log_x: bool = False,
    legend: bool = True,
    **options: Unpack[CurveOptions],
) -> matplotlib.figure.Figure:
    """ROC curves of scores, pooled over pixels; one plot per cache.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    task : "error" or "anomaly"
        By default ``anomaly`` where there are anomaly labels.
    scores : optional
        Names; by default all if there are few, else those that are computed by default.
    frames, classes : optional
        Subsets: ids of frames, names of predicted classes.
    log_x : bool
        Logarithmic axis of the false-positive rate, for objects that are rare.
    ax : Axes or one Axes per cache, optional
        Where to draw; by default on a new figure in the style of `gradunc_viz.figures.style`.
    width : str or float, optional
        Of a new figure: a name such as ``"cvpr-single"`` (the default) or inches.
    legend : bool
        Whether scores are named, best first, with their AuROC in %; a dagger marks one that lies below 50 % with its
        whole 95 % interval, with what it would be turned round.
    color, linestyle, linewidth, ... : optional
        Of all lines, for `matplotlib.axes.Axes.plot`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown task, score, frame or class, or a cache without labels of the task.

    See Also
    --------
    gradunc_viz.threshold_curves : what is drawn.
    """
    return _threshold(caches, task, "roc", log_x, legend, options)


def pr(
    caches: Caches,
    task: str | None = None,
    *,
    legend: bool = True,
    **options: Unpack[CurveOptions],
) -> matplotlib.figure.Figure:
    """Precision-recall curves of scores, pooled over pixels, with AuPRC in the legend; one plot per cache.

    The dotted line is chance, the share of positive pixels. Curves start at a recall of 0.5 %.
    Parameters, result and errors are those of `roc`.
    """
    return _threshold(caches, task, "pr", False, legend, options)


def _threshold(
    caches: Caches,
    task: str | None,
    kind: str,
    log_x: bool,
    legend: bool,
    options: CurveOptions,
) -> matplotlib.figure.Figure:
    choice, place, line = split(options, Choice, Place)
    opened, names = chosen(caches, choice.pop("scores", None))
    result = evaluate(opened, task, scores=names, **choice, bootstrap=0)
    task, frames = str(result.attrs["task"]), choice.pop("frames", None)
    metric, over_pixels = "auroc" if kind == "roc" else "auprc", result.sel(pooling="pixels")
    area, turned = over_pixels[metric], over_pixels[metric + TURNED]
    with canvas(**place, shape=(1, len(opened)), aspect=1.15 + _more_height(names)) as (figure, axes):
        for axis, (name, cache) in zip(axes.flat, opened.items(), strict=True):
            own = [score for score in names if score in cache.scores]
            subset = None if frames is None else [f for f in frames if f in cache]
            curves = threshold_curves(cache, task, kind, scores=own, frames=subset, **choice)
            areas = area.sel(cache=name), turned.sel(cache=name)
            _ranked_lines(axis, curves, kind, areas, len(opened) == 1, line)
            _decorate(axis, curves, kind, task, log_x)
            if len(opened) > 1:
                axis.set_title(plain(name))
                # a small plot has no room for more, nor for it between two
                axis.set_ylabel(axis.get_ylabel().partition(" (")[0] if axis is axes.flat[0] else "")
        _legend(figure, axes, legend, place.get("ax") is None)
        return figure


def _more_height(names: Sequence[str]) -> float:
    """What a legend of long names takes more, in widths of a plot."""
    titles = [score_title(name, _LONG) for name in names]
    long = any(len(title) > _LONG / 2 for name, title in zip(names, titles, strict=True) if name.startswith("ext:"))
    return 0.045 * max(sum(title.count("\n") + 1 for title in titles) - 4, 0) if long else 0.0


def _ranked_lines(
    axis: Axes,
    curves: xr.Dataset,
    kind: str,
    areas: tuple[xr.DataArray, xr.DataArray],
    valued: bool,
    line: dict[str, Any],
) -> None:
    """One line per score, the best last so that it lies on top, and first in the legend.

    `areas` are those below the curves, and those of the scores on the wrong side turned round.
    """
    area, turned = areas
    x, y = ("fpr", "tpr") if kind == "roc" else ("recall", "precision")
    names = [str(score) for score in curves["score"].values]
    ranked = sorted(names, key=lambda score: -np.nan_to_num(float(area.sel(score=score)), nan=-1))
    for rank, score in enumerate(ranked):
        one = curves.sel(score=score)
        known = np.isfinite(one[x].values)
        if kind == "pr":
            known &= one[x].values >= LEAST_RECALL
        value = f"  {_PERCENT * float(area.sel(score=score)):.1f}" if valued else ""
        other = float(turned.sel(score=score))
        wrong = np.isfinite(other)
        if valued and wrong:
            value = f" (turned {_PERCENT * other:.1f}){value}"
        axis.plot(
            one[x].values[known],
            one[y].values[known],
            **{
                **score_style(score),
                "label": marked_title(score, wrong, _LONG) + value,
                "gid": score,
                "markevery": _marks(rank, len(ranked)),
                "zorder": 3 - rank / 100,
                **line,
            },
        )


def _marks(rank: int, count: int) -> tuple[float, float]:
    """Where markers stand along a line, in shares of the plot's diagonal: those of different scores stand apart."""
    return 0.03 + 0.13 * rank / count, 0.16


def _decorate(axis: Axes, curves: xr.Dataset, kind: str, task: str, log_x: bool) -> None:
    rate = curves.attrs["positive_rate"]
    if kind == "pr":
        axis.axhline(rate, **_CHANCE)
        axis.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="recall", ylabel=f"precision ({find_task(task).one})")
        return
    axis.set(
        xlim=(0, 1), ylim=(0, 1.01), xlabel="false-positive rate", ylabel=f"true-positive rate ({find_task(task).one})"
    )
    if log_x:
        low = log_start(curves["fpr"].values, curves["tpr"].values)
        axis.set(xscale="log", xlim=(low, 1))
        grid = np.geomspace(low, 1, 200)
        axis.plot(grid, grid, **_CHANCE)
    else:
        axis.plot([0, 1], [0, 1], **_CHANCE)


_TALL = 0.75
"""Least height of a plot with its labels, in its widths."""

_SHORTEST = 1.2
"""Inches of a small plot with its labels."""

_CHANCE: dict[str, Any] = {"color": "0.55", "linestyle": (0, (1, 2)), "linewidth": 0.8, "zorder": 1, "gid": "chance"}


def _legend(figure: matplotlib.figure.Figure, axes: np.ndarray, legend: bool, own: bool) -> None:
    """Below the plots of an own figure, where it covers nothing; inside the last Axes of somebody else's."""
    if not legend:
        return
    found = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if own:
        longest = max(len(line) for label in found for line in _FORMULA.sub("formula", label).split("\n"))
        fitting = max(int(figure.get_figwidth() / (_ENTRY + _LETTER * longest)), 1)
        columns = min(2 * axes.shape[1] if figure.get_figwidth() > 3 else 1, fitting)
        made = figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=min(len(found), columns))
        # narrow plots above a long legend keep their shape
        plots = max(_TALL * figure.get_figwidth() / axes.shape[1], _SHORTEST)
        figure.set_figheight(max(figure.get_figheight(), plots + made.get_window_extent().height / figure.dpi))
    else:
        axes.flat[-1].legend(found.values(), found.keys(), loc="best")


def sparsification(
    caches: Caches,
    *,
    error: str = "brier",
    legend: bool = True,
    **options: Unpack[SubsetCurveOptions],
) -> matplotlib.figure.Figure:
    """Sparsification curves: the error of what is kept after dropping the most uncertain pixels; one plot per cache.

    Parameters
    ----------
    caches, scores, frames, ax, width, legend, color, linestyle, ...
        As for `roc`; the legend holds AuSE in % (smaller is better), best first.
    error : "brier" or "error_rate"
        Error of a pixel. The dashed grey line is the oracle that drops pixels by their true error.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown score, frame or error, or a cache without class labels.

    See Also
    --------
    gradunc_viz.sparsification : what is drawn.
    """
    titles = {"brier": "Brier score", "error_rate": "error rate"}
    if error not in titles:
        raise GraduncError(f"error is {error!r}; expected one of {', '.join(titles)}")
    choice, place, line = split(options, Subset, Place)
    opened, names = chosen(caches, choice.pop("scores", None))
    result = sparsification_curves(opened, scores=names, **choice)
    wrong = wrong_sides(opened, "error", names, **choice)
    with canvas(**place, shape=(1, len(opened)), aspect=1.0) as (figure, axes):
        for axis, (name, cache) in zip(axes.flat, opened.items(), strict=True):
            one = result.sel(cache=name, error=error)
            own = [score for score in names if score in cache.scores]
            ranked = sorted(own, key=lambda score: np.nan_to_num(float(one["ause"].sel(score=score)), nan=9))
            dropped = _PERCENT * one["dropped"].values
            for rank, score in enumerate(ranked):
                value = f"  {_PERCENT * float(one['ause'].sel(score=score)):.1f}" if len(opened) == 1 else ""
                axis.plot(
                    dropped,
                    one["curve"].sel(score=score).values,
                    **{
                        **score_style(score),
                        "label": marked_title(score, score in wrong[name], _LONG) + value,
                        "gid": score,
                        "markevery": _marks(rank, len(ranked)),
                        "zorder": 3 - rank / 100,
                        **line,
                    },
                )
            axis.plot(
                dropped, one["oracle"].values, color="0.5", linestyle="--", linewidth=0.8, label="oracle", gid="oracle"
            )
            axis.axhline(1, **_CHANCE)
            axis.set(
                xlim=(0, 100),
                ylim=(0, None),
                xlabel="most uncertain pixels dropped [%]",
                ylabel=f"{titles[error]} of the rest, relative",
            )
            if len(opened) > 1:
                axis.set_title(plain(name))
        _legend(figure, axes, legend, place.get("ax") is None)
        return figure
