"""Following a head's output through the operations behind it, one at a time.

Nothing is believed of an operation because of its name alone:

- operations of `LAYOUT` are repeated on stand-ins of the same shape that hold the pixel and the channel of every
  element, which tells a permutation from a scramble. Stand-ins are broadcast from a few numbers as long as the
  operation makes views;
- of any other operation it is *tried* whether it acts on each pixel's classes alone: repeated on a few hundred pixels
  in a row, it has to give what it gave at their places. If it does, it is a map of values that can be repeated on any
  number of pixels, at any resolution, and derived by automatic differentiation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from .operations import AFFINE, LAYOUT, NORMALISERS, RESIZE, SAME, Operation
from .operations import names as _names
from .tail import Constant, Gather, Resize, Source, Step, Value
from .trail import Settled, Trail, Untraceable, numbered

__all__ = ["Prepared"]

_SAMPLES = (257, 263, 269, 271)  # prime numbers: that of the pixels is to be no number of classes
_STRIDE = 7_368_787  # spreads the samples over the pixels
_SPATIAL_OR_CLASSES = _names("pad constant_pad_nd cat concat concatenate stack")
_CASTS = _names("bfloat16 double float half to to_copy type type_as")
_SUMS = _names("add radd iadd sub subtract rsub isub cat concat concatenate stack")
_PRODUCTS = _names("mul rmul imul multiply div divide truediv rtruediv itruediv true_divide idiv matmul bmm einsum pow")
_ELEMENTWISE = _names("add radd iadd sub subtract mul rmul imul multiply div truediv itruediv neg negative")


@dataclasses.dataclass(frozen=True, eq=False)
class _Frame:
    """How operands of several shapes lie to each other, axes counted from the last."""

    ndim: int
    classes: frozenset[int]
    sizes: list[int]  # of all axes; 1 at the axes of classes

    @property
    def pixel_axes(self) -> list[int]:
        return [axis for axis in range(self.ndim) if axis not in self.classes]

    @property
    def pixel_sizes(self) -> list[int]:
        return [self.sizes[axis] for axis in self.pixel_axes]

    @property
    def row(self) -> int:
        """Axis along which pixels in a row are laid."""
        return self.pixel_axes[0]

    def form(self, rows: Tensor, axes: Sequence[int]) -> Tensor:
        """Lay (pixels, classes ...) along the row and the axes of classes given."""
        shape = [1] * self.ndim
        places = [self.row, *axes]
        for place, length in zip(places, rows.shape, strict=True):
            shape[place] = length
        return rows.permute(sorted(range(len(places)), key=places.__getitem__)).reshape(shape)

    def rows(self, tensor: Tensor, axes: Sequence[int], flat: Tensor) -> Tensor:
        """Take pixels, by their number among all of the frame, from a tensor: (pixels, classes ...)."""
        missing = self.ndim - tensor.ndim
        tensor = tensor.reshape([1] * missing + list(tensor.shape))
        index = torch.unravel_index(flat, self.pixel_sizes)
        own = [
            one.clamp_max(tensor.shape[axis] - 1).to(tensor.device)
            for one, axis in zip(index, self.pixel_axes, strict=True)
        ]
        left = [axis for axis in range(self.ndim) if axis in self.classes]
        # what is repeated along the classes of another operand is there once
        for axis in set(left) - set(axes):
            tensor = tensor.narrow(axis, 0, 1)
        taken = tensor.permute(*self.pixel_axes, *left)[tuple(own)]
        return taken.reshape(len(flat), *(tensor.shape[axis] for axis in axes))


def _frame(parts: Sequence[tuple[Sequence[int], Sequence[int]]], name: str) -> _Frame:
    """Put together (shape, axes of classes) of the operands."""
    ndim = max(len(shape) for shape, _ in parts)
    classes = {axis + ndim - len(shape) for shape, axes in parts for axis in axes}
    sizes = [1] * ndim
    for shape, _ in parts:
        for axis, length in enumerate(shape, ndim - len(shape)):
            if axis not in classes:
                if length not in (1, sizes[axis]) and sizes[axis] != 1:
                    raise Untraceable(name, "its operands do not lie pixel on pixel")
                sizes[axis] = max(sizes[axis], length)
    if len(classes) == ndim:
        raise Untraceable(name, "its operand has no axis of pixels")
    return _Frame(ndim, frozenset(classes), sizes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Operand:
    tensor: Tensor
    settled: Settled | None  # None of a constant
    axes: list[int]  # of classes, in the frame
    frame: _Frame

    @property
    def class_sizes(self) -> list[int]:
        missing = self.frame.ndim - self.tensor.ndim
        return [self.tensor.shape[axis - missing] for axis in self.axes]


class Prepared:
    """An operation about to run: what its operands hold, before it may change them.

    Parameters
    ----------
    call : Operation
        Without outputs.
    trails : sequence of (Tensor, Trail)
        Its operands that have one.
    """

    def __init__(self, call: Operation, trails: Sequence[tuple[Tensor, Trail]]) -> None:
        self.call, self.trails, self.name = call, list(trails), call.plain_name
        self.why: Untraceable | None = None
        self.samples: dict[int, Tensor] = {}
        self.by_values = self.name not in (SAME | RESIZE | LAYOUT) or self.name in _SPATIAL_OR_CLASSES | _CASTS
        if self.by_values:
            try:
                self._take_samples()
            except Untraceable as why:
                self.why = why

    def _take_samples(self) -> None:
        settled = [trail.settled(self.name) for _, trail in self.trails]
        parts = [(tensor.shape, one.axes) for (tensor, _), one in zip(self.trails, settled, strict=True)]
        # what is assigned is a part, and does not lie along the last axes
        self.own_axes = self.call.name == "__setitem__"
        common = None if self.own_axes else _frame(parts, self.name)
        self.operands = []
        for (tensor, _), one, part in zip(self.trails, settled, parts, strict=True):
            frame = common or _frame([part], self.name)
            axes = [axis + frame.ndim - tensor.ndim for axis in one.axes]
            self.operands.append(_Operand(tensor, one, axes, frame))
        self.frame = self.operands[0].frame
        self.count = torch.Size(self.frame.pixel_sizes).numel()
        lengths = {length for operand in self.operands for length in operand.tensor.shape}
        n_samples = next((n for n in _SAMPLES if n not in lengths), _SAMPLES[0])
        if not self.count:
            raise Untraceable(self.name, "its operand is empty")
        self.flat = torch.arange(n_samples) * _STRIDE % self.count
        for operand in self.operands:
            rows = operand.frame.rows(operand.tensor.detach(), operand.axes, self.flat)
            self.samples[id(operand.tensor)] = operand.frame.form(rows, operand.axes).clone()
        floating = [one for one in self.samples.values() if one.is_floating_point()]
        self.largest = max((float(one.nan_to_num(0, 0, 0).abs().max()) for one in floating), default=0.0)

    # after it ran

    def followed(self, outputs: list[Tensor]) -> list[Trail]:
        """The trails of its outputs.

        Raises
        ------
        Untraceable
            If it does not act on each pixel by itself, nor moves or resizes what it is given.
        """
        done = dataclasses.replace(self.call, outputs=outputs)
        if "dropout" in self.name and _idle(done):
            return [self.trails[0][1]] * len(outputs)
        unchanged = self.name in SAME and all(one.dtype == self.trails[0][0].dtype for one in outputs)
        if self.name == "__setitem__":
            return self._assigned(done)
        if self.by_values and self.why is None and not unchanged:
            try:
                return self._values(done)
            except Untraceable as why:
                self.why = why
        if self.name in SAME:
            return [self.trails[0][1]] * len(outputs)
        if self.name in LAYOUT:
            return self._layout(done)
        if self.name in RESIZE:
            return self._resized(done)
        assert self.why is not None
        raise self.why

    def _assigned(self, done: Operation) -> list[Trail]:
        """Of an assignment to a part of a tensor, what is in all of it."""
        target, part, given = done.args
        trails = {id(tensor): trail for tensor, trail in self.trails}
        if id(target) in trails and self.why is None:
            try:
                return self._values(done)
            except Untraceable:
                pass  # not the same at all pixels

        def placed(numbers: Tensor) -> Tensor:
            canvas = numbers.new_zeros(target.shape)
            canvas[part] = numbers
            return canvas

        operands = []
        after = target.detach().clone()
        if isinstance(given, Tensor) and id(given) in trails:
            trail = trails[id(given)]
            pasted = dataclasses.replace(trail, pixel=placed(trail.pixel), channel=placed(trail.channel), entered=None)
            if id(target) not in trails:
                return [pasted]
            operands.append((after, pasted))
        mask = torch.zeros(target.shape, dtype=torch.bool, device=target.device)
        mask[part] = True
        before = after.clone()
        operands.append((before, trails[id(target)]))
        choice = Prepared(Operation(torch.where, (mask, after, before), {}), operands)
        choice.name = self.name
        return choice.followed_as_values([target])

    def followed_as_values(self, outputs: list[Tensor]) -> list[Trail]:
        """As `followed`, of an operation that can only act on each pixel by itself."""
        if self.why is not None:
            raise self.why
        return self._values(dataclasses.replace(self.call, outputs=outputs))

    def _layout(self, done: Operation) -> list[Trail]:
        first = self.trails[0][1]
        if any(
            trail.value is not first.value or trail.grid is not first.grid or trail.steps != first.steps
            for _, trail in self.trails
        ):
            raise Untraceable(self.name, "it lays outputs of several layers beside each other")
        numbers = []
        for part in ("pixel", "channel"):
            stand_ins = {id(tensor): getattr(trail, part) for tensor, trail in self.trails}
            if self.name in _SPATIAL_OR_CLASSES:
                stand_ins |= {
                    id(one): torch.zeros_like(one, dtype=torch.long) for one in done.inputs if id(one) not in stand_ins
                }
            numbers.append(_repeated(done, stand_ins))
        found = []
        for output, pixel, channel in zip(done.outputs, *numbers, strict=True):
            if pixel.shape != output.shape:
                raise Untraceable(self.name, "it cannot be repeated on stand-ins")
            moves = (*first.moves, self.name)
            found.append(dataclasses.replace(first, pixel=pixel, channel=channel, moves=moves, entered=None))
        return found

    def _resized(self, done: Operation) -> list[Trail]:
        (source, trail) = self.trails[0]
        (output,) = done.outputs
        if source is not done.argument(0, "input") or source.ndim != 4 or output.shape[:2] != source.shape[:2]:
            raise Untraceable(self.name, "it does not resize (N, C, h, w)")
        trail = trail.arrived(self.name)
        step = Resize(Operation(done.function, *done.exchanged({id(source): torch.empty(0)})))
        stuck = trail.stuck or ("" if trail.affine or not step.mixing else trail.last)
        n, _, h, w = output.shape
        pixel = torch.arange(1, n * h * w + 1, device=output.device).view(n, 1, h, w).expand(output.shape)
        return [
            dataclasses.replace(
                trail,
                steps=(*trail.steps, step),
                pixel=pixel,
                channel=numbered(output.shape, [1], output.device),
                size=(n, h, w),
                stuck=stuck,
                since="",
                moves=(),
                entered=None,
            )
        ]

    # maps of values

    def _values(self, done: Operation) -> list[Trail]:
        try:
            return self._checked(done, self.operands, spatial=False)
        except Untraceable:
            constants = [] if self.own_axes else self._spatial_constants(done)
            if not constants:
                raise
            return self._checked(done, [*self.operands, *constants], spatial=True)

    def _spatial_constants(self, done: Operation) -> list[_Operand]:
        """Tensors of no head that differ from pixel to pixel, as masks do."""
        known = {id(operand.tensor) for operand in self.operands}
        found = []
        for tensor in done.inputs:
            missing = self.frame.ndim - tensor.ndim
            if id(tensor) in known or missing < 0 or not tensor.numel():
                continue
            shape = [1] * missing + list(tensor.shape)
            fits = all(shape[axis] in (1, self.frame.sizes[axis]) for axis in self.frame.pixel_axes)
            if fits and any(shape[axis] > 1 for axis in self.frame.pixel_axes):
                axes = [axis for axis in sorted(self.frame.classes) if shape[axis] > 1]
                found.append(_Operand(tensor, None, axes, self.frame))
        return found

    def _checked(self, done: Operation, operands: list[_Operand], *, spatial: bool) -> list[Trail]:
        """Try the operation on the samples, and make it a value where it gives what it gave."""
        in_place = any(one is operand.tensor for operand in operands for one in done.outputs) or not done.outputs
        samples = dict(self.samples)
        for operand in operands:
            if operand.settled is None:
                rows = operand.frame.rows(operand.tensor.detach(), operand.axes, self.flat)
                samples[id(operand.tensor)] = operand.frame.form(rows, operand.axes)
        target = done.args[0] if done.name == "__setitem__" else None
        outputs = [target] if target is not None else done.outputs
        try:
            with torch.no_grad():
                tried = _run(done, {key: one.clone() for key, one in samples.items()}, target)
        except Exception as error:
            raise Untraceable(self.name, "it cannot be repeated on single pixels") from error
        if len(tried) != len(outputs):
            raise Untraceable(self.name, "it cannot be repeated on single pixels")
        layouts = [self._agreeing(form, output) for form, output in zip(tried, outputs, strict=True)]
        if self.name in _PRODUCTS and len({_layers_of(trail) for _, trail in self.trails}) > 1:
            raise Untraceable(self.name, "it multiplies outputs of several layers: name the one that is meant as head")
        places, values, base = self._on_one_grid(operands, spatial)
        small = {id(one.tensor): torch.empty(0) for one in operands}
        template = Operation(done.function, *done.exchanged(small))
        aim = None if target is None else small[id(target)]
        # of the operands themselves nothing is kept
        shapes = [(one.frame, one.axes, one.class_sizes, id(small[id(one.tensor)])) for one in operands]
        name, heads = self.name, [trail for _, trail in self.trails]
        affine = name in AFFINE and self._is_affine(done, operands, spatial)
        single = len(operands) == 1
        uniform = name in _ELEMENTWISE and single and all(one.numel() == 1 for one in template.inputs if one.numel())
        found = []
        for number, (output, (row, axes)) in enumerate(zip(outputs, layouts, strict=True)):

            def function(*maps: Tensor, number: int = number, row: int = row, axes: list[int] = axes) -> Tensor:
                n, _, h, w = maps[0].shape
                forms = {}
                for values, (frame, at, sizes, key) in zip(maps, shapes, strict=True):
                    form = frame.form(values.permute(0, 2, 3, 1).reshape(-1, *sizes), at)
                    forms[key] = form.clone() if in_place else form
                result = _run(template, forms, aim)[number]
                rest = [axis for axis in range(result.ndim) if axis != row and axis not in axes]
                return result.permute(row, *axes, *rest).reshape(n, h, w, -1).permute(0, 3, 1, 2)

            entered = self.trails[0] if name in NORMALISERS and single else None
            others = [1 if axis in axes else length for axis, length in enumerate(output.shape)]
            channel = numbered(output.shape, axes, places.device)
            found.append(
                dataclasses.replace(
                    base,
                    value=Value(function, values),
                    pixel=places.reshape(others).expand(output.shape),
                    channel=channel,
                    n_channels=int(channel.max()),
                    affine=affine and all(head.affine for head in heads),
                    replayable=base.replayable and (affine or not any(step.mixing for step in base.steps)),
                    uniform=uniform and heads[0].uniform,
                    since="affine" if affine and base.since != "other" else "other",
                    last=name,
                    moves=(),
                    through=frozenset((name,)).union(*(head.through for head in heads)),
                    entered=None if entered is None else (entered[1], entered[0]),
                )
            )
        return found

    def _is_affine(self, done: Operation, operands: list[_Operand], spatial: bool) -> bool:
        heads = [one for one in operands if one.settled is not None]
        if self.name in _SUMS or self.name in ("mean", "sum"):
            return True
        if len(heads) > 1 or spatial:
            return False
        return self.name not in ("div", "divide", "truediv", "true_divide") or heads[0].tensor is done.args[0]

    def _agreeing(self, form: Tensor, output: Tensor) -> tuple[int, list[int]]:
        """Where the samples' result has its row and its classes, if it is what the operation gave at their places."""
        wrong = Untraceable(self.name, "it does not act on each pixel by itself")
        rows = [axis for axis, length in enumerate(form.shape) if length == len(self.flat)]
        if len(rows) != 1 or form.ndim != output.ndim:
            raise wrong
        (row,) = rows
        axes = [axis for axis, length in enumerate(form.shape) if length > 1 and axis != row]
        others = [axis for axis in range(output.ndim) if axis not in axes]
        if [output.shape[axis] for axis in axes] != [form.shape[axis] for axis in axes]:
            raise wrong
        if torch.Size([output.shape[axis] for axis in others]).numel() != self.count:
            raise wrong
        real = output.detach().permute(*others, *axes).reshape(self.count, -1)[self.flat.to(output.device)]
        rest = [axis for axis in range(form.ndim) if axis != row and axis not in axes]
        mine = form.permute(row, *axes, *rest).reshape(len(self.flat), -1)
        if real.dtype != mine.dtype or not _close(real, mine, self.largest):
            raise wrong
        return row, axes

    def _on_one_grid(self, operands: list[_Operand], spatial: bool) -> tuple[Tensor, list[Value], Trail]:
        """Bring all operands to a common grid.

        Returns
        -------
        LongTensor, list of Value, Trail
            Pixels of the frame by their number, a value for each operand, and what their trails have in common.
        """
        heads = [(one.settled, self._placed(one)) for one in operands if one.settled is not None]
        first, at = heads[0]
        if not spatial and all(_together(first.trail, one.trail) and _same(at, place) for one, place in heads):
            return at, [one.trail.value for one, _ in heads], first.trail
        known: list[tuple[Trail, Tensor, dict[Value, Value]]] = []
        values: list[Value] = []
        for operand in operands:
            if operand.settled is None:
                rows = operand.frame.rows(operand.tensor.detach(), operand.axes, torch.arange(self.count))
                values.append(Constant(rows.reshape(self.count, -1).T[None, :, None]))
                continue
            trail, place = operand.settled.trail, self._placed(operand)
            if trail.stuck:
                raise Untraceable(trail.stuck, f"it comes before pixels are resampled, and {self.name!r} after that")
            # what comes from one place is one source, not two
            alike = [made for other, there, made in known if _together(other, trail) and _same(there, place)]
            leaves = alike[0] if alike else {}
            steps = (*trail.steps, Gather(place.reshape(1, 1, -1)))
            for leaf in trail.value.leaves():
                if leaf not in leaves:
                    leaves[leaf] = leaf.after(steps) if isinstance(leaf, Source) else _moved(leaf, steps)
            known.append((trail, place, leaves))
            values.append(trail.value.rebuilt(leaves))
        numbers = torch.arange(1, self.count + 1, device=at.device).view(self.frame.pixel_sizes)
        size = (1, 1, self.count)
        return (
            numbers,
            values,
            dataclasses.replace(first.trail, grid=object(), steps=(), size=size, since="", replayable=True),
        )

    def _placed(self, operand: _Operand) -> Tensor:
        """Where each pixel of the frame lies on the operand's own map."""
        assert operand.settled is not None
        sizes, places = self.frame.pixel_sizes, operand.settled.places
        if self.own_axes:
            if places.numel() != self.count:
                raise Untraceable(self.name, "what is assigned does not lie pixel on pixel")
            return places.reshape(sizes)
        missing = self.frame.ndim - operand.tensor.ndim
        shape = [1] * missing + list(operand.tensor.shape)
        left = [axis for axis in range(operand.tensor.ndim) if axis not in operand.settled.axes]
        for place, axis in enumerate(left):
            if axis + missing in self.frame.classes:  # repeated along the classes of another operand
                places = places.narrow(place, 0, 1)
        return places.reshape([shape[axis] for axis in self.frame.pixel_axes]).expand(sizes)


