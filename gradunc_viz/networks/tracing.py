"""Finding the layers that produce the logits, and what is done to their outputs, in a forward pass."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from ..schema.errors import HeadError
from .following import Prepared
from .head import Head, Plan, Wrapper, find_layer, kind_of, kinds_text
from .operations import KERNELS, Operation, tensors_in
from .outputs import as_logits, logits_of
from .tail import Resize, Source, Tail, Value, two_classes
from .trail import Trail, Untraceable

__all__ = ["Ancestry", "Watch", "ancestry", "capture", "unlike_plain"]

_Key = tuple[str, int]  # a layer's name, and which of its calls


@dataclasses.dataclass(frozen=True, eq=False)
class _Call:
    """One call of a candidate: what earlier calls its input was computed of, without another between or at all."""

    shape: tuple[int, ...]
    before: frozenset[_Key]
    depends: frozenset[_Key]
    unlike: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Origin:
    """Mark of a tensor in the search: calls that it is computed of, without a candidate between (`open`) or at all."""

    open: frozenset[_Key]
    depends: frozenset[_Key]
    operation: str = ""  # that put several together


@dataclasses.dataclass(frozen=True, eq=False)
class _Blocked:
    """Mark of a tensor computed of the outputs of heads by an operation that cannot be repeated."""

    operation: str
    why: str


class Watch(TorchFunctionMode):
    """Hands marks from tensor to tensor during one forward pass of a network."""

    def __init__(self, layers: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.layers = layers
        self.running = False
        self.forget()

    def forget(self) -> None:
        """Let go of every tensor."""
        self.marks: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.running:
            return func(*args, **kwargs)
        call = Operation(func, args, kwargs)
        marked = list({id(one): (one, self.marks[one]) for one in call.operands if one in self.marks}.values())
        prepared = self.prepare(call, marked) if marked else None
        result = func(*args, **kwargs)
        outputs = list(tensors_in((result,)))
        if call.name == "__setitem__":
            outputs = [args[0]]
        if outputs:
            self.passed(call, marked, prepared, outputs)
        return result

    def prepare(self, call: Operation, marked: list[tuple[Tensor, Any]]) -> Any:
        """Before an operation runs; may mend the marks of its operands."""

    def passed(self, call: Operation, marked: list[tuple[Tensor, Any]], prepared: Any, outputs: list[Tensor]) -> None:
        """After an operation ran."""
        raise NotImplementedError

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After a layer ran."""
        raise NotImplementedError


class _Search(Watch):
    """Which calls of which layers the output is computed of, without another layer between."""

    def forget(self) -> None:
        super().forget()
        self.calls: dict[_Key, _Call] = {}

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self.running or not isinstance(output, Tensor):
            return
        key = (self.layers[layer], self.counts[self.layers[layer]])
        self.counts[key[0]] += 1
        features = args[0] if args else kwargs["input"]
        origin = self.marks.get(features)
        before, depends = (frozenset(), frozenset()) if origin is None else (origin.open, origin.depends)
        self.calls[key] = _Call(tuple(output.shape), before, depends, unlike_plain(layer, features, output))
        self.marks[output] = _Origin(frozenset((key,)), depends | {key})

    def passed(self, call: Operation, marked: list[tuple[Tensor, Any]], prepared: Any, outputs: list[Tensor]) -> None:
        if not marked:
            return
        origins = [mark for _, mark in marked]
        mark = origins[0]
        if any(one is not mark for one in origins):
            opened: frozenset[_Key] = frozenset().union(*(one.open for one in origins))
            mark = _Origin(opened, frozenset().union(*(one.depends for one in origins)), call.plain_name)
        for output in outputs:
            self.marks[output] = mark


