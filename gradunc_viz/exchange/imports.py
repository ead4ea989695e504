"""Score maps that come from others and go to others: import into a cache, export for a benchmark.

Import: a folder of maps beside a folder of frames becomes an ordinary cache, so that any method stands in the same
tables and the same dashboard. Export: the form in which the SegmentMeIfYouCan benchmark takes submissions.

Both need to know how the values of a whole set are spread, without holding the set in memory: a fixed number of its
pixels is drawn, and whatever is chosen from them (edges of bins, levels of float16) is fixed for all frames. It only
decides how finely values are told apart, never their order.
"""

from __future__ import annotations

import base64
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets.decoding import _decode_mask
from ..datasets.frames import Frame, Frames
from ..kernels.resize import bilinear
from ..run.assemble import frame_dataset
from ..run.decode import decode
from ..run.report import Report
from ..schema.errors import CacheMismatchError, FrameError, GraduncError
from ..schema.frame import SCHEMA_VERSION
from ..schema.scores import lookup
from ..scores.maps import ScoredImage, ScoreOptions
from ..store.backend import backend_of
from ..store.cache import Cache, open_cache
from ..store.progress import tracked
from ..store.writer import CacheWriter
from ..style.palette import class_colors
from .map_files import ScoreMaps, _file_digest
from .spread import _bin_edges, _sample, _spread

__all__ = ["MapReport", "compute_maps", "compute_maps_report"]

# --------------------------------------------------------------------------------------------------------------------
# files of maps


# --------------------------------------------------------------------------------------------------------------------
# how the values of a set are spread


# --------------------------------------------------------------------------------------------------------------------
# export


# --------------------------------------------------------------------------------------------------------------------
# import


@dataclass
class MapReport(Report):
    """What a run of `compute_maps` did.

    Attributes
    ----------
    resized : list of str
        Ids of the frames whose map was not of the image's size.
    """

    resized: list[str] = field(default_factory=list)


def compute_maps(
    maps_dir: str | os.PathLike[str], frames: Frames | Sequence[Frame], out: str | os.PathLike[str], **options: Any
) -> Cache:
    """Make a cache of score maps that others computed, so that any method stands in the same tables.

    Parameters
    ----------
    maps_dir : path-like
        Folder of maps, one per frame: see `ScoreMaps`.
    frames : Frames
        See `open_frames`.
    out : path-like
        Folder of the cache; absent, empty, or a cache of the same settings, which is resumed.
    **options
        See `compute_maps_report`.

    Returns
    -------
    Cache
        With one score, ``ext:NAME``. Without a folder of predictions it has no task ``error`` and one class, ``all``.

    Raises
    ------
    GraduncError
        One of its kinds, naming the file or value; frames finished before it stay in the cache.

    Warns
    -----
    UserWarning
        Listing the frames left out under ``on_error="skip"``.
    """
    report = compute_maps_report(maps_dir, frames, out, **options)
    if report.skipped:
        listed = "; ".join(message for _, message in report.skipped[:5])
        warnings.warn(f"{len(report.skipped)} frames were skipped: {listed}", stacklevel=2)
    return open_cache(out)


