"""Trees, hedges and grass tufts of the demo scenes."""

# Coordinates are arrays here: "point + (x, y, z)" adds and does not concatenate.
# ruff: noqa: RUF005

from __future__ import annotations

import bpy
import numpy as np
import surfaces
from materials import Library
from meshes import MeshBuilder

LEAF_TINTS = (
    (0.075, 0.15, 0.030), (0.050, 0.11, 0.030), (0.11, 0.17, 0.035), (0.16, 0.17, 0.03), (0.20, 0.11, 0.025),
    (0.06, 0.12, 0.045),
)  # fmt: skip


def _blob(rng: np.random.Generator, n: int, radii) -> np.ndarray:
    """Points in an ellipsoid, denser towards its surface."""
    v = rng.normal(size=(n, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return v * rng.uniform(0.3, 1.0, size=(n, 1)) ** 0.4 * np.asarray(radii)


def tree_mesh(lib: Library, rng: np.random.Generator, kind: str = "round") -> bpy.types.Mesh:
    """Build a tree about 7 m high (``kind``: round, column or conifer)."""
    mb = MeshBuilder()
    lean = rng.uniform(-0.25, 0.25, 2)
    fork = rng.uniform(2.0, 2.7)
    bend = np.array([(0, 0, -0.1), (*(lean * 0.3), fork * 0.6), (*lean, fork), (*(lean * 1.4), fork + 2.2)])
    mb.tube(bend, [0.19, 0.13, 0.11, 0.04], 0, 9, ref=(0, 1, 0))
    if kind == "conifer":
        for k in range(13):
            z = 1.0 + 6.0 * k / 13
            r = 1.9 * (1 - k / 13.5)
            ring = _blob(rng, int(300 * (0.25 + r / 1.9)), (r, r, 0.5))
            ring[:, 2] -= 0.25 * np.hypot(ring[:, 0], ring[:, 1])
            mb.leaves(rng, ring + (0, 0, z), 0.13, 1)
    else:
        wide = 1.0 if kind == "round" else 0.55
        for _ in range(11):
            off = rng.normal(size=3) * (1.15 * wide, 1.15 * wide, 1.2)
            centre = np.array([*lean, fork + 2.1]) + np.clip(off, -2.0, 2.0)
            rad = rng.uniform(0.75, 1.25) * np.array([1.0 * (0.5 + wide / 2), 1.0 * (0.5 + wide / 2), 0.85])
            mb.tube(
                [
                    (*lean, fork - 0.2),
                    (0.5 * (lean[0] + centre[0]), 0.5 * (lean[1] + centre[1]), fork + 0.7),
                    centre,
                ],
                [0.06, 0.045, 0.015],
                0,
                5,
                ref=(0.3, 1, 0.2),
            )
            mb.leaves(rng, _blob(rng, 430, rad) + centre, 0.145, 1)
    materials = [lib.get("bark", surfaces.bark), lib.get("leaf", surfaces.leaf)]
    return mb.mesh("tree", materials)


def hedge_mesh(lib: Library, rng: np.random.Generator, length: float, height: float, depth: float) -> bpy.types.Mesh:
    """Build a clipped hedge along y, standing on z = 0."""
    mb = MeshBuilder()
    mb.box((0, 0, height * 0.48), (depth * 0.86, length * 0.98, height * 0.94), 0)
    n = int(430 * length * (height + depth) / 1.8)
    p = rng.uniform(-0.5, 0.5, size=(n, 3)) * (depth, length, height) + (0, 0, height / 2)
    face = rng.integers(0, 3, size=n)
    sgn = rng.choice([-0.5, 0.5], size=n)
    p[face == 0, 0] = sgn[face == 0] * depth
    p[face == 1, 2] = height
    p[face == 2, 1] = np.where(rng.random((face == 2).sum()) < 0.15, sgn[face == 2] * length, p[face == 2, 1])
    mb.leaves(rng, p + rng.normal(scale=0.03, size=(n, 3)), 0.075, 1)
    return mb.mesh("hedge", [lib.plain("hedge core", (0.012, 0.02, 0.008), 0.9), lib.get("leaf", surfaces.leaf)])


def bush_mesh(lib: Library, rng: np.random.Generator) -> bpy.types.Mesh:
    """Build a loose shrub of about a metre."""
    mb = MeshBuilder()
    for _ in range(5):
        centre = np.array([*rng.uniform(-0.4, 0.4, 2), rng.uniform(0.3, 0.7)])
        mb.leaves(rng, _blob(rng, 260, (0.5, 0.5, 0.42)) + centre, 0.085, 0)
    return mb.mesh("bush", [lib.get("leaf", surfaces.leaf)])


def tuft_mesh(lib: Library, rng: np.random.Generator, side: float = 2.0) -> bpy.types.Mesh:
    """Build a square patch of grass blades."""
    mb = MeshBuilder()
    n = 700
    root = np.column_stack([rng.uniform(-side / 2, side / 2, (n, 2)), np.zeros(n)])
    tip = root + np.column_stack([rng.normal(scale=0.05, size=(n, 2)), rng.uniform(0.05, 0.16, n)])
    wide = rng.normal(size=(n, 3)) * (1, 1, 0)
    wide *= 0.012 / np.linalg.norm(wide, axis=1, keepdims=True)
    tri = np.stack([root - wide, root + wide, tip], axis=1)
    mb.add(tri.reshape(-1, 3), np.arange(3 * n).reshape(n, 3).tolist(), 0)
    return mb.mesh("tuft", [lib.get("leaf", surfaces.leaf)])
