"""Finding the layer that produces the logits, by following tensors through a forward pass."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from ..schema.errors import HeadError
from .head import Head, Plan, Wrapper, find_layer, kind_of, kinds_text, logits_of

__all__ = ["capture"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SAME = _names("""
    bfloat16 clone contiguous cpu cuda data detach double float half positive requires_grad_ to type type_as
""")


_LAYOUT = _names("""
    H T __getitem__ adjoint chunk expand expand_as flatten flip index_select mT moveaxis movedim narrow permute
    ravel reshape reshape_as roll rot90 select split squeeze swapaxes swapdims t tensor_split transpose unbind
    unflatten unsqueeze view view_as
""")


_RESIZE = _names("""
    adaptive_avg_pool2d avg_pool2d constant_pad_nd grid_sample interpolate pad upsample upsample_bicubic2d
    upsample_bilinear upsample_bilinear2d upsample_nearest upsample_nearest2d
""")


_NORMALISERS = _names("softmax log_softmax sigmoid logsigmoid gumbel_softmax")


# A view needs strides that a broadcast stand-in may not have.
_ON_STAND_IN: Mapping[str, Callable[..., Any]] = {"view": Tensor.reshape, "view_as": Tensor.reshape_as}


@dataclasses.dataclass(eq=False)
class _Call:
    """One call of a candidate; `overwritten` names what changed its input in place afterwards."""

    name: str
    layer: nn.Module
    index: int
    shape: tuple[int, ...]
    features: Tensor
    overwritten: str = ""

    @property
    def class_axis(self) -> int:
        kind = kind_of(self.layer)
        assert kind is not None
        return kind.class_axis


@dataclasses.dataclass(frozen=True, eq=False)
class _Trail:
    """Mark of a tensor whose values are those of one call's output, in another layout or size.

    `output` is None on the output itself: the mark must not keep its own tensor alive. `channels` and `rows`
    are stand-ins; `grid` is what `rows` had become when the tensor was first resized.
    """

    call: _Call
    output: Tensor | None
    channels: Tensor
    rows: Tensor | None
    grid: Tensor | None = None
    align_corners: bool = False

    @classmethod
    def start(cls, call: _Call) -> _Trail:
        shape, axis = call.shape, call.class_axis
        device = call.features.device
        ones = [1] * len(shape)
        ones[axis] = shape[axis]
        channels = torch.arange(shape[axis], device=device).view(ones).expand(shape)
        rows = None
        if axis == -1:
            count = torch.Size(shape[:-1]).numel()
            rows = torch.arange(count, device=device).view(*shape[:-1], 1).expand(shape)
        return cls(call, None, channels, rows)

    def in_order(self) -> bool:
        """Whether axis 1 of four is the class axis."""
        if self.channels.ndim != 4 or self.channels.shape[1] != self.call.shape[self.call.class_axis]:
            return False
        distinct = self.channels[tuple(slice(0, 1) if step == 0 else slice(None) for step in self.channels.stride())]
        wanted = torch.arange(self.channels.shape[1], device=distinct.device).view(1, -1, 1, 1)
        return bool((distinct == wanted).all())


@dataclasses.dataclass(frozen=True)
class _Mixed:
    """Mark of a tensor that an operation computed from the outputs of some layers: no trail, only a note."""

    operation: str
    calls: tuple[tuple[str, tuple[int, ...]], ...]


_Mark = _Trail | _Mixed


@dataclasses.dataclass(frozen=True)
class _Operation:
    """One call of a function of torch, and the tensors that it returned."""

    function: Any
    args: Any
    kwargs: Mapping[str, Any]
    outputs: list[Tensor]

    @property
    def name(self) -> str:
        name = getattr(self.function, "__name__", "?")
        return getattr(self.function.__self__, "__name__", name) if name == "__get__" else name

    @property
    def inputs(self) -> list[Tensor]:
        return list(_tensors((self.args, tuple(self.kwargs.values()))))

    def repeated(self, source: Tensor, stand_in: Tensor) -> list[Tensor]:
        """What it returns with another tensor in place of `source`."""
        kwargs = {key: stand_in if value is source else value for key, value in self.kwargs.items()}
        function = _ON_STAND_IN.get(self.name, self.function)
        return list(_tensors((function(*(stand_in if value is source else value for value in self.args), **kwargs),)))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _share(first: Tensor, second: Tensor) -> bool:
    if first is second:
        return True
    try:
        address = first.untyped_storage().data_ptr()
        return address != 0 and address == second.untyped_storage().data_ptr()
    except RuntimeError:  # sparse tensors and those inside vmap have no storage to look at
        return False


class _Tracer(TorchFunctionMode):
    """Hands marks from tensor to tensor during a forward pass, and fills in the head after it."""

    def __init__(self, root: nn.Module, layers: Mapping[nn.Module, str], named: bool, head: Head) -> None:
        super().__init__()
        self.root, self.layers, self.named, self.head = root, layers, named, head
        self.running = False
        self.forget()

    def forget(self) -> None:
        """Let go of every tensor."""
        self.marks: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.counts: Counter[str] = Counter()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.single: _Trail | None = None

    # hooks

    def begin(self, root: nn.Module, args: Any) -> None:
        """Before the forward pass: start afresh, so that two passes are never in memory together."""
        self.forget()
        self.head.clear()
        self.running = True

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After a candidate ran: mark its output."""
        if not self.running or not isinstance(output, Tensor):
            return
        name = self.layers[layer]
        features = args[0] if args else kwargs["input"]
        shape = tuple(output.shape)
        trail = _Trail.start(_Call(name, layer, self.counts[name], shape, features))
        self.counts[name] += 1
        self.shapes[name] = shape
        self.marks[output] = trail
        if self.named:
            # A layer named by the user needs no trail, provided that it ran once only.
            self.single = dataclasses.replace(trail, output=output) if self.counts[name] == 1 else None

    def end(self, root: nn.Module, args: Any, output: Any) -> None:
        """After the forward pass: name the head, or raise."""
        self.running = False
        try:
            logits = logits_of(output)
            trail = self._resolve(logits)
            call = trail.call
            if call.overwritten:
                raise HeadError(
                    f"the input or output of {call.name!r} is overwritten in place by {call.overwritten!r} "
                    "after the layer ran: make that operation out of place"
                )
            grid = trail.grid if trail.rows is None else trail.rows[:, 0]
            plan = Plan(call.layer, call.name, call.index, self.counts[call.name], grid, trail.align_corners)
            self.head.fill(plan, call.features, logits if trail.output is None else trail.output)
            if len(self.head.logits) != len(logits):
                shapes = f"{tuple(self.head.logits.shape)} and {tuple(logits.shape)}"
                self.head.clear()
                raise HeadError(f"the output of {call.name!r} and the network's differ in batch size: {shapes}")
        finally:
            self.forget()

    # the function mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.running:
            self._pass_on(_Operation(func, args, kwargs, list(_tensors((result,)))))
        return result

    def _pass_on(self, done: _Operation) -> None:
        name, inputs, outputs = done.name, done.inputs, done.outputs
        if not outputs and name != "__setitem__":
            return
        marked = [(tensor, self.marks[tensor]) for tensor in inputs if tensor in self.marks]
        if marked and isinstance(marked[0][1], _Trail):
            trails = _continued(done, *marked[0])
            if trails is not None:
                for output, trail in zip(outputs, trails, strict=True):
                    # An operation that had nothing to do returns its input, which is marked already.
                    if output is not marked[0][0]:
                        self.marks[output] = trail
                return
        harmless = name in _SAME or name in _LAYOUT or name in _RESIZE
        if not harmless:
            changed = inputs[:1] if name == "__setitem__" else [one for one in inputs if any(one is o for o in outputs)]
            self._overwrite(changed, name)
        if not marked:
            return
        first = marked[0][1]
        note = first if harmless and isinstance(first, _Mixed) else _mix(name, [mark for _, mark in marked])
        for output in outputs:
            self.marks[output] = note

    def _overwrite(self, changed: list[Tensor], name: str) -> None:
        """Take note of tensors changed in place, under whatever name their memory is known."""
        for one in changed:
            for tensor, mark in list(self.marks.items()):
                if isinstance(mark, _Trail):
                    if _share(one, tensor) or (mark.output is not None and _share(one, mark.output)):
                        self.marks[tensor] = _mix(name, [mark])
                    if _share(one, mark.call.features):
                        mark.call.overwritten = name
            if self.single is not None and self.single.output is not None:
                call = self.single.call
                if _share(one, self.single.output) or _share(one, call.features):
                    call.overwritten = name

    # the verdict

    def _resolve(self, logits: Tensor) -> _Trail:
        mark = self.marks.get(logits)
        classes = logits.shape[1]
        if isinstance(mark, _Trail):
            if mark.in_order():
                return mark
            total = mark.call.shape[mark.call.class_axis]
            if classes < total:
                raise HeadError(
                    f"the network returns {classes} of the {total} classes of {mark.call.name!r}: let it "
                    "return all, and leave out channels with drop_channels"
                )
            raise HeadError(
                f"the network's output {tuple(logits.shape)} is the output of {mark.call.name!r} "
                f"{mark.call.shape} with its classes not along axis 1: expected (N, C, h, w)"
            )
        if self.named:
            return self._named(classes)
        if not self.layers:
            raise HeadError(f"no convolution or linear layer in {type(self.root).__name__}: expected {kinds_text()}")
        if isinstance(mark, _Mixed):
            named = [(name, shape) for name, shape in mark.calls if classes in (shape[-1], *shape[-3:-2])]
            listed = self._listed(named or mark.calls[-5:])
            if mark.operation in _NORMALISERS:
                raise HeadError(
                    f"the network's output is {mark.operation} of {listed}: return the logits that enter "
                    f"{mark.operation}"
                )
            example = (named or mark.calls)[-1][0]
            raise HeadError(
                f"the network's output is not the output of one layer, {mark.operation!r} computes it from "
                f"{listed}: name the layer to use, as in head={example!r}"
            )
        if not self.shapes:
            raise HeadError(f"none of the {len(self.layers)} layers of kind {kinds_text()} ran in the forward pass")
        fitting = [(name, shape) for name, shape in self.shapes.items() if classes in (shape[-1], *shape[-3:-2])]
        listed = self._listed(fitting or list(self.shapes.items())[-5:])
        raise HeadError(
            "the network's output could not be traced to a layer; name the one that produces the logits "
            f"with head=..., candidates: {listed}"
        )

    def _named(self, classes: int) -> _Trail:
        (name,) = self.layers.values()
        if not self.counts[name]:
            raise HeadError(f"layer {name!r} did not run in the forward pass")
        if self.single is None:
            raise HeadError(
                f"layer {name!r} ran {self.counts[name]} times and no single run is the network's output: "
                "it cannot be the head"
            )
        call = self.single.call
        if call.class_axis == -1:
            raise HeadError(
                f"the rows of linear layer {name!r} {call.shape} cannot be traced to the network's output: "
                "where they lie in the image is unknown"
            )
        if call.shape[-3] != classes:
            raise HeadError(f"layer {name!r} has {call.shape[-3]} output channels, the network's logits {classes}")
        return self.single

    def _listed(self, calls: Iterable[tuple[str, tuple[int, ...]]]) -> str:
        kinds = {name: type(layer).__name__ for layer, name in self.layers.items()}
        texts = [
            f"{name!r} ({kinds[name]}, {'x'.join(map(str, shape))}"
            + (f", ran {self.counts[name]} times)" if self.counts[name] > 1 else ")")
            for name, shape in calls
        ]
        return ", ".join(texts)


