"""Score maps that come from others and go to others: import into a cache, export for a benchmark.

Import: a folder of maps beside a folder of frames becomes an ordinary cache, so that any method stands in the same
tables and the same dashboard. Export: the form in which the SegmentMeIfYouCan benchmark takes submissions.

Both need to know how the values of a whole set are spread, without holding the set in memory: a fixed number of its
pixels is drawn, and whatever is chosen from them (edges of bins, levels of float16) is fixed for all frames. It only
decides how finely values are told apart, never their order.
"""

from __future__ import annotations

import base64
import math
import os
import re
import time
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .datasets.decoding import _decode_mask, _opened
from .datasets.frames import Frame, Frames
from .kernels.resize import bilinear
from .run.assemble import frame_dataset
from .run.decode import decode
from .run.report import Report
from .schema.errors import CacheError, CacheMismatchError, FrameError, GraduncError, NonFiniteError
from .schema.frame import SCHEMA_VERSION
from .schema.scores import score_entry
from .scores.maps import ScoredImage, ScoreOptions
from .store.cache import Cache, open_cache
from .store.frame import score
from .store.writer import CacheWriter
from .style.palette import class_colors

__all__ = ["MapReport", "ScoreMaps", "compute_maps", "compute_maps_report", "read_submission", "write_submission"]

_PRODUCER = "gradunc-viz submission"

_SAMPLE = 2**21  # pixels drawn from a set: 8 MB, and some hundred of them in the uppermost 1e-4
_SAMPLE_FRAMES = 1024  # frames they are drawn from at most
_BINS = 2**14  # no bin of the middle holds more than 1.1e-4 of the pixels, which bounds the error of FPR95

_MAX_PIXELS = 2**28  # no map of an image is larger; a damaged or malicious header may well say so


# --------------------------------------------------------------------------------------------------------------------
# files of maps


class ScoreMaps(Mapping[str, np.ndarray]):
    """A folder of score maps as a lazy mapping from frame id to map, (y, x).

    A map's file is named by exactly the frame's id: ``<id>.npy``, ``<id>.npz`` (one array, or one called ``value`` or
    ``arr_0``), ``<id>.hdf5`` / ``.h5`` (one data set, or one called ``value``), ``<id>.tif`` / ``.tiff`` (one channel).
    Axes of length 1 in front of or behind (y, x) are dropped. Nothing is ever unpickled.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    FrameError
        If the folder is missing or holds no map, or two files are of one id.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        self.files: dict[str, Path] = {}
        if not self.path.is_dir():
            raise FrameError(f"{self.path}: no such folder; expected a folder of score maps")
        for file in sorted(self.path.iterdir()):
            if file.suffix.lower() not in _READERS or file.name.startswith(".") or not file.is_file():
                continue
            if file.stem in self.files:
                raise FrameError(f"{self.files[file.stem]} and {file}: both are the map of {file.stem!r}, expected one")
            self.files[file.stem] = file
        if not self.files:
            raise FrameError(f"{self.path}: holds no score map; expected <frame id> with {', '.join(_READERS)}")

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, frame_id: object) -> bool:
        return frame_id in self.files

    def __getitem__(self, frame_id: str) -> np.ndarray:
        """Read one map: (y, x), float16 as stored or else float32.

        Raises
        ------
        KeyError
            If there is none of this id.
        FrameError
            If the file cannot be read or holds anything but one map of numbers that float32 can tell apart.
        NonFiniteError
            If it holds NaN or infinity.
        """
        return _read_map(self.files[frame_id])

    def __repr__(self) -> str:
        return f"<ScoreMaps {str(self.path)!r}, {len(self)} maps>"

    def digest(self, frame_id: str) -> str:
        """Hash of the file's content."""
        return _file_digest(self.files[frame_id])


