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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from .schema.errors import HeadError, ModelError

__all__ = ["HEAD_KINDS", "Head", "Plan", "Wrapper", "capture", "find_layer", "follow", "logits_of"]

HEAD_KINDS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Kinds of layer whose gradient norm has a closed form."""

_KINDS_TEXT = "Conv2d, ConvTranspose2d or Linear"


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
        from .schema.display import card, code

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

    from .schema.display import picture
    from .style.palette import class_colors

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
        return -1 if isinstance(self.layer, nn.Linear) else -3


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


def _function_name(function: Any) -> str:
    name = getattr(function, "__name__", "?")
    return getattr(function.__self__, "__name__", name) if name == "__get__" else name


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
        self.head._clear()
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
            self.head._fill(plan, call.features, logits if trail.output is None else trail.output)
            if len(self.head.logits) != len(logits):
                shapes = f"{tuple(self.head.logits.shape)} and {tuple(logits.shape)}"
                self.head._clear()
                raise HeadError(f"the output of {call.name!r} and the network's differ in batch size: {shapes}")
        finally:
            self.forget()

    # the function mode

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.running:
            self._pass_on(func, args, kwargs, result)
        return result

    def _pass_on(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = _function_name(func)
        outputs = list(_tensors((result,)))
        if not outputs and name != "__setitem__":
            return
        inputs = list(_tensors((args, tuple(kwargs.values()))))
        marked = [(tensor, self.marks[tensor]) for tensor in inputs if tensor in self.marks]
        if marked and isinstance(marked[0][1], _Trail):
            trails = self._continued(func, name, *marked[0], args, kwargs, outputs)
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

    def _continued(
        self,
        func: Any,
        name: str,
        source: Tensor,
        trail: _Trail,
        args: Any,
        kwargs: Any,
        outputs: list[Tensor],
    ) -> list[_Trail] | None:
        """Return the marks of the outputs, or None if the operation may part a value from its class."""
        trail = dataclasses.replace(trail, output=source if trail.output is None else trail.output)
        if name in _SAME:
            return [trail]
        if "dropout" in name:
            training = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
            return None if training else [trail]
        if name in _LAYOUT:
            repeat = _ON_STAND_IN.get(name, func)

            def moved(stand_in: Tensor) -> list[Tensor]:
                swap = {key: stand_in if value is source else value for key, value in kwargs.items()}
                done = repeat(*(stand_in if value is source else value for value in args), **swap)
                return list(_tensors((done,)))

            try:
                channels = moved(trail.channels)
                rows = [None] * len(channels) if trail.rows is None else moved(trail.rows)
            except (RuntimeError, TypeError):
                return None
            return [dataclasses.replace(trail, channels=c, rows=r) for c, r in zip(channels, rows, strict=True)]
        if name in _RESIZE and source is (args[0] if args else kwargs.get("input")):
            (output,) = outputs
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
            raise HeadError(f"no convolution or linear layer in {type(self.root).__name__}: expected {_KINDS_TEXT}")
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
            raise HeadError(f"none of the {len(self.layers)} layers of kind {_KINDS_TEXT} ran in the forward pass")
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


def _mix(operation: str, marks: Iterable[_Mark]) -> _Mixed:
    calls: dict[str, tuple[int, ...]] = {}
    for mark in marks:
        calls.update(mark.calls if isinstance(mark, _Mixed) else ((mark.call.name, mark.call.shape),))
    return _Mixed(operation.strip("_"), tuple(calls.items()))


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
        layers = {one: name for name, one in root.named_modules() if isinstance(one, HEAD_KINDS)}
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
