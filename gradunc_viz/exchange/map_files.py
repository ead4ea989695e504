"""A folder of score maps in any of the usual formats."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from ..datasets.decoding import opened_image
from ..datasets.files_by_id import FilesById, content_digest
from ..schema.errors import FrameError, GraduncError, NonFiniteError

__all__ = ["MapFiles", "import_h5py"]

_MAX_PIXELS = 2**28  # no map of an image is larger; a damaged or malicious header may well say so


class MapFiles(Mapping[str, np.ndarray]):
    """A folder of score maps, and those below it, as a lazy mapping from frame id to map, (y, x).

    A map's file is named by exactly the frame's id: ``<id>.npy``, ``<id>.npz`` (one array, or one called ``value`` or
    ``arr_0``), ``<id>.hdf5`` / ``.h5`` (one data set, or one called ``value``), ``<id>.tif`` / ``.tiff`` (one channel);
    ``a/b/x.npy`` is the map of frame ``a__b__x``, or of ``x`` where no other is. Axes of length 1 in front of or behind
    (y, x) are dropped. Nothing is ever unpickled.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    FrameError
        If the folder is missing or holds no map, or two files are of one id.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._found = FilesById(folder, _READERS, "score map")
        self.path, self.files = self._found.path, self._found.files
        if not self.files:
            raise FrameError(f"{self.path}: holds no score map; expected <frame id> with {', '.join(_READERS)}")

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __contains__(self, frame_id: object) -> bool:
        return isinstance(frame_id, str) and self._found.find(frame_id) is not None

    def __getitem__(self, frame_id: str) -> np.ndarray:
        """Read one map, (y, x): float16 as stored, float32 where that holds every number exactly, else float64.

        Raises
        ------
        KeyError
            If there is none of this id.
        FrameError
            If the file cannot be read or holds anything but one map of numbers that float64 can tell apart.
        NonFiniteError
            If it holds NaN or infinity.
        """
        return _read_map(self.file(frame_id))

    def __repr__(self) -> str:
        return f"<MapFiles {str(self.path)!r}, {len(self)} maps>"

    def file(self, frame_id: str) -> Path:
        """The file of a map.

        Raises
        ------
        KeyError
            If there is none of this id.
        """
        file = self._found.find(frame_id)
        if file is None:
            raise KeyError(frame_id)
        return file

    def unused(self, frame_ids: Iterable[str]) -> list[Path]:
        """Files of maps that belong to none of some frames."""
        return self._found.unused(frame_ids)

    def digest(self, frame_id: str) -> str:
        """Hash of the file's content."""
        return content_digest(self.file(frame_id))


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
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise NonFiniteError(f"{path}: {bad} of {values.size} values are NaN or infinite; expected finite numbers")
    if values.dtype == np.float16:
        return np.ascontiguousarray(values, "f2")
    for kind in ("f4", "f8"):
        with np.errstate(over="ignore", under="ignore"):
            converted = np.ascontiguousarray(values, kind)
        if _same_numbers(converted, values):
            return converted
    what = "integers beyond 2^53" if values.dtype.kind in "iu" else f"{values.dtype} numbers"
    raise FrameError(f"{path}: holds {what} that cannot be told apart in float64")


def _same_numbers(converted: np.ndarray, values: np.ndarray) -> bool:
    if values.dtype.kind == "f":
        return bool((converted == values).all())
    # numpy compares integers with floats as floats: 2^53 + 1 would equal 2^53
    whole = 2 ** (np.finfo(converted.dtype).nmant + 1)
    return max(-int(values.min()), int(values.max())) <= whole


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


def import_h5py() -> ModuleType:
    """The module that reads and writes HDF5.

    Raises
    ------
    GraduncError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise GraduncError("HDF5 needs h5py, which is not installed: pip install 'gradunc-viz[interchange]'") from error
    return h5py


def _read_hdf5(path: Path) -> np.ndarray:
    h5py = import_h5py()
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
    with opened_image(path) as image:
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
