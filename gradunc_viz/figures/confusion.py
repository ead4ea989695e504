"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from ..metrics import segmentation
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import opened
from ..style.scores import plain
from .style import Width, canvas, width_inches

__all__ = ["confusion"]


def confusion(
    cache: Cache | str,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    ax: Axes | None = None,
    width: Width | None = None,
) -> matplotlib.figure.Figure:
    """Confusion matrix: of the pixels labelled as a class (row), the share predicted as each class (column), in %.

    The IoU of each class stands at the right. Shares below 0.5 % are left blank.

    Parameters
    ----------
    cache : Cache or path
    frames : optional
        Ids of frames.
    classes : optional
        Names of classes, in order; by default all that occur in labels or predictions. Shares are always of all pixels
        labelled as the row's class.
    ax, width
        As for `gradunc_viz.figures.roc`; by default ``"cvpr-double"`` for more than eight classes.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    GraduncError
        For an unknown frame or class, or a cache without class labels.

    See Also
    --------
    gradunc_viz.segmentation : what is drawn.
    """
    one = opened(cache)
    result = segmentation(one, frames=frames)
    counts = result["confusion"].values.astype("f8")
    if counts.sum() == 0:
        raise GraduncError(f"{one.path}: no frame has class labels, which a confusion matrix needs")
    names = list(one.classes)
    if classes is None:
        index = [i for i in range(len(names)) if counts[i].sum() + counts[:, i].sum() > 0]
    else:
        for name in classes:
            if name not in names:
                raise GraduncError(f"{one.path}: no class {name!r}; it has {', '.join(names)}")
        index = [names.index(name) for name in classes]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (100 * counts / counts.sum(1, keepdims=True))[np.ix_(index, index)]
    n = len(index)
    inches = width_inches(width, "cvpr-double" if n > 8 else "cvpr-single")
    height = 1.05 + 0.2 * n
    with canvas(ax, width=inches, height=height) as (figure, axes):
        axis = axes[0, 0]
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for r, c in np.argwhere(share >= 0.5):
            value = share[r, c]
            axis.text(c, r, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")
        titles = [plain(names[i]) for i in index]
        axis.set_xticks(
            range(n), titles, rotation=45 if n > 4 else 0, ha="right" if n > 4 else "center", rotation_mode="anchor"
        )
        axis.set_yticks(range(n), titles)
        axis.set(xlabel="prediction", ylabel="label")
        axis.grid(False)
        axis.set_xticks(np.arange(n - 1) + 0.5, minor=True)
        axis.set_yticks(np.arange(n - 1) + 0.5, minor=True)
        axis.grid(True, which="minor", color="white", linewidth=0.6)
        axis.tick_params(which="both", length=0)
        right = axis.secondary_yaxis("right")
        iou = result["iou"].values[index]
        right.set_yticks(range(n), [f"{100 * v:.1f}" if np.isfinite(v) else "–" for v in iou])
        right.tick_params(length=0)
        right.set_ylabel(f"IoU [%], mean {100 * float(result['miou']):.1f}")
        bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02, aspect=30)
        bar.set_label("share of label [%]")
        bar.outline.set_visible(False)
        return figure
