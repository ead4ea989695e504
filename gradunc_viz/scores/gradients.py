r"""Closed-form norms of the last layer's gradient: pure torch functions.

A segmentation network ends in a layer :math:`\phi = K * \psi`. For one pixel with class probabilities
:math:`\pi = \mathrm{softmax}(\phi)` and the cross-entropy against a label :math:`y` that needs no annotation (the
prediction, or 1/C for every class), the gradient with respect to :math:`K` is an outer product, so its p-norm
factorises and needs no backward pass:

.. math:: \|\nabla_K L\|_p^p = \sum_c |\pi_c - y_c|^p \; \sum_{\text{taps}} \sum_d |\psi_d|^p

The sum over the taps of the kernel is the layer's own geometry applied to :math:`\sum_d |\psi_d|^p` with a kernel of
ones. Norms are returned as log2: for p = 0.1 the sum is raised to the tenth power, far beyond float16.

Source: Maag and Riedlinger, "Pixel-wise Gradient Uncertainty for Convolutional Neural Networks applied to
Out-of-Distribution Segmentation" (arXiv:2303.06920), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.geometry import sum_over_taps
from ..kernels.reference import feature_sums, label_sums, row_tiles
from ..networks.head import Head, geometry_of
from ..networks.tail import Tail
from ..schema.errors import HeadError
from ..schema.scores import LOG2_FLOOR, PAPER_NORMS, NormRequest, SoftmaxRequest
from .behind_head import moved_log2, norms_behind_head
from .needs import ForwardPass, HeadOutput
from .softmax import softmax_request, softmax_scores

__all__ = ["gradient_factors", "gradient_norm", "gradient_norms", "norms_and_softmax"]


def gradient_norms(
    logits: Tensor | Head,
    features: Tensor | None = None,
    layer: nn.Module | None = None,
    *,
    p: float | Sequence[float] = PAPER_NORMS,
    labels: str | Sequence[str] = ("oh", "uni"),
    variant: str = "exact",
    bias: bool = False,
    channels: Tensor | None = None,
) -> Tensor:
    r"""Log2 p-norms of the gradient of each pixel's own loss with respect to the last layer's kernel.

    Parameters
    ----------
    logits : Tensor (N, C, h, w), or Head
        What the layer returned; for a linear layer moved to channels first. Or what `gradunc_viz.capture` found, with
        features, layer, and whatever the network does behind it: then of the network's own output.
    features : Tensor (N, D, h', w')
        What entered the layer.
    layer : Conv2d, ConvTranspose2d, Linear or a kind of one's own
        Any kernel, stride, dilation, padding, padding mode and groups. Its weights are not read. See
        `gradunc_viz.networks.head.register_head`.
    p : float or sequence of float
        Norms, each > 0 and finite.
    labels : "oh", "uni" or a sequence of these
        ``"oh"``: y is the one-hot of the predicted class; ``"uni"``: y = 1/C.
    variant : "exact" or "paper"
        ``"exact"``: :math:`|\pi_c - y_c|`, the derivative, equal to automatic differentiation. ``"paper"``:
        :math:`|\pi_c (1 - y_c)|`, what the authors' published code evaluates.
    bias : bool
        Whether the gradient of the layer's bias counts as well (a tap whose feature is 1).
    channels : LongTensor (C,), optional
        Which of the layer's output channels the logits are, where some (a void class) were left out. The norm is then
        that of the remaining rows of the kernel.

    Returns
    -------
    Tensor (N, len(labels) * len(p), h, w)
        log2 of the norms, p fastest; float32, or float64 where the inputs are. A vanishing gradient gives
        `gradunc_viz.schema.scores.LOG2_FLOOR`. Orientation: see `gradunc_viz.schema.scores.Score`.

    Raises
    ------
    HeadError
        For another kind of layer, or shapes that do not belong to it.
    ValueError
        For a p that is not positive and finite, or an unknown label or variant.

    Notes
    -----
    Half-precision inputs are accumulated in float32; p > 2 in float64, where powers of float32 would underflow. A
    common factor is taken out of every sum before it is raised to a power: the label's part per pixel, so that a norm
    of 2^-100 where the network is all but certain is as precise as any other, the features' part per image.

    On a CPU and, where triton is installed, on CUDA a layer without groups takes a path that reads features and logits
    once; see `gradunc_viz.kernels.dispatch`.
    """
    if isinstance(logits, Head):
        head = HeadOutput(logits.logits, logits.features, logits.layer, bias=bias, tail=logits.tail).only(channels)
    elif features is None or layer is None:
        raise TypeError("gradient_norms takes logits, features and the layer between them, or a captured head")
    else:
        head = HeadOutput(logits, features, layer, channels, bias=bias)
    ps = tuple(p) if isinstance(p, Iterable) else (p,)
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    wanted = [(label, float(value), variant) for label in names for value in ps]
    return norms_and_softmax(head, wanted)[0]


def gradient_norm(run: ForwardPass, request: NormRequest) -> Tensor:
    """One norm of a forward pass, (N, h, w): what its entry in the registry names."""
    return norms_and_softmax(run.head, [request])[0][:, 0]


def norms_and_softmax(
    head: HeadOutput,
    wanted: Sequence[NormRequest],
    softmax: Sequence[str] = (),
    label: Tensor | None = None,
    kernels: Kernels | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`gradient_norms` for any list of (label, p, variant), and scores of logits from the same exponentials.

    Parameters
    ----------
    head : HeadOutput
        With features where norms are wanted.
    wanted : sequence of (label, p, variant)
    softmax, label
        See `gradunc_viz.scores.softmax.softmax_scores`.
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.

    Returns
    -------
    Tensor (N, len(wanted), h, w), dict of name -> Tensor (N, h, w)
        log2 norms in the order of `wanted`; scores of the layer's own logits.
    """
    logits, features, layer, bias = head.logits, head.features, head.layer, head.bias
    kernels = kernels or kernels_on(logits.device)
    if head.tail is not None:
        return _behind_head(head, head.tail, wanted), softmax_scores(logits, softmax, label, kernels)
    if features is None:
        if wanted:
            raise HeadError("gradient norms were asked for without the features that enter the last layer")
        return logits.new_empty((len(logits), 0, *logits.shape[2:])), softmax_scores(logits, softmax, label, kernels)
    _check(logits, features, layer, wanted, bias, head.channels)
    once = list(dict.fromkeys(wanted))
    dtype = torch.float64 if torch.float64 in (logits.dtype, features.dtype) else torch.float32
    parts = _by_precision(once, dtype) or {dtype: []}
    wide = torch.float64 in parts
    sums_of = kernels.sums_of(logits, features, wide=wide) if geometry_of(layer).groups == 1 else None
    if sums_of is None:
        norms = _reference_norms(head, once, dtype)
        found = softmax_scores(logits, softmax, label, kernels)
    else:
        norms = logits.new_empty((logits.shape[0], len(once), *logits.shape[2:]), dtype=dtype)
        asked = {name: softmax_request(name) for name in softmax}
        scores: dict[SoftmaxRequest, Tensor] = {}
        for some_dtype, some in parts.items():
            ps = sorted({p for _, p, _ in some})
            log2_scale, sums = _summed(sums_of.feature_sums, features, layer, logits.shape[2:], ps, some_dtype, bias)
            # scores of the softmax family come with the first part
            beside = tuple(dict.fromkeys(asked.values())) if some_dtype == next(iter(parts)) else ()
            part, found = sums_of.label_pass(logits, some, sums, ps, log2_scale, beside, some_dtype, label)
            scores |= found
            if len(parts) == 1:
                norms = part
            else:
                norms[:, [once.index(request) for request in some]] = part.to(dtype)
        found = {name: scores[request] for name, request in asked.items()}
    if len(once) != len(wanted):
        norms = norms[:, [once.index(request) for request in wanted]]
    return norms.to(dtype), found


