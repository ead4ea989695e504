"""One number per score: bars with intervals, and metrics against the p of the norm."""

from __future__ import annotations

from typing import Any, Unpack

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..metrics import METRICS, evaluate
from ..metrics.metric import pixel_metrics
from ..metrics.wrong_side import TURNED
from ..schema.errors import GraduncError
from ..schema.scores import GradientNorm, lookup
from ..schema.tasks import find_task
from ..store.cache import Cache
from ..store.choice import Caches, Choice, chosen
from ..style.scores import norm_look, plain, score_look, score_title
from .options import AblationOptions, BarOptions, Estimate, Pixels, Place, parted
from .style import canvas, line_style
from .wrong_side import MEANING, marked_title

__all__ = ["metric_bars", "p_ablation"]


_ROW = 0.135
"""Inches per score: a line of 8 pt text."""

_LINE, _LONG = 0.125, 28
"""Inches of a line below the bars, and characters in one of a score's name where it takes several beside its bar."""

_TURNED: dict[str, Any] = {
    "linestyle": "none", "marker": "D", "markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": "black",
    "markeredgewidth": 0.7, "zorder": 4,
}  # fmt: skip
"""Look of what a score reaches turned round."""


def _axis_title(metric: str, task: str) -> str:
    arrow = r"$\uparrow$" if METRICS[metric].orientation > 0 else r"$\downarrow$"
    return f"{METRICS[metric].formatted} {arrow} [%], {find_task(task).one}"


def _check(metric: str) -> None:
    if metric not in pixel_metrics():
        raise GraduncError(f"unknown metric {metric!r}; expected one of {', '.join(pixel_metrics())}")


def _estimated(
    opened: dict[str, Cache],
    metric: str,
    task: str | None,
    choice: dict[str, Any],
    *,
    pooling: str = "pixels",
    bootstrap: int = 200,
) -> xr.Dataset:
    """A metric, its interval and what it is turned round, in %, and ``wrong_side``, over cache and score."""
    if pooling not in ("pixels", "frames"):
        raise GraduncError(f"pooling is {pooling!r}; expected 'pixels' or 'frames'")
    result = evaluate(opened, task, **choice, bootstrap=bootstrap)
    own = result.sel(pooling=pooling)
    shown = 100 * own[[metric, f"{metric}_low", f"{metric}_high", metric + TURNED]]
    return shown.assign(wrong_side=own["wrong_side"]).assign_attrs(result.attrs)


def metric_bars(
    caches: Caches,
    metric: str = "auprc",
    task: str | None = None,
    *,
    sort: bool = False,
    **options: Unpack[BarOptions],
) -> matplotlib.figure.Figure:
    """Bars of a metric over scores, with 95 % bootstrap intervals over frames; one plot per cache.

    The vertical line is the entropy, where it is cached: what a gradient score has to beat. A dagger marks a score
    whose AuROC lies below 50 % with its whole interval, and a diamond what it reaches turned round.

    Parameters
    ----------
    caches, task, frames, classes, ax, width
        As for `gradunc_viz.figures.roc`.
    metric : "auroc", "auprc", "fpr95", "f1" or the name of a registered metric of pixels
    scores : optional
        Names; by default all.
    pooling : "pixels" or "frames"
        All pixels at once, or the mean over frames.
    bootstrap : int
        Samples of frames; 0 for no intervals.
    sort : bool
        Best first (in the first cache), instead of the order of the scores.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown metric, pooling, task, score, frame or class, or a cache without labels of the task.

    See Also
    --------
    gradunc_viz.evaluate : what is drawn.
    """
    _check(metric)
    choice, place, estimate = parted(options, Choice, Place, Estimate)
    opened, names = chosen(caches, choice.get("scores"), all_scores=True)
    result = _estimated(opened, metric, task, {**choice, "scores": names}, **estimate)
    task = str(result.attrs["task"])
    if sort:
        first = METRICS[metric].orientation * result[metric].isel(cache=0).sel(score=list(names)).values
        names = tuple(np.array(names, dtype=object)[np.argsort(-np.nan_to_num(first, nan=-np.inf), kind="stable")])
    wrong = result["wrong_side"].sel(score=list(names))
    titles = [marked_title(n, bool(wrong.sel(score=n).any()), _LONG) for n in names]
    lines = np.array([title.count("\n") + 1 for title in titles])
    rows = np.cumsum(lines) - (lines + 1) / 2
    height = 0.45 + _ROW * lines.sum() + (0.16 if len(opened) > 1 else 0) + (2 * _LINE if wrong.any() else 0)
    with canvas(**place, shape=(1, len(opened)), height=height, sharey=True) as (figure, axes):
        for axis, name in zip(axes.flat, opened, strict=True):
            one = result.sel(cache=name, score=list(names))
            value, low, high = (one[v].values for v in (metric, f"{metric}_low", f"{metric}_high"))
            axis.barh(rows, np.nan_to_num(value), 0.72, color=[score_look(n).color for n in names], gid=metric)
            for patch, score in zip(axis.patches, names, strict=True):
                if score_look(score).hollow:
                    patch.set(hatch="////////", edgecolor="white", linewidth=0)
            known = np.isfinite(low) & np.isfinite(value)
            if known.any():
                # an interval of resampled frames need not hold the value itself
                spread = np.stack([np.clip(value - low, 0, None), np.clip(high - value, 0, None)])[:, known]
                axis.errorbar(
                    value[known], rows[known], xerr=spread, fmt="none", ecolor="black", elinewidth=0.7, capsize=1.2,
                    capthick=0.7, gid="interval",
                    # seen on black bars too
                    path_effects=[withStroke(linewidth=1.9, foreground="white")],
                )  # fmt: skip
            if "entropy" in names and np.isfinite(value[names.index("entropy")]):
                axis.axvline(value[names.index("entropy")], color="black", linestyle="--", linewidth=0.7, gid="entropy")
            is_wrong = one["wrong_side"].values
            turned = one[metric + TURNED].values[is_wrong]
            axis.plot(turned, rows[is_wrong], gid="turned", **_TURNED)
            for y in rows[~np.isfinite(value)]:
                axis.text(0, y, " not cached", va="center", color="0.4")
            axis.set(yticks=rows, ylim=(lines.sum() - 0.4, -0.6), xlim=(0, None))
            # from the right, where bars are short beside long names
            axis.set_xlabel(_axis_title(metric, task), loc="right" if len(opened) == 1 else "center")
            axis.set_yticklabels(titles, linespacing=1)
            axis.tick_params(axis="y", length=0)
            axis.grid(False, axis="y")
            if len(opened) > 1:
                axis.set_title(plain(name))
                axis.set_xlabel(_axis_title(metric, task).partition(",")[0])
        if wrong.any():
            label = axes.flat[0].xaxis.label
            label.set_text(f"{label.get_text()}\n{MEANING}\n($\\diamond$: turned round)")
        return figure


