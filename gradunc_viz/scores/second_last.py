r"""Norms of the gradient with respect to the kernel before the last one.

For a head :math:`o = K_2 * z`, :math:`\psi = f(o)`, :math:`\phi = K \psi` with a 1 x 1 kernel :math:`K`, the
cross-entropy of one pixel has

.. math:: \delta_k = f'(o_k) \sum_c K_{ck} (\pi_c - y_c), \qquad
          \|\nabla_{K_2} L\|_p^p = \sum_k |\delta_k|^p \; \sum_{\text{taps}} \sum_d |z_d|^p

See `gradunc_viz.networks.second_last` for what is known of :math:`f`. Where the logits are more than the head's output,
:math:`\pi - y` is pulled back to it first, as `gradunc_viz.scores.behind_head` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.geometry import sum_over_taps
from ..kernels.reference import label_vectors, row_tiles
from ..networks.head import geometry_of
from ..schema.errors import HeadError
from ..schema.scores import LOG2_FLOOR, NormRequest
from .behind_head import PulledBack, moved_log2
from .needs import HeadOutput

__all__ = ["norms_before_head"]


def norms_before_head(
    head: HeadOutput,
    wanted: Sequence[NormRequest],
    dtype: torch.dtype,
    feature_sums: Callable[..., tuple[Tensor, Tensor]],
) -> Tensor:
    """Log2 norms of the gradient with respect to the kernel before the last one, at the places of the logits.

    Parameters
    ----------
    head : HeadOutput
        With `hidden`.
    wanted : sequence of NormRequest
    dtype : torch.float32 or torch.float64
        Of the sums.
    feature_sums : callable
        See `gradunc_viz.kernels.torch_cpu.feature_sums`.

    Returns
    -------
    Tensor (N, len(wanted), y, x)

    Raises
    ------
    HeadError
        If nothing was kept of the layer before the head, or its bias is asked for and it has none.
    """
    hidden = head.hidden
    if hidden is None:
        raise HeadError(
            f"norm pgn2_{wanted[0].label}_p{wanted[0].p:g} was asked for, but nothing was kept of the convolution "
            "before the head"
        )
    geometry = geometry_of(hidden.layer)
    if head.bias and not geometry.bias:
        raise HeadError(f"the gradient of the bias was asked for, but layer {hidden.name!r} has none")
    ps = sorted({request.p for request in wanted})
    size = hidden.slope.shape[2:]
    scale, sums = feature_sums(hidden.features, ps, dtype, at_least=1.0 if head.bias else 0.0)
    sums = sum_over_taps(sums, geometry, size)
    if head.bias:
        sums = sums + torch.stack([scale**-p for p in ps], 1).to(dtype)[:, :, None, None]
    powers = torch.tensor(ps, dtype=dtype, device=sums.device)[:, None, None]
    features = sums.log2() / powers + scale.log2().to(dtype)[:, None, None, None]
    norms: dict[NormRequest, Tensor] = {}
    for label in dict.fromkeys(request.label for request in wanted):
        vector, log2_factor, kernel = _at_head(head, label, dtype)
        deltas = torch.empty_like(features)
        for rows in row_tiles(hidden.slope):
            delta = (kernel.T @ vector[:, :, rows].flatten(2)).view_as(hidden.slope[:, :, rows])
            scale, sums = feature_sums(delta.mul_(hidden.slope[:, :, rows]), ps, dtype)
            deltas[:, :, rows] = sums.log2() / powers + scale.log2().to(dtype)[:, None, None, None]
        found = deltas.add_(features).add_(log2_factor[:, None])
        norms |= {request: found[:, ps.index(request.p)] for request in wanted if request.label == label}
    on_grid = torch.stack([norms[request] for request in wanted], 1).clamp_min(LOG2_FLOOR)
    return on_grid if head.tail is None else moved_log2(on_grid, head.tail.steps)


def _at_head(head: HeadOutput, label: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Derivative of the loss by the head's output, (N, C, h, w), log2 of a factor of it, and the head's kernel."""
    assert head.hidden is not None
    kernel = head.hidden.kernel.to(dtype)
    if head.tail is not None:
        deltas, log2_factor = PulledBack(head.tail, dtype, head.predicted).labelled(label, "exact")
        (vector,) = deltas.values()
        return vector, log2_factor, kernel
    logits = head.logits.to(dtype)
    vector, log2_factor = label_vectors(logits, label, "exact", head.predicted(logits))
    return vector, log2_factor, kernel if head.channels is None else kernel[head.channels.to(kernel.device)]
