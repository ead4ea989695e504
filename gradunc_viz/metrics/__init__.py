"""Evaluation from cached counts: array kernels at the bottom, labelled tables over them.

`merge`, `curves`, `risk`, `reliability`, `components` and `segments` hold kernels on numpy arrays; `pooling` adds up
the counts of frames; `evaluation` and `meta` give labelled datasets.
"""

from ..counts.pool import Pooled, pool
from ..schema.tasks import TASKS
from .calibration import calibration
from .evaluation import evaluate
from .metric import METRICS
from .segmentation import segmentation
from .threshold_curves import sparsification, threshold_curves

__all__ = [
    "METRICS",
    "TASKS",
    "Pooled",
    "calibration",
    "evaluate",
    "pool",
    "segmentation",
    "sparsification",
    "threshold_curves",
]
