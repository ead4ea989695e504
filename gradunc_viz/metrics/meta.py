"""Can the quality of a segment be told without its annotation: meta classification and meta regression, as in MetaSeg.

Both learn from the table that `gradunc_viz.metrics.segment_table.segment_statistics` makes. Frames, not segments, are
drawn into train and test: segments of one frame resemble each other, so that a split between them would flatter the
result.

Source: Rottmann et al., "Prediction Error Meta Classification in Semantic Segmentation: Detection via Aggregated
Dispersion Measures of Softmax Probabilities" (IJCNN 2020, arXiv:1811.00648), sections III and IV.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
import xarray as xr
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..schema.errors import GraduncError

__all__ = ["ESTIMATORS", "FAMILIES", "feature_table", "meta_classification", "meta_regression"]

FAMILIES: dict[str, str] = {
    "shape": "sizes of segment, interior and boundary",
    "position": "centroid",
    "class": "predicted class, one column each",
    "probability": "mean class probabilities",
    "gradient": "statistics of the gradient norms",
    "softmax": "statistics of the scores of the softmax",
    "logit": "statistics of the scores of the logits",
    "external": "statistics of imported maps",
    "combined": "statistics of scores made of others",
}
"""Families of features that can be asked for by name; those of scores that were registered are named like these."""

ESTIMATORS = ("model", "entropy", "naive")
"""What is compared: all features asked for; the mean entropy alone, by the same kind of model; a constant."""

SPLITS = ("train", "test")

_ENTROPY = "entropy_mean"

_MAX_ITER = 2000


# --------------------------------------------------------------------------------------------------------------------
# features


def feature_table(segments: xr.Dataset, features: str | Iterable[str] | None = None) -> tuple[np.ndarray, list[str]]:
    """Features of every segment as a matrix.

    Parameters
    ----------
    segments : xarray.Dataset (segment)
        From `segment_statistics`.
    features : str or iterable of str, optional
        Families (a name in `FAMILIES`), scores (all of its statistics) or single variables, in any mixture. Everything
        if left out.

    Returns
    -------
    values : float array (n_segments, n_features)
        NaN where a segment lacks what a statistic is taken over.
    names : list of str
        Columns; the predicted class becomes ``class_<id>``, one for each class in the table.

    Raises
    ------
    GraduncError
        If a name is none of these, or no feature is left.
    """
    attrs = {str(name): segments[name].attrs for name in segments.data_vars}
    usable = {name: own for name, own in attrs.items() if own.get("family") in FAMILIES or "score" in own}
    families = dict.fromkeys((*FAMILIES, *(own["family"] for own in usable.values())))
    wanted = [features] if isinstance(features, str) else list(families if features is None else features)
    chosen: dict[str, None] = {}  # a set that keeps its order
    for item in wanted:
        names = [name for name, found in usable.items() if item in (name, found["family"], found.get("score"))]
        if not names and item not in families:
            known = [*families, *dict.fromkeys(found["score"] for found in usable.values() if "score" in found)]
            near = difflib.get_close_matches(item, [*known, *usable], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"expected one of {', '.join(known)} or a variable"
            raise GraduncError(f"no feature, score or family {item!r} in the table of segments; {hint}")
        chosen |= dict.fromkeys(names)
    columns: dict[str, np.ndarray] = {}
    for name in chosen:
        values = segments[name].values
        if attrs[name]["family"] == "class":
            columns |= {f"class_{class_id}": values == class_id for class_id in np.unique(values)}
        else:
            columns[name] = values
    if not columns:
        why = f" (left out: {segments.attrs['left_out']})" if segments.attrs.get("left_out") else ""
        asked = ", ".join(wanted) or "(none named)"
        raise GraduncError(f"the table of segments holds none of the features {asked}{why}")
    return np.column_stack([np.asarray(values, "f8") for values in columns.values()]), list(columns)


# --------------------------------------------------------------------------------------------------------------------
# tasks


@dataclass(frozen=True)
class _Task:
    """What classification and regression differ in."""

    models: dict[str, Callable[[int], Any]]
    predict: Callable[[Any, np.ndarray], np.ndarray]
    metrics: dict[str, Callable[[np.ndarray, np.ndarray], float]]
    scoring: str
    two_classes: bool


def _linear(model: Any) -> Any:
    """Standardised features; what a segment lacks is taken as average."""
    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)


def _auroc(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(roc_auc_score(truth, predicted)) if len(np.unique(truth)) == 2 else np.nan


def _accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(((predicted >= 0.5) == truth).mean()) if len(truth) else np.nan


def _r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(r2_score(truth, predicted)) if len(truth) > 1 and np.ptp(truth) > 0 else np.nan


def _sigma(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth - predicted) ** 2))) if len(truth) else np.nan


_CLASSIFICATION = _Task(
    models={
        "logistic": lambda seed: _linear(LogisticRegression(max_iter=_MAX_ITER, random_state=seed)),
        "gradient_boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
    },
    predict=lambda model, values: model.predict_proba(values)[:, 1],
    metrics={"auroc": _auroc, "accuracy": _accuracy},
    scoring="roc_auc",
    two_classes=True,
)

_REGRESSION = _Task(
    models={
        "linear": lambda seed: _linear(LinearRegression()),
        "gradient_boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    },
    predict=lambda model, values: model.predict(values),
    metrics={"r2": _r2, "sigma": _sigma},
    scoring="r2",
    two_classes=False,
)


class MetaOptions(TypedDict, total=False):
    """What segments count, and how long importances are looked for."""

    min_interior: int
    importance_repeats: int


def meta_classification(
    segments: xr.Dataset,
    features: str | Iterable[str] | None = None,
    model: str = "logistic",
    seeds: int | Iterable[int] = 5,
    test_size: float = 0.2,
    **options: Unpack[MetaOptions],
) -> xr.Dataset:
    """Tell segments that meet nothing of their class (IoU = 0, the positive class) from those that do (IoU > 0).

    Parameters
    ----------
    segments : xarray.Dataset (segment)
        From `segment_statistics`. Segments without IoU are left out.
    features
        As in `feature_table`.
    model : str
        ``"logistic"`` (L2-penalised, on standardised features) or ``"gradient_boosting"``.
    seeds : int or iterable of int
        Number of random splits, or their seeds. The same seed gives the same split whatever the features, so that
        feature sets can be compared split by split.
    test_size : float
        Share of the frames that are tested on, in (0, 1). No frame is in both parts.
    min_interior : int
        Segments with a smaller interior are left out, as in the paper; 0 keeps all.
    importance_repeats : int
        Permutations per feature for gradient boosting; 0 leaves importances out.

    Returns
    -------
    xarray.Dataset
        ``auroc`` and ``accuracy`` (threshold 0.5) over (estimator, split, seed), and over (estimator, split) the
        same as ``_mean`` and ``_std`` (of the population) over the seeds that have a value; larger is better, the
        ``naive`` estimator is chance. ``importance`` over (feature, seed) and its mean and std: for the logistic model
        its coefficients, signed, per standard deviation of the feature (positive: speaks for IoU = 0); for gradient
        boosting the loss of test AuROC when the feature is permuted. ``n_segments``, ``n_positive``, ``n_frames`` over
        (split, seed), and ``state`` over (seed): why a value is NaN, if one is. What was predicted for every segment
        that was tested on, seeds one after another: ``test_predicted`` (estimator, test_segment; a probability here),
        ``test_truth``, ``test_frame``, ``test_seed`` (test_segment).

    Raises
    ------
    GraduncError
        If the model or a feature is unknown or `test_size` is not in (0, 1).

    Notes
    -----
    A split that leaves one class to train on fits no model, one that leaves one class to test on has no AuROC: NaN,
    with the numbers of segments beside it. Among strongly correlated features, such as norms of one family, importance
    is shared: a low one does not mean that a feature says nothing.

    Source: Rottmann et al. 2020 (arXiv:1811.00648), section IV.
    """
    min_interior, repeats = _filled(**options)
    keep = _usable(segments, "iou", min_interior)
    target = segments["iou"].values[keep] == 0 if keep.any() else np.empty(0, bool)
    plan = _Plan(_CLASSIFICATION, "iou = 0", model, _seeds(seeds), test_size, repeats)
    return _run(segments, keep, target, features, plan).assign_attrs(
        task="meta classification", positive="IoU = 0", min_interior=min_interior
    )


def meta_regression(
    segments: xr.Dataset,
    features: str | Iterable[str] | None = None,
    model: str = "linear",
    seeds: int | Iterable[int] = 5,
    test_size: float = 0.2,
    **options: Unpack[MetaOptions],
) -> xr.Dataset:
    """Predict the adjusted IoU of segments.

    Parameters
    ----------
    segments, features, seeds, test_size, min_interior, importance_repeats
        As in `meta_classification`.
    model : str
        ``"linear"`` (least squares on standardised features) or ``"gradient_boosting"``.

    Returns
    -------
    xarray.Dataset
        As `meta_classification`, with ``r2`` (coefficient of determination, at most 1, larger is better) and ``sigma``
        (root of the mean squared residual, in units of IoU, smaller is better). ``importance``: coefficients per
        standard deviation of the feature, or the loss of test R2 when it is permuted.

    Raises
    ------
    GraduncError
        As `meta_classification`.

    Notes
    -----
    R2 is NaN where the test part has fewer than two segments or all of one IoU.

    Source: Rottmann et al. 2020 (arXiv:1811.00648), section IV.
    """
    min_interior, repeats = _filled(**options)
    keep = _usable(segments, "iou_adj", min_interior)
    target = segments["iou_adj"].values[keep] if keep.any() else np.empty(0)
    plan = _Plan(_REGRESSION, "iou_adj", model, _seeds(seeds), test_size, repeats)
    return _run(segments, keep, target, features, plan).assign_attrs(task="meta regression", min_interior=min_interior)


# --------------------------------------------------------------------------------------------------------------------
# both


def _usable(segments: xr.Dataset, target: str, min_interior: int) -> np.ndarray:
    if target not in segments:
        return np.zeros(segments.sizes.get("segment", 0), bool)
    return np.isfinite(segments[target].values) & (segments["interior_size"].values >= min_interior)


def _split(frames: np.ndarray, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows to train and to test on; none if there are too few frames for both."""
    if len(np.unique(frames.astype(str))) < 2:
        return None
    splitter = GroupShuffleSplit(n_splits=1, test_size=test_size, random_state=seed)
    try:
        return next(splitter.split(frames, groups=frames.astype(str)))
    except ValueError:  # a share of few frames that rounds to all of them
        return None


