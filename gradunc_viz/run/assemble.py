"""One frame as a dataset: what a network said of an image, put into the variables of the schema."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image
from torch import Tensor

from ..counts.frame import Strip, count_strips
from ..schema.frame import POOLED_OUTCOMES, QUANTILES, SCHEMA_VERSION, VARIABLES, id_type, ignore_id
from ..schema.scores import Score, lookup
from ..scores.maps import ScoredImage, ScoreOptions
from ..scores.pixelwise import split_scores
from .decode import DecodedFrame
from .narrow import half_if_it_fits, halved_maps, keeps_apart, quantise_log2
from .planes import Planes, stored
from .striped import StripedImage

__all__ = ["frame_dataset"]

_THUMBNAIL = (240, 240)
_DRAFT = 2400  # pixels of the shorter side that are looked at


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Encode (y, x, 3) uint8 as a small JPEG: bytes in an array."""
    coarse = max(1, min(image.shape[:2]) // _DRAFT)  # a picture of a hundred megapixels is not copied for that
    small = Image.fromarray(np.ascontiguousarray(image[::coarse, ::coarse]) if coarse > 1 else image)
    small.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return np.frombuffer(buffer.getvalue(), "u1")


def frame_dataset(
    frame: DecodedFrame,
    maps: ScoredImage | StripedImage,
    options: ScoreOptions,
    classes: Sequence[str],
    attrs: dict[str, Any],
    edges: Mapping[str, Tensor] | None = None,
) -> xr.Dataset:
    """Assemble the dataset of one frame as `gradunc_viz.schema.frame.VARIABLES` describes it.

    Parameters
    ----------
    attrs : dict
        What else is known of how the frame was computed (head, input size, network).
    edges : dict of score name -> Tensor, optional
        For maps that others computed, see `count_frame`.
    """
    at_head, at_pixel = split_scores(options.scores)
    entries = [lookup(name) for name in options.scores]
    if isinstance(maps, StripedImage):
        strips: Iterable[Strip] = maps.strips(frame.label, frame.anomaly)
    else:
        device = maps.prediction.device
        as_long = [
            None if ids is None else torch.from_numpy(ids).to(device, torch.long)
            for ids in (frame.label, frame.anomaly)
        ]
        strips = [Strip(maps, *as_long)]
    counted = count_strips(strips, entries, len(classes), edges=edges)
    arrays: dict[str, Any] = {"thumbnail": thumbnail(frame.image), **counted.arrays}
    arrays |= _striped(maps, entries) if isinstance(maps, StripedImage) else _whole(maps, entries, len(classes))
    if frame.encoded is not None:
        arrays["image"] = np.frombuffer(frame.encoded, "u1")
    if frame.label is not None:
        arrays["label"] = frame.label
    if frame.anomaly is not None:
        arrays["anomaly"] = frame.anomaly
    names = {
        "class": list(classes),
        "label_class": list(classes),
        "score": list(options.scores),
        "score_head": list(at_head),
        "score_pixel": list(at_pixel),
        "outcome": list(counted.outcomes),
        "pooled_outcome": [name for name in POOLED_OUTCOMES if name in counted.outcomes],
        "correctness": ["right", "wrong"],
    }
    used = {"class"}.union(*(VARIABLES[name].dims for name in arrays))  # maps without any label have no row of it
    coords: dict[str, Any] = {dim: np.array(values, dtype=object) for dim, values in names.items() if dim in used}
    coords["quantile"] = np.array(QUANTILES)
    meanings = {name: VARIABLES[name].meaning for name in arrays}
    if "logits_are" in attrs and "logits" in arrays:
        meanings["logits"] = f"{attrs['logits_are']}, no logits, at the head's resolution"
    return xr.Dataset(
        {
            name: array
            if isinstance(array, xr.Variable)
            else (VARIABLES[name].dims, array, {"long_name": meanings[name]})
            for name, array in arrays.items()
        },
        coords=coords,
        attrs={
            "schema_version": SCHEMA_VERSION,
            "frame_id": frame.id,
            "digest": frame.digest,
            "source": frame.source,
            "image_format": frame.image_format,
            "align_corners": int(bool(options.align_corners)),
            "ignore": ignore_id(id_type(len(classes))),
            "resize": "bilinear; log2 norms are resized as norms, not as logarithms",
            "scores": {e.name: {"units": e.units, "orientation": e.orientation, "formula": e.formula} for e in entries},
            **attrs,
        },
    )


def _attrs(name: str) -> dict[str, Any]:
    return {"long_name": VARIABLES[name].meaning}


def _whole(maps: ScoredImage, entries: Sequence[Score], n_classes: int) -> dict[str, Any]:
    """Maps that are in memory, in the types they are stored in."""
    at_head, at_pixel = ([entry for entry in entries if entry.at_head == head] for head in (True, False))
    arrays: dict[str, Any] = {"prediction": maps.prediction.cpu().numpy().astype(id_type(n_classes))}
    if maps.logits is not None:
        arrays["logits"] = half_if_it_fits(maps.logits).cpu().numpy()
    if maps.head is not None and at_head:
        # log2 norms lose digits that nobody sees; of other units nothing is known
        exact = [place for place, entry in enumerate(at_head) if not entry.is_log2]
        rounded = quantise_log2(maps.head)
        rounded[exact] = maps.head[exact].float()
        arrays["head_score"] = rounded.cpu().numpy()
    if maps.pixel is not None and at_pixel:
        # others' maps keep every digit
        given = any(entry.family == "external" for entry in entries)
        arrays["pixel_score"] = (maps.pixel if given else halved_maps(maps.pixel)).cpu().numpy()
    return arrays


def _striped(maps: StripedImage, entries: Sequence[Score]) -> dict[str, Any]:
    """The same of maps that are read a few rows at a time, as they are stored."""
    at_head = [entry for entry in entries if entry.at_head]

    def at_the_head(number: int, rows: np.ndarray) -> np.ndarray:
        return quantise_log2(torch.from_numpy(rows)).numpy() if at_head[number].is_log2 else rows

    def variable(name: str, planes: Planes, *how: Any) -> xr.Variable:
        return stored(VARIABLES[name].dims, planes, _attrs(name), *how)

    arrays = {"prediction": variable("prediction", maps.prediction), "logits": variable("logits", maps.logits)}
    if at_head:
        arrays["head_score"] = variable("head_score", maps.head, None, at_the_head)
    if maps.pixel.shape[0]:
        ends = list(zip(maps.pixel.low, maps.pixel.high, strict=True))
        halved = [keeps_apart(*end) for end in ends]
        dtype = np.float16 if all(halved) else np.float32
        arrays["pixel_score"] = variable(
            "pixel_score",
            maps.pixel,
            dtype,
            lambda number, rows: rows.astype("f2").astype(dtype, copy=False) if halved[number] else rows,
        )
    return arrays
