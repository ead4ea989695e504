"""Features and logits of a network's heads as results of its forward pass, without hooks.

Compilers and exporters do not see hooks. Here a twin of the network is made that shares every parameter and differs in
the heads, which keep their inputs and outputs; the network itself stays as it is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..schema.errors import HeadError
from .head import Plan

__all__ = ["TappedNetwork"]


class _Tap:
    """What a head's class is mixed with: keeps (input, output) of each call."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        self.kept.append((args[0] if args else kwargs["input"], output))  # type: ignore[attr-defined]
        return output


def _twin(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same module of another class, its parameters shared."""
    twin = object.__new__(kind)  # copy.copy is refused by parametrised layers
    twin.__dict__.update(module.__dict__)
    return twin


def _tapped(layer: nn.Module) -> nn.Module:
    kind = type(layer)
    twin = _twin(layer, type(f"Tapped{kind.__name__}", (_Tap, kind), {"__module__": __name__}))
    twin.kept = []  # type: ignore[assignment]
    return twin


def _with_taps(net: nn.Module, taps: dict[nn.Module, nn.Module]) -> nn.Module:
    """Copy the modules on the way to the layers and share all others."""
    twins = dict(taps)

    def twin_of(module: nn.Module) -> nn.Module:
        if module not in twins:
            twins[module] = module
            children = {name: None if one is None else twin_of(one) for name, one in module._modules.items()}
            if any(children[name] is not one for name, one in module._modules.items()):
                twins[module] = _twin(module, type(module))
                twins[module]._modules = children
        return twins[module]

    return twin_of(net)


class TappedNetwork(nn.Module):
    """A network that returns inputs and outputs of its heads beside its own result.

    Parameters
    ----------
    net : nn.Module
        Shares its parameters with this one.
    plan : Plan
        ``head.plan`` of a `gradunc_viz.capture` of the same network.

    Raises
    ------
    HeadError
        From the forward pass, if a head does not run as often as it did then: the network holds it in a way that a
        copy of its modules does not follow.
    """

    def __init__(self, net: nn.Module, plan: Plan) -> None:
        super().__init__()
        names = dict(nn.Module.named_modules(net))
        self.calls = dict(plan.counts)
        self.taps = nn.ModuleList(_tapped(names[name]) for name in self.calls)
        self.net = _with_taps(net, dict(zip((names[name] for name in self.calls), self.taps, strict=True)))

    def forward(self, x: Tensor) -> tuple[Any, dict[tuple[str, int], tuple[Tensor, Tensor, nn.Module]]]:
        """The network's own result, and of each call of a head (input, output, layer).

        A linear layer's rows are not arranged, a missing batch axis stays so.
        """
        taps: Any = self.taps
        for tap in taps:
            tap.kept.clear()
        try:
            result = self.net(x)
            kept = [list(tap.kept) for tap in taps]
        finally:
            for tap in taps:
                tap.kept.clear()
        found: dict[tuple[str, int], tuple[Tensor, Tensor, nn.Module]] = {}
        for (name, calls), tap, of_tap in zip(self.calls.items(), taps, kept, strict=True):
            if len(of_tap) != calls:
                raise HeadError(f"layer {name!r} ran {len(of_tap)} times in a copy of the network, expected {calls}")
            found |= {(name, call): (*pair, tap) for call, pair in enumerate(of_tap)}
        return result, found
