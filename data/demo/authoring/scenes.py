"""Composition of a whole street scene from one seed."""

from __future__ import annotations

import bpy
import buildings
import furniture
import numpy as np
import pedestrians
import plants
import vehicles
from materials import Library, make_haze
from meshes import place
from street import BUILDING, CAR, FAR, PERSON, POLE, ROAD, VEGETATION, Street, lay_ground
from weather import Weather, build_sky, draw_weather

#: Marks objects of no known class in the label pass.
UNKNOWN = 100


def _frontage(street: Street, lib: Library, rng: np.random.Generator, side: int, kind: str, trees) -> None:
    """Build up one side of the street: urban rows, gardens with cottages, or a park."""
    face = np.pi if side < 0 else 0.0
    for y0, y1 in street.spans():
        y = y0 + 0.3
        while y < y1 - 7:
            width = min(rng.uniform(9, 17) if kind != "cottage" else rng.uniform(8, 11), y1 - y - 0.3)
            ym = y + width / 2
            back = street.front(side)
            if kind == "park":
                x = side * (back + rng.uniform(2, 14))
                tint = plants.LEAF_TINTS[int(rng.integers(len(plants.LEAF_TINTS)))]
                place(
                    trees[int(rng.integers(len(trees)))],
                    VEGETATION,
                    street.at(x, ym, 0.1),
                    rng.uniform(0, 6.3),
                    rng.uniform(0.9, 1.5),
                    tint,
                )
                width = rng.uniform(3.5, 7)
            else:
                style = kind if kind != "urban" else str(rng.choice(["town", "town", "block"]))
                mesh, tint, _ = buildings.building_mesh(lib, rng, width - 0.05, style)
                setback = rng.uniform(4.5, 7) if kind == "cottage" else rng.uniform(0.0, 0.25)
                place(
                    mesh,
                    BUILDING,
                    street.at(side * (back + setback), ym, 0.1),
                    street.heading(ym) + face,
                    1.0,
                    tint,
                )
                if kind == "cottage":
                    width += _garden(street, lib, rng, side, ym, width, trees)
            y += width


def _garden(street, lib, rng, side, ym, width, trees) -> float:
    """Enclose a front garden and plant it; returns the extra width it takes."""
    gap = rng.uniform(1.5, 5.0)
    back = street.front(side)
    length = width + gap - 1.6
    tint = plants.LEAF_TINTS[int(rng.integers(len(plants.LEAF_TINTS)))]
    pos = street.at(side * (back + 0.4), ym + gap / 2, 0.13)
    if rng.random() < 0.6:
        mesh = plants.hedge_mesh(lib, rng, length, rng.uniform(0.8, 1.6), 0.7)
        place(mesh, VEGETATION, pos, street.heading(ym), 1.0, tint)
    elif rng.random() < 0.7:
        wall = buildings.fence_mesh(lib, rng, length)
        place(wall, BUILDING, pos, street.heading(ym), 1.0, (0.42, 0.30, 0.22))
    bush = plants.bush_mesh(lib, rng)
    for _ in range(int(rng.integers(2, 5))):
        p = street.at(side * (back + rng.uniform(1.4, 3.6)), ym + rng.uniform(-0.5, 0.5) * width, 0.13)
        place(bush, VEGETATION, p, rng.uniform(0, 6.3), rng.uniform(0.7, 1.3), tint)
    if rng.random() < 0.7:
        p = street.at(side * (back + rng.uniform(3.0, 8.0)), ym + width / 2 + gap / 2, 0.1)
        place(
            trees[int(rng.integers(len(trees)))],
            VEGETATION,
            p,
            rng.uniform(0, 6.3),
            rng.uniform(0.7, 1.15),
            tint,
        )
    return gap


