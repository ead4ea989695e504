"""The registry of metrics: title, direction and function of each. numpy alone until one is computed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..schema.errors import GraduncError
from ..schema.registry import said_again

__all__ = ["METRICS", "BinCounts", "Metric", "find_metric", "pixel_metrics", "register_metric"]


@dataclass(frozen=True, eq=False)
class BinCounts:
    """What a metric of pixels is computed from: pixels per bin of the oriented score, bins in rising order.

    A pixel is called positive if its score reaches a threshold, so that thresholds lie at the lower ends of bins.

    Attributes
    ----------
    positive, negative : array (..., bins)
        Pixels that should be found, and that should not.
    tied : bool array (bins,) or (..., bins)
        Whether a bin holds one score only; in others positives and negatives are spread evenly.
    low : array (bins,) or (..., bins)
        Smallest oriented score in each bin, NaN where it is empty.
    """

    positive: np.ndarray
    negative: np.ndarray
    tied: np.ndarray
    low: np.ndarray


@dataclass(frozen=True)
class Metric:
    """How well a score does, as one number.

    Attributes
    ----------
    name : str
        Unique name, and the variable of evaluations that holds it.
    title : str
        What it is, in full.
    short : str
        Heading of a column.
    orientation : int
        +1: larger is better; -1: smaller is better.
    compute : str or callable
        ``module:function``, resolved when first used, or the function: from a `BinCounts` to an array (...), NaN where
        there is nothing to tell. Empty for metrics of objects, which `gradunc_viz.metrics.objects` computes.
    tex : str
        Heading for figures, LaTeX in ``$...$``; `short` if empty.
    """

    name: str
    title: str
    short: str
    orientation: int
    compute: str | Callable[[BinCounts], np.ndarray] = ""
    tex: str = ""

    @property
    def of_pixels(self) -> bool:
        """Whether it is computed from counts of pixels."""
        return bool(self.compute)

    @property
    def arrow(self) -> str:
        """Where better values lie."""
        return "↑" if self.orientation > 0 else "↓"

    @property
    def formatted(self) -> str:
        """Heading for figures, LaTeX in ``$...$``."""
        return self.tex or self.short

    @property
    def better(self) -> str:
        """Where better values lie, in words."""
        return f"{'larger' if self.orientation > 0 else 'smaller'} is better"

    @cached_property
    def function(self) -> Callable[[BinCounts], np.ndarray]:
        """What computes it.

        Raises
        ------
        GraduncError
            For a metric of objects, which counts of pixels do not tell.
        """
        if not self.compute:
            raise GraduncError(f"metric {self.name!r} is of objects: it cannot be computed from counts of pixels")
        if not isinstance(self.compute, str):
            return self.compute
        module, _, name = self.compute.partition(":")
        found: Callable[[BinCounts], np.ndarray] = getattr(importlib.import_module(module), name)
        return found

    def __call__(self, counts: BinCounts) -> np.ndarray:
        """Compute it, (...); what divides by nothing is NaN without a warning."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.function(counts), "f8")


_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

_PIXEL = "gradunc_viz.metrics.pixel_metrics"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auroc", "AuROC", "AuROC", +1, f"{_PIXEL}:auroc"),
        Metric("auprc", "AuPRC (average precision)", "AuPRC", +1, f"{_PIXEL}:auprc"),
        Metric(
            "fpr95", "false-positive rate at 95 % true positives", "FPR95", -1, f"{_PIXEL}:fpr95", tex=r"FPR$_{95}$"
        ),
        Metric("f1", "best F1", "F1", +1, f"{_PIXEL}:f1", tex=r"best F$_1$"),
        Metric("component_siou", "mean sIoU of annotated components", "sIoU", +1),
        Metric("component_ppv", "mean PPV of predicted components", "PPV", +1),
        Metric("component_f1", "F1 of components, mean over sIoU thresholds", "mean F1", +1),
    )
}
"""Every metric by name, registered ones too, in the order of columns."""


def register_metric(metric: Metric) -> Metric:
    """Add a metric of pixels: it is then evaluated, tabulated and exported like any other.

    Raises
    ------
    GraduncError
        If the name is taken or no name of a variable, or a field has no meaning.
    """
    if not _NAME.fullmatch(metric.name) or metric.name.endswith(_ENDINGS) or metric.name in _TAKEN:
        raise GraduncError(
            f"metric {metric.name!r}: expected a name of lower-case letters, digits and '_' that no variable of an "
            "evaluation has"
        )
    if metric.name in METRICS and not said_again(metric, METRICS[metric.name]):
        raise GraduncError(f"metric {metric.name!r} is registered already")
    if metric.orientation not in (-1, 1):
        raise GraduncError(f"metric {metric.name!r}: orientation is {metric.orientation!r}; expected +1 or -1")
    if not metric.compute:
        raise GraduncError(f"metric {metric.name!r}: compute is empty; expected a function of BinCounts")
    METRICS[metric.name] = metric
    return metric


_ENDINGS = ("_std", "_low", "_high", "_turned")
_TAKEN = frozenset(
    (
        "threshold",
        "n_frames",
        "n_pixels",
        "positive_rate",
        "wrong_side",
        "ms",
        "bytes",
        "cache",
        "task",
        "score",
        "pooling",
        "frame",
        "class",
    )
)


def find_metric(name: str) -> Metric:
    """Look up a metric by name.

    Raises
    ------
    GraduncError
        If there is no such metric.
    """
    if name not in METRICS:
        raise GraduncError(f"unknown metric {name!r}; expected one of {', '.join(METRICS)}")
    return METRICS[name]


def pixel_metrics() -> dict[str, Metric]:
    """Metrics that every evaluation holds: those of pixels."""
    return {name: metric for name, metric in METRICS.items() if metric.of_pixels}
