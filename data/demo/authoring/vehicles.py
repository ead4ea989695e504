"""Cars of the demo scenes, lofted from a few side-view stations."""

# Coordinates are arrays here: "point + (x, y, z)" adds and does not concatenate.
# ruff: noqa: RUF005

from __future__ import annotations

import bpy
import numpy as np
import surfaces
from materials import Library
from meshes import MeshBuilder, turn

# Side-view stations from tail to nose: position along the car, belt line, top line, half width (metres).
_SHAPES: dict[str, dict] = {
    "saloon": {
        "stations": [
            (-2.30, 0.74, 0.76, 0.70), (-2.24, 0.92, 0.95, 0.82), (-2.00, 0.95, 1.00, 0.88),
            (-1.68, 0.96, 1.03, 0.90), (-0.98, 0.96, 1.40, 0.91), (-0.30, 0.95, 1.45, 0.91),
            (0.35, 0.94, 1.42, 0.91), (1.08, 0.92, 0.99, 0.91), (1.70, 0.85, 0.91, 0.89),
            (2.08, 0.73, 0.78, 0.84), (2.24, 0.62, 0.66, 0.74), (2.30, 0.52, 0.54, 0.62),
        ],
        "wheels": (1.42, -1.38), "seams": (1.02, 0.02, -0.92), "roof": (-0.98, 0.35), "glass": (-1.62, 1.0),
    },
    "hatch": {
        "stations": [
            (-2.02, 0.72, 0.74, 0.70), (-1.98, 0.95, 1.02, 0.81), (-1.86, 0.99, 1.10, 0.86),
            (-1.45, 0.98, 1.46, 0.88), (-0.30, 0.96, 1.52, 0.88), (0.40, 0.95, 1.47, 0.88),
            (1.10, 0.93, 1.00, 0.88), (1.55, 0.87, 0.93, 0.86), (1.86, 0.76, 0.81, 0.81),
            (2.00, 0.64, 0.68, 0.72), (2.04, 0.52, 0.54, 0.62),
        ],
        "wheels": (1.28, -1.25), "seams": (1.0, -0.1, -1.0), "roof": (-1.45, 0.40), "glass": (-1.84, 1.02),
    },
    "offroader": {
        "stations": [
            (-2.25, 0.80, 0.82, 0.74), (-2.22, 1.06, 1.14, 0.86), (-2.10, 1.10, 1.22, 0.91),
            (-1.78, 1.09, 1.66, 0.93), (-0.30, 1.08, 1.72, 0.94), (0.45, 1.07, 1.67, 0.94),
            (1.08, 1.06, 1.14, 0.94), (1.65, 1.01, 1.07, 0.92), (2.05, 0.90, 0.95, 0.87),
            (2.22, 0.74, 0.78, 0.79), (2.27, 0.58, 0.60, 0.68),
        ],
        "wheels": (1.40, -1.38), "seams": (1.0, -0.05, -0.98), "roof": (-1.78, 0.45), "glass": (-2.05, 1.0),
    },
    "van": {
        "stations": [
            (-2.45, 0.85, 0.87, 0.80), (-2.43, 1.15, 1.60, 0.90), (-2.38, 1.18, 1.93, 0.95),
            (-0.60, 1.17, 2.02, 0.96), (0.90, 1.15, 1.94, 0.96), (1.72, 1.10, 1.20, 0.95),
            (2.15, 0.98, 1.06, 0.90), (2.36, 0.80, 0.85, 0.82), (2.42, 0.58, 0.60, 0.70),
        ],
        "wheels": (1.55, -1.45), "seams": (1.25, 0.35, -1.9), "roof": (-2.36, 0.90), "glass": (0.40, 1.62),
    },
}  # fmt: skip