def compute_maps_report(
    maps_dir: str | os.PathLike[str],
    frames: Frames | Sequence[Frame],
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    orientation: int = +1,
    predictions: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    on_error: str = "stop",
    limit: int | None = None,
    images: bool = True,
    progress: bool = True,
) -> MapReport:
    """`compute_maps`, returning what was done instead of the cache.

    Maps of another size are resized to the image (bilinear, pixel centres aligned) and keep float32 precision. The
    edges of the bins that evaluation counts are quantiles of the maps found when the cache is made; frames added later
    are counted in the same bins.

    Parameters
    ----------
    name : str, optional
        The score is called ``ext:NAME``; by default the name of the folder.
    orientation : +1 or -1
        -1 where small values mean uncertain: the sign is turned on import.
    predictions : path-like, optional
        Folder of ``<frame id>.png``, class ids at image size.
    classes, colors : optional
        Names and RGB colours of the classes of predictions; by default those the frames know.
    on_error : "stop" or "skip"
        Whether a frame without map, or one that cannot be read, ends the run or is left out and reported.
    limit : int, optional
        Only the first so many frames.
    images : bool
        Whether the encoded images are copied into the cache.
    progress : bool
        Whether a progress bar is shown.

    Raises
    ------
    FrameError, NonFiniteError
        Naming the file: a map is missing, unreadable, not two-dimensional, not of numbers, or not finite; a folder is
        empty.
    CacheMismatchError
        If `out` was made from other maps, frames or settings.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error is {on_error!r}; expected 'stop' or 'skip'")
    if orientation not in (-1, 1):
        raise ValueError(f"orientation is {orientation!r}; expected +1 or -1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected 1 or more")
    maps = ScoreMaps(maps_dir)
    entry = lookup(f"ext:{_plain(maps.path.resolve().name) if name is None else name}")
    chosen = list(frames)[:limit]
    known, palette = _map_classes(predictions is not None, frames, classes, colors)
    given = [frame.id for frame in chosen if frame.id in maps]
    if chosen and not given:
        raise FrameError(
            f"{maps.path}: no map belongs to a frame: the first map is {next(iter(maps))!r}, "
            f"the first frame {chosen[0].id!r}"
        )
    source = _Source(maps, orientation, Path(predictions) if predictions is not None else None, known)
    report = MapReport(device="cpu")

    def failed(frame_id: str, error: GraduncError) -> None:
        if on_error == "stop":
            raise error
        report.skipped.append((frame_id, str(error)))

    edges = _stored_edges(Path(out))
    if edges is None:
        edges = _bin_edges(_sample_maps(source, _spread(given), on_error == "stop", progress))
    settings: dict[str, Any] = {
        "scores": [entry.name],
        "orientation": orientation,
        "predictions": predictions is not None,
        "images": images,
        "input_size": None,
        "edges": base64.b64encode(edges.astype("<f4").tobytes()).decode(),
    }
    network = {"name": entry.title, "weights": "imported maps", "head": "none", "classes": list(known)}
    key = {
        "schema_version": SCHEMA_VERSION,
        "network": network,
        "settings": settings,
        "frames": {"layout": getattr(frames, "layout", None)},
    }
    tensor = {entry.name: torch.from_numpy(edges)}
    options = ScoreOptions((entry.name,))
    started = time.perf_counter()
    with CacheWriter(out, key, known, palette) as writer:
        for frame in tracked(chosen, "importing maps", shown=progress):
            if source.predictions is None:  # without a prediction no pixel is right or wrong
                frame = replace(frame, files=replace(frame.files, label=None))
            try:
                digest = source.digest(frame)
                if frame.id in writer.existing:
                    if digest != writer.frame_digest(frame.id):
                        raise CacheMismatchError(
                            f"{writer.path}: frame {frame.id!r} was imported from other content than "
                            f"{maps.files[frame.id]} and its frame have now; choose another --out, or remove this "
                            "frame's folder"
                        )
                    report.existing.append(frame.id)
                    continue
                decoded = replace(decode(frame, len(known), images), digest=digest)
                scored, size = source.read(frame, decoded.size)
            except CacheMismatchError:
                raise
            except GraduncError as error:
                failed(frame.id, error)
                continue
            attrs = {"network": entry.title, "map_size": list(size)}
            new = writer.commit(frame_dataset(decoded, scored, options, known, attrs, tensor))
            (report.computed if new else report.existing).append(frame.id)
            if new and size != decoded.size:
                report.resized.append(frame.id)
    report.seconds = time.perf_counter() - started
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


def _plain(folder: str) -> str:
    """A folder's name as the name of a score."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", folder).lstrip("_.+-")[:64] or "maps"


