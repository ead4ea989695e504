"""What an ONNX graph does last: the layer that makes its logits, and what comes behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ..kernels.geometry import Geometry
from ..schema.errors import HeadError, ModelError
from .replayed import unknown_layer

__all__ = ["Ending", "Step", "ending_of", "output_of"]

_TURNS = ([0, 3, 1, 2], [0, 2, 3, 1])
"""Permutations that bring channels to the front, and to the end."""
_NAMES = ("logits", "out", "main")
"""What libraries call the map that predictions are made of, beside auxiliary ones."""
_FLOATS = (1, 10, 11, 16)
"""`onnx.TensorProto` numbers of float32, float16, float64 and bfloat16."""

Repeat = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Step:
    """An operation behind the last layer.

    Attributes
    ----------
    made : str
        The tensor that it makes.
    channels_last : bool
        Whether that is (N, h, w, C).
    repeat : callable
        What it does, on (N, C, h, w), to get to a size.
    """

    made: str
    channels_last: bool
    repeat: Repeat


@dataclass(frozen=True)
class Ending:
    """How a graph ends.

    Attributes
    ----------
    output : str
        The tensor that comes of all steps.
    logits : str
        What leaves the last layer.
    geometry : Geometry
        Of the last layer; without inputs where that is not known.
    features : str
        What enters it; empty where that is not known.
    channels_last, rows : bool
        Whether `output`, or `logits` and `features`, are (N, h, w, channels).
    weight, bias : array or None
        Of the last layer, where they are constants.
    steps : tuple of Step
        What is done to the logits, in order.
    why : str
        Why the last layer is not known.
    """

    output: str
    logits: str
    geometry: Geometry
    features: str = ""
    channels_last: bool = False
    rows: bool = False
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    steps: tuple[Step, ...] = ()
    why: str = ""


def output_of(graph: Any, which: str | int | None = None) -> str:
    """Name of the graph's output that holds the logits.

    Parameters
    ----------
    graph : onnx.GraphProto
    which : str or int, optional
        Its name or place, where there are several.

    Raises
    ------
    ModelError
        If there is none, or several and it is not said which.
    """
    names = [one.name for one in graph.output]
    if which is not None:
        text = str(which)
        if text not in names and not (text.lstrip("-").isdigit() and -len(names) <= int(text) < len(names)):
            raise ModelError(f"output {text!r} is not among those of the graph: {', '.join(names)}")
        return text if text in names else names[int(text)]
    for floating in (True, False):
        some = [one.name for one in graph.output if _may_be_logits(one, floating)]
        named = [name for name in some if name in _NAMES] or some
        if len(named) == 1:
            return named[0]
        if named:
            raise ModelError(
                f"the graph has {len(named)} outputs that may be the logits, {', '.join(named)}: say which with "
                f"output=..., as in --output {named[0]}"
            )
    raise ModelError(f"the graph returns no map (N, C, h, w): {', '.join(names)}")


def _may_be_logits(value: Any, floating: bool) -> bool:
    """Whether an output may be a map of logits, or of classes that are made of them."""
    kind = value.type.tensor_type
    rank = len(kind.shape.dim) if kind.HasField("shape") else 4
    return (rank == 4 if floating else rank in (3, 4)) and (kind.elem_type in _FLOATS) == floating


def ending_of(graph: Any, output: str, head: str | None = None, opset: int = 17, channels_last: bool = False) -> Ending:
    """Follow a graph from its output back to the layer that makes the logits.

    Parameters
    ----------
    graph : onnx.GraphProto
    output : str
        Which of its outputs.
    head : str, optional
        Node of the layer, or the tensor that leaves it, where another is meant than the last one.
    opset : int
        Of the graph's operators.
    channels_last : bool
        Whether maps are (N, h, w, C) where nothing in the graph tells.

    Raises
    ------
    HeadError
        If the graph has no such node, or more than can be repeated stands behind it.
    ModelError
        If the graph returns classes, and it is not known what they are made of, or these are chosen from anything else.
    """
    nodes = _Graph(graph)
    if head is not None and not nodes.has(head):
        candidates = [node.name or node.output[0] for node in graph.node if node.op_type in _LAYERS]
        raise HeadError(f"{head!r} is no node and no tensor; the last candidates are {', '.join(candidates[-8:])}")
    node: Any = nodes.makers.get(output)
    logits, turned, passed = output, False, list[_Passed]()
    choice: _Passed | None = None
    while node is not None and not nodes.is_layer(node) and head not in (node.name, *node.output):
        if (behind := _behind(nodes, node, turned)) is not None:
            passed.append(behind)
        elif node.op_type == "Transpose" and nodes.attributes(node).get("perm") in _TURNS:
            turned = not turned
        elif node.op_type == "ArgMax" and not passed and not turned:
            output = node.input[0]
            choice = _Passed(node.output[0], _same, "ArgMax", nodes.attributes(node).get("axis", 0), turned)
        elif node.op_type not in ("Identity", "Cast", "Dropout"):
            break
        logits = node.input[0]
        node = nodes.makers.get(logits)
    layer, why = _layer(nodes, node)
    if head is not None and (layer is None or head not in (node.name, *node.output, *layer.names)):
        found = why or f"{_named(node)} does"
        raise HeadError(f"{head!r} does not make the logits of {output!r}, by resizing and the like: {found}")
    if layer is None and any(one.name == output and not _may_be_logits(one, True) for one in graph.output):
        raise ModelError(f"the graph returns classes, and it is not known what logits they are of: {why}")
    rows = channels_last if layer is None else layer.rows
    last = rows != turned
    for one in (*passed, *((choice,) if choice else ())):
        if not one.of_pixels(last != one.turned, opset):
            raise ModelError(
                f"{one.kind} {one.made!r} of the graph runs along axis {one.axis}, in opset {opset}: expected one over "
                "the classes of each pixel"
            )
    steps = tuple(Step(one.made, last != one.turned, one.repeat) for one in reversed(passed))
    if layer is not None:
        return layer.ending(output, logits, last, steps)
    return Ending(output, logits, unknown_layer(0, why), rows=rows, channels_last=last, steps=steps, why=why)


def _named(node: Any) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"


# --------------------------------------------------------------------------------------------------------------------
# behind the last layer


_OF_CLASSES: dict[str, Repeat] = {
    "Softmax": lambda values, size: values.softmax(1),
    "LogSoftmax": lambda values, size: values.log_softmax(1),
    "Sigmoid": lambda values, size: values.sigmoid(),
}


@dataclass(frozen=True)
class _Passed:
    """A node that is passed on the way back; `turned`: channels lie elsewhere behind it than in the output."""

    made: str
    repeat: Repeat
    kind: str
    axis: int | None
    turned: bool

    def of_pixels(self, channels_last: bool, opset: int) -> bool:
        """Whether it is over the classes of each pixel, if it is over any."""
        if self.kind not in ("Softmax", "LogSoftmax", "ArgMax"):
            return True
        if opset < 13 and self.kind != "ArgMax":  # over that axis and all behind it
            return channels_last and self.axis in (3, -1)
        return (-1 if self.axis is None else self.axis) in ((3, -1) if channels_last else (1, -3))


def _behind(graph: _Graph, node: Any, turned: bool) -> _Passed | None:
    """What a node does, where torch does the same."""
    said, kind = graph.attributes(node), node.op_type
    repeat = _OF_CLASSES.get(kind) or (_resizing(said) if kind == "Resize" else None)
    return None if repeat is None else _Passed(node.output[0], repeat, kind, said.get("axis"), turned)


def _resizing(said: Mapping[str, Any]) -> Repeat | None:
    """The interpolation of torch that does what a Resize does."""
    mode, places = said.get("mode", b"nearest"), said.get("coordinate_transformation_mode", b"half_pixel")
    if said.get("antialias") or said.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    if mode == b"linear" and places in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        return partial(_interpolated, mode="bilinear", align_corners=places == b"align_corners")
    if mode == b"nearest" and places == b"asymmetric" and said.get("nearest_mode") == b"floor":
        return partial(_interpolated, mode="nearest")
    return None


def _same(values: Tensor, size: tuple[int, int]) -> Tensor:
    return values


def _interpolated(values: Tensor, size: tuple[int, int], **how: Any) -> Tensor:
    return F.interpolate(values, size, **how)


# --------------------------------------------------------------------------------------------------------------------
# the last layer


class _Graph:
    """Nodes by what they make, and constants."""

    def __init__(self, graph: Any) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.names = {node.name for node in graph.node} | self.makers.keys()
        self._initializers = {one.name: one for one in graph.initializer}

    def has(self, name: str) -> bool:
        """Whether a node or a tensor is called so."""
        return bool(name) and name in self.names

    @staticmethod
    def attributes(node: Any) -> dict[str, Any]:
        """Attributes of a node, text as bytes."""
        from onnx.helper import get_attribute_value

        return {one.name: get_attribute_value(one) for one in node.attribute}

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a tensor that is the same for every input."""
        from onnx import numpy_helper

        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        node = self.makers.get(name)
        if node is not None and node.op_type == "Constant":
            value = self.attributes(node).get("value")
            return None if value is None else numpy_helper.to_array(value)
        if node is not None and node.op_type in ("Identity", "Cast", "DequantizeLinear"):
            found = self.constant(node.input[0])
            return found if node.op_type != "DequantizeLinear" or found is None else self._dequantized(node, found)
        return None

    def _dequantized(self, node: Any, values: np.ndarray) -> np.ndarray | None:
        scale, *zero = (self.constant(name) for name in node.input[1:])
        if scale is None:
            return None
        axis = self.attributes(node).get("axis", 1)
        shape = [-1 if place == axis % values.ndim else 1 for place in range(values.ndim)] if scale.ndim else []
        origin = 0 if not zero or zero[0] is None else zero[0].astype("f4").reshape(shape)
        return (values.astype("f4") - origin) * scale.astype("f4").reshape(shape)

    def is_layer(self, node: Any) -> bool:
        """Whether a node is a layer, or adds a bias to one."""
        return node.op_type in _LAYERS or (node.op_type == "Add" and self.biased(node) is not None)

    def biased(self, node: Any) -> tuple[Any, np.ndarray] | None:
        """A layer without bias to whose output a constant for each channel is added."""
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            layer, bias = self.makers.get(name), self.constant(other)
            if layer is None or bias is None or layer.op_type not in _LAYERS or len(layer.input) > 2:
                continue
            axis = -1 if layer.op_type == "MatMul" else -3
            if bias.ndim >= -axis and bias.shape[axis] == bias.size:
                return layer, bias.reshape(-1)
        return None


