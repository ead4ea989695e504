"""Score maps that others computed, made into a cache: folders of maps beside a folder of frames.

So any method stands in the same tables and the same dashboard; several are scores of one cache, imported together or
one after the other. How the values of a whole set are spread has to be known without holding the set in memory: a fixed
number of its pixels is drawn, and the edges of bins chosen from them are fixed for all frames. They only decide how
finely values are told apart, never their order.

A score is added frame by frame: each is written anew whole, with the maps that it has, and takes the place of the old
one. The root names the score once all frames hold it, so that an import that was killed is resumed by the same call.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ..datasets.frames import Frame, Frames
from ..run.classes import ClassTable, frame_classes
from ..run.compute import finished_cache
from ..run.pipeline import Pipeline, chosen_frames, ids_of_set
from ..run.report import Report
from ..run.settings import RunChanges, RunSettings, changed
from ..schema.errors import CacheError, CacheMismatchError, FrameError, GraduncError, SettingsError, UnknownScoreError
from ..schema.scores import lookup
from ..store.backend import Place, backend_of
from ..store.cache import Cache, open_cache
from ..store.upgrade import upgrade_cache
from ..store.writer import CacheWriter
from ..style.palette import class_colors
from .map_files import MapFiles
from .map_source import ImportedMaps
from .spread import spread_evenly

__all__ = ["ImportChanges", "ImportReport", "ImportSettings", "Maps", "import_maps", "import_maps_report"]


class ImportChanges(RunChanges, total=False):
    """Fields of `ImportSettings` as keywords."""

    name: str | None
    orientation: int
    predictions: str | os.PathLike[str] | None


@dataclass(frozen=True, kw_only=True)
class ImportSettings(RunSettings):
    """What an import of maps is asked for.

    Attributes
    ----------
    name : str, optional
        The score of a single folder is called ``ext:NAME``; by default the name of the folder.
    orientation : +1 or -1
        -1 where small values mean uncertain: the sign is turned on import.
    predictions : path, optional
        Folder of ``<frame id>.png``, class ids at image size.
    classes, colors : tuple, optional
        Names and RGB colours of the classes of predictions; by default those the frames know.
    on_error : "stop" or "skip"
        Whether a frame without map, or one that cannot be read, ends the run or is left out and reported.
    limit, images
        As in `gradunc_viz.run.settings.RunSettings`.

    Raises
    ------
    SettingsError
        If a value makes no sense; the text names it and what was expected.
    UnknownScoreError
        If a score cannot have that name.
    """

    name: str | None = None
    orientation: int = +1
    predictions: Path | None = None

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(self, **values: Unpack[ImportChanges]) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orientation not in (-1, 1):
            raise SettingsError(f"orientation is {self.orientation!r}; expected +1 or -1")
        if self.name is not None:
            _score(self.name)
        self._set(predictions=None if self.predictions is None else Path(self.predictions).absolute())


@dataclass
class ImportReport(Report):
    """What a run of `import_maps` did.

    Attributes
    ----------
    resized : list of str
        Ids of the frames of which a map was not of the image's size.
    unused : list of str
        Files of maps that belong to no frame of the whole set, as far as that is known.
    scores : tuple of str
        Names of the scores that were imported.
    """

    resized: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    scores: tuple[str, ...] = ()


Maps = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, str | os.PathLike[str]]
"""A folder of maps, several, or a mapping from names of scores (without ``ext:``) to folders."""


def import_maps(
    maps_dir: Maps,
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: ImportSettings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[ImportChanges],
) -> Cache:
    """Make a cache of score maps that others computed, so that any method stands in the same tables.

    Maps of another size are resized to the image (bilinear, pixel centres aligned). Numbers keep their precision: a map
    is stored in float64 where float32 would not hold all of them. The edges of the bins that evaluation counts are
    quantiles of the maps found when a score is imported; frames added later are counted in the same bins.

    Parameters
    ----------
    maps_dir : path-like, sequence of these, or mapping from names to these
        Folder of maps, one per frame: see `MapFiles`. Of several folders each becomes a score of the cache.
    frames : Frames, iterable of Frame, or Frame
        See `open_frames`. They need no masks to be looked at.
    out : path-like
        Folder of the cache; absent, empty, or a cache of imported maps of the same frames, to which scores that it
        lacks are added.
    settings : ImportSettings, optional
        What is asked for.
    progress : bool
        Whether a progress bar is shown.
    **changes
        Fields of `ImportSettings`, in place of those of `settings`.

    Returns
    -------
    Cache
        With a score ``ext:NAME`` for each folder. Without a folder of predictions it has no task ``error`` and one
        class, ``all``.

    Raises
    ------
    FrameError, NonFiniteError
        Naming the file: a map is missing, unreadable, not two-dimensional, not of numbers, or not finite; a folder is
        empty.
    CacheMismatchError
        If `out` was made from other maps, frames or settings.
    GraduncError
        Another of its kinds; frames finished before it stay in the cache.

    Warns
    -----
    UserWarning
        Listing the frames left out under ``on_error="skip"``.
    """
    place = backend_of(out)
    report = import_maps_report(maps_dir, frames, place, settings, progress=progress, **changes)
    return finished_cache(report, place)


def import_maps_report(
    maps_dir: Maps,
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: ImportSettings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[ImportChanges],
) -> ImportReport:
    """`import_maps`, returning what was done instead of the cache."""
    settings = changed(settings or ImportSettings(), changes)
    maps = _named(maps_dir, settings.name)
    chosen = chosen_frames(frames, settings.limit)
    given = {score: [frame.id for frame in chosen if frame.id in files] for score, files in maps.items()}
    for score, ids in given.items():
        if chosen and not ids:
            raise FrameError(
                f"{maps[score].path}: no map belongs to a frame: the first map is {next(iter(maps[score]))!r}, "
                f"the first frame {chosen[0].id!r}"
            )
    cached = _imported_cache(out)
    classes, colors = _class_table(chosen, settings, cached)
    report = ImportReport(device="cpu", scores=tuple(maps))
    known = ids_of_set(frames, chosen, settings.limit)
    for files in maps.values():
        report.unused += [] if known is None else map(str, files.unused(known))
    source = ImportedMaps(maps, settings, classes, report.stages, cached)
    if not source.with_predictions:  # without a prediction no pixel is right or wrong
        chosen = tuple(replace(frame, files=replace(frame.files, label=None)) for frame in chosen)
    _check_complete(source, chosen, given)
    for score, ids in given.items():
        source.find_edges(score, spread_evenly(ids), progress)
    adds = cached is not None and bool(source.new)
    with CacheWriter(out, source.stored_key(), classes, colors) as writer:
        if adds:
            writer.put_key(source.key(source.old))  # with the edges, should this end before all frames hold the score
            writer.renew(source.lacking())
        Pipeline(source, report, settings.on_error).run(chosen, writer, progress)
        if adds:
            _check_added(source, report)
            writer.put_key(source.key(source.scores))
    report.resized = [frame_id for frame_id in report.computed if frame_id in source.resized]
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


def _named(maps: Maps, name: str | None) -> dict[str, MapFiles]:
    """Folders of maps by the name of their score."""
    given = list(maps.values()) if isinstance(maps, Mapping) else maps
    listed = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if other := [one for one in listed if not isinstance(one, (str, os.PathLike))]:
        raise SettingsError(f"{other[0]!r} is no path; expected folders of maps")
    if isinstance(maps, Mapping):
        folders = {_score(own): Path(folder) for own, folder in maps.items()}
    else:
        paths = [Path(maps)] if isinstance(maps, (str, os.PathLike)) else [Path(folder) for folder in maps]
        names = [_plain(path.resolve().name) for path in paths]
        folders = {}
        for own, path in zip(names, paths, strict=True):
            if name is not None and len(paths) == 1:
                own = name
            elif names.count(own) > 1:  # METHOD/maps of several methods
                own = _plain(f"{path.resolve().parent.name}_{path.resolve().name}")
            if f"ext:{own}" in folders:
                raise SettingsError(f"{folders[f'ext:{own}']} and {path}: both would be score ext:{own}; name them")
            folders[_score(own)] = path
    if not folders:
        raise SettingsError("no folder of maps was given; expected at least one")
    if name is not None and (len(folders) > 1 or isinstance(maps, Mapping)):
        raise SettingsError(f"name is {name!r} for {len(folders)} folders; give a mapping from names to folders")
    return {own: MapFiles(folder) for own, folder in folders.items()}


def _score(name: str) -> str:
    """Name of the score of maps that are called so.

    Raises
    ------
    UnknownScoreError
        If they cannot be called so.
    """
    try:
        return lookup(f"ext:{name}").name
    except UnknownScoreError:
        raise UnknownScoreError(
            f"maps cannot be called {name!r}; expected 1 to 64 letters of the alphabet, digits, '_', '.', '+' and '-', "
            "the first a letter or a digit"
        ) from None


def _plain(folder: str) -> str:
    """A folder's name as the name of a score."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", folder).lstrip("_.+-")[:64] or "maps"


