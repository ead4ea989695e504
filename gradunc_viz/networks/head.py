"""Find the layer that produces a network's logits, and keep what enters and leaves it.

How the head is found
---------------------
Nothing is guessed from names or positions: the forward pass itself is watched, by a forward hook on every layer of a
kind in `HEAD_KINDS` and by a `torch.overrides.TorchFunctionMode`. A first pass tells which calls of which layers the
network's output is computed of, without another such layer between. A second one follows the outputs of these calls
through every operation to the network's output (`gradunc_viz.networks.following`), which gives a
`gradunc_viz.networks.tail.Tail`: where values go, and what becomes of each pixel's classes. Where there is none, or a
bilinear resizing alone, passes on inputs of the same shape need one hook and no watching (`follow`).

Why a function mode and not a dispatch mode: it sees operations as the network's author wrote them, an interpolation
with its ``align_corners``, a softmax by its name, and not what they are decomposed into, which depends on the version
of PyTorch, on autograd and on inference mode. Marks are on the very objects that the network's code holds, and live as
long as these do: after the forward pass only the heads' inputs and outputs are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..kernels.geometry import Geometry
from ..kernels.resize import neighbours
from ..schema.errors import HeadError, ModelError
from ..schema.registry import Registry
from .tail import Tail

if TYPE_CHECKING:
    from .second_last import Hidden

__all__ = [
    "HEAD_KINDS",
    "Head",
    "HeadKind",
    "Plan",
    "Wrapper",
    "agrees",
    "find_layer",
    "follow",
    "geometry_of",
    "kind_of",
    "kinds_text",
    "register_head",
]


@dataclasses.dataclass(frozen=True)
class HeadKind:
    """A kind of layer whose gradient norm has a closed form.

    Attributes
    ----------
    module
        Class of the layers; a subclass is of the same kind unless it has one of its own.
    geometry
        From a layer to how it connects its output to its input. The gradient must be that of a plain kernel there: of
        a layer that multiplies every feature by a weight of its own and adds up what falls on one place.
    rows
        Whether features and logits are rows of channels, (..., D) and (..., C), which the network lays out as a map;
        otherwise they are (N, D, h', w') and (N, C, h, w), or without N.
    listed
        Whether errors offer it: as a kind that a network's author may choose.
    """

    module: type[nn.Module]
    geometry: Callable[[Any], Geometry]
    rows: bool = False
    listed: bool = True

    @property
    def class_axis(self) -> int:
        """Axis of the layer's output along which the classes lie, from the end."""
        return -1 if self.rows else -3


def _of_convolution(layer: nn.Conv2d) -> Geometry:
    if layer.padding == "valid":
        top = bottom = left = right = 0
    elif layer.padding == "same":
        down, across = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        top, left = down // 2, across // 2
        bottom, right = down - top, across - left
    else:
        top, left = (int(edge) for edge in layer.padding)
        bottom, right = top, left
    return Geometry(**_common(layer), padding=(left, right, top, bottom), padding_mode=layer.padding_mode)


def _of_transposed(layer: nn.ConvTranspose2d) -> Geometry:
    vertical, horizontal = (int(edge) for edge in layer.padding)
    return Geometry(**_common(layer), padding=(horizontal, horizontal, vertical, vertical), transposed=True)


