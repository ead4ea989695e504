"""What figures share of their keywords: typed once here, and described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from matplotlib.axes import Axes

from ..store.choice import Choice
from .style import Width

__all__ = ["AblationOptions", "BarOptions", "CurveOptions", "Estimate", "Pixels", "Place", "PlotOptions", "Subset"]


class Place(TypedDict, total=False):
    """Where to draw.

    Attributes
    ----------
    ax : Axes or one Axes per plot, optional
        By default on a new figure in the style of `gradunc_viz.figures.style`.
    width : str or float, optional
        Of a new figure: a name in `gradunc_viz.figures.WIDTHS` or inches.
    """

    ax: Axes | Sequence[Axes] | None
    width: Width | None


class Subset(TypedDict, total=False):
    """Names of scores and ids of frames, as in `gradunc_viz.store.choice.Choice`."""

    scores: Sequence[str] | str | None
    frames: Sequence[str] | None


class Pixels(TypedDict, total=False):
    """Ids of frames and names of predicted classes, as in `gradunc_viz.store.choice.Choice`."""

    frames: Sequence[str] | None
    classes: Sequence[str] | None


class Estimate(TypedDict, total=False):
    """How a metric is estimated.

    Attributes
    ----------
    pooling : "pixels" or "frames"
        All pixels at once (the default), or the mean over frames.
    bootstrap : int
        Samples of frames for the intervals, 200 by default; 0 for none.
    """

    pooling: str
    bootstrap: int


class LineOptions(TypedDict, total=False):
    """What may be said of lines beside the look of their score, as `matplotlib.axes.Axes.plot` takes it."""

    color: str
    linestyle: str | tuple[float, tuple[float, ...]]
    linewidth: float
    alpha: float
    marker: str
    markersize: float
    markerfacecolor: str
    markevery: Any
    drawstyle: str
    zorder: float


class PlotOptions(Choice, Place, total=False):
    """Of plots of scores."""


class CurveOptions(Choice, Place, LineOptions, total=False):
    """Of curves of scores."""


class SubsetCurveOptions(Subset, Place, LineOptions, total=False):
    """Of curves of scores over all classes."""


class BarOptions(Choice, Place, Estimate, total=False):
    """Of metrics of scores."""


class AblationOptions(Pixels, Place, Estimate, total=False):
    """Of metrics of whatever norms there are."""


def split(options: Mapping[str, object], *kinds: type) -> list[dict[str, Any]]:
    """Options by the kind of dictionary that names them, and last those that none names."""
    parts = [{name: value for name, value in options.items() if name in kind.__annotations__} for kind in kinds]
    return [*parts, {name: value for name, value in options.items() if not any(name in part for part in parts)}]


def parted(options: Mapping[str, object], *kinds: type) -> list[dict[str, Any]]:
    """Options by the kind of dictionary that names them.

    Raises
    ------
    TypeError
        If none names one of them, as for any keyword that a function does not know.
    """
    *parts, rest = split(options, *kinds)
    for name in rest:
        raise TypeError(f"unexpected keyword argument {name!r}")
    return parts
