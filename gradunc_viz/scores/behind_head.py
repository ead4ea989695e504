r"""Gradient norms where a network does more than resize the output of its head.

With a `gradunc_viz.networks.tail.Tail` the network's logits are :math:`L = V(\phi_1, \dots, \phi_k)` of the outputs
of its heads, brought to one grid, :math:`\phi_i = K_i * \psi_i`. On the grid each pixel's loss is a function of that
pixel alone, so the gradient with respect to a kernel is an outer product as before, with
:math:`\delta_i = (\partial L / \partial \phi_i)^T (\pi - y)` in place of :math:`\pi - y`: one vector-Jacobian
product of :math:`V` for each label. Several kernels' gradients lie side by side in the joint gradient:

.. math:: \|\nabla L\|_p^p = \sum_i \|\delta_i\|_p^p \sum_{\text{taps}} \sum_d |\psi_{i,d}|^p

where features are taken as they reach the pixel: resized, where the head's output is resized on its way. Of a layer
that runs several times the gradients of all calls add up in its one kernel.

A label that is drawn from :math:`\pi` has one vector-Jacobian product for each class, whose p-th powers are averaged.

The norms then go the way of the logits from the grid to the network's output, as norms, not as logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ..kernels.dispatch import is_traced
from ..kernels.geometry import Geometry, sum_over_taps, taps
from ..kernels.reference import feature_sums, label_vectors, power
from ..networks.head import geometry_of
from ..networks.tail import Source, Step, Tail, moved
from ..schema.errors import HeadError
from ..schema.scores import LOG2_FLOOR, NormRequest

__all__ = ["PullBack", "PulledBack", "moved_log2", "norms_behind_head", "powered", "recorded_pull_back"]

PullBack = Callable[..., Sequence[Tensor]]
"""From a vector and the outputs of the heads on the grid to the vector-Jacobian product by each of these."""

_PARALLEL = 1e-3  # relative length of what may be left of a label part beside a multiple of another


def norms_behind_head(
    tail: Tail,
    wanted: Sequence[NormRequest],
    dtype: torch.dtype,
    *,
    bias: bool = False,
    predict: Callable[[Tensor], Tensor | None] = lambda logits: None,
    pull_back: PullBack | None = None,
) -> Tensor:
    """Log2 gradient norms, and factors of them, at the places of the network's logits.

    Parameters
    ----------
    tail : Tail
    wanted : sequence of NormRequest
    dtype : torch.float32 or torch.float64
        Of the sums.
    bias : bool
        Whether the gradient of the heads' biases counts as well.
    predict : callable
        From logits to the classes that are predicted, where that is not simply the one of the largest.
    pull_back : callable, optional
        See `recorded_pull_back`; by default automatic differentiation.

    Returns
    -------
    Tensor (N, len(wanted), y, x)

    Raises
    ------
    HeadError
        If a layer runs several times, and the classes of its outputs are not weighted alike; or if a factor is asked
        for of a norm that is a sum of products.
    """
    with nullcontext() if is_traced() else torch.inference_mode(False):
        sums = _Sums(tail, dtype, bias)
        sums.check_factors(wanted)
        pulled = PulledBack(tail, dtype, predict, pull_back)
        drawn = [request for request in wanted if request.label == "exp"]
        found = dict(zip(drawn, _drawn(pulled, sums, drawn), strict=True)) if drawn else {}
        for request in wanted:
            if request in found:
                continue
            if request.part == "feature":
                found[request] = sums({}, request).log2() / request.p
            else:
                deltas, log2_factor = pulled.labelled(request.label, request.variant)
                found[request] = sums(deltas, request).log2() / request.p + log2_factor
        norms = [found[w] if w.part == "label" else found[w] + sums.scale.log2() for w in wanted]
        on_grid = powered(torch.stack(norms, 1).clamp_min(LOG2_FLOOR), wanted)
    return moved_log2(on_grid, tail.steps)


def powered(norms: Tensor, wanted: Sequence[NormRequest]) -> Tensor:
    """Raise norms, (N, len(wanted), h, w) as log2, to the powers that are asked for; in place, where there are any."""
    for place, request in enumerate(wanted):
        if request.power != 1:
            norms[:, place] = (norms[:, place] * request.power).clamp_min(LOG2_FLOOR)
    return norms


def _drawn(pulled: PulledBack, sums: _Sums, wanted: Sequence[NormRequest]) -> list[Tensor]:
    """Norms where the label is drawn: the mean of the p-th powers over the classes, by their probabilities."""
    log2_probabilities = pulled.logits.to(sums.dtype).log_softmax(1) / math.log(2)
    terms: list[list[Tensor]] = [[] for _ in wanted]
    for index, log2_probability in enumerate(log2_probabilities.unbind(1)):
        deltas, log2_factor = pulled.one_hot(torch.full_like(log2_probability, index, dtype=torch.long))
        for request, own in zip(wanted, terms, strict=True):
            own.append(sums(deltas, request).log2() + request.p * log2_factor + log2_probability)
    total = [torch.stack(own) for own in terms]
    largest = [one.amax(0).clamp_min(torch.finfo(sums.dtype).min) for one in total]
    return [
        ((one - top).exp2().sum(0).log2() + top) / request.p
        for one, top, request in zip(total, largest, wanted, strict=True)
    ]


class PulledBack:
    """Derivatives of each pixel's loss by the outputs of the heads, with log2 of a factor taken out.

    Parameters
    ----------
    tail, dtype, predict, pull_back
        As of `norms_behind_head`.
    """

    def __init__(
        self,
        tail: Tail,
        dtype: torch.dtype,
        predict: Callable[[Tensor], Tensor | None],
        pull_back: PullBack | None = None,
    ) -> None:
        self.sources, self.dtype, self.predict = tail.sources, dtype, predict
        leaves = [source.of({}).detach().clone() for source in self.sources]

        def logits_of(*given: Tensor) -> Tensor:
            return tail.on_leaves(dict(zip(self.sources, given, strict=True)))

        self.by: Callable[[Tensor], Sequence[Tensor]]
        if pull_back is not None:
            self.logits, self.by = logits_of(*leaves), lambda vector: pull_back(vector, *leaves)
        else:
            self.logits, self.by = _differentiated(logits_of, leaves)
        self.known: dict[tuple[str, str], tuple[dict[Source, Tensor], Tensor]] = {}

    def labelled(self, label: str, variant: str) -> tuple[dict[Source, Tensor], Tensor]:
        """Those of the loss against a label, see `gradunc_viz.kernels.reference.label_vectors`."""
        kind = label, variant
        if kind not in self.known:
            self.known[kind] = self._of(label_vectors(self._wide, *kind, self.predict(self.logits)))
        return self.known[kind]

    def one_hot(self, classes: Tensor) -> tuple[dict[Source, Tensor], Tensor]:
        """Those of the loss against one class of each pixel, (N, h, w)."""
        return self._of(label_vectors(self._wide, "oh", "exact", classes))

    @property
    def _wide(self) -> Tensor:
        return self.logits.to(self.dtype)

    def _of(self, label: tuple[Tensor, Tensor]) -> tuple[dict[Source, Tensor], Tensor]:
        vector, log2_factor = label
        deltas = [one.to(self.dtype) for one in self.by(vector.to(self.logits.dtype))]
        return dict(zip(self.sources, deltas, strict=True)), log2_factor


def _differentiated(
    function: Callable[..., Tensor], leaves: Sequence[Tensor]
) -> tuple[Tensor, Callable[[Tensor], Sequence[Tensor]]]:
    """Value of a function and its vector-Jacobian product, by automatic differentiation."""
    with torch.enable_grad():
        for leaf in leaves:
            leaf.requires_grad_()
        value = function(*leaves)

    def pulled_back(vector: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(value, leaves, vector, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]

    return value.detach(), pulled_back


def recorded_pull_back(tail: Tail) -> PullBack:
    """The vector-Jacobian product of a tail as operations that compilers and exporters take, for inputs of its shape.

    Returns
    -------
    module
        (vector, output of each head on the grid) -> derivative by each.
    """
    sources = tail.sources
    leaves = [source.of({}).detach().clone() for source in sources]

    def pulled_back(vector: Tensor, *given: Tensor) -> list[Tensor]:
        return list(torch.func.vjp(lambda *u: tail.on_leaves(dict(zip(sources, u, strict=True))), *given)[1](vector))

    vector = torch.zeros_like(tail.logits())
    recorded: PullBack = make_fx(pulled_back)(vector, *leaves)
    return recorded


class _Sums:
    """Sums over classes, channels and taps of all layers, features divided by one scale."""

    def __init__(self, tail: Tail, dtype: torch.dtype, bias: bool) -> None:
        self.dtype, self.sources = dtype, tail.sources
        layers: dict[int, list[Source]] = {}
        for source in self.sources:
            layers.setdefault(id(source.layer), []).append(source)
        self.parts = [_FeaturePart(calls, dtype, bias) for calls in layers.values()]
        self.scale = torch.stack([part.scale for part in self.parts]).amax(0)

    def check_factors(self, wanted: Sequence[NormRequest]) -> None:
        """Check that the norm is a product where one of its factors is asked for."""
        factors = [request.part for request in wanted if request.part != "norm"]
        groups = self.parts[0].layer.groups
        if factors and (len(self.sources) > 1 or groups > 1):
            names = ", ".join(dict.fromkeys(repr(source.name) for source in self.sources))
            why = f"several outputs, of {names}" if len(self.sources) > 1 else f"a layer with groups={groups}, {names}"
            raise HeadError(f"the norm of {why}, is a sum of products, so that it has no {factors[0]} part")

    def __call__(self, deltas: dict[Source, Tensor], request: NormRequest) -> Tensor:
        """The p-th power of a norm, (N, h, w), or of one of its factors."""
        if request.part == "label":
            return power(deltas[self.sources[0]].abs(), request.p).sum(1)
        if request.part == "feature":
            return self.parts[0].sums(request.p)[:, 0]
        return torch.stack([part.weighted(deltas, request.p, self.scale) for part in self.parts]).sum(0)


class _FeaturePart:
    """What one layer's kernel contributes to the p-th power of the norm."""

    def __init__(self, calls: Sequence[Source], dtype: torch.dtype, bias: bool) -> None:
        self.calls, self.dtype, self.bias = calls, dtype, bias
        self.layer: Geometry = geometry_of(calls[0].layer)
        if bias and not self.layer.bias:
            raise HeadError(f"the gradient of the bias was asked for, but layer {calls[0].name!r} has none")
        largest = torch.stack([call.features.abs().amax((0, 1, 2, 3)).to(dtype) for call in calls]).amax(0)
        self.scale = largest.clamp_min(1.0) if bias else torch.where(largest > 0, largest, 1.0)
        self.known: dict[float, Tensor] = {}

    def weighted(self, deltas: dict[Source, Tensor], p: float, scale: Tensor) -> Tensor:
        """Sum over groups of the label part's times the features' p-th powers, features divided by `scale`."""
        groups = self.layer.groups
        if len(self.calls) == 1:
            delta, sums = deltas[self.calls[0]], self.sums(p)
        else:
            delta, shares = _in_common(deltas, self.calls)
            sums = self._lifted(p, [share.to(self.dtype) for share in shares])
        labels = power(delta.abs(), p).unflatten(1, (groups, -1)).sum(2)
        return (labels * sums).sum(1) * (self.scale / scale) ** p

    def sums(self, p: float) -> Tensor:
        """Sums over taps and the channels of each group of |psi / scale|^p on the grid, of a layer that runs once.

        Returns
        -------
        Tensor (N, groups, h, w)
        """
        if p not in self.known:
            self.known[p] = self._sums(p)
        return self.known[p]

    def _sums(self, p: float) -> Tensor:
        (call,) = self.calls
        if call.mixing:
            return self._lifted(p, None)
        scale, sums = feature_sums(call.features, [p], self.dtype, groups=self.layer.groups)
        sums = sum_over_taps(sums, self.layer, call.output.shape[2:]) * (scale / self.scale).pow(p)[:, None, None, None]
        sums = sums.to(self.dtype)
        if self.bias:
            sums = sums + self.scale.pow(-p)
        return moved(sums, call.steps)

    def _lifted(self, p: float, shares: Sequence[Tensor] | None) -> Tensor:
        """The same of features that are resized on their way, or added up: tap by tap."""
        total: Tensor | None = None
        for maps in zip(*(self._taps(call) for call in self.calls), strict=True):
            arrived = [moved(one, call.steps) for one, call in zip(maps, self.calls, strict=True)]
            if shares is not None:
                arrived = [one * share for one, share in zip(arrived, shares, strict=True)]
            both = sum(arrived[1:], arrived[0])
            groups = 1 if both.shape[1] == 1 else self.layer.groups
            part = power(both.abs(), p).unflatten(1, (groups, -1)).sum(2)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _taps(self, call: Source) -> Sequence[Tensor]:
        size = call.output.shape[2:]
        features = call.features.to(self.dtype) / self.scale
        maps = list(taps(features, self.layer, size))
        if self.bias:
            maps.append((1 / self.scale).expand(len(features), 1, *size))
        return maps