def _map_classes(
    predicted: bool,
    frames: Frames | Sequence[Frame],
    classes: Sequence[str] | None,
    colors: Sequence[tuple[int, int, int]] | None,
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    if not predicted:
        return ("all",), ((128, 128, 128),)
    names = tuple(classes or getattr(frames, "classes", None) or ())
    if not names:
        raise GraduncError("the classes of the predictions are unknown; name them with --classes")
    own = colors or (getattr(frames, "colors", None) if not classes else None)
    if own and len(own) == len(names):
        return names, tuple(own)
    return names, tuple(class_colors(len(names)))


def _stored_edges(out: Path) -> np.ndarray | None:
    """Edges of a cache that is to be resumed: any edges are right, as long as all frames share them."""
    if not backend_of(out).is_cache():
        return None
    stored = open_cache(out).key.get("settings", {}).get("edges")
    return None if stored is None else np.frombuffer(base64.b64decode(stored), "<f4").astype("f4")


def _sample_maps(source: _Source, ids: Sequence[str], strict: bool, progress: bool) -> np.ndarray:
    def readable() -> Iterator[np.ndarray]:
        last: GraduncError | None = None
        some = False
        for frame_id in tracked(ids, "looking at maps", unit="map", shown=progress):
            try:
                values = source.oriented(frame_id)
            except GraduncError as error:
                if strict:
                    raise
                last = error  # reported when its turn comes
                continue
            some = True
            yield values
        if last is not None and not some:
            raise last

    return _sample(readable(), len(ids))


@dataclass(frozen=True)
class _Source:
    """Where the maps and predictions of a frame come from."""

    maps: ScoreMaps
    orientation: int
    predictions: Path | None
    classes: tuple[str, ...]

    def oriented(self, frame_id: str) -> np.ndarray:
        values = self.maps[frame_id]
        return values if self.orientation > 0 else -values

    def prediction_path(self, frame: Frame) -> Path | None:
        return None if self.predictions is None else self.predictions / f"{frame.id}.png"

    def digest(self, frame: Frame) -> str:
        """Content hash of the frame, its map and its prediction."""
        if frame.id not in self.maps:
            raise FrameError(
                f"{self.maps.path}: no map of frame {frame.id!r} ({frame.image_path}); expected {frame.id}.npy, "
                ".npz, .hdf5, .h5, .tif or .tiff"
            )
        parts = [frame.digest(), self.maps.digest(frame.id)]
        path = self.prediction_path(frame)
        if path is not None:
            parts.append(_file_digest(path))
        return blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()

    def read(self, frame: Frame, size: tuple[int, int]) -> tuple[ScoredImage, tuple[int, int]]:
        """Map and prediction of a frame as if a network had given them, and the size of the stored map."""
        values = self.oriented(frame.id)
        stored = values.shape[0], values.shape[1]
        if (stored[0] - stored[1]) * (size[0] - size[1]) < 0:
            raise FrameError(
                f"{self.maps.files[frame.id]}: map is {stored[0]} x {stored[1]} (height x width), "
                f"but {frame.image_path.name} is {size[0]} x {size[1]}; is it transposed?"
            )
        pixel = torch.from_numpy(values if stored == size else bilinear(values, size))[None]
        prediction = np.zeros(size, "i8")
        path = self.prediction_path(frame)
        if path is not None:
            ids = _decode_mask(path, True)
            if ids.shape != size:
                raise FrameError(f"{path}: prediction is {ids.shape}, expected {size} as {frame.image_path.name} is")
            if ids.max() >= len(self.classes):
                raise FrameError(f"{path}: holds class id {ids.max()}, expected 0..{len(self.classes) - 1}")
            prediction = ids.astype("i8")
        scored = ScoredImage(
            logits=None,
            norms=torch.empty(0),
            prediction=torch.from_numpy(prediction),
            pixel=pixel,
            oriented=pixel.float(),
            confidence=None,
            brier=None,
            nll=None,
        )
        return scored, stored
