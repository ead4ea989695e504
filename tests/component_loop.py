"""Component metrics as they are defined, one pass over the frame per component: slow, and obviously right."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from gradunc_viz.metrics.arrays.components import ComponentTable

CORNERS_TOUCH = np.ones((3, 3))


def loop_component_metrics(
    anomaly_mask: np.ndarray, predicted: np.ndarray, *, min_truth: int, min_predicted: int
) -> ComponentTable:
    ignored = anomaly_mask == 255
    truth, n_truth = ndimage.label(anomaly_mask == 1, CORNERS_TOUCH)
    found, n_found = ndimage.label(predicted.astype(bool) & ~ignored, CORNERS_TOUCH)
    for k in range(1, n_found + 1):
        if (found == k).sum() < min_predicted:
            found[found == k] = 0
    for k in range(1, n_truth + 1):
        if (truth == k).sum() < min_truth:
            ignored = ignored | (truth == k)
    truth[ignored] = 0
    found[ignored] = 0

    truth_size, truth_siou = [], []
    for k in range(1, n_truth + 1):
        inside = truth == k
        if inside.any():
            truth_size.append(inside.sum())
            truth_siou.append(siou(inside, truth, found))
    found_size, found_siou, found_ppv = [], [], []
    for k in range(1, n_found + 1):
        inside = found == k
        if inside.any():
            found_size.append(inside.sum())
            found_siou.append(siou(inside, found, truth))
            found_ppv.append((truth[inside] > 0).mean())
    return ComponentTable(*(np.array(c) for c in (truth_size, truth_siou, found_size, found_siou, found_ppv)))


def siou(inside: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """Of the component `inside` of `own`, against all components of `other`."""
    touching = np.zeros(int(other.max()) + 1, bool)
    touching[other[inside]] = True
    touching[0] = False
    counterpart = touching[other]
    elsewhere = (own > 0) & ~inside
    intersection = (inside & counterpart).sum()
    union = (inside | counterpart).sum() - (counterpart & elsewhere).sum()
    return intersection / union
