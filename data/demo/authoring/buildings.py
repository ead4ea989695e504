"""Town houses, blocks and cottages of the demo scenes, with recessed windows, shops and roofs."""

from __future__ import annotations

from itertools import pairwise

import bpy
import numpy as np
import surfaces
from materials import Library
from meshes import MeshBuilder

_WALL, _TRIM, _GLASS, _FRAME, _ROOF, _DOOR, _AWNING = range(7)

_TINTS = {
    "brick": ((0.30, 0.105, 0.065), (0.36, 0.19, 0.12), (0.22, 0.10, 0.075), (0.40, 0.31, 0.21)),
    "plaster": (
        (0.52, 0.46, 0.34), (0.50, 0.33, 0.22), (0.55, 0.53, 0.48), (0.36, 0.42, 0.40), (0.52, 0.42, 0.22),
        (0.42, 0.25, 0.20), (0.33, 0.37, 0.42),
    ),
    "panel": ((0.40, 0.40, 0.39), (0.31, 0.31, 0.32), (0.44, 0.41, 0.36)),
    "boards": ((0.50, 0.50, 0.47), (0.22, 0.30, 0.34), (0.42, 0.33, 0.22), (0.30, 0.08, 0.06)),
}  # fmt: skip


def _pane(mb: MeshBuilder, y0: float, y1: float, z0: float, z1: float, x: float, bars: int, cross: bool) -> None:
    """Append a framed pane in the plane ``x``."""
    mb.quad([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], _GLASS)
    f = 0.06
    ym, zm = 0.5 * (y0 + y1), 0.5 * (z0 + z1)
    for y in (y0 + f / 2, y1 - f / 2):
        mb.box((x - 0.02, y, zm), (0.06, f, z1 - z0), _FRAME)
    for z in (z0 + f / 2, z1 - f / 2):
        mb.box((x - 0.02, ym, z), (0.058, y1 - y0, f), _FRAME)
    for k in range(1, bars):
        mb.box((x - 0.02, y0 + (y1 - y0) * k / bars, zm), (0.05, 0.045, z1 - z0), _FRAME)
    if cross:
        mb.box((x - 0.02, ym, z0 + 0.66 * (z1 - z0)), (0.05, y1 - y0, 0.045), _FRAME)


def _cell(mb: MeshBuilder, cell, hole, depth: float, slot: int = _WALL) -> None:
    """Append a wall cell with a rectangular hole and the hole's reveals."""
    y0, y1, z0, z1 = cell
    a, b, c, d = hole
    for p, q, r, s in ((y0, y1, z0, c), (y0, y1, d, z1), (y0, a, c, d), (b, y1, c, d)):
        if q - p > 1e-4 and s - r > 1e-4:
            mb.quad([(0, p, r), (0, p, s), (0, q, s), (0, q, r)], slot)
    for u, v in (((a, c), (a, d)), ((a, d), (b, d)), ((b, d), (b, c)), ((b, c), (a, c))):
        mb.quad([(0, *u), (0, *v), (depth, *v), (depth, *u)], slot)


def _balcony(mb: MeshBuilder, ym: float, width: float, z: float) -> None:
    """Append a balcony with a barred rail."""
    mb.box((-0.5, ym, z - 0.07), (1.0, width, 0.14), _TRIM)
    mb.box((-0.97, ym, z + 0.95), (0.05, width, 0.05), _DOOR)
    for y in np.arange(ym - width / 2, ym + width / 2 + 0.01, 0.16):
        mb.box((-0.97, y, z + 0.45), (0.02, 0.02, 0.95), _DOOR)
    for y in (ym - width / 2, ym + width / 2):
        mb.box((-0.5, y, z + 0.95), (0.95, 0.04, 0.04), _DOOR)