def _behind_head(head: HeadOutput, tail: Tail, wanted: Sequence[NormRequest]) -> Tensor:
    """Norms at the places of the network's logits, in the precision that each needs."""
    _check_requests(wanted)
    if not wanted:
        return head.logits.new_empty((len(head.logits), 0, *head.logits.shape[2:]))
    source = tail.moved_head
    if source is not None:
        at_head = HeadOutput(source.output, source.features, source.layer, bias=head.bias).only(tail.channels)
        return moved_log2(norms_and_softmax(at_head, wanted)[0], tail.steps)
    logits = tail.moved_logits()
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    norms = logits.new_empty((logits.shape[0], len(wanted), *logits.shape[2:]), dtype=dtype)
    for wide, some in _by_precision(wanted, dtype).items():
        part = norms_behind_head(tail, some, wide, bias=head.bias, predict=head.predicted).to(dtype)
        for place, request in enumerate(wanted):
            if request in some:
                norms[:, place] = part[:, some.index(request)]
    return norms


def _summed(
    feature_sums: Callable[..., tuple[Tensor, Tensor]],
    features: Tensor,
    layer: nn.Module,
    size: Sequence[int],
    ps: Sequence[float],
    dtype: torch.dtype,
    bias: bool,
    **options: int,
) -> tuple[Tensor, Tensor]:
    """Sum over taps and channels of |psi / scale|^p; the bias's 1 is one more tap.

    Returns
    -------
    Tensor (N,), Tensor (N, planes, h, w)
        log2 of the scale, and the sums.
    """
    scale, sums = feature_sums(features, ps, dtype, at_least=1.0 if bias else 0.0, **options)
    sums = sum_over_taps(sums, geometry_of(layer), size)
    if bias:
        sums = sums.unflatten(1, (len(ps), -1))
        powers = torch.stack([scale**-p for p in ps], 1).to(dtype)
        sums = (sums + powers[:, :, None, None, None]).flatten(1, 2)
    return scale.log2(), sums