def _imported_cache(out: Place) -> Cache | None:
    """The cache of imported maps that is to be resumed, or gets further scores."""
    if not backend_of(out).is_cache():
        return None
    cache = open_cache(out)
    if not len(cache):  # nobody waits for it: the writer takes it over
        return None
    edges = cache.key.get("settings", {}).get("edges")
    if edges is None:
        raise CacheMismatchError(
            f"{cache.path}: was computed by a network ({cache.key['network']['name']}); maps of others go into a cache "
            "of their own, choose another folder"
        )
    if isinstance(edges, str):  # as caches of a single score were written
        upgrade_cache(out)
        cache = cache.reopened()
    return cache


def _class_table(frames: Sequence[Frame], settings: ImportSettings, cached: Cache | None) -> ClassTable:
    if settings.predictions is None:
        return (("all",), ((128, 128, 128),)) if cached is None else (cached.classes, cached.colors)
    known, own = frame_classes(frames)
    names = settings.classes or known or (() if cached is None else cached.classes)
    if not names:
        raise GraduncError("the classes of the predictions are unknown; name them with --classes")
    colors = settings.colors or (own if not settings.classes else ())
    return names, colors if len(colors) == len(names) else tuple(class_colors(len(names)))


def _check_complete(source: ImportedMaps, frames: Sequence[Frame], given: Mapping[str, Sequence[str]]) -> None:
    """A score is added to all frames of a cache or to none.

    Raises
    ------
    FrameError
        Naming a frame of the cache that would lack it.
    """
    chosen = {frame.id for frame in frames}
    for score in source.new if source.held else ():
        for frame_id in source.held:
            if frame_id not in given[score]:
                lack = "there is no map of it" if frame_id in chosen else "it is not among the frames"
                raise FrameError(
                    f"{source.maps[score].path}: the cache holds frame {frame_id!r}, but {lack}; {score} is added to "
                    f"all {len(source.held)} frames of the cache or to none"
                )


def _check_added(source: ImportedMaps, report: ImportReport) -> None:
    """All frames of the cache hold the new scores.

    Raises
    ------
    CacheError
        If some were left out; what is there is as it was.
    """
    assert source.cached is not None  # scores are added to it
    now = ImportedMaps(source.maps, source.settings, source.classes, source.stages, source.cached.reopened())
    lacking = now.lacking()
    if lacking:
        reasons = dict(report.skipped)
        raise CacheError(
            f"{source.cached.path}: {', '.join(source.new)} cannot be added, as {len(lacking)} frames lack it, such as "
            f"{lacking[0]!r} ({reasons.get(lacking[0], 'it was written by another import')}); "
            "its other scores are as they were"
        )
