"""One pixel: what it was predicted and labelled as, every score, its class probabilities, and how a norm is made up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...schema.errors import GraduncError
from ...schema.frame import IGNORE
from ...schema.scores import GradientNorm, lookup
from ...store.frame import softmax
from ...style.scores import units_text
from ..markup import Markup, render
from ..state.frame_store import FrameData

__all__ = ["NormParts", "Pixel", "norm_parts", "pixel_card", "probability_bars", "read_pixel"]

_BARS = 8
"""Classes shown, the most probable ones."""


@dataclass(frozen=True)
class Pixel:
    """One pixel of a frame.

    Attributes
    ----------
    y, x : int
    prediction, label, anomaly : str
        In words; "no label" without.
    scores : mapping of name -> float
        Oriented.
    """

    y: int
    x: int
    prediction: str
    label: str
    anomaly: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class NormParts:
    """How the log2 gradient norm of one pixel is made up: ``norm = label + feature``.

    Attributes
    ----------
    norm, label, feature : float
        log2; the norm at the cell of the head that the pixel lies in, the norm of pi - y there, and what is left: the
        norm of the features under the kernel.
    """

    norm: float
    label: float
    feature: float


def read_pixel(frame: FrameData, y: int, x: int, classes: Sequence[str], scores: tuple[str, ...]) -> Pixel:
    """Read all there is to say about a pixel.

    Raises
    ------
    GraduncError
        If it lies outside the frame, or the frame is damaged.
    """
    height, width = frame.size
    if not frame.holds(y, x):
        raise GraduncError(f"pixel ({x}, {y}) lies outside the frame of {width} × {height}")

    def name_of(ids: np.ndarray | None) -> str:
        if ids is None:
            return "no label"
        number = int(ids[y, x])
        return classes[number] if number < len(classes) else "ignored"

    anomaly = "no label"
    if frame.anomaly is not None:
        anomaly = {0: "known", 1: "unknown object", IGNORE: "ignored"}[int(frame.anomaly[y, x])]
    return Pixel(y, x, name_of(frame.prediction), name_of(frame.label), anomaly, frame.scores_at(y, x, scores))


def norm_parts(frame: FrameData, name: str, y: int, x: int) -> NormParts | None:
    r"""Split a gradient norm at the head's cell of a pixel into its label and its feature part, as log2.

    With :math:`\|\nabla_K L\|_p = \|\pi - y\|_p \, \|\psi\|_p` the label part follows from the cached logits, and the
    feature part is what is left of the cached norm. None for scores that are no gradient norm, and caches without
    logits or this norm, or of a query model, whose label part is no function of its class scores.
    """
    entry = lookup(name)
    dataset = frame.dataset
    if not isinstance(entry, GradientNorm) or "logits" not in dataset or frame.of_queries:
        return None
    cell = frame.norm_cell(name, y, x)
    if cell is None:
        return None
    norm, v, u = cell
    logits = np.asarray(dataset["logits"][:, v, u].values, "f8")
    label = _label_norm(logits, entry.label, entry.p, entry.variant)
    return NormParts(norm, label, norm - label)


def _label_norm(logits: np.ndarray, label: str, p: float, variant: str) -> float:
    """log2 of the p-norm of pi - y, or of pi (1 - y) in the paper's variant."""
    pi = softmax(logits)
    n, top = len(pi), int(pi.argmax())
    if label == "exp":
        rest = np.array([np.delete(pi, index).sum() for index in range(n)])  # keeps the digits of 1 - pi
        total = (pi**p * rest + pi * rest**p).sum()
        return float(np.log2(total) / p) if total > 0 else -np.inf
    y = np.full(n, 1 / n)
    if label == "oh":
        y = np.zeros(n)
        y[top] = 1
    if variant == "paper":
        delta = pi * (1 - y)
    else:
        delta = np.abs(pi - y)
        if label == "oh":
            delta[top] = pi.sum() - pi[top] if pi[top] < 0.5 else np.delete(pi, top).sum()  # keeps its digits near 0
    largest = delta.max()
    if largest == 0:
        return -np.inf
    return float(np.log2(((delta / largest) ** p).sum()) / p + np.log2(largest))


# --------------------------------------------------------------------------------------------------------------------
# shown


_CARD = """
<div class='card pixel'><div class='card-title'>{{ title }}
{%- if pixel %} <span class='muted'>x {{ pixel.x }}, y {{ pixel.y }}</span></div><div class='facts'>
{%- for name, value in facts %}<span>{{ name }} <b>{{ value }}</b></span>{% endfor -%}
</div><div class='numbers'>
{%- for name, units, value in numbers %}<span title='{{ units }}'>{{ name }}</span><b>{{ value }}</b>{% endfor -%}
</div>{% else %}</div><div class='muted'>{{ hint }}</div>{% endif %}</div>"""


def pixel_card(pixel: Pixel | None, title: str, hint: str = "") -> Markup:
    """Show a pixel as HTML."""
    if pixel is None:
        return render(_CARD, pixel=None, title=title, hint=hint)
    return render(
        _CARD,
        pixel=pixel,
        title=title,
        facts=[("prediction", pixel.prediction), ("label", pixel.label), ("anomaly", pixel.anomaly)],
        numbers=[(_breakable(name), units_text(name), f"{value:.4g}") for name, value in pixel.scores.items()],
    )


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line where one of its words ends."""
    return Markup("<wbr>").join(re.split(r"(?<=[_+:])", name))


_BARS_CARD = """
<div class='card'>{% if problem %}<div class='muted'>{{ problem }}</div>{% else -%}
<div class='card-title'>{{ title }}</div><div class='bars'>
{%- for name, share, color in bars -%}
<span>{{ name }}</span>
<span class='track'><i style='width:{{ "%.2f" | format(100 * [share, 1] | min) }}%;background:{{ color }}'></i></span>
<b>{{ "%.3f" | format(share) }}</b>
{%- endfor %}</div>
{%- if parts %}<div class='card-title'>How {{ score }} is made up
<span class='muted'>log2, in the head's cell</span></div>
<div class='sum'><span><b>{{ "%.2f" | format(parts.label) }}</b> label part</span>
<span>+ <b>{{ "%.2f" | format(parts.feature) }}</b> feature part</span>
<span>= <b>{{ "%.2f" | format(parts.norm) }}</b> log2 norm</span></div>
<div class='muted'>Of the cell of the last layer that holds the pixel; the score above is interpolated between cells.
Label part: how far the probabilities are from the label of the loss. Feature part: how strongly the last layer's input
responds there.</div>{% endif %}{% endif %}</div>"""


def probability_bars(
    frame: FrameData,
    pixel: tuple[int, int],
    classes: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    name: str,
) -> Markup:
    """Show class probabilities of a pixel (y, x) and how its gradient norm `name` is made up, as HTML."""
    try:
        found, parts = frame.probabilities(*pixel), norm_parts(frame, name, *pixel)
    except GraduncError as error:
        return render(_BARS_CARD, problem=str(error))
    bars = [(classes[i], float(found[i]), f"rgb{tuple(colors[i])}") for i in np.argsort(-found)[:_BARS]]
    title = "Class scores S of the queries" if frame.of_queries else "Class probabilities"
    return render(_BARS_CARD, problem="", title=title, bars=bars, parts=parts, score=name)