def _layers_of(trail: Trail) -> frozenset[int]:
    return frozenset(id(leaf.layer) for leaf in trail.value.leaves() if isinstance(leaf, Source))


def _together(first: Trail, second: Trail) -> bool:
    return first.grid is second.grid and first.steps == second.steps


def _moved(constant: Value, steps: Sequence[Step]) -> Constant:
    assert isinstance(constant, Constant)
    values = constant.values
    for step in steps:
        values = step.of_values(values)
    return Constant(values)


def _same(first: Tensor, second: Tensor) -> bool:
    return first is second or (first.shape == second.shape and torch.equal(first, second))


def _close(real: Tensor, mine: Tensor, largest: float) -> bool:
    """Whether two results are equal up to rounding, of operands up to `largest`."""
    if not real.is_floating_point():
        return torch.equal(real, mine)
    rough = 2e-2 if real.dtype in (torch.float16, torch.bfloat16) else 1e-4
    finite = real.isfinite()
    if not torch.equal(finite, mine.isfinite()) or not torch.equal(
        real[~finite].nan_to_num(), mine[~finite].nan_to_num()
    ):
        return False
    scale = float(real[finite].abs().max()) if finite.any() else 0.0
    return bool(((real - mine)[finite].abs() <= rough * (max(scale, largest) * 0.01 + real[finite].abs())).all())