def _filled(*, min_interior: int = 1, importance_repeats: int = 5) -> tuple[int, int]:
    return min_interior, importance_repeats


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    return list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in seeds]


@dataclass(frozen=True)
class _Plan:
    """What is learned, and how it is validated."""

    task: _Task
    target: str
    model: str
    seeds: list[int]
    test_size: float
    repeats: int


@dataclass(frozen=True)
class _Found:
    """What was found with every seed: arrays over (estimator, split, seed), (feature, seed) and (split, seed)."""

    metrics: dict[str, np.ndarray]
    importance: np.ndarray
    n_segments: np.ndarray
    n_positive: np.ndarray
    n_frames: np.ndarray
    states: list[str] = field(default_factory=list)
    tested: list[dict[str, np.ndarray]] = field(default_factory=list)

    @classmethod
    def empty(cls, plan: _Plan, features: int) -> _Found:
        """Nothing yet: NaN and 0 for every seed of a plan."""
        shape = len(ESTIMATORS), len(SPLITS), len(plan.seeds)
        metrics = {name: np.full(shape, np.nan) for name in plan.task.metrics}
        return cls(
            metrics,
            importance=np.full((features, shape[2]), np.nan),
            n_segments=np.zeros(shape[1:], "i8"),
            n_positive=np.zeros(shape[1:], "i8"),
            n_frames=np.zeros(shape[1:], "i8"),
        )


