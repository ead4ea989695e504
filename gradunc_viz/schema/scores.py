"""The registry of scores: what each is, apart from the function that computes it."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np

from .errors import GraduncError, UnknownScoreError
from .registry import loaded_entry_points, said_again

__all__ = [
    "BUILT_IN",
    "DEFAULT_SCORES",
    "LOG2_FLOOR",
    "PAPER_NORMS",
    "PAPER_SCORES",
    "SCORES",
    "GradientNorm",
    "NormRequest",
    "Score",
    "lookup",
    "recall",
    "register",
    "resolve_scores",
    "split_names",
]

LOG2_FLOOR = -149.0
"""log2 of the smallest positive float32: what a vanishing gradient is given, so that every map stays finite."""

ENTRY_POINTS = "gradunc_viz.scores"
"""Group of the entry points of packages that bring scores: each names a `Score`, or a module that registers some."""


@dataclass(frozen=True)
class Score:
    """One number per pixel: what it is, and the name of the function that computes it.

    Attributes
    ----------
    name
        Unique name, for instance ``entropy``.
    family
        What it is made of, for grouping: ``"gradient"`` (norms of the last layer's gradient), ``"softmax"`` (class
        probabilities), ``"logit"`` (logits before the softmax), ``"external"`` (maps that others computed,
        ``ext:NAME``), or a name of one's own.
    orientation
        +1: larger is more uncertain; -1: smaller is more uncertain.
    units
        ``"log2"`` (values are logarithms: resized as what they are logarithms of), ``"nats"``, ``"logit"`` or ``"1"``.
    formula
        The definition as plain text.
    title
        Title for axes and tables, LaTeX in ``$...$``.
    source
        Where it was published.
    at
        Where it is computed and cached: ``"head"``, the resolution of the head's output, or ``"pixel"``, that of the
        image, from resized logits.
    lattice
        Bins of its counts: ``"uniform"`` steps that no data set chooses, or ``"quantiles"`` of the values there are.
    needs
        What it reads of a forward pass, see `gradunc_viz.scores.needs`.
    compute
        ``module:function``, resolved when first used, or the function. At the pixel it takes logits (N, C, y, x) and
        returns (N, y, x), at the head a `gradunc_viz.scores.needs.ForwardPass` and returns (N, h, w); not oriented.
    upper
        Largest value that it can take: ``"1"``, ``"log C"`` (C classes) or ``""`` (unbounded).
    """

    name: str
    family: str
    orientation: int
    units: str
    formula: str
    title: str
    source: str
    at: Literal["head", "pixel"] = "pixel"
    lattice: Literal["uniform", "quantiles"] = "uniform"
    needs: frozenset[str] = frozenset({"logits"})
    compute: str | Callable[[Any], Any] = ""
    upper: str = ""

    @property
    def at_head(self) -> bool:
        """Whether the score is computed and cached at the head's resolution."""
        return self.at == "head"

    @property
    def is_log2(self) -> bool:
        """Whether values are logarithms, to be resized as what they are logarithms of."""
        return self.units == "log2"

    @property
    def function(self) -> Callable[[Any], Any]:
        """What computes it.

        Raises
        ------
        UnknownScoreError
            If nothing does: its maps come from elsewhere, or from a function that is not registered here.
        """
        if not self.compute:
            raise UnknownScoreError(f"score {self.name!r} cannot be computed: no function of it is registered here")
        return _resolved(self.compute) if isinstance(self.compute, str) else self.compute

    @property
    def parameters(self) -> Mapping[str, object]:
        """What tells this score from others of its formula."""
        return {}

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


NormRequest = tuple[str, float, str]
"""Label, p and variant of a gradient norm, as kernels take them."""


