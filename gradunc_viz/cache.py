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

import errno
import hashlib
import io
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from PIL import Image

from .kernels.resize import bilinear, bilinear_log2
from .schema.errors import CacheError, CacheMismatchError, GraduncError
from .schema.frame import IGNORE, QUANTILES, SCHEMA_VERSION, check_frame_id, validate
from .schema.scores import LOG2_FLOOR, score_entry
from .zarr_group import group_files

__all__ = ["Cache", "CacheWriter", "class_probabilities", "decode_image", "open_cache", "score"]

_KIND = "gradunc-viz cache"

_THUMBNAILS = 6
"""Frames that a cache shows of itself in a notebook."""


# ----------------------------------------------------------------------------------------------------------
# reading


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
        from .schema.display import bar, card, chips, code, picture, strip

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
        folder = self.path / "summary"
        if (folder / "zarr.json").is_file():
            try:
                table = _open_complete(folder)
                if table.attrs.get("frames") == _ids_digest(self.ids):
                    return table.load()
            except Exception:
                pass  # damaged or half replaced: it holds nothing that the frames do not
        table = _build_summary(self)
        with suppress(OSError, CacheError):  # a read-only cache keeps it in memory
            _publish_summary(self.path, table)
        return table


def open_cache(path: str | os.PathLike[str]) -> Cache:
    """Open a cache: reads one small file and lists one folder, whatever the size of the cache.

    Raises
    ------
    CacheError
        If `path` is missing, no cache, or of another schema version.
    """
    return Cache(path)


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


def score(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """Any score of a frame at image resolution, oriented: larger is more uncertain.

    Gradient norms are resized as norms (bilinear) and returned as log2. Scores of the softmax family that
    were not cached are computed from the cached logits.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache.
    name : str
        A score name.

    Returns
    -------
    xarray.DataArray (y, x), float32
        attrs: ``score``, ``units``, ``long_name``.

    Raises
    ------
    UnknownScoreError
        If there is no such score.
    CacheError
        If a gradient norm was not computed for this cache.
    """
    entry = score_entry(name)
    size = dataset.sizes["y"], dataset.sizes["x"]
    align = bool(dataset.attrs["align_corners"])
    if entry.at_head:
        cached = [str(found) for found in dataset["score_head"].values] if "head_score" in dataset else []
        if name not in cached:
            raise CacheError(
                f"frame {dataset.attrs['frame_id']!r}: score {name!r} is not in the cache, which has "
                f"{', '.join(cached) or 'no gradient norm'}; compute it with --scores"
            )
        norms = dataset["head_score"].isel(score_head=cached.index(name)).values
        values = bilinear_log2(norms, size, LOG2_FLOOR, align)
    else:
        cached = [str(found) for found in dataset["score_pixel"].values] if "pixel_score" in dataset else []
        if name in cached:
            values = dataset["pixel_score"].isel(score_pixel=cached.index(name)).values.astype("f4")
        else:
            values = _from_logits(dataset, name, size, align)
    return xr.DataArray(
        values * entry.orientation if entry.orientation < 0 else values,
        dims=("y", "x"),
        name=name,
        attrs={
            "score": name,
            "units": entry.units,
            "long_name": entry.title,
            "orientation": "larger = more uncertain",
        },
    )


def _from_logits(dataset: xr.Dataset, name: str, size: tuple[int, int], align: bool) -> np.ndarray:
    if "logits" not in dataset:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: score {name!r} is not cached, and there are no logits")
    import torch  # only for scores that were not cached

    from .scores.softmax import FUNCTIONS

    if name not in FUNCTIONS:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: score {name!r} is not in the cache")

    logits = bilinear(dataset["logits"].values, size, align)
    return FUNCTIONS[name](torch.from_numpy(logits)[None])[0].numpy()


def class_probabilities(dataset: xr.Dataset, y: int, x: int) -> xr.DataArray:
    """Softmax probabilities of one image pixel, from the logits around it."""
    height, width = dataset.sizes["y"], dataset.sizes["x"]
    if not (0 <= y < height and 0 <= x < width):
        raise GraduncError(f"pixel ({y}, {x}) lies outside the image of {height} x {width}")
    if "logits" not in dataset:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: the cache has no logits, only imported maps")
    logits = bilinear(dataset["logits"].values, (height, width), bool(dataset.attrs["align_corners"]))[:, y, x]
    weights = np.exp(logits - logits.max())
    return xr.DataArray(weights / weights.sum(), dims="class", coords={"class": dataset["class"]}, name="probability")


def decode_image(dataset: xr.Dataset) -> np.ndarray:
    """Decode the image to (y, x, 3) uint8 RGB; the thumbnail, enlarged, where images were left out."""
    size = dataset.sizes["x"], dataset.sizes["y"]
    name = "image" if "image" in dataset else "thumbnail"
    try:
        with Image.open(io.BytesIO(dataset[name].values.tobytes())) as image:
            from PIL import ImageOps

            picture = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR))
    except OSError as error:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: its {name} cannot be decoded ({error})") from error


