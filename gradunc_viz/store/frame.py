"""What a cached frame tells: scores at the image's size, probabilities, the image."""

from __future__ import annotations

import io

import numpy as np
import xarray as xr
from PIL import Image

from ..kernels.resize import bilinear, bilinear_log2
from ..schema.errors import CacheError, GraduncError
from ..schema.scores import LOG2_FLOOR, Score, lookup

__all__ = ["class_probabilities", "decode_image", "score"]


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
        attrs: ``score``, ``units``, ``long_name``.

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
        cached = [str(found) for found in dataset["score_head"].values] if "head_score" in dataset else []
        if name not in cached:
            raise CacheError(
                f"frame {dataset.attrs['frame_id']!r}: score {name!r} is not in the cache, which has "
                f"{', '.join(cached) or 'no score at the head'}; compute it with --scores"
            )
        values = dataset["head_score"].isel(score_head=cached.index(name)).values
        values = bilinear_log2(values, size, LOG2_FLOOR, align) if entry.is_log2 else bilinear(values, size, align)
    else:
        cached = [str(found) for found in dataset["score_pixel"].values] if "pixel_score" in dataset else []
        if name in cached:
            values = dataset["pixel_score"].isel(score_pixel=cached.index(name)).values.astype("f4")
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


def _from_logits(dataset: xr.Dataset, entry: Score, size: tuple[int, int], align: bool) -> np.ndarray:
    frame_id = str(dataset.attrs["frame_id"])
    if not entry.compute:
        raise CacheError(f"frame {frame_id!r}: score {entry.name!r} is not cached, and no function of it is known here")
    if "logits" not in dataset:
        raise CacheError(f"frame {frame_id!r}: score {entry.name!r} is not cached, and there are no logits")
    import torch  # only for scores that were not cached

    from ..scores.maps import own_map

    logits = torch.from_numpy(bilinear(dataset["logits"].values, size, align))
    return own_map(entry, logits[None], size, frame_id).numpy()


def class_probabilities(dataset: xr.Dataset, y: int, x: int) -> xr.DataArray:
    """Softmax probabilities of one image pixel, from the logits around it."""
    height, width = dataset.sizes["y"], dataset.sizes["x"]
    if not (0 <= y < height and 0 <= x < width):
        raise GraduncError(f"pixel ({y}, {x}) lies outside the image of {height} x {width}")
    if "logits" not in dataset:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: the cache has no logits, only imported maps")
    logits = bilinear(dataset["logits"].values, (height, width), bool(dataset.attrs["align_corners"]))[:, y, x]
    weights = np.exp(logits - logits.max())
    return xr.DataArray(weights / weights.sum(), dims="class", coords={"class": dataset["class"]}, name="probability")


def decode_image(dataset: xr.Dataset) -> np.ndarray:
    """Decode the image to (y, x, 3) uint8 RGB; the thumbnail, enlarged, where images were left out."""
    size = dataset.sizes["x"], dataset.sizes["y"]
    name = "image" if "image" in dataset else "thumbnail"
    try:
        with Image.open(io.BytesIO(dataset[name].values.tobytes())) as image:
            from PIL import ImageOps

            picture = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR))
    except OSError as error:
        raise CacheError(f"frame {dataset.attrs['frame_id']!r}: its {name} cannot be decoded ({error})") from error
