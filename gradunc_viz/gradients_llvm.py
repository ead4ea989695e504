"""The sums behind gradient norms and softmax scores on a CPU, compiled for the very scores that are asked for.

Features and logits are read once, in tiles that stay in the first cache, and nothing is written but the result.
float16, bfloat16 and float32 inputs; sums are float32, those in float64 take `gradunc_viz.gradients_cpu`, whose
formulas these are. Compiling a kernel takes about 0.1 s, once per process and set of scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from . import gradients_cpu
from .hardware import in_threads
from .power_plan import power_plan
from .schema import LOG2_FLOOR
from .vector_code import LANES, Code, Value, exp2, log2

__all__ = ["blend", "feature_sums", "label_kernel", "label_pass", "positive_log2", "workspace"]

Request = tuple[str, float, str]

_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2)
_LIFT = 60  # log2 of a factor that makes every subnormal normal
_FEATURE_TILE, _LABEL_TILE = 512, 128  # pixels whose sums, or logits, stay in the first cache
_SLAB = 1 << 18  # elements for each call of a kernel: long beside what Python does between two calls
_LARGEST = 3.4e38
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def positive_log2(x: Value) -> Value:
    """Logarithm of finite x >= 0, subnormal or not, at most 2^60; that of 0 is any number."""
    return log2(x * 2.0**_LIFT, -_LIFT)


def _powers(ps: Sequence[float], x: Value | None = None, log2_x: Value | None = None) -> dict[float, Value]:
    """x^p for every p, by the fewest exponentials; from x >= 0, or from its logarithm where that is at most 0."""
    made: list[Value] = []
    found = {}
    for step in power_plan(tuple(ps), x is not None):
        if step.kind == "given":
            assert x is not None
            power = x
        elif step.kind == "exponential":
            if log2_x is None:
                assert x is not None
                log2_x = positive_log2(x)
            power = exp2(log2_x * step.p)
            if x is not None:  # 0, infinity and NaN are their own powers
                power = power.where((x > 0.0) & (x < _LARGEST), x)
        elif step.kind == "root":
            power = made[step.factors[0]].sqrt()
        else:
            power = made[step.factors[0]] * made[step.factors[1]]
        made.append(power)
        if step.wanted:
            found[step.p] = power
    return found


def _tree_sum(values: Sequence[Value]) -> Value:
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2], strict=False)] + list(values[len(values) // 2 * 2 :])
    return values[0]


# --------------------------------------------------------------------------------------------------------------------
# features


@cache
def _feature_kernel(ps: tuple[float, ...], kind: str, scaled: bool) -> Callable[..., None]:
    """Sums over channels of |psi / scale|^p; `pixels` is a multiple of LANES."""
    names = {"features": "pointer", "stride": "long", "depth": "long", "pixels": "long", "out": "pointer"}
    names |= {"out_stride": "long", "largest": "pointer", "scale": "float"}
    code = Code("feature_sums", names)
    features, stride, depth, pixels, out, out_stride, largest, scale = code.arguments.values()
    sums = code.room(len(ps) * _FEATURE_TILE)
    found = code.variable(code.vector(0.0))
    divisor = code.vector(scale)

    def add_up(first: Value, count: Value, channel: Value, channels: int) -> None:
        with code.loop(count, step=LANES) as place:
            powers = []
            for k in range(channels):
                x = code.load(features, (channel + k) * stride + first + place, kind).abs()
                found.set(x.where(x > found.value, found.value))
                x = x / divisor if scaled else x
                powers.append(_powers(ps, x))
            for row, p in enumerate(ps):
                at = place + row * _FEATURE_TILE
                code.store(code.load(sums, at) + _tree_sum([power[p] for power in powers]), sums, at)

    tiles = pixels + (_FEATURE_TILE - 1)
    with code.loop(tiles, step=_FEATURE_TILE) as first:
        count = (pixels - first).at_most(_FEATURE_TILE)
        for row in range(len(ps)):
            with code.loop(count, step=LANES) as place:
                code.store(code.vector(0.0), sums, place + row * _FEATURE_TILE)
        code.by_fours(depth, lambda channel, channels: add_up(first, count, channel, channels))
        for row in range(len(ps)):
            with code.loop(count, step=LANES) as place:
                code.store(code.load(sums, place + row * _FEATURE_TILE), out, out_stride * row + first + place)
    code.store(found.value, largest, code.long(0))
    return code.compiled()


def feature_sums(
    features: Tensor, ps: Sequence[float], dtype: torch.dtype, *, at_least: float = 0.0
) -> tuple[Tensor, Tensor]:
    """See `gradunc_viz.gradients_cpu.feature_sums`."""
    if dtype != torch.float32 or features.dtype not in _DTYPES or not ps:
        return gradients_cpu.feature_sums(features, ps, dtype, at_least=at_least)
    n, depth, height, width = features.shape
    planes = _Planes(features)
    slabs = planes.slabs(_FEATURE_TILE)
    result = np.empty((n, len(ps), planes.pixels), "f4")
    scales, zero = np.ones((n, len(slabs))), np.zeros((n, len(slabs)), bool)
    asked = tuple(float(p) for p in ps)

    def add_up(at: tuple[int, int]) -> None:
        image, index = at
        slab = slice(*slabs[index])
        source, out = planes.rows(image, slab), _Target(result[image], slab)
        largest = np.empty(LANES, "f4")

        def run(scale: float) -> float:
            kernel = _feature_kernel(asked, planes.kind, scale != 1)
            kernel(*_place(source), depth, source.shape[1], *_place(out.rows), largest.ctypes.data, scale)
            return float(largest.max())

        found = run(1.0)
        # near 1 every square is in the range of float32
        if 0 < found < math.inf and not 2.0**-10 <= found <= 2.0**30:
            scales[image, index] = 2.0 ** math.floor(math.log2(found))
            run(scales[image, index])
        zero[image, index] = found == 0
        out.finish()

    in_threads(add_up, [(image, index) for image in range(n) for index in range(len(slabs))])
    common = np.maximum(np.where(zero, at_least, scales).max(1), at_least)
    common[common == 0] = 1
    for image, index in np.argwhere(scales != common[:, None]):
        ratio = scales[image, index] / common[image]
        result[image, :, slice(*slabs[index])] *= np.array([[ratio**p] for p in asked], "f4")
    return torch.from_numpy(common), torch.from_numpy(result).view(n, len(ps), height, width)


# --------------------------------------------------------------------------------------------------------------------
# logits


def _exp(x: Value) -> Value:
    """e^x for x <= 0, down to the smallest subnormal and 0."""
    half = exp2(x * (_LOG2_E / 2))
    return half * half


def _expm1(x: Value) -> Value:
    """e^x - 1 for x <= 0 with the digits of small x."""
    series = x * (1 / 8) + 1.0
    for k in range(7, 1, -1):
        series = series * (x * (1 / k)) + 1.0
    return (x * series).where(x > -0.4, _exp(x) - 1.0)


def _log1p(x: Value) -> Value:
    """ln(1 + x) for x >= 0 with the digits of small x."""
    above = x + 1.0
    return log2(above) * _LN_2 + (x - (above - 1.0)) / above


@cache
def label_kernel(
    wanted: tuple[Request, ...], rows: tuple[int, ...], names: tuple[str, ...], kind: str, blended: bool = False
) -> Callable[..., None]:
    """Norms and scores of the softmax family; `pixels` is a multiple of LANES.

    Parameters
    ----------
    rows : tuple of int
        Which of the features' sums each norm takes.
    blended : bool
        Whether there are `lines` rows of pixels, each a weighted mean of two: the weight of the second, and where
        either starts, stand in `weight`, `above` and `below`.
    """
    arguments = {"logits": "pointer", "stride": "long", "classes": "long", "pixels": "long"}
    arguments |= {"sums": "pointer", "sums_stride": "long", "log2_scale": "float"}
    arguments |= {"norms": "pointer", "norms_stride": "long", "scores": "pointer", "scores_stride": "long"}
    arguments |= {"prediction": "pointer", "label": "pointer", "work": "pointer", "share": "float", "paper": "float"}
    if blended:
        arguments |= {"lines": "long", "above": "pointer", "below": "pointer", "weight": "pointer"}
    code = Code("label_pass", arguments)
    given = code.arguments
    kernel = _LabelKernel(code, wanted, rows, names)

    def one_line(start: Value, logit: Callable[[Value, Value], Value]) -> None:
        with code.loop(given["pixels"] + (_LABEL_TILE - 1), step=_LABEL_TILE) as first:
            count = (given["pixels"] - first).at_most(_LABEL_TILE)
            kernel.find_largest(first, count, logit)
            with code.loop(count, step=LANES) as place:
                kernel.score(place, start + first + place)

    if blended:
        with code.loop(given["lines"]) as line:
            mean = blend(code, line)
            one_line(line * given["pixels"], lambda index, at: mean(given["logits"], given["stride"] * index + at))
    else:
        one_line(code.long(0), lambda index, at: code.load(given["logits"], given["stride"] * index + at, kind))
    return code.compiled()


def blend(code: Code, line: Value) -> Callable[[Value, Value], Value]:
    """(pointer, place) -> weighted mean of two rows there, by a function's arguments `above`, `below` and `weight`."""
    given = code.arguments
    above, below = (code.get(given[name], line, "int64") for name in ("above", "below"))
    weight = code.vector(code.get(given["weight"], line))
    share = 1.0 - weight
    return lambda pointer, at: code.load(pointer, above + at) * share + code.load(pointer, below + at) * weight


