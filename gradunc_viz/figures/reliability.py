"""Reliability diagrams with the number of pixels per bin."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..metrics import calibration
from ..store.choice import Caches, named_caches
from ..style.palette import GROUPS
from ..style.scores import plain
from .style import Width, canvas

__all__ = ["reliability"]


def reliability(
    caches: Caches,
    *,
    frames: Sequence[str] | None = None,
    bins: int = 15,
    ax: Axes | Sequence[Axes] | None = None,
    width: Width | None = None,
) -> matplotlib.figure.Figure:
    """Reliability diagram of the network's confidence, under the histogram of pixels; one per cache.

    Bars are the accuracy of the pixels in a bin of confidence (maximum softmax); hatched is the gap to the diagonal,
    where a calibrated network lies.

    Parameters
    ----------
    caches, frames, ax, width
        As for `gradunc_viz.figures.roc`. The histogram is an inset above each Axes.
    bins : int
        Bins of confidence, a divisor of 300.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown frame, or a cache without class labels.

    See Also
    --------
    gradunc_viz.calibration : what is drawn.
    """
    opened = named_caches(caches)
    result = calibration(opened, frames=frames, bins=bins)
    with canvas(ax, (1, len(opened)), width=width, aspect=1.05, sharey=True) as (figure, axes):
        for axis, name in zip(axes.flat, opened, strict=True):
            one = result.sel(cache=name)
            pixels, accuracy, confidence = (one[v].values for v in ("pixels", "accuracy", "confidence"))
            left, step = np.arange(bins) / bins, 1 / bins
            used = pixels > 0
            low = np.minimum(accuracy, confidence)
            axis.bar(
                left[used], accuracy[used], step, align="edge", color=GROUPS["right"], edgecolor="white",
                label="accuracy", gid="accuracy",
            )  # fmt: skip
            axis.bar(
                left[used], np.abs(accuracy - confidence)[used], step, bottom=low[used], align="edge", facecolor="none",
                edgecolor=GROUPS["wrong"], hatch="//////", label="gap", gid="gap",
            )  # fmt: skip
            axis.plot([0, 1], [0, 1], color="0.25", linestyle="--", linewidth=0.8, gid="diagonal")
            axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
            axis.text(
                0.04, 0.96, f"ECE {100 * float(one['ece']):.1f} %\nMCE {100 * float(one['mce']):.1f} %",
                va="top", transform=axis.transAxes, gid="ece",
            )  # fmt: skip
            top = axis.inset_axes((0, 1.06, 1, 0.22), sharex=axis)
            top.bar(
                left, pixels / max(pixels.sum(), 1), step, align="edge", color="0.6", edgecolor="white", gid="share"
            )
            top.set_ylim(0, None)
            top.yaxis.set_major_locator(MaxNLocator(2, prune="lower"))
            top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            top.tick_params(labelbottom=False)
            if axis is axes.flat[0]:
                top.set_ylabel("pixels")
            if len(opened) > 1:
                top.set_title(plain(name))
        axes.flat[0].set_ylabel("accuracy")
        handles = [
            Patch(facecolor=GROUPS["right"], label="accuracy"),
            Patch(facecolor="none", edgecolor=GROUPS["wrong"], hatch="//////", label="gap to the confidence"),
        ]
        if ax is None:
            figure.legend(handles=handles, loc="outside lower center", ncols=2)
        else:
            axes.flat[-1].legend(handles=handles, loc="lower right")
        return figure
