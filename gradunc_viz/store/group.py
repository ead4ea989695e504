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
from .checksums import ALGORITHM, CheckedStore, attributes_checksum
from .zarr_group import group_files

__all__ = [
    "CHUNKS",
    "COST",
    "FRAMES",
    "KIND",
    "SUMMARY",
    "UNREADABLE",
    "checked_store",
    "complete_attrs",
    "encoded",
    "frame_group",
    "group_attrs",
    "ids_digest",
    "open_array",
    "open_complete",
    "published",
    "read_root",
    "root_files",
    "some_of",
]

KIND = "gradunc-viz cache"

FRAMES, SUMMARY = "frames", "summary"
"""Names of the groups of a cache."""

COST = "cost.json"
"""The file of what scores cost, where that was measured."""

CHECKSUM = "checksum"
"""Attribute of a cache that holds the checksum of the others."""

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
    except ValueError as error:
        raise CacheError(
            f"{where}/zarr.json: damaged, no JSON ({error}); what frames were computed from is not known any more: "
            "compute the cache anew"
        ) from None
    except (OSError, KeyError, TypeError):
        raise CacheError(f"{where}: not a gradunc-viz cache (no readable zarr.json with its key)") from None
    if kind != KIND:
        raise CacheError(f"{where}: kind is {kind!r}, expected {KIND!r}")
    if version is not None and found != version:
        raise CacheError(f"{where}: schema version is {found}, expected {version}; compute it anew")
    expected = attrs.pop(CHECKSUM, None)
    own = attributes_checksum(attrs)
    if expected not in (None, own):
        raise CacheError(
            f"{where}/zarr.json: damaged, its attributes have checksum {own}, expected {expected}; what its frames are "
            "computed from is not known any more: compute the cache anew"
        )
    return attrs


def root_files(attrs: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a cache without a frame."""
    checked = {**attrs, CHECKSUM: attributes_checksum(attrs)}
    return {f"{FRAMES}/zarr.json": _group_file({}), "zarr.json": _group_file(checked)}


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
        If files are missing or cut off: a lost chunk would read as its fill value. If the group's own file is not the
        one that was written, or that of another frame.
    """
    attrs = group_attrs(backend, group)
    try:
        stored, sizes = attrs["stored"], backend.sizes(group)
        found = {"files": len(sizes), "bytes": sum(sizes.values())}
        if all(found[name] == stored[name] for name in found):
            return attrs, frozenset(name.partition("/")[0] for name in sizes)
        expected = f"expected {stored['files']} of {stored['bytes']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{backend.where}/{group}: cannot be read ({error})") from error
    raise CacheError(
        f"{backend.where}/{group}: damaged, holds {found['files']} files of {found['bytes']} bytes, {expected}; "
        "'gradunc check CACHE --repair' takes damaged frames out, to be computed again"
    )


def group_attrs(backend: Backend, group: str) -> dict[str, Any]:
    """Attributes of a group, of which files may be missing.

    Raises
    ------
    CacheError
        If they cannot be read, or are not those that were written there.
    """
    try:
        attrs: dict[str, Any] = json.loads(backend.read(f"{group}/zarr.json"))["attributes"]
        expected = attrs["stored"].get("attributes")
        found = attributes_checksum({name: value for name, value in attrs.items() if name != "stored"})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"{backend.where}/{group}: damaged, its zarr.json cannot be read ({error}); 'gradunc check CACHE --repair' "
            "takes damaged frames out, to be computed again"
        ) from error
    if expected is not None and found != expected:
        raise CacheError(
            f"{backend.where}/{group}/zarr.json: damaged, its attributes have checksum {found}, expected {expected}; "
            "'gradunc check CACHE --repair' takes damaged frames out, to be computed again"
        )
    if group.startswith(f"{FRAMES}/") and frame_group(str(attrs.get("frame_id"))) != group:
        raise CacheError(
            f"{backend.where}/{group}: holds frame {attrs.get('frame_id')!r}; expected the one that it is named after"
        )
    return attrs


def checked_store(backend: Backend, group: str, attrs: Mapping[str, Any]) -> CheckedStore:
    """What zarr reads a group of these attributes from, every file compared with its checksum."""
    return CheckedStore(backend.store(group), f"{backend.where}/{group}", attrs["stored"].get(ALGORITHM, {}))


def open_complete(backend: Backend, group: str) -> xr.Dataset:
    """Open a group lazily, provided that all of its files are there."""
    attrs, _ = complete_attrs(backend, group)
    dataset = xr.open_zarr(checked_store(backend, group, attrs), consolidated=False, chunks=None)
    del dataset.attrs["stored"]
    return dataset


def open_array(store: CheckedStore, name: str) -> zarr.Array[Any]:
    """One array of a group, without a look at the others."""
    return zarr.open_array(store, path=name, mode="r", zarr_format=3)


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
