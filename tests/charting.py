"""What tests of charts share: a cache whose bins hold one score each, its pixels, words in a chart."""

from __future__ import annotations

from pathlib import Path

import holoviews as hv
import numpy as np
import pytest
from synthetic import write_cache

from gradunc_viz.run import assemble as frame_dataset
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.frame import score


def exact_cache(folder: Path) -> Cache:
    """Three frames of two sizes whose maps are stored with every digit that was counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_dataset, "half_if_it_fits", lambda values: values)
        patch.setattr(frame_dataset, "halved_maps", lambda values: values)
        patch.setattr(frame_dataset, "quantise_log2", lambda values: values)
        return write_cache(folder, ["a", "b", "c"], [(64, 128), (64, 128), (50, 46)])


def pixels(
    cache: Cache, name: str, task: str, frames: list[str] | None = None, classes: list[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Truth and oriented scores of all evaluated pixels."""
    truths, values = [], []
    for frame in frames or cache.ids:
        dataset = cache[frame]
        prediction = dataset["prediction"].values
        truth = dataset["label" if task == "error" else "anomaly"].values
        keep = truth != 255
        if classes is not None:
            keep &= np.isin(prediction, [cache.classes.index(c) for c in classes])
        truths.append(((prediction != truth) if task == "error" else truth == 1)[keep])
        values.append(score(dataset, name).values[keep])
    return np.concatenate(truths), np.concatenate(values)


def words(chart: hv.Overlay) -> str:
    text = [part for part in chart if isinstance(part, hv.Text)]
    return text[0].data[2].replace("\n", " ") if text else ""
