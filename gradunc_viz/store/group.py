"""Groups of a cache, wherever it lies: encoded to be published, and read only where complete."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ..schema.errors import CacheError
from ..schema.frame import IGNORE, READABLE_VERSIONS, SCHEMA_VERSION
from .backend import Backend, Writing
from .checksums import ALGORITHM, CheckedStore, attributes_checksum
from .file import Content
from .members import ZIP, Members, members_of, write_members
from .zarr_group import group_files

__all__ = [
    "CHUNKS",
    "COST",
    "FRAMES",
    "KIND",
    "ROOT",
    "SUMMARY",
    "UNREADABLE",
    "Group",
    "encoded",
    "frame_group",
    "group_content",
    "ids_digest",
    "open_complete",
    "open_group",
    "published",
    "put_root",
    "read_root",
    "root_content",
    "some_of",
    "withdraw",
]

KIND = "gradunc-viz cache"

FRAMES, SUMMARY = "frames", "summary"
"""Names of the groups of a cache."""

ROOT = "zarr.json"
"""The file of a cache that says what it is."""

COST = "cost.json"
"""The file of what scores cost, where that was measured."""

CHECKSUM = "checksum"
"""Attribute of a cache that holds the checksum of the others."""

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError)
"""What zarr, xarray and codecs raise where a file is damaged."""


def frame_group(frame_id: str) -> str:
    """Name of a frame's group."""
    return f"{FRAMES}/{frame_id}"


