"""Features and logits of a network's head as results of its forward pass, without hooks.

Compilers and exporters do not see hooks. Here a twin of the network is made that shares every parameter and differs in
one layer, the head, which keeps its input and output; the network itself stays as it is.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from ..schema.errors import HeadError
from .head import Plan

__all__ = ["TappedNetwork"]


class _Tap:
    """What the head's class is mixed with: keeps (input, output) of each call."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        self.kept.append((args[0] if args else kwargs["input"], output))  # type: ignore[attr-defined]
        return output


def _tapped(layer: nn.Module) -> nn.Module:
    kind = type(layer)
    twin = copy.copy(layer)
    twin.__class__ = type(f"Tapped{kind.__name__}", (_Tap, kind), {"__module__": __name__})
    twin.kept = []  # type: ignore[assignment]
    return twin


def _with_tap(net: nn.Module, layer: nn.Module, tap: nn.Module) -> nn.Module:
    """Copy the modules on the way to the layer and share all others."""
    twins: dict[nn.Module, nn.Module] = {layer: tap}

    def twin_of(module: nn.Module) -> nn.Module:
        if module not in twins:
            twins[module] = module
            children = {name: None if one is None else twin_of(one) for name, one in module._modules.items()}
            if any(children[name] is not one for name, one in module._modules.items()):
                twins[module] = copy.copy(module)
                twins[module]._modules = children
        return twins[module]

    return twin_of(net)


class TappedNetwork(nn.Module):
    """A network that returns output and input of its head in place of its own result.

    Parameters
    ----------
    net : nn.Module
        Shares its parameters with this one.
    plan : Plan
        ``head.plan`` of a `gradunc_viz.capture` of the same network.

    Raises
    ------
    HeadError
        From the forward pass, if the head does not run as often as it did then: the network holds it in a way that a
        copy of its modules does not follow.
    """

    def __init__(self, net: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.tap = _tapped(plan.layer)
        self.net = _with_tap(net, plan.layer, self.tap)
        self.name, self.index, self.calls = plan.name, plan.index, plan.calls

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw output and input of the head: a linear layer's rows are not arranged, a missing batch axis stays so."""
        self.tap.kept.clear()  # type: ignore[operator, union-attr]
        try:
            self.net(x)
            kept: list[tuple[Tensor, Tensor]] = list(self.tap.kept)  # type: ignore[arg-type]
        finally:
            self.tap.kept.clear()  # type: ignore[operator, union-attr]
        if len(kept) != self.calls:
            raise HeadError(
                f"layer {self.name!r} ran {len(kept)} times in a copy of the network, expected {self.calls}"
            )
        features, logits = kept[self.index]
        return logits, features
