"""The classes of a cache: names, colours, and how the ids in masks become ids of the network's classes.

In a cache a class id is a place in the table of classes, whose order is that of the network's channels; channels that
are left out have none. In masks an id is a channel of the network, unless somebody says what else it is: a mapping, a
convention or ``classes.json`` by the names of classes, a network by the masks it was trained on. So labels and
predictions are numbered alike.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..datasets.catalog import known_classes
from ..datasets.class_files import VOID_NAMES, NamedClasses
from ..datasets.conventions import class_ids, some
from ..datasets.frames import Frame
from ..networks.network import Network
from ..networks.preprocessing import InputSize
from ..networks.runner import Runner
from ..networks.tiled import TiledImage, TiledInference
from ..schema.errors import FrameError, GraduncError, ModelError
from ..store.backend import Place, backend_of
from ..store.cache import open_cache
from ..style.palette import class_colors
from .settings import Color, RunSettings, Settings

__all__ = ["ClassTable", "NetworkClasses", "frame_classes", "known_class_table", "numbered_alike"]

ClassTable = tuple[tuple[str, ...], tuple[Color, ...]]
"""Names and RGB colours of the classes, in the order of their ids."""

_REMEDY = "map the ids in masks to the network's classes (--labels FILE.json, labels={id: class id})"

_PLACEHOLDER = re.compile(r"class \d+|LABEL_\d+")  # the latter are those of transformers


@dataclass(frozen=True)
class NetworkClasses:
    """The classes that a network tells apart, in the order of their ids.

    Attributes
    ----------
    names, colors : tuple
    channels : tuple of int
        The network's output channel of each class.
    n_channels : int
        How many there are, with those that are left out.
    named : bool
        Whether the names are those of the network, or the user's for it, and not numbers or names of the labels.
    left_out : tuple of str
        Names of channels that are no class, where they have any.
    colored : bool
        Whether the colours belong to the names, and were not made up.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    channels: tuple[int, ...]
    n_channels: int
    named: bool = True
    left_out: tuple[str, ...] = ()
    colored: bool = False

    @property
    def by_channel(self) -> dict[int, int | None]:
        """Class id of every channel, None of those that are left out."""
        place: dict[int, int | None] = {channel: position for position, channel in enumerate(self.channels)}
        return {channel: place.get(channel) for channel in range(self.n_channels)}


def known_class_table(
    runner: Runner[Any], frames: Sequence[Frame], settings: Settings, out: Place | None = None
) -> NetworkClasses:
    """Classes of a run of a network.

    Names that were given come first, then those of the network, of the frames, and of Cityscapes where there are as
    many; else they are numbers. Where nobody gave a name, one that the cache at `out` has stands.

    Raises
    ------
    ModelError
        If the network tells another number of classes apart than were named, or two of them have one name.
    """
    network = runner.network
    told = getattr(network, "n_channels", 0)  # of what was saved, which is of frames alone
    n_channels = told or _counted_before(network, out) or _channels(runner, frames, settings.input_size)
    kept = network.class_channels(n_channels)
    channels = tuple(range(n_channels)) if kept is None else tuple(kept.tolist())
    n = len(channels)
    names = network.class_names(n_channels)
    named = network.classes is not None and not _numbered(names)
    every: Sequence[str] = network.classes or ()
    known, colors = frame_classes(frames)
    if settings.classes is not None:
        every, named = settings.classes, True
        if len(every) not in (n, n_channels):
            raise ModelError(f"{len(every)} class names were given, but the network tells {n} classes apart")
        names = every if len(every) == n else tuple(every[channel] for channel in channels)
    elif not named and len(known) in (n, n_channels):
        every = known
        names = known if len(known) == n else tuple(known[channel] for channel in channels)
    elif not named and n == len(known_classes("cityscapes")):
        # nearly every public 19-class network of street scenes is in the order of the Cityscapes train ids
        names, named = tuple(name for name, _ in known_classes("cityscapes")), True
    _check_names(network, names)
    given = settings.colors or (network.colors if named and settings.classes is None else None)
    if given and len(given) == n_channels:
        given = tuple(given[channel] for channel in channels)
    colored = bool(given) and len(given or ()) == n
    if not given or not colored:
        by_name = dict(known_classes("cityscapes")) | dict(zip(known, colors, strict=False))
        given = tuple(by_name.get(name, color) for name, color in zip(names, class_colors(n), strict=True))
    left_out = tuple(every[i] for i in range(n_channels) if i not in channels) if len(every) == n_channels else ()
    names, given = _settled((names, tuple(given)), settings, out)
    return NetworkClasses(names, given, channels, n_channels, named, left_out, colored)