def _continued(done: _Operation, source: Tensor, trail: _Trail) -> list[_Trail] | None:
    """Return the marks of the outputs, or None if the operation may part a value from its class."""
    name, args, kwargs = done.name, done.args, done.kwargs
    trail = dataclasses.replace(trail, output=source if trail.output is None else trail.output)
    if name in _SAME:
        return [trail]
    if "dropout" in name:
        training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
        return None if training else [trail]
    if name in _LAYOUT:
        try:
            channels = done.repeated(source, trail.channels)
            rows = [None] * len(channels) if trail.rows is None else done.repeated(source, trail.rows)
        except (RuntimeError, TypeError):
            return None
        return [dataclasses.replace(trail, channels=c, rows=r) for c, r in zip(channels, rows, strict=True)]
    if name in _RESIZE and source is (args[0] if args else kwargs.get("input")):
        (output,) = done.outputs
        if not trail.in_order() or output.shape[:2] != source.shape[:2]:
            return None
        fifth = args[4] if len(args) > 4 and name in ("interpolate", "upsample") else False
        corners = kwargs.get("align_corners", fifth)
        classes = torch.arange(output.shape[1], device=output.device).view(1, -1, 1, 1)
        return [
            dataclasses.replace(
                trail,
                channels=classes.expand(output.shape),
                rows=None,
                grid=trail.grid if trail.rows is None else trail.rows[:, 0],
                align_corners=trail.align_corners or corners is True or name == "upsample_bilinear",
            )
        ]
    return None


