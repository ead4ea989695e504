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
from numbers import Real

import torch
from torch import Tensor, nn

from ..kernels.dispatch import Kernels, kernels_on
from ..kernels.geometry import Geometry, sum_over_taps
from ..kernels.reference import feature_sums, label_sums, row_tiles
from ..networks.head import Head, geometry_of
from ..networks.queries import QueryHead
from ..networks.tail import Tail
from ..schema.errors import HeadError, SettingsError
from ..schema.scores import LOG2_FLOOR, PAPER_NORMS, NormRequest, SoftmaxRequest
from .behind_head import moved_log2, norms_behind_head, powered
from .needs import ForwardPass, HeadOutput
from .query_norms import query_norms
from .second_last import norms_before_head
from .softmax import softmax_request, softmax_scores

__all__ = ["check_requests", "gradient_factors", "gradient_norm", "gradient_norms", "norms_and_softmax"]

_LABELS = ("oh", "uni", "exp")


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
    labels : "oh", "uni", "exp" or a sequence of these
        ``"oh"``: y is the one-hot of the predicted class; ``"uni"``: y = 1/C; ``"exp"``: y is the one-hot of a class
        that is drawn from :math:`\pi`, and the p-th power of the norm its expected value, :math:`(\sum_c \pi_c
        \|\pi - e_c\|_p^p \; \sum |\psi_d|^p)^{1/p}`.
    variant : "exact" or "paper"
        ``"exact"``: :math:`|\pi_c - y_c|`, the derivative, equal to automatic differentiation. ``"paper"``:
        :math:`|\pi_c (1 - y_c)|`, what the authors' published code evaluates, not for ``"exp"``.
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
    SettingsError
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
        found = logits.queries if isinstance(logits, QueryHead) else None
        features = getattr(logits, "features", None) if found else logits.features
        head = HeadOutput(logits.logits, features, logits.layer, bias=bias, tail=logits.tail, queries=found)
        head = head.only(channels)
    elif features is None or layer is None:
        raise SettingsError("gradient_norms takes logits, features and the layer between them, or a captured head")
    else:
        _check_floating(logits, features)
        head = HeadOutput(logits, features, layer, channels, bias=bias)
    ps = tuple(p) if isinstance(p, Iterable) else (p,)
    names = (labels,) if isinstance(labels, str) else tuple(labels)
    wanted = [NormRequest(label, _norm(value), variant) for label in names for value in ps]
    return norms_and_softmax(head, wanted)[0]


def gradient_norm(run: ForwardPass, request: NormRequest) -> Tensor:
    """One norm of a forward pass, or a factor of one, (N, h, w): what its entry in the registry names."""
    return norms_and_softmax(run.head, [request])[0][:, 0]


