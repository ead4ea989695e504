"""Names everybody agrees on: dims and variables of a cached frame, score entries, exceptions.

This module is the bottom of the package. It imports numpy and nothing heavier, so that any other
module, and any script that only reads a cache, may depend on it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "BINS_PER_UNIT",
    "BRIER_BINS",
    "CONFIDENCE_BINS",
    "DEFAULT_SCORES",
    "IGNORE",
    "LOG2_FLOOR",
    "MAX_BINS",
    "MAX_CELLS",
    "OUTCOMES",
    "PAPER_NORMS",
    "PAPER_SCORES",
    "POOLED_OUTCOMES",
    "QUANTILES",
    "SCHEMA_VERSION",
    "SCORES",
    "VARIABLES",
    "CacheError",
    "CacheMismatchError",
    "DeviceError",
    "FrameError",
    "GraduncError",
    "HeadError",
    "ModelError",
    "NonFiniteError",
    "SchemaError",
    "ScoreEntry",
    "UnknownScoreError",
    "VariableSpec",
    "check_frame_id",
    "resolve_scores",
    "score_entry",
    "validate",
]

SCHEMA_VERSION = 2
"""Version of the layout of a cached frame; a cache of another version is never mixed with this one."""

IGNORE = 255
"""Value of ``label`` and ``anomaly`` pixels that count nowhere."""

LOG2_FLOOR = -149.0
"""log2 of the smallest positive float32: what a vanishing gradient is given, so that every map stays finite."""

BINS_PER_UNIT = 64
"""Bins per unit of a score's lattice at level 0 (see `gradunc_viz.counts`)."""

MAX_BINS = 4096
"""Bins that one frame may occupy per score before its lattice is made coarser."""

MAX_CELLS = 65536
"""Cells of float32 numbers that one frame may occupy per score (see `gradunc_viz.cells`)."""

CONFIDENCE_BINS = 300
"""Equal-width bins of the confidence in [0, 1]; 10, 15, 20, 25, 30, 50 or 100 coarser bins are unions of them."""

BRIER_BINS = 1000
"""Equal-width bins of a pixel's Brier score in [0, 2]."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantiles of every score that a frame keeps."""


class GraduncError(Exception):
    """Base of every error that the user can mend; its text is one line naming file, value and expectation."""


class FrameError(GraduncError):
    """A frame, or a folder of frames, cannot be read or contradicts itself."""


class ModelError(GraduncError):
    """A network cannot be loaded or does not return logits."""


class HeadError(ModelError):
    """The layer that produces the logits is absent, ambiguous or of an unsupported kind."""


class NonFiniteError(GraduncError):
    """NaN or infinity in logits or features."""


class DeviceError(GraduncError):
    """The device that was asked for is absent."""


class CacheError(GraduncError):
    """A cache cannot be opened, written or trusted."""


class CacheMismatchError(CacheError):
    """A cache was computed from another network, other frames or other settings."""


class SchemaError(GraduncError, ValueError):
    """A dataset does not follow the schema."""


class UnknownScoreError(GraduncError, KeyError):
    """No score has this name."""

    def __str__(self) -> str:  # KeyError would show the repr of the text
        return str(self.args[0])


# --------------------------------------------------------------------------------------------------------------------
# scores


