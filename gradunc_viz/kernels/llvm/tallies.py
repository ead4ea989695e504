"""Pixels per bin and per cell in loops compiled by LLVM; `gradunc_viz.kernels.tallies` says the same in torch.

Every function goes through the pixels once and allocates its result only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import tallies
from .code import LANES, Code, Value, built_once

__all__ = [
    "INDEX",
    "bin_numbers",
    "cell_counts",
    "extremes",
    "finite_range",
    "joint_counts",
    "joint_sums",
    "leading_counts",
    "occupied",
]

INDEX = torch.int32

_LARGEST = float(np.finfo("f4").max)


def _finite(x: Value) -> Value:
    return (x.abs() > _LARGEST).no() & x.equals(x)


@built_once
def _range_loop() -> Callable[..., None]:
    code = Code("finite_range", {"axis": "pointer", "out": "pointer", "pixels": "long"})
    axis, out, pixels = code.arguments.values()
    low, high = code.variable(code.vector(np.inf)), code.variable(code.vector(-np.inf))
    with code.loop(pixels, step=LANES) as place:
        x = code.load(axis, place)
        finite = _finite(x)
        low.set(x.where(finite & (x < low.value), low.value))
        high.set(x.where(finite & (x > high.value), high.value))
    code.store(low.value, out, code.long(0))
    code.store(high.value, out, code.long(LANES))
    return code.compiled()


def finite_range(axis: Tensor) -> tuple[float, float] | None:
    """See `gradunc_viz.kernels.tallies.finite_range`."""
    axis = axis.contiguous()
    whole = len(axis) // LANES * LANES
    out = np.empty((2, LANES), "f4")
    _range_loop()(axis.data_ptr(), out.ctypes.data, whole)
    ends = tallies.finite_range(axis[whole:])
    low, high = float(out[0].min()), float(out[1].max())
    if ends is not None:
        low, high = min(low, ends[0]), max(high, ends[1])
    return (low, high) if low <= high else None


@built_once
def _number_loop() -> Callable[..., None]:
    names = {"axis": "pointer", "out": "pointer", "pixels": "long", "step": "float", "before": "float", "last": "long"}
    code = Code("bin_numbers", names)
    axis, out, pixels, step, before, last = code.arguments.values()
    steps, starts, ends = code.vector(step), code.vector(before), code.vector(last.to_int())
    with code.loop(pixels, step=LANES) as place:
        x = code.load(axis, place)
        finite = _finite(x)
        number = ((x.where(finite, 0.0) * steps).floor() - starts).to_int()
        code.store(number.where(finite, ends.where(x > 0.0, 0)), out, place, "int32")
    return code.compiled()


def bin_numbers(axis: Tensor, step: float, start: int, last: int) -> Tensor:
    """See `gradunc_viz.kernels.tallies.bin_numbers`."""
    whole = 0 if step > 2.0**70 else len(axis) // LANES * LANES
    axis = axis.contiguous()
    found = torch.from_numpy(np.empty(len(axis), "i4"))  # numpy asks for large pages: touching small ones takes longer
    if whole:
        _number_loop()(axis.data_ptr(), found.data_ptr(), whole, step, start - 1, last)
    found[whole:] = tallies.bin_numbers(axis[whole:], step, start, last)
    return found


@built_once
def _extremes_loop() -> Callable[..., None]:
    names = {"number": "pointer", "values": "pointer", "low": "pointer", "high": "pointer", "pixels": "long"}
    code = Code("extremes", names)
    number, values, low, high, pixels = code.arguments.values()
    with code.loop(pixels) as i:
        place, x = code.get(number, i, "int32").to_long(), code.get(values, i)
        before = code.get(low, place)
        code.put(x.where(x < before, before), low, place)
        before = code.get(high, place)
        code.put(x.where(x > before, before), high, place)
    return code.compiled()


def extremes(number: Tensor, values: Tensor, width: int) -> tuple[np.ndarray, np.ndarray]:
    """See `gradunc_viz.kernels.tallies.extremes`."""
    low, high = np.full(width, np.inf, "f4"), np.full(width, -np.inf, "f4")
    number, values = number.contiguous(), values.contiguous()
    _extremes_loop()(number.data_ptr(), values.data_ptr(), low.ctypes.data, high.ctypes.data, len(values))
    return low, high


@built_once
def _joint_loop(weighted: bool) -> Callable[..., None]:
    names = {"row": "pointer", "number": "pointer", "weight": "pointer", "out": "pointer"}
    code = Code("joint_counts", names | {"pixels": "long", "width": "long"})
    row, number, weight, out, pixels, width = code.arguments.values()
    kind = "float64" if weighted else "int32"
    with code.loop(pixels) as i:
        place = code.get(row, i, "int32").to_long() * width + code.get(number, i, "int32").to_long()
        more = code.get(weight, i, kind) if weighted else 1
        code.put(code.get(out, place, kind) + more, out, place, kind)
    return code.compiled()


def joint_counts(row: Tensor, number: Tensor, rows: int, width: int) -> np.ndarray:
    """See `gradunc_viz.kernels.tallies.joint_counts`."""
    out = np.zeros((rows, width), "i4")
    row, number = row.contiguous(), number.contiguous()
    _joint_loop(False)(row.data_ptr(), number.data_ptr(), 0, out.ctypes.data, len(row), width)
    return out


def joint_sums(row: Tensor, number: Tensor, weight: Tensor, rows: int, width: int) -> np.ndarray:
    """See `gradunc_viz.kernels.tallies.joint_sums`."""
    out = np.zeros((rows, width))
    row, number, weight = row.contiguous(), number.contiguous(), weight.contiguous()
    _joint_loop(True)(row.data_ptr(), number.data_ptr(), weight.data_ptr(), out.ctypes.data, len(row), width)
    return out


def _key(code: Code, values: Value, i: Value) -> Value:
    """Key of a float32 number, see `gradunc_viz.counts.cells`; of minus zero it is that of zero."""
    bits = (code.get(values, i) + 0.0).bits()
    return bits ^ (bits.shifted(-31) & 0x7FFFFFFF)


@built_once
def _leading_loop() -> Callable[..., None]:
    code = Code("leading_counts", {"values": "pointer", "out": "pointer", "pixels": "long"})
    values, out, pixels = code.arguments.values()
    with code.loop(pixels) as i:
        place = (_key(code, values, i).shifted(-16) + 2**15).to_long()
        code.put(code.get(out, place, "int32") + 1, out, place, "int32")
    return code.compiled()


def leading_counts(values: Tensor) -> np.ndarray:
    """See `gradunc_viz.kernels.tallies.leading_counts`."""
    out = np.zeros(2**16, "i4")
    values = values.contiguous()
    _leading_loop()(values.data_ptr(), out.ctypes.data, len(values))
    return out


@built_once
def _cell_loop(shift: int) -> Callable[..., None]:
    names = {"values": "pointer", "rank": "pointer", "row": "pointer", "out": "pointer"}
    code = Code("cell_counts", names | {"pixels": "long", "size": "long"})
    values, rank, row, out, pixels, size = code.arguments.values()
    with code.loop(pixels) as i:
        key = _key(code, values, i)
        within = key & (2**16 - 1)
        within = within.shifted(-shift) if shift else within
        base = code.get(rank, (key.shifted(-16) + 2**15).to_long(), "int32")
        base = base.shifted(16 - shift) if shift < 16 else base
        place = code.get(row, i, "int32").to_long() * size + (base + within).to_long()
        code.put(code.get(out, place, "int32") + 1, out, place, "int32")
    return code.compiled()


def cell_counts(values: Tensor, rank: np.ndarray, shift: int, row: Tensor, rows: int) -> np.ndarray:
    """See `gradunc_viz.kernels.tallies.cell_counts`."""
    rank = rank.astype("i4")
    out = np.zeros((rows, (int(rank.max()) + 1) << (16 - shift)), "i4")
    values, row = values.contiguous(), row.contiguous()
    arguments = values.data_ptr(), rank.ctypes.data, row.data_ptr(), out.ctypes.data
    _cell_loop(shift)(*arguments, len(values), out.shape[1])
    return out


@built_once
def _occupied_loop() -> Callable[..., None]:
    code = Code(
        "occupied", {"counts": "pointer", "rows": "long", "columns": "long", "used": "pointer", "out": "pointer"}
    )
    counts, rows, columns, used, out = code.arguments.values()
    place = code.variable(code.long(0))
    with code.loop(columns) as column:  # columns are written one after the other, and an empty one written over
        total = code.variable(code.long(0).to_int())
        with code.loop(rows) as row:
            found = code.get(counts, row * columns + column, "int32")
            code.put(found, out, row * columns + place.value, "int32")
            total.add(found)
        code.put(column, used, place.value, "int64")
        place.add(code.long(1).where(total.value > 0, 0))
    code.put(place.value, used, columns, "int64")
    return code.compiled()


def occupied(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `gradunc_viz.kernels.tallies.occupied`."""
    used, out = np.empty(counts.shape[1] + 1, "i8"), np.empty_like(counts)
    _occupied_loop()(counts.ctypes.data, *counts.shape, used.ctypes.data, out.ctypes.data)
    return used[: used[-1]], out[:, : used[-1]]
