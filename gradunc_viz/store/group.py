"""Groups of a cache, wherever it lies: encoded to be published, and read only where complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ..schema.errors import CacheError
from ..schema.frame import IGNORE, SCHEMA_VERSION
from .backend import Backend
from .zarr_group import group_files

__all__ = [
    "CHUNKS",
    "COST",
    "FRAMES",
    "KIND",
    "SUMMARY",
    "UNREADABLE",
    "complete_attrs",
    "encoded",
    "frame_group",
    "ids_digest",
    "open_complete",
    "published",
    "read_array",
    "read_root",
    "root_files",
    "some_of",
]

KIND = "gradunc-viz cache"

FRAMES, SUMMARY = "frames", "summary"
"""Names of the groups of a cache."""

COST = "cost.json"
"""The file of what scores cost, where that was measured."""

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What zarr, xarray and codecs raise where a file is damaged."""


def frame_group(frame_id: str) -> str:
    """Name of a frame's group."""
    return f"{FRAMES}/{frame_id}"


def read_root(backend: Backend, version: int | None = SCHEMA_VERSION) -> dict[str, Any]:
    """Attributes of a cache, of a schema version unless that is None.

    Raises
    ------
    CacheError
        If it is missing, no cache, or of another schema version.
    """
    where = backend.where
    try:
        attrs: dict[str, Any] = json.loads(backend.read("zarr.json"))["attributes"]
        kind, found = attrs["kind"], attrs["key"]["schema_version"]
    except PermissionError:
        raise CacheError(f"{where}: no permission to read it") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CacheError(f"{where}: not a gradunc-viz cache (no readable zarr.json with its key)") from None
    if kind != KIND:
        raise CacheError(f"{where}: kind is {kind!r}, expected {KIND!r}")
    if version is not None and found != version:
        raise CacheError(f"{where}: schema version is {found}, expected {version}; compute it anew")
    return attrs


def root_files(attrs: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a cache without a frame."""
    return {f"{FRAMES}/zarr.json": _group_file({}), "zarr.json": _group_file(attrs)}


def _group_file(attrs: Mapping[str, Any]) -> bytes:
    return json.dumps({"attributes": attrs, "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def published(backend: Backend) -> list[str]:
    """Ids of the frames that are complete.

    Raises
    ------
    CacheError
        If they cannot be listed.
    """
    try:
        return backend.groups(FRAMES)
    except OSError as error:
        raise CacheError(f"{backend.where}: cannot list its frames ({error.strerror})") from error


def complete_attrs(backend: Backend, group: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Attributes of a group of which all files are there, and names of its arrays; no array is opened.

    Raises
    ------
    CacheError
        If files are missing or cut off: a lost chunk would read as its fill value.
    """
    try:
        attrs: dict[str, Any] = json.loads(backend.read(f"{group}/zarr.json"))["attributes"]
        stored, sizes = attrs["stored"], backend.sizes(group)
        found = {"files": len(sizes), "bytes": sum(sizes.values())}
        if found == stored:
            return attrs, frozenset(name.partition("/")[0] for name in sizes)
        expected = f"expected {stored['files']} of {stored['bytes']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{backend.where}/{group}: cannot be read ({error})") from error
    raise CacheError(
        f"{backend.where}/{group}: damaged, holds {found['files']} files of {found['bytes']} bytes, {expected}; "
        "remove this folder and compute again"
    )


def open_complete(backend: Backend, group: str) -> xr.Dataset:
    """Open a group lazily, provided that all of its files are there."""
    complete_attrs(backend, group)
    dataset = xr.open_zarr(backend.store(group), consolidated=False, chunks=None)
    del dataset.attrs["stored"]
    return dataset


def read_array(backend: Backend, name: str) -> np.ndarray:
    """Read one array, without opening the others of its group."""
    return np.asarray(zarr.open_array(backend.store(name), mode="r", zarr_format=3)[...])


def some_of(array: Any, chosen: Mapping[str, Any]) -> tuple[tuple[str, ...], np.ndarray]:
    """Dims and values of an array, or of what is chosen along some dims."""
    dims = tuple(array.metadata.dimension_names)
    place = tuple(chosen.get(dim, slice(None)) for dim in dims)
    return dims, np.asarray(array.oindex[place] if dims else array[...])


def ids_digest(ids: tuple[str, ...]) -> str:
    """Digest of the ids of frames, by which a table over them is known to be about these."""
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


CHUNKS = {
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


_AT_ONCE = 1 << 29  # bytes of a dataset whose files are made before the first of them is written


def encoded(dataset: xr.Dataset) -> Mapping[str, bytes]:
    """Files of a dataset by name, ``zarr.json`` of the group last; of a large one each is made when it is asked for."""
    files = group_files(dataset, single=CHUNKS, plain=_COMPRESSED, fill=_FILL)
    return files if dataset.nbytes > _AT_ONCE else dict(files)