def _idle(done: Operation) -> bool:
    """Whether a dropout lets everything through."""
    training = done.kwargs.get("training", done.kwargs.get("train", done.args[2] if len(done.args) > 2 else True))
    return not training


def _run(done: Operation, stand_ins: dict[int, Tensor], target: Tensor | None) -> list[Tensor]:
    """What an operation gives on stand-ins; of an assignment, what it was assigned to."""
    results = done.on(stand_ins)
    return results if target is None else [stand_ins[id(target)]]


def _repeated(done: Operation, stand_ins: dict[int, Tensor]) -> list[Tensor]:
    """A layout operation on numbers, with 0 in place of the constant that it puts."""
    is_constant = done.name == "pad" and done.argument(2, "mode", "constant") == "constant"
    if is_constant or done.name == "constant_pad_nd":
        args, kwargs = list(done.args), dict(done.kwargs)
        place = 3 if done.name == "pad" else 2
        if len(args) > place:
            args[place] = 0
        elif "value" in kwargs:
            kwargs["value"] = 0
        done = Operation(done.function, tuple(args), kwargs)
    try:
        return done.on(stand_ins)
    except (RuntimeError, TypeError, NotImplementedError):
        pass
    try:
        if done.name in ("fold", "col2im"):  # where patches overlap, they are summed up
            counts = done.on({key: torch.ones_like(one, dtype=torch.double) for key, one in stand_ins.items()})
            if bool((counts[0] > 1).any()):
                raise Untraceable("fold", "its patches overlap")
        return [one.round().long() for one in done.on({key: one.double() for key, one in stand_ins.items()})]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise Untraceable(done.plain_name, "it cannot be repeated on stand-ins") from error
