"""Names everybody agrees on: dims and variables of a cached frame, score entries, exceptions.

This module is the bottom of the package. It imports numpy and nothing heavier, so that any other
module, and any script that only reads a cache, may depend on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .errors import SchemaError
from .file_names import is_foreign
from .scores import lookup

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BINS_PER_UNIT",
    "BRIER_BINS",
    "CLASS_SCORES",
    "CONFIDENCE_BINS",
    "IGNORE",
    "IGNORE_16",
    "MAX_BINS",
    "MAX_CELLS",
    "OUTCOMES",
    "POOLED_OUTCOMES",
    "QUANTILES",
    "READABLE_VERSIONS",
    "SCHEMA_VERSION",
    "VARIABLES",
    "VariableSpec",
    "check_frame_id",
    "id_type",
    "ignore_id",
    "ignored",
    "nested_id",
    "set_of",
    "validate",
]

SCHEMA_VERSION = 3
"""Version of a cache: a frame is one file. A cache of another version is never mixed with this one."""

READABLE_VERSIONS = (2, SCHEMA_VERSION)
"""Versions that can be read; in 2 a frame was a folder."""

CLASS_SCORES = "class scores S_k of queries"
"""Attribute ``logits_are`` of a frame by a query model, whose class scores stand where others have logits."""

IGNORE = 255
"""Value of ``label`` and ``anomaly`` pixels that count nowhere, of up to 255 classes."""

IGNORE_16 = 65535
"""Likewise of more classes, whose ids take 16 bits."""

BINS_PER_UNIT = 64
"""Bins per unit of a score's lattice at level 0 (see `gradunc_viz.counts.frame`)."""

MAX_BINS = 4096
"""Bins that one frame may occupy per score before its lattice is made coarser."""

MAX_CELLS = 65536
"""Cells of float32 numbers that one frame may occupy per score (see `gradunc_viz.counts.cells`)."""

CONFIDENCE_BINS = 300
"""Equal-width bins of the confidence in [0, 1]; 10, 15, 20, 25, 30, 50 or 100 coarser bins are unions of them."""

BRIER_BINS = 1000
"""Equal-width bins of a pixel's Brier score in [0, 2]."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantiles of every score that a frame keeps."""


def id_type(n_classes: int) -> np.dtype:
    """Type of class ids: the smallest one that has a number left for ignored pixels, its largest."""
    return np.dtype(np.uint8 if n_classes <= IGNORE else np.uint16)


def ignore_id(dtype: np.dtype) -> int:
    """The number of ignored pixels in arrays of a type."""
    return IGNORE_16 if dtype == np.uint16 else IGNORE


def ignored(ids: np.ndarray) -> np.ndarray:
    """Where pixels of a label or an anomaly mask count nowhere; bool of its shape."""
    return np.asarray(ids == ignore_id(ids.dtype))


# --------------------------------------------------------------------------------------------------------------------
# a cached frame

OUTCOMES: Mapping[str, str] = {
    "right": "labelled pixels whose prediction is right, by class",
    "wrong": "labelled pixels whose prediction is wrong, by the predicted class",
    "missed": "the same wrong pixels, by the class of the label",
    "normal": "pixels of known objects (anomaly = 0), by the predicted class",
    "anomaly": "pixels of unknown objects (anomaly = 1), by the predicted class",
}
"""Rows of ``counts``. A frame without class labels has no first three, one without anomaly labels no last two."""

POOLED_OUTCOMES = ("right", "wrong", "normal", "anomaly")
"""Rows of ``cell_counts``: over all classes, what is missed is what is wrong."""


@dataclass(frozen=True)
class VariableSpec:
    """Dims, dtype kinds (numpy ``kind`` letters) and meaning of one variable of a cached frame."""

    dims: tuple[str, ...]
    kinds: str
    required: bool
    meaning: str


