"""What a frame tells an evaluation: counts per bin of every score, which merge over frames.

Bins lie on a *lattice* that no frame chooses, so that counts of different frames add up. The lattice is uniform with a
step of 1/64 on an axis on which every score spreads evenly: the oriented score itself where it is unbounded (log2
norms, logits), and log2(s / (1 - s)) where it is bounded and scaled to s in [0, 1] (1 - max softmax, margin, entropy
over ln C). A frame stores the window of the lattice that it occupies. Where a window would exceed 4096 bins its
step is doubled (`bin_level`) until it does not, and where it would take less than 512 the step is halved; levels are
nested, so a finer frame is made coarser exactly.

Maps that others computed may be spread in any way whatever, so their lattice is one of values: the edges of its bins
are quantiles of the whole set, fixed when the cache is made, and all frames occupy the whole of it.

The first and the last bin of a window are set apart for the lowest and the highest value a score can take: probability
exactly 0 or 1, a vanishing gradient. The smallest and the largest score in each bin are kept as well: where they are
equal the bin is one value and curves through it are exact, elsewhere they are interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .schema import BINS_PER_UNIT, BRIER_BINS, CONFIDENCE_BINS, IGNORE, LOG2_FLOOR, MAX_BINS, QUANTILES, ScoreEntry

__all__ = ["FrameCounts", "count_frame", "lattice_axis"]

_FEWEST_BINS = MAX_BINS // 8


def lattice_axis(oriented: Tensor, entry: ScoreEntry, n_classes: int) -> Tensor:
    """Place oriented scores on the axis of their lattice; the ends of a score's range become -inf and +inf.

    Parameters
    ----------
    oriented : Tensor
        Scores times their orientation.
    entry : ScoreEntry
    n_classes : int
        The upper end of the entropy is ln of this.
    """
    if entry.upper:
        top = 1.0 if entry.upper == "1" else float(np.log(max(n_classes, 2)))
        s = (oriented / top).clamp(0, 1)
        return (s / (1 - s)).log2_()
    if entry.units == "log2":
        end = LOG2_FLOOR * entry.orientation
        return torch.where(oriented == end, end * torch.inf, oriented)
    return oriented


@dataclass
class FrameCounts:
    """The counting variables of one frame as numpy arrays; names, dims and meaning as in `schema.VARIABLES`."""

    outcomes: tuple[str, ...]
    arrays: dict[str, np.ndarray]


def _bincount(index: Tensor, minlength: int, weights: Tensor | None = None) -> np.ndarray:
    if index.device.type == "cpu":  # several times faster than torch's
        if weights is None:
            return np.bincount(index.numpy(), minlength=minlength)
        return np.bincount(index.numpy(), weights.numpy(), minlength).astype("f8")  # of no pixel numpy returns integers
    return torch.bincount(index, weights, minlength).cpu().numpy()


@dataclass
class _Bins:
    index: list[Tensor]
    start: np.ndarray
    level: np.ndarray
    width: int
    low: np.ndarray
    high: np.ndarray


def _assign(
    scores: Tensor, entries: Sequence[ScoreEntry], n_classes: int, edges: Mapping[str, Tensor] | None = None
) -> _Bins:
    """Bin of every pixel per score, with the windows they need."""
    index, starts, levels, widths = [], [], [], []
    for values, entry in zip(scores, entries, strict=True):
        if edges is not None and entry.name in edges:
            cuts = edges[entry.name]
            index.append(torch.bucketize(values, cuts, right=True) + 1)
            starts.append(0)
            levels.append(0)
            widths.append(len(cuts) + 3)
            continue
        axis = lattice_axis(values, entry, n_classes)
        is_finite = axis.isfinite()
        finite = torch.where(is_finite, axis, 0.0)
        inside = bool(is_finite.any())
        low = float(torch.where(is_finite, axis, torch.inf).min()) if inside else 0.0
        high = float(torch.where(is_finite, axis, -torch.inf).max()) if inside else 0.0
        # the window has to fit MAX_BINS, and a bin's number the integers that float32 holds exactly
        excess = max((high - low) / (MAX_BINS - 4), max(-low, high) / 2**24) * BINS_PER_UNIT
        level = 0
        while excess > 2.0**level:
            level += 1
        # a narrow range gets a finer step, down to what float32 holds
        while excess <= 2.0 ** (level - 1) and 0 < (high - low) * BINS_PER_UNIT < _FEWEST_BINS * 2.0**level:
            level -= 1
        step = BINS_PER_UNIT / 2.0**level
        start = int(np.floor(low * step))
        # the step of subnormal scores is beyond float32
        number = ((finite.double() if level < -64 else finite) * step).floor_().sub_(start - 1)
        stop = int(np.floor(high * step)) - start + 2 if inside else 1
        number = torch.where(axis.isposinf(), float(stop), torch.where(axis.isneginf(), 0.0, number))
        index.append(number.long())
        starts.append(start)
        levels.append(level)
        widths.append(stop + 1)
    width = max(widths, default=2)
    lows, highs = [], []
    for number, values, own in zip(index, scores, widths, strict=True):
        # all windows get the widest one's length, and the bin for +inf stays the last one
        number[number == own - 1] = width - 1
        empty = values.new_full((width,), torch.inf)
        lows.append(empty.scatter_reduce(0, number, values, "amin").cpu().numpy())
        highs.append((-empty).scatter_reduce(0, number, values, "amax").cpu().numpy())
    low_array, high_array = np.stack(lows), np.stack(highs)
    low_array[np.isposinf(low_array)] = np.nan
    high_array[np.isneginf(high_array)] = np.nan
    return _Bins(index, np.array(starts, "i8"), np.array(levels, "i4"), width, low_array, high_array)


def count_frame(
    scores: Tensor,
    entries: Sequence[ScoreEntry],
    prediction: Tensor,
    n_classes: int,
    *,
    label: Tensor | None = None,
    anomaly: Tensor | None = None,
    confidence: Tensor | None = None,
    brier: Tensor | None = None,
    nll: Tensor | None = None,
    edges: Mapping[str, Tensor] | None = None,
) -> FrameCounts:
    """Count the pixels of one frame.

    Parameters
    ----------
    scores : Tensor (S, y, x), float32
        Oriented scores in the order of `entries`.
    prediction, label, anomaly : LongTensor (y, x)
        Predicted class; class id or 255; 0, 1 or 255.
    n_classes : int
    confidence, brier, nll : Tensor (y, x)
        Maximum softmax, Brier score and negative log-likelihood of each pixel; wanted where there is a label.
    edges : dict of score name -> Tensor (n,), optional
        Rising values that cut the bins of scores with a lattice of their own; the same for all frames of a set.

    Returns
    -------
    FrameCounts
        Ignored pixels are in no count, but in `score_mean` and `score_quantile`, which need no label.
    """
    flat = scores.flatten(1)
    bins = _assign(flat, entries, n_classes, edges)
    predicted = prediction.flatten()
    arrays: dict[str, np.ndarray] = {
        "bin_start": bins.start,
        "bin_level": bins.level,
        "bin_min": bins.low,
        "bin_max": bins.high,
        "score_mean": flat.double().mean(1).cpu().numpy(),
        "score_quantile": _quantiles(bins),
    }
    outcomes: tuple[str, ...] = ()
    rows: list[tuple[Tensor, Tensor]] = []  # (pixels, row of counts) pairs, where a row is (outcome, class)
    n = n_classes
    if label is not None:
        truth = label.flatten()
        known = (truth != IGNORE).nonzero()[:, 0]
        right = predicted[known] == truth[known]
        wrong = known[~right]
        rows += [(known, predicted[known] + (~right) * n), (wrong, truth[wrong] + 2 * n)]
        outcomes += ("right", "wrong", "missed")
        arrays |= _label_counts(truth[known], predicted[known], right, n, confidence, brier, nll, known)
    if anomaly is not None:
        unknown = anomaly.flatten()
        marked = (unknown != IGNORE).nonzero()[:, 0]
        rows.append((marked, predicted[marked] + (unknown[marked] + len(outcomes)) * n))
        outcomes += ("normal", "anomaly")
        positive = int((unknown == 1).sum())
        arrays |= {"anomaly_count": np.int64(positive), "known_count": np.int64(len(marked) - positive)}  # type: ignore[dict-item]
    if outcomes:
        counts = np.zeros((len(outcomes) * n, len(entries), bins.width), "u4")
        brier_sum = np.zeros((n, len(entries), bins.width), "f4")
        for s, index in enumerate(bins.index):
            for pixels, row in rows:
                found = _bincount(row * bins.width + index[pixels], len(outcomes) * n * bins.width)
                counts[:, s] += found.reshape(-1, bins.width).astype("u4")
            if label is not None and brier is not None:
                cell = predicted[known] * bins.width + index[known]
                brier_sum[:, s] = _bincount(cell, n * bins.width, brier.flatten()[known].double()).reshape(n, -1)
        arrays["counts"] = counts.reshape(len(outcomes), n, len(entries), bins.width)
        if label is not None and brier is not None:
            arrays["brier_sum"] = brier_sum
    return FrameCounts(outcomes, arrays)


def _label_counts(
    truth: Tensor,
    predicted: Tensor,
    right: Tensor,
    n: int,
    confidence: Tensor | None,
    brier: Tensor | None,
    nll: Tensor | None,
    known: Tensor,
) -> dict[str, np.ndarray]:
    """Everything that needs labelled pixels but no score."""
    arrays: dict[str, np.ndarray] = {"confusion": _bincount(truth * n + predicted, n * n).reshape(n, n)}
    row = predicted + (~right) * n
    if confidence is not None:
        value = confidence.flatten()[known].double()
        place = (value * CONFIDENCE_BINS).long().clamp_(0, CONFIDENCE_BINS - 1)  # the last bin is closed at 1
        counted = _bincount(row * CONFIDENCE_BINS + place, 2 * n * CONFIDENCE_BINS)
        arrays["confidence_count"] = counted.reshape(2, n, CONFIDENCE_BINS).astype("u4")
        summed = _bincount(predicted * CONFIDENCE_BINS + place, n * CONFIDENCE_BINS, value)
        arrays["confidence_sum"] = summed.reshape(n, CONFIDENCE_BINS)
    if brier is not None:
        value = brier.flatten()[known].double()
        place = (value * (BRIER_BINS / 2)).long().clamp_(0, BRIER_BINS - 1)
        counted = _bincount(predicted * BRIER_BINS + place, n * BRIER_BINS)
        arrays["brier_count"] = counted.reshape(n, BRIER_BINS).astype("u4")
        summed = _bincount(predicted * BRIER_BINS + place, n * BRIER_BINS, value)
        arrays["brier_bin_sum"] = summed.reshape(n, BRIER_BINS)
    if nll is not None:
        arrays["nll_sum"] = _bincount(truth, n, nll.flatten()[known].double())
    return arrays


def _quantiles(bins: _Bins) -> np.ndarray:
    """Quantiles of each score over all pixels, interpolated inside a bin between its smallest and largest score."""
    result = np.empty((len(QUANTILES), len(bins.index)))
    for s, index in enumerate(bins.index):
        counts = _bincount(index, bins.width)
        used = np.flatnonzero(counts)
        cumulated = np.cumsum(counts[used])
        low, high = bins.low[s, used].astype("f8"), bins.high[s, used].astype("f8")
        positions = np.array(QUANTILES) * (cumulated[-1] - 1)
        lower, upper = np.floor(positions), np.ceil(positions)
        ranks = np.stack([lower, upper])
        at = np.searchsorted(cumulated, ranks, side="right")
        within = (ranks - cumulated[at] + counts[used[at]]) / np.maximum(counts[used[at]] - 1, 1)
        below, above = low[at] + (high[at] - low[at]) * within
        result[:, s] = below + (above - below) * (positions - lower)
    return result
