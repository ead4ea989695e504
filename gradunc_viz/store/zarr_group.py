"""The files of a zarr v3 group made in memory: numbers straight from numpy, names by zarr itself.

zarr and xarray take some three milliseconds per array whatever its size, and a frame has twenty-five: more than a GPU
takes to score it. What is written is plain zarr v3 (https://zarr-specs.readthedocs.io), which they read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import numcodecs
import numpy as np
import xarray as xr
from zarr.storage import MemoryStore

from .checksums import ALGORITHM, attributes_checksum, checksum

__all__ = ["group_files"]

_BLOSC = {"cname": "zstd", "clevel": 1, "blocksize": 0}


def group_files(
    dataset: xr.Dataset,
    *,
    single: Mapping[str, tuple[str, ...]],
    plain: frozenset[str],
    fill: Mapping[str, int],
) -> dict[str, bytes]:
    """Contents of the files of a group by name, ``zarr.json`` of the group last.

    Numbers are compressed by blosc (zstd level 1, bitshuffle). The attribute ``stored`` tells how many files
    of how many bytes there are besides, and the checksum of each and of the other attributes.

    Parameters
    ----------
    dataset : xarray.Dataset
        With dimension coordinates only.
    single : dict of variable -> dims
        Dims along which a variable is cut into chunks of one; along others there is one chunk.
    plain : set of str
        Variables that are compressed already.
    fill : dict of variable -> int
        Fill values other than 0.

    Notes
    -----
    Every chunk is written, also one equal to the fill value: a chunk that is missing is damage, never data.
    """
    files: dict[str, bytes] = {}
    for key, variable in dataset.variables.items():
        name = str(key)
        if variable.dtype.kind in "iufb":
            cut = single.get(name, ())
            chunks = tuple(1 if dim in cut else max(1, size) for dim, size in variable.sizes.items())
            files |= _numbers(name, variable, chunks, name not in plain, fill.get(name, 0))
        else:
            files |= _names(name, variable.dims, tuple(map(str, variable.values)))
    attributes = json.loads(json.dumps(dataset.attrs, default=lambda value: value.item()))
    attributes["stored"] = {
        "files": len(files),
        "bytes": sum(len(content) for content in files.values()),
        ALGORITHM: {name: checksum(content) for name, content in files.items()},
        "attributes": attributes_checksum(attributes),
    }
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    return files | {"zarr.json": json.dumps(group, indent=2).encode()}


def _numbers(
    name: str, variable: xr.Variable, chunks: tuple[int, ...], compressed: bool, fill: int
) -> dict[str, bytes]:
    values = np.asarray(variable.values)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if values.dtype.itemsize == 1:
        codecs = [{"name": "bytes"}]
    if compressed:
        options = {"typesize": values.dtype.itemsize, "shuffle": "bitshuffle", **_BLOSC}
        codecs.append({"name": "blosc", "configuration": options})
    array = {
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        # chunks as files side by side: a folder per index would double the number of inodes
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": {"f": float, "b": bool}.get(values.dtype.kind, int)(fill),
        "codecs": codecs,
        "attributes": dict(variable.attrs),
        "dimension_names": list(map(str, variable.dims)),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    files = {f"{name}/zarr.json": json.dumps(array, indent=2).encode()}
    blosc = numcodecs.Blosc(shuffle=numcodecs.Blosc.BITSHUFFLE, **_BLOSC)  # type: ignore[arg-type]
    counts = [-(-size // chunk) for size, chunk in zip(values.shape, chunks, strict=True)]
    for index in product(*map(range, counts)):
        part = values[tuple(slice(i * chunk, (i + 1) * chunk) for i, chunk in zip(index, chunks, strict=True))]
        content = np.ascontiguousarray(part)
        files[f"{name}/{'.'.join(['c', *map(str, index)])}"] = (
            bytes(blosc.encode(content)) if compressed else content.tobytes()
        )
    return files


@lru_cache(maxsize=64)
def _names(name: str, dims: tuple[str, ...], values: tuple[str, ...]) -> dict[str, bytes]:
    """A coordinate of names, the same for every frame of a set."""
    dataset = xr.Dataset(coords={name: (dims, np.array(values, dtype=object))})
    files: dict[str, Any] = {}
    encoding = {name: {"chunk_key_encoding": {"name": "default", "separator": "."}}}
    dataset.to_zarr(MemoryStore(files), mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    return {key: content.to_bytes() for key, content in files.items() if key.startswith(f"{name}/")}
