"""Folders of arrays that others made, one or several for each frame, in any of the usual formats.

Nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets.files_by_id import FilesById
from ..schema.errors import FrameError, GraduncError, brief

__all__ = ["ArrayFiles"]

_ZARR = ".zarr"
_NAMELESS = ("", "value", "arr_0")
"""What an array is called that nobody gave a name."""
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Arrays = Mapping[str, Callable[[], Any]]


class ArrayFiles(FilesById):
    """Arrays of frames: ``<id>.npy``, ``<id>.npz``, ``<id>.safetensors``, ``<id>.zarr``; or one zarr group of all.

    A file, or a group of zarr, may hold several arrays of one frame, which are then told apart by their names. In a
    zarr group of all frames an array is called as its frame is, or lies in a group that is.

    Parameters
    ----------
    folder : path-like
    name : str
        Of the array that is looked for, where a file holds several.
    others : sequence of str
        Names of arrays that may lie beside it; one of these is never taken for it.

    Raises
    ------
    FrameError
        If the folder is missing or holds no such file, or two files are of one id.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, others: Sequence[str] = ()) -> None:
        self.name, self.others = name, tuple(others)
        super().__init__(folder, _READERS, f"{name} file", (_ZARR,))
        if not self.files:
            raise FrameError(f"{self.path}: holds no {name}; expected {self.expected('<frame id>')}")

    def listed(self) -> Iterator[tuple[tuple[str, ...], Path]]:
        """Every file that counts; members of the group, where the folder is one of zarr."""
        if any((self.path / name).is_file() for name in ("zarr.json", ".zgroup")):
            import zarr

            try:
                group = zarr.open_group(self.path, mode="r", use_consolidated=False)  # what is consolidated gets stale
                yield from list(self._members(group, self.path))
            except Exception as error:  # as damaged metadata makes it
                raise FrameError(f"{self.path}: cannot be read as a group of zarr ({brief(error)})") from error
        else:
            yield from super().listed()

    def _members(self, group: Any, path: Path, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Path]]:
        for name, member in group.members():
            inside = (*parts, name.removesuffix(_ZARR))
            of_one_frame = not hasattr(member, "members") or any(one in member for one in (self.name, *self.others))
            if of_one_frame:
                yield inside, path / name
            else:
                yield from self._members(member, path / name, inside)

    def expected(self, frame_id: str) -> str:
        """What the file of a frame may be called, for errors."""
        return f"{frame_id}{', '.join(_READERS)} or {_ZARR}"

    def file(self, frame_id: str) -> Path:
        """The file of a frame, or the folder where that is one of zarr.

        Raises
        ------
        FrameError
            If there is none; the text says what was looked for.
        """
        found = self.find(frame_id)
        if found is None:
            raise FrameError(f"{self.path}: no {self.name} of frame {frame_id!r}; expected {self.expected(frame_id)}")
        return found

    def holds(self, file: Path) -> bool:
        """Whether a file has an array of the very name that is looked for."""
        with self._opened(file) as arrays:
            return self.name in arrays

    def shape(self, file: Path) -> tuple[int, ...]:
        """Shape of the array of a file.

        Raises
        ------
        FrameError
            As for `read`.
        """
        with self._opened(file) as arrays:
            return tuple(self._array(file, arrays).shape)

    def read(self, file: Path) -> Tensor:
        """The array of a file; half precision becomes float32.

        Raises
        ------
        FrameError
            If the file is damaged, holds other arrays, or something else than floating point.
        """
        with self._opened(file) as arrays:
            values = self._array(file, arrays)
            if isinstance(values, Tensor):
                kept = values.clone()  # of a file that is mapped
            else:
                found = np.asarray(values[...])
                kept = torch.from_numpy(np.array(found, found.dtype.newbyteorder("="), order="C"))
            return kept if kept.dtype == torch.float64 else kept.float()

    def _array(self, file: Path, arrays: Arrays) -> Any:
        """The array that is meant, of a type that is known."""
        names = list(arrays)
        known = [one for one in (self.name, *_NAMELESS) if one in arrays]
        known += names if len(names) == 1 and names[0] not in self.others else []
        if not known:
            raise FrameError(
                f"{file}: holds {len(names)} arrays ({', '.join(names[:5])}); expected one, or one called {self.name}"
            )
        values = arrays[known[0]]()
        kind = str(getattr(values.dtype, "name", values.dtype)).removeprefix("torch.")
        if f"torch.{kind}" not in map(str, _TYPES):
            classes = "; classes are no logits" if "int" in kind else ""
            raise FrameError(
                f"{file}: its {self.name} are of type {kind}; expected float16, bfloat16, float32 or float64{classes}"
            )
        return values

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Arrays]:
        reader = _zarr if file.is_dir() else _READERS[file.suffix.lower()]
        try:
            with reader(file) as arrays:
                yield arrays
        except GraduncError:
            raise
        except MemoryError as error:
            raise FrameError(f"{file}: is larger than the memory there is") from error
        except Exception as error:  # a damaged file makes readers raise almost anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FrameError(f"{file}: cannot be read as {self.name} ({reason})") from error


@contextmanager
def _numpy(path: Path) -> Iterator[Arrays]:
    # mapped, so that a header that promises more than the file holds costs no memory
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(found, np.ndarray):
        yield {"": lambda: found}
        return
    with found as archive:
        yield {name: partial(archive.__getitem__, name) for name in archive.files}


@contextmanager
def _safetensors(path: Path) -> Iterator[Arrays]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        yield {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _zarr(path: Path) -> Iterator[Arrays]:
    import zarr

    found = zarr.open(path, mode="r")
    arrays = {"": found} if isinstance(found, zarr.Array) else dict(found.arrays())
    yield {name: partial(_complete, path, array) for name, array in arrays.items()}


def _complete(path: Path, array: Any) -> Any:
    """An array of zarr that was written whole: it reads what is absent as the fill value, silently."""
    written, whole = array.nchunks_initialized, array.nchunks
    if written < whole:
        raise FrameError(
            f"{path}: {whole - written} of {whole} chunks of {array.basename or 'its array'} are absent; expected all "
            "(chunks of zeros alone are left out unless zarr's array.write_empty_chunks is set)"
        )
    return array


_READERS: Mapping[str, Callable[[Path], AbstractContextManager[Arrays]]] = {
    ".npy": _numpy,
    ".npz": _numpy,
    ".safetensors": _safetensors,
}
