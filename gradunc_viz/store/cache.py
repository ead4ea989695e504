"""A cache to be read: open, list, read. No torch.

A cache is a folder, or the same elsewhere (`gradunc_viz.store.backend`)::

    CACHE/zarr.json                the key: network, settings, schema version; classes; scores of one's own
    CACHE/frames/<frame id>.zip    one zarr v3 group per frame, in a zip whose members are stored
    CACHE/summary.zip              a table over frames, rebuilt from them whenever it is missing or stale

The one rule that everything rests on: a frame is published whole, by one link or rename of a file that was synced, or
by one conditional put of an object. A file that exists is complete; resuming means skipping what exists. A process
killed at any moment, or a power cut, loses at most the frames in flight. What is damaged later is noticed: each group
records how many files of how many bytes it was written with, and their checksums (`gradunc_viz.store.checksums`). A
frame stays readable by plain xarray: ``xarray.open_zarr(zarr.storage.ZipStore("CACHE/frames/ID.zip", mode="r"))``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..schema.errors import CacheError, UnknownFrameError
from ..schema.file_names import natural_key
from ..schema.frame import set_of, validate
from ..schema.scores import recall
from ..schema.tasks import TASKS
from .backend import Place, backend_of
from .group import SUMMARY, UNREADABLE, frame_group, open_complete, open_group, published, read_root, some_of
from .members import ZIP
from .summary import build_summary, publish_summary, stored_summary

__all__ = ["Cache", "open_cache"]

_THUMBNAILS = 6
"""Frames that a cache shows of itself in a notebook."""


class Cache(Mapping[str, xr.Dataset]):
    """A read-only view of a cache; make one with `open_cache`.

    A mapping from frame id to the frame's dataset, which is lazy: arrays are read when their values are asked
    for. An integer selects by position in `ids`.

    Attributes
    ----------
    backend : Backend
        Where it lies.
    path : Path
        The same for messages; for a folder, the folder.
    name : str
        What it is called where several are shown; by default as its folder.
    key : dict
        What the cache was computed from: network, settings, schema version.
    ids : tuple of str
        Ids of the frames that are complete, sorted as people count; only those chosen where it is a part of a cache.
    """

    def __init__(self, place: Place, name: str | None = None, ids: Iterable[str] | None = None) -> None:
        self.backend = backend_of(place)
        self.path = Path(self.backend.where)
        self.name = self.path.resolve().name if name is None else name
        self._attrs = read_root(self.backend)
        self.key: dict[str, Any] = self._attrs["key"]
        self._chosen = None if ids is None else frozenset(ids)
        found = published(self.backend)
        self.ids = tuple(sorted((id for id in found if self._chosen is None or id in self._chosen), key=natural_key))
        self._known = frozenset(self.ids)
        for description in self._attrs.get("scores", ()):
            recall(description)

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

    @property
    def head(self) -> str | None:
        """The layer that the scores are gradients of: its name in the network, as it was found or given, and its kind.

        None where nobody knows it: of imported maps, and of a cache without frames whose head is to be found.
        """
        given = self.key["network"].get("head")
        name, layer = None if given in ("auto", "none") else given, None
        with suppress(CacheError, IndexError):  # a damaged frame, which says so when it is opened; no frame
            attrs = self.frame_attrs(self.ids[0])
            name, layer = attrs.get("head", name), attrs.get("head_layer")
        return f"{name}: {layer}" if name and layer else name

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
        UnknownFrameError
            If there is no such frame; the message offers the nearest ids. It is a KeyError as well.
        CacheError
            If the frame cannot be read, lacks files or does not follow the schema.
        """
        if isinstance(frame_id, (int, np.integer)):
            frame_id = self.ids[frame_id]
        name = self._name(frame_id)
        try:
            return validate(open_complete(self.backend, name))
        except UNREADABLE as error:
            raise CacheError(f"{self.backend.where}/{name}: frame cannot be read ({error})") from error

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
        UnknownFrameError
            If there is no such frame; the message offers the nearest ids. It is a KeyError as well.
        CacheError
            If the frame cannot be read or lacks files.
        """
        group = open_group(self.backend, self._name(frame_id))
        try:
            arrays = {name: group.array(name) for name in names if name in group.arrays}
            chosen: Any = slice(None)
            if scores is not None:
                cached = [str(name) for name in arrays["score"][...]]
                chosen = _as_slice([cached.index(name) for name in scores])
            return xr.Dataset({name: some_of(array, {"score": chosen}) for name, array in arrays.items()})
        except UNREADABLE as error:
            raise CacheError(f"{group.where}: frame cannot be read ({error})") from error

    def frame_attrs(self, frame_id: str) -> dict[str, Any]:
        """Attributes of one frame, whose arrays are not opened.

        Raises
        ------
        UnknownFrameError
            If there is no such frame; the message offers the nearest ids. It is a KeyError as well.
        CacheError
            If the frame cannot be read or lacks files.
        """
        return open_group(self.backend, self._name(frame_id)).attrs

    def thumbnail(self, frame_id: str) -> bytes:
        """A small JPEG of one frame, at most 240 pixels wide and high: one array of some twenty is read.

        Raises
        ------
        UnknownFrameError
            If there is no such frame; the message offers the nearest ids. It is a KeyError as well.
        CacheError
            If it cannot be read.
        """
        group = open_group(self.backend, self._name(frame_id), partly=True)
        try:
            return np.asarray(group.array("thumbnail")[...]).tobytes()
        except UNREADABLE as error:
            raise CacheError(f"{group.where}/thumbnail: cannot be read ({error})") from error

    @property
    def version(self) -> Hashable:
        """What changes whenever the cache does: where it lies, its frames, and when they were last published."""
        return self.backend.version(), self.ids

    def frame_version(self, frame_id: str) -> Hashable:
        """What changes whenever a frame is computed anew.

        Raises
        ------
        UnknownFrameError
            If there is no such frame; the message offers the nearest ids. It is a KeyError as well.
        """
        return self.backend.where, frame_id, self.backend.version(self._name(frame_id) + ZIP)

    def reopened(self, name: str | None = None) -> Cache:
        """The same cache as it is now, under another name if one is given."""
        return Cache(self.backend, self.name if name is None else name, self._chosen)

    @property
    def sets(self) -> dict[str, Cache]:
        """The sets that the frames are from, each as a cache of its own by its name, sorted as people count.

        A frame that was called ``SET__NAME``, as frames of several sets or folders are, belongs to ``SET``; others
        belong together under the name of the cache.
        """
        members: dict[str, list[str]] = {}
        for frame_id in self.ids:
            members.setdefault(set_of(frame_id) or self.name, []).append(frame_id)
        return {name: Cache(self.backend, name, members[name]) for name in sorted(members, key=natural_key)}

    def _name(self, frame_id: str) -> str:
        if frame_id not in self._known:
            raise UnknownFrameError(self.path, frame_id, self.ids)
        return frame_group(frame_id)

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
            "network": code(str(network["name"])) + (f", head {code(self.head)}" if self.head else ""),
            "input": "x".join(map(str, size)) if size else "each image's own size",
            "scores": " ".join(code(name) for name in self.scores),
            "classes": chips(self.classes, self.colors),
        }
        # the table over frames is shown if it is there; to build it takes a look at every frame
        summary = self.summary if SUMMARY + ZIP in self.backend.names("") else None
        items = []
        for frame_id in self.ids[:_THUMBNAILS]:
            try:
                data = self.thumbnail(frame_id)
            except CacheError:  # a damaged frame has no picture; opening it says what is wrong
                continue
            line = ""
            if summary is not None:
                for task, what in (("error", "wrong"), ("anomaly", "unknown")):
                    rate = float(summary[TASKS[task].rate].sel(frame=frame_id))
                    if np.isfinite(rate):
                        line += bar(rate, f"{100 * rate:.1f} % {what}", width=116) + "<br>"
            items.append((picture(data, "jpeg", frame_id), line))
        return card(f"Cache {self.name}", rows, strip(items))

    @cached_property
    def summary(self) -> xr.Dataset:
        """One row per frame: means and quantiles of the oriented scores, sizes, counts, confusion.

        Read from disk; if missing or stale, rebuilt from the frames, and stored where that is possible.
        """
        if self._chosen is not None:
            return Cache(self.backend).summary.sel(frame=list(self.ids))
        table = stored_summary(self.backend, self.ids, self.scores)
        if table is None:
            table = build_summary(self.backend, self.ids, self.scores, self.classes)
            with suppress(OSError, CacheError):  # a read-only cache keeps it in memory
                publish_summary(self.backend, table)
        return table


def open_cache(path: Place) -> Cache:
    """Open a cache: reads one small file and lists one folder, whatever the size of the cache.

    Parameters
    ----------
    path : path-like or Backend
        Its folder, or another place (see `gradunc_viz.store.backend`).

    Raises
    ------
    CacheError
        If `path` is missing, no cache, or of another schema version.
    """
    return Cache(path)


def _as_slice(index: list[int]) -> slice | list[int]:
    """A slice where that is the same, which zarr reads faster."""
    start, stop = (index[0], index[0] + len(index)) if index else (0, 0)
    return slice(start, stop) if index == list(range(start, stop)) else index
