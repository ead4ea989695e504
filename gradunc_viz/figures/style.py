"""How figures look: widths of columns, the style sheet, a colour and line per score, and figures that keep all that."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from ..schema.errors import GraduncError
from ..style.scores import DASHES, Look, score_look

__all__ = [
    "BAR",
    "WIDTHS",
    "Figure",
    "Page",
    "active_width",
    "applied",
    "canvas",
    "line_style",
    "score_style",
    "style",
    "style_of",
    "width_inches",
]

WIDTHS: Mapping[str, float] = {
    "cvpr-single": 3.25,
    "cvpr-double": 6.875,
    "neurips": 5.5,
    "ieee": 3.5,
    "ieee-double": 7.16,
}
"""Widths in inches: one and both columns of CVPR, the text of NeurIPS, one and both columns of IEEE."""

Width = str | float

Setting = str | float | bool | Sequence[str] | Sequence[float] | None
"""A value of `matplotlib.rcParams`."""

_SHEET = Path(__file__).with_name("gradunc.mplstyle")

_SCREEN = 110
"""Pixels of a notebook per inch on paper: a little larger than print."""


def width_inches(width: Width | None, default: Width = "cvpr-single") -> float:
    """Width of a figure in inches, from a name in `WIDTHS` or a number; for None what `style` says, else `default`.

    Raises
    ------
    GraduncError
        If it is neither.
    """
    width = width if width is not None else active_width() or default
    if isinstance(width, str):
        if width not in WIDTHS:
            raise GraduncError(f"unknown width {width!r}; expected inches or one of {', '.join(WIDTHS)}")
        return WIDTHS[width]
    if not 0.5 <= float(width) <= 60:
        raise GraduncError(f"width is {width}; expected 0.5 to 60 inches or one of {', '.join(WIDTHS)}")
    return float(width)


# --------------------------------------------------------------------------------------------------------------------
# style


class _Style:
    def __init__(self, width: Width | None, rc: dict[str, Any]) -> None:
        self.width, self.rc = width, rc


_ACTIVE: ContextVar[_Style | None] = ContextVar("gradunc_style", default=None)


def _sheet(sheet: Any) -> dict[str, Any]:
    """Settings of a style sheet: a file, a name that matplotlib knows, or a mapping."""
    if isinstance(sheet, Mapping):
        return dict(sheet)
    if isinstance(sheet, (list, tuple)):
        return {key: value for one in sheet for key, value in _sheet(one).items()}
    from matplotlib.style import library

    if str(sheet) in library:
        return dict(library[str(sheet)])
    if not Path(sheet).is_file():
        raise GraduncError(f"{sheet}: no such style; expected a .mplstyle file or a name that matplotlib knows")
    try:
        return dict(mpl.rc_params_from_file(sheet, use_default_template=False))
    except (OSError, UnicodeDecodeError) as error:
        raise GraduncError(f"{sheet}: cannot be read as a matplotlib style ({error})") from error


@contextmanager
def applied(rc: Mapping[str, Any]) -> Iterator[None]:
    """Matplotlib's own defaults with `rc`, so that a figure does not depend on what else a session has set."""
    with mpl.rc_context():
        mpl.rcdefaults()
        try:
            mpl.rcParams.update(rc)
        except (KeyError, ValueError) as error:
            raise GraduncError(f"style: {' '.join(map(str, error.args))}") from error
        yield


@contextmanager
def style(width: Width | None = None, sheet: Any = None, **rc: Setting) -> Iterator[None]:
    """Draw figures in this package's style, or in one's own variation of it.

    Inside the context, matplotlib's settings are those of the style sheet ``gradunc_viz/figures/gradunc.mplstyle``, and
    every function of `gradunc_viz.figures` takes what is given here. Global settings are as before afterwards. Figures
    made without this context use the plain style.

    Parameters
    ----------
    width : str or float, optional
        Default width of figures: ``"cvpr-single"`` (3.25 in), ``"cvpr-double"`` (6.875), ``"neurips"`` (5.5),
        ``"ieee"`` (3.5), ``"ieee-double"`` (7.16), or inches.
    sheet : path, name, mapping, or a list of these, optional
        Settings that replace those of the package: a ``.mplstyle`` file, a style that matplotlib knows, or a mapping.
    **rc
        Single settings, such as ``**{"font.size": 9}``.

    Raises
    ------
    GraduncError
        If the width, the sheet or a setting is unknown.

    Examples
    --------
    >>> with gv.figures.style("neurips", **{"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):
    ...     figure = gv.figures.roc(cache)
    """
    outer = _ACTIVE.get()
    if width is not None:
        width_inches(width)
    base = outer.rc if outer else _sheet(_SHEET)
    merged = {**base, **(_sheet(sheet) if sheet is not None else {}), **rc}
    with applied(merged):
        token = _ACTIVE.set(_Style(width if width is not None else outer.width if outer else None, merged))
        try:
            yield
        finally:
            _ACTIVE.reset(token)


