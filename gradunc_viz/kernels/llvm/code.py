"""Functions over rows of float32 numbers, written with Python's operators and compiled for this machine by LLVM.

A `Code` is one function in the making: its values are `Value`, most of them vectors of `LANES` numbers, one for each
of as many neighbouring pixels, and every operator emits one instruction. Nothing is left to a compiler's guess of what
can be vectorised; LLVM allots registers and takes what the machine has (AVX-512, AVX2, NEON). A function of a hundred
operations compiles in some hundredths of a second, so nothing has to be kept on disk.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, wraps
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

__all__ = ["LANES", "Code", "Value", "Variable", "built_once", "check", "exp2", "log2"]

LANES = 16
"""Numbers of a vector: one register of AVX-512, two of AVX2, four of NEON."""

_FLOAT, _DOUBLE, _INT, _LONG = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_KINDS: Mapping[str, tuple[Any, Any]] = {
    "pointer": (ir.PointerType(), ctypes.c_void_p),
    "long": (_LONG, ctypes.c_int64),
    "float": (_FLOAT, ctypes.c_float),
}
_ELEMENTS = {"float32": _FLOAT, "float64": _DOUBLE, "float16": ir.HalfType(), "bfloat16": ir.IntType(16)}
_ELEMENTS |= {"int32": _INT, "int64": _LONG}


class Value:
    """A number or vector that the function computes; operators take other values and Python's numbers."""

    def __init__(self, code: Code, raw: Any) -> None:
        self.code, self.raw = code, raw

    @property
    def _element(self) -> Any:
        return self.raw.type.element if isinstance(self.raw.type, ir.VectorType) else self.raw.type

    def _emit(self, operation: str, *operands: Value | float, swap: bool = False) -> Value:
        raws = [self.raw, *(self.code.like(self, operand).raw for operand in operands)]
        builder = self.code.builder
        if self._element not in (_FLOAT, _DOUBLE):
            return Value(self.code, getattr(builder, operation)(*(raws[::-1] if swap else raws)))
        # a product and a sum may become one instruction; NaN, infinities and zeros keep their meaning
        emit = getattr(builder, f"f{operation}")
        return Value(self.code, emit(*(raws[::-1] if swap else raws), flags=("contract",)))

    def __add__(self, other: Value | float) -> Value:
        return self._emit("add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._emit("sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._emit("mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._emit("div", other)

    def __radd__(self, other: float) -> Value:
        return self._emit("add", other)

    def __rsub__(self, other: float) -> Value:
        return self._emit("sub", other, swap=True)

    def __rmul__(self, other: float) -> Value:
        return self._emit("mul", other)

    def __neg__(self) -> Value:
        return self * -1.0

    def __and__(self, other: Value | int) -> Value:
        return Value(self.code, self.code.builder.and_(self.raw, self.code.like(self, other).raw))

    def __xor__(self, other: Value | int) -> Value:
        return Value(self.code, self.code.builder.xor(self.raw, self.code.like(self, other).raw))

    def __or__(self, other: Value) -> Value:
        return Value(self.code, self.code.builder.or_(self.raw, other.raw))

    def _compare(self, sign: str, other: Value | float) -> Value:
        builder = self.code.builder
        compare = builder.fcmp_ordered if self._element == _FLOAT else builder.icmp_signed
        return Value(self.code, compare(sign, self.raw, self.code.like(self, other).raw))

    def __lt__(self, other: Value | float) -> Value:
        return self._compare("<", other)

    def __gt__(self, other: Value | float) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | float) -> Value:
        return self._compare(">=", other)

    def no(self) -> Value:
        """Where a condition does not hold."""
        return Value(self.code, self.code.builder.not_(self.raw))

    def equals(self, other: Value | float) -> Value:
        """Where two values are equal."""
        return self._compare("==", other)

    def where(self, condition: Value, other: Value | float) -> Value:
        """Choose this value where the condition holds, else the other."""
        return Value(self.code, self.code.builder.select(condition.raw, self.raw, self.code.like(self, other).raw))

    def at_least(self, other: Value | float) -> Value:
        """Larger one of two; NaN stays."""
        return self.code.like(self, other).where(self < other, self)

    def at_most(self, other: Value | float) -> Value:
        """Smaller one of two; NaN stays."""
        return self.code.like(self, other).where(self > other, self)

    def abs(self) -> Value:
        """Without its sign."""
        return Value(self.code, self.code.intrinsic("llvm.fabs", self.raw))

    def sqrt(self) -> Value:
        """Square root."""
        return Value(self.code, self.code.intrinsic("llvm.sqrt", self.raw))

    def floor(self) -> Value:
        """Largest whole number below."""
        return Value(self.code, self.code.intrinsic("llvm.floor", self.raw))

    def any(self) -> Value:
        """Whether a condition holds anywhere in a vector."""
        builder = self.code.builder
        bits = builder.bitcast(self.raw, ir.IntType(LANES))
        return Value(self.code, builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)))

    def bits(self) -> Value:
        """Bits of a float32 as integers."""
        return self._cast("bitcast", _INT)

    def as_float(self) -> Value:
        """Number whose bits these integers are."""
        return self._cast("bitcast", _FLOAT)

    def to_float(self) -> Value:
        """Integers as floats."""
        return self._cast("sitofp", _FLOAT)

    def to_int(self) -> Value:
        """Floats without their fraction, or the lower half of long integers, as integers."""
        return self._cast("fptosi" if self._element == _FLOAT else "trunc", _INT)

    def to_long(self) -> Value:
        """Integers as long ones, as places are."""
        return self._cast("sext", _LONG)

    def shifted(self, places: int) -> Value:
        """Bits shifted to the left, or to the right, keeping the sign, by less than nothing."""
        return self._emit("shl", places) if places > 0 else self._emit("ashr", -places)

    def _cast(self, how: str, element: Any) -> Value:
        kind = ir.VectorType(element, LANES) if isinstance(self.raw.type, ir.VectorType) else element
        return Value(self.code, getattr(self.code.builder, how)(self.raw, kind))


