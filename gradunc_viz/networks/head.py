"""Find the layer that produces a network's logits, and keep what enters and leaves it.

How the head is found
---------------------
Nothing is guessed from names or positions: the forward pass itself is watched. A forward hook on every
`torch.nn.Conv2d`, `~torch.nn.ConvTranspose2d` and `~torch.nn.Linear` marks the layer's output, and a
`torch.overrides.TorchFunctionMode` hands the mark on through operations that leave every value with its
class: views, permutations, slices, casts, resizing, cropping and padding, dropout in evaluation mode. The
mark on the tensor that the network returns names the head. Any other operation (a sum, a softmax, a
normalisation) ends the trail and leaves a note of itself, which becomes the text of the error.

To tell a permutation from a scramble, each layout operation is repeated on a stand-in of the same shape that
holds the class of every element (for a linear layer also its row). Stand-ins are broadcast from a few numbers
and take no memory worth mentioning.

Why a function mode and not a dispatch mode: it sees operations as the network's author wrote them, an
interpolation with its ``align_corners``, a softmax by its name, and not what they are decomposed into, which
depends on the version of PyTorch, on autograd and on inference mode. Marks are on the very objects that the
network's code holds.

Memory: a mark lives exactly as long as the tensor it is on. A layer's input therefore stays alive only while
the layer's output, or something that is merely the output in another layout, does; after the forward pass
only the head's input and output are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..schema.errors import HeadError, ModelError

__all__ = ["HEAD_KINDS", "Head", "Plan", "Wrapper", "find_layer", "follow", "logits_of"]

HEAD_KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Kinds of layer whose gradient norm has a closed form."""

_KINDS_TEXT = "Conv2d, ConvTranspose2d or Linear"


class Wrapper(nn.Module):
    """A module that passes its input on to `net`; layers are named as `net` names them.

    Attributes
    ----------
    net
        The network itself.
    head
        Dotted name of the head, or ``None`` to find it.
    """

    net: nn.Module
    head: str | None


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

    def _clear(self) -> None:
        self.__dict__.clear()

    def _fill(self, plan: Plan, features: Tensor, logits: Tensor) -> None:
        self.logits, self.features = plan.arrange(logits), plan.arrange(features)
        self.layer, self.name, self.align_corners, self.plan = plan.layer, plan.name, plan.align_corners, plan


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
    """

    layer: nn.Module
    name: str
    index: int
    calls: int
    grid: Tensor | None
    align_corners: bool

    def arrange(self, tensor: Tensor) -> Tensor:
        """Bring an input or output of the layer to (N, channels, h, w)."""
        if self.grid is not None:
            rows = tensor.reshape(-1, tensor.shape[-1])
            return rows[self.grid.to(tensor.device)].permute(0, 3, 1, 2)
        return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)


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


def logits_of(output: Any) -> Tensor:
    """Pick the logits, (N, C, h, w), from whatever a network returns.

    Parameters
    ----------
    output
        A tensor; a mapping or an object with ``logits`` or ``out``; a mapping that holds a single 4-D tensor;
        or a tuple or list, whose first 4-D tensor is taken.

    Raises
    ------
    ModelError
        If there are none; the text names the type and what it holds.
    """
    found = output if isinstance(output, Tensor) else _pick(output)
    if found.ndim != 4 or not found.is_floating_point() or found.shape[1] < 2:
        raise ModelError(
            f"the network returned a tensor of shape {tuple(found.shape)} and type {found.dtype}: "
            "expected logits, floating point, (N, C, h, w) with at least two classes"
        )
    return found


def _pick(output: Any) -> Tensor:
    kind = type(output).__name__
    for key in ("logits", "out"):
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(value, Tensor):
            return value
    items = dict(output) if isinstance(output, Mapping) else {}
    if "masks_queries_logits" in items or hasattr(output, "masks_queries_logits"):
        raise ModelError(f"the network returned {kind}: query models such as MaskFormer do not end in per-pixel logits")
    maps = [
        value
        for value in (items.values() if items else output if isinstance(output, tuple | list) else ())
        if isinstance(value, Tensor) and value.ndim == 4
    ]
    if len(maps) == 1 or (maps and not items):
        return maps[0]
    holds = f" with keys {[str(key) for key in items]}" if items else ""
    if isinstance(output, tuple | list):
        holds = f" of {[type(value).__name__ for value in output]}"
    raise ModelError(
        f"the network returned {kind}{holds}: expected a tensor (N, C, h, w), or 'logits' or 'out' holding one"
    )


# --------------------------------------------------------------------------------------------------
# marks


# --------------------------------------------------------------------------------------------------
# contexts


def find_layer(root: nn.Module, head: str | nn.Module) -> tuple[str, nn.Module]:
    """Name and layer of a head given by dotted name or as the module itself.

    Raises
    ------
    HeadError
        If it is no part of the network, or of a kind whose gradient norm has no closed form here.
    """
    modules = dict(root.named_modules())
    found = [(name, one) for name, one in modules.items() if one is head or (name == head and isinstance(head, str))]
    if not found:
        asked = repr(head) if isinstance(head, str) else f"the given {type(head).__name__}"
        names = [repr(name) for name, one in modules.items() if isinstance(one, HEAD_KINDS)][-8:]
        raise HeadError(f"{asked} is no layer of {type(root).__name__}; the last candidates are {', '.join(names)}")
    name, layer = found[0]
    if not isinstance(layer, HEAD_KINDS):
        raise HeadError(f"layer {name!r} is a {type(layer).__name__}: expected {_KINDS_TEXT}")
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
            captured._fill(plan, args[0] if args else kwargs["input"], output)
        calls += 1

    handle = plan.layer.register_forward_hook(keep, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()
    if calls != plan.calls:
        raise HeadError(f"layer {plan.name!r} ran {calls} times, but {plan.calls} times on an input of the same shape")
