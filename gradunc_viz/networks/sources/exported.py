"""Programs of `torch.export`: their graph, with convolutions and linear operators as layers again."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from ...schema.errors import ModelError, brief
from ..network import Network
from ..preprocessing import Preprocessing
from .aten import KERNEL_OPERATORS, Computed, Layers, Weight, arguments_of, warn_of_training
from .operators import objection, touches_files
from .pt2 import check_program_file

__all__ = ["exported_network", "network_of_graph", "network_of_program", "with_layers"]


def exported_network(file: str) -> Network:
    """A program in a file that `torch.export.save` wrote, see `gradunc_viz.networks.load.load_model`.

    Raises
    ------
    ModelError
        If it cannot be read, or reading it would run code.
    """
    path = check_program_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            program = torch.export.load(path)
    except Exception as error:  # of whatever version wrote it
        raise ModelError(f"{file} cannot be read as a program of torch.export: {brief(error)}") from error
    _check_operators(program.graph_module, file, trusted=False)
    return network_of_program(program, file)


def network_of_program(program: ExportedProgram, name: str | None = None) -> Network:
    """A network that computes what an exported program does, of layers that have the program's weights.

    Raises
    ------
    ModelError
        As for `network_of_graph`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        graph = program.module()
    return network_of_graph(graph, name or "ExportedProgram")


def network_of_graph(graph: fx.GraphModule, name: str) -> Network:
    """A network of layers that share the weights of a graph of operators, as a program's ``module()`` is one.

    A program made for images of one size is given images of that size.

    Raises
    ------
    ModelError
        If it takes more than one image, or several at a time, or its graph holds what is no operator of tensors.
    """
    images = [node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder"]
    tensors = [image for image in images if isinstance(image, Tensor)]
    if len(images) != 1 or len(tensors) != 1 or tensors[0].ndim != 4:
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors) or "of unknown shape"
        raise ModelError(f"{name} takes {len(images)} inputs, {shapes}: expected one, images (N, channels, h, w)")
    count, channels, *size = (length if isinstance(length, int) else None for length in tensors[0].shape)
    if count not in (None, 1):
        raise ModelError(f"{name} takes {count} images at a time: expected one, or any number; export it for these")
    _check_operators(graph, name)
    warn_of_training(name, _calls(graph))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own way to copy a graph
        net = with_layers(fx.GraphModule(graph, copy.deepcopy(graph.graph)))
    # no modules, and none of what a graph holds
    if channels is not None:
        net.__dict__["config"] = types.SimpleNamespace(num_channels=channels)
    if count == 1:
        net.__dict__["largest_batch"] = 1
    whole = (size[0], size[1]) if size[0] is not None and size[1] is not None else None
    return Network(net, name=name, preprocessing=Preprocessing(size=whole))


def _calls(net: fx.GraphModule) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in net.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            yield _name(node), arguments_of(node.target._schema, node.args, node.kwargs)


