"""What a cached frame tells: scores at the image's size, probabilities, the image."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from ..datasets.decoding import opened_image, rgb_pixels
from ..kernels.resize import Band, bilinear, bilinear_log2, neighbours
from ..schema.errors import CacheError, FrameError, GraduncError
from ..schema.scores import LOG2_FLOOR, Score, SoftmaxScore, lookup

__all__ = [
    "cached_scores",
    "class_probabilities",
    "decode_image",
    "logits_at",
    "probabilities_at",
    "read_variable",
    "score",
    "score_values",
    "scores_at",
    "softmax",
]  # fmt: skip


_LARGE, _STRIP = 1 << 24, 1 << 22  # pixels beyond which logits are resized in strips, and of a strip


@contextmanager
def _reading(dataset: xr.Dataset, what: str) -> Iterator[None]:
    """Name the frame, and what of it cannot be read."""
    try:
        yield
    except GraduncError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # codecs raise the last
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: {what} cannot be read ({error})") from error


def read_variable(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Values of a variable of a frame.

    Raises
    ------
    CacheError
        If they cannot be read.
    """
    with _reading(dataset, name):
        return np.asarray(dataset[name].values)


def cached_scores(dataset: xr.Dataset, at: str) -> list[str]:
    """Scores that a frame holds, at the resolution of the ``"head"`` or of the image, ``"pixel"``."""
    return [str(name) for name in dataset[f"score_{at}"].values] if f"{at}_score" in dataset else []


def score(dataset: xr.Dataset, name: str) -> xr.DataArray:
    """Any score of a frame at image resolution, oriented: larger is more uncertain.

    Gradient norms are resized as norms (bilinear) and returned as log2. Scores of the softmax family that
    were not cached are computed from the cached logits.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache.
    name : str
        A score name.

    Returns
    -------
    xarray.DataArray (y, x), float32
        float64 for imported maps that float32 would not tell apart. attrs: ``score``, ``units``, ``long_name``.

    Raises
    ------
    UnknownScoreError
        If there is no such score.
    CacheError
        If a gradient norm was not computed for this cache.
    """
    entry = lookup(name)
    size = dataset.sizes["y"], dataset.sizes["x"]
    align = bool(dataset.attrs["align_corners"])
    if entry.at_head:
        cached = cached_scores(dataset, "head")
        if name not in cached:
            raise CacheError(
                f"frame {dataset.attrs['frame_id']!r}: score {name!r} is not in the cache, which has "
                f"{', '.join(cached) or 'no score at the head'}; it was not among the scores to be computed"
            )
        values = dataset["head_score"].isel(score_head=cached.index(name)).values
        values = bilinear_log2(values, size, LOG2_FLOOR, align) if entry.is_log2 else bilinear(values, size, align)
    else:
        cached = cached_scores(dataset, "pixel")
        if name in cached:
            values = dataset["pixel_score"].isel(score_pixel=cached.index(name)).values
            values = values if values.dtype == np.float64 else values.astype("f4")
        else:
            values = _from_logits(dataset, entry, size, align)
    return xr.DataArray(
        values * entry.orientation if entry.orientation < 0 else values,
        dims=("y", "x"),
        name=name,
        attrs={
            "score": name,
            "units": entry.units,
            "long_name": entry.title,
            "orientation": "larger = more uncertain",
        },
    )


def score_values(dataset: xr.Dataset, name: str) -> np.ndarray:
    """Oriented values of a score, (y, x), as `score`.

    Raises
    ------
    CacheError
        Also if they cannot be read.
    """
    with _reading(dataset, f"score {name!r}"):
        return np.asarray(score(dataset, name).values)


def scores_at(dataset: xr.Dataset, y: int, x: int, names: Iterable[str]) -> dict[str, float]:
    """Oriented scores of one pixel, as `score`, without making whole maps of those that are cached.

    Raises
    ------
    CacheError
        If they cannot be read.
    """
    with _reading(dataset, "scores"):
        at_head, at_pixel = cached_scores(dataset, "head"), cached_scores(dataset, "pixel")
        found = {}
        for name in names:
            entry = lookup(name)
            if entry.at_head and name in at_head:
                # `.values` of the whole: what was read once stays with the dataset
                values = dataset["head_score"].values[at_head.index(name)]
                value = _log2_at(dataset, values, y, x) if entry.is_log2 else _value_at(dataset, values, y, x)
            elif not entry.at_head and name in at_pixel:
                value = float(dataset["pixel_score"].values[at_pixel.index(name), y, x])
            else:
                found[name] = float(score(dataset, name).values[y, x])
                continue
            found[name] = value * entry.orientation
        return found


def _value_at(dataset: xr.Dataset, values: np.ndarray, y: int, x: int) -> float:
    cells, down, across = _around(dataset, values, y, x)
    return float(down @ cells.astype("f8") @ across)


def _log2_at(dataset: xr.Dataset, norms: np.ndarray, y: int, x: int) -> float:
    cells, down, across = _around(dataset, norms, y, x)
    top = float(cells.max())
    with np.errstate(divide="ignore"):  # norms are resized as norms, not as logarithms
        return max(float(np.log2(down @ np.exp2(cells.astype("f8") - top) @ across)) + top, LOG2_FLOOR)


