"""Outputs of layers that are not the head, kept while a network runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..schema.errors import ModelError

__all__ = ["captured_layers", "check_layers"]


def check_layers(net: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Layers of a network by their dotted names.

    Raises
    ------
    ModelError
        If there is none of a name; the message offers the nearest.
    """
    modules = dict(nn.Module.named_modules(net))  # a network may call something else "modules"
    layers = {}
    for name in names:
        if name not in modules or not name:
            near = difflib.get_close_matches(name, modules, n=3, cutoff=0.3) or list(modules)[-3:]
            raise ModelError(
                f"layer {name!r}: {type(net).__name__} has no layer of this name; did you mean "
                f"{', '.join(map(repr, filter(None, near)))}?"
            )
        layers[name] = modules[name]
    return layers


@contextmanager
def captured_layers(net: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what leaves some layers in the last forward pass inside the context, (N, D, h, w) by name.

    It is a copy: what the network changes in place afterwards does not show.

    Raises
    ------
    ModelError
        If there is no such layer, or it does not run once in a pass, or returns something else than a map.
    """
    outputs: dict[str, list[Any]] = {name: [] for name in names}
    found: dict[str, Tensor] = {}
    if not outputs:
        yield found
        return

    def begin(*_: Any) -> None:
        for kept in outputs.values():
            kept.clear()

    def keep(kept: list[Any]) -> Any:
        def hook(_layer: nn.Module, _args: Any, output: Any) -> None:
            kept.append(output.detach().clone() if isinstance(output, Tensor) else output)

        return hook

    handles = [layer.register_forward_hook(keep(outputs[name])) for name, layer in check_layers(net, outputs).items()]
    handles.append(net.register_forward_pre_hook(begin))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
    for name, kept in outputs.items():
        if len(kept) != 1:
            raise ModelError(f"layer {name!r} ran {len(kept)} times in a forward pass; expected once")
        if not isinstance(kept[0], Tensor) or kept[0].ndim != 4:
            shape = tuple(kept[0].shape) if isinstance(kept[0], Tensor) else type(kept[0]).__name__
            raise ModelError(f"layer {name!r} returned {shape}; expected a map (N, D, h, w)")
        found[name] = kept[0]
