"""Scores from logits alone: functions of (N, C, h, w) logits that return (N, h, w).

Every function accumulates in float32 at least, and is exact where a probability is 0 or 1: quantities near 1 are
never formed and subtracted (1 - max softmax is the sum of the other probabilities). Values are as published, not
oriented; the orientation stands in `gradunc_viz.schema.scores.SCORES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.reference import softmax_formulas
from ..schema.scores import SoftmaxRequest, SoftmaxScore, lookup

__all__ = [
    "energy",
    "entropy",
    "gen",
    "gini",
    "kl_uniform",
    "margin",
    "max_logit",
    "msp",
    "softmax_request",
    "softmax_scores",
]


def msp(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """1 minus the maximum softmax probability, in [0, 1 - 1/C]; larger is more uncertain.

    Of several forward passes the variation ratio is 1 minus the share of the class that most of them predict, in
    expectation over labels drawn from one softmax it is this score.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
    temperature : float
        T > 0 of softmax(phi / T).

    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks" (arXiv:1610.02136); with a temperature Guo et al., "On Calibration of Modern Neural Networks"
    (arXiv:1706.04599), and without perturbed inputs ODIN, Liang et al. (arXiv:1706.02690), where it is large.
    """
    return _score(logits, "msp", temperature)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of the softmax, -sum_c pi_c ln pi_c in nats, in [0, ln C]; larger is more uncertain.

    Of a temperature T far above the spread of the logits it is ln C less their variance / (2 T^2): beyond some hundreds
    float32 has few numbers left there, while `msp` and `energy`, linear in 1/T, keep more.
    """
    return _score(logits, "entropy", temperature)


def margin(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """1 minus the difference of the two largest softmax probabilities, in [0, 1]; larger is more uncertain.

    With one class there is no second probability and the margin is 0.
    """
    return _score(logits, "margin", temperature)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Free energy -T ln sum_c exp(phi_c / T); larger is more uncertain.

    Source: Liu et al., "Energy-based Out-of-distribution Detection" (arXiv:2010.03759), equation 3.
    """
    return _score(logits, "energy", temperature)


def max_logit(logits: Tensor) -> Tensor:
    """Largest logit, max_c phi_c; smaller is more uncertain.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings" (arXiv:1911.11132).
    """
    return _score(logits, "max_logit")


def gini(logits: Tensor) -> Tensor:
    """Gini impurity of the softmax, 1 - sum_c pi_c^2, in [0, 1 - 1/C]; larger is more uncertain.

    It is the Brier score that the softmax expects of itself: the mean of sum_k (pi_k - y_k)^2 over labels y drawn from
    pi. The gradient score with that expected label and p = 1 is 2 gini ||psi||_1.
    """
    return _score(logits, "gini")


def gen(logits: Tensor, gamma: float = 0.1, largest: int = 100) -> Tensor:
    """Generalised entropy, sum of pi_c^gamma (1 - pi_c)^gamma over some largest pi_c; larger is more uncertain.

    Every term is known as a logarithm before its power is taken: a small power of a probability that float32 cannot
    hold is not small.

    Source: Liu, Lochman and Zach, "GEN: Pushing the Limits of Softmax-Based Out-of-Distribution Detection" (CVPR 2023),
    whose G_gamma,M this is: published as a score of certainty it is negated.
    """
    return _score(logits, "gen", gamma=gamma, largest=largest)


def kl_uniform(logits: Tensor) -> Tensor:
    """Divergence of the softmax from the uniform distribution, KL(u || pi) = -ln C - (1/C) sum_c ln pi_c in nats.

    At least 0; smaller is more uncertain. The other way round, KL(pi || u) is ln C - entropy and no score of its own.
    """
    return _score(logits, "kl_uniform")


def _score(logits: Tensor, kind: str, temperature: float = 1.0, gamma: float = 0.1, largest: int = 100) -> Tensor:
    request = SoftmaxRequest(kind, temperature, gamma, largest)
    return _values(logits, (request,))[request]


@cache
def softmax_request(name: str) -> SoftmaxRequest:
    """What kernels are asked for by a name that `softmax_scores` takes: formula and parameters.

    Raises
    ------
    ValueError
        If the kernels have no formula of that name.
    """
    if name in ("prediction", "brier", "nll"):
        return SoftmaxRequest(name)
    score = lookup(name)
    if not isinstance(score, SoftmaxScore):
        raise ValueError(f"score {name!r} is none of logits alone that the kernels know")
    return score.request


def softmax_scores(
    logits: Tensor, names: Sequence[str], label: Tensor | None = None, kernels: Kernels | None = None
) -> dict[str, Tensor]:
    """Several of the scores above with the exponentials taken once, and what else follows from them.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
    names : sequence of str
        Names of the functions above, with parameters as in ``entropy_T1.5``;
        ``"prediction"``: class of the largest logit, the first where several are equal;
        ``"brier"``: sum_c (pi_c - y_c)^2 in [0, 2] against the labels; ``"nll"``: -ln pi of the label.
    label : LongTensor (N, h, w), optional
        Class ids, for the last two.
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.

    Returns
    -------
    dict of name -> Tensor (N, h, w)
        int64 for the prediction, else float32, or float64 where the logits are.
    """
    requests = {name: softmax_request(name) for name in names}
    found = _values(logits, tuple(dict.fromkeys(requests.values())), label, kernels)
    return {name: found[request] for name, request in requests.items()}


def _values(
    logits: Tensor, wanted: Sequence[SoftmaxRequest], label: Tensor | None = None, kernels: Kernels | None = None
) -> dict[SoftmaxRequest, Tensor]:
    kernels = kernels or kernels_on(logits.device)
    sums = kernels.sums_of(logits, wide=logits.dtype == torch.float64) if wanted else None
    if sums is None:
        return softmax_formulas(logits, wanted, label)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return sums.label_pass(logits, (), None, (), None, wanted, dtype, label)[1]
