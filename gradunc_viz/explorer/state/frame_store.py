"""Arrays behind the panes: one frame, read piece by piece when first asked for and shared by everybody who looks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from ...schema.errors import CacheError
from ...schema.frame import IGNORE
from ...schema.scores import LOG2_FLOOR, lookup
from ...store.cache import Cache
from ...store.frame import decode_image, score

__all__ = ["FrameData", "FrameStore"]

_SAMPLE = 100_000
"""Pixels that are enough for a colour range."""


class FrameData:
    """What can be shown of one frame; arrays are read when first asked for and kept.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache.

    Attributes
    ----------
    image : array (y, x, 3), uint8
    prediction : array (y, x)
        Class ids.
    label : array (y, x), optional
        Class ids, 255 = ignore.
    anomaly : array (y, x), optional
        0 known, 1 unknown object, 255 = ignore.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self.id = str(dataset.attrs["frame_id"])
        self.size = (int(dataset.sizes["y"]), int(dataset.sizes["x"]))
        self._scores: dict[str, np.ndarray] = {}
        self._lock = threading.RLock()

    @cached_property
    def image(self) -> np.ndarray:
        """The picture, (y, x, 3) uint8."""
        return decode_image(self.dataset)

    @cached_property
    def prediction(self) -> np.ndarray:
        """Class ids, (y, x)."""
        return self._values("prediction")

    @cached_property
    def classes_predicted(self) -> list[int]:
        """Ids of the classes that some pixel is predicted as."""
        return np.flatnonzero(np.bincount(self.prediction.ravel())).tolist()

    @cached_property
    def label(self) -> np.ndarray | None:
        """Class ids of the annotation, (y, x); None without."""
        return self._values("label") if "label" in self.dataset else None

    @cached_property
    def anomaly(self) -> np.ndarray | None:
        """0 known, 1 unknown object, 255 ignore, (y, x); None without."""
        return self._values("anomaly") if "anomaly" in self.dataset else None

    def _values(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self.dataset[name].values)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # codecs raise the last
            raise CacheError(f"frame {self.id!r}: {name} cannot be read ({error})") from error

    def score(self, name: str) -> np.ndarray:
        """Oriented score at image resolution, (y, x) float32: larger is more uncertain."""
        with self._lock:
            if name not in self._scores:
                try:
                    self._scores[name] = np.asarray(score(self.dataset, name).values, "f4")
                except (OSError, ValueError, TypeError, RuntimeError) as error:
                    raise CacheError(f"frame {self.id!r}: score {name!r} cannot be read ({error})") from error
            return self._scores[name]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the frame has labels for."""
        found = {"error": "label", "anomaly": "anomaly"}
        return tuple(task for task, variable in found.items() if variable in self.dataset)

    def target(self, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which pixels a score should find, and which are evaluated; both (y, x) bool. None without labels."""
        if task == "error" and self.label is not None:
            return self.prediction != self.label, self.label != IGNORE
        if task == "anomaly" and self.anomaly is not None:
            return self.anomaly == 1, self.anomaly != IGNORE
        return None

    def mistakes(self) -> np.ndarray | None:
        """0 right, 1 wrong, 255 ignored, (y, x); None without labels."""
        target = self.target("error")
        return None if target is None else np.where(target[1], target[0], IGNORE).astype("u1")

    def holds(self, y: int, x: int) -> bool:
        """Whether a pixel lies in the frame."""
        return 0 <= y < self.size[0] and 0 <= x < self.size[1]

    def scores_at(self, y: int, x: int, names: tuple[str, ...]) -> dict[str, float]:
        """Oriented scores of one pixel, without making whole maps of them."""
        return {name: self._at(name, y, x) for name in names}

    def _at(self, name: str, y: int, x: int) -> float:
        if name in self._scores:
            return float(self._scores[name][y, x])
        entry = lookup(name)
        if entry.at_head and name in self.head_names:
            norms = self.head_score[self.head_names.index(name)]
            return self._interpolated(norms, y, x) * entry.orientation
        if name in self.pixel_names:
            return float(self.pixel_score[self.pixel_names.index(name), y, x]) * entry.orientation
        return float(self.score(name)[y, x])

    def _interpolated(self, norms: np.ndarray, y: int, x: int) -> float:
        cells, down, across = self._cells(norms, y, x)
        top = float(cells.max())
        with np.errstate(divide="ignore"):  # norms are resized as norms, not as logarithms
            mean = down @ np.exp2(cells.astype("f8") - top) @ across
            return max(float(np.log2(mean)) + top, LOG2_FLOOR)

    def _cells(self, maps: Any, y: int, x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Up to two by two cells (..., v, u) around a pixel, and their weights down and across."""
        align = bool(self.dataset.attrs["align_corners"])
        places = [
            _around(place, target, source, align)
            for place, target, source in zip((y, x), self.size, maps.shape[-2:], strict=True)
        ]
        (top, down), (left, across) = places
        cells = np.asarray(maps[..., top : top + len(down), left : left + len(across)])
        return cells, down, across

    def probabilities(self, y: int, x: int) -> np.ndarray:
        """Softmax of the logits at one pixel, (class,), as `gradunc_viz.store.frame.class_probabilities`.

        Raises
        ------
        CacheError
            If the cache has no logits.
        """
        if "logits" not in self.dataset:
            raise CacheError("the cache has no logits, only imported maps")
        try:
            cells, down, across = self._cells(self.dataset["logits"].variable, y, x)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise CacheError(f"frame {self.id!r}: logits cannot be read ({error})") from error
        logits = np.einsum("cvu,v,u->c", cells.astype("f8"), down, across)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    @cached_property
    def head_names(self) -> list[str]:
        """Scores cached at the head's resolution."""
        return [str(name) for name in self.dataset["score_head"].values] if "head_score" in self.dataset else []

    @cached_property
    def pixel_names(self) -> list[str]:
        """Scores cached at the image's resolution."""
        return [str(name) for name in self.dataset["score_pixel"].values] if "pixel_score" in self.dataset else []

    @cached_property
    def head_score(self) -> np.ndarray:
        """Norms, (score_head, v, u), not oriented."""
        return self._values("head_score")

    @cached_property
    def pixel_score(self) -> np.ndarray:
        """Other scores, (score_pixel, y, x), not oriented."""
        return self._values("pixel_score")

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that were read."""
        kept = [value for value in self.__dict__.values() if isinstance(value, np.ndarray)]
        return sum(array.nbytes for array in (*kept, *self._scores.values()))


def _around(place: int, target: int, source: int, align_corners: bool) -> tuple[int, np.ndarray]:
    """First of the one or two cells of a head's map that a pixel is interpolated from, and their weights."""
    if align_corners:
        at = place * (source - 1) / (target - 1) if target > 1 else 0.0
    else:
        at = max((place + 0.5) * source / target - 0.5, 0.0)
    first = min(int(at), source - 1)
    share = min(at - first, 1.0)
    return (first, np.array([1 - share, share])) if first + 1 < source else (first, np.ones(1))


# --------------------------------------------------------------------------------------------------------------------
# frames that were looked at last


class FrameStore:
    """Frames that were looked at last, shared by all sessions, within a number of bytes.

    Parameters
    ----------
    limit : int
        Bytes of arrays kept; the frame asked for last always stays.
    """

    def __init__(self, limit: int = 400_000_000) -> None:
        self.limit = limit
        self._frames: OrderedDict[Hashable, FrameData] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, cache: Cache, frame_id: str) -> FrameData:
        """Return a frame, opened if it is not at hand.

        Raises
        ------
        KeyError, CacheError
            As `Cache.__getitem__`.
        """
        if frame_id not in cache:
            raise KeyError(f"{cache.path}: no frame {frame_id!r} among its {len(cache)} frames")
        key = cache.frame_version(frame_id)  # a frame computed anew is another one
        with self._lock:
            found = self._frames.get(key)
            if found is not None:
                self._frames.move_to_end(key)
        if found is None:
            found = FrameData(cache[frame_id])
        with self._lock:
            found = self._frames.setdefault(key, found)
            while len(self._frames) > 1 and sum(frame.nbytes for frame in self._frames.values()) > self.limit:
                self._frames.popitem(last=False)
        return found

    def __len__(self) -> int:
        return len(self._frames)


# --------------------------------------------------------------------------------------------------------------------
# colour ranges


# --------------------------------------------------------------------------------------------------------------------
# the threshold
