"""Score maps that others computed, made into a cache: a folder of maps beside a folder of frames.

So any method stands in the same tables and the same dashboard. How the values of a whole set are spread has to be
known without holding the set in memory: a fixed number of its pixels is drawn, and the edges of bins chosen from them
are fixed for all frames. They only decide how finely values are told apart, never their order.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch

from ..datasets.decoding import read_mask
from ..datasets.frames import Frame, Frames
from ..kernels.resize import bilinear
from ..run.classes import ClassTable, frame_classes
from ..run.compute import finished_cache
from ..run.decode import DecodedFrame, decode
from ..run.pipeline import LeftOut, Pipeline, Scored, chosen_frames
from ..run.report import Report
from ..run.settings import DECIDES, RunChanges, RunSettings, changed, decisive
from ..run.stages import Stages
from ..schema.errors import FrameError, GraduncError, SettingsError
from ..schema.frame import SCHEMA_VERSION
from ..schema.scores import Score, lookup
from ..scores.maps import ScoredImage, ScoreOptions
from ..store.backend import Place, backend_of
from ..store.cache import Cache, open_cache
from ..store.progress import tracked
from ..store.writer import CacheWriter
from ..style.palette import class_colors
from .map_files import MapFiles, file_digest
from .spread import bin_edges, sample_pixels, spread_evenly

__all__ = ["ImportChanges", "ImportReport", "ImportSettings", "ImportedMaps", "import_maps", "import_maps_report"]


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
        The score is called ``ext:NAME``; by default the name of the folder.
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
    orientation: int = field(default=+1, metadata=DECIDES)
    predictions: Path | None = None

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(self, **values: Unpack[ImportChanges]) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orientation not in (-1, 1):
            raise SettingsError(f"orientation is {self.orientation!r}; expected +1 or -1")
        if self.name is not None:
            lookup(f"ext:{self.name}")
        self._set(predictions=None if self.predictions is None else Path(self.predictions).absolute())


@dataclass
class ImportReport(Report):
    """What a run of `import_maps` did.

    Attributes
    ----------
    resized : list of str
        Ids of the frames whose map was not of the image's size.
    """

    resized: list[str] = field(default_factory=list)


def import_maps(
    maps_dir: str | os.PathLike[str],
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: ImportSettings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[ImportChanges],
) -> Cache:
    """Make a cache of score maps that others computed, so that any method stands in the same tables.

    Maps of another size are resized to the image (bilinear, pixel centres aligned) and keep float32 precision. The
    edges of the bins that evaluation counts are quantiles of the maps found when the cache is made; frames added later
    are counted in the same bins.

    Parameters
    ----------
    maps_dir : path-like
        Folder of maps, one per frame: see `MapFiles`.
    frames : Frames, iterable of Frame, or Frame
        See `open_frames`.
    out : path-like
        Folder of the cache; absent, empty, or a cache of the same settings, which is resumed.
    settings : ImportSettings, optional
        What is asked for.
    progress : bool
        Whether a progress bar is shown.
    **changes
        Fields of `ImportSettings`, in place of those of `settings`.

    Returns
    -------
    Cache
        With one score, ``ext:NAME``. Without a folder of predictions it has no task ``error`` and one class, ``all``.

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
    maps_dir: str | os.PathLike[str],
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: ImportSettings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[ImportChanges],
) -> ImportReport:
    """`import_maps`, returning what was done instead of the cache."""
    settings = changed(settings or ImportSettings(), changes)
    maps = MapFiles(maps_dir)
    chosen = chosen_frames(frames, settings.limit)
    if settings.predictions is None:  # without a prediction no pixel is right or wrong
        chosen = tuple(replace(frame, files=replace(frame.files, label=None)) for frame in chosen)
    given = [frame.id for frame in chosen if frame.id in maps]
    if chosen and not given:
        raise FrameError(
            f"{maps.path}: no map belongs to a frame: the first map is {next(iter(maps))!r}, "
            f"the first frame {chosen[0].id!r}"
        )
    classes, colors = _class_table(chosen, settings)
    report = ImportReport(device="cpu")
    entry = lookup(f"ext:{_plain(maps.path.resolve().name) if settings.name is None else settings.name}")
    source = ImportedMaps(maps, settings, entry, classes, report.stages)
    edges = _stored_edges(out)
    source.edges = source.find_edges(spread_evenly(given), progress) if edges is None else edges
    with CacheWriter(out, source.key(), classes, colors) as writer:
        Pipeline(source, report, settings.on_error).run(chosen, writer, progress)
    report.resized = [frame_id for frame_id in report.computed if frame_id in source.resized]
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


