"""The graph of a TorchScript module as steps that Python runs: operators of PyTorch, branches and loops."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .operators import touches_files

__all__ = ["Block", "Step", "Unsupported", "overload_of", "run_of", "steps_of"]


class Unsupported(Exception):
    """A graph holds what cannot be run from here; the text says what, after "the script"."""


class Kernels(Protocol):
    """What of a graph are layers and constants: by name, so that a copy of the network has its own.

    Attributes
    ----------
    own
        Name of the value that is the network.
    """

    own: str

    def layer(self, node: Any) -> tuple[str, Any] | None:
        """Dotted name of the layer that a node is, and the value that enters it."""

    def kept(self, value: Any, tensor: Tensor) -> tuple[str, str]:
        """Dotted name of the module that holds a constant tensor, and the tensor's name there."""


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes
    ----------
    run
        From all values that are known, by name, to those of `outputs`.
    outputs
        Names of what it makes.
    dead
        Names of values that nothing needs after it.
    """

    run: Callable[[Mapping[str, Any]], Sequence[Any]]
    outputs: tuple[str, ...]
    dead: tuple[str, ...]


class Block:
    """Steps in a row.

    Parameters
    ----------
    inputs, outputs
        Names of values.
    steps
    """

    def __init__(self, inputs: Sequence[str], steps: Sequence[Step], outputs: Sequence[str]) -> None:
        self.inputs, self.steps, self.outputs = tuple(inputs), tuple(steps), tuple(outputs)

    def __call__(self, around: Mapping[str, Any], *given: Any) -> list[Any]:
        """Run it, with the values around it at hand."""
        values = {**around, **dict(zip(self.inputs, given, strict=True))}
        del given
        for step in self.steps:
            values.update(zip(step.outputs, step.run(values), strict=True))
            for name in step.dead:
                del values[name]
        return [values[name] for name in self.outputs]


def steps_of(block: Any, kernels: Kernels) -> tuple[list[Step], list[str]]:
    """Steps of a block of a graph, and the names of what it returns.

    Raises
    ------
    Unsupported
        If a node is none of these.
    """
    nodes, outputs = list(block.nodes()), [value.debugName() for value in block.outputs()]
    last = {name: place for place, node in enumerate(nodes) for name in _named(node)}
    dying: dict[int, list[str]] = {}
    for place, node in enumerate(nodes):
        for value in node.outputs():
            name = value.debugName()
            if name not in outputs:
                dying.setdefault(max(place, last.get(name, place)), []).append(name)
    steps = []
    for place, node in enumerate(nodes):
        made = tuple(value.debugName() for value in node.outputs())
        steps.append(Step(run_of(node, kernels), made, tuple(dying.get(place, ()))))
    return steps, outputs


def _named(node: Any) -> set[str]:
    """Names of all values that a node, or what is inside it, asks for."""
    found = {value.debugName() for value in node.inputs()}
    for block in node.blocks():
        found |= {value.debugName() for value in block.outputs()}
        for inner in block.nodes():
            found |= _named(inner)
    return found


def run_of(node: Any, kernels: Kernels) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """From all values that are known, by name, to those that a node makes."""
    kind, names = node.kind(), [value.debugName() for value in node.inputs()]
    if kind == "prim::Constant":
        return _constant(node, kernels)
    if kind == "prim::If":
        return _branches(node, names[0], kernels)
    if kind == "prim::Loop":
        return _loop(node, names, kernels)
    if kind == "prim::GetAttr":
        attribute = node.s("name")
        return lambda values: (_attribute(values[names[0]], attribute),)
    if kind == "prim::SetAttr":
        attribute = node.s("name")

        def assign(values: Mapping[str, Any]) -> Sequence[Any]:
            setattr(values[names[0]], attribute, values[names[1]])
            return ()

        return assign
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        return lambda values: list(values[names[0]])
    called = kernels.layer(node)
    if called is not None:
        layer, entered, own = called[0], called[1].debugName(), kernels.own
        return lambda values: (values[own].get_submodule(layer)(values[entered]),)
    function = _python_function(node) or _operator(node)
    count = node.outputsSize()

    def call(values: Mapping[str, Any]) -> Sequence[Any]:
        result = function(*(values[name] for name in names))
        return (result,) if count == 1 else () if count == 0 else result

    return call


def _attribute(owner: Any, name: str) -> Any:
    """An attribute, also where a module has a method of that name."""
    if isinstance(owner, nn.Module):
        for table in (owner._parameters, owner._buffers, owner._modules):
            if name in table:
                return table[name]
    return getattr(owner, name)


def _constant(node: Any, kernels: Kernels) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    output = node.output()
    if output.type().kind() == "FunctionType":  # its calls are written out
        return lambda values: (None,)
    value = output.toIValue()
    if isinstance(value, Tensor):
        owner, name = kernels.kept(output, value)
        own = kernels.own
        return lambda values: (_attribute(values[own].get_submodule(owner), name),)
    return lambda values: (value,)


def _branches(node: Any, condition: str, kernels: Kernels) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    then, otherwise = (Block([], *steps_of(block, kernels)) for block in node.blocks())
    return lambda values: (then if values[condition] else otherwise)(values)


def _loop(node: Any, names: Sequence[str], kernels: Kernels) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    (inner,) = node.blocks()
    body = Block([value.debugName() for value in inner.inputs()], *steps_of(inner, kernels))
    count, condition, *first = names

    def run(values: Mapping[str, Any]) -> Sequence[Any]:
        carried = [values[name] for name in first]
        turn, goes_on = 0, values[condition]
        while goes_on and turn < values[count]:
            goes_on, *carried = body(values, turn, *carried)
            turn += 1
        return carried

    return run


def _raised(*what: Any) -> Any:
    raise RuntimeError(str(what[0]))


def _tuple(*items: Any) -> tuple[Any, ...]:
    return items


def _list(*items: Any) -> list[Any]:
    return list(items)


def _dict(*items: Any) -> dict[Any, Any]:
    return dict(zip(items[::2], items[1::2], strict=True))


def _part(items: Any, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return items[start:end:step]


def _nothing(*_: Any) -> None:
    return None


def _same(value: Any, *_: Any) -> Any:
    return value


def _number(value: Any, *_: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "prim::DictConstruct": _dict,
    "prim::ListConstruct": _list,
    "prim::RaiseException": _raised,
    "prim::TupleConstruct": _tuple,
    "prim::TupleIndex": operator.getitem,
    "prim::TupleSlice": _part,
    "prim::Uninitialized": _nothing,
    "prim::unchecked_cast": _same,
    "prim::unchecked_unwrap_optional": _same,
    "aten::_unwrap_optional": _same,
    "aten::__contains__": operator.contains,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__not__": operator.not_,
    "aten::Bool": bool,
    "aten::Float": float,
    "aten::FloatImplicit": float,
    "aten::Int": int,
    "aten::IntImplicit": int,
    "aten::ScalarImplicit": _number,
    "aten::format": str.format,
    "aten::warn": _nothing,
    "prim::Print": _nothing,
    "prim::NumToTensor": torch.as_tensor,
}
"""What is no operator of tensors, or of values of any type."""

_ON_CONTAINERS: Mapping[str, Callable[..., Any]] = {
    "aten::__getitem__": operator.getitem,
    "aten::_set_item": operator.setitem,
    "aten::add": operator.add,
    "aten::append": list.append,
    "aten::copy": _list,
    "aten::dict": dict,
    "aten::extend": list.extend,
    "aten::insert": list.insert,
    "aten::items": lambda items: list(items.items()),
    "aten::keys": lambda items: list(items.keys()),
    "aten::len": len,
    "aten::list": list,
    "aten::mul": operator.mul,
    "aten::pop": list.pop,
    "aten::reverse": list.reverse,
    "aten::slice": _part,
    "aten::values": lambda items: list(items.values()),
}
"""Of lists and dictionaries, which operators of PyTorch know by the type of what they hold."""


def _python_function(node: Any) -> Callable[..., Any] | None:
    kind = node.kind()
    if kind in _FUNCTIONS:
        return _FUNCTIONS[kind]
    first = next((value.type().kind() for value in node.inputs()), "")
    return _ON_CONTAINERS.get(kind) if first in ("ListType", "DictType", "StringType", "TupleType") else None


def overload_of(node: Any) -> Any:
    """The operator that a node calls.

    Raises
    ------
    Unsupported
        If it is none that Python can call.
    """
    space, _, name = node.kind().partition("::")
    overload = node.schema().partition("(")[0].partition(".")[2] or "default"
    try:
        return getattr(getattr(getattr(torch.ops, space), name), overload)
    except (AttributeError, RuntimeError):
        raise Unsupported(f"calls {node.kind()}, which cannot be followed") from None


def _operator(node: Any) -> Callable[..., Any]:
    space, _, name = node.kind().partition("::")
    if touches_files(space, name):
        raise Unsupported(f"calls {node.kind()}, which reads or writes files")
    function = overload_of(node)
    arguments = function._schema.arguments
    named = [argument.name if argument.kwarg_only else "" for argument in arguments]

    def call(*given: Any) -> Any:
        keywords = {name: value for name, value in zip(named, given, strict=False) if name}
        return function(*given[: len(given) - len(keywords)], **keywords)

    return call
