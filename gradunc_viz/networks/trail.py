"""What is known of a tensor made of the output of a head: which values it holds, from where, and by which steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .tail import Elements, Gather, Source, Step, Value

__all__ = ["Settled", "Trail", "Untraceable", "numbered"]


class Untraceable(Exception):
    """An operation cannot be repeated on other maps; the text says why, its `operation` which."""

    def __init__(self, operation: str, why: str) -> None:
        super().__init__(why)
        self.operation = operation


@dataclasses.dataclass(frozen=True, eq=False)
class Trail:
    """What one tensor holds.

    Attributes
    ----------
    value : Value
        On the grid.
    grid : object
        Which grid that is: trails of one grid can be put together as they are.
    steps : tuple of Step
        From the grid to the last map whose pixels are counted.
    pixel, channel : LongTensor, as the tensor
        Number of the pixel of that map, and of the channel of `value`, from 1; 0 for none.
    size : (N, h, w)
        Of that map.
    n_channels : int
        Of the value.
    affine : bool
        Whether the value is an affine map of the heads' outputs that is the same at all pixels.
    uniform : bool
        Whether every channel was treated like any other.
    replayable : bool
        Whether the steps of the value are the tensor: not where classes of resized pixels were mapped in another way.
    stuck : str
        Which other operation came before a step that mixes pixels: its gradient is no outer product any more.
    since : str
        What was done to the values since the last step: ``""``, ``"affine"`` or ``"other"``.
    last, through : str, frozenset of str
        Name of the last operation on the values, and of all.
    moves : tuple of str
        Names of the operations that moved them since.
    entered : (Trail, Tensor) or None
        What entered that operation, if it is a softmax or the like.
    """

    value: Value
    grid: object
    steps: tuple[Step, ...]
    pixel: Tensor
    channel: Tensor
    size: tuple[int, ...]
    n_channels: int
    affine: bool = True
    uniform: bool = True
    replayable: bool = True
    stuck: str = ""
    since: str = ""
    last: str = ""
    through: frozenset[str] = frozenset()
    moves: tuple[str, ...] = ()
    entered: tuple[Trail, Tensor] | None = None

    @classmethod
    def start(cls, source: Source, shape: Sequence[int], class_axis: int) -> Trail:
        """The trail of a head's output of some shape, whose classes lie along an axis counted from the end."""
        axis = len(shape) + class_axis
        others = [length for place, length in enumerate(shape) if place != axis]
        device = source.output.device
        pixels = torch.arange(1, torch.Size(others).numel() + 1, device=device).view(others).unsqueeze(axis)
        ones = [1] * len(shape)
        ones[axis] = shape[axis]
        channels = torch.arange(1, shape[axis] + 1, device=device).view(ones)
        n, classes, h, w = source.output.shape
        return cls(source, object(), (), pixels.expand(*shape), channels.expand(*shape), (n, h, w), classes)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Trail:
        """The trail of a function, not affine, of each of its values."""
        return dataclasses.replace(
            self,
            value=Value(function, [self.value]),
            affine=False,
            replayable=self.replayable and not any(step.mixing for step in self.steps),
            since="other",
        )

    def settled(self, operation: str) -> Settled:
        """Find the axes of classes, and put the value's channels into the order in which they lie there.

        Raises
        ------
        Untraceable
            If classes of different pixels got mixed up.
        """
        channel, pixel = self.channel, self.pixel
        axes = [axis for axis in range(channel.ndim) if _varies(channel, axis) and not _varies(pixel, axis)]
        pixel_axes = [axis for axis in range(channel.ndim) if axis not in axes]
        table = channel.amax(pixel_axes, keepdim=True) if pixel_axes else channel
        places = pixel.amax(axes) if axes else pixel
        uniform = bool((table > 0).all()) and bool(((channel == table) | (pixel == 0)).all())
        sizes = [channel.shape[axis] for axis in axes]
        if uniform:
            order = table.flatten()
            in_order = torch.equal(order, torch.arange(1, len(order) + 1, device=order.device))
            if in_order and len(order) == self.n_channels:
                return Settled(self, axes, sizes, places)
            value = Value(lambda values: values.index_select(1, (order - 1).to(values.device)), [self.value])
            chosen = dataclasses.replace(self, value=value, channel=numbered(channel.shape, axes, channel.device))
            return Settled(dataclasses.replace(chosen, n_channels=len(order)), axes, sizes, places)
        return self._dealt(axes, places, operation)

    def _dealt(self, axes: list[int], places: Tensor, operation: str) -> Settled:
        """Take the tensor's own pixels for the grid, where channels are dealt out to pixels, as by a pixel shuffle."""
        done = ", ".join((*sorted(self.through), *self.moves))
        scrambled = Untraceable(operation, f"pixels and classes were mixed up{done and f' by {done}'}")
        if not axes or not bool((self.channel > 0).all()):
            raise scrambled
        if any(step.mixing for step in self.steps) or not self.uniform:
            raise scrambled
        pixel_axes = [axis for axis in range(self.channel.ndim) if axis not in axes]
        channel = self.channel.permute(*pixel_axes, *axes).reshape(places.numel(), -1)
        if len(channel.sort(1).values.diff(dim=1).nonzero()) != channel.shape[0] * (channel.shape[1] - 1):
            raise scrambled  # a channel twice at one pixel
        step = Elements(places.reshape(1, 1, -1), channel.T[None, :, None])
        sources = self.value.leaves()
        if not all(isinstance(leaf, Source) for leaf in sources):
            raise scrambled
        value = self.value.rebuilt({one: one.after((*self.steps, step)) for one in sources if isinstance(one, Source)})
        sizes = [self.channel.shape[axis] for axis in axes]
        numbers = torch.arange(1, places.numel() + 1, device=places.device).view(places.shape)
        shape = [1 if axis in axes else length for axis, length in enumerate(self.channel.shape)]
        trail = dataclasses.replace(
            self,
            value=value,
            grid=object(),
            steps=(),
            pixel=numbers.reshape(shape).expand(self.pixel.shape),
            channel=numbered(self.channel.shape, axes, places.device),
            size=(1, 1, places.numel()),
            n_channels=torch.Size(sizes).numel(),
        )
        return Settled(trail, axes, sizes, numbers)

    def arrived(self, operation: str) -> Trail:
        """Take (N, C, h, w) as the map whose pixels are counted from now on.

        Raises
        ------
        Untraceable
            If it is no such map.
        """
        settled = self.settled(operation)
        trail = settled.trail
        if trail.pixel.ndim != 4 or (settled.axes or [1]) != [1] or (not settled.axes and trail.pixel.shape[1] != 1):
            raise Untraceable(operation, f"its operand {tuple(trail.pixel.shape)} has its classes not along axis 1")
        index = trail.pixel[:, 0]
        if _is_identity(index, trail.size):
            return trail
        return dataclasses.replace(trail, steps=(*trail.steps, Gather(index)))