class Variable:
    """A value that loops change."""

    def __init__(self, code: Code, initial: Value) -> None:
        self.code = code
        with code.at_entry():
            self.place = code.builder.alloca(initial.raw.type)
        self.set(initial)

    @property
    def value(self) -> Value:
        """What it is now."""
        return Value(self.code, self.code.builder.load(self.place, typ=self.place.allocated_type))

    def set(self, value: Value) -> None:
        """Make it another value."""
        self.code.builder.store(value.raw, self.place)

    def add(self, value: Value) -> None:
        """Add to it."""
        self.set(self.value + value)


class Code:
    """A function in the making, without result: what it finds it writes.

    Parameters
    ----------
    name : str
    arguments : dict of name -> "pointer", "long" or "float"
    """

    def __init__(self, name: str, arguments: Mapping[str, str]) -> None:
        self.module = ir.Module(name)
        kinds = [_KINDS[kind] for kind in arguments.values()]
        self.c_types = [c_type for _, c_type in kinds]
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [kind for kind, _ in kinds]), name)
        self.entry = self.function.append_basic_block("entry")
        self.builder = ir.IRBuilder(self.function.append_basic_block("body"))
        self.arguments = {
            name: Value(self, raw) for name, raw in zip(arguments, self.function.args, strict=True)
        }  # as the caller gives them, numbers and not vectors

    @contextmanager
    def at_entry(self) -> Iterator[None]:
        """Emit at the start of the function, once."""
        with self.builder.goto_block(self.entry):
            yield

    def vector(self, number: float | Value) -> Value:
        """Vector of one number in all lanes."""
        if not isinstance(number, Value):
            return Value(self, ir.Constant(ir.VectorType(_FLOAT, LANES), [float(number)] * LANES))
        kind = ir.VectorType(number.raw.type, LANES)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number.raw, ir.Constant(_INT, 0))
        zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
        return Value(self, self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros))

    def long(self, number: int) -> Value:
        """Whole number, as counters and places are."""
        return Value(self, ir.Constant(_LONG, number))

    def like(self, value: Value, other: Value | float) -> Value:
        """Python number as the same kind of value."""
        if isinstance(other, Value):
            return other
        kind = value.raw.type
        number = float(other) if value._element == _FLOAT else int(other)
        return Value(self, ir.Constant(kind, [number] * LANES if isinstance(kind, ir.VectorType) else number))

    def variable(self, initial: Value) -> Variable:
        """Value that loops change."""
        return Variable(self, initial)

    def sums(self, keys: Sequence[float]) -> dict[float, Variable]:
        """Vectors to add to, one for each key."""
        return {key: self.variable(self.vector(0.0)) for key in keys}

    @contextmanager
    def loop(self, stop: Value, *, start: int | Value = 0, step: int = 1) -> Iterator[Value]:
        """Count from `start` while a whole step remains below `stop`."""
        first = start if isinstance(start, Value) else self.long(start)
        counter = self.variable(first)
        head, body, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        inside = counter.value + (step - 1) < stop
        self.builder.cbranch(inside.raw, body, after)
        self.builder.position_at_end(body)
        yield counter.value
        counter.add(self.long(step))
        self.builder.branch(head)
        self.builder.position_at_end(after)

    def by_fours(self, stop: Value, emit: Callable[[Value, int], None]) -> None:
        """Count from 0 below `stop`, four at a time and then one: what is done for four shares loads and sums."""
        for start, step in ((self.long(0), 4), (stop.shifted(-2).shifted(2), 1)):
            with self.loop(stop, start=start, step=step) as counter:
                emit(counter, step)

    def when(self, condition: Value) -> AbstractContextManager[Any]:
        """Emit what only runs where a single condition holds."""
        return self.builder.if_then(condition.raw)

    def room(self, numbers: int) -> Value:
        """Memory for some float32 numbers while the function runs."""
        with self.at_entry():
            place = self.builder.alloca(ir.ArrayType(_FLOAT, numbers))
            place.align = 64
            place.type = ir.PointerType()  # of numbers, vectors of which are stored
        return Value(self, place)

    def load(self, pointer: Value, place: Value, kind: str = "float32") -> Value:
        """Vector that starts at a place; half precision becomes float32."""
        element = _ELEMENTS[kind]
        vector = ir.VectorType(element, LANES)
        found = self.builder.load(self._address(pointer, place, element), align=element_size(kind), typ=vector)
        if kind == "float16":
            found = self.builder.fpext(found, ir.VectorType(_FLOAT, LANES))
        elif kind == "bfloat16":  # the upper half of a float32
            wide = Value(self, self.builder.zext(found, ir.VectorType(_INT, LANES)))
            return wide.shifted(16).as_float()
        return Value(self, found)

    def store(self, value: Value, pointer: Value, place: Value, kind: str = "float32") -> None:
        """Put a vector at a place."""
        raw = value.raw
        if kind == "int64":
            raw = self.builder.sext(raw, ir.VectorType(_LONG, LANES))
        self.builder.store(raw, self._address(pointer, place, _ELEMENTS[kind]), align=element_size(kind))

    def get(self, pointer: Value, place: Value, kind: str = "float32") -> Value:
        """Single number at a place."""
        element = _ELEMENTS[kind]
        return Value(self, self.builder.load(self._address(pointer, place, element), typ=element))

    def put(self, value: Value, pointer: Value, place: Value, kind: str = "float32") -> None:
        """Put a single number at a place."""
        self.builder.store(value.raw, self._address(pointer, place, _ELEMENTS[kind]))

    def _address(self, pointer: Value, place: Value, element: Any) -> Any:
        return self.builder.gep(pointer.raw, [place.raw], source_etype=element)

    def intrinsic(self, name: str, raw: Any) -> Any:
        """One of LLVM's own functions of one vector."""
        full = f"{name}.v{LANES}f32"
        known = self.module.globals.get(full)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(raw.type, [raw.type]), full)
        return self.builder.call(known, [raw])

    def compiled(self) -> Callable[..., None]:
        """Finish the function and return it; a call lets other Python threads run."""
        self.builder.ret_void()
        with self.at_entry():
            self.builder.branch(self.function.basic_blocks[1])
        with _lock:
            machine = _machine()
            module = llvm.parse_assembly(str(self.module))
            module.verify()
            options = llvm.create_pipeline_tuning_options(speed_level=2)
            options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
            passes = llvm.create_pass_builder(machine, options)
            passes.getModulePassManager().run(module, passes)
            engine = llvm.create_mcjit_compiler(module, machine)
            engine.finalize_object()
            address = engine.get_function_address(self.function.name)
            _engines.append(engine)
        return ctypes.CFUNCTYPE(None, *self.c_types)(address)