def _check_names(network: Network, names: Sequence[str]) -> None:
    twice = dict.fromkeys(name for place, name in enumerate(names) if name in names[:place])
    if twice:
        raise ModelError(f"classes of {network.name} repeat {some('name', map(repr, twice))}; expected different names")


def _numbered(names: Sequence[str]) -> bool:
    return all(map(_PLACEHOLDER.fullmatch, names))


def frame_classes(frames: Sequence[Frame]) -> ClassTable:
    """Names and colours that the frames know; nothing where they disagree."""
    tables = {(frame.classes or (), frame.colors or ()) for frame in frames}
    return tables.pop() if len(tables) == 1 else ((), ())


def _counted_before(network: Network, out: Place | None) -> int:
    """The channels of a network whose classes are named, as the cache at `out` knows them; 0 where there is none."""
    if network.classes is None or out is None or not backend_of(out).is_cache():
        return 0
    return len(open_cache(out).classes) + len(network.drop_channels)


def _channels(runner: Runner[Any], frames: Sequence[Frame], input_size: InputSize) -> int:
    """Count the network's channels by a forward pass, before the frames have theirs."""
    what, depth = "an empty image", runner.network.in_channels
    if isinstance(runner, TiledInference) and runner.tile != "auto" and not isinstance(input_size, tuple):
        x = _first_windows(runner, frames, depth)
    else:
        size = input_size if isinstance(input_size, tuple) else _first_size(frames) or (256, 256)
        x = runner.prepare(np.zeros((*size, depth), "u1"), what)
    return int(runner(x.at(0, 0) if isinstance(x, TiledImage) else x, what).logits.shape[1])


def _first_windows(runner: TiledInference, frames: Sequence[Frame], depth: int) -> Any:
    """Windows of an empty image as large as the first frame that is as large as one.

    Raises
    ------
    FrameError
        If no frame is: nothing has run then.
    """
    first: FrameError | None = None
    for frame in frames:
        try:
            return runner.prepare(np.zeros((*frame.size, depth), "u1"), frame.id)
        except FrameError as error:
            first = first or error
    if first is not None:
        raise first
    return runner.prepare(np.zeros((*runner.tile, depth), "u1"), "an empty image")


def _first_size(frames: Sequence[Frame]) -> tuple[int, int] | None:
    for frame in frames:
        try:
            return frame.size
        except GraduncError:
            continue  # reported when its turn comes
    return None


def _settled(table: ClassTable, settings: RunSettings, out: Place | None) -> ClassTable:
    """The table of a cache that is resumed, where one of the two only numbers the classes."""
    if settings.classes is not None or out is None or not backend_of(out).is_cache():
        return table
    cache = open_cache(out)
    if not len(cache):
        return table
    numbered = _numbered(table[0]) or _numbered(cache.classes)
    return (cache.classes, cache.colors) if numbered and len(table[0]) == len(cache.classes) else table


# --------------------------------------------------------------------------------------------------------------------
# labels


def numbered_alike(
    frames: Sequence[Frame], classes: NetworkClasses, reduce_labels: bool = False
) -> tuple[tuple[Frame, ...], str]:
    """Frames whose labels hold the ids of the classes of a network.

    Parameters
    ----------
    frames
        Whose labels hold what their files say.
    classes
        Of the network.
    reduce_labels
        Whether the network was trained on masks whose id k + 1 is channel k, and 0 is ignored.

    Returns
    -------
    frames : tuple of Frame
    remark : str
        In what way ids were mapped, for the user; empty if as they are.

    Raises
    ------
    FrameError
        If labels name classes that the network has not.

    Warns
    -----
    UserWarning
        If ids are taken for the network's although the names of classes do not say so.
    """
    by_channel = _by_channel(classes, reduce_labels)
    numberings: dict[tuple[str, ...], _Numbering] = {}
    remarks: dict[str, None] = {}
    done = []
    for frame in frames:
        label = frame.files.label
        if label is None:
            done.append(frame)
            continue
        conversion = label.conversion
        if frame.classes is not None:
            if frame.classes not in numberings:
                numberings[frame.classes] = _by_name(frame, classes, reduce_labels)
            numbering = numberings[frame.classes]
        else:
            numbering = by_channel if conversion.as_stored else _by_channel(classes)
        if numbering.ids is not None:
            remarks[numbering.remark] = None
            if conversion.as_stored:  # of as many ids as there may be
                conversion = replace(class_ids(len(numbering.ids)), colors=conversion.colors)
            conversion = conversion.then(numbering.ids, numbering.expected)
        if not conversion.colors and classes.colored:
            conversion = replace(conversion, colors=NamedClasses(classes.names, classes.colors).by_color)
        files = replace(frame.files, label=label._replace(conversion=conversion))
        done.append(replace(frame, files=files, classes=classes.names, colors=classes.colors))
    return tuple(done), "; ".join(filter(None, remarks))