@dataclass(frozen=True)
class GradientNorm(Score):
    """A norm of the gradient with respect to the last layer's kernel.

    Attributes
    ----------
    label
        Label of the loss: ``"oh"``, one-hot of the predicted class, or ``"uni"``, the same for every class.
    p
        Of the norm.
    variant
        ``"exact"``, the derivative, or ``"paper"``, the formula of the authors' published code.
    """

    label: Literal["oh", "uni"] = "oh"
    p: float = 1.0
    variant: Literal["exact", "paper"] = "exact"

    @property
    def request(self) -> NormRequest:
        """Label, p and variant, as the kernels take them."""
        return self.label, self.p, self.variant

    @property
    def parameters(self) -> Mapping[str, object]:
        """Label, p and variant."""
        return {"label": self.label, "p": self.p, "variant": self.variant}

    @property
    def function(self) -> Callable[[Any], Any]:
        """The plain formula for this label, p and variant."""
        formula: Callable[..., Any] = super().function
        return partial(formula, request=self.request)


def _resolved(path: str) -> Callable[[Any], Any]:
    module, _, name = path.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


_GRADIENT = re.compile(r"pgn_(oh|uni)_p(\d+(?:\.\d+)?)(_paper)?")


_EXTERNAL = re.compile(r"ext:[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")

_LABEL_TEXT = {"oh": "one-hot of the predicted class", "uni": "1/C for every class"}


def _gradient_norm(label: Any, p: float, variant: Any) -> GradientNorm:
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
    return GradientNorm(
        name=f"pgn_{label}_p{number}{suffix}",
        family="gradient",
        orientation=orientation,
        formula=f"log2 || {delta} psi_d ||_{number} over (c, d, taps), y = {_LABEL_TEXT[label]}",
        units="log2",
        title=rf"$\|\nabla_K \mathcal{{L}}_{{\mathrm{{{label}}}}}\|_{{{number}}}$" + (" (paper)" if suffix else ""),
        source=_PAPER,
        at="head",
        needs=frozenset({"logits", "features"}),
        compute="gradunc_viz.scores.gradients:gradient_norm",
        label=label,
        p=p,
        variant=variant,
    )


_PAPER = "Maag and Riedlinger, arXiv:2303.06920"

PAPER_NORMS = (0.1, 0.3, 0.5, 1.0, 2.0)
"""The p of the paper's norms."""


_SOFTMAX = "gradunc_viz.scores.softmax"
_HENDRYCKS = "Hendrycks and Gimpel, arXiv:1610.02136"

_OF_LOGITS = (
    Score(
        "msp", "softmax", +1, "1", "1 - max_c pi_c", r"$1 - \max_c \pi_c$", _HENDRYCKS,
        compute=f"{_SOFTMAX}:msp", upper="1",
    ),
    Score(
        "entropy", "softmax", +1, "nats", "-sum_c pi_c ln pi_c", r"entropy $H(\pi)$", "Shannon, 1948",
        compute=f"{_SOFTMAX}:entropy", upper="log C",
    ),
    Score(
        "margin", "softmax", +1, "1", "1 - (pi_(1) - pi_(2)), the two largest", r"$1 - (\pi_{(1)} - \pi_{(2)})$",
        "Scheffer et al., 2001", compute=f"{_SOFTMAX}:margin", upper="1",
    ),
    Score(
        "energy", "logit", +1, "logit", "-ln sum_c exp phi_c", r"energy $-\ln \sum_c e^{\phi_c}$",
        "Liu et al., arXiv:2010.03759", compute=f"{_SOFTMAX}:energy",
    ),
    Score(
        "max_logit", "logit", -1, "logit", "max_c phi_c", r"$\max_c \phi_c$", "Hendrycks et al., arXiv:1911.11132",
        compute=f"{_SOFTMAX}:max_logit",
    ),
)  # fmt: skip

SCORES: dict[str, Score] = {
    entry.name: entry
    for entry in (
        *(_gradient_norm(label, p, "exact") for label in ("oh", "uni") for p in PAPER_NORMS),
        *(_gradient_norm(label, p, "paper") for label in ("oh", "uni") for p in PAPER_NORMS),
        *_OF_LOGITS,
    )
}
"""Every named score, registered ones too. Gradient norms of any other p > 0 exist as well: see `lookup`."""

BUILT_IN = frozenset(SCORES)
"""Names that are known wherever the package is."""


PAPER_SCORES = (*(name for name, entry in SCORES.items() if entry.family == "gradient"), "msp", "entropy")
"""What the paper compares: ten exact and ten paper norms of the last layer, msp and entropy."""


