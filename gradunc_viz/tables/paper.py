"""The paper's three tables: per pixel, per segment, and unknown objects; several caches side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from ..metrics import METRICS, evaluate, sparsification
from ..metrics.calibration import score_calibration
from ..metrics.meta import meta_classification, meta_regression
from ..metrics.metric import find_metric
from ..metrics.objects import with_components
from ..metrics.segment_table import segment_statistics
from ..schema.errors import GraduncError
from ..schema.scores import lookup
from ..store.choice import Caches, Selection, chosen, representative
from .cost import cost_columns
from .evaluation import caption, evaluation_table
from .table import Column, Table

__all__ = ["ood_table", "pixel_table", "segment_table"]


def pixel_table(
    caches: Caches,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    error: str = "brier",
    sort: str | None = "auprc",
) -> Table:
    """Table of how well scores tell right from wrong pixels: ECE and AuSE, AuROC and AuPRC of "prediction is wrong".

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    scores : optional
        Names; by default all.
    frames : optional
        Ids of frames.
    error : "brier" or "error_rate"
        Error of a pixel for AuSE.
    sort : "auprc", "auroc" or None
        Metric whose best score comes first, in the first cache; None for the order of the scores.

    Returns
    -------
    gradunc_viz.tables.table.Table

    Raises
    ------
    GraduncError
        For an unknown score, frame or error, or a cache without class labels.

    See Also
    --------
    gradunc_viz.metrics.calibration.score_calibration : how a score becomes a confidence, for its ECE.
    """
    if error not in ("brier", "error_rate"):
        raise GraduncError(f"error is {error!r}; expected 'brier' or 'error_rate'")
    opened, names = chosen(caches, scores, all_scores=True)
    pixels = evaluate(opened, "error", scores=names, frames=frames, bootstrap=0)
    parts = (
        ("ECE", -1, score_calibration(opened, scores=names, frames=frames)["ece"]),
        ("AuSE", -1, sparsification(opened, scores=names, frames=frames)["ause"].sel(error=error)),
        *((m.short, m.orientation, pixels[m.name].sel(pooling="pixels")) for m in (METRICS["auroc"], METRICS["auprc"])),
    )
    columns, values = [], []
    for name in opened:
        for title, orientation, array in parts:
            columns.append(Column(name, title, orientation))
            values.append(array.sel(cache=name).reindex(score=list(names)).values)
        for column, own in cost_columns(pixels, name, names):
            columns.append(column)
            values.append(own)
    of = {"brier": "Brier score", "error_rate": "error rate"}[error]
    notes = (
        *caption(pixels),
        f"AuSE: of the {of}, normalised by the error of all pixels; ECE: 1 - normalised score as confidence, 15 bins",
    )
    wrong = pixels["wrong_side"].sel(pooling="pixels", score=list(names)).transpose("score", "cache").values
    table = Table(
        "Pixel-wise",
        names,
        tuple(columns),
        np.stack(values, 1),
        _titles(names),
        notes=tuple(notes),
        wrong_side=wrong,
    )
    return table if sort is None else table.best_first(find_metric(sort).short)


def ood_table(
    caches: Caches,
    *,
    track: str | Mapping[str, str] = "anomaly",
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    components: bool = True,
    progress: bool = False,
    sort: str | None = "auprc",
) -> Table:
    """Table of how well scores find unknown objects: AuPRC, FPR95 per pixel, sIoU, PPV and mean F1 per object.

    Parameters
    ----------
    caches, scores, frames
        As for `pixel_table`.
    track : "anomaly", "obstacle", or a mapping from names of caches to these
        Whose size limits of objects hold.
    components : bool
        Whether objects are looked at, which reads the score maps (about 0.1 s per frame and score).
    progress : bool
        Whether a progress bar is shown.
    sort : str, optional
        As in `gradunc_viz.tables.evaluation_table`.

    Returns
    -------
    gradunc_viz.tables.table.Table

    Raises
    ------
    GraduncError
        For an unknown track, score or frame, or a cache without anomaly labels.
    """
    opened, names = chosen(caches, scores, all_scores=True)
    result = evaluate(opened, "anomaly", scores=names, frames=frames, bootstrap=0)
    if components:
        result = with_components(result, opened, track, frames=frames, progress=progress)
    more = ("component_siou", "component_ppv", "component_f1") if components else ()
    return evaluation_table(result, metrics=("auprc", "fpr95", *more), title="Unknown objects", sort=sort)


def segment_table(
    caches: Caches,
    features: Mapping[str, str | Iterable[str] | None] | None = None,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    seeds: int = 5,
    model: str = "linear",
) -> Table:
    """Table of meta classification (AuROC of IoU = 0 against IoU > 0) and meta regression (R2 of the adjusted IoU).

    Parameters
    ----------
    caches, frames
        As for `pixel_table`.
    features : mapping, optional
        Title of a row to features as `gradunc_viz.meta_regression` takes them. By default every score alone, all
        gradient norms, all scores of the softmax, and everything.
    scores : optional
        Scores whose statistics are computed; by default those computed by default, as each is read at full resolution.
    seeds : int
        Random splits of the frames, 80 to 20; numbers are mean and standard deviation over them.
    model : "linear" or "gradient_boosting"
        Logistic and linear regression, or gradient boosting.

    Returns
    -------
    gradunc_viz.tables.table.Table

    Raises
    ------
    GraduncError
        For an unknown score, feature, frame or model, or a cache without class labels.
    """
    opened, names = chosen(caches, scores)
    models = {"linear": ("logistic", "linear"), "gradient_boosting": ("gradient_boosting",) * 2}
    if model not in models:
        raise GraduncError(f"unknown model {model!r}, expected one of {', '.join(models)}")
    rows = dict(features) if features is not None else _feature_rows(names)
    selections = Selection.of_each(opened, "error", frames=frames)
    columns: list[Column] = []
    values: list[list[float]] = []
    spread: list[list[float]] = []
    notes: list[str] = []
    for name, cache in opened.items():
        whole = Selection.of(cache, "error")
        if not whole.labelled:
            raise whole.without_labels("meta classification")
        own = [score for score in names if score in cache.scores] or list(representative(cache))
        # rows of scores that this cache has not, if nobody asked for them
        has = {*own, *(lookup(score).family for score in own), None}
        absent = [wanted for wanted in rows.values() if wanted not in has] if features is None else []
        segments = segment_statistics(cache, own, selections[name].frames)
        for title, metric, task, kind in (
            (METRICS["auroc"].short, "auroc", meta_classification, models[model][0]),
            ("R²", "r2", meta_regression, models[model][1]),
        ):
            learned = [
                task(segments, wanted, kind, seeds, importance_repeats=0) if wanted not in absent else None
                for wanted in rows.values()
            ]
            columns.append(Column(name, title, +1))
            for numbers, of in ((values, "mean"), (spread, "std")):
                numbers.append([np.nan if one is None else _tested(one[f"{metric}_{of}"]) for one in learned])
        notes.append(
            f"{name}: {segments.sizes['segment']:,} segments of {len(segments.attrs['frames'])} frames; mean and "
            f"standard deviation over {seeds} random splits of the frames, {model.replace('_', ' ')} models"
        )
        if segments.attrs["left_out"]:
            notes.append(f"left out: {segments.attrs['left_out']}")
    return Table(
        "Segment-wise: meta classification and regression",
        tuple(rows),
        tuple(columns),
        np.array(values).T,
        tuple(lookup(row).title if row in names else row for row in rows),
        np.array(spread).T,
        tuple(notes),
        row_name="features",
    )


def _tested(values: xr.DataArray) -> float:
    return float(values.sel(estimator="model", split="test"))


def _feature_rows(names: Sequence[str]) -> dict[str, str | Iterable[str] | None]:
    families = dict.fromkeys(lookup(name).family for name in names)
    titles = {"gradient": "all gradient norms", "softmax": "all softmax scores"}
    rows: dict[str, str | Iterable[str] | None] = {name: name for name in names}
    rows |= {titles[family]: family for family in families if family in titles}
    return {**rows, "all features": None}


def _titles(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(lookup(name).title for name in names)