PAINTS = (
    (0.45, 0.45, 0.46), (0.62, 0.63, 0.64), (0.015, 0.016, 0.018), (0.09, 0.10, 0.11), (0.24, 0.02, 0.018),
    (0.02, 0.055, 0.17), (0.03, 0.11, 0.07), (0.32, 0.30, 0.25), (0.05, 0.14, 0.25), (0.40, 0.15, 0.03),
)  # fmt: skip


def _ring(zb: float, belt: float, top: float, hw: float) -> np.ndarray:
    """Cross-section from the underside's middle, up the right side, over the roof and back down."""
    house = np.clip((top - belt) / 0.5, 0.0, 1.0)
    rw = hw * (0.88 - 0.15 * house)
    side = belt - zb
    half = np.array(
        [
            (0, zb), (0.80 * hw, zb), (0.94 * hw, zb + 0.05), (0.985 * hw, zb + 0.30 * side),
            (1.0 * hw, zb + 0.58 * side), (0.985 * hw, zb + 0.80 * side), (0.955 * hw, belt),
            (0.945 * hw * 0.95 + rw * 0.05, belt + 0.05 * (top - belt)),
            (0.45 * hw + 0.52 * rw, belt + 0.50 * (top - belt)),
            (0.10 * hw + 0.90 * rw, belt + 0.87 * (top - belt)),
            (0.93 * rw, belt + 0.965 * (top - belt)), (0.6 * rw, top), (0, top + 0.02),
        ]
    )  # fmt: skip
    mirror = half[-2:0:-1] * (-1, 1)
    return np.concatenate([half, mirror])


def _body(mb: MeshBuilder, shape: dict) -> None:
    """Append the lofted body: slot 0 paint, slot 1 glass."""
    ctrl = np.array(shape["stations"])
    fine = np.linspace(ctrl[0, 0], ctrl[-1, 0], 241)
    step = fine[1] - fine[0]
    width = max(1, int(0.05 / step))
    kernel = np.exp(-0.5 * (np.arange(-3 * width, 3 * width + 1) / width) ** 2)
    kernel /= kernel.sum()
    smooth = [
        np.convolve(np.pad(np.interp(fine, ctrl[:, 0], ctrl[:, k]), 3 * width, mode="edge"), kernel, "valid")
        for k in (1, 2, 3)
    ]
    g0, g1 = shape["glass"]
    r0, r1 = shape["roof"]
    posts = [s for s in shape["seams"][1:] if g0 < s < g1]
    edges = [p + d for p in posts for d in (-0.045, 0.045)] + [g0, g1, r0 - 0.05, r1 + 0.05]
    ys = np.unique(np.round(np.concatenate([np.linspace(ctrl[0, 0], ctrl[-1, 0], 58), edges]), 4))
    ends = np.clip(np.abs(ys) / abs(ctrl[0, 0]), 0, 1)
    zb = 0.21 + 0.12 * np.clip((ends - 0.86) / 0.14, 0, 1)
    rings = []
    for y, low in zip(ys, zb, strict=True):
        belt, top, hw = (float(np.interp(y, fine, s)) for s in smooth)
        xz = _ring(low, belt, top, hw)
        rings.append(np.column_stack([xz[:, 0], np.full(len(xz), y), xz[:, 1]]))
    pts = np.array(rings)
    n, m = pts.shape[:2]
    slots = []
    for i in range(n - 1):
        mid = 0.5 * (ys[i] + ys[i + 1])
        in_house = g0 < mid < g1
        post = any(abs(mid - p) < 0.045 for p in posts)
        sloped = in_house and not (r0 - 0.05 < mid < r1 + 0.05)
        for j in range(m):
            k = j if j < 12 else m - 1 - j
            side_glass = k in (7, 8) and in_house and not post
            screen = k in (10, 11) and sloped
            slots.append(1 if side_glass or screen else 0)
    mb.grid(pts, slots, smooth=True)
    mb.add(pts[0], [tuple(range(m))], 0)
    mb.add(pts[-1], [tuple(range(m))[::-1]], 0)


