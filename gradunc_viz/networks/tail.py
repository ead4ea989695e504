"""What a network does to the output of its head: where values go, and what becomes of each pixel's classes.

A `Tail` divides what stands behind one or several heads into three parts, which can be applied to other maps than the
network's own logits:

- each head's own `steps`, which bring its output to a common *grid* (none, where there is one head),
- a `Value`, which makes logits of the heads' outputs there, each pixel by itself,
- the tail's `steps`, which bring every map from the grid to the places of the network's output.

Gradients are taken on the grid, where a pixel is a pixel of its own; the norms then go the way of the logits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .operations import Operation

__all__ = [
    "Constant",
    "Elements",
    "Gather",
    "Resize",
    "Source",
    "Step",
    "Tail",
    "Value",
    "logarithm",
    "logit",
    "moved",
    "two_classes",
]


_NOWHERE = 99  # place of an argument that is given by name alone


class Step(Protocol):
    """A way of every map (N, K, h, w), whatever its K channels are, to other places.

    Attributes
    ----------
    mixing : bool
        Whether a pixel may become a weighted mean of several.
    """

    @property
    def mixing(self) -> bool: ...  # noqa: D102

    def __call__(self, maps: Tensor) -> Tensor: ...  # noqa: D102

    def of_values(self, values: Tensor) -> Tensor:
        """The same of the head's own output, whose channels may be dealt out to pixels."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Gather:
    """Every pixel is one of the pixels before, or none.

    Attributes
    ----------
    index : LongTensor (N', h', w')
        Number of the pixel, from 1, among all N h w; 0 for none, whose value is 0.
    """

    index: Tensor
    mixing = False

    def __call__(self, maps: Tensor) -> Tensor:  # noqa: D102
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        index = self.index.to(maps.device)
        taken = rows[(index - 1).clamp_min(0)]
        return torch.where((index > 0)[..., None], taken, 0).permute(0, 3, 1, 2)

    def of_values(self, values: Tensor) -> Tensor:  # noqa: D102
        return self(values)


