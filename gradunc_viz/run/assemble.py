"""One frame as a dataset: what a network said of an image, put into the variables of the schema."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image
from torch import Tensor

from ..counts.frame import count_frame
from ..schema.errors import SchemaError
from ..schema.frame import POOLED_OUTCOMES, QUANTILES, SCHEMA_VERSION, VARIABLES, id_type, ignore_id
from ..schema.scores import lookup
from ..scores.maps import ScoredImage, ScoreOptions
from ..scores.pixelwise import split_scores
from .decode import DecodedFrame

__all__ = ["frame_dataset"]

_THUMBNAIL = (240, 240)

LOG2_STEP = 2.0**-9
"""log2 norms are stored as multiples of this: float32 values that compress like 16-bit integers."""


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Encode (y, x, 3) uint8 as a small JPEG: bytes in an array."""
    small = Image.fromarray(image)
    small.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return np.frombuffer(buffer.getvalue(), "u1")


def quantise_log2(norms: Tensor) -> Tensor:
    """Round log2 norms to multiples of `LOG2_STEP`, as float32."""
    return (norms.float() / LOG2_STEP).round_().mul_(LOG2_STEP)


def half_if_it_fits(values: Tensor) -> Tensor:
    """float16 where the range allows, else float32.

    Raises
    ------
    SchemaError
        If a value is not finite.
    """
    low, high = (float(end) for end in torch.aminmax(values)) if values.numel() else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SchemaError("a score or logit is not finite")
    return values.half() if max(-low, high) < 65000 else values.float()


def halved_maps(maps: Tensor) -> Tensor:
    """Maps (S, y, x), each rounded to float16 where that keeps its pixels apart, in the narrowest type that holds all.

    A map that overflows float16 is kept as float32; so is one whose values lie so close together, beside how large
    they are, that fewer than `FEWEST_HALVES` numbers of float16 lie between its ends: rounded, most of its pixels would
    be equal. Softmaxes of a high temperature are such.

    Raises
    ------
    SchemaError
        If a value is not finite.
    """
    rounded = [half_if_it_fits(each) for each in maps]
    kept = [
        each if half.dtype != torch.float16 or 0 < _halves_between(each) < FEWEST_HALVES else half
        for each, half in zip(maps, rounded, strict=True)
    ]
    narrow = all(each.dtype == torch.float16 for each in kept)
    return torch.stack([each if narrow else each.float() for each in kept]) if kept else maps.half()


FEWEST_HALVES = 1024
"""Numbers of float16 in an octave, such as from 0.5 to 1."""


def _halves_between(values: Tensor) -> float:
    """How many numbers of float16 lie between the ends of a map, more than 0 if these are not equal."""
    low, high = torch.stack(torch.aminmax(values)).cpu()
    bits = torch.stack([low, high]).half().view(torch.int16).int()
    steps = torch.where(bits < 0, -(bits & 0x7FFF), bits)  # in the order of the numbers
    return max(float(steps[1] - steps[0]), 0.5 * float(high > low))


def frame_dataset(
    frame: DecodedFrame,
    maps: ScoredImage,
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
    as_long = {
        name: None if array is None else torch.from_numpy(array).to(maps.prediction.device, torch.long)
        for name, array in (("label", frame.label), ("anomaly", frame.anomaly))
    }
    counted = count_frame(maps, entries, len(classes), label=as_long["label"], anomaly=as_long["anomaly"], edges=edges)
    arrays: dict[str, np.ndarray] = {
        "prediction": maps.prediction.cpu().numpy().astype(id_type(len(classes))),
        "thumbnail": thumbnail(frame.image),
        **counted.arrays,
    }
    if maps.logits is not None:
        arrays["logits"] = half_if_it_fits(maps.logits).cpu().numpy()
    if frame.encoded is not None:
        arrays["image"] = np.frombuffer(frame.encoded, "u1")
    if frame.label is not None:
        arrays["label"] = frame.label
    if frame.anomaly is not None:
        arrays["anomaly"] = frame.anomaly
    if maps.head is not None and at_head:
        # log2 norms lose digits that nobody sees; of other units nothing is known
        exact = [place for place, name in enumerate(at_head) if not lookup(name).is_log2]
        rounded = quantise_log2(maps.head)
        rounded[exact] = maps.head[exact].float()
        arrays["head_score"] = rounded.cpu().numpy()
    if maps.pixel is not None and at_pixel:
        # others' maps keep every digit
        given = any(entry.family == "external" for entry in entries)
        arrays["pixel_score"] = (maps.pixel if given else halved_maps(maps.pixel)).cpu().numpy()
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
        {name: (VARIABLES[name].dims, array, {"long_name": meanings[name]}) for name, array in arrays.items()},
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
