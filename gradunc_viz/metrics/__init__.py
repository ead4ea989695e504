"""Evaluation from cached counts: array kernels at the bottom, labelled tables over them.

`arrays` holds kernels on numpy arrays; `metric` is the registry of metrics; `evaluation`, `threshold_curves`,
`calibration`, `segmentation`, `objects`, `segment_table` and `meta` give labelled datasets; `regions` finds failures.

Names are loaded when first used (SPEC 1), so that the registry of metrics alone costs next to nothing.
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibration": ["calibration", "score_calibration"],
        "evaluation": ["evaluate"],
        "metric": ["METRICS", "Metric", "find_metric", "register_metric"],
        "regions": ["FAILURES", "find_failures"],
        "segmentation": ["segmentation"],
        "threshold_curves": ["sparsification", "threshold_curves"],
    },
)

if TYPE_CHECKING:
    from .calibration import calibration as calibration
    from .calibration import score_calibration as score_calibration
    from .evaluation import evaluate as evaluate
    from .metric import METRICS as METRICS
    from .metric import Metric as Metric
    from .metric import find_metric as find_metric
    from .metric import register_metric as register_metric
    from .regions import FAILURES as FAILURES
    from .regions import find_failures as find_failures
    from .segmentation import segmentation as segmentation
    from .threshold_curves import sparsification as sparsification
    from .threshold_curves import threshold_curves as threshold_curves