@dataclass(frozen=True)
class _Numbering:
    """How ids of labels become ids of classes; `ids` None where they are."""

    ids: Mapping[int, int | None] | None
    expected: str = ""
    remark: str = ""


def _by_channel(classes: NetworkClasses, reduced: bool = False) -> _Numbering:
    """Ids of labels that are channels, or those plus 1."""
    ids, known = classes.by_channel, f"0..{classes.n_channels - 1}, the network's channels,"
    if reduced:
        return _Numbering(
            {0: None, **{channel + 1: id for channel, id in ids.items()}},
            f"1..{classes.n_channels}, the network's channels plus 1, or 0 (ignore)",
            "ids in masks are the network's classes plus 1, and 0 is ignored, as its files say",
        )
    left_out = [channel for channel, id in ids.items() if id is None]
    if not left_out:
        return _Numbering(None)
    return _Numbering(
        ids,
        f"{known} or 255 (ignore)",
        f"ids in masks are the network's channels; no class, and ignored: {', '.join(map(str, left_out))}",
    )


def _by_name(frame: Frame, classes: NetworkClasses, reduce_labels: bool) -> _Numbering:
    """Ids of labels whose classes have names."""
    assert frame.classes is not None
    names = [_folded(name) for name in frame.classes]
    own = [_folded(name) for name in classes.names]
    place: dict[str, int | None] = dict.fromkeys((*VOID_NAMES, *map(_folded, classes.left_out)))
    place |= {name: id for id, name in enumerate(own)}
    if names == own:
        return _Numbering(None)
    where, n = frame.label_path, len(names)
    if not classes.named:
        if n == classes.n_channels:
            return _by_channel(classes)
        if n > classes.n_channels:
            raise FrameError(
                f"{where}: labels are of {n} classes ({some('name', frame.classes)}), but the network tells "
                f"{len(own)} apart; {_REMEDY}"
            )
        warnings.warn(
            f"labels are of {n} classes, but the network has {classes.n_channels} channels that nobody named: ids are "
            "taken for channels; name these, or leave out those that are no class",
            stacklevel=4,
        )
        return _Numbering({id: classes.by_channel[id] for id in range(n)}, f"ids 0..{n - 1}")
    if reduce_labels and n == classes.n_channels + 1 and all(name in place for name in names[1:]):
        place.setdefault(names[0], None)
    unknown = [name for name, folded in zip(frame.classes, names, strict=True) if folded not in place]
    if not unknown:
        ids = {id: place[name] for id, name in enumerate(names)}
        if all(id == new for id, new in ids.items()):
            return _Numbering(None if n == len(own) else ids, f"ids 0..{n - 1}")
        return _Numbering(ids, f"ids 0..{n - 1}", "labels are mapped to the network's classes by their names")
    if n == len(own) and all(place.get(name, id) == id for id, name in enumerate(names)):
        pairs = [
            f"{a!r} / {b!r}" for a, b in zip(frame.classes, classes.names, strict=True) if _folded(a) != _folded(b)
        ]
        warnings.warn(
            f"labels and network have {n} classes each, of which {some('name', pairs)} differ: ids are taken to agree",
            stacklevel=4,
        )
        return _Numbering(None)
    raise FrameError(
        f"{where}: labels are of {n} classes, of which the network has none called {', '.join(map(repr, unknown))}; it "
        f"tells {len(own)} apart: {', '.join(classes.names)}; {_REMEDY}"
    )


def _folded(name: str) -> str:
    """A name of a class whatever its case, spaces and Unicode form."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