def _ground_floor(mb: MeshBuilder, rng, cells, height: float, shop: bool, depth: float) -> None:
    """Append the ground floor: shop fronts under awnings, or windows with one door."""
    door = int(rng.integers(len(cells)))
    awning = rng.random() < 0.6
    for k, (y0, y1) in enumerate(cells):
        ym, half = 0.5 * (y0 + y1), 0.5 * (y1 - y0)
        if k == door:
            hole = (ym - 0.55, ym + 0.55, 0.0, 2.35)
            _cell(mb, (y0, y1, 0.0, height), hole, 0.25)
            mb.quad([(0.2, hole[0], 0), (0.2, hole[0], 2.35), (0.2, hole[1], 2.35), (0.2, hole[1], 0)], _DOOR)
            mb.box((0.17, ym, 1.75), (0.05, 0.7, 0.7), _GLASS)
            mb.box((-0.12, ym, 0.06), (0.5, 1.3, 0.12), _TRIM)
        elif shop:
            hole = (ym - half + 0.18, ym + half - 0.18, 0.45, height - 0.85)
            _cell(mb, (y0, y1, 0.0, height), hole, 0.2)
            _pane(mb, *hole[:2], *hole[2:], 0.15, 2, False)
            mb.box((-0.06, ym, height - 0.5), (0.12, 2 * half - 0.2, 0.5), _AWNING)
            if awning:
                z = height - 0.78
                y2, y3 = ym - half + 0.1, ym + half - 0.1
                mb.quad([(-0.02, y2, z), (-1.1, y2, z - 0.5), (-1.1, y3, z - 0.5), (-0.02, y3, z)], _AWNING)
                mb.quad(
                    [(-1.1, y2, z - 0.5), (-1.1, y2, z - 0.7), (-1.1, y3, z - 0.7), (-1.1, y3, z - 0.5)],
                    _AWNING,
                )
        else:
            hole = (ym - 0.6, ym + 0.6, 1.0, 2.5)
            _cell(mb, (y0, y1, 0.0, height), hole, depth)
            _pane(mb, *hole[:2], *hole[2:], depth - 0.03, 2, True)
            mb.box((-0.05, ym, 0.97), (0.2, 1.4, 0.08), _TRIM)


def _shell(mb: MeshBuilder, width: float, depth: float, top: float, pitched: bool) -> None:
    """Append side and back walls and the roof."""
    w = width / 2
    ridge = top + min(0.42 * depth, 4.5)
    for y in (-w, w):
        if pitched:
            mb.add(
                [(0, y, 0), (depth, y, 0), (depth, y, top), (depth / 2, y, ridge), (0, y, top)],
                [(0, 1, 2, 3, 4)],
                _WALL,
            )
        else:
            mb.quad([(0, y, 0), (depth, y, 0), (depth, y, top), (0, y, top)], _WALL)
    mb.quad([(depth, -w, 0), (depth, w, 0), (depth, w, top), (depth, -w, top)], _WALL)
    if pitched:
        over = 0.45
        drop = over * (ridge - top) / (depth / 2)
        e = w + 0.25
        for x0, x1 in ((-over, depth / 2), (depth + over, depth / 2)):
            low, high = top - drop + 0.05, ridge + 0.05
            mb.quad([(x0, -e, low), (x0, e, low), (x1, e, high), (x1, -e, high)], _ROOF)
            mb.quad([(x0, -e, low - 0.12), (x0, e, low - 0.12), (x0, e, low), (x0, -e, low)], _TRIM)
        mb.box((depth * 0.62, 0.25 * width, ridge + 0.1), (0.7, 0.6, 1.5), _WALL)
    else:
        mb.quad([(0, -w, top), (depth, -w, top), (depth, w, top), (0, w, top)], _TRIM)
        mb.box((-0.1, 0, top + 0.2), (0.45, width + 0.1, 0.5), _TRIM)
        mb.box((depth / 2, -w, top + 0.2), (depth, 0.3, 0.5), _TRIM)
        mb.box((depth / 2, w, top + 0.2), (depth, 0.3, 0.5), _TRIM)


