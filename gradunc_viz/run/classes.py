"""Names and colours of the classes of a cache: what was said, what the network knows, what the frames know."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..datasets.catalog import known_classes
from ..datasets.frames import Frame
from ..networks.preprocessing import InputSize
from ..networks.runner import Runner
from ..schema.errors import GraduncError, ModelError
from ..store.backend import Place, backend_of
from ..store.cache import open_cache
from ..style.palette import class_colors
from .settings import Color, RunSettings, Settings

__all__ = ["ClassTable", "frame_classes", "known_class_table"]

ClassTable = tuple[tuple[str, ...], tuple[Color, ...]]
"""Names and RGB colours of the classes, in the order of their ids."""

_PLACEHOLDER = re.compile(r"class \d+")


def known_class_table(runner: Runner, frames: Sequence[Frame], settings: Settings, out: Place) -> ClassTable:
    """Classes of a run of a network.

    Names that were given come first, then those of the network, of the frames, and of Cityscapes where there are as
    many; else they are numbers. Where nobody gave a name, one that the cache at `out` has stands.

    Raises
    ------
    ModelError
        If the network tells another number of classes apart than were named.
    """
    names, certain = _network_classes(runner, frames, settings.input_size)
    n = len(names)
    known, colors = frame_classes(frames)
    if settings.classes is not None:
        if len(settings.classes) != n:
            raise ModelError(f"{len(settings.classes)} class names were given, but the network tells {n} classes apart")
        names = settings.classes
    elif not certain and len(known) == n:
        names = known
    elif not certain and n == len(known_classes("cityscapes")):
        # nearly every public 19-class network of street scenes is in the order of the Cityscapes train ids
        names = tuple(name for name, _ in known_classes("cityscapes"))
    given = settings.colors or (runner.network.colors if certain and settings.classes is None else None)
    if not given or len(given) != n:
        named = dict(known_classes("cityscapes")) | dict(zip(known, colors, strict=False))
        given = tuple(named.get(name, color) for name, color in zip(names, class_colors(n), strict=True))
    return _settled((names, tuple(given)), settings, out)


def frame_classes(frames: Sequence[Frame]) -> ClassTable:
    """Names and colours that the frames know; nothing where they disagree."""
    tables = {(frame.classes or (), frame.colors or ()) for frame in frames}
    return tables.pop() if len(tables) == 1 else ((), ())


def _network_classes(runner: Runner, frames: Sequence[Frame], input_size: InputSize) -> tuple[tuple[str, ...], bool]:
    """Name the classes and say whether the network knows them; a forward pass counts the channels."""
    network = runner.network
    if network.classes and not network.drop_channels:
        return network.classes, True
    size = input_size if isinstance(input_size, tuple) else _first_size(frames) or (256, 256)
    what = "an empty image"
    channels = runner(runner.prepare(np.zeros((*size, network.in_channels), "u1"), what), what).logits.shape[1]
    return network.class_names(channels), network.classes is not None


def _first_size(frames: Sequence[Frame]) -> tuple[int, int] | None:
    for frame in frames:
        try:
            return frame.size
        except GraduncError:
            continue  # reported when its turn comes
    return None


def _settled(table: ClassTable, settings: RunSettings, out: Place) -> ClassTable:
    """The table of a cache that is resumed, where one of the two only numbers the classes."""
    if settings.classes is not None or not backend_of(out).is_cache():
        return table
    cache = open_cache(out)
    if not len(cache):
        return table
    numbered = [all(map(_PLACEHOLDER.fullmatch, names)) for names in (table[0], cache.classes)]
    return (cache.classes, cache.colors) if any(numbered) and len(table[0]) == len(cache.classes) else table