def _run(
    segments: xr.Dataset, keep: np.ndarray, target: np.ndarray, features: str | Iterable[str] | None, plan: _Plan
) -> xr.Dataset:
    task, model, seed_list, test_size = plan.task, plan.model, plan.seeds, plan.test_size
    if model not in task.models:
        raise GraduncError(f"unknown model {model!r}, expected one of {', '.join(task.models)}")
    if not 0 < test_size < 1:
        raise GraduncError(f"test_size is {test_size}, expected a share of the frames in (0, 1)")
    values, names = feature_table(segments, features) if len(segments.data_vars) else (np.empty((len(keep), 0)), [])
    values = values[keep]
    entropy = segments[_ENTROPY].values[keep, None] if _ENTROPY in segments else None
    frames = segments["frame"].values[keep]

    found = _Found.empty(plan, len(names))
    n_segments, n_positive, n_frames = found.n_segments, found.n_positive, found.n_frames
    for column, seed in enumerate(seed_list):
        rows = _split(frames, test_size, seed)
        if rows is None:
            n_segments[0, column], n_frames[0, column] = len(target), len(set(frames))
            n_positive[0, column] = target.sum() if task.two_classes else 0
            found.states.append(f"too few frames to split ({len(set(frames))})")
            continue
        train, test = rows
        predicted = {"naive": np.full(len(target), target[train].mean())}
        found.states.append("evaluated")
        if task.two_classes and len(np.unique(target[train])) < 2:
            found.states[-1] = "one class to train on"
        else:
            # gradient boosting knows missing values, but not a column that has no other
            known = np.where(np.isnan(values[train]).all(0), 0, values)
            fitted, converged = _fit(task.models[model](seed), known[train], target[train])
            predicted["model"] = task.predict(fitted, known)
            if entropy is not None:
                alone, _ = _fit(task.models[model](seed), entropy[train], target[train])
                predicted["entropy"] = task.predict(alone, entropy)
            testable = len(np.unique(target[test])) > 1
            if not testable:
                found.states[-1] = f"one {'class' if task.two_classes else 'IoU'} to test on"
            elif not converged:
                found.states[-1] = "not converged"
            permutations = plan.repeats if testable else 0
            found.importance[:, column] = _importance(
                fitted, known[test], target[test], task.scoring, permutations, seed
            )
        missing = np.full(len(target), np.nan)
        found.tested.append(
            {
                "test_seed": np.full(len(test), seed),
                "test_frame": frames[test],
                "test_truth": target[test].astype("f8"),
                "test_predicted": np.stack([predicted.get(name, missing)[test] for name in ESTIMATORS]),
            }
        )
        for split, part in enumerate(rows):
            n_segments[split, column], n_frames[split, column] = len(part), len(set(frames[part]))
            n_positive[split, column] = target[part].sum() if task.two_classes else 0
            for estimator, values_of in predicted.items():
                for name, metric in task.metrics.items():
                    place = ESTIMATORS.index(estimator), split, column
                    found.metrics[name][place] = metric(target[part], values_of[part])
    return _dataset(plan, names, found).assign_attrs(
        target=plan.target,
        model=model,
        test_size=test_size,
        entropy_baseline=_ENTROPY if entropy is not None else "absent",
    )


