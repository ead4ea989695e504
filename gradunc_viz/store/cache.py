"""The cache on disk: open, read, commit, resume. No torch.

A cache is one zarr v3 hierarchy::

    CACHE/zarr.json                the key: network, settings, schema version
    CACHE/frames/<frame id>/...    one group per frame, published whole
    CACHE/summary/...              a table over frames, rebuilt from them whenever it is missing or stale

The one rule that everything rests on: a frame is written to a staging folder beside the cache and becomes
visible by one `os.rename`. A group that exists is complete; resuming means skipping what exists. A process
killed at any moment loses at most the frames in flight. What is lost later is noticed: each group records how
many files of how many bytes it was written with. The result stays readable by plain xarray:
``xarray.open_datatree(path, engine="zarr", consolidated=False)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ..schema.errors import CacheError
from .local import _as_slice, _complete_attrs, _open_frame, _published, _read_root, _small, _some
from .summary import build_summary, publish_summary, stored_summary

__all__ = ["Cache", "open_cache"]

_THUMBNAILS = 6
"""Frames that a cache shows of itself in a notebook."""


class Cache(Mapping[str, xr.Dataset]):
    """A read-only view of a cache on disk; make one with `open_cache`.

    A mapping from frame id to the frame's dataset, which is lazy: arrays are read when their values are asked
    for. An integer selects by position in `ids`.

    Attributes
    ----------
    path : Path
    key : dict
        What the cache was computed from: network, settings, schema version.
    ids : tuple of str
        Ids of the frames that are complete, sorted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._attrs = _read_root(self.path)
        self.key: dict[str, Any] = self._attrs["key"]
        self.ids = tuple(sorted(_published(self.path)))
        self._known = frozenset(self.ids)

    @property
    def name(self) -> str:
        """Name of the cache's folder."""
        return self.path.resolve().name

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in id order."""
        return tuple(self._attrs["classes"])

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """RGB colour of each class, 0 to 255."""
        return tuple((int(r), int(g), int(b)) for r, g, b in self._attrs["colors"])

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the cached scores."""
        return tuple(self.key["settings"]["scores"])

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, frame_id: object) -> bool:
        return frame_id in self._known

    def __getitem__(self, frame_id: str | int) -> xr.Dataset:
        """Open one frame lazily.

        Raises
        ------
        KeyError
            If there is no such frame.
        CacheError
            If the frame cannot be read, lacks files or does not follow the schema.
        """
        if isinstance(frame_id, (int, np.integer)):
            frame_id = self.ids[frame_id]
        return _open_frame(self._folder(frame_id))

    def read(self, frame_id: str, names: Iterable[str], scores: Sequence[str] | None = None) -> xr.Dataset:
        """Read some small variables of one frame, without opening the others: what passes over many frames need.

        Parameters
        ----------
        frame_id : str
        names : iterable of str
            Variables and coordinates; those that the frame has not are left out.
        scores : sequence of str, optional
            Along the dim ``score`` only these, in this order; `names` then has to hold ``score``.

        Raises
        ------
        KeyError
            If there is no such frame.
        CacheError
            If the frame cannot be read or lacks files.
        """
        folder = self._folder(frame_id)
        _complete_attrs(folder)
        try:
            group = zarr.open_group(folder, mode="r", zarr_format=3)
            arrays = {name: group[name] for name in names if (folder / name).is_dir()}
            chosen: Any = slice(None)
            if scores is not None:
                known = [str(name) for name in arrays["score"][...]]
                chosen = _as_slice([known.index(name) for name in scores])
            return xr.Dataset({name: _some(array, {"score": chosen}) for name, array in arrays.items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # codecs raise the last
            raise CacheError(f"{folder}: frame cannot be read ({error})") from error

    def _folder(self, frame_id: str) -> Path:
        if frame_id not in self._known:
            raise KeyError(f"{self.path}: no frame {frame_id!r} among its {len(self)} frames")
        return self.path / "frames" / frame_id

    def __repr__(self) -> str:
        network = self.key["network"]["name"]
        return f"<Cache {self.path}: {len(self)} frames, {len(self.scores)} scores, network {network}>"

    def _repr_html_(self) -> str:
        from ..schema.display import bar, card, chips, code, picture, strip

        network, settings = self.key["network"], self.key["settings"]
        size = settings.get("input_size")
        rows = {
            "folder": code(str(self.path)),
            "frames": f"{len(self):,}",
            "network": code(str(network["name"]))
            + (f", head {code(str(network['head']))}" if network.get("head") else ""),
            "input": "x".join(map(str, size)) if size else "each image's own size",
            "scores": " ".join(code(name) for name in self.scores),
            "classes": chips(self.classes, self.colors),
        }
        # the table over frames is shown if it is there; to build it takes a look at every frame
        summary = self.summary if (self.path / "summary" / "zarr.json").is_file() else None
        items = []
        for frame_id in self.ids[:_THUMBNAILS]:
            try:
                data = _small(self.path / "frames" / frame_id, "thumbnail")
            except Exception:  # a damaged frame has no picture; opening it says what is wrong
                data = None
            if data is None:
                continue
            line = ""
            if summary is not None:
                for name, what in (("error_rate", "wrong"), ("anomaly_rate", "unknown")):
                    rate = float(summary[name].sel(frame=frame_id))
                    if np.isfinite(rate):
                        line += bar(rate, f"{100 * rate:.1f} % {what}", width=116) + "<br>"
            items.append((picture(data.tobytes(), "jpeg", frame_id), line))
        return card(f"Cache {self.name}", rows, strip(items))

    @cached_property
    def summary(self) -> xr.Dataset:
        """One row per frame: means and quantiles of the oriented scores, sizes, counts, confusion.

        Read from disk; if missing or stale, rebuilt from the frames, and stored where that is possible.
        """
        table = stored_summary(self.path, self.ids)
        if table is None:
            table = build_summary(self.path, self.ids, self.scores, self.classes)
            with suppress(OSError, CacheError):  # a read-only cache keeps it in memory
                publish_summary(self.path, table)
        return table


def open_cache(path: str | os.PathLike[str]) -> Cache:
    """Open a cache: reads one small file and lists one folder, whatever the size of the cache.

    Raises
    ------
    CacheError
        If `path` is missing, no cache, or of another schema version.
    """
    return Cache(path)
