"""The files of a zarr v3 group made in memory: numbers straight from numpy, names by zarr itself.

zarr and xarray take some three milliseconds per array whatever its size, and a frame has twenty-five: more than a GPU
takes to score it. What is written is plain zarr v3 (https://zarr-specs.readthedocs.io), which they read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import product
from math import prod
from typing import Any

import numcodecs
import numpy as np
import xarray as xr
from zarr.storage import MemoryStore

from .checksums import ALGORITHM, attributes_checksum, checksum

__all__ = ["group_files"]

_CHUNK = 1 << 27
"""Bytes that a chunk takes at most before it is compressed, where a row of it is smaller: 128 MB."""

_GROUP = "zarr.json"

_BLOSC = {"cname": "zstd", "clevel": 1, "blocksize": 0}


def group_files(
    dataset: xr.Dataset,
    *,
    single: Mapping[str, tuple[str, ...]],
    plain: frozenset[str],
    fill: Mapping[str, int],
) -> Mapping[str, bytes]:
    """Contents of the files of a group by name, ``zarr.json`` of the group last.

    Numbers are compressed by blosc (zstd level 1, bitshuffle) when they are asked for, and not kept: of a dataset that
    does not fit into memory files can be written one after the other. The attribute ``stored`` tells how many files of
    how many bytes there are besides, and the checksum of each and of the other attributes.

    Parameters
    ----------
    dataset : xarray.Dataset
        With dimension coordinates only.
    single : dict of variable -> dims
        Dims along which a variable is cut into chunks of one; along others there is one chunk, or as many rows to a
        chunk as it may hold.
    plain : set of str
        Variables that are compressed already.
    fill : dict of variable -> int
        Fill values other than 0.

    Notes
    -----
    Every chunk is written, also one equal to the fill value: a chunk that is missing is damage, never data.
    """
    return _Files(dataset, single, plain, fill)


class _Files(Mapping[str, bytes]):
    """Files by name, made when they are asked for; that of the group tells sizes and checksums of the others."""

    def __init__(
        self,
        dataset: xr.Dataset,
        single: Mapping[str, tuple[str, ...]],
        plain: frozenset[str],
        fill: Mapping[str, int],
    ) -> None:
        self._attrs = dataset.attrs
        self._made: dict[str, Callable[[], bytes]] = {}
        self._sizes: dict[str, int] = {}
        self._checksums: dict[str, str] = {}
        # the small ones last: whoever reads the end of their file has them all
        for key, variable in sorted(dataset.variables.items(), key=lambda item: -item[1].nbytes):
            name = str(key)
            if variable.dtype.kind in "iufb":
                chunks = _chunks(variable, single.get(name, ()))
                self._made |= _numbers(name, variable, chunks, name not in plain, fill.get(name, 0))
            else:
                names = _names(name, variable.dims, tuple(map(str, variable.values)))
                self._made |= {file: partial(bytes, content) for file, content in names.items()}
        self._made[_GROUP] = self._group

    def __getitem__(self, name: str) -> bytes:
        content = self._made[name]()
        self._sizes[name], self._checksums[name] = len(content), checksum(content)
        return content

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def _group(self) -> bytes:
        arrays = [name for name in self._made if name != _GROUP]
        for name in arrays:
            if name not in self._sizes:
                _ = self[name]
        attributes = json.loads(json.dumps(self._attrs, default=lambda value: value.item()))
        attributes["stored"] = {
            "files": len(arrays),
            "bytes": sum(self._sizes[name] for name in arrays),
            ALGORITHM: {name: self._checksums[name] for name in arrays},
            "attributes": attributes_checksum(attributes),
        }
        group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
        return json.dumps(group, indent=2).encode()


def _chunks(variable: xr.Variable, single: tuple[str, ...]) -> tuple[int, ...]:
    """Shape of the chunks of a variable."""
    chunks = [1 if dim in single else max(1, size) for dim, size in variable.sizes.items()]
    if chunks:
        rows = max(len(chunks) - 2, 0)  # the axis of rows, of maps (..., y, x)
        row = variable.dtype.itemsize * prod(chunks) // chunks[rows]
        chunks[rows] = min(chunks[rows], max(1, _CHUNK // row))
    return tuple(chunks)


def _numbers(
    name: str, variable: xr.Variable, chunks: tuple[int, ...], compressed: bool, fill: int
) -> dict[str, Callable[[], bytes]]:
    dtype = variable.dtype.newbyteorder("<")
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if dtype.itemsize == 1:
        codecs = [{"name": "bytes"}]
    if compressed:
        options = {"typesize": dtype.itemsize, "shuffle": "bitshuffle", **_BLOSC}
        codecs.append({"name": "blosc", "configuration": options})
    array = {
        "shape": list(variable.shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        # chunks as files side by side: a folder per index would double the number of inodes
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": {"f": float, "b": bool}.get(dtype.kind, int)(fill),
        "codecs": codecs,
        "attributes": dict(variable.attrs),
        "dimension_names": list(map(str, variable.dims)),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    blosc = numcodecs.Blosc(shuffle=numcodecs.Blosc.BITSHUFFLE, **_BLOSC) if compressed else None  # type: ignore[arg-type]

    def chunk(index: tuple[int, ...]) -> bytes:
        part = variable[tuple(slice(i * size, (i + 1) * size) for i, size in zip(index, chunks, strict=True))]
        content = np.asarray(part.values, dtype, order="C")
        if content.shape != chunks:  # the last one is stored whole
            whole = np.full(chunks, fill, dtype)
            whole[tuple(map(slice, content.shape))] = content
            content = whole
        return content.tobytes() if blosc is None else bytes(blosc.encode(content))

    files: dict[str, Callable[[], bytes]] = {f"{name}/zarr.json": lambda: json.dumps(array, indent=2).encode()}
    counts = [-(-size // chunk_size) for size, chunk_size in zip(variable.shape, chunks, strict=True)]
    for index in product(*map(range, counts)):
        files[f"{name}/{'.'.join(['c', *map(str, index)])}"] = partial(chunk, index)
    return files


@lru_cache(maxsize=64)
def _names(name: str, dims: tuple[str, ...], values: tuple[str, ...]) -> dict[str, bytes]:
    """A coordinate of names, the same for every frame of a set."""
    dataset = xr.Dataset(coords={name: (dims, np.array(values, dtype=object))})
    files: dict[str, Any] = {}
    encoding = {name: {"chunk_key_encoding": {"name": "default", "separator": "."}}}
    dataset.to_zarr(MemoryStore(files), mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    return {key: content.to_bytes() for key, content in files.items() if key.startswith(f"{name}/")}
