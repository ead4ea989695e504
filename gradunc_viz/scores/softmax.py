"""Scores from logits alone: functions of (N, C, h, w) logits that return (N, h, w).

Every function accumulates in float32 at least, and is exact where a probability is 0 or 1: quantities near 1 are
never formed and subtracted (1 - max softmax is the sum of the other probabilities). Values are as published, not
oriented; the orientation stands in `gradunc_viz.schema.scores.SCORES`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.reference import softmax_formulas

__all__ = ["energy", "entropy", "margin", "max_logit", "msp", "softmax_scores"]


def msp(logits: Tensor) -> Tensor:
    """1 minus the maximum softmax probability, in [0, 1 - 1/C]; larger is more uncertain.

    Source: Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural
    Networks" (arXiv:1610.02136).
    """
    return softmax_scores(logits, ("msp",))["msp"]


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax, -sum_c pi_c ln pi_c in nats, in [0, ln C]; larger is more uncertain."""
    return softmax_scores(logits, ("entropy",))["entropy"]


def margin(logits: Tensor) -> Tensor:
    """1 minus the difference of the two largest softmax probabilities, in [0, 1]; larger is more uncertain.

    With one class there is no second probability and the margin is 0.
    """
    return softmax_scores(logits, ("margin",))["margin"]


def energy(logits: Tensor) -> Tensor:
    """Free energy -ln sum_c exp phi_c at temperature 1; larger is more uncertain.

    Source: Liu et al., "Energy-based Out-of-distribution Detection" (arXiv:2010.03759).
    """
    return softmax_scores(logits, ("energy",))["energy"]


def max_logit(logits: Tensor) -> Tensor:
    """Largest logit, max_c phi_c; smaller is more uncertain.

    Source: Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings" (arXiv:1911.11132).
    """
    return softmax_scores(logits, ("max_logit",))["max_logit"]


def softmax_scores(
    logits: Tensor, names: Sequence[str], label: Tensor | None = None, kernels: Kernels | None = None
) -> dict[str, Tensor]:
    """Several of the scores above with the exponentials taken once, and what else follows from them.

    Parameters
    ----------
    logits : Tensor (N, C, h, w)
    names : sequence of str
        Names of the functions above; ``"prediction"``: class of the largest logit, the first where several are equal;
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
    kernels = kernels or kernels_on(logits.device)
    sums = kernels.sums_of(logits, wide=logits.dtype == torch.float64) if names else None
    if sums is None:
        return softmax_formulas(logits, names, label)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return sums.label_pass(logits, (), None, (), None, names, dtype, label)[1]