VARIABLES: Mapping[str, VariableSpec] = {
    "prediction": VariableSpec(("y", "x"), "u", True, "predicted class id, from the resized logits"),
    "label": VariableSpec(("y", "x"), "u", False, "class id of the annotation, 255 = ignore (65535 in 16 bits)"),
    "anomaly": VariableSpec(("y", "x"), "u", False, "0 known, 1 unknown object, 255 = ignore"),
    "head_score": VariableSpec(("score_head", "v", "u"), "f", False, "log2 gradient norms at the head's resolution"),
    "pixel_score": VariableSpec(("score_pixel", "y", "x"), "f", False, "scores of the resized logits, not oriented"),
    "logits": VariableSpec(("class", "v", "u"), "f", False, "logits at the head's resolution"),
    "image": VariableSpec(("image_byte",), "u", False, "the encoded source image (attrs: format)"),
    "thumbnail": VariableSpec(("thumbnail_byte",), "u", True, "a small JPEG of the image"),
    "counts": VariableSpec(("outcome", "class", "score", "bin"), "u", False, "pixels per bin of the oriented score"),
    "cell": VariableSpec(
        ("score", "cell_entry"), "i", False, "cells of float32 numbers that hold oriented scores, rising"
    ),
    "cell_shift": VariableSpec(("score",), "i", False, "trailing bits of a number that its cell leaves open"),
    "cell_single": VariableSpec(("score", "cell_entry"), "u", False, "1 where the scores in a cell are as good as one"),
    "cell_counts": VariableSpec(
        ("pooled_outcome", "score", "cell_entry"), "u", False, "pixels of all classes per cell"
    ),
    "bin_start": VariableSpec(("score",), "i", True, "index of the first inner bin on the score's lattice"),
    "bin_level": VariableSpec(("score",), "i", True, "log2 of the lattice's step over the finest step"),
    "bin_min": VariableSpec(("score", "bin"), "f", True, "smallest oriented score in the bin, NaN if empty"),
    "bin_max": VariableSpec(("score", "bin"), "f", True, "largest oriented score in the bin, NaN if empty"),
    "brier_sum": VariableSpec(
        ("class", "score", "bin"), "f", False, "sum of the Brier score of the labelled pixels in the bin, by prediction"
    ),
    "brier_count": VariableSpec(
        ("class", "brier_bin"), "u", False, "labelled pixels per bin of their own Brier score, by prediction"
    ),
    "brier_bin_sum": VariableSpec(
        ("class", "brier_bin"), "f", False, "sum of the Brier score of the pixels in the bin"
    ),
    "confidence_count": VariableSpec(
        ("correctness", "class", "confidence_bin"), "u", False, "right, wrong labelled pixels per bin of confidence"
    ),
    "confidence_sum": VariableSpec(
        ("class", "confidence_bin"),
        "f",
        False,
        "sum of the confidence of the labelled pixels in the bin, by prediction",
    ),
    "nll_sum": VariableSpec(("class",), "f", False, "sum of -ln pi_label over labelled pixels, by the label's class"),
    "confusion": VariableSpec(("label_class", "class"), "ui", False, "labelled pixels by label and prediction"),
    "anomaly_count": VariableSpec((), "ui", False, "pixels of unknown objects"),
    "known_count": VariableSpec((), "ui", False, "pixels of known objects"),
    "score_mean": VariableSpec(("score",), "f", True, "mean of the oriented score over all pixels"),
    "score_quantile": VariableSpec(("quantile", "score"), "f", True, "quantiles of the oriented score over all pixels"),
}
"""Every variable a cached frame may hold.

Dims: ``y``, ``x`` pixels of the image; ``v``, ``u`` pixels at the head's resolution; ``class``; ``score`` every
cached score; ``score_head`` and ``score_pixel`` those cached at either resolution (one dataset cannot give the one
dim ``score`` two lengths); ``bin``.
"""

_FRAME_ID = re.compile(r"[^./\\\x00-\x1f\x7f\ud800-\udfff][^/\\\x00-\x1f\x7f\ud800-\udfff]*")


def check_frame_id(frame_id: str) -> str:
    """Return `frame_id` if it can name a group of the cache.

    Raises
    ------
    SchemaError
        If it is empty, longer than 200 bytes of UTF-8 or not encodable as such, is ``zarr.json``, starts with a dot or
        ``__``, contains a slash, a backslash or a control character, or is what systems call folders of theirs.
    """
    if (
        not _FRAME_ID.fullmatch(frame_id)
        or frame_id.startswith("__")
        or frame_id == "zarr.json"
        or is_foreign(frame_id)
        or len(frame_id.encode()) > 200
    ):
        raise SchemaError(
            f"frame id {frame_id!r} cannot name a group: expected 1 to 200 bytes of UTF-8 without slash or control "
            "characters, not starting with '.' or '__', and no name of a system's own folder"
        )
    return frame_id


_FOLDER_MARK = "__"  # stands for a slash in frame ids


def nested_id(name: str) -> str:
    """Id of a frame that lies in a folder, or in one of several sets: ``SET/NAME`` becomes ``SET__NAME``."""
    return name.replace("/", _FOLDER_MARK)


def set_of(frame_id: str) -> str:
    """The set, or the outermost folder, that a frame is from, as `nested_id` wrote it; empty where there is none."""
    return frame_id.partition(_FOLDER_MARK)[0] if _FOLDER_MARK in frame_id else ""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SchemaError(message)


def validate(dataset: xr.Dataset) -> xr.Dataset:
    """Check that a dataset is a frame as this schema describes it, and return it unchanged.

    Only metadata is looked at (names, dims, dtypes, coordinates, attributes), so a lazy dataset stays lazy.

    Raises
    ------
    SchemaError
        Naming the frame, the variable, what was found and what was expected.
    """
    frame = dataset.attrs.get("frame_id", "?")
    version = dataset.attrs.get("schema_version")
    _require(
        version in READABLE_VERSIONS,
        f"frame {frame!r}: schema version is {version!r}, expected {SCHEMA_VERSION}; compute the cache anew",
    )
    for name, spec in VARIABLES.items():
        if name not in dataset.variables:
            _require(not spec.required, f"frame {frame!r}: variable {name!r} is missing ({spec.meaning})")
            continue
        variable = dataset.variables[name]
        _require(
            variable.dims == spec.dims, f"frame {frame!r}: {name!r} has dims {variable.dims}, expected {spec.dims}"
        )
        _require(
            variable.dtype.kind in spec.kinds,
            f"frame {frame!r}: {name!r} has dtype {variable.dtype}, expected one of kind {spec.kinds!r}",
        )
    unknown = sorted(set(map(str, dataset.data_vars)) - set(VARIABLES))
    _require(not unknown, f"frame {frame!r}: unknown variables {unknown}, expected only names in schema.VARIABLES")
    for dim in ("score", "class"):
        _require(dim in dataset.coords, f"frame {frame!r}: coordinate {dim!r} is missing, expected names")
        names = [str(name) for name in np.asarray(dataset[dim].values)]
        _require(len(set(names)) == len(names), f"frame {frame!r}: coordinate {dim!r} repeats a name: {names}")
    for name in map(str, np.asarray(dataset["score"].values)):
        entry = lookup(name)
        dim = "score_head" if entry.at_head else "score_pixel"
        _require(
            dim in dataset.coords and name in dataset[dim].values,
            f"frame {frame!r}: score {name!r} is listed but {dim!r} does not hold it",
        )
    return dataset