# ----------------------------------------------------------------------------------------------------------
# the summary


def _ids_digest(ids: tuple[str, ...]) -> str:
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=16).hexdigest()


def _small(folder: Path, name: str) -> np.ndarray | None:
    """Read one array of a frame, without opening the others."""
    if not (folder / name / "zarr.json").is_file():
        return None
    return np.asarray(zarr.open_array(folder / name, mode="r", zarr_format=3)[...])


def _build_summary(cache: Cache) -> xr.Dataset:
    n, s, c = len(cache), len(cache.scores), len(cache.classes)
    mean = np.full((n, s), np.nan)
    quantile = np.full((n, len(QUANTILES), s), np.nan)
    confusion = np.zeros((n, c, c), "i8")
    anomaly, known = np.full(n, -1, "i8"), np.full(n, -1, "i8")
    labelled = np.zeros(n, bool)
    size = np.zeros((n, 2), "i4")
    for i, frame_id in enumerate(cache.ids):
        folder = cache.path / "frames" / frame_id
        _complete_attrs(folder)
        try:
            mean[i], quantile[i] = _small(folder, "score_mean"), _small(folder, "score_quantile")
            found = _small(folder, "confusion")
            if found is not None:
                confusion[i], labelled[i] = found, True
            counted = _small(folder, "anomaly_count")
            if counted is not None:
                anomaly[i], known[i] = counted, _small(folder, "known_count")
            size[i] = json.loads((folder / "prediction" / "zarr.json").read_text())["shape"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CacheError(f"{folder}: frame cannot be read ({error})") from error
    total = confusion.sum((1, 2))
    right = np.trace(confusion, axis1=1, axis2=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        error_rate = np.where(total > 0, 1 - right / total, np.nan)
        anomaly_rate = np.where(anomaly + known > 0, anomaly / (anomaly + known), np.nan)
    names = np.array(cache.classes, dtype=object)
    return xr.Dataset(
        {
            "height": ("frame", size[:, 0], {"units": "px"}),
            "width": ("frame", size[:, 1], {"units": "px"}),
            "score_mean": (
                ("frame", "score"),
                mean,
                {"long_name": "mean of the oriented score over all pixels"},
            ),
            "score_quantile": (("frame", "quantile", "score"), quantile),
            "error_rate": ("frame", error_rate, {"long_name": "share of labelled pixels predicted wrong"}),
            "anomaly_rate": (
                "frame",
                anomaly_rate,
                {"long_name": "share of unknown objects among evaluated pixels"},
            ),
            "has_label": ("frame", labelled),
            "has_anomaly": ("frame", anomaly >= 0),
            "labelled_count": ("frame", total, {"units": "px"}),
            "wrong_count": ("frame", total - right, {"units": "px"}),
            "anomaly_count": ("frame", anomaly.clip(0), {"units": "px"}),
            "known_count": ("frame", known.clip(0), {"units": "px"}),
            "confusion": (("frame", "label_class", "class"), confusion, {"units": "px"}),
        },
        coords={
            "frame": np.array(cache.ids, dtype=object),
            "score": np.array(cache.scores, dtype=object),
            "quantile": np.array(QUANTILES),
            "class": names,
            "label_class": names,
        },
        attrs={"frames": _ids_digest(cache.ids)},
    )


def _publish_summary(path: Path, table: xr.Dataset) -> None:
    with _staging(path) as staging:
        _to_zarr(table, staging / "new")
        # rename replaces no folder that holds something: the old table steps aside first, and a reader that
        # comes between the two finds none and builds its own
        if (path / "summary").exists():
            os.rename(path / "summary", staging / "old")
        os.rename(staging / "new", path / "summary")


# ----------------------------------------------------------------------------------------------------------
# writing


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


class CacheWriter:
    """Creates or resumes a cache, and commits frames to it. A context manager.

    Parameters
    ----------
    path : path-like
        Folder of the cache: absent, empty, or a cache with the same key.
    key : dict
        JSON-able; what decides whether existing frames may be reused.
    classes : sequence of str
    colors : sequence of (r, g, b)

    Raises
    ------
    CacheError
        If the folder holds something else or cannot be written.
    CacheMismatchError
        If it is a cache of another network or other settings; the message says what differs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: Mapping[str, Any],
        classes: tuple[str, ...],
        colors: tuple[tuple[int, int, int], ...],
    ) -> None:
        self.path = Path(path)
        self.key = json.loads(json.dumps(key))
        try:
            self._create_or_check(classes, colors)
        except OSError as error:
            raise _write_error(self.path, error) from error
        self.existing = set(_published(self.path))

    def _create_or_check(self, classes: tuple[str, ...], colors: tuple[tuple[int, int, int], ...]) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise CacheError(f"{self.path}: is a file; expected a folder for the cache")
        if self.path.is_dir() and any(self.path.iterdir()):
            if not (self.path / "zarr.json").is_file():
                some = sorted(entry.name for entry in self.path.iterdir())[:3]
                raise CacheError(
                    f"{self.path}: holds something else ({', '.join(some)}); expected an empty folder or a cache"
                )
            differences = _differences(_read_root(self.path)["key"], self.key)
            if differences:
                raise CacheMismatchError(
                    f"{self.path}: was computed differently: {'; '.join(differences)}; choose another "
                    "--out, or remove it"
                )
            if not os.access(self.path / "frames", os.W_OK):
                raise CacheError(f"{self.path}: no permission to write there")
            return
        self.path.resolve().parent.mkdir(parents=True, exist_ok=True)
        with _staging(self.path) as staging:
            attrs = {
                "kind": _KIND,
                "key": self.key,
                "classes": list(classes),
                "colors": [list(c) for c in colors],
            }
            zarr.create_group(staging / "root", zarr_format=3, attributes=attrs)
            zarr.create_group(staging / "root" / "frames", zarr_format=3)
            try:
                os.rename(staging / "root", self.path)  # onto nothing, or onto an empty folder
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                self._create_or_check(classes, colors)  # another writer came first

    def __enter__(self) -> CacheWriter:
        try:
            self._staging = _staging(self.path)
            self._folder = self._staging.__enter__()
        except OSError as error:
            raise _write_error(self._staging.parent, error) from error
        return self

    def __exit__(self, *exc: object) -> None:
        self._staging.__exit__(*exc)

    def frame_digest(self, frame_id: str) -> str:
        """Content hash that the frame in the cache was computed from."""
        return str(_complete_attrs(self.path / "frames" / frame_id).get("digest"))

    def commit(
        self, dataset: xr.Dataset, stages: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext()
    ) -> bool:
        """Publish a frame whole, or not at all; several threads may do so at once.

        Parameters
        ----------
        dataset : xarray.Dataset
            See `gradunc_viz.schema.frame.VARIABLES`.
        stages : callable, optional
            Told when it enters the stages "encode" and "write", see `gradunc_viz.stages.Stages`.

        Returns
        -------
        bool
            False if another writer published the same frame first.

        Raises
        ------
        CacheError
            If it cannot be written (disk full, no permission); what is in the cache already is untouched.
        SchemaError
            If it does not follow the schema.
        """
        validate(dataset)
        frame_id = check_frame_id(dataset.attrs["frame_id"])
        staged = self._folder / uuid.uuid4().hex
        target = self.path / "frames" / frame_id
        try:
            with stages("encode"):
                files = _encoded(dataset)
            with stages("write"):
                _put_files(files, staged)
                self._withdraw_summary()
                os.rename(staged, target)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise _write_error(target, error) from error
        self.existing.add(frame_id)
        return True

    def _withdraw_summary(self) -> None:
        """Take the table away before a frame comes: one of the same id may have been removed by hand."""
        with suppress(FileNotFoundError):
            os.rename(self.path / "summary", self._folder / uuid.uuid4().hex)


def _write_error(path: Path, error: OSError) -> CacheError:
    if error.errno == errno.ENOSPC:
        return CacheError(f"{path}: the disk is full; free some space and run again, finished frames are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CacheError(f"{path}: no permission to write there")
    if error.errno in (errno.EXDEV, errno.EBUSY):
        return CacheError(f"{path}: lies on another file system than the folder it is in; choose a folder inside it")
    return CacheError(f"{path}: cannot be written ({error.strerror or error})")


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Name what differs between two keys, one text per leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for name in sorted({*old, *new} - {"name"})  # what a network is called decides nothing
            for text in _differences(old.get(name), new.get(name), f"{where}.{name}" if where else name)
        ]
    return [] if old == new else [f"{where} was {_brief(old)}, now {_brief(new)}"]


def _brief(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:28] + "..." + text[-28:]


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