def active_width() -> Width | None:
    """Width that the innermost `style` asks for."""
    active = _ACTIVE.get()
    return active.width if active else None


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that is drawn and saved in the style it was made in, and shows itself in notebooks.

    It belongs to no backend and no pyplot state, so that none has to be closed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        active = _ACTIVE.get()
        self._gradunc_rc: dict[str, Any] = dict(active.rc) if active else _sheet(_SHEET)
        super().__init__(*args, **kwargs)

    def draw(self, renderer: Any) -> None:
        """Draw with the fonts and settings of the figure's style."""
        # The layout is found step by step: from the same start it comes to the same end, however often it is drawn.
        # Saving draws twice, the second time without the engine and at the places that the first has found.
        if isinstance(self.get_layout_engine(), ConstrainedLayoutEngine):
            for axes in self.axes:
                if (spec := axes.get_subplotspec()) is not None:
                    axes.set_subplotspec(spec)
        with applied(self._gradunc_rc):
            super().draw(renderer)

    def savefig(self, fname: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Save as matplotlib does, without dates, so that the same figure gives the same bytes.

        Parameters
        ----------
        fname : path or binary file
        **kwargs
            As for `matplotlib.figure.Figure.savefig`.
        """
        kind = kwargs.get("format") or (
            Path(fname).suffix[1:].lower() if isinstance(fname, (str, os.PathLike)) else "png"
        )
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        if undated:
            kwargs["metadata"] = {**undated, **(kwargs.get("metadata") or {})}
        with applied(self._gradunc_rc):
            super().savefig(fname, **kwargs)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=2 * _SCREEN)
        width, height = self.get_size_inches()
        return buffer.getvalue(), {"width": round(width * _SCREEN), "height": round(height * _SCREEN)}


def style_of(figure: matplotlib.figure.Figure) -> dict[str, Any]:
    """Settings that a figure was made with; the package's own for a figure that was made elsewhere."""
    return figure._gradunc_rc if isinstance(figure, Figure) else _sheet(_SHEET)


@contextmanager
def canvas(
    ax: Axes | Sequence[Axes] | None = None,
    shape: tuple[int, int] = (1, 1),
    *,
    width: Width | None = None,
    height: float | None = None,
    aspect: float = 0.75,
    sharey: bool = False,
) -> Iterator[tuple[matplotlib.figure.Figure, np.ndarray]]:
    """Axes to draw on, (rows, columns): those that were given as they are, or those of a new figure in the style.

    Parameters
    ----------
    ax : Axes, sequence of Axes or None
    shape : (rows, columns)
    width : str or float, optional
        Of a new figure; by default what `style` says, else a column of CVPR.
    height : float, optional
        Inches; by default `aspect` times the width of a column for every row.
    sharey : bool
        Whether new plots have one y axis.

    Raises
    ------
    GraduncError
        If the number of axes differs from what is to be drawn.
    """
    if ax is not None:
        given = np.array(ax, dtype=object).reshape(-1)
        if len(given) != shape[0] * shape[1]:
            raise GraduncError(f"ax holds {len(given)} Axes; expected {shape[0] * shape[1]}, one for each plot")
        yield given[0].figure, given.reshape(shape)
        return
    with style():
        inches = width_inches(width)
        tall = height if height is not None else shape[0] * aspect * inches / shape[1]
        figure = Figure(figsize=(inches, tall), layout="constrained")
        yield figure, figure.subplots(*shape, squeeze=False, sharey=sharey)


class Page:
    """A figure on which axes are put at places in inches, from the top left: for pictures that have to line up."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self.width, self.height = width, height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place, in inches."""
        bottom = self.height - top - height
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place)

    def legend(self, handles: Sequence[Any], top: float, columns: int) -> None:
        """Legend in the middle of the page, from `top` inches down."""
        self.figure.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 1 - top / self.height),
            ncols=columns,
            handlelength=1.0,
            handleheight=0.8,
            borderaxespad=0,
            borderpad=0,
        )

    def colorbar(self, image: Any, left: float, top: float, width: float, label: str) -> Axes:
        """Horizontal colour bar with few ticks; it takes `BAR` inches."""
        axis = self.axes(left, top, width, 0.06)
        bar = self.figure.colorbar(image, cax=axis, orientation="horizontal", extend="both", extendfrac=0.06)
        bar.outline.set_visible(False)
        bar.locator = MaxNLocator(3)
        bar.ax.tick_params(length=1.5, pad=1)
        bar.update_ticks()
        if label:
            bar.set_label(label, labelpad=0)
        return axis


BAR = 0.36
"""Inches of a colour bar with its ticks and label."""

# --------------------------------------------------------------------------------------------------------------------
# scores


def line_style(look: Look) -> dict[str, Any]:
    """``color``, ``linestyle``, ``marker`` and ``markerfacecolor`` for `matplotlib.axes.Axes.plot`."""
    lengths = DASHES[look.dash]
    return {
        "color": look.color,
        "linestyle": (0, lengths) if lengths else "-",
        "marker": look.marker,
        "markerfacecolor": "white" if look.hollow else look.color,
    }


def score_style(name: str) -> dict[str, Any]:
    """Colour, line and marker of a score: the same in every figure and, without markers, in the explorer's charts.

    The colour and the marker of a gradient norm tell its p, the dash its label and formula; hollow markers are the
    paper's formula.

    Returns
    -------
    dict
        ``color``, ``linestyle``, ``marker``, ``markerfacecolor`` for `matplotlib.axes.Axes.plot`.
    """
    return line_style(score_look(name))