def _around(dataset: xr.Dataset, maps: Any, y: int, x: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Up to two by two cells (..., v, u) of the head that a pixel is interpolated from, their weights down and across.

    `maps` need not be in memory: only these cells are read.
    """
    align = bool(dataset.attrs["align_corners"])
    places, weights = [], []
    for place, source, dim in ((y, maps.shape[-2], "y"), (x, maps.shape[-1], "x")):
        low, high, weight = (part[place] for part in neighbours(source, dataset.sizes[dim], align))
        places.append(slice(int(low), int(high) + 1))
        weights.append(np.array([1 - weight, weight], "f8") if high > low else np.ones(1))
    return np.asarray(maps[(..., *places)]), weights[0], weights[1]


def _from_logits(dataset: xr.Dataset, entry: Score, size: tuple[int, int], align: bool) -> np.ndarray:
    frame_id = str(dataset.attrs["frame_id"])
    if not entry.compute:
        raise CacheError(f"frame {frame_id!r}: score {entry.name!r} is not cached, and no function of it is known here")
    if "logits" not in dataset:
        raise CacheError(f"frame {frame_id!r}: score {entry.name!r} is not cached, and there are no logits")
    more = sorted(entry.needs - {"logits"} - ({"queries"} if "logits_are" in dataset.attrs else set()))
    if more:
        raise CacheError(
            f"frame {frame_id!r}: score {entry.name!r} is not cached, and needs {', '.join(more)} beside the logits"
        )
    import torch  # only for scores that were not cached

    from ..scores.maps import own_map
    from ..scores.needs import ForwardPass, HeadOutput
    from ..scores.resized_logits import resized_pixel_scores

    if size[0] * size[1] > _LARGE and isinstance(entry, SoftmaxScore):  # known to be of each pixel alone
        values = np.empty(size, "f4")
        step = max(1, _STRIP // size[1])
        for first in range(0, size[0], step):
            band = Band(slice(first, min(first + step, size[0])), dataset.sizes["v"])
            rows = band.rows(size[0], align)
            part = torch.from_numpy(dataset["logits"].isel(v=rows).values.astype("f4"))[None]
            band = replace(band, first=rows.start)
            values[band.lines] = resized_pixel_scores(part, size, (entry.name,), None, align, band=band).scores[0, 0]
        return values
    logits = torch.from_numpy(bilinear(dataset["logits"].values, size, align))[None]
    given = logits if entry.of_logits else ForwardPass(HeadOutput(logits, None, torch.nn.Identity()), size)
    return own_map(entry, given, size, frame_id).numpy()


def softmax(logits: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Probabilities of logits (class, ...), put into `out` where that is given; without torch, for what is cached."""
    weights = np.subtract(logits, logits.max(0), out=out)
    np.exp(weights, out=weights)
    weights /= weights.sum(0)
    return weights


def probabilities_at(dataset: xr.Dataset, y: int, x: int) -> np.ndarray:
    """Softmax probabilities of one image pixel, (class,) float64, from the logits of the cells around it.

    Of a query model the softmax is that of its class scores S, as for every score of the softmax family.

    Raises
    ------
    GraduncError
        As of `logits_at`.
    """
    return softmax(logits_at(dataset, y, x))


def logits_at(dataset: xr.Dataset, y: int, x: int) -> np.ndarray:
    """Logits of one image pixel, (class,) float64, or class scores S of a query model, from the cells around it.

    Raises
    ------
    GraduncError
        If the pixel lies outside the image.
    CacheError
        If there are no logits, or they cannot be read.
    """
    height, width = dataset.sizes["y"], dataset.sizes["x"]
    if not (0 <= y < height and 0 <= x < width):
        raise GraduncError(f"pixel ({y}, {x}) lies outside the image of {height} x {width}")
    if "logits" not in dataset:
        raise CacheError(
            f"frame {dataset.attrs['frame_id']!r}: the cache has no logits: its maps were imported, or are of several "
            "passes"
        )
    with _reading(dataset, "logits"):
        cells, down, across = _around(dataset, dataset["logits"].variable, y, x)
    return np.einsum("cvu,v,u->c", cells.astype("f8"), down, across)


def class_probabilities(dataset: xr.Dataset, y: int, x: int) -> xr.DataArray:
    """`probabilities_at` with the names of the classes."""
    found = probabilities_at(dataset, y, x)
    return xr.DataArray(found, dims="class", coords={"class": dataset["class"]}, name="probability")


def decode_image(dataset: xr.Dataset) -> np.ndarray:
    """Decode the image to (y, x, 3) uint8 RGB, as the network saw it; the thumbnail, enlarged, where there is none.

    Raises
    ------
    CacheError
        If it cannot be decoded.
    """
    size = dataset.sizes["y"], dataset.sizes["x"]
    name = "image" if "image" in dataset else "thumbnail"
    path = Path(str(dataset.attrs.get("source", name)))
    try:
        with opened_image(path, io.BytesIO(read_variable(dataset, name).tobytes())) as image:
            pixels = rgb_pixels(image, path)
    except FrameError as error:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: its {name} cannot be decoded ({error})") from error
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