def _backdrop(street: Street, lib: Library, rng: np.random.Generator, trees) -> None:
    """Close the view at the far end and behind the plots with trees and blocks."""
    for x in np.arange(-70, 71, 14.0):
        if abs(x) > 9 or rng.random() < 0.5:
            mesh, tint, _ = buildings.building_mesh(lib, rng, 13.0, "block" if abs(x) > 16 else "town")
            place(
                mesh,
                BUILDING,
                street.at(x, FAR + 60 + rng.uniform(0, 20), -0.2),
                street.heading(FAR) - np.pi / 2,
                1.0,
                tint,
            )
    tint = plants.LEAF_TINTS[int(rng.integers(len(plants.LEAF_TINTS)))]
    for y in np.arange(0, FAR + 50, 9.0):
        for side in (-1, 1):
            x = side * rng.uniform(34, 44) if y < FAR else side * rng.uniform(6, 40)
            place(
                trees[int(rng.integers(len(trees)))],
                VEGETATION,
                street.at(x, y, 0.0),
                rng.uniform(0, 6.3),
                rng.uniform(1.1, 1.9),
                tint,
            )


def _traffic(street: Street, lib: Library, rng: np.random.Generator) -> None:
    """Park and drive cars."""
    meshes = {k: vehicles.car_mesh(lib, k) for k in rng.choice(vehicles.KINDS, size=3, replace=False)}
    names = list(meshes)

    def car(x: float, y: float, heading: float) -> None:
        if not (street.free(x, y - 1.2, 1.1) and street.free(x, y + 1.2, 0.5)):
            return
        paint = vehicles.PAINTS[int(rng.integers(len(vehicles.PAINTS)))]
        mesh = meshes[names[int(rng.integers(len(names)))]]
        place(mesh, CAR, street.at(x, y), street.heading(y) + heading, 1.0, paint)

    for side in (-1, 1):
        if street.parking[side > 0]:
            fill = rng.uniform(0.3, 0.95)
            for y0, y1 in street.spans():
                for y in np.arange(max(y0, -2) + 6.5, min(y1, 100) - 5, 6.2):
                    if rng.random() < fill:
                        x = side * (street.lane + 1.08 + rng.uniform(-0.1, 0.1))
                        car(x, y + rng.uniform(-0.4, 0.4), (0 if side > 0 else np.pi) + rng.normal(scale=0.02))
    for _ in range(int(rng.integers(1, 5))):
        car(-street.lane / 2 + rng.normal(scale=0.1), rng.uniform(9, 90), np.pi)
    for _ in range(int(rng.integers(0, 3))):
        car(street.lane / 2, rng.uniform(16, 80), 0.0)
    if street.crossing is not None and rng.random() < 0.6:
        car(rng.choice([-1, 1]) * rng.uniform(3, 14), street.crossing - 1.8, -np.pi / 2)


def _people(street: Street, lib: Library, rng: np.random.Generator) -> None:
    """Let people walk along, a few of them across."""
    meshes = [pedestrians.person_mesh(lib, rng) for _ in range(6)]
    for _ in range(int(rng.integers(5, 17))):
        side = int(rng.choice([-1, 1]))
        y = 6 + 50 * rng.random() ** 1.4
        across = rng.random() < 0.14
        x = (
            rng.uniform(-street.lane, street.lane)
            if across
            else side * rng.uniform(street.kerb(side) + 0.5, street.front(side) - 0.4)
        )
        if across and y < 11:
            continue
        if not street.free(x, y, 0.35) or (street.crossing and not across and abs(y - street.crossing) < 5):
            continue
        heading = (np.pi / 2 * side if across else np.pi * int(rng.integers(2))) + rng.normal(scale=0.25)
        z = 0.0 if across else 0.13
        place(
            meshes[int(rng.integers(6))],
            PERSON,
            street.at(x, y, z),
            street.heading(y) + heading,
            rng.uniform(0.9, 1.08),
        )