def numbered(shape: Sequence[int], axes: Sequence[int], device: torch.device) -> Tensor:
    """Numbers from 1 of the elements along some axes, the same along all others."""
    sizes = [length if axis in axes else 1 for axis, length in enumerate(shape)]
    return torch.arange(1, torch.Size(sizes).numel() + 1, device=device).view(sizes).expand(*shape)


def _is_identity(index: Tensor, size: tuple[int, ...]) -> bool:
    if tuple(index.shape) != size:
        return False
    return torch.equal(index, torch.arange(1, index.numel() + 1, device=index.device).view(index.shape))


def _varies(numbers: Tensor, axis: int) -> bool:
    """Whether numbers other than 0 differ along an axis."""
    if numbers.shape[axis] < 2 or numbers.stride(axis) == 0:
        return False
    # only one of what is merely broadcast
    small = numbers[tuple(slice(0, 1) if step == 0 else slice(None) for step in numbers.stride())]
    high = small.amax(axis)
    low = torch.where(small > 0, small, torch.iinfo(small.dtype).max).amin(axis)
    return bool((low < high).any())


@dataclasses.dataclass(frozen=True, eq=False)
class Settled:
    """A trail whose channels lie in order along some axes; `places` are the pixels along all others."""

    trail: Trail
    axes: list[int]
    sizes: list[int]
    places: Tensor
