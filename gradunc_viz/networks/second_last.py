r"""The convolution before the head, for the gradient with respect to its kernel.

For a head :math:`\psi = f(o)`, :math:`o = K_2 * z`, :math:`\phi = K \psi` whose kernel :math:`K` is 1 x 1, and with
:math:`f` a function of every number by itself (a norm with running statistics, an activation, a dropout that is
switched off), the gradient of a pixel's loss is an outer product here as well. What it takes besides logits and
:math:`K` is :math:`z` and the derivative :math:`f'(o)`.

Nothing is known of :math:`f` by its name. While the network runs, what it does between the two layers is recorded by
automatic differentiation, and two vector-Jacobian products tell the derivative and whether it is one of every number
by itself: of anything that mixes pixels or channels, one is not a multiple of the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..schema.errors import HeadError, brief
from .head import Head, geometry_of, kind_of
from .network import Network
from .queries import QueryHead
from .tracing import Ancestry, ancestry
from .traversal import weights_of

__all__ = ["Hidden", "SecondLast", "kernel_of"]


@dataclasses.dataclass(frozen=True, eq=False)
class Hidden:
    """The layer before the head, of a batch.

    Attributes
    ----------
    name, layer
        The layer.
    features : Tensor (N, D, h', w')
        What entered it, z.
    slope : Tensor (N, K, h, w)
        f'(o), the derivative of what enters the head by what left the layer.
    kernel : Tensor (C, K)
        Of the head, all channels.
    """

    name: str
    layer: nn.Module
    features: Tensor
    slope: Tensor
    kernel: Tensor

    def image(self, index: int) -> Hidden:
        """The same of one image of the batch."""
        some = slice(index, index + 1)
        return dataclasses.replace(self, features=self.features[some], slope=self.slope[some])


def kernel_of(name: str, layer: nn.Module) -> Tensor:
    """Kernel of a head as a matrix (C, K).

    Raises
    ------
    HeadError
        If it has more than one tap, or groups, or keeps its kernel in a way that is not known here.
    """
    geometry = geometry_of(layer)
    if not geometry.pointwise or geometry.groups != 1:
        raise HeadError(
            f"{_REFUSED}: the head {name!r}, {layer}, is no 1 x 1 convolution of one group, and what is behind it does "
            "not factorise"
        )
    weight: Tensor | None = getattr(layer, "weight", None)
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) or weight is None:
        raise HeadError(f"{_REFUSED}: the kernel of the head {name!r}, a {type(layer).__name__}, is not known")
    matrix = weight.detach().flatten(1)
    return matrix.T if isinstance(layer, nn.ConvTranspose2d) else matrix


_REFUSED = "no gradient of the second-to-last layer (pgn2)"


class _Begin(torch.autograd.Function):
    """Makes a tensor the start of what is recorded: the very same, which whoever watches the pass knows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, switch: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


@dataclasses.dataclass
class _Pass:
    """What one forward pass left at the two layers."""

    features: Tensor | None = None  # what entered the first
    version: int = 0  # of them, then
    start: Any = None  # of what was recorded: the output of the first
    end: Tensor | None = None  # what entered the second
    hidden_calls: int = 0
    head_calls: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """Which layer comes before the head."""

    name: str
    layer: nn.Module
    head: str
    head_layer: nn.Module
    head_call: int