class _Record(Watch):
    """What is done to the outputs of some calls."""

    def __init__(self, layers: Mapping[nn.Module, str], targets: frozenset[_Key], *, named: bool) -> None:
        super().__init__(layers)
        self.targets, self.named = targets, named

    def forget(self) -> None:
        super().forget()
        self.features: dict[str, Tensor] = {}
        self.parts: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.overwritten = ("", "")

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self.running or not isinstance(output, Tensor):
            return
        name = self.layers[layer]
        key = (name, self.counts[name])
        self.counts[name] += 1
        if key not in self.targets:
            return
        kind = kind_of(layer)
        assert kind is not None
        features = args[0] if args else kwargs["input"]
        self.features[name] = features
        # what the network does to its output in place is to be repeated on the output as it was
        source = Source.of_call(name, layer, key[1], features, output.detach().clone(), rows=kind.rows)
        self.marks[output] = Trail.start(source, output.shape, kind.class_axis)

    def prepare(self, call: Operation, marked: list[tuple[Tensor, Any]]) -> Prepared | None:
        restored = []
        for tensor, mark in marked:
            part = self.parts.get(tensor) if call.name == "__setitem__" and tensor is call.args[0] else None
            # a part of a tensor was changed in place and is assigned to it: as in y[:, 0] -= 5
            restored.append((tensor, part[0] if part is not None and part[1] is call.args[2] else mark))
        marked[:] = restored
        if any(isinstance(mark, _Blocked) for _, mark in marked):
            return None
        return Prepared(call, marked)

    def passed(self, call: Operation, marked: list[tuple[Tensor, Any]], prepared: Any, outputs: list[Tensor]) -> None:
        changed = [one for one in outputs if any(one is before for before in call.inputs)]
        if call.plain_name != call.name or call.name == "__setitem__":
            self._overwrite(changed, call)
        if not marked:
            return
        blocked = next((mark for _, mark in marked if isinstance(mark, _Blocked)), None)
        marks: list[Any]
        if blocked is not None:
            marks = [blocked] * len(outputs)
        else:
            try:
                if not self.named and _learned(call):
                    raise Untraceable(call.name, "a learned kernel that is no layer's: name the layer to use as head")
                marks = prepared.followed(outputs)
            except Untraceable as why:
                marks = [_Blocked(why.operation, str(why))] * len(outputs)
        for output, mark in zip(outputs, marks, strict=True):
            self.marks[output] = mark

    def _overwrite(self, changed: list[Tensor], call: Operation) -> None:
        """Take note of tensors changed in place, under whatever name their memory is known."""
        for one in changed:
            for tensor, mark in list(self.marks.items()):
                if tensor is not one and isinstance(mark, Trail) and _share(one, tensor):
                    if call.name == "__setitem__" and tensor is call.args[2]:
                        continue
                    self.parts[tensor] = (mark, one)
                    self.marks[tensor] = _Blocked(call.plain_name, "it overwrites a part of it in place")
            for name, features in self.features.items():
                if _share(one, features):
                    self.overwritten = (name, call.name)


def _learned(call: Operation) -> bool:
    """Whether a matrix that is a parameter of the network is applied."""
    return call.plain_name in KERNELS and any(
        isinstance(one, nn.Parameter) and one.requires_grad and sum(length > 1 for length in one.shape) > 1
        for one in call.inputs
    )


def _share(first: Tensor, second: Tensor) -> bool:
    if first is second:
        return True
    try:
        address = first.untyped_storage().data_ptr()
        return address != 0 and address == second.untyped_storage().data_ptr()
    except RuntimeError:  # sparse tensors and those inside vmap have no storage to look at
        return False


def unlike_plain(layer: nn.Module, features: Tensor, output: Tensor) -> str:
    """What tells a layer from the plain one of its kind; "" if nothing does."""
    kind = kind_of(layer)
    assert kind is not None
    if type(layer).forward is kind.module.forward and "forward" not in layer.__dict__:
        return ""
    what = f"is a {type(layer).__name__} that does more than a {kind.module.__name__}"
    try:
        with torch.no_grad():
            plain = kind.module.forward(layer, features)
    except Exception as error:  # whatever a class made of its parent's attributes
        return f"{what}: as one it fails ({type(error).__name__}: {error})"
    if plain.shape != output.shape:
        return f"{what}: as one it returns {tuple(plain.shape)}, not {tuple(output.shape)}"
    rough = 2e-2 if output.dtype in (torch.float16, torch.bfloat16) else 1e-4
    wrong = (plain - output).abs() > rough * output.abs().amax().clamp_min(1e-30)
    return f"{what}: {int(wrong.sum())} of its {wrong.numel()} outputs differ from a plain one's" if wrong.any() else ""


