"""Pixel-wise gradient uncertainty for semantic segmentation: compute, cache, evaluate, explore.

Names are loaded when first used (SPEC 1), so that ``import gradunc_viz`` costs next to nothing.
"""

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

_HOMES = {
    "comparison.compare": ["compare"],
    "datasets.adapters": ["frames_from"],
    "datasets.catalog": ["data_path"],
    "datasets.frames": ["Frame", "Frames", "open_frames"],
    "datasets.layouts": ["LAYOUTS", "Layout", "pattern_layout", "register_layout"],
    "deploy.scored_model": ["ScoredModel"],
    "exchange.imports": ["import_maps"],
    "exchange.submission": ["read_submission", "write_submission"],
    "explorer.server": ["explore"],
    "explorer.state.tabs": ["Tab", "register_tab"],
    "metrics.calibration": ["calibration"],
    "metrics.evaluation": ["evaluate"],
    "metrics.meta": ["meta_classification", "meta_regression"],
    "metrics.metric": ["Metric", "register_metric"],
    "metrics.objects": ["evaluate_components"],
    "metrics.paired": ["paired_difference"],
    "metrics.segment_table": ["segment_statistics"],
    "metrics.segmentation": ["segmentation"],
    "metrics.threshold_curves": ["sparsification", "threshold_curves"],
    "networks.head": ["HeadKind", "register_head"],
    "networks.load": ["load_model"],
    "networks.loaders": ["Loader", "register_loader"],
    "networks.network": ["Network"],
    "networks.preprocessing": ["Preprocessing"],
    "networks.saved": ["SavedLogits"],
    "networks.tracing": ["capture"],
    "run.calibrate": ["calibrate"],
    "run.combine": ["combine"],
    "run.compute": ["compute", "score_image"],
    "run.fit": ["fit"],
    "run.settings": ["Settings"],
    "schema.errors": ["GraduncError"],
    "schema.frame": ["IGNORE", "validate"],
    "schema.scores": ["DEFAULT_SCORES", "PAPER_SCORES", "SCORES", "Score", "lookup"],
    "scores.fit": ["Fit"],
    "scores.gradients": ["gradient_factors", "gradient_norms"],
    "scores.own": ["register_score"],
    "store.cache": ["Cache", "open_cache"],
    "store.cost": ["cost"],
    "store.frame": ["score"],
    "store.check": ["check_cache"],
    "store.upgrade": ["upgrade_cache"],
}
"""Where public names are defined."""

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=("figures", "metrics", "tables"), submod_attrs=_HOMES
)

if TYPE_CHECKING:
    from . import figures as figures
    from . import metrics as metrics
    from . import tables as tables
    from .comparison.compare import compare as compare
    from .datasets.adapters import frames_from as frames_from
    from .datasets.catalog import data_path as data_path
    from .datasets.frames import Frame as Frame
    from .datasets.frames import Frames as Frames
    from .datasets.frames import open_frames as open_frames
    from .datasets.layouts import LAYOUTS as LAYOUTS
    from .datasets.layouts import Layout as Layout
    from .datasets.layouts import pattern_layout as pattern_layout
    from .datasets.layouts import register_layout as register_layout
    from .deploy.scored_model import ScoredModel as ScoredModel
    from .exchange.imports import import_maps as import_maps
    from .exchange.submission import read_submission as read_submission
    from .exchange.submission import write_submission as write_submission
    from .explorer.server import explore as explore
    from .explorer.state.tabs import Tab as Tab
    from .explorer.state.tabs import register_tab as register_tab
    from .metrics.calibration import calibration as calibration
    from .metrics.evaluation import evaluate as evaluate
    from .metrics.meta import meta_classification as meta_classification
    from .metrics.meta import meta_regression as meta_regression
    from .metrics.metric import Metric as Metric
    from .metrics.metric import register_metric as register_metric
    from .metrics.objects import evaluate_components as evaluate_components
    from .metrics.paired import paired_difference as paired_difference
    from .metrics.segment_table import segment_statistics as segment_statistics
    from .metrics.segmentation import segmentation as segmentation
    from .metrics.threshold_curves import sparsification as sparsification
    from .metrics.threshold_curves import threshold_curves as threshold_curves
    from .networks.head import HeadKind as HeadKind
    from .networks.head import register_head as register_head
    from .networks.load import load_model as load_model
    from .networks.loaders import Loader as Loader
    from .networks.loaders import register_loader as register_loader
    from .networks.network import Network as Network
    from .networks.preprocessing import Preprocessing as Preprocessing
    from .networks.saved import SavedLogits as SavedLogits
    from .networks.tracing import capture as capture
    from .run.calibrate import calibrate as calibrate
    from .run.combine import combine as combine
    from .run.compute import compute as compute
    from .run.compute import score_image as score_image
    from .run.fit import fit as fit
    from .run.settings import Settings as Settings
    from .schema.errors import GraduncError as GraduncError
    from .schema.frame import IGNORE as IGNORE
    from .schema.frame import validate as validate
    from .schema.scores import DEFAULT_SCORES as DEFAULT_SCORES
    from .schema.scores import PAPER_SCORES as PAPER_SCORES
    from .schema.scores import SCORES as SCORES
    from .schema.scores import Score as Score
    from .schema.scores import lookup as lookup
    from .scores.fit import Fit as Fit
    from .scores.gradients import gradient_factors as gradient_factors
    from .scores.gradients import gradient_norms as gradient_norms
    from .scores.own import register_score as register_score
    from .store.cache import Cache as Cache
    from .store.cache import open_cache as open_cache
    from .store.check import check_cache as check_cache
    from .store.cost import cost as cost
    from .store.frame import score as score
    from .store.upgrade import upgrade_cache as upgrade_cache
