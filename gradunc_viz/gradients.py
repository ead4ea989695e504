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
from torch.nn import functional as F

from .schema import LOG2_FLOOR, PAPER_NORMS, HeadError

__all__ = ["gradient_factors", "gradient_norms", "gradient_norms_for"]

_LOG2_E = math.log2(math.e)

_TILE = 1 << 18  # elements per row tile: a few float32 copies of it stay in a core's cache


def gradient_norms(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
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
    logits : Tensor (N, C, h, w)
        What the layer returned; for a linear layer moved to channels first.
    features : Tensor (N, D, h', w')
        What entered the layer.
    layer : Conv2d, ConvTranspose2d or Linear
        Any kernel, stride, dilation, padding, padding mode and groups. Its weights are not read.
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
        `gradunc_viz.schema.LOG2_FLOOR`. Orientation: see `gradunc_viz.schema.ScoreEntry`.

    Raises
    ------
    HeadError
        For another kind of layer, or shapes that do not belong to it.
    ValueError
        For a p that is not positive and finite, or an unknown label or variant.

    Notes
    -----
    Half-precision inputs are accumulated in float32; p > 2 in float64, where powers of float32 would underflow. The
    largest factor is taken out of every sum before it is raised to a power: the label's part per pixel, so that a
    norm of 2^-100 where the network is all but certain is as precise as any other, the features' part per image.
    """
    ps = tuple(p) if isinstance(p, Iterable) else (p,)
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    wanted = [(label, float(value), variant) for label in names for value in ps]
    return gradient_norms_for(logits, features, layer, wanted, bias=bias, channels=channels)


def gradient_norms_for(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
    wanted: Sequence[tuple[str, float, str]],
    *,
    bias: bool = False,
    channels: Tensor | None = None,
) -> Tensor:
    """`gradient_norms` for any list of (label, p, variant), sharing what they have in common.

    Returns
    -------
    Tensor (N, len(wanted), h, w)
        log2 norms in the order of `wanted`.
    """
    _check(logits, features, layer, wanted, bias, channels)
    group = _groups(layer, logits.shape[1], channels, logits.device)
    groups = int(getattr(layer, "groups", 1))
    out_dtype = torch.float64 if torch.float64 in (logits.dtype, features.dtype) else torch.float32
    result = logits.new_empty((logits.shape[0], len(wanted), *logits.shape[2:]), dtype=out_dtype)
    if result.numel() == 0:
        return result
    for dtype, some in _by_precision(wanted, out_dtype).items():
        ps = sorted({p for _, p, _ in some})
        scale, feature_sums = _feature_sums(features, layer, logits.shape[2:], ps, dtype, bias)
        log2_scale = scale.log2()
        places = {request: [i for i, other in enumerate(wanted) if other == request] for request in some}
        for rows in _row_tiles(logits):
            label_sums = _label_sums(logits[:, :, rows], some, group, groups, dtype)
            for request, (label_sum, log2_label) in label_sums.items():
                p = request[1]
                total = (label_sum * feature_sums[p][:, :, rows]).sum(1)
                norm = (total.log2() / p + log2_label + log2_scale[:, 0]).clamp_min(LOG2_FLOOR).to(out_dtype)
                for place in places[request]:
                    result[:, place, rows] = norm
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
        raise HeadError(f"the norm of a layer with groups={layer.groups} does not factorise; expected groups=1")
    out_dtype = torch.float64 if torch.float64 in (logits.dtype, features.dtype) else torch.float32
    dtype = next(iter(_by_precision([request], out_dtype)))
    scale, sums = _feature_sums(features, layer, logits.shape[2:], [request[1]], dtype, False)
    feature = sums[request[1]][:, 0].log2() / p + scale.log2()[:, 0]
    tiles = []
    for rows in _row_tiles(logits):
        label_sum, log2_label = _label_sums(logits[:, :, rows], [request], None, 1, dtype)[request]
        tiles.append(label_sum[:, 0].log2() / p + log2_label)
    label_part = torch.cat(tiles, 1)
    return label_part.clamp_min(LOG2_FLOOR).to(out_dtype), feature.clamp_min(LOG2_FLOOR).to(out_dtype)


def _check(
    logits: Tensor,
    features: Tensor,
    layer: nn.Module,
    wanted: Sequence[tuple[str, float, str]],
    bias: bool,
    channels: Tensor | None,
) -> None:
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        raise HeadError(f"the last layer is a {type(layer).__name__}; expected Conv2d, ConvTranspose2d or Linear")
    outputs, inputs = (
        (layer.out_features, layer.in_features)
        if isinstance(layer, nn.Linear)
        else (layer.out_channels, layer.in_channels)
    )
    expected = outputs if channels is None else len(channels)
    if logits.ndim != 4 or logits.shape[1] != expected:
        raise HeadError(f"logits have shape {tuple(logits.shape)}; expected (N, {expected}, h, w)")
    if features.ndim != 4 or features.shape[1] != inputs or features.shape[0] != logits.shape[0]:
        raise HeadError(f"features have shape {tuple(features.shape)}; expected ({logits.shape[0]}, {inputs}, h, w)")
    if bias and layer.bias is None:
        raise HeadError("the gradient of the bias was asked for, but the last layer has no bias")
    for label, p, variant in wanted:
        if label not in ("oh", "uni"):
            raise ValueError(f"label is {label!r}; expected 'oh' or 'uni'")
        if variant not in ("exact", "paper"):
            raise ValueError(f"variant is {variant!r}; expected 'exact' or 'paper'")
        if not (p > 0 and math.isfinite(p)):
            raise ValueError(f"p is {p}; expected a positive finite number")


def _by_precision(
    wanted: Sequence[tuple[str, float, str]], out_dtype: torch.dtype
) -> dict[torch.dtype, list[tuple[str, float, str]]]:
    """Split requests by the dtype that their sums need."""
    parts: dict[torch.dtype, list[tuple[str, float, str]]] = {}
    for request in dict.fromkeys(wanted):
        dtype = torch.float64 if request[1] > 2 else out_dtype
        parts.setdefault(dtype, []).append(request)
    return parts


def _groups(layer: nn.Module, n_logits: int, channels: Tensor | None, device: torch.device) -> Tensor | None:
    """Group of the layer that each logit belongs to, or None where there is one group."""
    groups = getattr(layer, "groups", 1)
    if groups == 1:
        return None
    index = torch.arange(n_logits, device=device) if channels is None else channels.to(device)
    return index // (int(layer.out_channels) // int(groups))  # type: ignore[arg-type]


def _row_tiles(tensor: Tensor) -> list[slice]:
    """Rows of (N, C, h, w) in tiles small enough for the cache on a CPU, all at once elsewhere."""
    n, c, h, w = tensor.shape
    step = h if tensor.device.type != "cpu" else max(1, _TILE // max(1, n * c * w))
    return [slice(row, min(row + step, h)) for row in range(0, h, step)]


def _powers(x: Tensor, log2: Tensor | None = None) -> Callable[[float], Tensor]:
    """Return p -> x^p for x >= 0, taking the logarithm, where it is not known, once for all p that need it."""
    log = [] if log2 is None else [log2]

    def power(p: float) -> Tensor:
        if p == 1:
            return x
        if p == 2:
            return x * x
        if p == 0.5:
            return x.sqrt()
        if not log:
            log.append(x.log2())
        return (log[0] * p).exp2_()

    return power


# --------------------------------------------------------------------------------------------------------------------
# the feature part


def _feature_sums(
    features: Tensor, layer: nn.Module, size: Sequence[int], ps: Sequence[float], dtype: torch.dtype, bias: bool
) -> tuple[Tensor, dict[float, Tensor]]:
    """Sum over taps and channels of |psi / scale|^p, per p and group.

    Returns
    -------
    scale : Tensor (N, 1, 1, 1)
        The largest |psi| of each image, the bias's 1 among them; dividing by it keeps every power in range.
    sums : dict of p -> Tensor (N, groups, h, w)
    """
    groups = int(getattr(layer, "groups", 1))
    n, d, height, width = features.shape
    scale = features.abs().amax((1, 2, 3), keepdim=True).to(dtype)
    scale = scale.clamp_min(1) if bias else torch.where(scale > 0, scale, 1)
    sums = {p: features.new_empty((n, groups, height, width), dtype=dtype) for p in ps}
    for rows in _row_tiles(features):
        x = features[:, :, rows].to(dtype).abs() / scale
        power = _powers(x.view(n, groups, d // groups, *x.shape[2:]) if groups > 1 else x.unsqueeze(1))
        for p in ps:
            torch.sum(power(p), 2, out=sums[p][:, :, rows])
    taps = {p: _sum_over_taps(sums[p], layer, size) for p in ps}
    return scale, {p: taps[p] + scale**-p if bias else taps[p] for p in ps}


def _sum_over_taps(planes: Tensor, layer: nn.Module, size: Sequence[int]) -> Tensor:
    """Apply the layer's geometry with a kernel of ones to (N, groups, h', w').

    The kernel is separable and its sums are of views, without the rounding of a convolution: nothing cancels, so a
    sum of zeros is zero and a small sum beside a large one keeps its digits.
    """
    if isinstance(layer, nn.Linear):
        _check_size(planes, size, layer)
        return planes
    found = tuple(planes.shape[2:])
    if isinstance(layer, nn.ConvTranspose2d):
        planes = _spread(planes, layer, size)
        stride: Sequence[int] = (1, 1)
    else:
        assert isinstance(layer, nn.Conv2d)
        padding, stride = _padding(layer), layer.stride
        if any(padding):
            planes = F.pad(planes, padding, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    for axis, (kernel, dilation) in enumerate(zip(layer.kernel_size, layer.dilation, strict=True)):
        span = dilation * (kernel - 1) + 1
        if planes.shape[2 + axis] < span:
            raise HeadError(f"features of size {found} are smaller than the kernel of {layer}")
        taps = planes.unfold(2 + axis, span, stride[axis])
        planes = taps[..., 0]
        for tap in range(1, kernel):
            planes = planes + taps[..., tap * dilation]
    _check_size(planes, size, layer)
    return planes


def _spread(planes: Tensor, layer: nn.ConvTranspose2d, size: Sequence[int]) -> Tensor:
    """Put zeros between and around the features, so that a convolution of them is the transposed one."""
    n, groups, height, width = planes.shape
    (down, right), edges = layer.stride, []
    for length, stride, kernel, dilation, padding, out in zip(
        (height, width), layer.stride, layer.kernel_size, layer.dilation, layer.padding, size, strict=True
    ):
        reach = dilation * (kernel - 1)
        # the size of the output, which the call may have chosen, tells the output padding
        extra = int(out) - ((length - 1) * stride - 2 * int(padding) + reach + 1)
        if not 0 <= extra < max(stride, dilation):
            raise HeadError(f"logits of size {tuple(size)} cannot come from features {height} x {width} by {layer}")
        edges.append((reach - int(padding), reach - int(padding) + extra))
    spread = planes.new_zeros((n, groups, (height - 1) * down + 1, (width - 1) * right + 1))
    spread[:, :, ::down, ::right] = planes
    return F.pad(spread, (*edges[1], *edges[0]))


def _padding(layer: nn.Conv2d) -> list[int]:
    """Return the padding as `torch.nn.functional.pad` wants it: left, right, top, bottom."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    vertical, horizontal = (int(edge) for edge in layer.padding)
    return [horizontal, horizontal, vertical, vertical]


def _check_size(planes: Tensor, size: Sequence[int], layer: nn.Module) -> None:
    if tuple(planes.shape[2:]) != tuple(size):
        raise HeadError(
            f"logits have size {tuple(size)}, but {layer} makes {tuple(planes.shape[2:])} of these features; "
            "expected the layer's own output, before any resizing"
        )


# --------------------------------------------------------------------------------------------------------------------
# the label part


def _label_sums(
    logits: Tensor,
    wanted: Sequence[tuple[str, float, str]],
    group: Tensor | None,
    n_groups: int,
    dtype: torch.dtype,
) -> dict[tuple[str, float, str], tuple[Tensor, Tensor]]:
    """Sum over classes of |pi_c - y_c|^p (or the paper's variant), per request, with a factor taken out.

    Returns
    -------
    dict of request -> (Tensor (N, groups, rows, w), Tensor (N, rows, w))
        Sum of (|pi_c - y_c| / factor)^p over the group's classes, and log2 of the factor.
    """
    phi = logits.to(dtype)
    n_classes = phi.shape[1]

    def over_classes(x: Tensor) -> Tensor:
        if group is None:
            return x.sum(1, keepdim=True)
        return x.new_zeros((x.shape[0], n_groups, *x.shape[2:])).index_add_(1, group, x)

    def at_prediction(x: Tensor) -> Tensor:
        if group is None:
            return x
        return x.new_zeros((x.shape[0], n_groups, *x.shape[2:])).scatter_(1, group[predicted], x)

    top, predicted = phi.max(1, keepdim=True)
    # The other classes relative to the largest of them, however far it is below the prediction. 1 - pi of the
    # predicted class is their sum: no cancellation where the network is sure.
    others = phi.scatter(1, predicted, -torch.inf)
    second = others.amax(1, keepdim=True)
    log2_others = others.sub_(second.clamp_min(torch.finfo(dtype).min)).mul_(_LOG2_E)
    others = log2_others.exp2()
    rest = others.sum(1, keepdim=True)
    log2_ratio = (second - top) * _LOG2_E
    log2_total = (rest * log2_ratio.exp2()).log1p() * _LOG2_E

    others_power, rest_power = _powers(others, log2_others), _powers(rest)
    sums: dict[tuple[str, float, str], tuple[Tensor, Tensor]] = {}
    for p in sorted({p for label, p, variant in wanted if (label, variant) != ("uni", "exact")}):
        shared = over_classes(others_power(p))
        for request in (w for w in wanted if w[1] == p):
            if request[0] == "oh":
                found = shared + at_prediction(rest_power(p)) if request[2] == "exact" else shared
                sums[request] = found, (log2_ratio - log2_total)[:, 0]
            elif request[2] == "paper":
                ratio = (log2_ratio * p).exp2()
                factor = math.log2((n_classes - 1) / n_classes) if n_classes > 1 else -math.inf
                sums[request] = (
                    shared * ratio + at_prediction(torch.ones_like(ratio)),
                    factor - log2_total[:, 0],
                )
    uniform = [w for w in wanted if (w[0], w[2]) == ("uni", "exact")]
    if uniform:
        # pi_c - 1/C = (a_c - mean a) / total with a = exp(phi - max phi) - 1: digits remain where the softmax is flat
        above = (phi - top).expm1_()
        power = _powers(above.sub_(above.mean(1, keepdim=True)).abs_())
        for request in uniform:
            sums[request] = over_classes(power(request[1])), -log2_total[:, 0]
    return sums