class _Capture:
    """Searches the heads of a network in its forward passes, and fills in what is found."""

    def __init__(
        self,
        root: nn.Module,
        head: str | nn.Module | None,
        output: str | int | None,
        plan: Plan | None,
        likely: Plan | None,
    ) -> None:
        self.root, self.output, self.plan = root, output, plan
        self.captured = Head()
        self.named = head is not None
        if head is None:
            self.layers = {one: name for name, one in nn.Module.named_modules(root) if kind_of(one)}
        else:
            name, layer = find_layer(root, head)
            self.layers = {layer: name}
        self.search: _Search | None = _Search(self.layers)
        expected = plan or likely
        self.record = None if expected is None else self._recording(expected.targets)
        self.nested = False
        self.given: tuple[Any, Any] = ((), {})

    def begin(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """Before the forward pass: start afresh, so that two passes are never in memory together."""
        if self.nested:
            return
        self.captured.clear()
        self.given = args, kwargs
        for watch in self.watches:
            watch.forget()
            watch.running = True

    @property
    def watches(self) -> list[Watch]:
        """What watches the forward pass."""
        return [watch for watch in (self.search, self.record) if watch is not None]

    def called(self, layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """After a candidate ran."""
        for watch in self.watches:
            watch.called(layer, args, kwargs, output)

    def _recording(self, targets: frozenset[_Key]) -> _Record:
        return _Record(self.layers, targets, named=self.named)

    def end(self, root: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """After the forward pass: name the heads, or raise."""
        if self.nested:
            return
        try:
            logits = logits_of(result, self.output, self._size)
            for watch in self.watches:
                watch.running = False
            assert self.search is not None
            targets = self._targets(self.search, logits)
            if self.record is not None and targets == self.record.targets:
                self._fill(self.record, logits)
                return
            self.plan = None  # the network does another thing on this image than on the last
            for watch in self.watches:
                watch.forget()
            # once more, now that it is known whose outputs are to be followed
            search, likely, self.nested = self.search, self.record, True
            self.search, self.record = None, self._recording(targets)
            try:
                self._fill(self.record, self._again(self.record))
            finally:
                self.record.forget()
                self.search, self.record, self.nested = search, likely, False
        finally:
            for watch in self.watches:
                watch.running = False
                watch.forget()

    def _again(self, record: _Record) -> Tensor:
        args, kwargs = self.given
        record.running = True
        try:
            with record:
                return logits_of(self.root(*args, **kwargs), self.output, self._size)
        finally:
            record.running = False

    @property
    def _size(self) -> tuple[int, ...] | None:
        """Size of the network's input, where it is an image."""
        args, kwargs = self.given
        images = [one for one in tensors_in((args, tuple(kwargs.values()))) if one.ndim == 4]
        return tuple(images[0].shape[2:]) if images else None

    # the search's verdict

    def _targets(self, search: _Search, result: Tensor) -> frozenset[_Key]:
        """Calls whose outputs the logits are made of."""
        if not self.layers and isinstance(self.root, torch.fx.GraphModule):
            raise HeadError("a graph of torch.export or torch.fx has no layers: expected what load_model makes of it")
        if not self.layers:
            raise HeadError(f"no convolution or linear layer in {type(self.root).__name__}: expected {kinds_text()}")
        if not search.calls:
            if self.named:
                raise HeadError(f"layer {next(iter(self.layers.values()))!r} did not run in the forward pass")
            raise HeadError(f"none of the {len(self.layers)} layers of kind {kinds_text()} ran in the forward pass")
        origin, classes = search.marks.get(result), result.shape[1]
        if origin is None:
            layers = f"layer {next(iter(self.layers.values()))!r}" if self.named else "a layer"
            raise HeadError(
                f"the network's output could not be traced to {layers}: something behind it is no operation of torch, "
                f"or a function with a gradient of its own; layers that ran: {_listed(search.calls, classes)}"
            )
        for key in origin.open:
            if search.calls[key].unlike:
                raise HeadError(f"layer {key[0]!r} {search.calls[key].unlike}; its gradient norm has no closed form")
        # by layers, not by calls: a kernel has one gradient
        before = {name for key in origin.open for name, _ in search.calls[key].depends}
        deeper = {key for key in origin.open if key[0] in before}
        if deeper:
            last = {key: search.calls[key] for key in origin.open - deeper or deeper}
            first = {key: search.calls[key] for key in deeper}
            raise HeadError(
                f"the network's output is made, by {origin.operation!r}, of the output of {_listed(last, classes)} "
                f"and, besides, of {_listed(first, classes)}, which that depends on: name the layer whose gradient is "
                f"meant, as in head={next(iter(last))[0]!r}; the others then count as constants"
            )
        return origin.open

    # what the record says

    def _fill(self, record: _Record, result: Tensor) -> None:
        trail = record.marks.get(result)
        names = ", ".join(repr(name) for name in sorted({key[0] for key in record.targets}))
        if isinstance(trail, _Blocked):
            raise HeadError(
                f"what the network does to the output of {names} cannot be repeated on maps of scores: "
                f"{trail.operation!r}, {trail.why}"
            )
        if trail is None:
            raise HeadError(f"the network's output was computed of the output of {names}, but not in the next pass")
        if record.overwritten[0]:
            name, operation = record.overwritten
            raise HeadError(
                f"the input of {name!r} is overwritten in place by {operation!r} after the layer ran: make that "
                "operation out of place"
            )
        try:
            logits, trail = as_logits(result.detach(), trail)
            trail = trail.arrived("the network's output")
        except Untraceable as why:
            raise HeadError(f"the network's output is no map of the outputs of {names}: {why}") from None
        value, steps = trail.value, trail.steps
        one_logit = logits.shape[1] == 1
        if one_logit:
            value, logits = Value(two_classes, [value]), two_classes(logits)
        last = steps[-1] if steps else None
        # resized to the image straight from the last map of few pixels, not by way of the network's output
        folds = isinstance(last, Resize) and last.bilinear and trail.since != "other"
        folds = folds and tuple(logits.shape[2:]) == self._size
        if folds and trail.replayable:
            assert isinstance(last, Resize)
            tail = Tail(value, steps[:-1], one_logit=one_logit)
            on_map, align_corners = tail.moved_logits(), last.align_corners
            if self.plan is None:
                resized = F.interpolate(
                    _floating(on_map), logits.shape[2:], mode="bilinear", align_corners=align_corners
                )
                _check(names, resized, logits, None)
        else:
            tail, on_map, align_corners = Tail(value, steps, trail.replayable, one_logit), logits, False
            if self.plan is None and trail.replayable:
                _check(names, _floating(tail.moved_logits()), logits, tail.share())
        if self.plan is None and not tail.reached():
            raise HeadError(
                f"no gradient of the network's output reaches the output of {names}, after "
                f"{', '.join(sorted(trail.through))}: classes or constants are no logits"
            )
        targets = record.targets
        counts = {name: record.counts[name] for name in sorted({key[0] for key in targets})}
        simple = tail.as_it_left()
        if simple is not None:
            (source, grid), ((name, index),) = simple, targets
            plan = Plan(source.layer, name, index, counts[name], grid, align_corners, targets, counts)
            parts = (source.features, source.output)
            self.captured.fill(plan, *(part[0, :, 0].T if source.rows else part for part in parts))
        else:
            first = tail.sources[0]
            plan = Plan(first.layer, first.name, 0, 0, None, align_corners, targets, counts, simple=False)
            self.captured.fill_behind(plan, tail, on_map)


def _listed(calls: Mapping[_Key, _Call], classes: int) -> str:
    shapes = {key[0]: call.shape for key, call in calls.items()}
    fitting = {name: shape for name, shape in shapes.items() if classes in (shape[-1], *shape[-3:-2])}
    texts = [f"{name!r} {shape}" for name, shape in list((fitting or shapes).items())[-8:]]
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _floating(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check(names: str, mine: Tensor, own: Tensor, share: Tensor | None) -> None:
    """Compare logits that are replayed with the network's own.

    Raises
    ------
    HeadError
        Where they differ by more than rounding, or so that another class is predicted.
    """
    rough = 3e-2 if own.dtype in (torch.float16, torch.bfloat16) else 1e-3
    own, mine = _floating(own), _floating(mine)
    finite = own.isfinite()
    scale = torch.where(finite, own, 0).abs().amax(1, keepdim=True)
    wrong = ((mine - own).abs() > rough * (scale + 1e-6)) & finite
    wrong |= finite != mine.isfinite()
    pixels = wrong.any(1)
    if share is not None:
        pixels &= share[:, 0] > 1 - 1e-3  # where a constant was put, there is nothing to compare
    if pixels.any():
        other = int((pixels & (mine.argmax(1) != own.argmax(1))).sum())
        raise HeadError(
            f"logits replayed from the output of {names} differ from the network's own at {int(pixels.sum())} of "
            f"{pixels.numel()} pixels, predictions at {other}: the network does something to them that was not seen; "
            "gradient norms would not be its own"
        )


@contextmanager
def capture(
    net: nn.Module,
    head: str | nn.Module | None = None,
    *,
    output: str | int | None = None,
    plan: Plan | None = None,
    likely: Plan | None = None,
) -> Iterator[Head]:
    """Capture input and output of the head of a network in each forward pass inside the context.

    >>> with capture(net) as head:                                              # doctest: +SKIP
    ...     logits = net(x)
    >>> head.name, head.logits.shape, head.features.shape                       # doctest: +SKIP

    Parameters
    ----------
    net
        Any module that returns logits (see `gradunc_viz.networks.outputs.logits_of`). It is called as usual, a second
        time where its head is not known yet, and nothing of it is changed.
    head
        Dotted name of the head, or the layer itself, where it cannot be found or only one of several is meant.
    output
        Which of the maps that the network returns is meant, see `gradunc_viz.networks.outputs.logits_of`.
    plan
        ``head.plan`` of an earlier pass on an input of the same shape: spares the second pass and the comparison of all
        pixels, where the network's output is made of the same layers.
    likely
        That of an earlier pass on an input of another shape: spares the second pass, where the head is the same.

    Yields
    ------
    Head
        Filled in by each forward pass; the last one counts.

    Raises
    ------
    HeadError
        From the forward pass, if no layer can be the head, or something behind it cannot be repeated on maps of
        scores; the text names the operation or lists the candidates. At once, if `head` names no layer of a supported
        kind.
    ModelError
        From the forward pass, if the network returns no logits.
    """
    root = net
    if isinstance(net, Wrapper):
        root, head = net.net, net.head if head is None else head
        output = net.output if output is None else output
    search = _Capture(root, head, output, plan, likely)
    handles: list[RemovableHandle] = []
    try:
        # around all hooks of the user's own: what these change belongs to the network
        handles += [
            layer.register_forward_hook(search.called, with_kwargs=True, prepend=True) for layer in search.layers
        ]
        handles += [
            root.register_forward_pre_hook(search.begin, with_kwargs=True, prepend=True),
            root.register_forward_hook(search.end, with_kwargs=True),
        ]
        with ExitStack() as stack:
            for watch in search.watches:
                stack.enter_context(watch)
            yield search.captured
    finally:
        for handle in handles:
            handle.remove()
        for watch in search.watches:
            watch.forget()


@dataclasses.dataclass
class Ancestry:
    """Which layer's output entered which layer, in the last forward pass.

    Attributes
    ----------
    before
        Of each call of a layer, its name and number, those whose output its input was computed of, without another
        layer between.
    output
        The same of the network's logits.
    unlike
        Of each call, what tells the layer from a plain one of its kind; empty if nothing does.
    """

    before: Mapping[_Key, frozenset[_Key]] = dataclasses.field(default_factory=dict)
    output: frozenset[_Key] = frozenset()
    unlike: Mapping[_Key, str] = dataclasses.field(default_factory=dict)


@contextmanager
def ancestry(net: nn.Module, output: str | int | None = None) -> Iterator[Ancestry]:
    """Watch which layer's output enters which layer, in each forward pass of a network inside the context.

    Parameters
    ----------
    net
        Any module; layers of `gradunc_viz.networks.head.HEAD_KINDS` are watched.
    output
        See `gradunc_viz.networks.outputs.logits_of`.

    Yields
    ------
    Ancestry
        Filled in by each forward pass; the last one counts.
    """
    layers = {one: name for name, one in nn.Module.named_modules(net) if kind_of(one)}
    search, seen = _Search(layers), Ancestry()

    def begin(root: nn.Module, args: Any) -> None:
        search.forget()
        search.running = True

    def end(root: nn.Module, args: Any, result: Any) -> None:
        logits = logits_of(result, output)
        search.running = False
        origin = search.marks.get(logits)
        seen.before = {key: call.before for key, call in search.calls.items()}
        seen.unlike = {key: call.unlike for key, call in search.calls.items()}
        seen.output = frozenset() if origin is None else origin.open

    handles = [layer.register_forward_hook(search.called, with_kwargs=True, prepend=True) for layer in layers]
    handles += [net.register_forward_pre_hook(begin, prepend=True), net.register_forward_hook(end)]
    try:
        with search:
            yield seen
    finally:
        search.running = False
        search.forget()
        for handle in handles:
            handle.remove()