def _wheel(mb: MeshBuilder, x: float, y: float, side: int) -> None:
    """Append a wheel: slot 2 rubber, slot 3 rim."""
    c = np.array([x, y, 0.33])
    xs = np.array([-0.11, -0.105, -0.07, 0.07, 0.105, 0.11])
    mb.tube(c + np.outer(xs, (1, 0, 0)), [0.22, 0.31, 0.33, 0.33, 0.31, 0.22], 2, 24, ref=(0, 0, 1))
    face = c + (side * 0.112, 0, 0)
    mb.ellipsoid(face, (0.012, 0.205, 0.205), 2, 20, 8)
    for k in range(5):
        rot = turn(72 * k, "x")
        mb.box(face + rot @ np.array([side * 0.012, 0, 0.105]), (0.03, 0.06, 0.19), 3, rot)
    mb.ellipsoid(face + (side * 0.015, 0, 0), (0.02, 0.055, 0.055), 3)
    mb.torus(face, 0.205, 0.016, 3, turn(90, "y"))


def car_mesh(lib: Library, kind: str) -> bpy.types.Mesh:
    """Build a car of the given kind, nose towards +y, standing on z = 0; its paint is the object's tint."""
    shape = _SHAPES[kind]
    mb = MeshBuilder()
    _body(mb, shape)
    stations = np.array(shape["stations"])
    hw, nose, tail = stations[:, 3].max(), stations[-1, 0], stations[0, 0]
    for wy in shape["wheels"]:
        for side in (-1, 1):
            _wheel(mb, side * (hw - 0.10), wy, side)
    lamp_z = 0.62 if kind in ("saloon", "hatch") else 0.80
    tail_z = 0.83 if kind in ("saloon", "hatch") else 1.0
    for side in (-1, 1):
        mb.ellipsoid((side * 0.62, nose - 0.20, lamp_z + 0.06), (0.20, 0.17, 0.075), 4, rot=turn(side * -22))
        mb.box((side * 0.68, tail + 0.06, tail_z), (0.26, 0.12, 0.13), 5, turn(side * 14))
        mb.ellipsoid((side * (hw + 0.06), shape["roof"][1] + 0.42, stations[:, 1].max() + 0.06), (0.11, 0.06, 0.075), 0)
        mb.box((side * 0.45, nose - 0.07, 0.36), (0.22, 0.1, 0.08), 2)
    mb.box((0, nose - 0.045, 0.53), (0.80, 0.12, 0.13), 2)
    mb.box((0, nose - 0.03, 0.38), (1.05, 0.1, 0.12), 2)
    mb.box((0, nose + 0.02, 0.45), (0.50, 0.03, 0.11), 6)
    mb.box((0, tail - 0.01, 0.70 if kind != "van" else 0.78), (0.50, 0.03, 0.11), 6)
    mb.box((0, tail + 0.06, 0.40), (1.30, 0.14, 0.13), 2)
    seams = shape["seams"]
    front, rear = shape["wheels"]
    belt = float(np.median(stations[:, 1]))
    materials = [
        lib.get(f"paint-{kind}", surfaces.car_paint(front, rear, seams, belt)),
        lib.plain("car glass", (0.012, 0.014, 0.016), 0.03, Specular_IOR_Level=0.8),
        lib.plain("rubber", (0.012, 0.012, 0.013), 0.75),
        lib.plain("alloy", (0.42, 0.42, 0.43), 0.3, 0.9),
        lib.glow("headlamp", (0.9, 0.9, 0.85), 0.15 + 5.0 * lib.dusk),
        lib.glow("taillamp", (0.45, 0.01, 0.01), 0.25 + 1.6 * lib.dusk),
        lib.plain("plate", (0.75, 0.75, 0.7), 0.5),
    ]
    return mb.mesh(kind, materials)


KINDS = tuple(_SHAPES)
