"""What scores cost: milliseconds, where a run has measured them (``--profile``), and bytes of the cache.

The times stand in a file of their own beside the frames, so that they are part of no frame and of no key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ..schema.errors import CacheError
from ..schema.frame import VARIABLES
from .backend import Backend
from .cache import Cache
from .choice import Caches, opened
from .group import CHUNKS, COST, ROOT, UNREADABLE, frame_group, open_group

__all__ = ["cost", "measured_cost"]

_FRAMES = 32
"""Frames whose bytes are looked at, at most."""


def measured_cost(cache: Cache) -> Mapping[str, Any] | None:
    """What was measured when frames were computed under ``profile``; None where nothing was.

    Raises
    ------
    CacheError
        If it cannot be read.
    """
    try:
        found = json.loads(cache.backend.read(COST))
        scores = {str(name): float("nan" if ms is None else ms) for name, ms in found["scores"].items()}
        return {**found, "scores": scores, "forward": float(found["forward"]), "together": float(found["together"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(f"{cache.path / COST}: cannot be read ({error}); remove it, it tells times alone") from error


def cost(cache: Caches) -> xr.Dataset:
    """Tell what each score of a cache costs: time, if ``profile`` was asked for when it was computed, and bytes.

    Parameters
    ----------
    cache : Cache or path

    Returns
    -------
    xarray.Dataset (score)
        ``ms``: milliseconds for the first frame if the score is computed alone, the best of three; NaN where nobody
        measured. Each includes prediction and confidence, which every frame has, and kernels share work, so that the
        sum is more than what all take together. ``share_of_forward``: the same over the forward pass. ``bytes``: of a
        frame on disk, map and counts, the mean of up to 32 frames; what all scores share is split evenly. Attributes
        ``forward_ms``, ``together_ms``, ``device``, ``frame`` and ``size`` say of what.

    Raises
    ------
    CacheError
        If it cannot be read.
    """
    own = opened(cache)
    found = measured_cost(own) or {"scores": {}, "forward": np.nan, "together": np.nan}
    ms = np.array([found["scores"].get(name, np.nan) for name in own.scores])
    places = np.unique(np.linspace(0, len(own) - 1, min(len(own), _FRAMES)).round().astype(int)) if len(own) else ()
    by_frame = [_bytes(own.backend, own.ids[place]) for place in places]
    size = [np.mean([one.get(name, np.nan) for one in by_frame]) if by_frame else np.nan for name in own.scores]
    return xr.Dataset(
        {
            "ms": ("score", ms, {"long_name": "time for one frame if computed alone", "units": "ms"}),
            "share_of_forward": ("score", ms / found["forward"], {"long_name": "the same over the forward pass"}),
            "bytes": ("score", np.array(size), {"long_name": "bytes of a frame, map and counts", "units": "B"}),
        },
        coords={"score": np.array(own.scores, dtype=object)},
        attrs={
            "forward_ms": found["forward"],
            "together_ms": found["together"],
            **{name: found[name] for name in ("device", "frame", "size") if name in found},
        },
    )


def _bytes(backend: Backend, frame_id: str) -> dict[str, float]:
    """Bytes of each score in a frame: its own chunks, and an even share of what belongs to all scores."""
    group = open_group(backend, frame_group(frame_id), partly=True)
    try:
        names = {
            dim: [str(score) for score in np.asarray(group.array(dim)[...])]
            for dim in ("score", "score_head", "score_pixel")
            if dim in group.arrays
        }
    except UNREADABLE as error:
        raise CacheError(f"{group.where}: frame cannot be read ({error})") from error
    found = dict.fromkeys(names.get("score", ()), 0.0)
    for file, size in group.store.members.sizes.items():
        if file == ROOT:
            continue
        array, _, part = file.partition("/")
        dims = VARIABLES[array].dims if array in VARIABLES else (array,)
        dim = next((dim for dim in dims if dim in names), None)
        if dim is None:
            continue
        if dim in CHUNKS.get(array, ()) and part.startswith("c."):
            found[names[dim][int(part.split(".")[1 + dims.index(dim)])]] += size
        else:
            for name in names[dim]:
                found[name] += size / len(names[dim])
    return found