def _common(layer: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    return {
        "inputs": layer.in_channels,
        "outputs": layer.out_channels,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "kernel_size": tuple(layer.kernel_size),
        "stride": tuple(layer.stride),
        "dilation": tuple(layer.dilation),
        "name": str(layer),
    }


def _of_linear(layer: nn.Linear) -> Geometry:
    return Geometry(layer.in_features, layer.out_features, bias=layer.bias is not None, name=str(layer))


HEAD_KINDS: Registry[HeadKind] = Registry(
    HeadKind,
    lambda kind: f"{kind.module.__module__}.{kind.module.__qualname__}",
    "kind of head",
    "gradunc_viz.heads",
    (
        HeadKind(nn.Conv2d, _of_convolution),
        HeadKind(nn.ConvTranspose2d, _of_transposed),
        HeadKind(nn.Linear, _of_linear, rows=True),
    ),
    HeadError,
)
"""Every kind of head by the full name of its class, registered ones too."""


def register_head(kind: HeadKind) -> HeadKind:
    """Add a kind of head: networks that end in such a layer have gradient norms from then on.

    Packages bring theirs through the entry point group ``gradunc_viz.heads``.

    Raises
    ------
    HeadError
        If the class has a kind already.
    """
    return HEAD_KINDS.register(kind)


def kind_of(layer: nn.Module) -> HeadKind | None:
    """The kind of a layer, that of the nearest class it derives from; None if it can be no head."""
    kinds = {kind.module: kind for kind in HEAD_KINDS.values()}
    return next((kinds[one] for one in type(layer).__mro__ if one in kinds), None)


def kinds_text() -> str:
    """The kinds in words: ``"Conv2d, ConvTranspose2d or Linear"``."""
    *first, last = (kind.module.__name__ for kind in HEAD_KINDS.values() if kind.listed)
    return f"{', '.join(first)} or {last}"


def geometry_of(layer: nn.Module) -> Geometry:
    """How a last layer connects its output to its input.

    Raises
    ------
    HeadError
        If it is of no kind whose gradient norm has a closed form.
    """
    kind = kind_of(layer)
    if kind is None:
        raise HeadError(f"the last layer is a {type(layer).__name__}; expected {kinds_text()}")
    return kind.geometry(layer)


_SPOTS = 8  # rows and columns at which `agrees` looks


class Wrapper(nn.Module):
    """A module that passes its input on to `net`; layers are named as `net` names them.

    Attributes
    ----------
    net
        The network itself.
    head
        Dotted name of the head, or ``None`` to find it.
    output
        Which of the maps that `net` returns holds the logits, or ``None`` where there is one.
    """

    net: nn.Module
    head: str | None
    output: str | int | None


class Head:
    """What entered and left the head in the last forward pass.

    Attributes
    ----------
    logits
        Output of the head, (N, C, h, w), before the network resizes it.
    features
        Input of the head, (N, D, h', w').
    layer
        The head itself. The rows of a linear layer are laid out as the network lays them out.
    name
        Its dotted name in the network.
    align_corners
        Whether the network resizes its logits with ``align_corners=True``.
    tail
        What the network does to the output of its heads, where it does anything but resize it bilinearly: `logits` are
        then what comes of it, before the last such resizing, and `features` and `layer` those of the first head.
        `gradunc_viz.gradient_norms` takes all of it: hand it the head itself.
    layers
        Outputs of other layers that were asked for, by their dotted names.
    hidden
        The layer before the head, where `gradunc_viz.networks.second_last.SecondLast` was asked to keep it.

    Raises
    ------
    ModelError
        On reading any of them before a forward pass.
    """

    logits: Tensor
    features: Tensor
    layer: nn.Module
    name: str
    align_corners: bool
    tail: Tail | None
    layers: Mapping[str, Tensor]
    hidden: Hidden | None = None
    plan: Plan

    def __getattr__(self, attribute: str) -> Any:
        # Reached only while no forward pass has filled the attribute in.
        if attribute in Head.__annotations__:
            raise ModelError(f"no {attribute} captured: run the network inside 'with capture(net) as head:' first")
        raise AttributeError(attribute)

    def __repr__(self) -> str:
        if "layer" not in self.__dict__:
            return "<Head: nothing captured yet; run the network inside 'with capture(net) as head:'>"
        return (
            f"<Head {self.name!r}, {self.layer}: logits {tuple(self.logits.shape)}, "
            f"features {tuple(self.features.shape)}>"
        )

    def _repr_html_(self) -> str:
        from ..schema.display import card, code

        if "layer" not in self.__dict__:
            return card("Head", {"state": f"nothing captured yet: run the network inside {code('with capture(net)')}"})

        def shape(tensor: Tensor, meaning: str) -> str:
            return f"{' × '.join(map(str, tensor.shape))} ({meaning}), {code(str(tensor.dtype))} on {tensor.device}"

        rows = {
            "layer": code(str(self.layer)),
            "logits": shape(self.logits, "N, classes, h, w"),
            "features": shape(self.features, "N, D, h, w"),
            "resized with": code(f"align_corners={self.align_corners}"),
        }
        return card(f"Head {self.name}", rows, _class_map(self.logits))

    def clear(self) -> None:
        """Let go of what was captured."""
        self.__dict__.clear()

    def fill(self, plan: Plan, features: Tensor, logits: Tensor) -> None:
        """Take what entered and left the layer of a plan, as the layer was called."""
        self.logits, self.features = plan.arrange(logits), plan.arrange(features)
        self.layer, self.name, self.align_corners, self.plan = plan.layer, plan.name, plan.align_corners, plan
        self.tail, self.layers = None, {}

    def fill_behind(self, plan: Plan, tail: Tail, logits: Tensor) -> None:
        """Take logits that are made of the output of heads by what stands behind them."""
        first, *others = tail.sources
        self.logits, self.features, self.layer = logits, first.features, first.layer
        self.name = " + ".join(dict.fromkeys((first.name, *(one.name for one in others))))
        self.align_corners, self.tail, self.plan, self.layers = plan.align_corners, tail, plan, {}


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Which call of which layer is the head, for inputs of one shape: lets `follow` do without the search.

    Attributes
    ----------
    layer, name
        The head and its dotted name.
    index, calls
        Which of its calls in one forward pass counts, and how many there are.
    grid
        For a linear layer, (N, h, w): the row of its input that lies at each place of the map.
    align_corners
        Whether the network resizes its logits with ``align_corners=True``.
    targets, counts
        Every call, a layer's name and its number, whose output the logits are made of; and how often each of these
        layers ran.
    simple
        Whether the logits are that call's output as it is, resized at most; otherwise `capture` has to watch what comes
        behind in each pass.
    """

    layer: nn.Module
    name: str
    index: int
    calls: int
    grid: Tensor | None
    align_corners: bool
    targets: frozenset[tuple[str, int]] = frozenset()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    simple: bool = True

    def arrange(self, tensor: Tensor) -> Tensor:
        """Bring an input or output of the layer to (N, channels, h, w)."""
        if self.grid is not None:
            rows = tensor.reshape(-1, tensor.shape[-1])
            return rows[self.grid.to(tensor.device)].permute(0, 3, 1, 2)
        return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)


def agrees(mine: Tensor, own: Tensor, align_corners: bool) -> bool:
    """Whether some pixels of a network's own logits are what left its head, resized at most.

    A network may do another thing on another image of the same size; this is seen at once.
    """
    if mine.shape[:2] != own.shape[:2]:
        return False
    places = [torch.linspace(0, length - 1, _SPOTS, device=own.device).long() for length in own.shape[2:]]
    taken = own[:, :, places[0]][..., places[1]]
    if mine.shape != own.shape:
        for axis in (0, 1):
            low, high, weight = neighbours(mine.shape[2 + axis], own.shape[2 + axis], align_corners)
            at = places[axis].cpu().numpy()
            share = torch.from_numpy(weight[at]).to(mine.device).view([-1, 1] if axis == 0 else [-1])
            below, above = (torch.from_numpy(index[at]).to(mine.device) for index in (low, high))
            mine = mine.index_select(2 + axis, below) * (1 - share) + mine.index_select(2 + axis, above) * share
    else:
        mine = mine[:, :, places[0]][..., places[1]]
    rough = 3e-2 if own.dtype in (torch.float16, torch.bfloat16) else 1e-3
    scale = taken.abs().amax(1, keepdim=True)
    return not bool(((mine - taken).abs() > rough * (scale + 1e-6)).any())


def _class_map(logits: Tensor) -> str:
    """The class of the largest logit at every place of the first image, as a small picture."""
    import io

    from PIL import Image

    from ..schema.display import picture
    from ..style.palette import class_colors

    with torch.no_grad():
        ids = logits[0].detach().argmax(0).cpu()
    colors = torch.tensor(class_colors(logits.shape[1]), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors[ids].numpy()).save(buffer, "PNG")
    return picture(buffer.getvalue(), "png", "class of the largest logit", height=90)


def find_layer(root: nn.Module, head: str | nn.Module) -> tuple[str, nn.Module]:
    """Name and layer of a head given by dotted name or as the module itself.

    Raises
    ------
    HeadError
        If it is no part of the network, or of a kind whose gradient norm has no closed form here.
    """
    modules = dict(nn.Module.named_modules(root))
    found = [(name, one) for name, one in modules.items() if one is head or (name == head and isinstance(head, str))]
    if not found:
        asked = repr(head) if isinstance(head, str) else f"the given {type(head).__name__}"
        names = [repr(name) for name, one in modules.items() if kind_of(one)][-8:]
        raise HeadError(f"{asked} is no layer of {type(root).__name__}; the last candidates are {', '.join(names)}")
    name, layer = found[0]
    if kind_of(layer) is None:
        raise HeadError(f"layer {name!r} is a {type(layer).__name__}: expected {kinds_text()}")
    return name, layer


@contextmanager
def follow(plan: Plan) -> Iterator[Head]:
    """Capture the head that an earlier `capture` found: one hook, no search.

    Parameters
    ----------
    plan
        ``head.plan`` of a forward pass whose input had the same shape.

    Raises
    ------
    HeadError
        If the layer runs another number of times than it did then.
    """
    captured, calls = Head(), 0

    def keep(layer: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        nonlocal calls
        if calls == plan.index:
            captured.fill(plan, args[0] if args else kwargs["input"], output)
        calls += 1

    handle = plan.layer.register_forward_hook(keep, with_kwargs=True, prepend=True)
    try:
        yield captured
    finally:
        handle.remove()
    if calls != plan.calls:
        raise HeadError(f"layer {plan.name!r} ran {calls} times, but {plan.calls} times on an input of the same shape")
