"""What is packed beside the code: the catalogue of data sets, class palettes, demo weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from ..schema.errors import GraduncError

__all__ = ["Color", "ResourceError", "catalog", "data_path", "known_classes"]

Color = tuple[int, int, int]
"""(red, green, blue) of 0..255."""


class ResourceError(GraduncError, FileNotFoundError):
    """A file that belongs to the installation is not there."""


def data_path(name: str) -> Path:
    """Find a file or folder of the packed data.

    Parameters
    ----------
    name
        Path inside the data folder, for instance ``"catalog.json"``.

    Raises
    ------
    ResourceError
        Naming every place that was looked at.
    """
    package = Path(__file__).resolve().parents[1]
    # A wheel holds the data inside the package; a checkout, also one installed as editable, beside it, where
    # importlib.resources, which knows packages only, does not look. Nothing is installed as a zip file (zarr, torch).
    places = [package / "data" / name, package.parent / "data" / name]
    for place in places:
        if place.exists():
            return place
    raise ResourceError(f"data file {name!r} is not installed: looked for {' and '.join(map(str, places))}")


@cache
def catalog() -> dict[str, Any]:
    """Return the catalogue: ``classes`` (label conventions) and ``datasets`` (descriptions)."""
    content: dict[str, Any] = json.loads(data_path("catalog.json").read_text(encoding="utf-8"))
    return content


def known_classes(name: str) -> tuple[tuple[str, Color], ...]:
    """Return the classes of a known label convention, in the order of their ids.

    Parameters
    ----------
    name
        ``"cityscapes"`` (the 19 train ids), ``"camvid"`` (the 11 classes of the SegNet release), ``"drive"``,
        ``"muad"``, ``"loveda"``, ``"mapillary"`` (the 65 classes of Vistas 1.2, without Unlabeled).

    Returns
    -------
    tuple of (name, (red, green, blue))
        One entry per class id, colours 0..255.

    Raises
    ------
    GraduncError
        If the catalogue has no such convention; the message lists those it has.
    """
    conventions = catalog()["classes"]
    if name not in conventions:
        raise GraduncError(f"unknown label convention {name!r}: expected one of {', '.join(conventions)}")
    red_green_blue = ((entry["name"], entry["color"]) for entry in conventions[name])
    return tuple((title, (color[0], color[1], color[2])) for title, color in red_green_blue)
