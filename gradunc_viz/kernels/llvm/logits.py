"""The pass over logits as a function compiled for the norms and scores that are asked for.

`gradunc_viz.kernels.torch_cpu` words the same formulas in torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...schema.scores import LOG2_FLOOR, NormRequest, SoftmaxRequest
from ..powers import drawn_powers, power_plan
from .code import LANES, Code, Value, built_once, exp2, log2
from .functions import LARGEST, exp, expm1, log1p, positive_log2, powers_of

__all__ = ["LABEL_TILE", "blend", "label_kernel", "workspace"]

LABEL_TILE = 128
"""Pixels whose logits stay in the first cache."""


_LABELS = ("oh", "uni", "exp")
_LOG2_E = math.log2(math.e)
_LN_2 = math.log(2)
_HALVINGS = 30  # of the range of a pixel's logits, to less than float32 resolves
_LIFT = 60  # log2 of a factor that makes every subnormal normal


@built_once
def label_kernel(
    wanted: tuple[NormRequest, ...],
    rows: tuple[int | None, ...],
    softmax: tuple[SoftmaxRequest, ...],
    kind: str,
    blended: bool = False,
) -> Callable[..., None]:
    """Norms and scores of the softmax family; `pixels` is a multiple of LANES.

    Parameters
    ----------
    rows : tuple of int or None
        Which of the features' sums each norm takes; None of a label part, which takes none.
    kind : str
        Type of the logits.
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
    kernel = _LabelKernel(code, wanted, rows, softmax)

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
        self,
        code: Code,
        wanted: Sequence[NormRequest],
        rows: Sequence[int | None],
        softmax: Sequence[SoftmaxRequest],
    ) -> None:
        self.code, self.wanted, self.rows, self.softmax = code, wanted, rows, softmax
        self.kinds = {request.kind for request in softmax}
        exact = {label: {w.p for w in wanted if (w.label, w.variant) == (label, "exact")} for label in _LABELS}
        self.uniform_ps, self.expected_ps = sorted(exact["uni"]), sorted(exact["exp"])
        self.curved_ps = [p for p in self.expected_ps if p not in (1, 2)]
        self.rest_ps = sorted(exact["oh"])
        of_others = {w.p for w in wanted if w.label == "oh" or w.variant == "paper"}
        of_softmax = {p for request in softmax for p in request.powers}
        self.ps = sorted(of_others | drawn_powers(self.expected_ps) | of_softmax | {1.0})
        self.weighted_ps = sorted({1 / request.temperature for request in softmax if request.kind == "entropy"})
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
                if "prediction" in self.kinds:
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
        label = code.load(given["label"], pixel, "int32") if {"brier", "nll"} & self.kinds else None
        # Relative to the second largest no sum is too small for float32. The prediction itself is put beside the second
        # class, so that it adds 1 to every sum and is taken off without loss, for the others add 1 at least.
        sums, weighted, at_label = code.sums(self.ps), code.sums(self.weighted_ps), code.variable(top)
        spread, lowest = code.variable(code.vector(0.0)), code.variable(top)
        # so that 0 times it is 0
        finite = min(252 / min(step.p for step in power_plan(tuple(self.ps), False)), LARGEST)
        exps = self._exps()
        with code.loop(given["classes"]) as index:
            x = code.load(given["work"], index * LABEL_TILE + place)
            below = (runner_up - x).at_least(0.0).at_most(finite)
            powers = powers_of(self.ps, log2_x=below * -_LOG2_E)
            for p in self.ps:
                sums[p].add(powers[p])
            for p in self.weighted_ps:
                weighted[p].add(powers[p] * below)
            if "kl_uniform" in self.kinds:
                spread.add(top - x)
            if "gen" in self.kinds:
                lowest.set(lowest.value.at_most(x))
            if self.uniform_ps:
                code.store(one.where(x.equals(top), powers[1.0] * ratio), given["work"], exps + index * LANES)
            if self.curved_ps:
                code.store(powers[1.0], given["work"], self._relative() + index * LANES)
            if label is not None:
                at_label.set(x.where(label.equals(code.vector(index.to_int())), at_label.value))
        found = _Found(
            top=top,
            gap=gap,
            sums={p: total.value - 1.0 for p, total in sums.items()},
            weighted={p: total.value for p, total in weighted.items()},
            truth=top - at_label.value,
            spread=spread.value,
            lowest=lowest.value,
        )
        log_total = log1p(found.rest(1.0))
        uniform = self._uniform(place, top, found.rest(1.0)) if self.uniform_ps else {}
        expected = self._expected(found.sums, gap, log_total) if self.expected_ps else {}
        self._norms(pixel, found.sums, uniform, expected, gap, log_total)
        self._scores(place, pixel, found)

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

    def _scores(self, place: Value, pixel: Value, found: _Found) -> None:
        """Scores of the softmax family, as `gradunc_viz.kernels.torch_cpu` words them."""
        code, given = self.code, self.code.arguments
        top, gap, rest = found.top, found.gap, found.rest(1.0)
        total, log_total = rest + 1.0, log1p(rest)

        def margin(p: float) -> Value:
            rest, second = found.rest(p), exp(gap * -p)
            return ((rest + second.where(rest > 0.0, 0.0)) / (rest + 1.0)).at_most(1.0)

        def entropy(p: float) -> Value:
            rest = found.rest(p)
            weighted = exp(gap * -p) * (found.weighted[p] + gap * found.sums[p]) * p
            return (log1p(rest) + weighted / (rest + 1.0)).at_least(0.0)

        def brier() -> Value:
            squares, at_truth, right = found.rest(2.0), exp(-found.truth), found.truth.equals(0.0)
            # without cancellation: where the label is the prediction nothing is subtracted, else the sum exceeds 1
            others = squares.where(right, squares + 1.0 - at_truth * at_truth)
            missed = rest.where(right, rest + 1.0 - at_truth)
            return (others + missed * missed) / (total * total)

        formulas: dict[str, Callable[[SoftmaxRequest], Value]] = {
            "msp": lambda r: found.rest(1 / r.temperature) / (found.rest(1 / r.temperature) + 1.0),
            "entropy": lambda r: entropy(1 / r.temperature),
            "margin": lambda r: margin(1 / r.temperature),
            "energy": lambda r: -(top + log1p(found.rest(1 / r.temperature)) * r.temperature),
            "max_logit": lambda _: top,
            "gini": lambda _: (rest * (rest + 2.0) - found.rest(2.0)) / (total * total),
            "kl_uniform": lambda _: self._divergence(place, found, total),
            "gen": lambda r: self._generalised_entropy(place, found, log_total, r),
            "nll": lambda _: found.truth + log_total,
            "brier": lambda _: brier(),
        }
        for row, request in enumerate(request for request in self.softmax if request.kind != "prediction"):
            code.store(formulas[request.kind](request), given["scores"], given["scores_stride"] * row + pixel)
        if "prediction" in self.kinds:
            code.store(code.load(self.places, place, "int32"), given["prediction"], pixel, "int64")

    def _divergence(self, place: Value, found: _Found, total: Value) -> Value:
        """Divergence from the uniform distribution: ln of the mean exponential, less the mean logarithm."""
        code, given = self.code, self.code.arguments
        mean = total * self.share
        log_mean = code.variable(log2(mean) * _LN_2)
        flat = mean > 0.6
        with code.when(flat.any()):  # where the softmax is flat, digits remain in exp - 1 only
            above = code.variable(code.vector(0.0))
            with code.loop(given["classes"]) as index:
                above.add(expm1(code.load(given["work"], index * LABEL_TILE + place) - found.top))
            log_mean.set(log1p(above.value * self.share).where(flat, log_mean.value))
        return (log_mean.value + found.spread * self.share).at_least(0.0)

    def _generalised_entropy(self, place: Value, found: _Found, log_total: Value, request: SoftmaxRequest) -> Value:
        """Sum of pi^gamma (1 - pi)^gamma over the largest pi, each factor as a logarithm."""
        code, given = self.code, self.code.arguments
        log2_total = log_total * _LOG2_E
        # of the prediction 1 - pi is the sum of the others, which need not be in range; of all others it exceeds 1/2
        log2_others = positive_log2(found.sums[1.0]) - found.gap * _LOG2_E - log2_total
        none = found.sums[1.0].equals(0.0)

        def term(x: Value) -> Value:
            log2_pi = (x - found.top) * _LOG2_E - log2_total
            log2_not_pi = log2_others.where(x.equals(found.top), log2((1.0 - exp2(log2_pi)).at_least(0.25)))
            return exp2((log2_pi + log2_not_pi) * request.gamma)

        def logit(index: Value) -> Value:
            return code.load(given["work"], index * LABEL_TILE + place)

        above, missing = code.variable(code.vector(-LARGEST)), code.variable(code.vector(0.0))
        many = given["classes"] > request.largest
        count = code.variable(code.vector(0.0))

        def count_above(threshold: Value) -> Value:
            count.set(code.vector(0.0))
            with code.loop(given["classes"]) as index:
                count.add(code.vector(1.0).where(logit(index) > threshold, 0.0))
            return count.value

        with code.when(many):
            # the least of the largest, between a number that too many exceed and one that too few do
            low, high = code.variable(found.lowest - 1.0), code.variable(found.top)
            with code.loop(code.long(_HALVINGS)):
                middle = (low.value + high.value) * 0.5
                few = count_above(middle) < request.largest
                low.set(low.value.where(few, middle))
                high.set(middle.where(few, high.value))
            above.set(high.value)
            missing.set(float(request.largest) - count_above(high.value))
        total = code.variable(term(above.value) * missing.value)
        with code.loop(given["classes"]) as index:
            x = logit(index)
            total.add(term(x).where(x > above.value, 0.0))
        return code.vector(0.0).where(none, total.value)


@dataclass(frozen=True)
class _Found:
    """What the pass over the classes of a vector of pixels found.

    Attributes
    ----------
    top, gap : Value
        Largest logit, and how far the second largest is below it.
    sums : mapping of p to Value
        Sum over the other classes of exp(phi - second largest)^p.
    weighted : mapping of p to Value
        Sum over the other classes of (second largest - phi) exp(phi - second largest)^p.
    truth : Value
        How far the label's logit is below the largest.
    spread : Value
        Sum of how far all logits are.
    lowest : Value
        Smallest logit.
    """

    top: Value
    gap: Value
    sums: Mapping[float, Value]
    weighted: Mapping[float, Value]
    truth: Value
    spread: Value
    lowest: Value

    def rest(self, p: float) -> Value:
        """Sum over the other classes of exp(phi - top)^p."""
        return self.sums[p] * exp(self.gap * -p)


def workspace(classes: int) -> np.ndarray:
    """Memory that `label_kernel` works in."""
    return np.empty(classes * (LABEL_TILE + 2 * LANES), "f4")