_lock = threading.Lock()
_engines: list[Any] = []  # compiled code lives as long as they do


@cache
def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    host = llvm.Target.from_default_triple()
    return host.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2, jit=True
    )


def built_once(build: Callable[..., Callable[..., None]]) -> Callable[..., Callable[..., None]]:
    """Keep every function that is built, and let other threads wait for it instead of building it too."""
    kept, lock = cache(build), threading.Lock()

    @wraps(build)
    def get(*arguments: Any) -> Callable[..., None]:
        with lock:
            return kept(*arguments)

    return get


def check() -> None:
    """Compile a small function and run it.

    Raises
    ------
    RuntimeError
        If its result is wrong; whatever LLVM raises if it cannot compile here.
    """
    code = Code("check", {"x": "pointer"})
    x, start = code.arguments["x"], code.long(0)
    code.store(exp2(code.load(x, start)), x, start)
    numbers = (ctypes.c_float * LANES)(*range(LANES))
    code.compiled()(ctypes.addressof(numbers))
    if any(abs(found / 2.0**k - 1) > 1e-6 for k, found in enumerate(numbers)):
        raise RuntimeError("compiled code gave wrong numbers")


def element_size(kind: str) -> int:
    """Bytes of an element in memory."""
    return {"float16": 2, "bfloat16": 2, "int64": 8, "float64": 8}.get(kind, 4)