DEFAULT_SCORES = ("pgn_oh_p0.5", "pgn_oh_p1", "pgn_oh_p2", "pgn_uni_p0.5", "msp", "entropy")
"""What is computed when nothing is asked for."""


def register(score: Score) -> Score:
    """Add a score: it is then computed, cached, evaluated, explored, drawn and exported like any other.

    A function of the running program, such as a notebook's, may be registered again under its name.

    Raises
    ------
    GraduncError
        If the name is taken or no name for a score, or a field has no meaning.
    """
    if not _NAME.fullmatch(score.name):
        raise GraduncError(f"score {score.name!r}: expected a name of letters, digits, '_', '.' and '-'")
    known = SCORES.get(score.name) or _generated(score.name)
    # what was only recalled from a cache gives way
    if known is not None and known.compute and not said_again(score, known):
        raise GraduncError(f"score {score.name!r} is registered already")
    if score.orientation not in (-1, 1):
        raise GraduncError(f"score {score.name!r}: orientation is {score.orientation!r}; expected +1 or -1")
    if score.at not in ("head", "pixel"):
        raise GraduncError(f"score {score.name!r}: at is {score.at!r}; expected 'head' or 'pixel'")
    if score.lattice not in ("uniform", "quantiles"):
        raise GraduncError(f"score {score.name!r}: lattice is {score.lattice!r}; expected 'uniform' or 'quantiles'")
    SCORES[score.name] = score
    return score


def recall(description: Mapping[str, Any]) -> None:
    """Know a score that a cache describes and nobody registered here: it can be shown, though not computed."""
    name = str(description.get("name", ""))
    if name in SCORES or _generated(name) is not None or not _NAME.fullmatch(name):
        return

    def text(key: str, default: str = "") -> str:
        return str(description.get(key) or default)

    SCORES[name] = Score(
        name=name,
        family=text("family", "unknown"),
        orientation=-1 if description.get("orientation") == -1 else 1,
        units=text("units", "1"),
        formula=text("formula"),
        title=text("title", name),
        source=text("source"),
        at="head" if description.get("at") == "head" else "pixel",
        lattice="quantiles" if description.get("lattice") == "quantiles" else "uniform",
        upper=text("upper"),
    )


@cache
def _load_entry_points() -> None:
    """Register what installed packages bring, once: an entry point names a `Score`, or a module that registers some."""
    for found in loaded_entry_points(ENTRY_POINTS):
        if isinstance(found, Score) and found.name not in SCORES:
            register(found)


def lookup(name: str) -> Score:
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
    if name not in SCORES:
        _load_entry_points()
    found = SCORES.get(name) or _generated(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, SCORES, n=3, cutoff=0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise UnknownScoreError(f"unknown score {name!r}{hint} ('gradunc scores' lists them all)")


def _generated(name: str) -> Score | None:
    """A score whose name tells all: a gradient norm of any p, or imported maps."""
    match = _GRADIENT.fullmatch(name)
    if match and 0 < float(match[2]) < np.inf:
        norm = _gradient_norm(match[1], float(match[2]), "paper" if match[3] else "exact")
        if norm.name == name:
            return norm
        raise UnknownScoreError(f"unknown score {name!r}: write it {norm.name!r}")
    if _EXTERNAL.fullmatch(name):
        # turned on import where small values mean uncertain, so that the name alone tells the orientation
        return Score(
            name, "external", +1, "1", "imported map, larger is more uncertain", name[4:], "imported",
            lattice="quantiles", needs=frozenset(),
        )  # fmt: skip
    return None


def split_names(names: str | Iterable[str]) -> list[str]:
    """Names from a text with commas between them, or one by one."""
    parts = [part.strip() for part in names.split(",")] if isinstance(names, str) else names
    return [part for part in parts if part]


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
        _load_entry_points()
        return tuple(name for name, score in SCORES.items() if score.compute)
    unique = tuple(dict.fromkeys(split_names(scores)))
    if not unique:
        raise UnknownScoreError("no score was named: expected names such as 'msp', 'paper' or 'all'")
    for name in unique:
        if lookup(name).family == "external":
            raise UnknownScoreError(f"score {name!r} cannot be computed: its maps are imported ('gradunc import')")
    return unique
