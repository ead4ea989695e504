"""Scores of logits alone: of the softmax, or before it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ..errors import UnknownScoreError
from ..score import Score, ScorePattern, SoftmaxRequest, SoftmaxScore

__all__ = ["PATTERNS", "SCORES", "tempered_name"]

_FUNCTIONS = "gradunc_viz.scores.softmax"
_HENDRYCKS = "Hendrycks and Gimpel, arXiv:1610.02136"
_GUO = "Guo et al., arXiv:1706.04599"
_COOLED = ("msp", "entropy", "margin", "energy")


def _of_logits(
    name: str, family: str, orientation: int, units: str, formula: str, title: str, source: str, upper: str = ""
) -> SoftmaxScore:
    return SoftmaxScore(
        name, family, orientation, units, formula, title, source,
        compute=f"{_FUNCTIONS}:{name}", upper=upper, request=SoftmaxRequest(name),
    )  # fmt: skip


_VARIATION_RATIO = SoftmaxScore(
    "variation_ratio", "softmax", +1, "1", "1 - max_c pi_c; of one forward pass this is msp",
    r"variation ratio $1 - \max_c \pi_c$", "Freeman, 1965; Gal et al., arXiv:1703.02910",
    compute=f"{_FUNCTIONS}:msp", upper="1", request=SoftmaxRequest("msp"),
)  # fmt: skip

_GEN = _of_logits(
    "gen", "softmax", +1, "1", "sum_c pi_c^0.1 (1 - pi_c)^0.1 over the 100 largest pi_c",
    r"$\sum_c \pi_c^{0.1} (1 - \pi_c)^{0.1}$", "Liu et al., CVPR 2023, 'GEN'",
)  # fmt: skip

_NAMED = (
    _of_logits("msp", "softmax", +1, "1", "1 - max_c pi_c", r"$1 - \max_c \pi_c$", _HENDRYCKS, "1"),
    _of_logits("entropy", "softmax", +1, "nats", "-sum_c pi_c ln pi_c", r"entropy $H(\pi)$", "Shannon, 1948", "log C"),
    _of_logits(
        "margin", "softmax", +1, "1", "1 - (pi_(1) - pi_(2)), the two largest", r"$1 - (\pi_{(1)} - \pi_{(2)})$",
        "Scheffer et al., 2001", "1",
    ),
    _of_logits(
        "energy", "logit", +1, "logit", "-ln sum_c exp phi_c", r"energy $-\ln \sum_c e^{\phi_c}$",
        "Liu et al., arXiv:2010.03759",
    ),
    _of_logits(
        "max_logit", "logit", -1, "logit", "max_c phi_c", r"$\max_c \phi_c$", "Hendrycks et al., arXiv:1911.11132"
    ),
    _of_logits(
        "gini", "softmax", +1, "1", "1 - sum_c pi_c^2, the Brier score that the softmax expects of itself",
        r"Gini impurity $1 - \sum_c \pi_c^2$", "Breiman et al., 1984; Brier, 1950", "1",
    ),
    _VARIATION_RATIO,
    _GEN,
    _of_logits(
        "kl_uniform", "softmax", -1, "nats", "KL(u || pi) = -ln C - (1/C) sum_c ln pi_c, u = 1/C; KL(pi || u) is "
        "ln C - entropy", r"$\mathrm{KL}(u \,\|\, \pi)$", "Kullback and Leibler, 1951",
    ),
)  # fmt: skip

SCORES: tuple[Score, ...] = (
    *_NAMED,
    Score(
        "void", "softmax", +1, "1", "sum of pi_c over the channels that are no class, softmax over all channels",
        r"$\pi_{\mathrm{void}}$", "Blum et al., arXiv:1904.03215",
        needs=frozenset({"void"}), compute="gradunc_viz.scores.void:void", upper="1",
    ),
)  # fmt: skip

_BY_NAME = {score.name: score for score in _NAMED}

_COLDEST, _HOTTEST = 1e-6, 1e6


def _at_temperature(match: re.Match[str]) -> Score | None:
    """A score of the softmax of logits that are divided by a temperature."""
    plain, temperature = _BY_NAME[match["name"]], float(match["temperature"])
    if temperature == 1:
        return plain
    if not _COLDEST <= temperature <= _HOTTEST:
        raise UnknownScoreError(
            f"score {match[0]!r}: temperature is {match['temperature']}; expected {_COLDEST:f} to {_HOTTEST:.0f}, "
            "beyond which float32 tells no pixels apart"
        )
    number = _number(temperature)
    formula = f"{plain.formula}, pi = softmax(phi / {number})"
    if plain.name == "energy":
        formula = f"-{number} ln sum_c exp(phi_c / {number})"
    return replace(
        plain,
        name=tempered_name(plain.name, temperature),
        formula=formula,
        title=f"{plain.title} at $T = {number}$",
        source=plain.source if plain.name == "energy" else f"{plain.source}; {_GUO}",
        request=plain.request._replace(temperature=temperature),
        takes=("temperature",),
    )


def _generalised_entropy(match: re.Match[str]) -> Score | None:
    gamma, largest = float(match["gamma"]), int(match["largest"] or _GEN.request.largest)
    if not 0 < gamma <= 1 or largest < 1:
        raise UnknownScoreError(
            f"score {match[0]!r}: expected a power above 0 and up to 1, with which a flatter softmax has a larger "
            "sum, and 1 class or more"
        )
    request = _GEN.request._replace(gamma=gamma, largest=largest)
    if request == _GEN.request:
        return _GEN
    number = _number(gamma)
    count = "" if largest == _GEN.request.largest else f"_m{largest}"
    return replace(
        _GEN,
        name=f"gen_g{number}{count}",
        formula=f"sum_c pi_c^{number} (1 - pi_c)^{number} over the {largest} largest pi_c",
        title=rf"$\sum_c \pi_c^{{{number}}} (1 - \pi_c)^{{{number}}}$" + (f", {largest} largest" if count else ""),
        request=request,
        takes=("gamma", "largest"),
    )


def tempered_name(name: str, temperature: float) -> str:
    """Name of a score at a temperature."""
    return name if temperature == 1 else f"{name}_T{_number(temperature)}"


def _number(value: float) -> str:
    return np.format_float_positional(value, trim="-")


PATTERNS: tuple[ScorePattern, ...] = (
    ScorePattern(
        "{" + ",".join(_COOLED) + "}_T{T}",
        "of the softmax at a temperature T > 0, see 'gradunc calibrate': entropy_T1.5, msp_T1000",
        re.compile(rf"(?P<name>{'|'.join(_COOLED)})_T(?P<temperature>\d+(?:\.\d+)?)"),
        _at_temperature,
    ),
    ScorePattern(
        "gen_g{G}[_m{M}]",
        "generalised entropy of another power G, up to 1, over the M largest probabilities: gen_g0.5, gen_g0.1_m10",
        re.compile(r"gen_g(?P<gamma>\d+(?:\.\d+)?)(?:_m(?P<largest>\d+))?"),
        _generalised_entropy,
    ),
)