def _plain(folder: str) -> str:
    """A folder's name as the name of a score."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", folder).lstrip("_.+-")[:64] or "maps"


def _class_table(frames: Sequence[Frame], settings: ImportSettings) -> ClassTable:
    if settings.predictions is None:
        return ("all",), ((128, 128, 128),)
    known, own = frame_classes(frames)
    names = settings.classes or known
    if not names:
        raise GraduncError("the classes of the predictions are unknown; name them with --classes")
    colors = settings.colors or (own if not settings.classes else ())
    return names, colors if len(colors) == len(names) else tuple(class_colors(len(names)))


def _stored_edges(out: Place) -> np.ndarray | None:
    """Edges of a cache that is to be resumed: any edges are right, as long as all frames share them."""
    if not backend_of(out).is_cache() or not len(open_cache(out)):
        return None
    stored = open_cache(out).key.get("settings", {}).get("edges")
    return None if stored is None else np.frombuffer(base64.b64decode(stored), "<f4").astype("f4")


@dataclass
class ImportedMaps:
    """Frames with maps and predictions from files; a `gradunc_viz.run.pipeline.MapSource`.

    Parameters
    ----------
    maps : MapFiles
    settings : ImportSettings
    entry : Score
        What the maps are called.
    classes : tuple of str
    stages : Stages
        Told what takes how long.

    Attributes
    ----------
    edges : float32 array
        Edges of the bins that all frames are counted in.
    resized : set of str
        Ids of the frames whose map was not of the image's size.
    """

    maps: MapFiles
    settings: ImportSettings
    entry: Score
    classes: tuple[str, ...]
    stages: Stages
    edges: np.ndarray = field(default_factory=lambda: np.empty(0, "f4"), repr=False)
    resized: set[str] = field(default_factory=set, repr=False)

    device = torch.device("cpu")
    ahead = 2
    what = "importing maps"

    def key(self) -> dict[str, Any]:
        """State what decides whether a cached frame may be reused."""
        return {
            "schema_version": SCHEMA_VERSION,
            "network": {
                "name": self.entry.title,
                "weights": "imported maps",
                "head": "none",
                "classes": list(self.classes),
            },
            "settings": {
                **decisive(self.settings),
                "scores": [self.entry.name],
                "predictions": self.settings.predictions is not None,
                "input_size": None,
                "edges": base64.b64encode(self.edges.astype("<f4").tobytes()).decode(),
            },
        }

    def find_edges(self, ids: Sequence[str], progress: bool) -> np.ndarray:
        """Edges of bins from the maps of some frames."""

        def readable() -> Iterator[np.ndarray]:
            last: GraduncError | None = None
            some = False
            for frame_id in tracked(ids, "looking at maps", unit="map", shown=progress):
                try:
                    values = self.oriented(frame_id)
                except GraduncError as error:
                    if self.settings.on_error == "stop":
                        raise
                    last = error  # reported when its turn comes
                    continue
                some = True
                yield values
            if last is not None and not some:
                raise last

        return bin_edges(sample_pixels(readable(), len(ids)))

    def oriented(self, frame_id: str) -> np.ndarray:
        """The stored map, larger is more uncertain."""
        values = self.maps[frame_id]
        return values if self.settings.orientation > 0 else -values

    def digest(self, frame: Frame) -> str:
        """Content hash of the frame, its map and its prediction."""
        if frame.id not in self.maps:
            raise FrameError(
                f"{self.maps.path}: no map of frame {frame.id!r} ({frame.image_path}); expected {frame.id}.npy, "
                ".npz, .hdf5, .h5, .tif or .tiff"
            )
        parts = [frame.digest(), self.maps.digest(frame.id)]
        path = self._prediction_path(frame)
        if path is not None:
            parts.append(file_digest(path))
        return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def files(self, frame: Frame) -> str:
        """Name what the frame is made of."""
        return f"{self.maps.files[frame.id]} and its frame"

    def read(self, frame: Frame) -> Scored | LeftOut:
        """Read a frame and its map."""
        try:
            digest = self.digest(frame)
            with self.stages("decode"):
                decoded = replace(decode(frame, len(self.classes), self.settings.images), digest=digest)
                return self._scored(frame, decoded)
        except GraduncError as error:
            return LeftOut(frame.id, error)

    def scored(self, ready: Iterator[Scored | LeftOut]) -> Iterator[Scored | LeftOut]:
        """Hand on what was read: the maps are there already."""
        return ready

    def _prediction_path(self, frame: Frame) -> Path | None:
        return None if self.settings.predictions is None else self.settings.predictions / f"{frame.id}.png"

    def _scored(self, frame: Frame, decoded: DecodedFrame) -> Scored:
        """Map and prediction of a frame as if a network had given them."""
        values, size = self.oriented(frame.id), decoded.size
        stored = values.shape[0], values.shape[1]
        if (stored[0] - stored[1]) * (size[0] - size[1]) < 0:
            raise FrameError(
                f"{self.maps.files[frame.id]}: map is {stored[0]} x {stored[1]} (height x width), "
                f"but {frame.image_path.name} is {size[0]} x {size[1]}; is it transposed?"
            )
        if stored != size:
            self.resized.add(frame.id)
        pixel = torch.from_numpy(values if stored == size else bilinear(values, size))[None]
        prediction = torch.from_numpy(self._prediction(frame, size))
        maps = ScoredImage(prediction, oriented=pixel.float(), pixel=pixel)
        attrs = {"network": self.entry.title, "map_size": list(stored)}
        edges = {self.entry.name: torch.from_numpy(self.edges)}
        return Scored(decoded, maps, ScoreOptions((self.entry.name,)), attrs, edges)

    def _prediction(self, frame: Frame, size: tuple[int, int]) -> np.ndarray:
        path = self._prediction_path(frame)
        if path is None:
            return np.zeros(size, "i8")
        ids = read_mask(path, True)
        if ids.shape != size:
            raise FrameError(f"{path}: prediction is {ids.shape}, expected {size} as {frame.image_path.name} is")
        if ids.max() >= len(self.classes):
            raise FrameError(f"{path}: holds class id {ids.max()}, expected 0..{len(self.classes) - 1}")
        return ids.astype("i8")
