"""Pedestrians of the demo scenes."""

# Coordinates are arrays here: "point + (x, y, z)" adds and does not concatenate.
# ruff: noqa: RUF005

from __future__ import annotations

import bpy
import numpy as np
from materials import Library
from meshes import MeshBuilder

_TOPS = (
    (0.03, 0.04, 0.09), (0.35, 0.03, 0.03), (0.45, 0.42, 0.36), (0.02, 0.02, 0.022), (0.05, 0.13, 0.09),
    (0.42, 0.24, 0.04), (0.10, 0.16, 0.32), (0.20, 0.20, 0.21), (0.24, 0.13, 0.22),
)  # fmt: skip
_LEGS = (
    (0.025, 0.035, 0.075),
    (0.02, 0.02, 0.02),
    (0.16, 0.13, 0.09),
    (0.09, 0.10, 0.11),
    (0.05, 0.07, 0.13),
)
_SKIN = ((0.46, 0.27, 0.19), (0.33, 0.18, 0.11), (0.14, 0.07, 0.045), (0.55, 0.36, 0.27))
_HAIR = ((0.015, 0.011, 0.009), (0.07, 0.04, 0.02), (0.22, 0.14, 0.06), (0.25, 0.24, 0.23))


def _pick(rng: np.random.Generator, lib: Library, name: str, colours) -> bpy.types.Material:
    k = int(rng.integers(len(colours)))
    return lib.plain(f"{name}{k}", colours[k], 0.85 if name != "skin" else 0.55)


def person_mesh(lib: Library, rng: np.random.Generator) -> bpy.types.Mesh:
    """Build a walking or standing person of about 1.75 m facing +y, feet on z = 0."""
    mb = MeshBuilder()
    skin, hair, top, legs, shoes, bag = range(6)
    stride = rng.uniform(0.28, 0.5) if rng.random() < 0.75 else rng.uniform(0.0, 0.08)
    girth = rng.uniform(0.92, 1.18)
    skirt = rng.random() < 0.25
    coat = rng.random() < 0.35
    low = 10.0
    pelvis = 0.93
    parts = []
    for side, swing in ((-1, stride), (1, -stride)):
        bend = 0.12 if swing > 0 else 0.12 + stride * 0.9
        hip = np.array([side * 0.088, 0, pelvis])
        knee = hip + 0.43 * np.array([0, np.sin(swing), -np.cos(swing)])
        ankle = knee + 0.43 * np.array([0, np.sin(swing - bend), -np.cos(swing - bend)])
        low = min(low, ankle[2])
        parts.append((side, swing, hip, knee, ankle))
    lift = np.array([0, 0, 0.075 - low])
    for side, swing, hip, knee, ankle in parts:
        mid1, mid2 = 0.5 * (hip + knee), 0.45 * knee + 0.55 * ankle
        bare = skirt
        radii = np.array([0.085, 0.083, 0.062, 0.058, 0.045]) * girth
        mb.tube(np.array([hip, mid1, knee, mid2, ankle]) + lift, radii, skin if bare else legs, 10)
        toe = np.array([0, 0.05, -0.035])
        mb.ellipsoid(ankle + toe + lift, (0.05, 0.135, 0.05), shoes, 10, 6)
        shoulder = np.array([side * 0.19 * girth, 0.0, 1.42])
        arm = -0.75 * swing
        elbow = shoulder + 0.29 * np.array([side * 0.22, np.sin(arm), -np.cos(arm)])
        wrist = elbow + 0.26 * np.array([0, np.sin(arm + 0.45), -np.cos(arm + 0.45)])
        mb.tube(
            np.array([shoulder + (0, 0, 0.02), 0.5 * (shoulder + elbow), elbow, wrist]) + lift,
            np.array([0.062, 0.056, 0.047, 0.037]) * girth,
            top,
            9,
        )
        mb.ellipsoid(wrist + lift - (0, 0, 0.06), (0.033, 0.045, 0.075), skin, 8, 6)
    hem = 0.62 if coat else (0.55 if skirt else 0.86)
    outline = [
        (hem, 0.20 if (coat or skirt) else 0.165, 0.135), (0.95, 0.175, 0.12), (1.10, 0.150, 0.105),
        (1.28, 0.180, 0.120), (1.40, 0.195, 0.105), (1.47, 0.13, 0.085), (1.50, 0.065, 0.065),
    ]  # fmt: skip
    path = np.array([(0, 0.01 * np.sin(9 * z), z) for z, _, _ in outline]) + lift
    mb.tube(path, [(a * girth, b * girth) for _, a, b in outline], top, 14)
    mb.tube(np.array([(0, 0.01, 1.47), (0, 0.02, 1.58)]) + lift, [0.055, 0.05], skin, 10)
    head = np.array([0, 0.025, 1.645]) + lift
    mb.ellipsoid(head, (0.078, 0.096, 0.118), skin, 14, 10)
    mb.ellipsoid(head + (0, -0.014, 0.018), (0.09, 0.10, 0.118), hair, 14, 8, cut=0.55)
    if rng.random() < 0.4:
        mb.ellipsoid(head + (0, -0.05, -0.03), (0.085, 0.065, 0.12), hair, 12, 8)
    if rng.random() < 0.4:
        mb.ellipsoid(np.array([0, -0.17, 1.22]) + lift, (0.15, 0.10, 0.22), bag, 12, 8)
    materials = [
        _pick(rng, lib, "skin", _SKIN),
        _pick(rng, lib, "hair", _HAIR),
        _pick(rng, lib, "top", _TOPS),
        _pick(rng, lib, "legs", _LEGS),
        lib.plain("shoes", (0.03, 0.025, 0.022), 0.5),
        _pick(rng, lib, "bag", _TOPS),
    ]
    return mb.mesh("person", materials)