def with_layers(net: fx.GraphModule) -> fx.GraphModule:
    """Put layers in place of the operators of a graph that apply a weight, and return it."""
    layers, known = Layers(net), dict[fx.Node, Any]()
    for node in list(net.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        operator = node.target.overloadpacket.__name__
        if operator not in KERNEL_OPERATORS or node.target.namespace != "aten":
            continue
        given = arguments_of(node.target._schema, node.args, node.kwargs)
        entered, kernel, shift = _parts(operator, given)
        try:
            weight, bias = _weight(net, kernel, known), None if shift is None else _weight(net, shift, known)
        except Computed:
            continue
        settings = {key: value for key, value in given.items() if not isinstance(value, fx.Node)}
        name = layers.name_of(operator, weight, bias, settings)
        if name is not None:
            with net.graph.inserting_before(node):
                called = net.graph.call_module(name, (entered,))
            called.meta = dict(node.meta)
            node.replace_all_uses_with(called)
            net.graph.erase_node(node)
    net.recompile()
    return net


def _parts(operator: str, given: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What enters a layer, its weight and its bias."""
    if operator == "addmm":
        scaled = given["beta"] != 1 or given["alpha"] != 1
        return given["mat1"], None if scaled else _turned(given["mat2"]), given["self"]
    if operator in ("mm", "bmm", "matmul"):
        kernel = given["other"] if operator == "matmul" else given["mat2"]
        return given["self"], _turned(_once(kernel) if operator == "bmm" else kernel), None
    return given["input"], given["weight"], given["bias"]


def _name(node: Any) -> str:
    """Name of the operator that a node calls."""
    return str(getattr(getattr(getattr(node, "target", None), "overloadpacket", None), "__name__", ""))


def _once(node: Any) -> Any:
    """The matrix that a batch of matrices repeats; None if they differ in shape."""
    shape = list(node.meta["val"].shape[-2:]) if "val" in node.meta else None
    while _name(node) in ("expand", "view", "reshape", "_unsafe_view", "unsqueeze", "clone"):
        node = node.args[0]
    known = "val" in getattr(node, "meta", {})
    return node if known and list(node.meta["val"].shape) == shape else None


def _turned(node: Any) -> Any:
    """What a matrix is the transpose of; None if it is none."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    name = _name(node)
    rest: list[Any] = list(node.args[1:])
    swaps: dict[str, list[Any]] = {"t": [], "transpose": [[0, 1], [1, 0], [-2, -1], [-1, -2]], "permute": [[[1, 0]]]}
    return node.args[0] if name in swaps and (rest == swaps[name] or rest in swaps[name]) else None


def _weight(net: nn.Module, node: Any, known: dict[fx.Node, Any]) -> Weight:
    """The weight that a node is, or is computed to be of parameters.

    Raises
    ------
    Computed
        If it depends on the image, or is a buffer: a fixed matrix is no layer's weight.
    """
    owners: list[str] = []

    def value_of(one: fx.Node) -> Any:
        if one.op == "get_attr":
            owner, _, last = str(one.target).rpartition(".")
            held = net.get_submodule(owner)
            if last in held._parameters:
                owners.append(owner)
            return getattr(held, last)
        if one.op != "call_function" or not callable(one.target):
            raise Computed
        if one not in known:
            args, kwargs = fx.map_arg((one.args, one.kwargs), value_of)
            known[one] = one.target(*args, **kwargs)
        else:
            fx.map_arg((one.args, one.kwargs), value_of)  # for the owners
        return known[one]

    if not isinstance(node, fx.Node):
        raise Computed
    with torch.no_grad():
        tensor = value_of(node)
    if not owners or not isinstance(tensor, Tensor):
        raise Computed
    return Weight(tensor, owners[0])


def _check_operators(net: fx.GraphModule, name: str, *, trusted: bool = True) -> None:
    """Check that all that a graph calls, or hands to what it calls, are operators of tensors; those inside it too.

    Raises
    ------
    ModelError
        Where a function of Python is called, of whatever module: a file may name any; where an operator reads or writes
        files, or, in a program that is not trusted, is not PyTorch's own.
    """
    for part in (module for module in net.modules() if isinstance(module, fx.GraphModule)):
        for called in _called(part.graph):
            if against := _objection(called, trusted):
                raise ModelError(f"{name} {against}: expected operators of tensors alone")


def _called(graph: fx.Graph) -> list[Any]:
    found: list[Any] = []
    for node in graph.nodes:
        found += [node.target] if node.op == "call_function" else []
        fx.node.map_aggregate((node.args, node.kwargs), found.append)
    # a device can be called, and does nothing then
    return [one for one in found if callable(one) and not isinstance(one, torch.device)]


def _objection(target: Any, trusted: bool) -> str:
    """What is wrong with what a graph calls; empty if nothing is."""
    if isinstance(target, torch._ops.OpOverload | torch._ops.HigherOrderOperator):
        space, name = target.namespace or "", getattr(target, "overloadpacket", target).__name__
        return "" if trusted and not touches_files(space, name) else objection(space, name)
    return "" if _is_function(target) else f"calls {target}, which is no operator of tensors"


def _is_function(target: Any) -> bool:
    module, plain = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    return (
        module in ("_operator", "math") and plain not in ("call", "attrgetter", "itemgetter", "methodcaller", "setitem")
    ) or (module == "torch" and plain.startswith("sym_"))
