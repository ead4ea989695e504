"""A cache in a folder: staging, publishing, reading."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ..schema.errors import CacheError
from ..schema.frame import IGNORE, SCHEMA_VERSION, validate
from .zarr_group import group_files

_KIND = "gradunc-viz cache"


def _read_root(path: Path) -> dict[str, Any]:
    file = path / "zarr.json"
    if not path.exists():
        raise CacheError(f"{path}: no such folder; expected a cache made by 'gradunc compute'")
    try:
        attrs = json.loads(file.read_text())["attributes"]
        kind, found = attrs["kind"], attrs["key"]["schema_version"]
    except PermissionError:
        raise CacheError(f"{path}: no permission to read it") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CacheError(f"{path}: not a gradunc-viz cache (no readable {file.name} with its key)") from None
    if kind != _KIND:
        raise CacheError(f"{path}: kind is {kind!r}, expected {_KIND!r}")
    if found != SCHEMA_VERSION:
        raise CacheError(f"{path}: schema version is {found}, expected {SCHEMA_VERSION}; compute it anew")
    return attrs


def _published(path: Path) -> list[str]:
    try:
        with os.scandir(path / "frames") as entries:
            return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise CacheError(f"{path}: cannot list its frames ({error.strerror})") from error


def _open_frame(folder: Path) -> xr.Dataset:
    try:
        return validate(_open_complete(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # codecs raise the last
        raise CacheError(f"{folder}: frame cannot be read ({error})") from error


def _some(array: Any, chosen: Mapping[str, Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Dims and values of an array, or of what is chosen along some dims."""
    dims = tuple(array.metadata.dimension_names)
    place = tuple(chosen.get(dim, slice(None)) for dim in dims)
    return dims, np.asarray(array.oindex[place] if dims else array[...])


def _as_slice(index: list[int]) -> slice | list[int]:
    """A slice where that is the same, which zarr reads faster."""
    start, stop = (index[0], index[0] + len(index)) if index else (0, 0)
    return slice(start, stop) if index == list(range(start, stop)) else index


def _open_complete(folder: Path) -> xr.Dataset:
    """Open a group lazily, provided that all of its files are there."""
    _complete_attrs(folder)
    dataset = xr.open_zarr(folder, consolidated=False, chunks=None)
    del dataset.attrs["stored"]
    return dataset


def _complete_attrs(folder: Path) -> dict[str, Any]:
    """Attributes of a group of which all files are there, read without opening its arrays."""
    try:
        attrs: dict[str, Any] = json.loads((folder / "zarr.json").read_text())["attributes"]
        stored, found = attrs["stored"], _census(folder)
        if found == stored:
            return attrs
        expected = f"expected {stored['files']} of {stored['bytes']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{folder}: cannot be read ({error})") from error
    raise CacheError(  # a lost chunk would read as its fill value
        f"{folder}: damaged, holds {found['files']} files of {found['bytes']} bytes, {expected}; "
        "remove this folder and compute again"
    )


def _census(folder: Path) -> dict[str, int]:
    """Count the files of a group's arrays and their bytes; what is not zarr's does not count."""
    sizes = [
        file.stat().st_size
        for array in os.scandir(folder)
        if array.is_dir()
        for file in os.scandir(array)
        if file.name in ("zarr.json", "c") or file.name.startswith("c.")
    ]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _ids_digest(ids: tuple[str, ...]) -> str:
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


def _small(folder: Path, name: str) -> np.ndarray | None:
    """Read one array of a frame, without opening the others."""
    if not (folder / name / "zarr.json").is_file():
        return None
    return np.asarray(zarr.open_array(folder / name, mode="r", zarr_format=3)[...])


class _staging:
    """A folder beside the cache, on the same file system, named by its owner and removed in the end."""

    def __init__(self, path: Path) -> None:
        root = path.resolve()
        self.parent = root.parent / f".{root.name}.staging"

    def __enter__(self) -> Path:
        self.folder = self.parent / f"{socket.gethostname()}@{os.getpid()}@{uuid.uuid4().hex}"
        while True:
            self.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.folder.mkdir()
                break
            except FileNotFoundError:
                continue  # another writer has just removed the empty parent
        _sweep(self.parent)
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another writer may be at work
            self.parent.rmdir()


def _sweep(parent: Path) -> None:
    """Remove what killed writers of this host left behind."""
    for folder in parent.iterdir():
        host, _, rest = folder.name.partition("@")
        pid = rest.partition("@")[0]
        if host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_error(path: Path, error: OSError) -> CacheError:
    if error.errno == errno.ENOSPC:
        return CacheError(f"{path}: the disk is full; free some space and run again, finished frames are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"{path}: no permission to write there")
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return CacheError(f"{path}: lies on another file system than the folder it is in; choose a folder inside it")
    return CacheError(f"{path}: cannot be written ({error.strerror or error})")


_CHUNKS = {
    "head_score": ("score_head",),
    "pixel_score": ("score_pixel",),
    "counts": ("score",),
    "cell": ("score",),
    "cell_single": ("score",),
    "cell_counts": ("score",),
    "brier_sum": ("score",),
}
"""Dims along which a variable is cut into chunks of one, so that one score is read without the others."""


_FILL = {"prediction": IGNORE, "label": IGNORE, "anomaly": IGNORE}


_COMPRESSED = frozenset(("image", "thumbnail"))  # JPEG, PNG and WebP


def _encoded(dataset: xr.Dataset) -> dict[str, bytes]:
    return group_files(dataset, single=_CHUNKS, plain=_COMPRESSED, fill=_FILL)


def _put_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder; what makes it a group, the last of them, comes last."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _to_zarr(dataset: xr.Dataset, folder: Path) -> None:
    _put_files(_encoded(dataset), folder)
