"""Scores of several forward passes, and of one on a changed image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..score import Score, ScorePattern

__all__ = ["KINDS", "PATTERNS", "SCORES", "WORDS", "Odin", "PassesScore", "kind_needed", "of_word"]


@dataclass(frozen=True)
class PassesScore(Score):
    """A score of the softmax of several passes.

    Attributes
    ----------
    kind
        What the passes are, see `KINDS`.
    statistic
        What of them, see `gradunc_viz.scores.mean_prediction.STATISTICS`.
    """

    kind: str = ""
    statistic: str = ""

    @property
    def parameters(self) -> Mapping[str, object]:
        """What the passes are."""
        return {"passes": self.kind}

    @property
    def function(self) -> Callable[[Any], Any]:
        """What takes the statistic of a forward pass that joins several."""
        formula: Callable[..., Any] = super().function
        return partial(formula, statistic=self.statistic)


@dataclass(frozen=True)
class Odin(Score):
    """1 minus the largest softmax of a changed image at a temperature.

    Attributes
    ----------
    temperature
    epsilon
        How far each value of the network's input is moved, in units of that input: normalised, where it is.
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014

    @property
    def parameters(self) -> Mapping[str, object]:
        """Temperature and epsilon."""
        return {"temperature": self.temperature, "epsilon": self.epsilon}

    @property
    def function(self) -> Callable[[Any], Any]:
        """What computes it at this temperature."""
        formula: Callable[..., Any] = super().function
        return partial(formula, temperature=self.temperature, epsilon=self.epsilon)


KINDS: Mapping[str, str] = {
    "dropout": "MC dropout",
    "members": "an ensemble",
    "augmented": "test-time augmentation",
}
"""What several passes of one run may be, in words."""

WORDS: Mapping[str, str] = {"mcd": "dropout", "ens": "members", "tta": "augmented"}
"""How names of scores begin, and the kind of passes that they are of."""

_SOURCES = {
    "mcd": "Gal and Ghahramani, arXiv:1506.02142",
    "ens": "Lakshminarayanan et al., arXiv:1612.01474",
    "tta": "Wang et al., arXiv:1807.07356",
}
_IN_TITLES = {"mcd": "MC dropout", "ens": "ensemble", "tta": "TTA"}
_HOULSBY = "Houlsby et al., arXiv:1112.5745"
_MEAN = "p = mean of softmax(phi_m) over passes m"
_STATISTICS = {
    # formula, title, units, upper, source besides that of the passes
    "entropy": ("-sum_c p_c ln p_c", r"$H(\bar p)$", "nats", "log C", ""),
    "expected_entropy": ("mean_m -sum_c p_mc ln p_mc", r"$\overline{H(p_m)}$", "nats", "log C", ""),
    "mutual_information": (
        "H(p) - mean_m H(p_m)", r"$H(\bar p) - \overline{H(p_m)}$", "nats", "log C", _HOULSBY,
    ),
    "msp": ("1 - max_c p_c", r"$1 - \max_c \bar p_c$", "1", "1", ""),
    "variance": ("sum_c mean_m (p_mc - p_c)^2", r"$\sum_c \mathrm{Var}_m\, p_{mc}$", "1", "1", ""),
    "variation_ratio": (
        "1 - share of the passes that predict the class that most of them do", "variation ratio", "1", "1",
        "Freeman, 1965",
    ),
}  # fmt: skip


def _of_passes(word: str, statistic: str) -> PassesScore:
    formula, title, units, upper, source = _STATISTICS[statistic]
    return PassesScore(
        f"{word}_{statistic}", "passes", +1, units, f"{formula}; {_MEAN}", f"{_IN_TITLES[word]} {title}",
        "; ".join(part for part in (_SOURCES[word], source) if part),
        needs=frozenset({"logits", f"passes:{WORDS[word]}"}),
        compute="gradunc_viz.scores.mean_prediction:of_passes", upper=upper, kind=WORDS[word], statistic=statistic,
    )  # fmt: skip


def _odin(temperature: float, epsilon: float) -> Odin:
    t, e = (np.format_float_positional(number, trim="-") for number in (temperature, epsilon))
    default = (temperature, epsilon) == (Odin.temperature, Odin.epsilon)
    return Odin(
        "odin" if default else f"odin_T{t}_e{e}", "softmax", +1, "1",
        f"1 - max_c softmax(phi(x') / {t})_c, x' = x - {e} sign(grad_x -ln max_c softmax(phi(x) / {t})_c)",
        "ODIN" if default else rf"ODIN ($T = {t}$, $\varepsilon = {e}$)", "Liang et al., arXiv:1706.02690",
        needs=frozenset({"logits", "input_grad"}), compute="gradunc_viz.scores.odin:odin", upper="1",
        temperature=temperature, epsilon=epsilon,
    )  # fmt: skip


def _of_any_temperature(match: re.Match[str]) -> Score | None:
    temperature, epsilon = float(match["t"]), float(match["e"])
    return _odin(temperature, epsilon) if 0 < temperature < np.inf and epsilon < np.inf else None


def kind_needed(score: Score) -> str | None:
    """The kind of passes that a score is of; None for one of a single pass."""
    return next((need.partition(":")[2] for need in score.needs if need.startswith("passes:")), None)


def of_word(word: str) -> tuple[str, ...]:
    """Names of the scores of one kind of passes, by how they begin."""
    return tuple(score.name for score in SCORES if score.name.startswith(f"{word}_"))


SCORES: tuple[Score, ...] = (
    *(_of_passes(word, statistic) for word in WORDS for statistic in _STATISTICS),
    _odin(Odin.temperature, Odin.epsilon),
)

_NUMBER = r"\d+(?:\.\d+)?"

PATTERNS: tuple[ScorePattern, ...] = (
    ScorePattern(
        "odin_T{T}_e{E}",
        "ODIN at temperature T, its input moved by E: odin_T10_e0.002",
        re.compile(rf"odin_T(?P<t>{_NUMBER})_e(?P<e>{_NUMBER})"),
        _of_any_temperature,
    ),
)
