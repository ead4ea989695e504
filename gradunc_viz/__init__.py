"""Pixel-wise gradient uncertainty for semantic segmentation: compute, cache, evaluate, explore.

Names are loaded when first used, so that ``import gradunc_viz`` costs next to nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "DEFAULT_SCORES": "schema",
    "IGNORE": "schema",
    "PAPER_SCORES": "schema",
    "SCORES": "schema",
    "GraduncError": "schema",
    "ScoreEntry": "schema",
    "score_entry": "schema",
    "validate": "schema",
    "gradient_norms": "gradients",
    "gradient_factors": "gradients",
    "Network": "models",
    "capture": "models",
    "load_model": "models",
    "LAYOUTS": "frames",
    "Frame": "frames",
    "Frames": "frames",
    "open_frames": "frames",
    "Cache": "cache",
    "open_cache": "cache",
    "score": "cache",
    "compute": "compute",
    "score_image": "compute",
    "ScoredModel": "scored_model",
    "compute_maps": "interchange",
    "read_submission": "interchange",
    "write_submission": "interchange",
    "calibration": "metrics",
    "evaluate": "metrics",
    "segmentation": "metrics",
    "sparsification": "metrics",
    "threshold_curves": "metrics",
    "evaluate_components": "metrics.components",
    "segment_statistics": "metrics.segments",
    "meta_classification": "metrics.meta",
    "meta_regression": "metrics.meta",
    "explore": "app",
}

_ROOMS = ("figures", "metrics")
"""Packages of this one whose functions are used under their names: `gv.figures.roc`."""

__all__ = ["__version__", *_HOME, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.{name}":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        raise


class _Package(ModuleType):
    """Keeps names of functions from being taken by the modules they live in: `compute` is in ``compute.py``."""

    def __setattr__(self, name: str, value: Any) -> None:
        # the import system sets every submodule as an attribute; `from gradunc_viz.compute import ...` works without
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from . import figures as figures
    from . import metrics as metrics
    from .app import explore as explore
    from .cache import Cache as Cache
    from .cache import open_cache as open_cache
    from .cache import score as score
    from .compute import compute as compute
    from .compute import score_image as score_image
    from .frames import LAYOUTS as LAYOUTS
    from .frames import Frame as Frame
    from .frames import Frames as Frames
    from .frames import open_frames as open_frames
    from .gradients import gradient_factors as gradient_factors
    from .gradients import gradient_norms as gradient_norms
    from .interchange import compute_maps as compute_maps
    from .interchange import read_submission as read_submission
    from .interchange import write_submission as write_submission
    from .metrics import calibration as calibration
    from .metrics import evaluate as evaluate
    from .metrics import segmentation as segmentation
    from .metrics import sparsification as sparsification
    from .metrics import threshold_curves as threshold_curves
    from .metrics.components import evaluate_components as evaluate_components
    from .metrics.meta import meta_classification as meta_classification
    from .metrics.meta import meta_regression as meta_regression
    from .metrics.segments import segment_statistics as segment_statistics
    from .models import Network as Network
    from .models import capture as capture
    from .models import load_model as load_model
    from .schema import DEFAULT_SCORES as DEFAULT_SCORES
    from .schema import IGNORE as IGNORE
    from .schema import PAPER_SCORES as PAPER_SCORES
    from .schema import SCORES as SCORES
    from .schema import GraduncError as GraduncError
    from .schema import ScoreEntry as ScoreEntry
    from .schema import score_entry as score_entry
    from .schema import validate as validate
    from .scored_model import ScoredModel as ScoredModel