def _read_map(path: Path) -> np.ndarray:
    try:
        values = _READERS[path.suffix.lower()](path)
    except (GraduncError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes readers raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrameError(f"{path}: cannot be read as a score map ({reason})") from error
    if values.dtype.kind not in "fiu":
        raise FrameError(f"{path}: holds {values.dtype}, expected real numbers, float16 to float64 or integers")
    shape = values.shape
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or 0 in values.shape:
        raise FrameError(f"{path}: has shape {shape}, expected one map (height, width)")
    if values.dtype.kind in "iu" and max(-int(values.min()), int(values.max())) > 2**24:
        raise FrameError(f"{path}: integers beyond 2^24 cannot be told apart in float32, expected floats")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(values, "f2" if values.dtype == np.float16 else "f4")
    bad = int(converted.size - np.isfinite(converted).sum())
    if bad:
        what = "NaN, infinite" + (" or beyond the range of float32" if values.dtype.itemsize > 4 else "")
        raise NonFiniteError(f"{path}: {bad} of {converted.size} values are {what}; expected finite numbers")
    return converted


def _check_shape(path: Path, shape: Sequence[int]) -> None:
    if math.prod(shape) > _MAX_PIXELS:
        raise FrameError(f"{path}: has shape {tuple(shape)}, more than {_MAX_PIXELS} values; expected one map")


def _read_npy(path: Path) -> np.ndarray:
    # mapped, so that a header that promises more than the file holds costs no memory
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    _check_shape(path, mapped.shape)
    return np.array(mapped)


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    with np.load(path, allow_pickle=False) as arrays:
        name = _pick(path, arrays.files, ("value", "arr_0"), "array")
        _check_shape(path, (sizes.get(f"{name}.npy", 0) // 8,))
        return np.asarray(arrays[name])


def _pick(path: Path, names: Sequence[str], known: Sequence[str], what: str) -> str:
    for name in (*known, *(names if len(names) == 1 else ())):
        if name in names:
            return name
    raise FrameError(
        f"{path}: holds {len(names)} {what}s ({', '.join(names[:5])}); expected one, or one called {' or '.join(known)}"
    )


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise GraduncError("HDF5 needs h5py, which is not installed: pip install 'gradunc-viz[interchange]'") from error
    return h5py


def _read_hdf5(path: Path) -> np.ndarray:
    h5py = _h5py()
    with h5py.File(path, "r") as file:
        # links to other files are not followed: a map has no business outside its own file
        names = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        names = [name for name in names if isinstance(file[name], h5py.Dataset)]
        data = file[_pick(path, names, ("value",), "data set")]
        if data.is_virtual or data.external:
            raise FrameError(f"{path}: its values lie in other files, expected them in this one")
        _check_shape(path, data.shape)
        return np.asarray(data[()])


def _read_tiff(path: Path) -> np.ndarray:
    with _opened(path) as image:
        if image.format != "TIFF" or len(image.getbands()) != 1 or image.mode in ("1", "P"):
            raise FrameError(f"{path}: is {image.format} of mode {image.mode}, expected TIFF of one channel of numbers")
        _check_shape(path, image.size)
        return np.array(image)


_READERS: Mapping[str, Callable[[Path], np.ndarray]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".hdf5": _read_hdf5,
    ".h5": _read_hdf5,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
}


def _file_digest(path: Path) -> str:
    digest = blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------------
# how the values of a set are spread


def _sample(maps: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Draw pixels from `count` maps, sorted; all of them where the set is small."""
    each = max(_SAMPLE // max(count, 1), 1)
    parts = []
    for number, values in enumerate(map(np.ravel, maps)):
        few = values.size <= each
        drawn = slice(None) if few else np.random.default_rng(number).integers(0, values.size, each)
        parts.append(values[drawn].astype("f4"))
    return np.sort(np.concatenate(parts))


def _spread(ids: Sequence[str]) -> list[str]:
    """Frames to draw pixels from, evenly spread over all."""
    step = max(1, math.ceil(len(ids) / _SAMPLE_FRAMES))
    return list(ids[::step])


def _bin_edges(sample: np.ndarray) -> np.ndarray:
    """Rising values that cut a set into bins, by the rank of a value among the drawn ones.

    Half of the quantiles u are spaced evenly, half in log2(u / (1 - u)): a bin holds about 1e-4 of the pixels, and
    towards either end less than 1 % of what lies beyond it, so that few positives at the very top are resolved as
    well as many. A value that many pixels share gets a bin of its own.
    """
    distinct = np.unique(sample)
    if len(distinct) <= _BINS:
        return distinct
    end = np.log2(len(sample))
    odds = np.linspace(-end, end, _BINS // 2)
    ranks = np.r_[1 / (1 + np.exp2(-odds)), np.linspace(0, 1, _BINS // 2)]
    at = np.sort((len(sample) * ranks).astype("i8").clip(0, len(sample) - 1))
    values, repeats = np.unique(sample[at], return_counts=True)
    return np.unique(np.r_[values, np.nextafter(values[repeats > 1], np.float32(np.inf))])


_LOWEST, _LEVELS = 0x0400, 0x3C00 - 0x0400 + 1  # bits of 2^-14, and the float16 numbers from there to 1
_TAIL = 2.0**-14


@dataclass(frozen=True)
class _HalfMap:
    """A rising step function from scores to float16 numbers in (0, 1]."""

    starts: np.ndarray
    halves: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return self.halves[np.maximum(np.searchsorted(self.starts, values, side="right") - 1, 0)]


def _half_map(sample: np.ndarray) -> _HalfMap:
    """Spend the float16 numbers of [2^-14, 1] where ranking needs them.

    They are not evenly spaced (half of all lie below 2^-7), so numbers are counted, not values. With no more distinct
    scores than numbers, each score gets its own. Else half of the numbers goes evenly to the ranks u, and half to
    log2(1 - u): what is to be found is rare and ranks high, and there precision needs to be told apart.
    """
    distinct, counts = np.unique(sample, return_counts=True)
    if len(distinct) <= _LEVELS:
        level = np.linspace(0, _LEVELS - 1, len(distinct)).round().astype("i8")
        if len(distinct) == 1:
            level[:] = _LEVELS // 2
    else:
        rank = (np.cumsum(counts) - counts / 2) / len(sample)
        top = np.log2((1 + _TAIL) / (1 - rank + _TAIL)) / np.log2((1 + _TAIL) / _TAIL)
        share = rank + top
        level = (share / share[-1] * (_LEVELS - 1)).round().astype("i8")
    used, first = np.unique(level, return_index=True)
    return _HalfMap(distinct[first], (used + _LOWEST).astype("u2").view("f2"))


# --------------------------------------------------------------------------------------------------------------------
# export


def write_submission(
    cache: Cache | str | os.PathLike[str],
    score_name: str,
    out: str | os.PathLike[str],
    frames: Sequence[str] | None = None,
    *,
    progress: bool = True,
) -> list[Path]:
    """Write a score in the form of a SegmentMeIfYouCan submission.

    One file ``<frame id>.hdf5`` per frame with a data set ``value`` of float16, (y, x), in (0, 1], larger = more
    anomalous. One rising map takes the scores of all frames there, chosen so that float16 keeps the ranking: the
    benchmark's code looks for the files in ``anomaly_p/METHOD/SET/``, for instance
    ``out="outputs/anomaly_p/my_norm/AnomalyTrack-all"``. The values are ranks, not probabilities.

    Parameters
    ----------
    cache : Cache or path
    score_name : str
        Any score that `gradunc_viz.score` knows of the cache.
    out : path-like
        Folder, absent, empty, or holding an earlier submission of the same frames, which is replaced.
    frames : sequence of str, optional
        Ids of frames; by default all.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    list of Path
        The files, in the order of frames.

    Raises
    ------
    GraduncError
        If a frame is not in the cache, the cache is empty, `out` holds something else or cannot be written.
    UnknownScoreError
        If there is no such score.
    """
    h5py = _h5py()
    opened = cache if isinstance(cache, Cache) else open_cache(cache)
    score_entry(score_name)
    chosen = opened.ids if frames is None else tuple(frames)
    unknown = [frame for frame in chosen if frame not in opened]
    if unknown:
        raise GraduncError(f"{opened.path}: no frame {unknown[0]!r} among its {len(opened)} frames")
    if not chosen:
        raise GraduncError(f"{opened.path}: there is no frame to submit")
    folder = Path(out)
    _check_target(folder, {f"{frame}.hdf5" for frame in chosen}, h5py)
    drawn = _spread(chosen)
    with tqdm(total=len(drawn) + len(chosen), unit="frame", desc=f"writing {score_name}", disable=not progress) as bar:

        def values(frame: str) -> np.ndarray:
            found = np.asarray(score(opened[frame], score_name).values, "f4")
            bar.update()
            return found

        halves = _half_map(_sample(map(values, drawn), len(drawn)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return [_write_map(folder / f"{frame}.hdf5", halves(values(frame)), score_name, h5py) for frame in chosen]
        except OSError as error:
            raise CacheError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_target(folder: Path, names: set[str], h5py: ModuleType) -> None:
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder}: is a file; expected a folder for the submission")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not (file.name in names and file.is_file() and _is_ours(file, h5py)):
            raise CacheError(
                f"{folder}: holds something else ({file.name}); "
                "expected an empty folder or an earlier submission of the same frames"
            )


def _is_ours(file: Path, h5py: ModuleType) -> bool:
    try:
        with h5py.File(file, "r") as opened:
            return opened.attrs.get("producer") == _PRODUCER
    except OSError:
        return False


def _write_map(path: Path, values: np.ndarray, score_name: str, h5py: ModuleType) -> Path:
    """Write whole or not at all: to another name first."""
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with h5py.File(staged, "w") as file:
            file.create_dataset("value", data=values, compression="gzip", compression_opts=4, shuffle=True)
            file.attrs.update({"producer": _PRODUCER, "score": score_name})
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    return path


def read_submission(folder: str | os.PathLike[str]) -> ScoreMaps:
    """Open a submission, or any folder of score maps, as a lazy mapping from frame id to map.

    Raises
    ------
    FrameError
        If the folder is missing or holds no map.
    """
    return ScoreMaps(folder)


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
    entry = score_entry(f"ext:{_plain(maps.path.resolve().name) if name is None else name}")
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
        for frame in tqdm(chosen, unit="frame", desc="importing maps", disable=not progress):
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
    if not (out / "zarr.json").is_file():
        return None
    stored = open_cache(out).key.get("settings", {}).get("edges")
    return None if stored is None else np.frombuffer(base64.b64decode(stored), "<f4").astype("f4")


def _sample_maps(source: _Source, ids: Sequence[str], strict: bool, progress: bool) -> np.ndarray:
    def readable() -> Iterator[np.ndarray]:
        last: GraduncError | None = None
        some = False
        for frame_id in tqdm(ids, unit="map", desc="looking at maps", disable=not progress):
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