@dataclass(frozen=True)
class _Layer:
    """A last layer whose gradient has a closed form; `names` are those of its nodes and of what leaves it."""

    features: str
    geometry: Geometry
    weight: np.ndarray
    bias: np.ndarray | None
    names: tuple[str, ...]
    rows: bool = False

    def ending(self, output: str, logits: str, channels_last: bool, steps: tuple[Step, ...]) -> Ending:
        """Of a graph that ends in it."""
        given = (self.geometry, self.features, channels_last, self.rows, self.weight, self.bias)
        return Ending(output, logits, *given, steps)


_LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def _layer(graph: _Graph, node: Any) -> tuple[_Layer | None, str]:
    """The last layer, or why its gradient has no closed form here."""
    if node is None:
        return None, "no node of the graph makes them"
    biased = graph.biased(node) if node.op_type == "Add" else None
    sum_names = (node.name, *node.output)
    node, bias = biased or (node, None)
    names = (*sum_names, node.name, *node.output)
    kind, what = node.op_type, _named(node)
    if kind not in _LAYERS or kind == "Gemm":
        return None, f"{what} makes them; expected Conv, ConvTranspose or MatMul"
    weight = graph.constant(node.input[1])
    if weight is None:
        return None, f"the kernel of {what} is no constant"
    if bias is None and len(node.input) > 2 and node.input[2]:
        bias = graph.constant(node.input[2])
    if kind == "MatMul":
        if weight.ndim != 2:
            return None, f"{what} multiplies by {weight.shape}, expected a matrix"
        inputs, outputs = weight.shape
        geometry = Geometry(inputs, outputs, bias=bias is not None, name=f"{what} ({inputs} to {outputs})")
        return _Layer(node.input[0], geometry, weight.T[:, :, None, None], bias, names, rows=True), ""
    if weight.ndim != 4:
        return None, f"{what} has a kernel of {weight.shape}, expected two dimensions"
    transposed, said = kind == "ConvTranspose", graph.attributes(node)
    groups, size = said.get("group", 1), weight.shape[2:]
    dilation = tuple(said.get("dilations", (1, 1)))
    stride = tuple(said.get("strides", (1, 1)))
    top, left, bottom, right = said.get("pads", (0, 0, 0, 0))
    automatic = said.get("auto_pad", b"NOTSET").decode()
    if automatic.startswith("SAME"):
        if transposed or stride != (1, 1):
            return None, f"{what} has auto_pad {automatic} and stride {stride}"
        down, across = (d * (k - 1) for d, k in zip(dilation, size, strict=True))
        upper = automatic == "SAME_UPPER"
        top, left = (down // 2, across // 2) if upper else (down - down // 2, across - across // 2)
        bottom, right = down - top, across - left
    elif automatic == "VALID":
        top = left = bottom = right = 0
    if transposed and ((top, left) != (bottom, right) or "output_shape" in said):
        return None, f"{what} cuts off {(top, bottom)} and {(left, right)}, expected as much on both sides"
    first, second = weight.shape[0], weight.shape[1] * groups
    how = f"kernel_size={size}, stride={stride}, padding={(top, left)}, dilation={dilation}, groups={groups}"
    geometry = Geometry(
        first if transposed else second,
        second if transposed else first,
        groups=groups,
        kernel_size=size,
        stride=stride,
        dilation=dilation,
        padding=(left, right, top, bottom),
        transposed=transposed,
        bias=bias is not None,
        name=f"{what} ({how})",
    )
    return _Layer(node.input[0], geometry, weight, bias, names), ""
