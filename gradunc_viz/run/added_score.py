"""One more score in a frame that is cached already: its map and its counts beside those of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from ..counts.frame import count_frame
from ..kernels.resize import bilinear
from ..schema.frame import VARIABLES
from ..schema.scores import Score
from ..scores.maps import ScoredImage
from ..scores.pixelwise import pixel_scores

__all__ = ["with_score"]


def with_score(dataset: xr.Dataset, entry: Score, values: np.ndarray) -> xr.Dataset:
    """Add a score of the image's resolution to a frame; what the frame holds stays as it is.

    Maps of scores at the pixel are kept as float32 from then on: float16 numbers near 1 are too far apart for ranks.
    Brier scores of pixels are those of the cached logits, which are rounded.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache that lacks the score.
    entry : Score
    values : float32 array (y, x)
        Not oriented.

    Returns
    -------
    xarray.Dataset
        In memory.
    """
    dataset = dataset.load()
    n_classes = dataset.sizes["class"]
    label, anomaly = (_long(dataset[name].values) if name in dataset else None for name in ("label", "anomaly"))
    maps = ScoredImage(
        _long(dataset["prediction"].values),
        oriented=torch.from_numpy(values)[None] * entry.orientation,
        brier=_brier(dataset, label) if label is not None and "brier_sum" in dataset else None,
    )
    counted = count_frame(maps, [entry], n_classes, label=label, anomaly=anomaly).arrays
    bins = max(dataset.sizes["bin"], counted["bin_min"].shape[1])
    entries = max(dataset.sizes.get("cell_entry", 0), counted["cell"].shape[1] if "cell" in counted else 0)
    variables: dict[str, Any] = {}
    for name, variable in dataset.data_vars.items():
        dims = tuple(map(str, variable.dims))
        if "score" not in dims:
            continue
        parts = [_padded(array, dims, str(name), bins, entries) for array in (variable.values, counted[str(name)])]
        joined = np.concatenate(parts, axis=dims.index("score"))
        variables[str(name)] = (dims, joined.astype(variable.dtype), variable.attrs)
    plane = values[None]
    if "pixel_score" in dataset:
        plane = np.concatenate([dataset["pixel_score"].values, plane])
    variables["pixel_score"] = (
        VARIABLES["pixel_score"].dims,
        plane.astype(np.result_type(plane, "f4")),
        {"long_name": VARIABLES["pixel_score"].meaning},
    )
    names = {dim: _names(dataset, dim) for dim in ("score", "score_pixel")}
    coords = {dim: np.array([*held, entry.name], dtype=object) for dim, held in names.items()}
    described = {"units": entry.units, "orientation": entry.orientation, "formula": entry.formula}
    attrs = dataset.attrs | {"scores": dataset.attrs["scores"] | {entry.name: described}}
    kept = dataset.drop_vars([*variables, *coords], errors="ignore")
    return kept.assign(variables).assign_coords(coords).assign_attrs(attrs)


def _long(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype("i8"))


def _names(dataset: xr.Dataset, dim: str) -> list[str]:
    return [str(name) for name in dataset[dim].values] if dim in dataset.coords else []


def _brier(dataset: xr.Dataset, label: torch.Tensor) -> torch.Tensor | None:
    size = (dataset.sizes["y"], dataset.sizes["x"])
    logits = bilinear(dataset["logits"].values.astype("f4"), size, bool(dataset.attrs["align_corners"]))
    found = pixel_scores(torch.from_numpy(logits)[None], (), label[None]).probability_error
    return None if found is None else found[0]


def _padded(array: np.ndarray, dims: tuple[str, ...], name: str, bins: int, entries: int) -> np.ndarray:
    """Counts with as many bins, the last staying the last, or cells, the last repeated without pixels, as wanted."""
    last = dims[-1]
    missing = {"bin": bins, "cell_entry": entries}.get(last, array.shape[-1]) - array.shape[-1]
    if not missing:
        return array
    if last == "bin":
        empty = np.nan if name in ("bin_min", "bin_max") else 0
        return np.insert(array, [array.shape[-1] - 1] * missing, empty, axis=-1)
    filling = array[..., -1:] if name == "cell" else np.full_like(array[..., -1:], name == "cell_single")
    return np.concatenate([array, np.repeat(filling, missing, axis=-1)], axis=-1)
