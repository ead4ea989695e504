"""Arrays behind the panes: one frame, read piece by piece when first asked for and shared by everybody who looks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cached_property

import numpy as np
import xarray as xr

from ...schema.errors import UnknownFrameError
from ...schema.frame import IGNORE
from ...schema.tasks import TASKS
from ...store.cache import Cache
from ...store.frame import (
    cached_scores,
    decode_image,
    logits_at,
    probabilities_at,
    read_variable,
    score_values,
    scores_at,
)

__all__ = ["FrameData", "FrameStore"]


class FrameData:
    """What can be shown of one frame; arrays are read when first asked for, once, and kept.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache.

    Attributes
    ----------
    id : str
    size : (int, int)
        Height and width in pixels.
    nbytes : int
        Bytes of the arrays that were read so far.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self.dataset = dataset
        self.id = str(dataset.attrs["frame_id"])
        self.size = (int(dataset.sizes["y"]), int(dataset.sizes["x"]))
        self.nbytes = 0
        self._arrays: dict[str, np.ndarray] = {}
        self._lock = threading.RLock()

    def _kept(self, name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = array = read()
                self.nbytes += array.nbytes  # counted here, as nobody may walk over what another thread fills
            return self._arrays[name]

    def _values(self, name: str) -> np.ndarray:
        return self._kept(name, lambda: read_variable(self.dataset, name))

    @property
    def image(self) -> np.ndarray:
        """The picture, (y, x, 3) uint8."""
        return self._kept("image", lambda: decode_image(self.dataset))

    @property
    def prediction(self) -> np.ndarray:
        """Class ids, (y, x)."""
        return self._values("prediction")

    @cached_property
    def classes_predicted(self) -> list[int]:
        """Ids of the classes that some pixel is predicted as."""
        return np.flatnonzero(np.bincount(self.prediction.ravel())).tolist()

    @property
    def label(self) -> np.ndarray | None:
        """Class ids of the annotation, (y, x), see `gradunc_viz.schema.frame.ignored`; None without."""
        return self._values("label") if "label" in self.dataset else None

    @property
    def anomaly(self) -> np.ndarray | None:
        """0 known, 1 unknown object, 255 ignore, (y, x); None without."""
        return self._values("anomaly") if "anomaly" in self.dataset else None

    def score(self, name: str) -> np.ndarray:
        """Oriented score at image resolution, (y, x): larger is more uncertain."""
        return self._kept(f"score {name}", lambda: score_values(self.dataset, name))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the frame has labels for."""
        return tuple(name for name, task in TASKS.items() if task.mask in self.dataset)

    def mask(self, task: str) -> np.ndarray | None:
        """The labels of a task, (y, x), see `gradunc_viz.schema.frame.ignored`; None without."""
        name = TASKS[task].mask
        return self._values(name) if name in self.dataset else None

    def target(self, task: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Which pixels a score should find, and which are evaluated; both (y, x) bool. None without labels."""
        mask = self.mask(task)
        frame = {} if mask is None else {TASKS[task].mask: mask, "prediction": self.prediction}
        return TASKS[task].truth(frame)

    def mistakes(self) -> np.ndarray | None:
        """0 right, 1 wrong, 255 ignored, (y, x); None without labels."""
        target = self.target("error")
        return None if target is None else np.where(target[1], target[0], IGNORE).astype("u1")

    def holds(self, y: int, x: int) -> bool:
        """Whether a pixel lies in the frame."""
        return 0 <= y < self.size[0] and 0 <= x < self.size[1]

    def scores_at(self, y: int, x: int, names: tuple[str, ...]) -> dict[str, float]:
        """Oriented scores of one pixel, without making whole maps of them."""
        for name in ("head_score", "pixel_score"):
            if name in self.dataset:
                self._values(name)  # read once, for every pixel, and counted
        return scores_at(self.dataset, y, x, names)

    @property
    def of_queries(self) -> bool:
        """Whether a query model scored it: its logits are class scores S then."""
        return "logits_are" in self.dataset.attrs

    def probabilities(self, y: int, x: int) -> np.ndarray:
        """Softmax of the logits at one pixel, (class,); of a query model its class scores S."""
        return (logits_at if self.of_queries else probabilities_at)(self.dataset, y, x)

    def norm_cell(self, name: str, y: int, x: int) -> tuple[float, int, int] | None:
        """Cached value of a norm in the head's cell of a pixel, not oriented, and that cell (v, u); None without."""
        names = cached_scores(self.dataset, "head")
        if name not in names:
            return None
        norms = self._values("head_score")[names.index(name)]
        v, u = y * norms.shape[0] // self.size[0], x * norms.shape[1] // self.size[1]
        return float(norms[v, u]), v, u


class FrameStore:
    """Frames that were looked at last, shared by all sessions, within a number of bytes.

    Parameters
    ----------
    limit : int
        Bytes of arrays kept; the frame asked for last always stays.
    """

    def __init__(self, limit: int = 400_000_000) -> None:
        self.limit = limit
        # not cachetools, which counts an entry once, when it is put in: frames grow while they are looked at
        self._frames: OrderedDict[Hashable, FrameData] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, cache: Cache, frame_id: str) -> FrameData:
        """Return a frame, opened if it is not at hand.

        Raises
        ------
        UnknownFrameError, CacheError
            As `Cache.__getitem__`.
        """
        if frame_id not in cache:
            raise UnknownFrameError(cache.path, frame_id, cache.ids)
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
