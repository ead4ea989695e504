"""What a predicted segment looks like to every score, and how well it matches the annotation, as in MetaSeg.

A segment is an 8-connected component of the pixels that are predicted as one class. Ignored pixels of the label are cut
out before, so they count nowhere: a segment that lies in them wholly does not exist, and one that they divide is
several. Where a frame has no labels, its segments cover the whole image and have no IoU.

Source: Rottmann et al., "Prediction Error Meta Classification in Semantic Segmentation: Detection via Aggregated
Dispersion Measures of Softmax Probabilities" (IJCNN 2020, arXiv:1811.00648), section II.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...schema.errors import SchemaError
from ...schema.frame import ignored
from .components import EIGHT, overlaps

__all__ = [
    "SHAPES",
    "STATISTICS",
    "Segments",
    "boundary_mask",
    "find_segments",
    "label_classes",
    "segment_iou",
    "segment_moments",
    "segment_shapes",
    "segment_sums",
]

STATISTICS: dict[str, str] = {
    "mean": "mean over the segment",
    "variance": "variance over the segment",
    "boundary_mean": "mean over the segment's boundary",
    "boundary_variance": "variance over the segment's boundary",
    "interior_mean": "mean over the segment's interior",
    "interior_variance": "variance over the segment's interior",
    "relative_mean": "mean times S / S_bd",
    "relative_interior_mean": "interior mean times S_in / S_bd",
}
"""Statistics of every score."""

SHAPES: dict[str, str] = {
    "size": "S, pixels",
    "interior_size": "S_in, pixels whose eight neighbours all belong to the segment",
    "boundary_size": "S_bd = S - S_in",
    "relative_size": "S / S_bd",
    "relative_interior_size": "S_in / S_bd",
}
"""Statistics of the shape."""


_NONE = -1  # the class of ignored pixels


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of one frame.

    Attributes
    ----------
    ids : int array (y, x)
        0 where a pixel is ignored, else 1 to n.
    boundary : bool array (y, x)
        Pixels with a neighbour, of eight, that belongs to no or another segment. What lies outside of the image is no
        neighbour.
    class_id : int array (n,)
        Predicted class of each segment; segments are sorted by it, then by their first pixel in scan order.
    """

    ids: np.ndarray
    boundary: np.ndarray
    class_id: np.ndarray

    @property
    def count(self) -> int:
        """Number of segments."""
        return len(self.class_id)


# --------------------------------------------------------------------------------------------------------------------
# arrays


