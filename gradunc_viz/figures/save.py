"""Figures as files: PDF, SVG, PNG and PGF, the same bytes for the same figure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.figure
from matplotlib.text import Text

from ..schema.errors import GraduncError
from ..tables.table import latex_text
from .style import applied, style_of

__all__ = ["FORMATS", "save"]

FORMATS = ("pdf", "svg", "png", "pgf")


def save(figure: matplotlib.figure.Figure, path: str | os.PathLike[str], dpi: int = 300) -> Path:
    """Write a figure to a PDF, SVG, PNG or PGF file.

    The page is as wide as the figure, so that text keeps its size when it is included unscaled. The same figure gives
    the same bytes: no date is written. A PGF file puts its images beside it as ``NAME-img0.png`` and so on.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
        Ends in ``.pdf``, ``.svg``, ``.png`` or ``.pgf``; its folder is made if it is missing.
    dpi : int
        Resolution of a PNG, and of the images inside the other formats.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    GraduncError
        If the ending is another one, the file cannot be written, or PGF is wanted where no LaTeX engine is installed.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise GraduncError(f"{path}: ends in {path.suffix!r}; expected one of {', '.join('.' + f for f in FORMATS)}")
    rc = style_of(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with applied(rc):
            if kind == "pgf":
                _need_latex(path, str(rc.get("pgf.texsystem", "pdflatex")))
                with _escaped(figure):
                    figure.savefig(path, format=kind, dpi=dpi)
            else:
                undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
                figure.savefig(path, format=kind, dpi=dpi, metadata=undated)
    except OSError as error:
        raise GraduncError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _need_latex(path: Path, engine: str) -> None:
    if shutil.which(engine) is None:
        raise GraduncError(f"{path}: PGF needs the LaTeX engine {engine!r} to measure text, and it is not installed")


@contextmanager
def _escaped(figure: matplotlib.figure.Figure) -> Iterator[None]:
    """Texts of a figure as LaTeX reads them, for the time of saving."""
    texts = [(artist, artist.get_text()) for artist in figure.findobj(Text)]
    for artist, text in texts:
        artist.set_text(latex_text(text))
    try:
        yield
    finally:
        for artist, text in texts:
            artist.set_text(text)