class _LabelKernel:
    """What `label_kernel` does with a tile, in the making."""

    def __init__(self, code: Code, wanted: Sequence[Request], rows: Sequence[int], names: Sequence[str]) -> None:
        self.code, self.wanted, self.rows, self.names = code, wanted, rows, names
        of = {kind: {p for label, p, v in wanted if (label, v) == kind} for kind in {w[::2] for w in wanted}}
        self.uniform_ps = sorted(of.get(("uni", "exact"), ()))
        self.rest_ps = sorted(of.get(("oh", "exact"), ()))
        self.ps = sorted({p for kind in of if kind != ("uni", "exact") for p in of[kind]} | {1.0})
        if "brier" in names and 2.0 not in self.ps:
            self.ps = sorted([*self.ps, 2.0])
        self.tops, self.seconds, self.places = (code.room(_LABEL_TILE) for _ in range(3))
        self.share = code.vector(code.arguments["share"])

    def find_largest(self, first: Value, count: Value, logit: Callable[[Value, Value], Value]) -> None:
        """Copy a tile of logits to where it stays in the cache, and find the two largest of every pixel."""
        code, given = self.code, self.code.arguments
        lowest, zero = code.vector(-math.inf), code.vector(0.0).bits()
        with code.loop(count, step=LANES) as place:
            code.store(lowest, self.tops, place)
            code.store(lowest, self.seconds, place)
            code.store(zero, self.places, place)

        def go_on(index: Value, classes: int) -> None:
            with code.loop(count, step=LANES) as place:
                top, second = code.load(self.tops, place), code.load(self.seconds, place)
                best = code.load(self.places, place, "int32")
                for k in range(classes):
                    x = logit(index + k, first + place)
                    code.store(x, given["work"], (index + k) * _LABEL_TILE + place)
                    larger = x > top
                    lower = top.where(larger, x)
                    second = lower.where(lower > second, second)
                    top = x.where(larger, top)
                    best = code.vector((index + k).to_int()).where(larger, best)
                code.store(top, self.tops, place)
                code.store(second, self.seconds, place)
                if "prediction" in self.names:
                    code.store(best, self.places, place, "int32")

        code.by_fours(given["classes"], go_on)

    def score(self, place: Value, pixel: Value) -> None:
        """Find every norm and score of a vector of pixels, `place` in the tile and `pixel` in the slab."""
        code, given = self.code, self.code.arguments
        one = code.vector(1.0)
        top, second = code.load(self.tops, place), code.load(self.seconds, place)
        runner_up = top.where(second.equals(-math.inf), second)  # no second class: only the prediction remains
        gap = top - runner_up
        ratio = _exp(-gap)
        label = code.load(given["label"], pixel, "int32") if {"brier", "nll"} & set(self.names) else None
        # Relative to the second largest no sum is too small for float32. The prediction itself is put beside the second
        # class, so that it adds 1 to every sum and is taken off without loss, for the others add 1 at least.
        sums, weighted, at_label = code.sums(self.ps), code.variable(code.vector(0.0)), code.variable(top)
        finite = 252 / min(step.p for step in power_plan(tuple(self.ps), False))  # so that 0 times it is 0
        exps = self._exps()
        with code.loop(given["classes"]) as index:
            x = code.load(given["work"], index * _LABEL_TILE + place)
            below = (runner_up - x).at_least(0.0).at_most(finite)
            powers = _powers(self.ps, log2_x=below * -_LOG2_E)
            for p in self.ps:
                sums[p].add(powers[p])
            if "entropy" in self.names:
                weighted.add(powers[1.0] * below)
            if self.uniform_ps:
                code.store(one.where(x.equals(top), powers[1.0] * ratio), given["work"], exps + index * LANES)
            if label is not None:
                at_label.set(x.where(label.equals(code.vector(index.to_int())), at_label.value))
        found = {p: total.value - 1.0 for p, total in sums.items()}
        log_total = _log1p(found[1.0] * ratio)
        uniform = self._uniform(place, top, found[1.0] * ratio) if self.uniform_ps else {}
        self._norms(pixel, found, uniform, gap, log_total)
        self._scores(place, pixel, found, weighted.value, top, gap, ratio, log_total, top - at_label.value)

    def _exps(self) -> Value:
        """Where in `work` the exponentials of a vector of pixels stand, behind the tile's logits."""
        return self.code.arguments["classes"] * _LABEL_TILE

    def _uniform(self, place: Value, top: Value, total: Value) -> dict[float, Value]:
        """P -> sum over all classes of |exp(phi - top) - mean|^p."""
        code, given = self.code, self.code.arguments
        exps = self._exps()
        mean = (total + 1.0) * self.share
        offset = code.variable(mean)
        flat = mean > 0.6
        with code.when(flat.any()):  # where the softmax is flat, digits remain in exp - 1 only
            above_sum = code.variable(code.vector(0.0))
            with code.loop(given["classes"]) as index:
                x = code.load(given["work"], index * _LABEL_TILE + place)
                above = _expm1(x - top)
                above_sum.add(above)
                at = exps + index * LANES
                code.store(above.where(flat, code.load(given["work"], at)), given["work"], at)
            offset.set((above_sum.value * self.share).where(flat, mean))
        sums = code.sums(self.uniform_ps)
        subtracted = offset.value
        with code.loop(given["classes"]) as index:
            spread = (code.load(given["work"], exps + index * LANES) - subtracted).abs()
            powers = _powers(self.uniform_ps, spread)
            for p in self.uniform_ps:
                sums[p].add(powers[p])
        return {p: total.value for p, total in sums.items()}

    def _norms(
        self, pixel: Value, found: Mapping[float, Value], uniform: Mapping[float, Value], gap: Value, log_total: Value
    ) -> None:
        code, given = self.code, self.code.arguments
        rest = found[1.0]
        rest_powers = _powers(self.rest_ps, rest) if self.rest_ps else {}
        scale = code.vector(given["log2_scale"]) - log_total * _LOG2_E
        for row, (source, (name, p, variant)) in enumerate(zip(self.rows, self.wanted, strict=True)):
            offset = scale
            if name == "oh":
                part = found[p] + rest_powers[p] if variant == "exact" else found[p]
                offset = scale - gap * _LOG2_E
            elif variant == "exact":
                part = uniform[p]
            else:
                part = exp2(gap * (-_LOG2_E * p)) * found[p] + 1.0
                offset = scale + code.vector(given["paper"])
            total = part * code.load(given["sums"], given["sums_stride"] * source + pixel)
            small = total < 2.0**-_LIFT
            logarithm = log2((total * 2.0**_LIFT).where(small, total))
            logarithm = (logarithm - _LIFT).where(small, logarithm)
            norm = (logarithm * (1 / p) + offset).at_least(LOG2_FLOOR)
            beyond = code.vector(LOG2_FLOOR).where(total.equals(0.0), total)  # infinity and NaN stay
            norm = norm.where((total > 0.0) & (total < _LARGEST), beyond)
            code.store(norm, given["norms"], given["norms_stride"] * row + pixel)

    def _scores(
        self,
        place: Value,
        pixel: Value,
        found: Mapping[float, Value],
        weighted: Value,
        top: Value,
        gap: Value,
        ratio: Value,
        log_total: Value,
        truth: Value,
    ) -> None:
        """Scores of the softmax family, as `gradunc_viz.gradients_cpu` words them."""
        code, given = self.code, self.code.arguments
        rest = found[1.0] * ratio
        total = rest + 1.0

        def brier() -> Value:
            squares, at_truth, right = found[2.0] * ratio * ratio, _exp(-truth), truth.equals(0.0)
            # without cancellation: where the label is the prediction nothing is subtracted, else the sum exceeds 1
            others = squares.where(right, squares + 1.0 - at_truth * at_truth)
            missed = rest.where(right, rest + 1.0 - at_truth)
            return (others + missed * missed) / (total * total)

        formulas: dict[str, Callable[[], Value]] = {
            "msp": lambda: rest / total,
            "entropy": lambda: (log_total + ratio * (weighted + gap * found[1.0]) / total).at_least(0.0),
            "margin": lambda: ((rest + ratio.where(rest > 0.0, 0.0)) / total).at_most(1.0),
            "energy": lambda: -(top + log_total),
            "max_logit": lambda: top,
            "nll": lambda: truth + log_total,
            "brier": brier,
        }
        for row, name in enumerate(name for name in self.names if name != "prediction"):
            code.store(formulas[name](), given["scores"], given["scores_stride"] * row + pixel)
        if "prediction" in self.names:
            code.store(code.load(self.places, place, "int32"), given["prediction"], pixel, "int64")