@dataclass(frozen=True)
class ScoreEntry:
    """One number per pixel, described apart from the function that computes it.

    Attributes
    ----------
    name
        Unique name, for instance ``pgn_oh_p0.5``.
    family
        ``"gradient"`` (norms of the last layer's gradient), ``"softmax"`` (from class probabilities), ``"logit"``
        (from logits before the softmax) or ``"external"`` (maps that others computed, ``ext:NAME``).
    orientation
        +1: larger is more uncertain; -1: smaller is more uncertain.
    formula
        The definition as plain text.
    units
        ``"log2"`` for gradient norms, ``"nats"``, ``"1"`` or ``"logit"``.
    title
        Title for axes and tables, LaTeX in ``$...$``.
    upper
        Largest value the score can take given the number of classes: ``"1"``, ``"log C"`` or ``""`` (unbounded).
    label, p, layer, variant
        For gradient norms only: the label of the loss (``"oh"`` or ``"uni"``), the p of the norm, the layer
        (``"last"``) and the variant (``"exact"`` or ``"paper"``); otherwise ``None``.
    """

    name: str
    family: str
    orientation: int
    formula: str
    units: str
    title: str
    upper: str = ""
    label: str | None = None
    p: float | None = None
    layer: str | None = None
    variant: str | None = None

    @property
    def at_head(self) -> bool:
        """Whether the score is computed and cached at the head's resolution."""
        return self.family == "gradient"

    def _repr_html_(self) -> str:
        from .display import card, code

        ends = ("certain", "uncertain")[:: self.orientation]
        # viridis, as maps of scores are coloured
        stops = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")[:: self.orientation]
        ramp = (
            f"{ends[0]} (small) <span style='display:inline-block;width:110px;height:9px;"
            f"background:linear-gradient(90deg,{','.join(stops)})'></span> {ends[1]} (large)"
        )
        rows = {
            "formula": code(self.formula),
            "units": code(self.units),
            "values": ramp,
            "largest": code(self.upper),
            "computed": "at the head's resolution" if self.at_head else "at the image's resolution",
        }
        if not self.upper:
            del rows["largest"]
        return card(f"{self.name}: {self.family} score", rows)


_GRADIENT = re.compile(r"pgn_(oh|uni)_p(\d+(?:\.\d+)?)(_paper)?")

_EXTERNAL = re.compile(r"ext:[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")

_LABEL_TEXT = {"oh": "one-hot of the predicted class", "uni": "1/C for every class"}


def _gradient_entry(label: str, p: float, variant: str) -> ScoreEntry:
    number = np.format_float_positional(p, trim="-")
    suffix = "_paper" if variant == "paper" else ""
    if variant == "exact":
        delta = "|pi_c - y_c|"
        # The exact uniform norm vanishes where the softmax is flat, whatever p is.
        orientation = 1 if label == "oh" else -1
    else:
        delta = "|pi_c (1 - y_c)|"
        # (C-1)/C pi_c: its p-norm over classes grows with a flatter softmax for p < 1 and shrinks for p > 1. At
        # p = 1 it is constant and leaves the feature norm, which is small on what the network does not know.
        orientation = 1 if label == "oh" or p < 1 else -1
    return ScoreEntry(
        name=f"pgn_{label}_p{number}{suffix}",
        family="gradient",
        orientation=orientation,
        formula=f"log2 || {delta} psi_d ||_{number} over (c, d, taps), y = {_LABEL_TEXT[label]}",
        units="log2",
        title=rf"$\|\nabla_K \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$" + (" (paper)" if suffix else ""),
        label=label,
        p=p,
        layer="last",
        variant=variant,
    )


PAPER_NORMS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""The p of the paper's norms."""

_SOFTMAX_ENTRIES = (
    ScoreEntry("msp", "softmax", +1, "1 - max_c pi_c", "1", r"$1 - \max_c \pi_c$", upper="1"),
    ScoreEntry("entropy", "softmax", +1, "-sum_c pi_c ln pi_c", "nats", r"entropy $H(\pi)$", upper="log C"),
    ScoreEntry(
        "margin",
        "softmax",
        +1,
        "1 - (pi_(1) - pi_(2)), the two largest",
        "1",
        r"$1 - (\pi_{(1)} - \pi_{(2)})$",
        upper="1",
    ),
    ScoreEntry("energy", "logit", +1, "-ln sum_c exp phi_c", "logit", r"energy $-\ln \sum_c e^{\phi_c}$"),
    ScoreEntry("max_logit", "logit", -1, "max_c phi_c", "logit", r"$\max_c \phi_c$"),
)

SCORES: dict[str, ScoreEntry] = {
    entry.name: entry
    for entry in (
        *(_gradient_entry(label, p, "exact") for label in ("oh", "uni") for p in PAPER_NORMS),
        *(_gradient_entry(label, p, "paper") for label in ("oh", "uni") for p in PAPER_NORMS),
        *_SOFTMAX_ENTRIES,
    )
}
"""Every named score. Gradient norms of any other p > 0 exist too: see `score_entry`."""