@dataclasses.dataclass(frozen=True, eq=False)
class Elements:
    """Every pixel is one of the pixels before, but only some of its channels, which differ from pixel to pixel.

    Attributes
    ----------
    index : LongTensor (N', h', w')
        As of `Gather`.
    channel : LongTensor (N', C', h', w')
        Number of the channel, from 1; 0 for none.
    """

    index: Tensor
    channel: Tensor
    mixing = False

    def __call__(self, maps: Tensor) -> Tensor:  # noqa: D102
        return Gather(self.index)(maps)

    def of_values(self, values: Tensor) -> Tensor:  # noqa: D102
        channel = self.channel.to(values.device)
        taken = self(values).gather(1, (channel - 1).clamp_min(0))
        return torch.where(channel > 0, taken, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Resize:
    """Every channel is resampled as the network resamples its logits.

    Attributes
    ----------
    operation : Operation
        As the network called it, on (N, C, h, w).
    """

    operation: Operation

    @property
    def _mode(self) -> str:
        name = self.operation.name
        place, default = {
            "grid_sample": (2, "bilinear"),
            "interpolate": (3, "nearest"),
            "upsample": (3, "nearest"),
        }.get(name, (_NOWHERE, name))
        return str(self.operation.argument(place, "mode", default))

    @property
    def mixing(self) -> bool:
        """Whether pixels are mixed: not by the nearest neighbour."""
        return "nearest" not in self._mode

    @property
    def align_corners(self) -> bool:
        """Whether the corners' centres stay where they are."""
        name = self.operation.name
        place = 4 if name in ("interpolate", "upsample") else 2 if name == "upsample_bilinear2d" else _NOWHERE
        return self.operation.argument(place, "align_corners") is True or name == "upsample_bilinear"

    @property
    def bilinear(self) -> bool:
        """Whether it is the plain bilinear resizing that score maps are brought to an image's size with."""
        plain = self.operation.name in ("interpolate", "upsample", "upsample_bilinear", "upsample_bilinear2d")
        return plain and "bilinear" in self._mode and not self.operation.argument(6, "antialias", False)

    def __call__(self, maps: Tensor) -> Tensor:  # noqa: D102
        source = self.operation.argument(0, "input")
        return self.operation.on({id(source): maps})[0]

    def of_values(self, values: Tensor) -> Tensor:  # noqa: D102
        return self(values)


def moved(maps: Tensor, steps: Iterable[Step]) -> Tensor:
    """Take maps (N, K, h, w) the way of some steps."""
    for step in steps:
        maps = step(maps)
    return maps


class Value:
    """A map of values, each pixel by itself, computed of others.

    Parameters
    ----------
    function : callable
        From tensors (N, C, h, w) on one grid to one.
    operands : sequence of Value
    """

    def __init__(self, function: Callable[..., Tensor], operands: Iterable[Value] = ()) -> None:
        self.function, self.operands = function, tuple(operands)

    def of(self, known: dict[Value, Tensor]) -> Tensor:
        """Compute it, and all that it is computed of, once; `known` holds what is given and takes the rest."""
        if self not in known:
            known[self] = self.computed(*(operand.of(known) for operand in self.operands))
        return known[self]

    def computed(self, *operands: Tensor) -> Tensor:
        """Compute it of its operands."""
        return self.function(*operands)

    def rebuilt(self, exchanged: Mapping[Value, Value]) -> Value:
        """The same of other operands."""
        made = dict(exchanged)

        def again(value: Value) -> Value:
            if value not in made:
                made[value] = Value(value.function, map(again, value.operands)) if value.operands else value
            return made[value]

        return again(self)

    def leaves(self) -> list[Value]:
        """All sources and constants, each once, in order."""
        found: dict[Value, None] = {}
        seen: set[Value] = set()

        def visit(value: Value) -> None:
            if value in seen:
                return
            seen.add(value)
            if not value.operands:
                found[value] = None
            for operand in value.operands:
                visit(operand)

        visit(self)
        return list(found)


class Source(Value):
    """The output of a head, brought to the grid.

    Attributes
    ----------
    name, layer
        The head.
    call : int
        Which of its calls in one forward pass.
    features, output : Tensor (N, D, h', w'), (N, C, h, w)
        What entered and left it; the rows of a linear layer as a map of one row.
    steps : tuple of Step
    rows : bool
        Whether it is a layer of rows, which the network lays out.
    """

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        call: int,
        features: Tensor,
        output: Tensor,
        steps: tuple[Step, ...] = (),
        *,
        rows: bool = False,
    ) -> None:
        super().__init__(nn.Identity())  # a method of its own would be a cycle, which keeps features alive
        self.name, self.layer, self.call, self.rows = name, layer, call, rows
        self.features, self.output, self.steps = features, output, steps

    @classmethod
    def of_call(cls, name: str, layer: nn.Module, call: int, features: Tensor, output: Tensor, *, rows: bool) -> Source:
        """What enters and leaves a head as it is called, where it leaves it."""
        return cls(name, layer, call, _as_map(features, rows), _as_map(output, rows), rows=rows)

    def computed(self, *operands: Tensor) -> Tensor:
        """Bring the head's output to the grid."""
        values = self.output
        for step in self.steps:
            values = step.of_values(values)
        return values

    @property
    def mixing(self) -> bool:
        """Whether pixels of the head's output are mixed on their way to the grid."""
        return any(step.mixing for step in self.steps)

    def after(self, steps: tuple[Step, ...]) -> Source:
        """The same on another grid, which some steps lead to."""
        return Source(self.name, self.layer, self.call, self.features, self.output, self.steps + steps, rows=self.rows)

    def in_another_pass(self, features: Tensor, output: Tensor, layer: nn.Module) -> Source:
        """The same of what entered and left the head in another forward pass."""
        again = Source.of_call(self.name, layer, self.call, features, output, rows=self.rows)
        return again.after(self.steps)


def _as_map(tensor: Tensor, rows: bool) -> Tensor:
    """(N, K, h, w), of the rows of a linear layer as one row of the map."""
    if rows:
        return tensor.reshape(-1, tensor.shape[-1]).T[None, :, None]
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)


class Constant(Value):
    """A map that no head has a part in."""

    def __init__(self, values: Tensor) -> None:
        super().__init__(lambda: values)
        self.values = values