def _poles(street: Street, lib: Library, rng: np.random.Generator, trees, planted: dict) -> None:
    """Stand lamps, signs, signals and street trees along the kerbs."""
    lamp, bollard = furniture.lamp_mesh(lib, rng), furniture.bollard_mesh(lib)
    cover = furniture.cover_mesh(lib)
    gap = rng.uniform(18, 30)
    whole = lambda y: street.crossing is None or abs(y - street.crossing) > street.crossing_half + 1.0  # noqa: E731
    for k, y in enumerate(np.arange(rng.uniform(5, 14), 110, gap)):
        side = -1 if k % 2 else 1
        x = side * (street.kerb(side) + 0.55)
        if whole(y) and street.free(x, y, 0.3):
            place(lamp, POLE, street.at(x, y, 0.13), street.heading(y) + (np.pi if side < 0 else 0))
    for _ in range(int(rng.integers(3, 7))):
        side = int(rng.choice([-1, 1, 1]))
        y = rng.uniform(8, 60)
        x = side * (street.kerb(side) + 0.5)
        if whole(y) and street.free(x, y, 0.3):
            mesh = furniture.sign_mesh(lib, rng)
            place(
                mesh,
                POLE,
                street.at(x, y, 0.13),
                street.heading(y) + (np.pi if side < 0 and rng.random() < 0.5 else 0),
            )
    if street.crossing is not None:
        y = street.crossing - street.crossing_half - 1.2
        for side in (-1, 1):
            x = side * (street.kerb(side) + 0.5)
            street.free(x, y, 0.3)
            place(
                furniture.signal_mesh(lib, rng),
                POLE,
                street.at(x, y, 0.13),
                street.heading(y) + (0 if side > 0 else 0.15),
                (side, 1, 1),
            )
    if rng.random() < 0.35:
        side = int(rng.choice([-1, 1]))
        for y in np.arange(rng.uniform(6, 20), rng.uniform(24, 50), 2.2):
            x = side * (street.kerb(side) + 0.42)
            if whole(y) and street.free(x, y, 0.15):
                place(bollard, POLE, street.at(x, y, 0.13))
    for _ in range(4):
        place(cover, ROAD, street.at(rng.uniform(-2.5, 2.5), rng.uniform(5, 40)))
    for side in (-1, 1):
        if planted[side]["trees"]:
            tint = plants.LEAF_TINTS[int(rng.integers(len(plants.LEAF_TINTS)))]
            for y in np.arange(rng.uniform(7, 12), 110, rng.uniform(8, 13)):
                x = side * (street.kerb(side) + 0.95)
                if whole(y) and street.free(x, y, 0.5):
                    place(
                        trees[int(rng.integers(len(trees)))],
                        VEGETATION,
                        street.at(x, y, 0.1),
                        rng.uniform(0, 6.3),
                        rng.uniform(0.75, 1.1),
                        np.array(tint) * rng.uniform(0.8, 1.2),
                    )


def build_scene(seed: int, kind: str | None = None, unknown: int = 0) -> tuple[Street, Weather]:
    """Compose the scene of a seed in a freshly emptied Blender session.

    Parameters
    ----------
    seed
        Decides everything about the scene.
    kind
        Weather; drawn from the seed where ``None``.
    unknown
        How many objects of no known class to put on or beside the road.
    """
    rng = np.random.default_rng(seed)
    drawn = str(rng.choice(["clear", "clear", "clear", "overcast", "fog", "wet", "dusk"]))
    weather = draw_weather(rng, kind or drawn)
    lib = Library(make_haze(weather.haze, weather.haze_colour), weather.wet, weather.dusk)
    parking = tuple(float(2.2 * (rng.random() < 0.6)) for _ in range(2))
    street = Street(
        bend=float(rng.uniform(-0.0016, 0.0016)) if rng.random() < 0.7 else 0.0,
        lane=float(rng.uniform(3.2, 3.9)),
        parking=parking,
        walk=tuple(float(rng.uniform(2.3, 4.4)) for _ in range(2)),
        crossing=float(rng.uniform(24, 60)) if rng.random() < 0.45 else None,
    )
    street.taken.append((street.lane / 2, 0.0, 4.5))
    frontage = {
        side: {
            "kind": str(rng.choice(["urban", "urban", "cottage", "park"])),
            "verge": rng.random() < 0.3,
            "trees": rng.random() < 0.5,
        }
        for side in (-1, 1)
    }
    shapes = rng.choice(["round", "round", "column", "conifer"], size=2)
    trees = [plants.tree_mesh(lib, rng, str(s)) for s in shapes]
    bpy.context.scene.world = build_sky(rng, weather)
    lay_ground(street, lib, rng, frontage)
    for side in (-1, 1):
        _frontage(street, lib, rng, side, frontage[side]["kind"], trees)
    _backdrop(street, lib, rng, trees)
    if unknown:
        # Imported here so that training scenes cannot contain any of it by accident.
        from .oddities import scatter

        scatter(street, lib, np.random.default_rng([seed, 1]), unknown, UNKNOWN)
    _traffic(street, lib, rng)
    _poles(street, lib, rng, trees, frontage)
    _people(street, lib, rng)
    return street, weather