def label_classes(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected components of every class at once.

    Parameters
    ----------
    classes : int array (y, x)
        Class ids, less than 0 where ignored.

    Returns
    -------
    ids : int array (y, x)
        0 where ignored, else 1 to n.
    class_id : int array (n,)
    """
    ids = np.zeros(classes.shape, "i4")
    owners: list[np.ndarray] = []
    total = 0
    # a class is only looked for where it occurs
    for class_id, window in enumerate(ndimage.find_objects(classes + 1)):
        if window is None:
            continue
        mask = classes[window] == class_id
        part, count = ndimage.label(mask, EIGHT)
        ids[window][mask] = part[mask] + total
        owners.append(np.full(count, class_id, "i8"))
        total += count
    return ids, np.concatenate(owners) if owners else np.empty(0, "i8")


def boundary_mask(ids: np.ndarray) -> np.ndarray:
    """Pixels with one of eight neighbours in the image that has another id; (y, x) bool."""
    boundary = np.zeros(ids.shape, bool)
    whole, low, high = slice(None), slice(None, -1), slice(1, None)
    for first, second in (
        ((whole, low), (whole, high)),
        ((low, whole), (high, whole)),
        ((low, low), (high, high)),
        ((low, high), (high, low)),
    ):
        differ = ids[first] != ids[second]
        boundary[first] |= differ
        boundary[second] |= differ
    return boundary


def find_segments(prediction: np.ndarray, label: np.ndarray | None = None) -> Segments:
    """Split a prediction into segments.

    Parameters
    ----------
    prediction : array (y, x)
        Predicted class ids.
    label : array (y, x), optional
        Only its ignored pixels matter here, see `gradunc_viz.schema.frame.ignored`.

    Raises
    ------
    SchemaError
        If the shapes differ.
    """
    classes = np.asarray(prediction).astype("i4")
    if label is not None:
        _same_shape(classes, np.asarray(label), "label")
        classes[ignored(np.asarray(label))] = _NONE
    ids, class_id = label_classes(classes)
    return Segments(ids, boundary_mask(ids), class_id)


def _same_shape(expected: np.ndarray, found: np.ndarray, name: str) -> None:
    if expected.ndim != 2 or found.shape[-2:] != expected.shape:
        raise SchemaError(f"prediction is {expected.shape} and {name} {found.shape}, expected the same (y, x)")


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Their quotient, NaN where there is nothing below."""
    top, bottom = np.broadcast_arrays(np.asarray(top, "f8"), bottom)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def segment_shapes(segments: Segments) -> dict[str, np.ndarray]:
    """Sizes in pixels, relative sizes and the centroid of every segment.

    Returns
    -------
    dict of name -> array (n,)
        `SHAPES` and ``y``, ``x`` (centroid, in pixels from the centre of the first pixel). Relative sizes are NaN for a
        segment without boundary, one that fills its image.
    """
    flat = segments.ids.ravel()
    bins = segments.count + 1
    size = np.bincount(flat, minlength=bins)[1:]
    edge = np.bincount(flat[segments.boundary.ravel()], minlength=bins)[1:]
    height, width = segments.ids.shape
    y = np.bincount(flat, np.repeat(np.arange(height, dtype="f8"), width), bins)[1:]
    x = np.bincount(flat, np.tile(np.arange(width, dtype="f8"), height), bins)[1:]
    return {
        "size": size,
        "interior_size": size - edge,
        "boundary_size": edge,
        "relative_size": _ratio(size, edge),
        "relative_interior_size": _ratio(size - edge, edge),
        "y": _ratio(y, size),
        "x": _ratio(x, size),
    }


def segment_sums(ids: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums of maps over every segment, or over the part of it that lies in some rows.

    Parameters
    ----------
    ids : int array (y, x)
        `Segments.ids`, all rows or some.
    values : array (..., y, x)
        The same rows of the maps.
    count : int
        Segments in all.

    Returns
    -------
    array (..., count)
    """
    _same_shape(ids, values, "map")
    flat = ids.ravel()
    sums = np.empty((*values.shape[:-2], count))
    for index in np.ndindex(values.shape[:-2]):
        sums[index] = np.bincount(flat, values[index].ravel(), count + 1)[1:]
    return sums


def segment_moments(segments: Segments, values: np.ndarray) -> dict[str, np.ndarray]:
    r"""`STATISTICS` of a map over every segment k, its boundary and its interior.

    With :math:`\mu` the mean over a set of pixels, relative statistics are :math:`\mu(k) S / S_{bd}` and
    :math:`\mu(k_{in}) S_{in} / S_{bd}`.

    Parameters
    ----------
    segments : Segments
    values : array (y, x)
        Finite.

    Returns
    -------
    dict of name -> array (n,)
        Variances are those of the pixels (divided by their number). NaN for what a segment lacks: the interior where
        S_in = 0, boundary and relative statistics where S_bd = 0.
    """
    values = np.asarray(values)
    _same_shape(segments.ids, values, "map")
    n = segments.count
    part = (2 * segments.ids + segments.boundary).ravel()  # interior and boundary of each segment side by side
    weights = values.astype("f8").ravel()
    size = np.bincount(part, minlength=2 * n + 2)[2:].reshape(n, 2)
    total = np.bincount(part, weights, 2 * n + 2)
    mean = _ratio(total, np.bincount(part, minlength=2 * n + 2))
    # squares of deviations, not of values: log2 norms are far from 0 and vary little
    deviation = (weights - mean[part]) ** 2
    spread = np.bincount(part, deviation, 2 * n + 2)[2:].reshape(n, 2)
    part_mean = mean[2:].reshape(n, 2)
    variance = _ratio(spread, size)
    whole = size.sum(1)
    whole_mean = total[2:].reshape(n, 2).sum(1) / whole
    between = size * (np.where(size > 0, part_mean, 0) - whole_mean[:, None]) ** 2
    relative = _ratio(whole, size[:, 1])
    return {
        "mean": whole_mean,
        "variance": (spread + between).sum(1) / whole,
        "boundary_mean": part_mean[:, 1],
        "boundary_variance": variance[:, 1],
        "interior_mean": part_mean[:, 0],
        "interior_variance": variance[:, 0],
        "relative_mean": whole_mean * relative,
        # an empty interior adds up to 0, as S_in = 0 does
        "relative_interior_mean": _ratio(total[2::2], size[:, 1]),
    }


def segment_iou(segments: Segments, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""IoU and adjusted IoU of every segment with the annotation.

    For a segment k of class c, let K be the union of the 8-connected components of label c that k touches and Q the
    pixels predicted as c. Then

    .. math:: IoU(k) = \frac{|k \cap K|}{|k \cup K|}, \qquad IoU_{adj}(k) = \frac{|k \cap K|}{|k \cup (K \setminus Q)|}

    The adjusted IoU does not charge a segment for the part of an annotated object that other segments of the same
    class cover. Both are 0 together. In [0, 1], larger is better.

    Parameters
    ----------
    segments : Segments
    label : array (y, x)
        Class ids; what is ignored says `gradunc_viz.schema.frame.ignored`.

    Returns
    -------
    iou, iou_adj : array (n,)

    Raises
    ------
    SchemaError
        If the shapes differ.

    Notes
    -----
    Follows the paper. The authors' code grows K from the segment's edge through pixels not predicted as c, which
    differs where an annotated object merely borders on the segment or goes on behind another segment.

    Source: Rottmann et al. 2020 (arXiv:1811.00648), section II.
    """
    label = np.asarray(label)
    _same_shape(segments.ids, label, "label")
    annotated = np.where(ignored(label), _NONE, label.astype("i4"))
    truth, truth_class = label_classes(annotated)
    # class of the prediction by pixel; what belongs to no segment has no label either
    predicted = np.concatenate([[_NONE], segments.class_id])[segments.ids]
    right = np.where(predicted == annotated, truth, 0)
    k, t, pixels = overlaps(segments.ids, right)
    size = np.bincount(segments.ids.ravel(), minlength=segments.count + 1)
    truth_size = np.bincount(truth.ravel(), minlength=len(truth_class) + 1)
    uncovered = truth_size - np.bincount(t, pixels, len(truth_size))
    hit = np.bincount(k, pixels, segments.count + 1)
    union = size - hit + np.bincount(k, truth_size[t], segments.count + 1)
    adjusted = size + np.bincount(k, uncovered[t], segments.count + 1)
    return (hit[1:] / union[1:]), (hit[1:] / adjusted[1:])


# --------------------------------------------------------------------------------------------------------------------
# caches
