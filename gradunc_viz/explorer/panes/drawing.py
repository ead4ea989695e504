"""What a pane shows, drawn into arrays: columns for its layers, colour range, title and a word of help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...schema.errors import GraduncError
from ...schema.frame import ignored
from ...style.scores import units_text
from .. import text
from ..state.frame_store import FrameData
from ..state.pane import Pane, letter_of
from ..state.ranges import pair_range, ranks, shown_values
from . import tiles
from .tiles import Tile

__all__ = ["Drawing", "PaneLook", "blank", "difference", "draw", "score_map"]


@dataclass(frozen=True)
class PaneLook:
    """How panes show what they show.

    Attributes
    ----------
    score, task
        Whose mask lies over images, and what it should find.
    overlay : "found", "outcomes" or "none"
    norms : "log2" or "linear"
    hide_ignored : bool
        Whether pixels that the task ignores are left out of score maps.
    limits
        Colour range of a score in the values shown.
    several : bool
        Whether networks are told apart.
    """

    score: str
    task: str
    overlay: str = "found"
    norms: str = "log2"
    hide_ignored: bool = False
    limits: Callable[[str], tuple[float, float]] | None = None
    several: bool = False


@dataclass(frozen=True)
class Drawing:
    """One pane, drawn.

    Attributes
    ----------
    columns
        Of the pane's source; a layer is visible if its column is here.
    limits, signed, units
        Colour range of the score layer, whether it is a difference, and what its colour bar says.
    grey
        Whether pixels that are not marked are painted too.
    note
        HTML below the pane's title.
    filename
        Of a PNG of the pane, without suffix.
    """

    columns: Mapping[str, list[Any]] = field(default_factory=dict)
    limits: tuple[float, float] | None = None
    signed: bool = False
    units: str = ""
    grey: bool = False
    note: str = ""
    filename: str = "pane"


def blank(note: str = "") -> Drawing:
    """A pane with nothing to show and the reason why."""
    return Drawing(note=text.pane_note(note))


def draw(pane: Pane, frames: Mapping[int, FrameData], look: PaneLook, tile: Tile) -> Drawing:
    """Draw what a pane shows of a frame.

    Parameters
    ----------
    pane : Pane
    frames : mapping of network -> FrameData
        The frame as each network sees it, at least those that the pane names.
    look : PaneLook
    tile : Tile
        Of the frame's size.

    Raises
    ------
    GraduncError
        If the frame has not what is to be shown.
    """
    missing = [network for network in pane.networks if network not in frames]
    if missing:
        raise GraduncError(f"network {letter_of(missing[0])} has no such frame")
    frame = frames[pane.network]
    place = tile.extent | {"w": [tile.right - tile.left], "h": [tile.bottom - tile.top]}
    name = f"{frame.id}_{pane}".replace(":", "-")
    if pane.minus is not None:
        return _draw_difference(pane, frames, look, tile, place, name)
    kinds: dict[str, Callable[..., Drawing]] = {
        "image": _draw_image,
        "label": _draw_label,
        "prediction": _draw_prediction,
        "error": _draw_error,
    }
    return kinds.get(pane.what, _draw_score)(pane, frame, look, tile, place, name)


def _draw_image(pane: Pane, frame: FrameData, look: PaneLook, tile: Tile, place: dict[str, Any], name: str) -> Drawing:
    columns = {"url": [tiles.jpeg_url(frame.image, tile)], **place}
    overlay = look.overlay
    note = text.overlay_note(overlay, look.score, look.task)
    if overlay != "none":
        try:
            values, target = frame.score(look.score), frame.target(look.task)
        except GraduncError as error:
            return Drawing(columns, note=text.pane_note(str(error)), filename=name)
        if overlay == "found":
            columns["found"] = [tiles.pool_max(values, tile)]
        elif target is None:
            note = text.pane_note(text.no_labels(look.task))
        else:
            positive, evaluated = target
            nan = np.float32(np.nan)
            found = tiles.pool_max(np.where(positive & evaluated, values, nan), tile)
            alarms = tiles.pool_max(np.where(~positive & evaluated, values, nan), tile)
            columns["found"] = [found]
            # a block that holds something to find is no false alarm
            columns["alarms"] = [np.where(np.isnan(found), alarms, nan)]
    return Drawing(columns, note=note, filename=name)


def _draw_label(pane: Pane, frame: FrameData, look: PaneLook, tile: Tile, place: dict[str, Any], name: str) -> Drawing:
    if not frame.tasks:
        raise GraduncError("this frame has no labels")
    columns = dict(place)
    if frame.label is not None:
        columns["classes"] = [tiles.pick(frame.label, tile)]
    if frame.anomaly is not None:
        columns["marks"] = [tiles.pool_marks(frame.anomaly, tile)]
    return Drawing(columns, grey=frame.label is None, note=text.annotation_note(frame.tasks), filename=name)


def _draw_prediction(
    pane: Pane, frame: FrameData, look: PaneLook, tile: Tile, place: dict[str, Any], name: str
) -> Drawing:
    note = text.plain_note("class of the largest probability")
    return Drawing(place | {"classes": [tiles.pick(frame.prediction, tile)]}, note=note, filename=name)


def _draw_error(pane: Pane, frame: FrameData, look: PaneLook, tile: Tile, place: dict[str, Any], name: str) -> Drawing:
    mistakes = frame.mistakes()
    if mistakes is None:
        raise GraduncError(text.no_labels("error"))
    columns = place | {"marks": [tiles.pool_marks(mistakes, tile)]}
    return Drawing(columns, grey=True, note=text.error_note(), filename=name)


def _draw_score(pane: Pane, frame: FrameData, look: PaneLook, tile: Tile, place: dict[str, Any], name: str) -> Drawing:
    values = score_map(frame, pane.what, look)
    assert look.limits is not None
    return Drawing(
        place | {"score": [tiles.pool_max(values, tile)]},
        limits=look.limits(pane.what),
        units=text.bar_title(pane.what, look.norms),
        note=text.score_note(pane.what),
        filename=name,
    )


def _draw_difference(
    pane: Pane, frames: Mapping[int, FrameData], look: PaneLook, tile: Tile, place: dict[str, Any], name: str
) -> Drawing:
    values = difference(pane, frames)
    if look.hide_ignored:
        values = _without_ignored(values, frames[pane.network], look.task)
    return Drawing(
        place | {"score": [tiles.pool_signed(values, tile)]},
        limits=pair_range(values),
        signed=True,
        units="difference of percentiles" if pane.by_rank else f"difference [{units_text(pane.what)}]",
        note=text.difference_note(pane, look.several),
        filename=name.replace("~", "_minus_"),
    )


def score_map(frame: FrameData, name: str, look: PaneLook) -> np.ndarray:
    """Values of a score as a pane shows them, (y, x), NaN where left out."""
    values = shown_values(frame.score(name), name, look.norms)
    return _without_ignored(values, frame, look.task) if look.hide_ignored else values


def _without_ignored(values: np.ndarray, frame: FrameData, task: str) -> np.ndarray:
    mask = frame.mask(task)
    return values if mask is None else np.where(ignored(mask), np.float32(np.nan), values)


def difference(pane: Pane, frames: Mapping[int, FrameData]) -> np.ndarray:
    """Oriented values of the first map less those of the second, of their percentiles where units differ; (y, x).

    Raises
    ------
    GraduncError
        If the two frames differ in size.
    """
    assert pane.minus is not None
    first, second = frames[pane.network], frames[pane.minus[0]]
    if first.size != second.size:
        raise GraduncError(
            f"sizes differ: {first.size[1]} × {first.size[0]} and {second.size[1]} × {second.size[0]} pixels"
        )
    one, other = first.score(pane.what), second.score(pane.minus[1])
    return ranks(one) - ranks(other) if pane.by_rank else one - other
