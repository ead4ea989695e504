"""A film of a cache: image, prediction and score of each frame side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..datasets.frames import Frame
from ..deploy.film import Film, check_film
from ..schema.errors import CacheError
from ..schema.scores import lookup
from ..store.cache import Cache
from ..store.frame import decode_image, read_variable, score_values
from ..store.progress import tracked
from .spread import sample_pixels

__all__ = ["write_film"]

_SAMPLE_FRAMES = 32


def write_film(
    cache: Cache,
    frames: Iterable[Frame],
    out: Path,
    score: str | None = None,
    *,
    rate: float = 10,
    limits: tuple[float, float] | None = None,
    progress: bool = True,
) -> Film:
    """Write an MP4 or a GIF of the frames that a cache holds, in their order.

    Parameters
    ----------
    cache
    frames
        Those that it was computed from; their images are read anew where the cache has none.
    out
        Ends in ``.mp4``, which needs PyAV, or ``.gif``.
    score
        By default the first of the cache.
    rate
        Frames per second.
    limits
        Values of the score that are darkest and brightest, the same throughout; by default the 1 % and 99 % quantiles
        of frames spread over all.
    progress
        Whether a progress bar is shown.

    Raises
    ------
    GraduncError
        If the cache holds none of the frames, or not this score; if the film cannot be written, or is a file that the
        frames are read from.
    """
    shown = [frame for frame in frames if frame.id in cache]
    if not shown:
        raise CacheError(f"{cache.path}: holds none of the frames, so that there is nothing to show in {out}")
    check_film(out, (file for frame in shown for file in frame.sources))
    name = cache.scores[0] if score is None else lookup(score).name
    if limits is None:
        drawn = [frame.id for frame in shown[:: -(-len(shown) // _SAMPLE_FRAMES)]]
        sample = sample_pixels((score_values(cache[id], name) for id in drawn), len(drawn))
        low, high = np.quantile(sample, (0.01, 0.99))
        limits = float(low), float(high)
    with Film(out, rate, cache.colors, name, limits) as film:
        for frame in tracked(shown, f"writing {out.name}", shown=progress):
            dataset = cache[frame.id]
            image = decode_image(dataset) if "image" in dataset else frame.image
            film.add(image, read_variable(dataset, "prediction"), score_values(dataset, name), frame.id)
    return film
