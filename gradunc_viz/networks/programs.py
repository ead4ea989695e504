"""Programs as content: networks whose forward pass is a graph that a file holds, and no code of Python.

The weights of such a network do not say what is computed of them. Its graph does, and is told here by a digest that is
the same in every process and after every reading of a file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["program_digest", "programs_of"]

# names that PyTorch gives to classes it has read before, and addresses
_OF_THE_PROCESS = re.compile(r"___torch_mangle_\d+\.| at 0x[0-9a-fA-F]+")


def programs_of(net: nn.Module, name: str = "") -> Iterator[tuple[str, fx.GraphModule | torch.jit.ScriptModule]]:
    """Programs in a network, the network itself included, by dotted name; a script's parts belong to the script."""
    if isinstance(net, fx.GraphModule | torch.jit.ScriptModule):
        yield name, net
    if not isinstance(net, torch.jit.ScriptModule):
        for part, module in net.named_children():
            yield from programs_of(module, f"{name}.{part}" if name else part)


def program_digest(program: fx.GraphModule | torch.jit.ScriptModule) -> str:
    """Hash of what a program computes: operators, what enters each, constants, and attributes that are no weights.

    Weights and buffers are told by their names alone: their values are those of the state dict.
    """
    lines = _of_script(program) if isinstance(program, torch.jit.ScriptModule) else _of_graph(program)
    digest = hashlib.blake2b(digest_size=20)
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _of_graph(program: fx.GraphModule) -> Iterator[str]:
    held = program.state_dict()
    numbers = {node: ("node", number) for number, node in enumerate(program.graph.nodes)}
    for node in program.graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), numbers.__getitem__)
        yield f"{node.op} {_content(node.target)} {_content(args)} {_content(dict(kwargs))}"
        if node.op == "get_attr" and node.target not in held:
            owner, _, last = str(node.target).rpartition(".")
            constant = getattr(program.get_submodule(owner), last)
            if not isinstance(constant, nn.Module):  # a graph in the graph is a program itself
                yield _content(constant)


def _of_script(script: torch.jit.ScriptModule) -> Iterator[str]:
    schema = script.forward.schema  # type: ignore[attr-defined]
    yield _content([argument.default_value for argument in schema.arguments if argument.has_default_value()])
    graph = script.inlined_graph
    yield from _of_block(graph, {}, {next(iter(graph.inputs())).debugName(): script})


def _of_block(block: Any, numbers: dict[str, int], modules: dict[str, Any]) -> Iterator[str]:
    """Lines of a block and of the blocks in it; values are numbered, and modules found, as they are met."""

    def told(values: Any) -> str:
        return " ".join(
            f"{numbers.setdefault(value.debugName(), len(numbers))}:{_stable(value.type().annotation_str)}"
            for value in values
        )

    yield f"({told(block.inputs())}"
    for node in block.nodes():
        schema = node.schema() if node.kind().partition("::")[0] != "prim" else ""
        yield f"{node.kind()} {schema} {_attributes(node)} {told(node.inputs())} -> {told(node.outputs())}"
        if node.kind() == "prim::GetAttr" and node.input().debugName() in modules:
            owner, name = modules[node.input().debugName()], node.s("name")
            if name in owner._modules:
                modules[node.output().debugName()] = owner._modules[name]
            elif name not in owner._parameters and name not in owner._buffers and name != "training":
                yield _content(getattr(owner, name))
        for inner in node.blocks():
            yield from _of_block(inner, numbers, modules)
    yield f"{told(block.outputs())})"


def _attributes(node: Any) -> str:
    if node.kind() == "prim::Constant":
        known = node.output().type().kind() != "FunctionType"  # its calls are written out
        return _content(node.output().toIValue()) if known else ""
    return _content({name: getattr(node, node.kindOf(name))(name) for name in node.attributeNames()})


def _content(value: Any) -> str:
    """A text that is the same for equal values alone, in every process."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        plain = plain.dequantize() if plain.is_quantized else plain
        content = plain.contiguous().reshape(-1).view(torch.uint8).numpy().data
        return f"{value.dtype} {tuple(value.shape)} {hashlib.blake2b(content, digest_size=20).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_content(key)}: {_content(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_content, value))}]"
    if isinstance(value, torch.ScriptObject):  # as the packed weights of quantised layers
        state = value.__getstate__() if value._has_method("__getstate__") else None  # type: ignore[attr-defined]
        return f"{_stable(str(value._type()))} {_content(state)}"  # type: ignore[attr-defined]
    if isinstance(value, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return _stable(repr(value))


def _stable(text: str) -> str:
    return _OF_THE_PROCESS.sub("", text)