# --------------------------------------------------------------------------------------------------------------------
# elementary functions, as minimax polynomials


def _polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    found = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        found = found * x + coefficient
    return found


_ROUND = 1.5 * 2**23  # adding it rounds to a whole number, which stands in the low bits of the sum
_EXP2 = (1.0, 0.6931472029, 0.2402264791, 0.05550332471, 0.009618437353, 0.001339887451, 0.0001535336307)
_LOG2_LOW = (1.442694085, -0.7213439316, 0.4810197222, -0.3609276831)
_LOG2 = (*_LOG2_LOW, 0.2845878999, -0.2346796092, 0.2520268062, -0.2319822983)
_TWO_THIRDS = 0x3F2AAAAB  # bits of 2/3


def exp2(x: Value) -> Value:
    """2^x for x <= 127, relative error 1e-7, 0 where x is below -126.5; whole powers are exact."""
    x = x.at_least(-127.0)
    whole = x + (_ROUND + 127)
    fraction = x - (whole - (_ROUND + 127))
    return _polynomial(fraction, _EXP2) * whole.bits().shifted(23).as_float()


def log2(x: Value, exponent: int = 0) -> Value:
    """Logarithm of normal x > 0, absolute error 1e-7 and rounding; `exponent` is added to it without a rounding."""
    power = (x.bits() - _TWO_THIRDS).shifted(-23)
    rest = (x.bits() - power.shifted(23)).as_float() - 1.0  # in [-1/3, 1/3]
    if exponent:
        power = power + exponent
    return _polynomial(rest, _LOG2) * rest + power.to_float()
