"""Street furniture of the demo scenes: lamps, traffic signs and signals, bollards."""

# Coordinates are arrays here: "point + (x, y, z)" adds and does not concatenate.
# ruff: noqa: RUF005

from __future__ import annotations

import bpy
import numpy as np
from materials import Library
from meshes import MeshBuilder, turn


def lamp_mesh(lib: Library, rng: np.random.Generator) -> bpy.types.Mesh:
    """Build a street lamp whose arm reaches towards -x."""
    mb = MeshBuilder()
    h = rng.uniform(5.5, 7.5)
    reach = rng.uniform(0.9, 1.8)
    mb.tube([(0, 0, 0), (0, 0, 0.9), (0, 0, 0.95), (0, 0, h)], [0.10, 0.10, 0.07, 0.045], 0, 12)
    mb.tube([(0, 0, h - 0.05), (-0.25, 0, h + 0.25), (-reach, 0, h + 0.35)], [0.045, 0.04, 0.035], 0, 8)
    mb.ellipsoid((-reach - 0.25, 0, h + 0.36), (0.38, 0.15, 0.075), 0)
    mb.ellipsoid((-reach - 0.25, 0, h + 0.31), (0.28, 0.11, 0.06), 1)
    grey = lib.plain("galvanised", (0.22, 0.23, 0.235), 0.45, 0.7)
    return mb.mesh("lamp", [grey, lib.glow("lamp glass", (1.0, 0.8, 0.5), 0.3 + 12.0 * lib.dusk)])


def _disc(mb: MeshBuilder, centre, radius: float, sides: int, slot: int, spin: float = 0.0) -> None:
    """Append a thin upright plate that faces -y."""
    a = np.linspace(0, 2 * np.pi, sides, endpoint=False) + spin
    ring = np.column_stack([radius * np.cos(a), np.zeros(sides), radius * np.sin(a)]) + np.asarray(centre)
    back = ring + (0, 0.012, 0)
    mb.add(ring, [tuple(range(sides))], slot)
    mb.add(back, [tuple(range(sides))[::-1]], 0)
    mb.grid(np.stack([ring, back]), 0, smooth=False)


def sign_mesh(lib: Library, rng: np.random.Generator) -> bpy.types.Mesh:
    """Build a traffic sign (one or two plates) facing -y."""
    mb = MeshBuilder()
    h = rng.uniform(2.5, 3.0)
    mb.tube([(0, 0.03, 0), (0, 0.03, h)], [0.035, 0.035], 0, 10)
    red, white, blue, yellow = range(1, 5)
    z = h - 0.32
    for _ in range(int(rng.integers(1, 3))):
        kind = int(rng.integers(6))
        c = np.array([0, -0.02, z])
        step = np.array([0, -0.006, 0])
        if kind == 0:  # speed limit
            _disc(mb, c, 0.32, 28, red)
            _disc(mb, c + step, 0.24, 28, white)
            mb.box(c + 2 * step + (-0.06, 0, 0), (0.05, 0.004, 0.2), 5)
            mb.box(c + 2 * step + (0.07, 0, 0), (0.09, 0.004, 0.2), 5)
        elif kind == 1:  # warning
            _disc(mb, c, 0.42, 3, red, np.pi / 2)
            _disc(mb, c + step, 0.28, 3, white, np.pi / 2)
        elif kind == 2:  # no entry
            _disc(mb, c, 0.32, 28, red)
            mb.box(c + step, (0.42, 0.006, 0.1), white)
        elif kind == 3:  # priority
            _disc(mb, c, 0.40, 4, white)
            _disc(mb, c + step, 0.29, 4, yellow)
        elif kind == 4:  # stop
            _disc(mb, c, 0.36, 8, red, np.pi / 8)
            mb.box(c + step, (0.46, 0.006, 0.11), white)
        else:  # information
            mb.box(c, (0.55, 0.015, 0.55), blue)
            mb.box(c + (0, -0.01, 0), (0.16, 0.006, 0.36), white)
        z -= 0.72
    materials = [
        lib.plain("galvanised", (0.22, 0.23, 0.235), 0.45, 0.7),
        lib.plain("sign red", (0.50, 0.015, 0.02), 0.35),
        lib.plain("sign white", (0.75, 0.75, 0.74), 0.35),
        lib.plain("sign blue", (0.01, 0.08, 0.42), 0.35),
        lib.plain("sign yellow", (0.75, 0.48, 0.01), 0.35),
        lib.plain("sign black", (0.012, 0.012, 0.012), 0.4),
    ]
    return mb.mesh("sign", materials)


def signal_mesh(lib: Library, rng: np.random.Generator) -> bpy.types.Mesh:
    """Build a traffic signal facing -y, with a mast arm towards -x half the time."""
    mb = MeshBuilder()
    heads = [(0, -0.16, 2.75)]
    if rng.random() < 0.5:
        mb.tube([(0, 0, 0), (0, 0, 5.4)], [0.09, 0.07], 0, 12)
        mb.tube([(0, 0, 5.2), (-3.4, 0, 5.5)], [0.06, 0.045], 0, 8)
        heads.append((-3.3, -0.16, 5.2))
    else:
        mb.tube([(0, 0, 0), (0, 0, 3.3)], [0.06, 0.055], 0, 12)
    lit = int(rng.integers(3))
    for c in heads:
        mb.box(c, (0.30, 0.22, 0.95), 1)
        for k, dz in enumerate((0.29, 0.0, -0.29)):
            centre = np.asarray(c) + (0, -0.115, dz)
            mb.ellipsoid(centre, (0.105, 0.03, 0.105), 2 + k if k == lit else 1)
            mb.tube(
                [centre + (0, -0.14, 0.085), centre + (0, 0.0, 0.085)],
                [(0.10, 0.03), (0.115, 0.03)],
                1,
                10,
                (0, 0, 1),
            )
    materials = [
        lib.plain("galvanised", (0.22, 0.23, 0.235), 0.45, 0.7),
        lib.plain("signal box", (0.014, 0.016, 0.015), 0.5),
        lib.glow("signal red", (1.0, 0.03, 0.02), 4.0),
        lib.glow("signal amber", (1.0, 0.4, 0.02), 4.0),
        lib.glow("signal green", (0.03, 1.0, 0.35), 3.0),
    ]
    return mb.mesh("signal", materials)


def bollard_mesh(lib: Library) -> bpy.types.Mesh:
    """Build a bollard with a light band."""
    mb = MeshBuilder()
    mb.tube([(0, 0, 0), (0, 0, 0.74)], [0.075, 0.07], 0, 14)
    mb.tube([(0, 0, 0.74), (0, 0, 0.84)], [0.074, 0.074], 1, 14)
    mb.ellipsoid((0, 0, 0.84), (0.073, 0.073, 0.07), 0, 14)
    dark = lib.plain("cast iron", (0.02, 0.022, 0.024), 0.5, 0.3)
    return mb.mesh("bollard", [dark, lib.plain("sign white", (0.75, 0.75, 0.74), 0.35)])


def cover_mesh(lib: Library) -> bpy.types.Mesh:
    """Build a manhole cover lying in the carriageway."""
    mb = MeshBuilder()
    mb.tube([(0, 0, -0.01), (0, 0, 0.006)], [0.36, 0.36], 0, 32, smooth=False)
    for r in (0.10, 0.19, 0.28):
        mb.torus((0, 0, 0.006), r, 0.022, 0, turn(0), flat=0.3)
    return mb.mesh("cover", [lib.plain("iron", (0.045, 0.042, 0.04), 0.5, 0.6)])