def _in_common(deltas: dict[Source, Tensor], calls: Sequence[Source]) -> tuple[Tensor, list[Tensor]]:
    """Of label parts that are multiples of each other, the longest at each pixel, and how much of it each one is."""
    stacked = torch.stack([deltas[call] for call in calls])
    square = stacked.square().sum(2, keepdim=True)
    longest = square.argmax(0, keepdim=True)
    common = stacked.gather(0, longest.expand(1, *stacked.shape[1:]))[0]
    length = square.gather(0, longest)[0]
    shares = [(delta * common).sum(1, keepdim=True) / torch.where(length > 0, length, 1) for delta in stacked]
    for call, delta, share in zip(calls, stacked, shares, strict=True):
        if not is_traced() and bool(
            ((delta - share * common).square().sum(1, keepdim=True) > _PARALLEL**2 * length).any()
        ):
            raise HeadError(
                f"layer {call.name!r} runs {len(calls)} times and the classes of its outputs are weighted differently: "
                "the gradient of its one kernel is no outer product"
            )
    return common, shares


def moved_log2(norms: Tensor, steps: Sequence[Step]) -> Tensor:
    """Take log2 norms (N, S, h, w) the way of some steps, as norms; where nothing comes from, `LOG2_FLOOR`."""
    if not steps:
        return norms
    top = norms.amax((0, 2, 3), keepdim=True)
    linear = moved((norms - top).exp2(), steps)
    return (linear.clamp_min(0).log2() + top).clamp_min(LOG2_FLOOR)
