"""The form in which the SegmentMeIfYouCan benchmark takes score maps."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ..schema.errors import CacheError, GraduncError
from ..schema.file_names import is_foreign
from ..schema.scores import lookup
from ..store.cache import Cache, open_cache
from ..store.frame import score
from ..store.progress import counted
from .map_files import MapFiles, import_h5py
from .spread import half_map, sample_pixels, spread_evenly

__all__ = ["read_submission", "write_submission"]


_PRODUCER = "gradunc-viz submission"


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
    h5py = import_h5py()
    opened = cache if isinstance(cache, Cache) else open_cache(cache)
    lookup(score_name)
    chosen = opened.ids if frames is None else tuple(frames)
    unknown = [frame for frame in chosen if frame not in opened]
    if unknown:
        raise GraduncError(f"{opened.path}: no frame {unknown[0]!r} among its {len(opened)} frames")
    if not chosen:
        raise GraduncError(f"{opened.path}: there is no frame to submit")
    folder = Path(out)
    _check_target(folder, {f"{frame}.hdf5" for frame in chosen}, h5py)
    drawn = spread_evenly(chosen)
    with counted(len(drawn) + len(chosen), f"writing {score_name}", shown=progress) as more:

        def values(frame: str) -> np.ndarray:
            found = np.asarray(score(opened[frame], score_name).values, "f4")
            more()
            return found

        halves = half_map(sample_pixels(map(values, drawn), len(drawn)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return [_write_map(folder / f"{frame}.hdf5", halves(values(frame)), score_name, h5py) for frame in chosen]
        except OSError as error:
            raise CacheError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_target(folder: Path, names: set[str], h5py: ModuleType) -> None:
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder}: is a file; expected a folder for the submission")
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_foreign(file.name) and not (file.name in names and file.is_file() and _is_ours(file, h5py)):
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


def read_submission(folder: str | os.PathLike[str]) -> MapFiles:
    """Open a submission, or any folder of score maps, as a lazy mapping from frame id to map.

    Raises
    ------
    FrameError
        If the folder is missing or holds no map.
    """
    return MapFiles(folder)
