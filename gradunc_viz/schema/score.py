"""What a score is, apart from the function that computes it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from .errors import UnknownScoreError, brief

__all__ = [
    "FittedScore",
    "GradientNorm",
    "GradientScore",
    "NormRequest",
    "Score",
    "ScorePattern",
    "SoftmaxRequest",
    "SoftmaxScore",
]


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
        ``module:function``, resolved when first used, or the function. At the pixel it returns (N, y, x), at the head
        (N, h, w), not oriented. At the pixel, where it needs nothing but logits, it takes these resized to the image,
        (N, C, y, x); otherwise a `gradunc_viz.scores.needs.ForwardPass`. Where it needs a fit, it is an object, a
        `gradunc_viz.scores.fitted.Fitted`.
    upper
        Largest value that it can take: ``"1"``, ``"log C"`` (C classes) or ``""`` (unbounded).
    parts
        Scores that it is made of, where it is made of the maps of others.
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
    parts: tuple[str, ...] = ()

    @property
    def at_head(self) -> bool:
        """Whether the score is computed and cached at the head's resolution."""
        return self.at == "head"

    @property
    def of_logits(self) -> bool:
        """Whether its function takes the resized logits alone."""
        return not self.at_head and self.needs == {"logits"}

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
            If nothing does: its maps come from elsewhere, or from a function that is not registered here, or cannot be
            imported.
        """
        if self.family == "combined":
            raise UnknownScoreError(
                f"score {self.name!r} cannot be computed from a network: it is made of the maps of a cache "
                "('gradunc combine CACHE --scores A,B')"
            )
        if not self.compute:
            raise UnknownScoreError(
                f"score {self.name!r} cannot be computed: no function of it is registered here; scores of your own "
                "come with --score-file FILE.py or register_score"
            )
        if not isinstance(self.compute, str):
            return self.compute
        try:
            return _resolved(self.compute)
        except (ImportError, AttributeError, ValueError) as error:  # named by another's package
            raise UnknownScoreError(
                f"score {self.name!r} cannot be computed: its function {self.compute!r} cannot be imported "
                f"({brief(error)})"
            ) from error

    @property
    def cost(self) -> str:
        """What it costs beside the forward pass that every score is made of, in words."""
        if self.parts:
            return f"that of {' and '.join(self.parts)}"
        if self.family == "external":
            return "none: computed elsewhere"
        dear = [text for need in sorted(self.needs) if (text := _cost_of(need))]
        return " and ".join(dict.fromkeys(dear)) or "none beyond the forward pass"

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
            "cost": self.cost,
        }
        if not self.upper:
            del rows["largest"]
        return card(f"{self.name}: {self.family} score", rows)


class NormRequest(NamedTuple):
    """What kernels are asked for: a norm of the gradient with respect to a layer's kernel, or a factor of one.

    Attributes
    ----------
    label
        Label of the loss: ``"oh"``, one-hot of the predicted class; ``"uni"``, the same for every class; ``"exp"``,
        drawn from the probabilities, of which the p-th power of the norm has the expected value.
    p
        Of the norm.
    variant
        ``"exact"``, the derivative, or ``"paper"``, the formula of the authors' published code.
    part
        ``"norm"``, or one of its factors: ``"label"``, that of pi - y, or ``"feature"``, that of the features.
    power
        What the norm is raised to.
    layer
        Which layer's kernel, counted from the end; of a query model 1 is the mask embeddings, ``"embedding"`` their
        last linear layer, ``"decoder"`` the last layer of the pixel decoder.
    """

    label: str
    p: float
    variant: str = "exact"
    part: str = "norm"
    power: int = 1
    layer: int | str = 1


@dataclass(frozen=True)
class GradientScore(Score):
    """A score that is a norm of a gradient, or a factor of one: what kernels are asked for together.

    Attributes
    ----------
    request
        What they are asked for.
    """

    request: NormRequest = field(kw_only=True)

    @property
    def function(self) -> Callable[[Any], Any]:
        """The plain formula for this request."""
        formula: Callable[..., Any] = super().function
        return partial(formula, request=self.request)


@dataclass(frozen=True)
class GradientNorm(GradientScore):
    """A norm of the gradient with respect to the last layer's kernel."""

    @property
    def label(self) -> str:
        """Label of the loss."""
        return self.request.label

    @property
    def p(self) -> float:
        """Of the norm."""
        return self.request.p

    @property
    def variant(self) -> str:
        """``"exact"``, the derivative, or ``"paper"``, the formula of the authors' published code."""
        return self.request.variant

    @property
    def parameters(self) -> Mapping[str, object]:
        """Label, p and variant."""
        return {"label": self.label, "p": self.p, "variant": self.variant}