def _mix(operation: str, marks: Iterable[_Mark]) -> _Mixed:
    calls: dict[str, tuple[int, ...]] = {}
    for mark in marks:
        calls.update(mark.calls if isinstance(mark, _Mixed) else ((mark.call.name, mark.call.shape),))
    return _Mixed(operation.strip("_"), tuple(calls.items()))


@contextmanager
def capture(net: nn.Module, head: str | nn.Module | None = None) -> Iterator[Head]:
    """Capture input and output of the head of a network in each forward pass inside the context.

    >>> with capture(net) as head:                                              # doctest: +SKIP
    ...     logits = net(x)
    >>> head.name, head.logits.shape, head.features.shape                       # doctest: +SKIP

    Parameters
    ----------
    net
        Any module that returns logits (see `logits_of`). It is called as usual and nothing of it is changed.
    head
        Dotted name of the head, or the layer itself, where it cannot be found or another one is meant.

    Yields
    ------
    Head
        Filled in by each forward pass; the last one counts.

    Raises
    ------
    HeadError
        From the forward pass, if no layer or more than one can be the head; the text lists the candidates. At
        once, if `head` names no layer of a supported kind.
    ModelError
        From the forward pass, if the network returns no logits.
    """
    root = net
    if isinstance(net, Wrapper):
        root, head = net.net, net.head if head is None else head
    layers: dict[nn.Module, str]
    if head is None:
        layers = {one: name for name, one in root.named_modules() if kind_of(one)}
    else:
        name, layer = find_layer(root, head)
        layers = {layer: name}
    captured = Head()
    tracer = _Tracer(root, layers, head is not None, captured)
    handles: list[RemovableHandle] = []
    try:
        handles += [layer.register_forward_hook(tracer.called, with_kwargs=True) for layer in layers]
        # Registered last: where the network is itself a layer, its output is marked before the verdict.
        handles += [root.register_forward_pre_hook(tracer.begin), root.register_forward_hook(tracer.end)]
        with tracer:
            yield captured
    finally:
        for handle in handles:
            handle.remove()
        tracer.forget()
