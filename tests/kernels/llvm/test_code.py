"""Elementary functions, memory and control flow of compiled functions, against numpy in float64."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from gradunc_viz.kernels.llvm.code import LANES, Code, Value, built_once, check, exp2, log2


def applied(function, x: np.ndarray) -> np.ndarray:
    """Value of a function of one vector for every number."""
    code = Code("test", {"x": "pointer", "out": "pointer", "count": "long"})
    source, out, count = code.arguments.values()
    with code.loop(count, step=LANES) as place:
        code.store(function(code.load(source, place)), out, place)
    padded = np.zeros(-(-len(x) // LANES) * LANES, "f4")
    padded[: len(x)] = x
    found = np.empty_like(padded)
    code.compiled()(padded.ctypes.data, found.ctypes.data, len(padded))
    return found[: len(x)]


def test_power_of_two():
    x = np.linspace(-125.9, 127, 1_000_003).astype("f4")
    np.testing.assert_allclose(applied(exp2, x), np.exp2(x.astype("f8")), rtol=1.5e-7)
    whole = np.arange(-126, 128).astype("f4")
    np.testing.assert_array_equal(applied(exp2, whole), 2.0 ** whole.astype("f8"))
    np.testing.assert_array_equal(applied(exp2, np.float32([-127, -1e30, -np.inf])), np.zeros(3, "f4"))
    assert np.isnan(applied(exp2, np.float32([np.nan])))


def test_logarithm():
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [2 ** rng.uniform(-126, 127, 100_000), rng.uniform(0.5, 2, 100_000), 2.0 ** np.arange(-126, 128)]
    )
    x = x.astype("f4")
    expected = np.log2(x.astype("f8"))
    np.testing.assert_allclose(applied(log2, x), expected, rtol=1.2e-7, atol=1e-7)
    near_one = (1 + rng.uniform(-1e-3, 1e-3, 1000)).astype("f4")
    np.testing.assert_allclose(applied(log2, near_one), np.log2(near_one.astype("f8")), rtol=1e-6)
    lifted = applied(lambda value: log2(value * 2.0**60, -60), np.float32([1e-45, 1e-40, 1.5]))
    np.testing.assert_allclose(lifted, np.log2(np.float32([1e-45, 1e-40, 1.5]).astype("f8")), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: 1.0 - x * 2.0 / 3.0 + -x, lambda x: 1 - x * 2 / 3 - x),
        (lambda x: x.abs().sqrt(), lambda x: np.sqrt(np.abs(x))),
        (lambda x: x.at_least(-1.0).at_most(1.0), lambda x: np.clip(x, -1, 1)),
        (lambda x: x.where((x > 0.5) | (x < -0.5), 7.0), lambda x: np.where(np.abs(x) > 0.5, x, 7)),
        (lambda x: x.bits().shifted(-3).shifted(3).as_float(), lambda x: (x.view("i4") >> 3 << 3).view("f4")),
    ],
)
def test_operators(function, expected):
    x = np.random.default_rng(0).normal(size=100).astype("f4")
    np.testing.assert_allclose(applied(function, x), expected(x), rtol=1e-6, atol=1e-6)


def test_comparisons_keep_what_is_no_number():
    assert np.isnan(applied(lambda x: x.at_least(0.0).at_most(1.0), np.float32([np.nan])))


def test_loops_variables_and_branches():
    """Powers of x, added up while the sum of the lanes' conditions allows."""
    code = Code("test", {"x": "pointer", "out": "pointer", "terms": "long"})
    source, out, terms = code.arguments.values()
    start = code.long(0)
    x = code.load(source, start)
    total, term = code.variable(code.vector(0.0)), code.variable(code.vector(1.0))
    with code.loop(terms):
        total.add(term.value)
        term.set(term.value * x)
    with code.when((x > 0.9).any()):
        total.set(code.vector(-1.0))
    code.store(total.value, out, start)
    run = code.compiled()
    for x_max, expected in ((0.5, lambda x: sum(x**k for k in range(6))), (1.0, lambda x: np.full_like(x, -1))):
        numbers, found = np.linspace(0, x_max, LANES).astype("f4"), np.empty(LANES, "f4")
        run(numbers.ctypes.data, found.ctypes.data, 6)
        np.testing.assert_allclose(found, expected(numbers), rtol=1e-6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_is_read(kind):
    x = np.random.default_rng(0).normal(size=LANES).astype("f4")
    stored = x.astype("f2") if kind == "float16" else (x.view("u4") >> 16).astype("u2")
    code = Code("test", {"x": "pointer", "out": "pointer"})
    start = code.long(0)
    code.store(code.load(code.arguments["x"], start, kind), code.arguments["out"], start)
    found = np.empty(LANES, "f4")
    code.compiled()(stored.ctypes.data, found.ctypes.data)
    expected = stored.astype("f4") if kind == "float16" else (stored.astype("u4") << 16).view("f4")
    np.testing.assert_array_equal(found, expected)


def test_memory_of_the_function_and_whole_numbers():
    code = Code("test", {"out": "pointer", "offset": "long"})
    out, offset = code.arguments.values()
    room = code.room(LANES)
    code.store(code.vector(offset.to_int()), room, code.long(0), "int32")
    code.store(code.load(room, code.long(0), "int32") + 1, out, offset, "int64")
    found = np.zeros(LANES + 3, "i8")
    code.compiled()(found.ctypes.data, 3)
    assert found.tolist() == [0, 0, 0] + [4] * LANES


def test_arguments_are_values():
    assert all(isinstance(value, Value) for value in Code("test", {"x": "pointer", "n": "long"}).arguments.values())


def test_this_machine_passes_the_check():
    check()


def test_a_function_is_built_once_whichever_thread_is_first():
    started, builds = threading.Barrier(4), []

    @built_once
    def build(name: str):
        builds.append(name)
        time.sleep(0.05)
        return lambda: None

    def first_use(_: int):
        started.wait()
        return build("a")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(first_use, range(4)))
    assert builds == ["a"]
    assert len({id(function) for function in found}) == 1
    assert build("b") is not found[0]