def read_root(backend: Backend, version: int | None = None) -> dict[str, Any]:
    """Attributes of a cache, of a schema version, or of any that can be read.

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
    if found not in READABLE_VERSIONS:
        raise CacheError(f"{where}: schema version is {found!r}, expected {SCHEMA_VERSION}; compute it anew")
    if version is not None and found != version:
        raise CacheError(
            f"{where}: schema version is {found}, expected {version} to write to it; 'gradunc upgrade {where}' brings "
            "it there, and computes nothing anew"
        )
    expected = attrs.pop(CHECKSUM, None)
    own = attributes_checksum(attrs)
    if expected not in (None, own):
        raise CacheError(
            f"{where}/zarr.json: damaged, its attributes have checksum {own}, expected {expected}; what its frames are "
            "computed from is not known any more: compute the cache anew"
        )
    return attrs


def root_content(attrs: Mapping[str, Any]) -> bytes:
    """Content of the file that says what a cache is."""
    return _group_file({**attrs, CHECKSUM: attributes_checksum(attrs)})


def put_root(writing: Writing, attrs: Mapping[str, Any]) -> bool:
    """Make a cache without a frame; False if there is one already."""
    writing.put(f"{FRAMES}/{ROOT}", _group_file({}), replace=True)
    return writing.put(ROOT, root_content(attrs))


def _group_file(attrs: Mapping[str, Any]) -> bytes:
    return json.dumps({"attributes": attrs, "zarr_format": 3, "node_type": "group"}, indent=2).encode()


def group_content(dataset: xr.Dataset) -> Content:
    """Content of the file of a group; of a large one it is made while it is written."""
    write = partial(write_members, encoded(dataset).items())
    if dataset.nbytes > _AT_ONCE:
        return write
    content = io.BytesIO()
    write(content)
    return content.getvalue()


def published(backend: Backend) -> list[str]:
    """Ids of the frames that are complete.

    Raises
    ------
    CacheError
        If they cannot be listed.
    """
    try:
        names = backend.names(FRAMES)
    except OSError as error:
        raise CacheError(f"{backend.where}: cannot list its frames ({error.strerror or error})") from error
    zipped = {name.removesuffix(ZIP) for name in names if name.endswith(ZIP)}
    others = [name for name in names if name not in zipped and not name.endswith(ZIP) and name != ROOT]
    return [*zipped, *(name for name in others if _is_folder_group(backend, frame_group(name)))]


def _is_folder_group(backend: Backend, group: str) -> bool:
    """Whether a folder was a group until schema version 2; one whose own file alone was lost stays one, damaged."""
    try:
        names = backend.names(group)
        return ROOT in names or any(ROOT in backend.names(f"{group}/{name}") for name in names)
    except OSError:
        return False


def withdraw(writing: Writing, group: str) -> None:
    """Take a group away, if it is there; also one of an earlier version, which is a folder."""
    writing.delete(group + ZIP)
    writing.delete(group)


class Group:
    """A group that is complete: all of its files are there, as large as they were written.

    Attributes
    ----------
    where : str
        For messages.
    attrs : dict
    arrays : frozenset of str
        Names of its arrays.
    store : CheckedStore
        What zarr reads it from.
    """

    def __init__(self, where: str, members: Members, attrs: dict[str, Any]) -> None:
        self.where, self.attrs = where, attrs
        self.arrays = frozenset(name.partition("/")[0] for name in members.sizes if "/" in name)
        self.store = CheckedStore(members, where, attrs["stored"].get(ALGORITHM, {}))

    def array(self, name: str) -> zarr.Array[Any]:
        """One array, without a look at the others."""
        return zarr.open_array(self.store, path=name, mode="r", zarr_format=3)


_REPAIR = "'gradunc check CACHE --repair' takes damaged frames out, to be computed again"


def open_group(backend: Backend, name: str, *, partly: bool = False) -> Group:
    """Read a group's own file; no array is opened.

    Parameters
    ----------
    backend : Backend
    name : str
    partly : bool
        Whether files may be missing.

    Raises
    ------
    CacheError
        If files are missing or cut off: a lost chunk would read as its fill value. If the group's own file is not the
        one that was written, or that of another frame.
    """
    where = f"{backend.where}/{name}"
    try:
        members = members_of(backend, name)
        attrs: dict[str, Any] = json.loads(members.read(ROOT))["attributes"]
        stored = attrs["stored"]
        expected = stored.get("attributes")
        found = attributes_checksum({name: value for name, value in attrs.items() if name != "stored"})
        sizes = {name: size for name, size in members.sizes.items() if name != ROOT}
        files, size = int(stored["files"]), int(stored["bytes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CacheError(f"{where}: damaged, its zarr.json cannot be read ({error}); {_REPAIR}") from error
    if expected is not None and found != expected:
        raise CacheError(
            f"{where}/zarr.json: damaged, its attributes have checksum {found}, expected {expected}; {_REPAIR}"
        )
    if name.startswith(f"{FRAMES}/") and frame_group(str(attrs.get("frame_id"))) != name:
        raise CacheError(
            f"{where}: holds frame {attrs.get('frame_id')!r}; expected the one that it is named after; {_REPAIR}"
        )
    if not partly and (len(sizes), sum(sizes.values())) != (files, size):
        raise CacheError(
            f"{where}: damaged, holds {len(sizes)} files of {sum(sizes.values())} bytes, expected {files} of {size}; "
            f"{_REPAIR}"
        )
    if strange := sizes.keys() - stored.get(ALGORITHM, sizes):
        raise CacheError(f"{where}: damaged, holds {min(strange)!r}, which was not written; {_REPAIR}")
    return Group(where, members, attrs)


def open_complete(backend: Backend, name: str) -> xr.Dataset:
    """Open a group lazily, provided that all of its files are there."""
    dataset = xr.open_zarr(open_group(backend, name).store, consolidated=False, chunks=None)
    del dataset.attrs["stored"]
    return dataset


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


_AT_ONCE = 1 << 29  # bytes of a dataset whose file is made before it is written


def encoded(dataset: xr.Dataset) -> Mapping[str, bytes]:
    """Files of a dataset by name, ``zarr.json`` of the group last; each is made when it is asked for."""
    return group_files(dataset, single=CHUNKS, plain=_COMPRESSED, fill=_FILL)
