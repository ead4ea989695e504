"""What torch tells of any module, whatever the module calls its own attributes.

Published networks overwrite methods of `torch.nn.Module` with lists and settings of their own (``self.modules``,
``self.parameters``); methods are therefore looked up in the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["evaluating", "float_type", "in_channels", "modules_of", "weights_of"]


def modules_of(net: nn.Module) -> Iterator[nn.Module]:
    """A network and all modules in it, each once."""
    return nn.Module.modules(net)


def weights_of(net: nn.Module) -> Iterator[Tensor]:
    """Parameters, then buffers."""
    yield from nn.Module.parameters(net)
    yield from nn.Module.buffers(net)


def float_type(net: nn.Module) -> torch.dtype:
    """The type that a network computes in, and takes its input in: that of its first weight."""
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    return next((weight.dtype for weight in weights_of(net) if weight.dtype in kinds), torch.float32)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluate for the time being; every module gets its own mode back."""
    training = [module for module in modules_of(net) if module.training]
    if training:
        with suppress(NotImplementedError):  # a network from torch.export has one mode only
            type(net).eval(net)
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Reached(Exception):
    """Ends a forward pass at the first convolution."""


def in_channels(net: nn.Module, default: int = 3, *, usual: bool = True) -> int:
    """How many channels a network takes, as its first convolution says.

    Empty images of 3 channels, of as many as the convolution wants that they reach, and of other usual counts enter the
    network, and run no further than that. Where none is reached, nobody can tell, and it is `default`. With `usual`, a
    network whose first convolution by definition takes 3 is not even tried.
    """
    convolutions = [module for module in modules_of(net) if isinstance(module, _ConvNd) and module.in_channels]
    if not convolutions:
        return default
    first = convolutions[0].in_channels
    if usual and first == 3:
        return 3
    to_try = [4, 1, first, default, 3]
    tried = set()
    while to_try:
        count = to_try.pop()
        if count in tried:
            continue
        tried.add(count)
        arrived, wanted = _at_first_convolution(net, count, convolutions)
        if arrived and arrived == wanted:
            return count
        if arrived == count:
            to_try.append(wanted)
    return default


def _at_first_convolution(net: nn.Module, count: int, convolutions: list[_ConvNd]) -> tuple[int, int]:
    """Channels that arrive at the first convolution, and those that it takes; 0 if none is reached."""
    arrived = wanted = 0

    def stop(layer: _ConvNd, args: tuple[Tensor, ...]) -> None:
        nonlocal arrived, wanted
        if args and args[0].ndim > 2:
            arrived, wanted = args[0].shape[1], layer.in_channels
        raise _Reached

    weight = next(weights_of(net))
    images = torch.zeros(1, count, 64, 64, dtype=float_type(net), device=weight.device)
    hooks = [layer.register_forward_pre_hook(stop) for layer in convolutions]
    try:
        with torch.no_grad(), evaluating(net), suppress(Exception):  # a network may raise anything, and we do to end it
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return arrived, wanted
