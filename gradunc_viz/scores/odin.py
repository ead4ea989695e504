"""ODIN: the softmax of an image that is moved towards what the network holds it for."""

from __future__ import annotations

from torch import Tensor

from .needs import ForwardPass
from .softmax import msp

__all__ = ["odin"]


def odin(run: ForwardPass, temperature: float, epsilon: float) -> Tensor:
    r"""1 minus the largest softmax at a temperature, of a moved input; larger is more uncertain.

    .. math::
       x' = x - \varepsilon \, \mathrm{sign} \nabla_x \sum_{\text{pixels}} -\ln \max_c \mathrm{softmax}(\phi(x)/T)_c

    and 1 - max softmax(phi(x') / T) of the logits of x', resized to the image. The loss is of the network's own output,
    and one backward pass is taken for all pixels. Where an image is normalised, x is what the network gets, and
    :math:`\varepsilon` in its units.

    Source: Liang, Li and Srikant, "Enhancing The Reliability of Out-of-distribution Image Detection in Neural Networks"
    (arXiv:1706.02690).

    Parameters
    ----------
    run : ForwardPass
    temperature, epsilon : float

    Returns
    -------
    Tensor (N, y, x)
    """

    def loss(logits: Tensor) -> Tensor:
        return -(logits.float() / temperature).log_softmax(1).amax(1).sum()

    if epsilon:
        run = run.again(run.input - epsilon * run.input_gradient(loss).sign())
    return msp(run.resized / temperature)