def _fit(model: Any, values: np.ndarray, target: np.ndarray) -> tuple[Any, bool]:
    """Fit a model and say whether it converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # goes into `state` instead
        model.fit(values, target)
    steps = getattr(model[-1], "n_iter_", 0) if isinstance(model, Pipeline) else 0
    return model, bool(np.max(steps) < _MAX_ITER)


def _importance(
    model: Any, values: np.ndarray, target: np.ndarray, scoring: str, repeats: int, seed: int
) -> np.ndarray:
    if isinstance(model, Pipeline):
        return model[-1].coef_.ravel()
    if repeats < 1:
        return np.full(values.shape[1], np.nan)
    found = permutation_importance(model, values, target, scoring=scoring, n_repeats=repeats, random_state=seed)
    return found.importances_mean


def _over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the values that are not NaN along the last axis; NaN where there is none."""
    valid = np.isfinite(values)
    count = valid.sum(-1)
    missing = np.full(count.shape, np.nan)
    mean = np.divide(np.where(valid, values, 0).sum(-1), count, out=missing.copy(), where=count > 0)
    square = np.where(valid, values - mean[..., None], 0) ** 2
    return mean, np.sqrt(np.divide(square.sum(-1), count, out=missing, where=count > 0))


def _dataset(plan: _Plan, names: list[str], found: _Found) -> xr.Dataset:
    columns: dict[str, Any] = {}
    for name, dims, values in (
        *((name, ("estimator", "split"), values) for name, values in found.metrics.items()),
        ("importance", ("feature",), found.importance),
    ):
        mean, std = _over_seeds(values)
        columns |= {name: ((*dims, "seed"), values), f"{name}_mean": (dims, mean), f"{name}_std": (dims, std)}
    columns |= {"n_segments": (("split", "seed"), found.n_segments), "n_frames": (("split", "seed"), found.n_frames)}
    if plan.task.two_classes:
        columns["n_positive"] = (("split", "seed"), found.n_positive)
    columns["state"] = ("seed", np.array(found.states, dtype=object))
    empty = {"test_seed": np.empty(0, "i8"), "test_frame": np.empty(0, object), "test_truth": np.empty(0)}
    for name, none in {**empty, "test_predicted": np.empty((len(ESTIMATORS), 0))}.items():
        dims = ("estimator", "test_segment") if name == "test_predicted" else ("test_segment",)
        columns[name] = (dims, np.concatenate([none, *(part[name] for part in found.tested)], -1))
    return xr.Dataset(
        columns,
        coords={
            "estimator": list(ESTIMATORS),
            "split": list(SPLITS),
            "seed": np.array(plan.seeds, "i8"),
            "feature": np.array(names, dtype=object),
        },
    )
