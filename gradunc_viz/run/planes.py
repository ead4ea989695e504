"""Maps of an image that need not fit into memory."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from ..store.local import write_error

__all__ = ["Planes", "stored"]

_WIDENED = 1 << 24  # numbers that are copied at a time


class Planes:
    """Maps (K, y, x), written and read in rows, in memory or in a file that goes away with them.

    Rows are written by plain system calls, as pages of a file that is mapped would count as memory of the process.

    Parameters
    ----------
    shape : (K, height, width)
    dtype : numpy type
    folder : Path, optional
        Where the file is to lie; in memory by default.

    Attributes
    ----------
    low, high : float64 array (K,)
        Ends of what was written of each map.
    written : int
        Rows up to the last one that was.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: Any = np.float32, folder: Path | None = None) -> None:
        self.shape, self.dtype, self.folder = shape, np.dtype(dtype), folder
        self.low, self.high = np.full(shape[0], np.inf), np.full(shape[0], -np.inf)
        self.written = 0
        self._whole = np.empty(shape, self.dtype) if folder is None else None
        self._lock = threading.Lock()
        self._file: Any = None
        if folder is not None:
            try:
                self._file = tempfile.TemporaryFile(dir=folder, prefix=".gradunc-")  # noqa: SIM115  lives as long as this
            except OSError as error:
                raise write_error(str(folder), error) from error
            weakref.finalize(self, self._file.close)

    def put(self, rows: slice, values: np.ndarray) -> None:
        """Write rows (K, r, x) of all maps.

        Raises
        ------
        CacheError
            If the disk is full.
        """
        if not values.size:
            return
        values = values.astype(self.dtype, copy=False)
        self.low = np.minimum(self.low, values.min((1, 2)))
        self.high = np.maximum(self.high, values.max((1, 2)))
        self.written = max(self.written, rows.stop)
        if self._whole is not None:
            self._whole[:, rows] = values
            return
        try:
            with self._lock:
                for plane, part in enumerate(values):
                    self._file.seek(self._place(plane, rows.start))
                    self._file.write(np.ascontiguousarray(part).data)
        except OSError as error:
            raise write_error(str(self.folder), error) from error

    def rows(self, rows: slice, planes: Sequence[int] | None = None) -> np.ndarray:
        """Rows (k, r, x) of some maps, or of all."""
        chosen = range(self.shape[0]) if planes is None else planes
        if self._whole is not None:
            return self._whole[:, rows] if planes is None else self._whole[list(chosen), rows]
        found = np.empty((len(chosen), rows.stop - rows.start, self.shape[2]), self.dtype)
        with self._lock:
            self._file.flush()
            for place, plane in enumerate(chosen):
                self._file.seek(self._place(plane, rows.start))
                if found[place].size and self._file.readinto(found[place].data) != found[place].nbytes:
                    raise ValueError(f"rows {rows.start} to {rows.stop} of map {plane} were not written")
        return found

    def widened(self, dtype: Any) -> Planes:
        """The same in another type."""
        other = Planes(self.shape, dtype, self.folder)
        step = max(1, _WIDENED // max(1, self.shape[0] * self.shape[2]))
        for first in range(0, self.written, step):
            rows = slice(first, min(first + step, self.written))
            other.put(rows, self.rows(rows))
        return other

    def _place(self, plane: int, row: int) -> int:
        return (plane * self.shape[1] + row) * self.shape[2] * self.dtype.itemsize


class _Stored(BackendArray):
    """Maps as they are to be stored, made when they are asked for."""

    def __init__(
        self, planes: Planes, dtype: Any, made: Callable[[int, np.ndarray], np.ndarray], squeezed: bool
    ) -> None:
        self.planes, self.dtype, self.made, self.squeezed = planes, np.dtype(dtype), made, squeezed
        self.shape = planes.shape[1:] if squeezed else planes.shape

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._of)

    def _of(self, key: tuple[int | slice, ...]) -> np.ndarray:
        one, down, *across = (0, *key) if self.squeezed else key
        numbers = np.arange(self.planes.shape[0])[one]
        lines = np.arange(self.planes.shape[1])[down]
        first, stop = (int(lines.min()), int(lines.max()) + 1) if np.size(lines) else (0, 0)
        chosen = [int(number) for number in np.atleast_1d(numbers)]
        found = self.planes.rows(slice(first, stop), chosen)
        made = [self.made(number, part) for number, part in zip(chosen, found, strict=True)]
        whole = np.stack(made) if len(made) > 1 else np.asarray(made or found, self.dtype)
        picked = slice(None) if np.ndim(lines) and np.size(lines) == stop - first else lines - first
        return whole[0 if np.ndim(numbers) == 0 else slice(None), picked][(..., *across)]


def stored(
    dims: Sequence[str],
    planes: Planes,
    attrs: dict[str, Any],
    dtype: Any = None,
    made: Callable[[int, np.ndarray], np.ndarray] = lambda _, values: values,
) -> xr.Variable:
    """A variable that reads maps when it is asked for them; of two `dims`, the first map.

    Parameters
    ----------
    dtype : numpy type, optional
        Of what `made` returns; by default that of the maps.
    made : callable
        From a map's number and rows of it to what is stored of them.
    """
    array = _Stored(planes, planes.dtype if dtype is None else dtype, made, len(dims) == 2)
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs)