def building_mesh(lib: Library, rng: np.random.Generator, width: float, style: str):
    """Build a house whose front lies in x = 0 and faces -x, centred on y; ``style``: town, block or cottage.

    Returns
    -------
    tuple
        The mesh, the wall tint for the placed object and the depth.
    """
    mb = MeshBuilder()
    floors = {"town": rng.integers(3, 6), "block": rng.integers(4, 9), "cottage": rng.integers(1, 3)}[style]
    kind = str(rng.choice({"town": ["brick", "plaster", "plaster"], "block": ["panel", "plaster", "brick"],
                           "cottage": ["boards", "brick", "plaster"]}[style]))  # fmt: skip
    depth = rng.uniform(8, 12)
    ground = rng.uniform(3.5, 4.2) if style != "cottage" else 2.9
    storey = rng.uniform(2.9, 3.4)
    cells_n = max(2, round(width / rng.uniform(2.3, 3.1)))
    edges = np.linspace(-width / 2, width / 2, cells_n + 1)
    cells = list(pairwise(edges))
    recess = rng.uniform(0.10, 0.24)
    _ground_floor(mb, rng, cells, ground, style != "cottage" and rng.random() < 0.55, recess)
    ww = rng.uniform(0.95, 1.35) if style != "block" else rng.uniform(1.3, 1.9)
    wh = rng.uniform(1.35, 1.9)
    bars, cross = int(rng.integers(1, 3)), bool(rng.random() < 0.5)
    balconies = rng.random() < 0.35 and style != "cottage"
    columns = set(rng.choice(cells_n, size=max(1, cells_n // 3), replace=False).tolist())
    lintel = rng.random() < 0.6
    for f in range(floors - 1):
        z0 = ground + f * storey
        for k, (y0, y1) in enumerate(cells):
            ym = 0.5 * (y0 + y1)
            half = min(ww, (y1 - y0) * 0.78) / 2
            balcony = balconies and k in columns
            sill = z0 + (0.08 if balcony else 0.85)
            head = z0 + min(0.85 + wh, storey - 0.25)
            _cell(mb, (y0, y1, z0, z0 + storey), (ym - half, ym + half, sill, head), recess)
            _pane(mb, ym - half, ym + half, sill, head, recess - 0.03, bars, cross)
            if balcony:
                _balcony(mb, ym, 2 * half + 0.7, z0 + 0.05)
            else:
                mb.box((-0.04, ym, sill - 0.04), (0.18, 2 * half + 0.16, 0.08), _TRIM)
            if lintel:
                mb.box((-0.03, ym, head + 0.1), (0.12, 2 * half + 0.24, 0.2), _TRIM)
        if f == 0 or rng.random() < 0.25:
            mb.box((-0.06, 0, z0), (0.2, width, 0.18), _TRIM)
    top = ground + (floors - 1) * storey
    _shell(mb, width, depth, top, style == "cottage" or (style == "town" and rng.random() < 0.45))
    accents = (
        (0.30, 0.04, 0.035),
        (0.03, 0.10, 0.075),
        (0.035, 0.06, 0.14),
        (0.03, 0.03, 0.03),
        (0.42, 0.33, 0.16),
    )
    a, d = (int(rng.integers(len(accents))) for _ in range(2))
    pale = rng.random() < 0.7
    frame = ("white frame", (0.62, 0.61, 0.58)) if pale else ("dark frame", (0.045, 0.045, 0.05))
    materials = [
        lib.get(f"wall-{kind}", surfaces.wall(kind)),
        lib.plain("stone trim", (0.38, 0.36, 0.32), 0.85),
        lib.get("window glass", surfaces.window_glass),
        lib.plain(*frame, 0.5),
        lib.get("roof", surfaces.roof),
        lib.plain(f"door{d}", accents[d], 0.45),
        lib.plain(f"awning{a}", accents[a], 0.7),
    ]
    tints = _TINTS[kind]
    tint = np.array(tints[int(rng.integers(len(tints)))]) * rng.uniform(0.85, 1.1)
    return mb.mesh(f"{style} house", materials), tuple(tint), depth


def fence_mesh(lib: Library, rng: np.random.Generator, length: float) -> bpy.types.Mesh:
    """Build a low garden wall with pillars along y."""
    mb = MeshBuilder()
    h = rng.uniform(0.6, 1.0)
    mb.box((0, 0, h / 2), (0.22, length, h), 0)
    mb.box((0, 0, h + 0.03), (0.30, length, 0.07), 1)
    for y in np.arange(-length / 2, length / 2 + 0.1, length / max(1, round(length / 3))):
        mb.box((0, y, (h + 0.3) / 2), (0.34, 0.34, h + 0.3), 0)
        mb.box((0, y, h + 0.33), (0.42, 0.42, 0.08), 1)
    wall = str(rng.choice(["brick", "plaster"]))
    return mb.mesh(
        "garden wall",
        [lib.get(f"wall-{wall}", surfaces.wall(wall)), lib.plain("stone trim", (0.38, 0.36, 0.32), 0.85)],
    )
