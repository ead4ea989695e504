"""Objects that belong to no class of the demo data set, for the test frames alone."""

# Coordinates are arrays here: "point + (x, y, z)" adds and does not concatenate.
# ruff: noqa: RUF005

from __future__ import annotations

from collections.abc import Callable

import bpy
import numpy as np
import surfaces
from materials import Library
from meshes import MeshBuilder, place, turn


def _beast(lib, rng, coat, scale: float, antlers: bool, patches=None) -> tuple[bpy.types.Mesh, float]:
    """Four legs, a lofted body, neck and head; nose towards +y."""
    mb = MeshBuilder()
    body = [
        (0, -0.62, 0.98),
        (0, -0.52, 1.02),
        (0, -0.25, 1.0),
        (0, 0.15, 0.97),
        (0, 0.45, 1.0),
        (0, 0.60, 1.08),
    ]
    mb.tube(
        body,
        [(0.09, 0.11), (0.19, 0.23), (0.21, 0.25), (0.20, 0.25), (0.18, 0.23), (0.10, 0.14)],
        0,
        14,
        (0, 0, 1),
    )
    droop = 0.0 if antlers else -0.12
    mb.tube(
        [(0, 0.45, 1.05), (0, 0.68, 1.30 + droop), (0, 0.80, 1.55 + 2 * droop)],
        [(0.14, 0.18), (0.10, 0.13), (0.08, 0.09)],
        0,
        10,
        (1, 0, 0),
    )
    mb.ellipsoid((0, 0.90, 1.62 + 2 * droop), (0.085, 0.20, 0.10), 0, rot=turn(-22, "x"))
    mb.ellipsoid((0, 1.06, 1.55 + 2 * droop), (0.05, 0.09, 0.055), 1)
    for side in (-1, 1):
        mb.ellipsoid((side * 0.13, 0.78, 1.70 + 2 * droop), (0.08, 0.02, 0.04), 0, rot=turn(side * -25, "y"))
        for y, back in ((0.45, 0.0), (-0.48, 1.0)):
            step = rng.uniform(-0.10, 0.10)
            mb.tube(
                [(side * 0.12, y, 1.0), (side * 0.13, y - 0.05 * back, 0.72),
                 (side * 0.125, y - 0.09 * back + step / 2, 0.45), (side * 0.12, y + step, 0.10),
                 (side * 0.12, y + step + 0.03, 0.0)],
                [0.11, 0.085, 0.05, 0.036, 0.045], 0, 9, (0, 1, 0),
            )  # fmt: skip
        if antlers:
            root = np.array([side * 0.05, 0.80, 1.70])
            mb.tube(
                root + [(0, 0, 0), (side * 0.22, -0.1, 0.22), (side * 0.30, 0.0, 0.52)],
                [0.022, 0.018, 0.008],
                2,
                7,
            )
            for t in (0.2, 0.42):
                mb.tube(root + [(side * 0.24, -0.05, t), (side * 0.22, 0.15, t + 0.15)], [0.015, 0.006], 2, 6)
    mb.tube(
        [(0, -0.60, 1.06), (0, -0.72, 0.95), (0, -0.74, 0.70 if not antlers else 0.88)],
        [0.035, 0.03, 0.045],
        0,
        7,
    )

    def hide(g, _):
        spots = g.noise(g.node("TexCoord")["Object"], 1.7 if patches else 6.0, 2.0)
        edge = (0.50, 0.53) if patches else (0.35, 0.75)
        colour = g.mix(g.ramp(spots, *edge), (*coat, 1), (*(patches or tuple(0.6 * c for c in coat)), 1))
        return g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=0.9)[0]

    name = f"hide {coat}"
    mats = [
        lib.get(name, hide),
        lib.plain("muzzle", (0.03, 0.025, 0.022), 0.4),
        lib.plain("antler", (0.30, 0.22, 0.14), 0.7),
    ]
    mesh = mb.mesh("animal", mats)
    return mesh, 0.9 * scale


def deer(lib, rng):
    """Stag."""
    return _beast(lib, rng, (0.22, 0.105, 0.045), 1.0, True)


def cow(lib, rng):
    """Black and white cow."""
    return _beast(lib, rng, (0.65, 0.62, 0.57), 1.0, False, (0.012, 0.011, 0.010))


