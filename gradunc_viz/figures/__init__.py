"""Figures and tables for papers, drawn with matplotlib straight from caches.

Every function takes data and an optional Axes and returns the figure. Figures have the width of a column, 8 pt text,
embedded fonts, and a colour and line per score that are the same everywhere; `style` changes that, `save` writes PDF,
SVG, PNG or PGF::

    gv.figures.save(gv.figures.roc(cache), "roc.pdf")
    print(gv.figures.ood_table([first, second]).to_latex())

No global setting of matplotlib is changed, and no window or backend is needed.
"""

from ..tables.paper import ood_table, pixel_table, segment_table
from .bars import metric_bars, p_ablation
from .confusion import confusion
from .curves import pr, roc, sparsification
from .distributions import distributions
from .gallery import gallery
from .meta import meta_scatter
from .panel import panel
from .reliability import reliability
from .save import FORMATS, save
from .sheet import figure_set
from .style import WIDTHS, Figure, score_style, style

__all__ = [
    "FORMATS",
    "WIDTHS",
    "Figure",
    "confusion",
    "distributions",
    "figure_set",
    "gallery",
    "meta_scatter",
    "metric_bars",
    "ood_table",
    "p_ablation",
    "panel",
    "pixel_table",
    "pr",
    "reliability",
    "roc",
    "save",
    "score_style",
    "segment_table",
    "sparsification",
    "style",
]
