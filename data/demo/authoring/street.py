"""The street of a demo scene: its course, carriageway, markings, kerbs, sidewalks and plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import plants
import surfaces
from materials import Library
from meshes import MeshBuilder, place

ROAD, SIDEWALK, BUILDING, VEGETATION, SKY, POLE, CAR, PERSON = range(8)

NEAR, FAR = -14.0, 135.0


@dataclass
class Street:
    """Cross-section, bend and frontage of the street; maps street coordinates to the world."""

    bend: float
    lane: float
    parking: tuple[float, float]
    walk: tuple[float, float]
    crossing: float | None
    crossing_half: float = 4.2
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def at(self, x: float, y: float, z: float = 0.0) -> tuple[float, float, float]:
        """World position of lateral offset ``x`` at distance ``y`` along the street."""
        h = np.arctan(2 * self.bend * y)
        return (self.bend * y * y + x * np.cos(h), y - x * np.sin(h), z)

    def heading(self, y: float) -> float:
        """Rotation about z of something that faces along the street."""
        return -float(np.arctan(2 * self.bend * y))

    def kerb(self, side: int) -> float:
        """Distance of the kerb from the middle."""
        return self.lane + self.parking[side > 0]

    def front(self, side: int) -> float:
        """Distance of the back of the sidewalk from the middle."""
        return self.kerb(side) + self.walk[side > 0]

    def spans(self) -> list[tuple[float, float]]:
        """Stretches along the street that a crossing leaves whole."""
        if self.crossing is None:
            return [(NEAR, FAR)]
        c, h = self.crossing, self.crossing_half
        return [(NEAR, c - h), (c + h, FAR)]

    def free(self, x: float, y: float, radius: float) -> bool:
        """Claim a round spot of ground if nothing stands there."""
        if any(np.hypot(x - a, y - b) < radius + r for a, b, r in self.taken):
            return False
        self.taken.append((x, y, radius))
        return True


def _ribbon(street: Street, mats, label: int, x0, x1, y0, y1, z, tint=(1, 1, 1), name="ribbon", step=2.0) -> None:
    """Lay a flat strip along the street."""
    mb = MeshBuilder()
    ys = np.linspace(y0, y1, max(2, int((y1 - y0) / step) + 1))
    left = np.array([street.at(x0, y, z) for y in ys])
    right = np.array([street.at(x1, y, z) for y in ys])
    mb.strip(left, right, np.column_stack([0 * ys + x0, ys]), np.column_stack([0 * ys + x1, ys]))
    place(mb.mesh(name, [mats]), label, (0, 0, 0), tint=tint)


def _kerbs(street: Street, lib: Library) -> None:
    """Raise the kerb stones, with their ends closed at a crossing."""
    material = lib.get("kerb", surfaces.kerb)
    for side in (-1, 1):
        k = street.kerb(side)
        for y0, y1 in street.spans():
            mb = MeshBuilder()
            ys = np.linspace(y0, y1, max(2, int((y1 - y0) / 2) + 1))
            prof = [(k, -0.02), (k + 0.02, 0.115), (k + 0.035, 0.13), (k + 0.28, 0.13)]
            for (xa, za), (xb, zb) in pairwise(prof):
                a = np.array([street.at(side * xa, y, za) for y in ys])
                b = np.array([street.at(side * xb, y, zb) for y in ys])
                mb.strip(a, b, np.column_stack([0 * ys + xa, ys]), np.column_stack([0 * ys + xb, ys]))
            for y in (y0, y1):
                xs = np.array([k, k + 60.0])
                low = np.array([street.at(side * x, y, -0.02) for x in xs])
                high = np.array([street.at(side * x, y, 0.13) for x in xs])
                mb.strip(low, high, np.column_stack([0 * xs, xs]), np.column_stack([0 * xs + 0.13, xs]))
            place(mb.mesh("kerb", [material]), SIDEWALK, (0, 0, 0))


def lay_ground(street: Street, lib: Library, rng: np.random.Generator, frontage: dict) -> None:
    """Lay carriageway, markings, sidewalks and plots."""
    _ribbon(street, lib.get("asphalt", surfaces.asphalt), ROAD, -75, 75, -20, 260, 0.0, name="road", step=4.0)
    paint = lib.get("paint", surfaces.paint)
    for y in np.arange(NEAR, FAR, 6.0):
        if street.crossing is None or abs(y + 1.5 - street.crossing) > street.crossing_half + 6:
            _ribbon(street, paint, ROAD, -0.06, 0.06, y, y + 3.0, 0.004)
    for side in (-1, 1):
        edge = side * (street.lane - (0.05 if street.parking[side > 0] else 0.25))
        for y0, y1 in street.spans():
            _ribbon(street, paint, ROAD, edge - 0.06, edge + 0.06, y0, y1 - 3, 0.004)
            if street.parking[side > 0]:
                for y in np.arange(y0 + 2, y1 - 4, 6.2):
                    a, b = sorted((edge, side * (street.kerb(side) - 0.1)))
                    _ribbon(street, paint, ROAD, a, b, y - 0.05, y + 0.05, 0.004)
    if street.crossing is not None:
        for y in (street.crossing - street.crossing_half - 3.6, street.crossing + street.crossing_half + 0.6):
            for x in np.arange(-street.lane + 0.4, street.lane - 0.5, 0.95):
                _ribbon(street, paint, ROAD, x, x + 0.5, y, y + 3.0, 0.004)
        _ribbon(
            street,
            paint,
            ROAD,
            0.2,
            street.lane - 0.3,
            street.crossing - street.crossing_half - 5.2,
            street.crossing - street.crossing_half - 4.8,
            0.004,
        )
    _kerbs(street, lib)
    warm = rng.uniform(0.75, 1.15) * np.array([1.0, rng.uniform(0.93, 1.0), rng.uniform(0.82, 1.0)])
    green = rng.uniform(0.8, 1.25) * np.array([rng.uniform(0.9, 1.4), 1.0, rng.uniform(0.7, 1.0)])
    for side in (-1, 1):
        k, f = street.kerb(side) + 0.28, street.front(side)
        for y0, y1 in street.spans():
            paving = lib.get("paving", surfaces.paving)
            verge = min(1.5, 0.45 * street.walk[side > 0]) if frontage[side]["verge"] else 0.0
            if verge:
                _strip(street, lib, side, k, k + verge, y0, y1, 0.135, VEGETATION, "grass", tuple(green))
            _ribbon(street, paving, SIDEWALK, *sorted((side * (k + verge), side * f)), y0, y1, 0.13, tuple(warm))
            lawn = frontage[side]["kind"] != "urban"
            what = (VEGETATION, "grass", tuple(green)) if lawn else (SIDEWALK, "paving", tuple(warm))
            _strip(street, lib, side, f, 72, y0, y1, 0.14, *what)
            if lawn or verge:
                _tufts(street, lib, rng, side, f if lawn else k + 1.0, f + 5 if lawn else k + verge, y0, y1)


def _strip(street, lib, side, a, b, y0, y1, z, label, name, tint) -> None:
    lo, hi = sorted((side * a, side * b))
    _ribbon(street, lib.get(name, getattr(surfaces, name)), label, lo, hi, y0, y1, z, tint, name)


def _tufts(street, lib, rng, side, a, b, y0, y1) -> None:
    """Scatter grass blades where the camera is near enough to see them."""
    mesh = plants.tuft_mesh(lib, rng)
    for y in np.arange(max(y0, 1.0) + 1, min(y1, 45.0) - 1, 2.0):
        for x in np.arange(a + 1.0, b, 2.0):
            place(
                mesh,
                VEGETATION,
                street.at(side * x, y, 0.13),
                np.pi / 2 * rng.integers(4),
                1.0,
                (0.10, 0.15, 0.035),
            )