def boxes(lib, rng):
    """Pile of cardboard boxes, one of them open."""
    mb = MeshBuilder()
    for k in range(int(rng.integers(3, 6))):
        s = rng.uniform(0.35, 0.62, 3)
        p = np.array([0.55 * (k % 2) - 0.25, rng.uniform(-0.2, 0.2), s[2] / 2 + (0.48 if k >= 2 else 0.0)])
        rot = turn(rng.uniform(-30, 30))
        mb.box(p, s, 0, rot)
        mb.box(p, (s[0] * 1.005, 0.06, s[2] * 1.005), 1, rot)
        if k >= 2:
            mb.box(p + (0.3 * s[0], 0, 0.55 * s[2]), (0.02, s[1], 0.3 * s[2]), 0, rot @ turn(35, "y"))
    return mb.mesh(
        "boxes",
        [lib.plain("cardboard", (0.34, 0.205, 0.105), 0.9), lib.plain("tape", (0.42, 0.30, 0.17), 0.3)],
    ), 0.7


def tyres(lib, rng):
    """Stack of tyres with one leaning against it."""
    mb = MeshBuilder()
    for k in range(int(rng.integers(2, 5))):
        mb.torus((*rng.uniform(-0.05, 0.05, 2), 0.11 + 0.21 * k), 0.25, 0.105, 0)
    mb.torus((0.52, -0.05, 0.33), 0.25, 0.105, 0, turn(72, "y"))
    return mb.mesh("tyres", [lib.plain("old rubber", (0.022, 0.021, 0.021), 0.85)]), 0.7


def sofa(lib, rng):
    """Discarded sofa."""
    mb = MeshBuilder()
    mb.box((0, 0, 0.24), (1.9, 0.82, 0.28), 0)
    for x in (-0.42, 0.42):
        mb.ellipsoid((x, -0.06, 0.42), (0.46, 0.40, 0.13), 0, 18, 10)
        mb.ellipsoid((x, 0.30, 0.66), (0.45, 0.16, 0.32), 0, 18, 10, turn(-10, "x"))
    mb.box((0, 0.37, 0.50), (1.9, 0.16, 0.72), 0, turn(-6, "x"))
    for x in (-0.95, 0.95):
        mb.box((x, 0, 0.38), (0.20, 0.84, 0.52), 0)
        mb.tube([(x, -0.43, 0.64), (x, 0.42, 0.64)], [0.13, 0.13], 0, 14, (0, 0, 1))
        mb.box((x * 0.9, -0.33, 0.05), (0.07, 0.07, 0.1), 1)
    cloth = [(0.35, 0.04, 0.04), (0.05, 0.22, 0.25), (0.40, 0.28, 0.05)][int(rng.integers(3))]
    return mb.mesh("sofa", [lib.plain(f"upholstery {cloth}", cloth, 0.95), lib.plain("foot", (0.06, 0.03, 0.015))]), 1.1


def log(lib, rng):
    """Sawn tree trunk across the lane."""
    mb = MeshBuilder()
    xs = np.linspace(-1.4, 1.4, 9)
    path = np.column_stack([xs, 0.05 * np.sin(2 * xs), np.full(9, 0.24)])
    mb.tube(path, 0.25 + rng.uniform(-0.02, 0.02, 9), 0, 16, (0, 0, 1))
    for x, s in ((-1.4, -1), (1.4, 1)):
        mb.ellipsoid((x, 0.05 * np.sin(2 * x), 0.24), (0.015, 0.235, 0.235), 1)
        mb.tube([(x * 0.4, 0, 0.35), (x * 0.5, -s * 0.2, 0.75)], [0.07, 0.05], 0, 8)
    return mb.mesh("log", [lib.get("bark", surfaces.bark), lib.plain("cut wood", (0.45, 0.29, 0.14), 0.8)]), 1.3


def cones(lib, rng):
    """Group of traffic cones."""
    mb = MeshBuilder()
    for k in range(int(rng.integers(2, 4))):
        p = np.array([0.55 * k - 0.5, rng.uniform(-0.4, 0.4), 0])
        mb.box(p + (0, 0, 0.02), (0.40, 0.40, 0.04), 0)
        radii = np.linspace(0.15, 0.03, 6)
        zs = np.linspace(0.04, 0.75, 6)
        for j in range(5):
            mb.tube([p + (0, 0, zs[j]), p + (0, 0, zs[j + 1])], radii[j : j + 2], 1 if j in (1, 3) else 0, 16)
    return mb.mesh(
        "cones",
        [lib.plain("cone orange", (0.75, 0.13, 0.015), 0.5), lib.plain("cone white", (0.8, 0.8, 0.78), 0.4)],
    ), 0.8


