"""Where the pipeline gets imported maps from: files, and the cache for scores that it holds already."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..datasets.decoding import read_mask
from ..datasets.files_by_id import FilesById, combined_digest, content_digest
from ..datasets.frames import Frame
from ..kernels.resize import bilinear
from ..run.decode import DecodedFrame, decode
from ..run.pipeline import LeftOut, Scored
from ..run.settings import decisive
from ..run.stages import Stages
from ..schema.errors import CacheMismatchError, FrameError, GraduncError
from ..schema.frame import SCHEMA_VERSION
from ..schema.scores import lookup
from ..scores.maps import ScoredImage, ScoreOptions
from ..store.cache import Cache
from ..store.frame import cached_scores, read_variable
from ..store.progress import tracked
from .map_files import MapFiles
from .spread import bin_edges, sample_pixels

if TYPE_CHECKING:
    from .imports import ImportSettings

__all__ = ["ImportedMaps"]


@dataclass
class ImportedMaps:
    """Frames with maps and predictions from files; a `gradunc_viz.run.pipeline.MapSource`.

    Parameters
    ----------
    maps : dict of score -> MapFiles
        What is imported.
    settings : ImportSettings
    classes : tuple of str
    stages : Stages
        Told what takes how long.
    cached : Cache, optional
        What it is imported into, if there is something.

    Attributes
    ----------
    edges : dict of score -> float32 or float64 array
        Edges of the bins that all frames are counted in.
    held : dict of frame -> dict of score -> str
        Digests of the maps, each with its frame, that the cache holds.
    resized : set of str
        Ids of the frames of which a map was not of the image's size.
    """

    maps: Mapping[str, MapFiles]
    settings: ImportSettings
    classes: tuple[str, ...]
    stages: Stages
    cached: Cache | None = None
    edges: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    held: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    _combined: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    resized: set[str] = field(default_factory=set, repr=False)

    device = torch.device("cpu")
    ahead = 2
    what = "importing maps"

    def __post_init__(self) -> None:
        self._predictions = (
            None if self.settings.predictions is None else FilesById(self.settings.predictions, (".png",), "prediction")
        )
        if self.cached is not None:
            self.edges = {name: _edges(text) for name, text in self._stored["edges"].items()}
            self.held = {frame_id: _held(self.cached, frame_id) for frame_id in self.cached.ids}
            self._combined = frozenset(self.cached.key.get("combined", ()))

    # ----------------------------------------------------------------------------------------------------------------
    # what the cache is, and becomes

    @property
    def _stored(self) -> dict[str, Any]:
        return {} if self.cached is None else self.cached.key["settings"]

    @property
    def old(self) -> tuple[str, ...]:
        """Scores of the cache."""
        return () if self.cached is None else self.cached.scores

    @property
    def new(self) -> tuple[str, ...]:
        """Scores that the cache lacks."""
        return tuple(name for name in self.maps if name not in self.old)

    @property
    def scores(self) -> tuple[str, ...]:
        """Scores that the cache has in the end."""
        return (*self.old, *self.new)

    def key(self, scores: Sequence[str]) -> dict[str, Any]:
        """State what decides whether a cached frame may be reused, of a cache with these scores."""
        orientation = self._stored.get("orientation", {}) | dict.fromkeys(self.maps, self.settings.orientation)
        return {
            "schema_version": SCHEMA_VERSION,
            "network": {
                "name": _method(scores),
                "weights": "imported maps",
                "head": "none",
                "classes": list(self.classes),
            },
            "settings": {
                **decisive(self.settings),
                "scores": list(scores),
                "orientation": orientation,
                "predictions": self.with_predictions,
                "input_size": None,
                "edges": {name: _edges_text(edges) for name, edges in self.edges.items()},
            },
        } | ({"combined": self.cached.key["combined"]} if self.cached is not None and self._combined else {})

    def stored_key(self) -> dict[str, Any]:
        """The key that the cache has if it may be resumed, or will have if there is none."""
        if self.cached is None:
            return self.key(self.scores)
        key = self.key(self.old)
        known = {name: value for name, value in key["settings"]["orientation"].items() if self._is_counted(name)}
        stored = {"edges": self._stored["edges"], "orientation": self._stored["orientation"] | known}
        return {**key, "settings": {**key["settings"], **stored}}

    def _is_counted(self, name: str) -> bool:
        """Whether frames of the cache hold a score."""
        return name in self.old or any(name in digests for digests in self.held.values())

    @property
    def with_predictions(self) -> bool:
        """Whether frames have predictions, from files or in the cache."""
        return self._predictions is not None or bool(self._stored.get("predictions"))

    def lacking(self) -> list[str]:
        """Frames of the cache that do not hold all scores."""
        imported = set(self.scores) - self._combined
        return [frame_id for frame_id, digests in self.held.items() if not imported <= digests.keys()]

    def find_edges(self, name: str, ids: Sequence[str], progress: bool) -> None:
        """Choose the edges of the bins of a score from its maps of some frames, unless frames were counted in some."""
        if name in self.edges and self._is_counted(name):
            return

        def readable() -> Iterator[np.ndarray]:
            last: GraduncError | None = None
            some = False
            for frame_id in tracked(ids, f"looking at maps of {name}", unit="map", shown=progress):
                try:
                    values = self.oriented(name, frame_id)
                except GraduncError as error:
                    if self.settings.on_error == "stop":
                        raise
                    last = error  # reported when its turn comes
                    continue
                some = True
                yield values
            if last is not None and not some:
                raise last

        self.edges[name] = bin_edges(sample_pixels(readable(), len(ids)))

    # ----------------------------------------------------------------------------------------------------------------
    # one frame

    def oriented(self, name: str, frame_id: str) -> np.ndarray:
        """The map of a score as it is stored, larger is more uncertain."""
        values = self.maps[name][frame_id]
        return values if self.settings.orientation > 0 else -values

    def digests(self, frame: Frame) -> dict[str, str]:
        """Content hash of the frame, its map and its prediction for every score that is known of it."""
        own = {}
        prediction = self._prediction_path(frame)
        for name, maps in self.maps.items():
            if frame.id not in maps:
                raise FrameError(
                    f"{maps.path}: no map of frame {frame.id!r} ({frame.image_path}); expected {frame.id}.npy, "
                    ".npz, .hdf5, .h5, .tif or .tiff"
                )
            parts = [frame.digest(), maps.digest(frame.id)]
            if prediction is not None:
                parts.append(content_digest(prediction))
            own[name] = combined_digest(parts)
        return self.held.get(frame.id, {}) | own

    def digest(self, frame: Frame) -> str:
        """Content hash of all that the frame holds."""
        return _combined(self.digests(frame))

    def files(self, frame: Frame) -> str:
        """Name what the frame is made of."""
        maps = ", ".join(f"{maps.file(frame.id)} (as {name}, another name adds it)" for name, maps in self.maps.items())
        return f"{maps} and its frame"

    def read(self, frame: Frame) -> Scored | LeftOut:
        """Read a frame and its maps."""
        try:
            with self.stages("decode"):
                decoded = decode(frame, len(self.classes), self.settings.images)
                return self._scored(frame, decoded)
        except GraduncError as error:
            return LeftOut(frame.id, error)

    def scored(self, ready: Iterator[Scored | LeftOut]) -> Iterator[Scored | LeftOut]:
        """Hand on what was read: the maps are there already."""
        return ready

    def _scored(self, frame: Frame, decoded: DecodedFrame) -> Scored:
        """Maps and prediction of a frame as if a network had given them."""
        digests, cached = self.digests(frame), self._cached_maps(frame)
        for name, digest in self.held.get(frame.id, {}).items():
            if digests[name] != digest:
                raise CacheMismatchError(
                    f"frame {frame.id!r} was imported from other content than {self.files(frame)} have now; choose "
                    "another folder for the cache"
                )
        prediction = self._prediction(frame, decoded)
        maps, sizes = [], {}
        for name in self.scores:
            if name in self.maps:
                values = self.oriented(name, frame.id)
                sizes[name] = list(values.shape)
                maps.append(self._at_image_size(values, self.maps[name].file(frame.id), frame, decoded.size))
            elif name in cached:
                maps.append(cached[name])
            else:
                raise FrameError(
                    f"frame {frame.id!r} ({frame.image_path}) is not in the cache, so that there is no map of {name} "
                    + (
                        "for it, which is combined of others; choose another folder to add frames"
                        if name in self._combined
                        else f"for it; import the maps of {', '.join(self.scores)} together to add frames"
                    )
                )
        pixel = torch.from_numpy(np.stack(maps))
        wide = pixel if pixel.dtype == torch.float64 else pixel.float()
        attrs: dict[str, Any] = {
            "network": _method(self.scores),
            "map_sizes": sizes,
            "map_digests": {name: digests[name] for name in self.scores if name not in self._combined},
        }
        if self.cached is not None and frame.id in self.cached and self._combined:
            attrs["combined"] = self.cached[frame.id].attrs["combined"]
        edges = {name: torch.from_numpy(self.edges[name]) for name in self.scores if name not in self._combined}
        scored = ScoredImage(torch.from_numpy(prediction), oriented=wide, pixel=pixel)
        decoded = replace(decoded, digest=_combined(attrs["map_digests"]))
        return Scored(decoded, scored, ScoreOptions(self.scores), attrs, edges)

    def _at_image_size(self, values: np.ndarray, file: Path, frame: Frame, size: tuple[int, int]) -> np.ndarray:
        stored = values.shape
        if (stored[0] - stored[1]) * (size[0] - size[1]) < 0:
            raise FrameError(
                f"{file}: map is {stored[0]} x {stored[1]} (height x width), "
                f"but {frame.image_path.name} is {size[0]} x {size[1]}; is it transposed?"
            )
        if stored == size:
            return values
        self.resized.add(frame.id)
        if values.dtype != np.float64:
            return bilinear(values, size)
        whole = torch.from_numpy(np.ascontiguousarray(values))[None, None]
        return np.asarray(torch.nn.functional.interpolate(whole, size, mode="bilinear", align_corners=False)[0, 0])

    def _cached_maps(self, frame: Frame) -> dict[str, np.ndarray]:
        """Maps of the frame in the cache, (y, x) each, as they are stored."""
        if self.cached is None or frame.id not in self.cached:
            return {}
        dataset = self.cached[frame.id]
        return dict(zip(cached_scores(dataset, "pixel"), read_variable(dataset, "pixel_score"), strict=True))

    def _prediction_path(self, frame: Frame) -> Path | None:
        if self._predictions is None:
            return None
        return self._predictions.find(frame.id) or self._predictions.path / f"{frame.id}.png"

    def _prediction(self, frame: Frame, decoded: DecodedFrame) -> np.ndarray:
        """Class ids of the prediction; those of the cache hold for scores that are added to it."""
        path, size = self._prediction_path(frame), decoded.size
        ids = np.zeros(size, "i8") if path is None else self._read_prediction(path, frame, size)
        if self.cached is None or frame.id not in self.cached:
            return ids
        dataset = self.cached[frame.id]
        stored = {name: read_variable(dataset, name) for name in ("prediction", "label", "anomaly") if name in dataset}
        if path is None and stored["prediction"].shape == size:
            ids = stored["prediction"].astype("i8")
        now: dict[str, np.ndarray | None] = {"prediction": ids, "label": decoded.label, "anomaly": decoded.anomaly}
        other = [name for name, values in now.items() if not _same(values, stored.get(name))]
        if decoded.encoded and "image" in dataset and read_variable(dataset, "image").tobytes() != decoded.encoded:
            other.append("image")
        if other:
            raise CacheMismatchError(
                f"{self.cached.path}: frame {frame.id!r} has another {' and '.join(other)} there than "
                f"{frame.image_path} and its masks have now; choose another folder for the cache"
            )
        return ids

    def _read_prediction(self, path: Path, frame: Frame, size: tuple[int, int]) -> np.ndarray:
        ids = read_mask(path, True)
        if ids.shape != size:
            raise FrameError(f"{path}: prediction is {ids.shape}, expected {size} as {frame.image_path.name} is")
        if ids.max() >= len(self.classes):
            raise FrameError(f"{path}: holds class id {ids.max()}, expected 0..{len(self.classes) - 1}")
        return ids.astype("i8")


def _method(scores: Sequence[str]) -> str:
    """What stands in place of a network's name."""
    return lookup(scores[0]).title if len(scores) == 1 else f"{len(scores)} imported methods"


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other if one is None or other is None else np.array_equal(one, other)


def _held(cache: Cache, frame_id: str) -> dict[str, str]:
    attrs = cache.frame_attrs(frame_id)
    # caches of a single score used to say no more than the digest of the frame
    found: dict[str, str] = attrs.get("map_digests") or dict.fromkeys(cache.scores, str(attrs.get("digest")))
    return found


def _combined(digests: Mapping[str, str]) -> str:
    if len(digests) == 1:
        return next(iter(digests.values()))
    return combined_digest([f"{name} {digest}" for name, digest in sorted(digests.items())])


def _edges_text(edges: np.ndarray) -> str:
    kind = f"f{edges.dtype.itemsize}"
    return f"{kind}:{base64.b64encode(edges.astype('<' + kind).tobytes()).decode()}"


def _edges(text: str) -> np.ndarray:
    kind, _, encoded = text.partition(":")
    return np.frombuffer(base64.b64decode(encoded), f"<{kind}").astype(kind)