class SoftmaxRequest(NamedTuple):
    """Formula of a score of logits and its parameters, as kernels take them.

    Attributes
    ----------
    kind
        Name of the formula, see `gradunc_viz.kernels.reference.softmax_formulas`.
    temperature
        Logits are divided by it before the softmax is taken.
    gamma
        Power of the generalised entropy.
    largest
        How many of the largest probabilities it sums over.
    """

    kind: str
    temperature: float = 1.0
    gamma: float = 0.1
    largest: int = 100

    @property
    def powers(self) -> tuple[float, ...]:
        """Powers of exp(phi) whose sums over the classes the formula takes: one for a softmax, of its temperature."""
        return (1.0, 2.0) if self.kind in ("gini", "brier") else (1 / self.temperature,)


@dataclass(frozen=True, kw_only=True)
class SoftmaxScore(Score):
    """A score of logits alone whose formula the kernels know.

    Attributes
    ----------
    request
        Formula and parameters, as the kernels take them.
    takes
        Which of the parameters its function takes.
    """

    request: SoftmaxRequest
    takes: tuple[str, ...] = ()

    @property
    def parameters(self) -> Mapping[str, object]:
        """Those that its name tells."""
        return {name: getattr(self.request, name) for name in self.takes}

    @property
    def function(self) -> Callable[[Any], Any]:
        """The plain formula for these parameters."""
        return partial(super().function, **self.parameters)


@dataclass(frozen=True)
class FittedScore(Score):
    """A score that is fitted on in-distribution frames first; `compute` names a class of `Fitted`.

    Attributes
    ----------
    options : tuple of (str, value)
        What the class is called with, besides the score's name.
    """

    options: tuple[tuple[str, Any], ...] = ()

    @property
    def parameters(self) -> Mapping[str, object]:
        """Its options."""
        return dict(self.options)

    @property
    def function(self) -> Callable[..., Any]:
        """What fits and computes it."""
        made: Callable[..., Any] = super().function(self.name, **dict(self.options))
        return made


_FREE = frozenset(("logits", "features", "void", "hidden", "queries", "layer"))
"""What a forward pass leaves behind anyway."""

_DEAR = {"fit": "a fit on in-distribution frames", "input_grad": "a backward and another forward pass"}


def _cost_of(need: str) -> str:
    kind, _, which = need.partition(":")
    if kind in _FREE:
        return ""
    if kind == "passes":
        number = re.search(r"\d+", which)
        return f"{number[0] if number else 'several'} forward passes"
    return _DEAR.get(kind, f"whatever {need!r} takes")


def _resolved(path: str) -> Callable[[Any], Any]:
    module, _, name = path.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


@dataclass(frozen=True)
class ScorePattern:
    """Scores whose names carry parameters, such as ``pgn_oh_p0.7``.

    Attributes
    ----------
    text
        The pattern for people, parameters in braces: ``"pgn_oh_p{P}"``.
    about
        What the parameters are, in a line.
    name
        Regular expression that the whole name has to match.
    make
        From such a match to the score, under its canonical name: of ``p0.50`` and ``p0.5`` one is the name. None where
        a parameter has no meaning.
    """

    text: str
    about: str
    name: re.Pattern[str]
    make: Callable[[re.Match[str]], Score | None]