@dataclasses.dataclass(frozen=True, eq=False)
class Tail:
    """Everything behind the heads of a network, for one forward pass.

    Attributes
    ----------
    value : Value
        Logits on the grid, of one or more `Source`.
    steps : tuple of Step
        From the grid to the network's logits.
    replayable : bool
        Whether `moved_logits` are the network's own: not where it maps classes of resized pixels, in another than an
        affine way.
    one_logit : bool
        Whether the network returns one logit for each pixel, of which there are two classes.
    channels : LongTensor or None
        Which channels of the value are classes, where not all are.
    """

    value: Value
    steps: tuple[Step, ...] = ()
    replayable: bool = True
    one_logit: bool = False
    channels: Tensor | None = None

    @property
    def sources(self) -> list[Source]:
        """The heads, in the order in which the logits are computed of them."""
        return [leaf for leaf in self.value.leaves() if isinstance(leaf, Source)]

    @property
    def moved_head(self) -> Source | None:
        """The head, if the logits are its output in other places, or resampled, and nothing else."""
        return self.value if isinstance(self.value, Source) and not self.value.steps else None

    def only(self, channels: Tensor) -> Tail:
        """The same with some of the classes left out."""
        return dataclasses.replace(self, channels=channels if self.channels is None else self.channels[channels])

    def _kept(self, logits: Tensor) -> Tensor:
        return logits if self.channels is None else logits.index_select(1, self.channels.to(logits.device))

    def in_another_pass(self, calls: Mapping[tuple[str, int], tuple[Tensor, Tensor, nn.Module]]) -> Tail:
        """The same of other inputs, outputs and layers of its heads: (features, output, layer) of each call."""
        exchanged: dict[Value, Value] = {
            source: source.in_another_pass(*calls[source.name, source.call]) for source in self.sources
        }
        return dataclasses.replace(self, value=self.value.rebuilt(exchanged))

    def logits(self) -> Tensor:
        """Logits on the grid, (N, C, h, w)."""
        return self._kept(self.value.of({}))

    def moved_logits(self) -> Tensor:
        """The same at the places of the network's logits."""
        return moved(self.logits(), self.steps)

    def reached(self) -> bool:
        """Whether the logits have a derivative by the output of any head."""
        if isinstance(self.value, Source):
            return True
        with torch.inference_mode(False), torch.enable_grad():
            pixel: dict[Value, Tensor] = {
                source: source.of({})[:, :, :1, :1].clone().requires_grad_() for source in self.sources
            }
            known = dict(pixel)
            for leaf in self.value.leaves():
                if isinstance(leaf, Constant):
                    known[leaf] = leaf.values[:, :, :1, :1].clone()
            return self.value.of(known).requires_grad

    def on_leaves(self, given: Mapping[Value, Tensor]) -> Tensor:
        """Logits on the grid where the heads' outputs there are given, as leaves to be derived by."""
        known = dict(given)
        for leaf in self.value.leaves():
            if isinstance(leaf, Constant):
                known[leaf] = leaf.values.clone()  # no inference tensor, which no derivative is taken beside
        return self._kept(self.value.of(known))

    def share(self) -> Tensor:
        """Share of each pixel of the logits, (N, 1, y, x), that comes from the heads: 0 where a constant was put."""
        return moved(torch.ones_like(self.logits()[:, :1]), self.steps)

    def as_it_left(self) -> tuple[Source, Tensor | None] | None:
        """The head, if the logits are its output as it left it, and where the rows of a linear layer lie."""
        value = self.value
        if not isinstance(value, Source) or value.steps:
            return None
        if not self.steps:
            return value, None
        (first, *others) = self.steps
        whole = isinstance(first, Gather) and not others and value.rows and bool((first.index > 0).all())
        return (value, first.index - 1) if whole and isinstance(first, Gather) else None


def two_classes(logit: Tensor) -> Tensor:
    """Logits (N, 2, h, w) of "not" and "is" from the one of a sigmoid, (N, 1, h, w)."""
    return F.pad(logit, (0, 0, 0, 0, 1, 0))


def logarithm(probabilities: Tensor) -> Tensor:
    """Logits (N, C, h, w) whose softmax the probabilities are."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def logit(probability: Tensor) -> Tensor:
    """The logit (N, 1, h, w) whose sigmoid the probability is."""
    least = torch.finfo(probability.dtype).tiny
    return probability.clamp_min(least).log() - (1 - probability).clamp_min(least).log()
