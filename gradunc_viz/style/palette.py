"""Colours of classes, masks and outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def class_colors(count: int) -> Sequence[tuple[int, int, int]]:
    """Distinct colours for classes that have none of their own (golden-angle hues, alternating lightness)."""
    import colorsys

    colors = []
    for index in range(count):
        rgb = colorsys.hls_to_rgb((index * 0.61803) % 1.0, (0.42, 0.62, 0.52)[index % 3], 0.55)
        colors.append(tuple(round(255 * channel) for channel in rgb))
    return colors  # type: ignore[return-value]


TRANSPARENT = "rgba(0, 0, 0, 0)"


# Magenta, orange and blue of a palette made to stay apart under every kind of colour blindness; none is in viridis.
THRESHOLD = "#dc267f"
"""Pixels whose score reaches the threshold."""


FALSE_ALARM = "#ffb000"
"""Pixels that reach the threshold and should not."""


MISSED = "#648fff"
"""Pixels that should reach the threshold and do not."""


PIN = "#dc267f"
"""Mark of the pinned pixel."""


RIGHT, WRONG = "#3b6fb6", "#e06c00"
"""Pixels that should score low (right, normal), and that should score high (wrong, of an unknown object): blue and
orange, apart for every kind of colour blindness and in grey, and from the page as from paper."""


ANOMALY = WRONG
"""Pixels of unknown objects."""


OUTLINE = "#ff2fa8"
"""Outlines on photographs and score maps: a magenta that no class and no score has."""


GREY = "#d5d9de"
"""Pixels that are evaluated and not marked."""


GROUPS: Mapping[str, str] = {"right": RIGHT, "normal": RIGHT, "wrong": WRONG, "anomaly": WRONG}
"""Colour of each outcome, in charts, maps and figures."""


FAILURE_COLORS: Mapping[str, str] = {
    "confident_mistakes": THRESHOLD,
    "missed_objects": WRONG,
    "false_alarms": FALSE_ALARM,
    "needless_doubt": MISSED,
}
"""Colour of the outline of each kind of failure (`gradunc_viz.metrics.regions.FAILURES`)."""


def class_palette(colors: Sequence[tuple[int, int, int]]) -> list[str]:
    """Turn RGB colours of the classes, in id order, into hex.

    Raises
    ------
    ValueError
        If a channel is outside 0..255.
    """
    palette = []
    for color in colors:
        if not all(0 <= channel <= 255 for channel in color):
            raise ValueError(f"class colour {color} is no RGB colour of 0..255")
        palette.append("#{:02x}{:02x}{:02x}".format(*color))
    return palette


def text_color(color: tuple[int, int, int]) -> str:
    """Black or white, whichever is easier to read on `color` (WCAG relative luminance)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in color]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"
