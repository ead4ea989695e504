"""What meta regression predicts for segments against what they have."""

from __future__ import annotations

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ..schema.errors import GraduncError
from ..style.palette import GROUPS
from .style import Width, canvas

__all__ = ["meta_scatter"]


def meta_scatter(
    result: xr.Dataset,
    *,
    estimator: str = "model",
    seed: int | None = None,
    ax: Axes | None = None,
    width: Width | None = None,
) -> matplotlib.figure.Figure:
    """Predicted against true adjusted IoU of the segments of test frames.

    Parameters
    ----------
    result : xarray.Dataset
        From `gradunc_viz.meta_regression`.
    estimator : "model", "entropy" or "naive"
        All features asked for, the mean entropy alone, or a constant.
    seed : int, optional
        Which random split; by default the first that could be evaluated. R2 is given for this split and over all.
    ax, width
        As for `gradunc_viz.figures.roc`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        If `result` is of another kind, or holds no tested segment of the seed.
    """
    if "r2" not in result or "test_predicted" not in result:
        raise GraduncError("expected the result of gradunc_viz.meta_regression, with r2 and test_predicted")
    if estimator not in result["estimator"].values:
        raise GraduncError(f"unknown estimator {estimator!r}; expected one of {', '.join(result['estimator'].values)}")
    seeds = result["test_seed"].values
    if not len(seeds):
        raise GraduncError(f"no segment was tested: {', '.join(dict.fromkeys(map(str, result['state'].values)))}")
    seed = int(seeds[0]) if seed is None else seed
    own = seeds == seed
    if not own.any():
        raise GraduncError(f"no segment was tested with seed {seed}; expected one of {sorted(set(seeds.tolist()))}")
    truth = result["test_truth"].values[own]
    predicted = result["test_predicted"].sel(estimator=estimator).values[own]
    score = result.sel(estimator=estimator, split="test")
    with canvas(ax, width=width, aspect=1.0) as (figure, axes):
        axis = axes[0, 0]
        axis.plot([0, 1], [0, 1], color="0.25", linestyle="--", linewidth=0.8, gid="diagonal")
        axis.scatter(
            truth, predicted, s=5, alpha=float(np.clip(300 / max(len(truth), 1), 0.35, 0.8)), color=GROUPS["right"],
            edgecolors="none", rasterized=len(truth) > 2000, gid="segments",
        )  # fmt: skip
        low, high = float(min(-0.02, np.nanmin(predicted))), float(max(1.02, np.nanmax(predicted)))
        axis.set(xlim=(-0.02, 1.02), ylim=(low, high), xlabel="adjusted IoU of a segment", ylabel="predicted")
        mean, deviation = 100 * float(score["r2_mean"]), 100 * float(score["r2_std"])
        text = (
            f"$R^2$ {100 * float(score['r2'].sel(seed=seed)):.1f} %, {len(truth):,} segments\n"
            f"{result.sizes['seed']} splits: {mean:.1f} $\\pm$ {deviation:.1f} %"
        )
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        axis.text(0.03, 0.97, text, va="top", transform=axis.transAxes, gid="r2", bbox=box)
        return figure
