"""Colours of the dashboard: score palette, marks that stay apart from it and from each other, class palettes."""

from __future__ import annotations

from bokeh.palettes import Viridis256, interp_palette

__all__ = ["DIFFERENCE_PALETTE", "SCORE_PALETTE"]

SCORE_PALETTE: tuple[str, ...] = tuple(Viridis256)
"""Perceptually uniform and safe for colour-blind readers; bright is uncertain."""

DIFFERENCE_PALETTE: tuple[str, ...] = tuple(
    interp_palette(["#2d004b", "#8073ac", "#d8daeb", "#f7f7f7", "#fee0b6", "#e08214", "#7f3b08"], 255)
)
"""Violet below 0, white at 0, orange above: safe for colour-blind readers."""
