"""TorchScript: its graph, run operator by operator, with convolutions and linear operators as layers again.

A `torch.jit.ScriptModule` runs inside PyTorch, where no hook and no function mode sees it. What it computes stands in
its graph, and the operators of the graph are those of PyTorch, so the graph can be run from here as well: traced or
scripted, with its branches and loops.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...schema.errors import ModelError, brief
from ..network import Network
from ..programs import program_digest
from ..traversal import evaluating, float_type
from .archives import opened
from .aten import KERNEL_OPERATORS, MODE, Computed, Layers, Weight, warn_of_training
from .graph import Block, Unsupported, overload_of, run_of, steps_of
from .operators import objection

__all__ = ["Scripted", "network_of_script", "torchscript_network"]


def torchscript_network(file: str) -> Network:
    """A module in a file that `torch.jit.save` wrote, see `gradunc_viz.networks.load.load_model`.

    Raises
    ------
    ModelError
        If it cannot be read, or its graph cannot be followed.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"model file {file} {'is no file' if path.exists() else 'does not exist'}")
    if not _is_script(file, path):
        raise ModelError(
            f"{file} holds no TorchScript: expected a file of torch.jit.save; weights alone are given as --weights, a "
            "program of torch.export as export:FILE"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # files there are all the same
            script = torch.jit.load(path, map_location="cpu")
    except Exception as error:  # of whatever version wrote it
        raise ModelError(f"{file} cannot be read as TorchScript: {brief(error)}") from error
    _check_operators(script.inlined_graph, file)
    return network_of_script(script, file)


def _check_operators(block: Any, file: str) -> None:
    """Check that all that a graph calls are operators of tensors.

    Raises
    ------
    ModelError
        Where one reads or writes files, or is not PyTorch's own.
    """
    for node in block.nodes():
        space, _, name = node.kind().partition("::")
        if against := objection(space, name):
            raise ModelError(f"{file} {against}: expected operators of tensors alone")
        for inner in node.blocks():
            _check_operators(inner, file)


def _is_script(file: str, path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with opened(file) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def network_of_script(script: torch.jit.ScriptModule, name: str | None = None) -> Network:
    """A network that computes what a script does, of layers that have the script's weights and their names.

    Raises
    ------
    ModelError
        If the script does what cannot be followed.
    """
    own_name = str(getattr(script, "original_name", type(script).__name__))
    own_name, name = name or own_name, name or f"the TorchScript of {own_name}"
    try:
        net = Scripted(script)
    except Unsupported as error:
        raise ModelError(f"{name} {error}: give the module that it was made of") from None
    except Exception as error:  # a graph of another version of torch may be anything
        raise ModelError(f"the graph of {name} cannot be read ({brief(error)})") from error
    warn_of_training(name, _calls(script.inlined_graph))
    network = Network(net, name=own_name)
    _check_same(script, net, network.in_channels, name)
    return network


def _calls(block: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Operators of a graph, with those of their arguments that are constants."""
    for node in block.nodes():
        for inner in node.blocks():
            yield from _calls(inner)
        operator = node.kind().removeprefix("aten::")
        if operator in MODE:
            names = (argument.name for argument in overload_of(node)._schema.arguments)
            values = zip(names, node.inputs(), strict=False)
            yield operator, {name: v.toIValue() for name, v in values if v.node().kind() == "prim::Constant"}


def _check_same(script: torch.jit.ScriptModule, net: nn.Module, channels: int, name: str) -> None:
    """Compare a script with the network made of it, on noise of the first size that it takes, if it takes any."""
    noise = torch.Generator().manual_seed(0)
    for size in (64, 224, 512):
        mode = evaluating(script) if hasattr(script, "training") else nullcontext()
        x = torch.rand(1, channels, size, size, generator=noise).to(float_type(net))
        try:
            with torch.no_grad(), mode:
                own = script(x)
        except Exception:  # it takes images of another size, or of more channels
            continue
        with torch.no_grad(), evaluating(net):
            mine = net(x)
        pairs = zip(_tensors(own), _tensors(mine), strict=True)
        if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in pairs):
            raise ModelError(f"{name}: run operator by operator, it returns other values than as a whole")
        return


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | tuple | list):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(part)


class Scripted(nn.Module):
    """What a script computes, operator by operator.

    Its modules, weights and their names are those of the script, whose very tensors it shares; a module that applies a
    convolution or a linear map is such a layer.

    Parameters
    ----------
    script
        In evaluation mode or not; traced modules are in the mode in which they were traced.

    Raises
    ------
    Unsupported
        If its graph holds what is no operator of PyTorch; the text says what.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._digest = program_digest(script)
        _copy(script, self, {})
        graph = script.inlined_graph
        _self, *inputs = graph.inputs()
        # names of the script's own modules are kept free
        self._given = [value.debugName() for value in inputs]
        self._defaults = [
            (argument.has_default_value(), argument.default_value)
            for argument in script.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        ]
        self._own = _self.debugName()
        objects: dict[str, tuple[Any, nn.Module, str]] = {self._own: (script, self, "")}
        _complete(graph, objects)
        self._graph = Block([self._own, *self._given], *steps_of(graph, _Kernels(self, self._own, objects)))

    def extra_repr(self) -> str:
        """What tells one script from another with the same weights."""
        return f"content {self._digest}"

    def forward(self, *images: Any) -> Any:
        """What the script's own ``forward`` returns."""
        given = list(images)
        for is_given, value in self._defaults[len(given) :]:
            if not is_given:
                raise TypeError(f"the script takes {len(self._defaults)} inputs ({', '.join(self._given)})")
            given.append(value)
        (result,) = self._graph({}, self, *given)
        return result


def _copy(script: Any, part: nn.Module, known: dict[int, Tensor]) -> None:
    """Give a module the weights and the modules of a script, and its mode."""
    part.training = bool(getattr(script, "training", False))  # one optimised for inference has no mode
    for name, tensor in script._parameters.items():
        if tensor is not None and id(tensor) not in known:
            held = isinstance(tensor, nn.Parameter)
            known[id(tensor)] = tensor if held else nn.Parameter(tensor, tensor.requires_grad)
        part.register_parameter(name, None if tensor is None else known[id(tensor)])  # type: ignore[arg-type]
    for name, tensor in script._buffers.items():
        part._buffers[name] = tensor
    for name, module in script._modules.items():
        part._modules[name] = nn.Module()
        _copy(module, part._modules[name], known)  # type: ignore[arg-type]


def _complete(block: Any, objects: dict[str, tuple[Any, nn.Module, str]]) -> None:
    """Follow every attribute that a graph asks for, and copy those that are no weights.

    `objects` is given each value that is a module: (in the script, in the copy, dotted name).
    """
    for node in block.nodes():
        if node.kind() == "prim::GetAttr" and node.input().debugName() in objects:
            script, part, path = objects[node.input().debugName()]
            name = node.s("name")
            if name in part._modules:
                place = f"{path}.{name}" if path else name
                objects[node.output().debugName()] = (script._modules[name], part._modules[name], place)  # type: ignore[assignment]
            elif name not in part._parameters and name not in part._buffers and name != "training":
                value = getattr(script, name)
                if isinstance(value, Tensor):
                    part._buffers[name] = value
                else:
                    part.__dict__[name] = value
        for inner in node.blocks():
            _complete(inner, objects)


class _Kernels:
    """Which nodes of a graph are layers, and where its constant tensors are kept."""

    def __init__(self, root: nn.Module, own: str, objects: Mapping[str, tuple[Any, nn.Module, str]]) -> None:
        self.root, self.own, self.objects, self.layers = root, own, objects, Layers(root)
        self.known: dict[str, Any] = {name: part for name, (_, part, _) in objects.items()}
        self.folding = False  # whether weights are being computed, where a matrix product is no layer
        self.constants: dict[str, tuple[str, str]] = {}

    def kept(self, value: Any, tensor: Tensor) -> tuple[str, str]:
        """Module and name of the buffer that holds a constant, so that it goes where the network goes."""
        name = value.debugName()
        if name not in self.constants:
            owner, last = self._place(name)
            part = self.root
            for step in owner.split(".") if owner else ():
                part = part._modules.setdefault(step, nn.Module().eval())  # type: ignore[assignment]
            part._buffers[last] = tensor
            self.constants[name] = (owner, last)
        return self.constants[name]

    @staticmethod
    def _place(name: str) -> tuple[str, str]:
        """Of ``self.head.weight`` in a frozen module: ``("head", "weight")``."""
        first, _, rest = name.partition(".")
        if first == "self" and rest:
            owner, _, last = rest.rpartition(".")
            return owner, last
        return "", f"constant_{name.replace('.', '_')}"

    def layer(self, node: Any) -> tuple[str, Any] | None:
        """Name of the layer that a node is, and the value that enters it; None if it is none."""
        operator = node.kind().partition("::")[2]
        if self.folding or node.kind() != f"aten::{operator}" or operator not in KERNEL_OPERATORS - {"bmm"}:
            return None
        overload = overload_of(node)
        values = dict(zip((argument.name for argument in overload._schema.arguments), node.inputs(), strict=False))
        entered, kernel, shift = self._parts(operator, values)
        try:
            if kernel is None:
                return None
            weight, bias = self._weight(kernel), None if shift is None else self._weight(shift, shift=True)
            given = {
                name: _constant(value)
                for name, value in values.items()
                if value not in (entered, kernel, shift) and name not in ("mat2", "other", "beta", "alpha")
            }
            plain = operator != "addmm" or (_constant(values["beta"]), _constant(values["alpha"])) == (1, 1)
        except Computed:
            return None
        name = self.layers.name_of(operator, weight, bias, given) if plain else None
        return None if name is None else (name, entered)

    @staticmethod
    def _parts(operator: str, values: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """What enters a layer, its weight and its bias; the latter None where there is none."""
        if operator == "addmm":
            return values["mat1"], _turned(values["mat2"]), values["self"]
        if operator in ("mm", "matmul"):
            return values["self"], _turned(values["mat2" if operator == "mm" else "other"]), None
        shift = values.get("bias")
        none = shift is None or (shift.node().kind() == "prim::Constant" and shift.type().kind() == "NoneType")
        return values["input"], values["weight"], None if none else shift

    def _weight(self, value: Any, *, shift: bool = False) -> Weight:
        """The weight that a value is, or is computed to be of parameters.

        Raises
        ------
        Computed
            If it depends on the image, or is a buffer: a fixed matrix is no layer's weight. In a frozen module both are
            constants, and taken for weights.
        """
        owners: list[str] = []
        self.folding = True
        try:
            with torch.no_grad():
                tensor = self._folded(value, owners)
        finally:
            self.folding = False
        if not (owners or shift) or not isinstance(tensor, Tensor):
            raise Computed
        return Weight(tensor, owners[0] if owners else "")

    def _folded(self, value: Any, owners: list[str]) -> Any:
        node, name = value.node(), value.debugName()
        if node.kind() == "prim::GetAttr" and node.input().debugName() in self.objects:
            _, part, path = self.objects[node.input().debugName()]
            if node.s("name") in part._parameters:
                owners.append(path)
        if node.kind() == "prim::Constant" and value.type().kind() == "TensorType":
            owners.append(self._place(name)[0])
        if name in self.known:
            for one in node.inputs():
                self._folded(one, owners)
            return self.known[name]
        if node.kind() == "prim::Param" or next(iter(node.blocks()), None) is not None:
            raise Computed
        for one in node.inputs():
            self._folded(one, owners)
        outputs = [output.debugName() for output in node.outputs()]
        self.known.update(zip(outputs, run_of(node, self)(self.known), strict=True))
        return self.known[name]


def _constant(value: Any) -> Any:
    node = value.node()
    if node.kind() == "prim::Constant":
        return node.output().toIValue()
    if node.kind() in ("prim::ListConstruct", "prim::TupleConstruct"):
        return [_constant(one) for one in node.inputs()]
    raise Computed


def _turned(value: Any) -> Any:
    """What a matrix is the transpose of; None if it is none."""
    node = value.node()
    inputs = list(node.inputs())
    if node.kind() == "aten::t":
        return inputs[0]
    if node.kind() == "aten::transpose":
        try:
            axes = sorted(_constant(one) for one in inputs[1:])
        except Computed:
            return None
        return inputs[0] if axes in ([0, 1], [-2, -1]) else None
    return None
