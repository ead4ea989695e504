"""Does a score find unknown objects as objects: sIoU, PPV and F1 per component, as SegmentMeIfYouCan defines them.

Both masks of a frame are split into 8-connected components. All that the metrics need is how many pixels each pair of
components shares, so the frame is read once into a contingency table and everything else follows from that table.

Source: Chan et al., "SegmentMeIfYouCan: A Benchmark for Anomaly Segmentation" (arXiv:2104.14812), section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ...schema.errors import SchemaError
from ...schema.frame import IGNORE

__all__ = [
    "SIOU_THRESHOLDS",
    "TRACKS",
    "ComponentTable",
    "SizeLimits",
    "component_metrics",
    "overlaps",
    "pool_components",
]

SIOU_THRESHOLDS = np.linspace(0.25, 0.75, 11)
"""sIoU (of a truth component) or PPV (of a predicted one) from which it counts as found or as right."""

EIGHT = np.ones((3, 3), dtype=bool)
"""Structure of 8-connectivity: components that touch at a corner are one."""


class SizeLimits(NamedTuple):
    """Smallest components that count, in pixels: `min_truth` of the annotation, `min_predicted` of the prediction."""

    min_truth: int
    min_predicted: int


TRACKS: dict[str, SizeLimits] = {
    "anomaly": SizeLimits(min_truth=100, min_predicted=500),
    "obstacle": SizeLimits(min_truth=10, min_predicted=50),
}
"""Size limits of the benchmark's two tracks."""


@dataclass(frozen=True, eq=False)
class ComponentTable:
    """The components of one frame, each kind in scan order of its first pixel.

    Attributes
    ----------
    truth_size, truth_siou : array (n_truth,)
        Size in pixels and sIoU in [0, 1] of every annotated component.
    predicted_size, predicted_siou, predicted_ppv : array (n_predicted,)
        Size in pixels, sIoU and PPV in [0, 1] of every predicted component.
    """

    truth_size: np.ndarray
    truth_siou: np.ndarray
    predicted_size: np.ndarray
    predicted_siou: np.ndarray
    predicted_ppv: np.ndarray

    @property
    def n_truth(self) -> int:
        """Number of annotated components."""
        return len(self.truth_size)

    @property
    def n_predicted(self) -> int:
        """Number of predicted components."""
        return len(self.predicted_size)

    @property
    def tp(self) -> np.ndarray:
        """Annotated components with sIoU >= threshold, one count per entry of `SIOU_THRESHOLDS`; adds over frames."""
        return (self.truth_siou >= SIOU_THRESHOLDS[:, None]).sum(1)

    @property
    def fn(self) -> np.ndarray:
        """Annotated components with sIoU < threshold, likewise."""
        return (self.truth_siou < SIOU_THRESHOLDS[:, None]).sum(1)

    @property
    def fp(self) -> np.ndarray:
        """Predicted components with PPV < threshold, likewise."""
        return (self.predicted_ppv < SIOU_THRESHOLDS[:, None]).sum(1)


# --------------------------------------------------------------------------------------------------------------------
# arrays


def overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sparse contingency table of two maps of ids: which pairs share pixels, and how many.

    Parameters
    ----------
    first, second : int array of the same shape
        Ids >= 0; pixels where either is 0 belong to no pair.

    Returns
    -------
    first_id, second_id, pixels : int array (n_pairs,)
        Sorted by the pair of ids.
    """
    both = np.flatnonzero((first != 0) & (second != 0))
    a, b = first.ravel()[both].astype("i8"), second.ravel()[both].astype("i8")
    if not len(both):
        return a, b, a
    width = int(b.max()) + 1
    code = a * width + b
    if int(code.max()) < 4 * first.size:
        dense = np.bincount(code)
        pairs = np.flatnonzero(dense)
        pixels = dense[pairs]
    else:  # so many components that the dense table would outgrow the frame
        pairs, pixels = np.unique(code, return_counts=True)
    return pairs // width, pairs % width, pixels


def component_metrics(
    anomaly_mask: np.ndarray, predicted: np.ndarray, *, min_truth: int, min_predicted: int
) -> ComponentTable:
    r"""Compare annotated and predicted components of one frame.

    With T the pixels of an annotated component, P(T) the union of the predicted components that touch it and A(T) the
    pixels of P(T) that lie in other annotated components,

    .. math:: sIoU(T) = \frac{|T \cap P(T)|}{|T \cup P(T)| - |A(T)|}

    and likewise with the roles of the two masks exchanged. For a predicted component P, the share of it that lies in
    any annotated component is PPV(P).

    Parameters
    ----------
    anomaly_mask : array (y, x) of 0 known, 1 unknown object, 255 ignore
    predicted : bool array (y, x)
        Where the score calls a pixel unknown.
    min_truth : int
        Annotated components of fewer pixels are ignored with all their pixels: who finds them is neither rewarded nor
        punished.
    min_predicted : int
        Predicted components of fewer pixels are dropped; they are measured without ignored pixels, but with those of
        annotated components that are too small.

    Returns
    -------
    ComponentTable
        Without rows where there is nothing.

    Raises
    ------
    SchemaError
        If the shapes differ or the mask has other values.

    Notes
    -----
    Equal to the benchmark's own code, which makes a pass over the frame per component, except that the latter also
    ignores everything outside the annotated components where that is fewer than `min_truth` pixels.

    Source: Chan et al. 2021 (arXiv:2104.14812), equations 4 to 6.
    """
    mask, predicted = np.asarray(anomaly_mask), np.asarray(predicted)
    _check(mask, predicted)
    truth, n_truth = ndimage.label(mask == 1, EIGHT)
    found, n_found = ndimage.label((predicted != 0) & (mask != IGNORE), EIGHT)

    truth_size = np.bincount(truth.ravel(), minlength=n_truth + 1)
    found_size = np.bincount(found.ravel(), minlength=n_found + 1)
    truth_kept, found_kept = truth_size >= min_truth, found_size >= min_predicted
    truth_kept[0] = found_kept[0] = False

    t, p, pixels = overlaps(truth, found)
    t, p, pixels = (column[found_kept[p]] for column in (t, p, pixels))
    # the parts of a predicted component: outside of every annotated component, and inside of one that counts
    outside = found_size - _sum(p, pixels, n_found)
    t, p, pixels = (column[truth_kept[t]] for column in (t, p, pixels))
    inside = _sum(p, pixels, n_found)
    hit = _sum(t, pixels, n_truth)
    missed = truth_size - hit

    found_size = outside + inside
    found_kept &= found_size > 0  # nothing is left of what lay in ignored objects only
    # whatever else a touching component covers belongs to a third one, and is what the adjustment takes off the union
    truth_union = truth_size + _sum(t, outside[p], n_truth)
    found_union = found_size + _sum(p, missed[t], n_found)
    return ComponentTable(
        truth_size=truth_size[truth_kept],
        truth_siou=hit[truth_kept] / truth_union[truth_kept],
        predicted_size=found_size[found_kept],
        predicted_siou=inside[found_kept] / found_union[found_kept],
        predicted_ppv=inside[found_kept] / found_size[found_kept],
    )


def _sum(index: np.ndarray, values: np.ndarray, largest: int) -> np.ndarray:
    """Sum of integer `values` per index from 0 to `largest`; exact, as bincount's float64 holds any count of pixels."""
    return np.bincount(index, values, largest + 1).astype("i8")


def _check(mask: np.ndarray, predicted: np.ndarray) -> None:
    if mask.ndim != 2 or mask.shape != predicted.shape:
        raise SchemaError(f"anomaly mask is {mask.shape} and prediction {predicted.shape}, expected the same (y, x)")
    odd = (mask != 0) & (mask != 1) & (mask != IGNORE)
    if odd.any():
        raise SchemaError(f"anomaly mask holds {mask[odd][0]}, expected 0, 1 or {IGNORE} (ignore)")


def pool_components(tables: Iterable[ComponentTable]) -> dict[str, float | int | np.ndarray]:
    """Metrics over the components of all frames at once.

    Parameters
    ----------
    tables : iterable of ComponentTable
        One per frame.

    Returns
    -------
    dict
        ``siou`` (mean over annotated components), ``ppv`` (mean over predicted components), ``f1`` (mean of
        ``f1_per_threshold``), ``f1_per_threshold``, ``tp``, ``fp``, ``fn`` (one per entry of `SIOU_THRESHOLDS`),
        ``n_truth``, ``n_predicted``. With TP, FN counted over annotated and FP over predicted components,
        F1 = 2 TP / (2 TP + FN + FP). What has nothing to average is NaN; F1 is 0 where things were predicted and
        nothing is annotated. In [0, 1], larger is better.
    """
    tables = list(tables)
    siou = np.concatenate([np.empty(0), *(table.truth_siou for table in tables)])
    ppv = np.concatenate([np.empty(0), *(table.predicted_ppv for table in tables)])
    tp, fp, fn = (
        sum((getattr(table, name) for table in tables), np.zeros(len(SIOU_THRESHOLDS), "i8"))
        for name in ("tp", "fp", "fn")
    )
    f1 = _f1(tp, fp, fn)
    return {
        "siou": float(siou.mean()) if len(siou) else float("nan"),
        "ppv": float(ppv.mean()) if len(ppv) else float("nan"),
        "f1": float(f1.mean()),
        "f1_per_threshold": f1,
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "n_truth": len(siou),
        "n_predicted": len(ppv),
    }


def _f1(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    total = 2 * tp + fp + fn
    return np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=total > 0)


# --------------------------------------------------------------------------------------------------------------------
# caches