def label_pass(
    logits: Tensor,
    wanted: Sequence[Request],
    sums: Tensor | None,
    ps: Sequence[float],
    log2_scale: Tensor | None,
    softmax: Sequence[str],
    dtype: torch.dtype,
    label: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """See `gradunc_viz.gradients_cpu.label_pass`."""
    if dtype != torch.float32 or logits.dtype not in _DTYPES:
        return gradients_cpu.label_pass(logits, wanted, sums, ps, log2_scale, softmax, dtype, label)
    n, classes, height, width = logits.shape
    planes = _Planes(logits)
    slabs = planes.slabs(_LABEL_TILE)
    names = tuple(dict.fromkeys(softmax))
    plain = [name for name in names if name != "prediction"]
    norms = np.empty((n, len(wanted), planes.pixels), "f4")
    scores = np.empty((len(plain), n, planes.pixels), "f4")
    prediction = np.empty((n, 1, planes.pixels), "i8")
    features = _Planes(sums) if wanted and sums is not None else None
    labels = None if label is None else _Planes(label[:, None].to(torch.int32))
    kernel = label_kernel(tuple(wanted), tuple(list(ps).index(p) for _, p, _ in wanted), names, planes.kind)
    paper = math.log2((classes - 1) / classes) if classes > 1 else -math.inf

    def score(at: tuple[int, int]) -> None:
        image, index = at
        slab = slice(*slabs[index])
        source = planes.rows(image, slab)
        own = source if features is None else features.rows(image, slab)
        truth = source if labels is None else labels.rows(image, slab)
        targets = [_Target(rows, slab) for rows in (norms[image], scores[:, image], prediction[image])]
        work = workspace(classes)
        kernel(
            *_place(source),
            classes,
            source.shape[1],
            *_place(own),
            0.0 if log2_scale is None else float(log2_scale[image]),
            *_place(targets[0].rows),
            *_place(targets[1].rows),
            targets[2].rows.ctypes.data,
            truth.ctypes.data,
            work.ctypes.data,
            1 / classes,
            paper,
        )
        for target in targets:
            target.finish()

    in_threads(score, [(image, index) for image in range(n) for index in range(len(slabs))])
    shape = (n, height, width)
    found = {name: torch.from_numpy(plane).view(shape) for name, plane in zip(plain, scores, strict=True)}
    found["prediction"] = torch.from_numpy(prediction).view(shape)
    return torch.from_numpy(norms).view(n, len(wanted), height, width), {name: found[name] for name in softmax}


# --------------------------------------------------------------------------------------------------------------------
# what kernels are given


def workspace(classes: int) -> np.ndarray:
    """Memory that `label_kernel` works in."""
    return np.empty(classes * (_LABEL_TILE + LANES), "f4")


class _Planes:
    """(N, C, h, w) as rows of pixels, read where they stand if neighbours in a row are neighbours in memory."""

    def __init__(self, x: Tensor) -> None:
        self.kind = str(x.dtype).removeprefix("torch.")
        self.array = x.detach().view(torch.int16 if x.element_size() == 2 else torch.int32).numpy()
        self.channels, self.height, self.width = x.shape[1:]
        self.pixels = self.height * self.width
        _, _, down, right = (stride // x.element_size() for stride in self.array.strides)
        self.flat = None
        if self.width == 1 or (right == 1 and (self.height == 1 or down == self.width)):
            self.flat = self.array.reshape(len(self.array), self.channels, self.pixels)

    def slabs(self, tile: int) -> list[tuple[int, int]]:
        """Ranges of pixels: a few tiles, and as many ranges at least as there are threads."""
        step = min(_SLAB // self.channels, -(-self.pixels // torch.get_num_threads()))
        step = max(1, -(-step // tile)) * tile
        return [(start, min(start + step, self.pixels)) for start in range(0, self.pixels, step)]

    def rows(self, image: int, slab: slice) -> np.ndarray:
        """Channels of some pixels, at least as many as a multiple of LANES."""
        count = slab.stop - slab.start
        if self.flat is not None and count % LANES == 0 and self.flat.strides[2] == self.flat.itemsize:
            return self.flat[image, :, slab]
        copy = np.zeros((self.channels, -(-count // LANES) * LANES), self.array.dtype)
        if self.flat is not None:
            copy[:, :count] = self.flat[image, :, slab]
        else:
            above, below = slab.start // self.width, -(-slab.stop // self.width)
            first = slab.start - above * self.width
            copy[:, :count] = self.array[image, :, above:below].reshape(self.channels, -1)[:, first : first + count]
        return copy


class _Target:
    """Rows for some pixels of a result: its own, or as many as a kernel fills, of which it takes those it has."""

    def __init__(self, result: np.ndarray, slab: slice) -> None:
        self.own, count = result[:, slab], slab.stop - slab.start
        self.rows = self.own
        if count % LANES:
            self.rows = np.empty((len(result), -(-count // LANES) * LANES), result.dtype)

    def finish(self) -> None:
        """Take what was written."""
        if self.rows is not self.own:
            self.own[:] = self.rows[:, : self.own.shape[1]]


def _place(rows: np.ndarray) -> tuple[int, int]:
    """Address and distance of rows, in elements."""
    return rows.ctypes.data, rows.strides[0] // rows.itemsize
