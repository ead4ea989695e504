"""Colour, dash, title and unit of every score."""

from __future__ import annotations

import zlib

from ..schema.scores import GradientNorm, lookup

__all__ = ["plain", "score_style", "score_title", "units_text"]


_UNITS = {"1": "0 to 1", "log2": "log2", "nats": "nats", "logit": "logit"}


def units_text(name: str) -> str:
    """Units of a score as they stand in brackets behind its name."""
    entry = lookup(name)
    return "as given" if entry.family == "external" else _UNITS.get(entry.units, entry.units)


# Paul Tol's and Okabe and Ito's colours: apart under every kind of colour blindness, visible on white and on black.
_BY_P = {0.1: "#ccbb44", 0.3: "#e69f00", 0.5: "#d55e00", 1.0: "#009e73", 2.0: "#cc79a7"}


_BY_NAME = {"msp": "#56b4e9", "entropy": "#0072b2", "margin": "#aa4499", "energy": "#999933", "max_logit": "#44aa99"}


_OTHERS = ("#117733", "#4477aa", "#882255", "#66ccee", "#ee6677", "#aa3377")


_DASHES = {("oh", "exact"): "solid", ("uni", "exact"): "dashed", ("oh", "paper"): "dotted", ("uni", "paper"): "dotdash"}


def score_style(name: str) -> dict[str, str]:
    """Colour and dash of a score's line: the same in every chart.

    The colour of a gradient norm tells its p, the dash its label and variant.
    """
    entry = lookup(name)
    other = _OTHERS[zlib.crc32(name.encode()) % len(_OTHERS)]
    if not isinstance(entry, GradientNorm):
        return {"color": _BY_NAME.get(name, other), "line_dash": "solid"}
    if entry.p not in _BY_P:  # the colour of any other p is that of its one-hot norm
        other = _OTHERS[zlib.crc32(str(entry.p).encode()) % len(_OTHERS)]
    dash = _DASHES[entry.label, entry.variant]
    return {"color": _BY_P.get(entry.p, other), "line_dash": dash}


def score_title(name: str) -> str:
    """Title of a score for legends and axes; math in ``$...$``."""
    entry = lookup(name)
    # an index below "max" would stand in the line underneath
    return plain(entry.title) if entry.family == "external" else entry.title.replace(r"\max_", r"\mathrm{max}_")


def plain(text: str) -> str:
    """Text from data, such as a frame id, that is shown as it is: a dollar sign starts no formula."""
    return text.replace("$", r"\$")