PAPER_SCORES = (*(name for name, entry in SCORES.items() if entry.family == "gradient"), "msp", "entropy")
"""What the paper compares: ten exact and ten paper norms of the last layer, msp and entropy."""

DEFAULT_SCORES = ("pgn_oh_p0.5", "pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p0.5", "msp", "entropy")
"""What is computed when nothing is asked for."""


def score_entry(name: str) -> ScoreEntry:
    """Look up a score by name.

    Parameters
    ----------
    name
        A name in `SCORES`, a gradient norm of any other p > 0 such as ``pgn_oh_p0.7`` or ``pgn_uni_p3_paper``, or
        ``ext:NAME`` for maps that were imported.

    Raises
    ------
    UnknownScoreError
        If there is no such score; the message offers the nearest names.
    """
    if name in SCORES:
        return SCORES[name]
    match = _GRADIENT.fullmatch(name)
    if match and 0 < float(match[2]) < np.inf:
        entry = _gradient_entry(match[1], float(match[2]), "paper" if match[3] else "exact")
        if entry.name == name:
            return entry
        raise UnknownScoreError(f"unknown score {name!r}: write it {entry.name!r}")
    if _EXTERNAL.fullmatch(name):
        # turned on import where small values mean uncertain, so that the name alone tells the orientation
        return ScoreEntry(name, "external", +1, "imported map, larger is more uncertain", "1", name[4:])
    near = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UnknownScoreError(f"unknown score {name!r}{hint} ('gradunc scores' lists them all)")


def resolve_scores(scores: str | Iterable[str] | None = None) -> tuple[str, ...]:
    """Turn what a user wrote into a tuple of score names.

    Parameters
    ----------
    scores
        ``None`` or ``"default"``, ``"paper"``, ``"all"``, a comma-separated string, or an iterable of names.

    Raises
    ------
    UnknownScoreError
        If a name is no score, or none is left.
    """
    if scores is None or scores == "default":
        return DEFAULT_SCORES
    if scores == "paper":
        return PAPER_SCORES
    if scores == "all":
        return tuple(SCORES)
    names = [part.strip() for part in scores.split(",")] if isinstance(scores, str) else list(scores)
    unique = tuple(dict.fromkeys(name for name in names if name))
    if not unique:
        raise UnknownScoreError("no score was named: expected names such as 'msp', 'paper' or 'all'")
    for name in unique:
        if score_entry(name).family == "external":
            raise UnknownScoreError(f"score {name!r} cannot be computed: its maps are imported ('gradunc import')")
    return unique


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
    "label": VariableSpec(("y", "x"), "u", False, "class id of the annotation, 255 = ignore"),
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
        ``__``, or contains a slash, a backslash or a control character.
    """
    if (
        not _FRAME_ID.fullmatch(frame_id)
        or frame_id.startswith("__")
        or frame_id == "zarr.json"
        or len(frame_id.encode()) > 200
    ):
        raise SchemaError(
            f"frame id {frame_id!r} cannot name a group: expected 1 to 200 bytes of UTF-8 without slash or control "
            "characters, not starting with '.' or '__'"
        )
    return frame_id


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
        version == SCHEMA_VERSION,
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
        entry = score_entry(name)
        dim = "score_head" if entry.at_head else "score_pixel"
        _require(
            dim in dataset.coords and name in dataset[dim].values,
            f"frame {frame!r}: score {name!r} is listed but {dim!r} does not hold it",
        )
    return dataset


def class_colors(count: int) -> Sequence[tuple[int, int, int]]:
    """Distinct colours for classes that have none of their own (golden-angle hues, alternating lightness)."""
    import colorsys

    colors = []
    for index in range(count):
        rgb = colorsys.hls_to_rgb((index * 0.61803) % 1.0, (0.42, 0.62, 0.52)[index % 3], 0.55)
        colors.append(tuple(round(255 * channel) for channel in rgb))
    return colors  # type: ignore[return-value]
