"""95 % intervals over resampled frames."""

from __future__ import annotations

import numpy as np

__all__ = ["drawn_frames", "interval", "mean_of_drawn", "moved_samples"]

_ENDS = (0.025, 0.975)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Ends of the interval that holds 95 % of the samples; NaN where there is none."""
    finite = samples[np.isfinite(samples)]
    low, high = np.quantile(finite, _ENDS) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def moved_samples(samples: np.ndarray, by: float) -> np.ndarray:
    """Samples moved by a number; shares stay between 0 and 1. As they are, where the number is none."""
    if not np.isfinite(by):
        return samples
    finite = samples[np.isfinite(samples)]
    shares = len(finite) > 0 and finite.min() >= 0 and finite.max() <= 1
    return (samples + by).clip(0, 1) if shares else samples + by


def drawn_frames(frames: int, samples: int, seed: int) -> np.ndarray:
    """Numbers of frames drawn with replacement, (samples, frames)."""
    return np.random.default_rng(seed).integers(0, frames, (samples, frames)) if frames else np.empty((0, 0), int)


def mean_of_drawn(values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Mean of a value of each frame over samples of frames, NaN left out; (samples,)."""
    chosen = values[drawn]
    used = np.isfinite(chosen)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(used, chosen, 0).sum(1) / used.sum(1))