def _labels(axis: Axes) -> list[str]:
    return axis.get_legend_handles_labels()[1]


def p_ablation(
    caches: Caches,
    metric: str = "auprc",
    task: str | None = None,
    *,
    legend: bool = True,
    **options: Unpack[AblationOptions],
) -> matplotlib.figure.Figure:
    """A metric against the p of the gradient norm: one-hot and uniform labels, exact and the paper's formula.

    Entropy and maximum softmax are horizontal lines. Bars are 95 % bootstrap intervals over frames. A diamond tells
    what a norm whose AuROC lies below 50 % with its whole interval reaches turned round.

    Parameters
    ----------
    caches, metric, task, frames, classes, pooling, bootstrap, ax, width
        As for `metric_bars`.
    legend : bool

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        As for `metric_bars`; and if no cache has a gradient norm.
    """
    _check(metric)
    choice, place, estimate = parted(options, Pixels, Place, Estimate)
    opened, every = chosen(caches, None, all_scores=True)
    norms = [entry for entry in map(lookup, every) if isinstance(entry, GradientNorm)]
    if not norms:
        raise GraduncError(f"{', '.join(str(c.path) for c in opened.values())}: no gradient norm is cached")
    levels = [name for name in ("entropy", "msp") if name in every]
    names = [entry.name for entry in norms] + levels
    result = _estimated(opened, metric, task, {**choice, "scores": names}, **estimate)
    ticks = sorted({entry.p for entry in norms})
    groups = list(dict.fromkeys((entry.label, entry.variant) for entry in norms))
    with canvas(**place, shape=(1, len(opened)), aspect=0.95, sharey=True) as (figure, axes):
        for axis, name in zip(axes.flat, opened, strict=True):
            one = result.sel(cache=name)
            for g, (label, variant) in enumerate(groups):
                own = sorted((e for e in norms if (e.label, e.variant) == (label, variant)), key=lambda e: e.p)
                # side by side, so that bars of one p do not cover each other
                p = np.array([e.p for e in own]) * 1.035 ** (g - (len(groups) - 1) / 2)
                value, low, high = (
                    one[v].sel(score=[e.name for e in own]).values for v in (metric, f"{metric}_low", f"{metric}_high")
                )
                look = line_style(norm_look(label, variant))
                title = {"oh": "one-hot", "uni": "uniform", "exp": "expected"}[label] + (
                    ", paper" if variant == "paper" else ", exact"
                )
                axis.plot(p, value, **look, markersize=3.5, label=title, gid=f"{label}:{variant}")
                own_norms = one.sel(score=[e.name for e in own])
                wrong = own_norms["wrong_side"].values
                if wrong.any():
                    turned = own_norms[metric + TURNED].values[wrong]
                    axis.plot(p[wrong], turned, gid=f"{label}:{variant}:turned", **_TURNED)
                    said = "AuROC below 50 %, turned round"
                    axis.plot([], [], **_TURNED, label=said if said not in _labels(axis) else None)
                if result.attrs["bootstrap"]:
                    axis.vlines(
                        p, low, high, color=look["color"], linewidth=0.5, alpha=0.6, gid=f"{label}:{variant}:interval"
                    )
            for level in levels:
                height = float(one[metric].sel(score=level))
                if np.isfinite(height):
                    look = {key: line_style(score_look(level))[key] for key in ("color", "linestyle")}
                    axis.axhline(height, **look, linewidth=0.9, label=score_title(level), gid=level)
            axis.set(xscale="log", xlabel="p of the norm", ylim=(0, None))
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if len(opened) > 1:
                axis.set_title(plain(name))
        axes.flat[0].set_ylabel(_axis_title(metric, str(result.attrs["task"])))
        if legend:
            handles, labels = axes.flat[0].get_legend_handles_labels()
            if place.get("ax") is None:
                figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(opened) == 1 else 3)
            else:
                axes.flat[0].legend(handles, labels, ncols=2)
        return figure