def norms_and_softmax(
    head: HeadOutput,
    wanted: Sequence[NormRequest | tuple[str, float, str]],
    softmax: Sequence[str] = (),
    label: Tensor | None = None,
    kernels: Kernels | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`gradient_norms` for any list of requests, and scores of logits from the same exponentials.

    Parameters
    ----------
    head : HeadOutput
        With features where norms are wanted.
    wanted : sequence of NormRequest
        Or of (label, p, variant).
    softmax, label
        See `gradunc_viz.scores.softmax.softmax_scores`.
    kernels : Kernels, optional
        Chosen by whoever scores many images; by default those of the device.

    Returns
    -------
    Tensor (N, len(wanted), h, w), dict of name -> Tensor (N, h, w)
        log2 norms in the order of `wanted`; scores of the layer's own logits.
    """
    requests = [NormRequest(*request) for request in wanted]
    kernels = kernels or kernels_on(head.logits.device)
    if head.queries is not None:
        return query_norms(head, requests), softmax_scores(head.logits, softmax, label, kernels)
    last = [request for request in requests if request.layer == 1]
    norms, found = _of_last_layer(head, last, softmax, label, kernels)
    if len(last) == len(requests):
        return norms, found
    before = [request for request in requests if request.layer == 2]
    if len(last) + len(before) < len(requests):
        raise HeadError("norms of a layer of a query model were asked for, and this network returns logits of pixels")
    norms = torch.cat([norms, _before_head(head, before, kernels).to(norms.dtype)], 1)
    order = [*last, *before]
    return norms[:, [order.index(request) for request in requests]], found


def _of_last_layer(
    head: HeadOutput, requests: Sequence[NormRequest], softmax: Sequence[str], label: Tensor | None, kernels: Kernels
) -> tuple[Tensor, dict[str, Tensor]]:
    logits = head.logits
    if head.tail is not None:
        return _behind_head(head, head.tail, requests), softmax_scores(logits, softmax, label, kernels)
    _check(head, requests)
    dtypes = {logits.dtype} if head.features is None else {logits.dtype, head.features.dtype}
    dtype = torch.float64 if torch.float64 in dtypes else torch.float32
    parts = _by_precision(requests, dtype) or {dtype: []}
    sums_of = None
    if requests and geometry_of(head.layer).groups == 1:
        tensors = (logits,) if head.features is None else (logits, head.features)
        sums_of = kernels.sums_of(*tensors, wide=torch.float64 in parts)
    if sums_of is None:
        once = list(dict.fromkeys(requests))
        norms = _reference_norms(head, once, dtype)
        norms = norms if len(once) == len(requests) else norms[:, [once.index(request) for request in requests]]
        return powered(norms, requests), softmax_scores(logits, softmax, label, kernels)
    asked = {name: softmax_request(name) for name in softmax}
    found: dict[SoftmaxRequest, Tensor] = {}
    norms = logits.new_empty((logits.shape[0], len(requests), *logits.shape[2:]), dtype=dtype)
    for some_dtype, some in parts.items():
        ps, log2_scale, sums = _summed(sums_of.feature_sums, head, some, some_dtype)
        # scores of the softmax family come with the first part
        beside = tuple(dict.fromkeys(asked.values())) if some_dtype == next(iter(parts)) else ()
        part, scores = sums_of.label_pass(logits, some, sums, ps, log2_scale, beside, some_dtype, label)
        found |= scores
        if len(parts) == 1:
            norms = part.to(dtype)
        else:
            norms[:, [k for k, request in enumerate(requests) if request in some]] = part.to(dtype)
    return powered(norms, requests), {name: found[request] for name, request in asked.items()}


def _behind_head(head: HeadOutput, tail: Tail, wanted: Sequence[NormRequest]) -> Tensor:
    """Norms at the places of the network's logits, in the precision that each needs."""
    _check_words(wanted)
    if not wanted:
        return head.logits.new_empty((len(head.logits), 0, *head.logits.shape[2:]))
    for one in tail.sources:
        if not geometry_of(one.layer).inputs:
            check_requests(wanted, geometry_of(one.layer))
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


def _before_head(head: HeadOutput, wanted: Sequence[NormRequest], kernels: Kernels) -> Tensor:
    """Norms of the kernel before the last one, in the precision that each needs."""
    _check_words(wanted)
    dtype = torch.float64 if head.logits.dtype == torch.float64 else torch.float32
    tensors = [] if head.hidden is None else [head.logits, head.hidden.features, head.hidden.slope]
    parts: dict[NormRequest, Tensor] = {}
    for wide, some in _by_precision(wanted, dtype).items():
        fast = kernels.sums_of(*tensors, wide=wide == torch.float64) if tensors else None
        found = norms_before_head(head, some, wide, feature_sums if fast is None else fast.feature_sums)
        parts |= dict(zip(some, found.to(dtype).unbind(1), strict=True))
    return torch.stack([parts[request] for request in wanted], 1)


def _summed(
    feature_sums: Callable[..., tuple[Tensor, Tensor]],
    head: HeadOutput,
    wanted: Sequence[NormRequest],
    dtype: torch.dtype,
    **options: int,
) -> tuple[list[float], Tensor | None, Tensor | None]:
    """Sum over taps and channels of |psi / scale|^p for each p that is asked for; the bias's 1 is one more tap.

    Returns
    -------
    list of p, Tensor (N,), Tensor (N, planes, h, w)
        With log2 of the scale, and the sums; None where features make no difference.
    """
    ps = sorted({request.p for request in wanted if request.part != "label"})
    if not ps:
        return ps, None, None
    scale, sums = feature_sums(head.features, ps, dtype, at_least=1.0 if head.bias else 0.0, **options)
    sums = sum_over_taps(sums, geometry_of(head.layer), head.logits.shape[2:])
    if head.bias:
        sums = sums.unflatten(1, (len(ps), -1))
        powers = torch.stack([scale**-p for p in ps], 1).to(dtype)
        sums = (sums + powers[:, :, None, None, None]).flatten(1, 2)
    return ps, scale.log2(), sums


def _feature_part(sums: Tensor, p: float, log2_scale: Tensor) -> Tensor:
    return (sums.log2() / p + log2_scale[:, None, None]).clamp_min(LOG2_FLOOR)


def _reference_norms(head: HeadOutput, wanted: Sequence[NormRequest], out_dtype: torch.dtype) -> Tensor:
    """The norms and their factors in plain torch, whatever the device and the layer."""
    logits, layer = head.logits, head.layer
    result = logits.new_empty((logits.shape[0], len(wanted), *logits.shape[2:]), dtype=out_dtype)
    if result.numel() == 0:
        return result
    group = _groups(layer, logits.shape[1], head.channels, logits.device)
    groups = geometry_of(layer).groups
    for dtype, some in _by_precision(wanted, out_dtype).items():
        ps, log2_scale, sums = _summed(feature_sums, head, some, dtype, groups=groups)
        of_p = {} if sums is None else dict(zip(ps, sums.unflatten(1, (len(ps), groups)).unbind(1), strict=True))
        for request in (request for request in some if request.part == "feature"):
            assert log2_scale is not None
            feature = _feature_part(of_p[request.p][:, 0], request.p, log2_scale)
            result[:, wanted.index(request)] = feature.to(out_dtype)
        of_labels = [request for request in some if request.part != "feature"]
        for rows in row_tiles(logits):
            found = label_sums(logits[:, :, rows], of_labels, group, groups, dtype)
            for request, (total, log2_factor) in found.items():
                if request.part == "norm":
                    assert log2_scale is not None
                    total, log2_factor = total * of_p[request.p][:, :, rows], log2_factor + log2_scale[:, None, None]
                norm = total.sum(1).log2() / request.p + log2_factor
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
    _check_floating(logits, features)
    parts = [NormRequest(label, _norm(p), variant, part) for part in ("label", "feature")]
    found = norms_and_softmax(HeadOutput(logits, features, layer), parts)[0]
    return found[:, 0], found[:, 1]


def _check(head: HeadOutput, wanted: Sequence[NormRequest]) -> None:
    _check_words(wanted)
    logits, features = head.logits, head.features
    if features is None and all(request.part == "label" for request in wanted):
        if wanted:
            check_requests(wanted, geometry_of(head.layer))
        return
    if features is None:
        raise HeadError("gradient norms were asked for without the features that enter the last layer")
    geometry = geometry_of(head.layer)
    expected = geometry.outputs if head.channels is None else len(head.channels)
    if logits.ndim != 4 or logits.shape[1] != expected:
        raise HeadError(f"logits have shape {tuple(logits.shape)}; expected (N, {expected}, h, w)")
    if features.ndim != 4 or features.shape[1] != geometry.inputs or features.shape[0] != logits.shape[0]:
        expected_features = f"({logits.shape[0]}, {geometry.inputs}, h, w)"
        raise HeadError(f"features have shape {tuple(features.shape)}; expected {expected_features}")
    if head.bias and not geometry.bias:
        raise HeadError("the gradient of the bias was asked for, but the last layer has no bias")
    check_requests(wanted, geometry)


def check_requests(wanted: Sequence[NormRequest], geometry: Geometry) -> None:
    """Check that a layer's gradient has the norms or factors that are asked for.

    Raises
    ------
    HeadError
        For a layer with groups, whose norm is a sum of products and has no two factors; for one of which the output
        alone is known.
    """
    if not geometry.inputs and any(request.part != "label" for request in wanted):
        raise HeadError(f"gradient norms need the features that enter the last layer, which is {geometry.name}")
    factors = [request.part for request in wanted if request.part != "norm"]
    if factors and geometry.groups != 1:
        raise HeadError(
            f"the norm of a layer with groups={geometry.groups} does not factorise, so that it has no {factors[0]} "
            "part; expected groups=1"
        )


def _check_floating(logits: Tensor, features: Tensor) -> None:
    for what, values in (("logits", logits), ("features", features)):
        if not isinstance(values, Tensor) or not values.is_floating_point():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise HeadError(f"{what} are of type {kind}; expected a tensor of floating point")


def _norm(p: float) -> float:
    """The number of a norm; `_check_words` says which there are."""
    if isinstance(p, bool) or not isinstance(p, Real):
        raise SettingsError(f"p is {p!r}; expected a positive finite number")
    return float(p)


def _check_words(wanted: Sequence[NormRequest]) -> None:
    for label, p, variant, part, _, layer in wanted:
        if layer == 2 and (label not in ("oh", "uni") or variant != "exact" or part != "norm"):
            raise SettingsError(
                f"before the last layer, {variant} {part} of {label!r}: expected exact norms of 'oh', 'uni'"
            )
        if label not in _LABELS and part != "feature":
            raise SettingsError(f"label is {label!r}; expected 'oh', 'uni' or 'exp'")
        if variant not in ("exact", "paper"):
            raise SettingsError(f"variant is {variant!r}; expected 'exact' or 'paper'")
        if (label, variant) == ("exp", "paper"):
            raise SettingsError(
                "variant 'paper' leaves out the class that is the label, and with 'exp' that is drawn from all; "
                "expected 'exact'"
            )
        if not (p > 0 and math.isfinite(p)):
            raise SettingsError(f"p is {p}; expected a positive finite number")


def _by_precision(wanted: Sequence[NormRequest], out_dtype: torch.dtype) -> dict[torch.dtype, list[NormRequest]]:
    """Split requests by the dtype that their sums need, in order."""
    parts: dict[torch.dtype, list[NormRequest]] = {}
    for request in wanted:
        dtype = torch.float64 if request.p > 2 else out_dtype
        parts.setdefault(dtype, []).append(request)
    return parts


def _groups(layer: nn.Module, n_logits: int, channels: Tensor | None, device: torch.device) -> Tensor | None:
    """Group of the layer that each logit belongs to, or None where there is one group."""
    geometry = geometry_of(layer)
    if geometry.groups == 1:
        return None
    index = torch.arange(n_logits, device=device) if channels is None else channels.to(device)
    return index // (geometry.outputs // geometry.groups)