def _reference_norms(head: HeadOutput, wanted: Sequence[NormRequest], out_dtype: torch.dtype) -> Tensor:
    """The norms in plain torch, whatever the device and the layer."""
    logits, features, layer, bias = head.logits, head.features, head.layer, head.bias
    assert features is not None
    group = _groups(layer, logits.shape[1], head.channels, logits.device)
    groups = geometry_of(layer).groups
    result = logits.new_empty((logits.shape[0], len(wanted), *logits.shape[2:]), dtype=out_dtype)
    if result.numel() == 0:
        return result
    for dtype, some in _by_precision(wanted, out_dtype).items():
        ps = sorted({p for _, p, _ in some})
        log2_scale, sums = _summed(feature_sums, features, layer, logits.shape[2:], ps, dtype, bias, groups=groups)
        of_p = dict(zip(ps, sums.unflatten(1, (len(ps), groups)).unbind(1), strict=True))
        for rows in row_tiles(logits):
            for request, (label_sum, log2_label) in label_sums(logits[:, :, rows], some, group, groups, dtype).items():
                p = request[1]
                total = (label_sum * of_p[p][:, :, rows]).sum(1)
                norm = total.log2() / p + log2_label + log2_scale[:, None, None]
                result[:, wanted.index(request), rows] = norm.clamp_min(LOG2_FLOOR).to(out_dtype)
    return result


def gradient_factors(
    logits: Tensor, features: Tensor, layer: nn.Module, *, p: float, label: str = "oh", variant: str = "exact"
) -> tuple[Tensor, Tensor]:
    """How a gradient norm is made up: its label part and its feature part, whose sum is the log2 norm.

    Returns
    -------
    (Tensor (N, h, w), Tensor (N, h, w))
        log2 of the norm of pi - y, and log2 of the norm of the features under the kernel.

    Raises
    ------
    HeadError
        For a layer with groups, whose norm is a sum of products and has no two factors.
    """
    request = (label, float(p), variant)
    _check(logits, features, layer, [request], False, None)
    group = _groups(layer, logits.shape[1], None, logits.device)
    if group is not None:
        raise HeadError(
            f"the norm of a layer with groups={geometry_of(layer).groups} does not factorise; expected groups=1"
        )
    out_dtype = torch.float64 if torch.float64 in (logits.dtype, features.dtype) else torch.float32
    dtype = next(iter(_by_precision([request], out_dtype)))
    log2_scale, sums = _summed(feature_sums, features, layer, logits.shape[2:], [request[1]], dtype, False)
    feature = sums[:, 0].log2() / p + log2_scale[:, None, None]
    tiles = []
    for rows in row_tiles(logits):
        label_sum, log2_label = label_sums(logits[:, :, rows], [request], None, 1, dtype)[request]
        tiles.append(label_sum[:, 0].log2() / p + log2_label)
    label_part = torch.cat(tiles, 1)
    return label_part.clamp_min(LOG2_FLOOR).to(out_dtype), feature.clamp_min(LOG2_FLOOR).to(out_dtype)


def _check(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
    wanted: Sequence[NormRequest],
    bias: bool,
    channels: Tensor | None,
) -> None:
    geometry = geometry_of(layer)
    expected = geometry.outputs if channels is None else len(channels)
    if logits.ndim != 4 or logits.shape[1] != expected:
        raise HeadError(f"logits have shape {tuple(logits.shape)}; expected (N, {expected}, h, w)")
    if features.ndim != 4 or features.shape[1] != geometry.inputs or features.shape[0] != logits.shape[0]:
        expected_features = f"({logits.shape[0]}, {geometry.inputs}, h, w)"
        raise HeadError(f"features have shape {tuple(features.shape)}; expected {expected_features}")
    if bias and not geometry.bias:
        raise HeadError("the gradient of the bias was asked for, but the last layer has no bias")
    _check_requests(wanted)


def _check_requests(wanted: Sequence[NormRequest]) -> None:
    for label, p, variant in wanted:
        if label not in ("oh", "uni"):
            raise ValueError(f"label is {label!r}; expected 'oh' or 'uni'")
        if variant not in ("exact", "paper"):
            raise ValueError(f"variant is {variant!r}; expected 'exact' or 'paper'")
        if not (p > 0 and math.isfinite(p)):
            raise ValueError(f"p is {p}; expected a positive finite number")


def _by_precision(wanted: Sequence[NormRequest], out_dtype: torch.dtype) -> dict[torch.dtype, list[NormRequest]]:
    """Split requests by the dtype that their sums need."""
    parts: dict[torch.dtype, list[NormRequest]] = {}
    for request in dict.fromkeys(wanted):
        dtype = torch.float64 if request[1] > 2 else out_dtype
        parts.setdefault(dtype, []).append(request)
    return parts


def _groups(layer: nn.Module, n_logits: int, channels: Tensor | None, device: torch.device) -> Tensor | None:
    """Group of the layer that each logit belongs to, or None where there is one group."""
    geometry = geometry_of(layer)
    if geometry.groups == 1:
        return None
    index = torch.arange(n_logits, device=device) if channels is None else channels.to(device)
    return index // (geometry.outputs // geometry.groups)