class SecondLast:
    """Keeps what enters the layer before a network's head, and the derivative of what stands between them.

    Parameters
    ----------
    network : Network
        What is run; nothing of it is changed.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.found: _Found | None = None
        self.known: set[tuple[Any, ...]] = set()  # what stood between the layers, and is a function of each number

    def __call__(self, run: Callable[[], Head]) -> Head:
        """Run a network once, and fill in ``head.hidden`` of what it returns.

        Parameters
        ----------
        run : callable
            One forward pass of the network, by whatever means.

        Raises
        ------
        HeadError
            If there is no layer before the head, or several, or the gradient with respect to its kernel does not
            factorise; the text says why.
        """
        with torch.inference_mode(False):  # in which nothing is recorded
            return self._run(run)

    def _run(self, run: Callable[[], Head]) -> Head:
        known = self.found
        if known is not None:
            with _recorded(self.network.net, known) as kept:
                head = run()
            if _key(head) == (known.head, known.head_call):
                head.hidden = self._hidden(known, kept, head)
                return head
        self.found = self._find(run)
        with _recorded(self.network.net, self.found) as kept:
            head = run()
        head.hidden = self._hidden(self.found, kept, head)
        return head

    def _find(self, run: Callable[[], Head]) -> _Found:
        """The layer before the head, by what ran."""
        net = self.network.net
        if any(weight.is_inference() for weight in weights_of(net)):
            raise HeadError(f"{_REFUSED}: the network was made in inference mode, in which nothing can be recorded")
        head = run()
        if isinstance(head, QueryHead):
            raise HeadError(
                f"{_REFUSED}: the network returns classes and masks of queries, and layers before these have scores of "
                "their own, such as pgn_oh_p2_embedding and pgn_oh_p2_decoder"
            )
        name, call = _key(head)
        with ancestry(net, self.network.output) as seen:
            run()
        layers = dict(nn.Module.named_modules(net))
        kernel_of(name, layers[name])
        before = _one_before(seen, (name, call))
        layer = layers[before]
        if seen.unlike[before, 0]:
            raise HeadError(f"{_REFUSED}: layer {before!r} {seen.unlike[before, 0]}")
        _check_alone(net, before, layer, seen)
        return _Found(before, layer, name, layers[name], call)

    def _hidden(self, found: _Found, kept: _Pass, head: Head) -> Hidden:
        """What a recorded pass tells of both layers.

        Raises
        ------
        HeadError
            If what stands between them is no function of every number by itself.
        """
        between = f"between {found.name!r} and the head {found.head!r}"
        if kept.hidden_calls != 1:
            raise HeadError(f"{_REFUSED}: layer {found.name!r} ran {kept.hidden_calls} times in a pass; expected once")
        if kept.features is None or kept.end is None or not kept.end.requires_grad:
            raise HeadError(f"{_REFUSED}: no gradient passes {between}")
        if _version(kept.features) != kept.version:
            raise HeadError(f"{_REFUSED}: the input of {found.name!r} is overwritten in place after the layer ran")
        rows = _has_rows(found.layer)
        if rows and not _has_rows(found.head_layer):
            raise HeadError(f"{_REFUSED}: the rows of {found.name!r} are laid out as a map {between}")
        with torch.enable_grad():
            end = head.plan.arrange(kept.end)
        if not _same(end, head.features):
            raise HeadError(f"{_REFUSED}: what enters the head {found.head!r} is put together of several passes")

        def arranged(tensor: Tensor) -> Tensor:
            return head.plan.arrange(tensor) if rows else tensor if tensor.ndim == 4 else tensor.unsqueeze(0)

        def pulled_back(vector: Tensor) -> Tensor:
            try:
                (by_start,) = torch.autograd.grad(end, [kept.start], vector, retain_graph=True)
            except RuntimeError as error:  # what it needs is overwritten in place, or has no derivative
                raise HeadError(
                    f"{_REFUSED}: no derivative is known of what stands {between}: {brief(error)}"
                ) from error
            return arranged(by_start)

        slope = pulled_back(torch.ones((), dtype=end.dtype, device=end.device).expand_as(end))
        operations = _operations(end, kept.start)
        names = ", ".join(dict.fromkeys(name for name, *_ in operations))
        if not bool(slope.sum().isfinite()) and not bool(slope.isfinite().all()):
            raise HeadError(f"{_REFUSED}: the derivative of what stands {between} is not finite everywhere: {names}")
        kind = (tuple(end.shape), end.dtype, *operations)
        if kind not in self.known:
            vector = _generic(end)
            if slope.shape != end.shape or not _close(pulled_back(vector), slope * vector):
                raise HeadError(
                    f"{_REFUSED}: {between} stands more than a function of every number by itself, which mixes pixels "
                    f"or channels, or moves them: {names}"
                )
            self.known.add(kind)
        return Hidden(found.name, found.layer, arranged(kept.features), slope, kernel_of(found.head, found.head_layer))


def _key(head: Head) -> tuple[str, int]:
    """Name of the head, and which of its calls."""
    tail = head.tail
    if tail is None:
        return head.plan.name, head.plan.index
    source, *others = tail.sources
    if others:
        names = ", ".join(dict.fromkeys(repr(one.name) for one in tail.sources))
        raise HeadError(f"{_REFUSED}: the logits are made of several outputs, of {names}")
    if source.steps or source.rows:
        raise HeadError(f"{_REFUSED}: the output of the head {source.name!r} is moved before logits are made of it")
    return source.name, source.call


def _one_before(seen: Ancestry, head: tuple[str, int]) -> str:
    if head not in seen.before:
        raise HeadError(f"{_REFUSED}: the head {head[0]!r} did not run when the network ran once more")
    if seen.output != {head}:
        others = " and ".join(sorted({repr(name) for name, _ in seen.output - {head}})) or "no layer"
        raise HeadError(
            f"{_REFUSED}: the network's output is made, besides that of the head {head[0]!r}, of the output of {others}"
        )
    before = sorted(seen.before[head])
    if len(before) != 1:
        names = " and ".join(sorted({repr(name) for name, _ in before})) or "no layer"
        raise HeadError(
            f"{_REFUSED}: what enters the head {head[0]!r} is made of the output of {names}; expected one layer"
        )
    return before[0][0]


def _check_alone(net: nn.Module, name: str, layer: nn.Module, seen: Ancestry) -> None:
    """Check that a kernel serves one convolution, once, and has one group."""
    geometry = geometry_of(layer)
    if geometry.groups != 1:
        raise HeadError(
            f"{_REFUSED}: layer {name!r} has groups={geometry.groups}, and its gradient is a sum of products"
        )
    runs = sum(other == name for other, _ in seen.before)
    if runs != 1:
        raise HeadError(f"{_REFUSED}: layer {name!r} runs {runs} times, and its kernel has the sum of their gradients")
    own = {id(parameter) for parameter in nn.Module.parameters(layer)}
    for other, module in nn.Module.named_modules(net):
        inside = other == name or other.startswith(f"{name}.")
        if not inside and any(id(parameter) in own for parameter in module._parameters.values()):
            raise HeadError(f"{_REFUSED}: layer {name!r} shares its weights with {other!r}")


@contextmanager
def _recorded(net: nn.Module, found: _Found) -> Iterator[_Pass]:
    """Keep what a forward pass leaves at both layers, and how the second's input comes of the first's output."""
    kept = _Pass()
    grad_mode = torch.is_grad_enabled()

    def begin(root: nn.Module, args: Any) -> None:
        vars(kept).update(vars(_Pass()))

    def leave(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        kept.hidden_calls += 1
        if output.is_inference():  # nothing of it can be recorded
            return
        kept.features = (args[0] if args else kwargs["input"]).detach()
        kept.version = _version(kept.features)
        torch.set_grad_enabled(True)
        begun = _Begin.apply(output, torch.ones((), requires_grad=True))
        kept.start = torch.autograd.graph.get_gradient_edge(begun)

    def enter(layer: nn.Module, args: Any, kwargs: Any) -> Any:
        kept.head_calls += 1
        if kept.head_calls != found.head_call + 1:
            return None
        torch.set_grad_enabled(False)
        kept.end = args[0] if args else kwargs["input"]
        # what comes behind is not recorded
        end = kept.end.detach()
        return ((end, *args[1:]), kwargs) if args else (args, {**kwargs, "input": end})

    handles = [
        net.register_forward_pre_hook(begin, prepend=True),
        found.layer.register_forward_hook(leave, with_kwargs=True, prepend=True),
        found.head_layer.register_forward_pre_hook(enter, with_kwargs=True),
    ]
    try:
        yield kept
    finally:
        torch.set_grad_enabled(grad_mode)
        for handle in handles:
            handle.remove()


def _has_rows(layer: nn.Module) -> bool:
    kind = kind_of(layer)
    return kind is not None and kind.rows


def _version(tensor: Tensor) -> int:
    """How often a tensor was overwritten in place, where that is counted."""
    return 0 if tensor.is_inference() else tensor._version


def _same(mine: Tensor, features: Tensor) -> bool:
    return mine.shape == features.shape and (
        mine.data_ptr() == features.data_ptr() or torch.equal(mine.detach(), features)
    )


def _generic(like: Tensor) -> Tensor:
    """A vector that no function that mixes numbers maps to as many times itself as the vector of ones."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.ones((), dtype=torch.float32)
    for axis, length in enumerate(like.shape):
        shape = [1] * like.ndim
        shape[axis] = length
        signs = torch.randint(0, 2, (length,), generator=generator) * 2 - 1
        vector = vector * (signs * (1 + torch.rand(length, generator=generator))).view(shape)
    return vector.to(like)


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal up to rounding; never where they are not finite."""
    rough = 3e-2 if found.dtype in (torch.float16, torch.bfloat16) else 1e-4
    least = rough * 1e-3 * expected.abs().amax()
    return bool(((found - expected).abs() <= rough * expected.abs() + least).all())


def _operations(end: Tensor, start: Any) -> list[tuple[Any, ...]]:
    """What was recorded, from the end: names of operations, and the numbers among their arguments."""
    found: list[tuple[Any, ...]] = []
    seen, nodes = {start.node}, [end.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().split("::")[-1].split("Backward")[0]
        if not name.endswith("AccumulateGrad"):
            found.append((name, *_arguments(node)))
        nodes += [one for one, _ in node.next_functions]
    return found


def _arguments(node: Any) -> list[Any]:
    """Numbers and words that an operation was called with, such as the size of a window."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    values = [getattr(node, name, None) for name in names]
    return [repr(value) for value in values if isinstance(value, int | float | str | tuple)]
