"""The pass over logits as a function compiled for the norms and scores that are asked for.

`gradunc_viz.kernels.torch_cpu` words the same formulas in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...schema.scores import LOG2_FLOOR, NormRequest
from ..powers import drawn_powers, power_plan
from .code import LANES, Code, Value, built_once, exp2, log2
from .functions import LARGEST, exp, expm1, log1p, powers_of

__all__ = ["LABEL_TILE", "blend", "label_kernel", "workspace"]

LABEL_TILE = 128
"""Pixels whose logits stay in the first cache."""


_LABELS = ("oh", "uni", "exp")
_LOG2_E = math.log2(math.e)
_LIFT = 60  # log2 of a factor that makes every subnormal normal


@built_once
def label_kernel(
    wanted: tuple[NormRequest, ...],
    rows: tuple[int | None, ...],
    names: tuple[str, ...],
    kind: str,
    blended: bool = False,
) -> Callable[..., None]:
    """Norms and scores of the softmax family; `pixels` is a multiple of LANES.

    Parameters
    ----------
    rows : tuple of int or None
        Which of the features' sums each norm takes; None of a label part, which takes none.
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
        with code.loop(given["pixels"] + (LABEL_TILE - 1), step=LABEL_TILE) as first:
            count = (given["pixels"] - first).at_most(LABEL_TILE)
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

    def __init__(
        self, code: Code, wanted: Sequence[NormRequest], rows: Sequence[int | None], names: Sequence[str]
    ) -> None:
        self.code, self.wanted, self.rows, self.names = code, wanted, rows, names
        exact = {label: {w.p for w in wanted if (w.label, w.variant) == (label, "exact")} for label in _LABELS}
        self.uniform_ps, self.expected_ps = sorted(exact["uni"]), sorted(exact["exp"])
        self.curved_ps = [p for p in self.expected_ps if p not in (1, 2)]
        self.rest_ps = sorted(exact["oh"])
        of_others = {w.p for w in wanted if w.label == "oh" or w.variant == "paper"}
        brier = {2.0} if "brier" in names else set()
        self.ps = sorted(of_others | drawn_powers(self.expected_ps) | brier | {1.0})
        self.tops, self.seconds, self.places = (code.room(LABEL_TILE) for _ in range(3))
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
                    code.store(x, given["work"], (index + k) * LABEL_TILE + place)
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
        ratio = exp(-gap)
        label = code.load(given["label"], pixel, "int32") if {"brier", "nll"} & set(self.names) else None
        # Relative to the second largest no sum is too small for float32. The prediction itself is put beside the second
        # class, so that it adds 1 to every sum and is taken off without loss, for the others add 1 at least.
        sums, weighted, at_label = code.sums(self.ps), code.variable(code.vector(0.0)), code.variable(top)
        finite = 252 / min(step.p for step in power_plan(tuple(self.ps), False))  # so that 0 times it is 0
        exps = self._exps()
        with code.loop(given["classes"]) as index:
            x = code.load(given["work"], index * LABEL_TILE + place)
            below = (runner_up - x).at_least(0.0).at_most(finite)
            powers = powers_of(self.ps, log2_x=below * -_LOG2_E)
            for p in self.ps:
                sums[p].add(powers[p])
            if "entropy" in self.names:
                weighted.add(powers[1.0] * below)
            if self.uniform_ps:
                code.store(one.where(x.equals(top), powers[1.0] * ratio), given["work"], exps + index * LANES)
            if self.curved_ps:
                code.store(powers[1.0], given["work"], self._relative() + index * LANES)
            if label is not None:
                at_label.set(x.where(label.equals(code.vector(index.to_int())), at_label.value))
        found = {p: total.value - 1.0 for p, total in sums.items()}
        log_total = log1p(found[1.0] * ratio)
        uniform = self._uniform(place, top, found[1.0] * ratio) if self.uniform_ps else {}
        expected = self._expected(found, gap, log_total) if self.expected_ps else {}
        self._norms(pixel, found, uniform, expected, gap, log_total)
        self._scores(place, pixel, found, weighted.value, top, gap, ratio, log_total, top - at_label.value)

    def _exps(self) -> Value:
        """Where in `work` the exponentials of a vector of pixels stand, behind the tile's logits."""
        return self.code.arguments["classes"] * LABEL_TILE

    def _relative(self) -> Value:
        """Where the exponentials relative to the second largest stand, behind the others."""
        return self.code.arguments["classes"] * (LABEL_TILE + LANES)

    def _expected(self, found: Mapping[float, Value], gap: Value, log_total: Value) -> dict[float, Value]:
        """P -> expected |pi - y|^p of a drawn label, as `gradunc_viz.kernels.torch_cpu` words it."""
        code, given = self.code, self.code.arguments
        log2_sure = log_total * -_LOG2_E
        log2_unit = log2_sure - gap * _LOG2_E
        unit, rest = exp2(log2_unit), found[1.0]
        if len(self.curved_ps) < len(self.expected_ps):
            spread = rest - unit * found[2.0] + exp2(log2_sure) * rest
        expected = {p: spread * (2 / p) for p in self.expected_ps if p not in self.curved_ps}
        if not self.curved_ps:
            return expected
        likely = code.sums(self.curved_ps)
        with code.loop(given["classes"]) as index:
            relative = code.load(given["work"], self._relative() + index * LANES)
            powers = powers_of(self.curved_ps, 1.0 - relative * unit)
            for p in self.curved_ps:
                likely[p].add(relative * powers[p])
        at_top, rest_powers = powers_of(self.curved_ps, 1.0 - unit), powers_of(self.curved_ps, rest)
        for p in self.curved_ps:
            least = min(p, 1.0)
            of_class = likely[p].value - at_top[p] + rest * exp2(log2_sure * p)
            class_of = found[p] - unit * found[p + 1] + exp2(log2_sure) * rest_powers[p]
            expected[p] = of_class * exp2(log2_unit * (1 - least)) + class_of * exp2(log2_unit * (p - least))
        return expected

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
                x = code.load(given["work"], index * LABEL_TILE + place)
                above = expm1(x - top)
                above_sum.add(above)
                at = exps + index * LANES
                code.store(above.where(flat, code.load(given["work"], at)), given["work"], at)
            offset.set((above_sum.value * self.share).where(flat, mean))
        sums = code.sums(self.uniform_ps)
        subtracted = offset.value
        with code.loop(given["classes"]) as index:
            spread = (code.load(given["work"], exps + index * LANES) - subtracted).abs()
            powers = powers_of(self.uniform_ps, spread)
            for p in self.uniform_ps:
                sums[p].add(powers[p])
        return {p: total.value for p, total in sums.items()}

    def _norms(
        self,
        pixel: Value,
        found: Mapping[float, Value],
        uniform: Mapping[float, Value],
        expected: Mapping[float, Value],
        gap: Value,
        log_total: Value,
    ) -> None:
        code, given = self.code, self.code.arguments
        rest = found[1.0]
        rest_powers = powers_of(self.rest_ps, rest) if self.rest_ps else {}
        scale, log2_sure = code.vector(given["log2_scale"]), log_total * -_LOG2_E
        scaled = scale - log_total * _LOG2_E
        for row, (source, (name, p, variant, kind, *_)) in enumerate(zip(self.rows, self.wanted, strict=True)):
            offset = log2_sure if source is None else scaled
            if kind == "feature":
                part, offset = code.vector(1.0), scale
            elif name == "oh":
                part = found[p] + rest_powers[p] if variant == "exact" else found[p]
                offset = offset - gap * _LOG2_E
            elif name == "exp":
                part = expected[p]
                offset = (log2_sure - gap * _LOG2_E) * min(1.0, 1 / p)
                offset = offset if source is None else offset + scale
            elif variant == "exact":
                part = uniform[p]
            else:
                part = exp2(gap * (-_LOG2_E * p)) * found[p] + 1.0
                offset = offset + code.vector(given["paper"])
            total = part
            if source is not None:
                total = part * code.load(given["sums"], given["sums_stride"] * source + pixel)
            small = total < 2.0**-_LIFT
            logarithm = log2((total * 2.0**_LIFT).where(small, total))
            logarithm = (logarithm - _LIFT).where(small, logarithm)
            norm = (logarithm * (1 / p) + offset).at_least(LOG2_FLOOR)
            beyond = code.vector(LOG2_FLOOR).where(total.equals(0.0), total)  # infinity and NaN stay
            norm = norm.where((total > 0.0) & (total < LARGEST), beyond)
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
        """Scores of the softmax family, as `gradunc_viz.kernels.torch_cpu` words them."""
        code, given = self.code, self.code.arguments
        rest = found[1.0] * ratio
        total = rest + 1.0

        def brier() -> Value:
            squares, at_truth, right = found[2.0] * ratio * ratio, exp(-truth), truth.equals(0.0)
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


def workspace(classes: int) -> np.ndarray:
    """Memory that `label_kernel` works in."""
    return np.empty(classes * (LABEL_TILE + 2 * LANES), "f4")
