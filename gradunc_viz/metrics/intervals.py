"""95 % intervals over resampled frames."""

from __future__ import annotations

import numpy as np

__all__ = ["drawn_frames", "interval", "mean_of_drawn"]

_ENDS = (0.025, 0.975)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Ends of the interval that holds 95 % of the samples; NaN where there is none."""
    finite = samples[np.isfinite(samples)]
    low, high = np.quantile(finite, _ENDS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def drawn_frames(frames: int, samples: int, seed: int) -> np.ndarray:
    """Numbers of frames drawn with replacement, (samples, frames)."""
    return np.random.default_rng(seed).integers(0, frames, (samples, frames)) if frames else np.empty((0, 0), int)


def mean_of_drawn(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Mean of a value of each frame over samples of frames, NaN left out; (samples,)."""
    chosen = values[drawn]
    used = np.isfinite(chosen)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(used, chosen, 0).sum(1) / used.sum(1))
