"""From operators that apply a kernel, as they stand in the graph of a program, to layers with these very weights.

A program (TorchScript, `torch.export`) has no layers any more: a convolution is an operator of two tensors. As a layer
again, and under the name that it had, it is found, named and hooked like that of any other network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["KERNEL_OPERATORS", "Computed", "Layers", "Weight", "arguments_of", "layer_of", "put"]

KERNEL_OPERATORS = frozenset(
    (
        "conv2d",
        "convolution",
        "_convolution",
        "_convolution_mode",
        "conv_transpose2d",
        "linear",
        "addmm",
        "mm",
        "bmm",
        "matmul",
    )
)
"""Names of the operators that are a layer where their matrix is a weight."""


class _Argument(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def default_value(self) -> Any: ...


class Computed(Exception):
    """A value is not known before an image is."""


@dataclass(frozen=True)
class Weight:
    """A weight of a program.

    Attributes
    ----------
    tensor
        The parameter itself, or what is computed of parameters and buffers alone, as by a weight norm.
    owner
        Dotted name of the module that it, or the first parameter it is computed of, belongs to.
    """

    tensor: Tensor
    owner: str


def arguments_of(schema: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an operator's call by name, those that were left out too."""
    arguments: Sequence[_Argument] = schema.arguments
    return {
        argument.name: args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        for place, argument in enumerate(arguments)
    }


def layer_of(operator: str, weight: Tensor, bias: Tensor | None, given: Mapping[str, Any]) -> nn.Module | None:
    """The layer that an operator is; None if it is of no kind that can be a head.

    Parameters
    ----------
    operator
        One of `KERNEL_OPERATORS`.
    weight, bias
        The layer gets these, and no copies.
    given
        All arguments by name: stride, padding, dilation, groups.
    """
    if not weight.is_floating_point():
        return None
    options: dict[str, Any] = {"bias": False, "device": "meta", "dtype": weight.dtype}
    layer: nn.Module
    if operator in ("linear", "addmm", "mm", "bmm", "matmul"):
        if weight.ndim != 2:
            return None
        layer = nn.Linear(weight.shape[1], weight.shape[0], **options)
    else:
        if weight.ndim != 4:
            return None
        transposed = operator == "conv_transpose2d" or bool(given.get("transposed", False))
        groups = int(given["groups"])
        outer, inner = weight.shape[0], weight.shape[1] * groups
        options |= {"groups": groups, "stride": _pair(given["stride"]), "dilation": _pair(given["dilation"])}
        options["padding"] = given["padding"] if isinstance(given["padding"], str) else _pair(given["padding"])
        kernel_size = (weight.shape[2], weight.shape[3])
        if transposed:
            options["output_padding"] = _pair(given["output_padding"])
            layer = nn.ConvTranspose2d(outer, inner, kernel_size, **options)
        else:
            layer = nn.Conv2d(inner, outer, kernel_size, **options)
    layer.weight = _parameter(weight)
    layer.bias = None if bias is None else _parameter(bias)
    return layer.eval()


def put(root: nn.Module, layer: nn.Module, owner: str, name: str) -> str:
    """Give a layer a place in a network, if possible that of the module which its weights belong to.

    Parameters
    ----------
    root
        The network.
    layer
        Its weights may be parameters of a module of the network.
    owner
        Dotted name of that module, as ``head`` of ``head.weight``.
    name
        Name at the root, where that module holds more than the layer.

    Returns
    -------
    str
        The layer's dotted name.
    """
    held = root.get_submodule(owner) if owner else root
    tensors = (*held._parameters.values(), *held._buffers.values())
    own = [tensor for tensor in tensors if tensor is not None]
    weights = [weight.data_ptr() for weight in layer.parameters()]
    plain = type(held) is not type(layer) and not held._modules and len(own) == len(weights)
    if not owner or not plain or any(tensor.data_ptr() not in weights for tensor in own):
        unused = next(one for one in (name, *(f"{name}_{n}" for n in range(1, 10_000))) if not hasattr(root, one))
        root.add_module(unused, layer)
        return unused
    above, _, last = owner.rpartition(".")
    root.get_submodule(above)._modules[last] = layer
    return owner


def _pair(numbers: Any) -> tuple[int, int]:
    pair = [int(number) for number in numbers] if isinstance(numbers, list | tuple) else [int(numbers)]
    return (pair[0], pair[-1])


def _parameter(tensor: Tensor) -> nn.Parameter:
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor.detach(), requires_grad=False)


class Layers:
    """Layers of a network by the weights and the settings that they are called with: one for all calls alike."""

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._names: dict[Any, str] = {}
        self._held: list[Any] = []  # so that no other tensor gets the identity of one

    def name_of(self, operator: str, weight: Weight, bias: Weight | None, given: Mapping[str, Any]) -> str | None:
        """Dotted name of the layer that an operator is; None if it is none."""
        settings = {key: value for key, value in given.items() if not isinstance(value, torch.Tensor)}
        tensors = (weight.tensor, None if bias is None else bias.tensor)
        key = (operator, *map(id, tensors), repr(sorted(settings.items())))
        if key not in self._names:
            layer = layer_of(operator, *tensors, given)
            if layer is None:
                return None
            self._held.extend(tensors)
            self._names[key] = put(
                self.root, layer, weight.owner, "_".join([*filter(None, weight.owner.split(".")), operator.strip("_")])
            )
        return self._names[key]