def rubble(lib, rng):
    """Heap of broken masonry."""
    mb = MeshBuilder()
    for _ in range(60):
        r = 0.95 * rng.random() ** 0.6
        a = rng.uniform(0, 6.3)
        z = max(0.05, 0.5 * (1 - r) + rng.uniform(-0.05, 0.05))
        rot = turn(rng.uniform(0, 360)) @ turn(rng.uniform(-50, 50), "x")
        mb.box((r * np.cos(a), r * np.sin(a), z), rng.uniform(0.10, 0.36, 3), int(rng.random() < 0.45), rot)
    return mb.mesh(
        "rubble",
        [
            lib.plain("concrete lump", (0.33, 0.32, 0.30), 0.95),
            lib.plain("brick lump", (0.32, 0.11, 0.07), 0.95),
        ],
    ), 1.0


def ball(lib, rng):
    """Giant beach ball."""
    mb = MeshBuilder()
    r = rng.uniform(0.45, 0.8)
    theta = np.linspace(0.01, np.pi - 0.01, 24)
    phi = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    pts = r * np.stack(
        [
            np.sin(theta)[:, None] * np.cos(phi),
            np.cos(theta)[:, None] + 0 * phi,
            np.sin(theta)[:, None] * np.sin(phi),
        ],
        -1,
    )
    slots = [(j // 6) % 3 for _ in range(23) for j in range(36)]
    mb.grid(pts @ turn(25).T + (0, 0, r), slots)
    colours = [(0.6, 0.03, 0.03), (0.8, 0.8, 0.78), (0.03, 0.12, 0.5)]
    return mb.mesh("ball", [lib.plain(f"vinyl{k}", c, 0.25) for k, c in enumerate(colours)]), r


def mattress(lib, rng):
    """Bent mattress, its head end curled up."""
    mb = MeshBuilder()
    t = np.linspace(0, 1, 14)
    prof = np.column_stack([np.zeros(14), 1.5 * t - 0.7, 0.12 + 0.75 * np.clip(t - 0.45, 0, 1) ** 1.4])
    mb.tube(prof, [(0.70, 0.10)] * 14, 0, 20, (0, 0, 1))

    def ticking(g, _):
        x = g.node("SeparateXYZ", None, Vector=g.node("TexCoord")["Object"])[0]
        stripe = g.math("GREATER_THAN", g.math("FRACT", g.math("MULTIPLY", x, 6.0)), 0.72)
        colour = g.mix(stripe, (0.62, 0.58, 0.50, 1), (0.16, 0.22, 0.40, 1))
        return g.node("BsdfPrincipled", None, Base_Color=colour, Roughness=0.95)[0]

    return mb.mesh("mattress", [lib.get("ticking", ticking)]), 0.9


def trolley(lib, rng):
    """Shopping trolley."""
    mb = MeshBuilder()
    low = np.array([[-0.20, -0.32, 0.45], [0.20, -0.32, 0.45], [0.24, 0.38, 0.50], [-0.24, 0.38, 0.50]])
    high = np.array([[-0.26, -0.40, 0.98], [0.26, -0.40, 0.98], [0.30, 0.50, 1.02], [-0.30, 0.50, 1.02]])
    for i in range(4):
        j = (i + 1) % 4
        for t in np.linspace(0, 1, 6):
            mb.tube([low[i] + t * (high[i] - low[i]), low[j] + t * (high[j] - low[j])], [0.011, 0.011], 0, 5)
        for t in np.linspace(0, 1, 9):
            mb.tube([low[i] + t * (low[j] - low[i]), high[i] + t * (high[j] - high[i])], [0.009, 0.009], 0, 5)
    for t in np.linspace(0, 1, 8):
        mb.tube([low[0] + t * (low[3] - low[0]), low[1] + t * (low[2] - low[1])], [0.009, 0.009], 0, 5)
    mb.tube([high[2] + (0, 0.15, 0.03), high[3] + (0, 0.15, 0.03)], [0.022, 0.022], 1, 8)
    for x in (-0.24, 0.24):
        mb.tube([(x, 0.42, 0.98), (x, 0.36, 0.16), (x, -0.42, 0.16)], [0.018] * 3, 0, 6, (1, 0.1, 0))
        for y in (-0.4, 0.34):
            mb.ellipsoid((x, y, 0.075), (0.02, 0.075, 0.075), 2)
    mats = [
        lib.plain("wire", (0.6, 0.6, 0.6), 0.25, 1.0),
        lib.plain("handle", (0.6, 0.03, 0.03)),
        lib.plain("caster", (0.03, 0.03, 0.03)),
    ]
    return mb.mesh("trolley", mats), 0.6


def boat(lib, rng):
    """Rowing boat on the tarmac."""
    mb = MeshBuilder()
    ys = np.linspace(-1.6, 1.7, 22)
    beam = 0.62 * np.sqrt(np.clip(1 - (np.abs(ys) / 1.75) ** 2.6, 0.02, 1))
    a = np.linspace(-1, 1, 13)
    rise = 0.18 * (ys / 1.7) ** 2
    for shrink, slot in ((1.0, 0), (0.94, 1)):
        pts = np.stack(
            [shrink * beam[:, None] * np.sin(a * np.pi / 2), np.broadcast_to(ys[:, None] * shrink, (22, 13)),
             0.03 * (1 - shrink) * 10 + 0.62 * np.abs(a)[None] ** 2.4 + rise[:, None]], -1,
        )  # fmt: skip
        mb.grid(pts, slot, True, False)
    for y in (-0.7, 0.2, 1.0):
        mb.box((0, y, 0.42), (1.0, 0.24, 0.04), 2)
    colour = [(0.03, 0.20, 0.30), (0.55, 0.05, 0.04), (0.6, 0.6, 0.56)][int(rng.integers(3))]
    return mb.mesh(
        "boat",
        [
            lib.plain(f"hull {colour}", colour, 0.4),
            lib.plain("planks", (0.36, 0.22, 0.11), 0.7),
            lib.plain("thwart", (0.48, 0.33, 0.18), 0.7),
        ],
    ), 1.5


def suitcases(lib, rng):
    """Two suitcases, one fallen over."""
    mb = MeshBuilder()
    for k, (p, rot) in enumerate((((-0.35, 0, 0.42), turn(12)), ((0.4, 0.1, 0.15), turn(90, "x") @ turn(30)))):
        mb.box(p, (0.52, 0.27, 0.76), k, rot)
        for s in (-0.15, 0.0, 0.15):
            mb.box(np.asarray(p) + rot @ np.array([s, -0.14, 0]), (0.03, 0.02, 0.70), k, rot)
        mb.box(np.asarray(p) + rot @ np.array([0, 0, 0.42]), (0.24, 0.03, 0.10), 2, rot)
    return mb.mesh(
        "suitcases",
        [
            lib.plain("case a", (0.55, 0.30, 0.02), 0.35),
            lib.plain("case b", (0.25, 0.02, 0.12), 0.35),
            lib.plain("case c", (0.02, 0.02, 0.02)),
        ],
    ), 0.7


#: Every kind of unknown object, in the order that the test frames cycle through them.
KINDS: tuple[Callable, ...] = (
    deer, sofa, boxes, cow, tyres, boat, cones, ball, mattress, trolley, log, rubble, suitcases,
)  # fmt: skip


def scatter(street, lib: Library, rng: np.random.Generator, count: int, label: int) -> None:
    """Put ``count`` unknown objects on or beside the road, at distances from close by to far off."""
    first = int(rng.integers(len(KINDS)))
    for k in range(count):
        author = KINDS[(first + 5 * k) % len(KINDS)]
        mesh, radius = author(lib, rng)
        for _ in range(60):
            y = (7.0 + rng.uniform(0, 3)) if k == 0 else 9.0 + 22.0 * rng.random()
            on_road = rng.random() < 0.75
            x = rng.uniform(-1.2, 1.0) * street.lane if on_road else street.kerb(1) + rng.uniform(0.9, 1.8)
            side = 1 if x > 0 else -1
            # Nothing may straddle the kerb: half of it would hang in the air.
            if on_road and abs(x) >= street.kerb(side) - radius:
                continue
            if abs(x - street.lane / 2) > 0.62 * y - 2.5 or not street.free(x, y, radius):
                continue
            turned = (
                rng.uniform(0, 6.3) if author not in (deer, cow) else rng.choice([1.2, -1.4]) + rng.normal(scale=0.3)
            )
            z = 0.0 if on_road else 0.13
            place(mesh, label, street.at(x, y, z), street.heading(y) + turned, rng.uniform(0.95, 1.2))
            break
